"""Short conversations: small talk, feelings, sums, simple facts, questions about wasmrt, and wishes for a story.

chats.txt holds the words. A maker returns one exchange, (question, answer). Sums of a pair in HELD_OUT never occur.
"""

import random
from collections.abc import Callable

from tools.demo_text import stories
from tools.demo_text.grammar import Grammar, finish, lists, word_lists

Exchange = tuple[str, str]
Maker = Callable[[random.Random], Exchange]
NUMBER_MAX = 20
# About a tenth of all pairs: what a model answers on these it has not read, but worked out.
HELD_OUT = frozenset((a, b) for a in range(NUMBER_MAX + 1) for b in range(a, NUMBER_MAX + 1) if (a * 7 + b * 11) % 10 == 3)

LINES, COMMAS = lists(stories.FOLDER / "chats.txt"), word_lists(stories.FOLDER / "chats.txt")
# Topics: name -> (questions, answers); any answer fits any question.
TOPICS = {
    name: ([line[2:] for line in lines if line.startswith("? ")], [line[2:] for line in lines if line.startswith("! ")])
    for name, lines in LINES.items() if lines[0].startswith("? ")
}  # fmt: skip
ABOUT = [topic for name, topic in TOPICS.items() if name.startswith("about ")]
FAVOURITES = dict(line.split(" = ") for line in LINES["favourites"])
PAIRS = {name: [entry.split() for entry in COMMAS[name]] for name in ("opposites", "sounds", "young", "makers")}
COLOURS = [entry.rpartition(" ") for entry in COMMAS["colours"]]
TOO_HARD = {"n1": range(21, 100), "n2": range(100, 1000), "n3": range(21, 100)}
GRAMMAR = Grammar(stories.LISTS | {name: [str(n) for n in numbers] for name, numbers in TOO_HARD.items()})
NAMES = stories.WORDS["girl"] + stories.WORDS["boy"]
KINDS_OF_WORDS = ("thing", "animal", "any_food", "spot", "colour", "character")
MIXED = sorted({word for name in KINDS_OF_WORDS for word in stories.WORDS[name]}) + NAMES
# $N is a name, $K what it is, $P where.
ROSTER = [
    ("Who is $N?", "$N is the $K."),
    ("Who is the $K?", "The $K is $N."),
    ("Where is $N?", "$N is near the $P."),
    ("Who is near the $P?", "$N the $K is near the $P."),
    ("Where is the $K?", "The $K is near the $P."),
]


def say(rng: random.Random, templates: list[str], word: str = "") -> str:
    """One of the templates, expanded; % stands for `word`."""
    pieces = GRAMMAR.expand(rng, rng.choice(templates).replace("%", word), {})
    return finish("".join(piece.text for piece in pieces)).replace("Wasmrt", "wasmrt")


def talk(name: str) -> Maker:
    questions, answers = TOPICS[name]
    return lambda rng: (say(rng, questions), say(rng, answers))


def about(rng: random.Random) -> Exchange:
    questions, answers = rng.choice(ABOUT)
    return say(rng, questions), say(rng, answers)


def pair(rng: random.Random) -> tuple[int, int]:
    while True:
        a, b = rng.randint(0, NUMBER_MAX), rng.randint(0, NUMBER_MAX)
        if (min(a, b), max(a, b)) not in HELD_OUT:
            return a, b


def sum_question(rng: random.Random, a: int, b: int, plus: bool) -> Exchange:
    """A sum, or a difference where a is the whole and b what goes; three of four as numbers, one as a little story."""
    result = a + b if plus else a - b
    word, sign = ("plus", "+") if plus else ("minus", "-")
    if rng.random() < 0.75:
        questions = [f"What is {a} {word} {b}?", f"{a} {word} {b}", f"What is {a} {sign} {b}?", f"{a} {sign} {b}"]
        questions += [f"{a} {sign} {b} =", f"How much is {a} {word} {b}?"]
        questions += [f"{{Can|Could}} you {{tell me|work out}} {a} {word} {b}?"]
        return say(rng, questions), say(rng, [f"{a} {word} {b} is {result}."])
    name, thing = rng.choice(NAMES), rng.choice(stories.WORDS["any_coll"])
    if plus:
        happens, asked = f"{{gets|finds|buys}} {b} more", f"{{does {name} have|are there}}{{ now|}}"
    else:
        happens, asked = f"{{loses|sells|gives away}} {b}", f"{{does {name} have|are left}}{{ now|}}"
    question = say(rng, [f"{name} has {a} {thing} and {happens}. How many {asked}?"])
    return question, f"{a} {word} {b} is {result}. {name} has {result} {thing}."


def arithmetic(rng: random.Random) -> Exchange:
    """Sums, differences, what comes before or after, which is larger."""
    a, b = pair(rng)
    which = rng.random()
    if which < 0.55:
        return sum_question(rng, a, b, True)
    if which < 0.85:
        return sum_question(rng, a + b, a, False) if a + b <= NUMBER_MAX else sum_question(rng, max(a, b), min(a, b), False)
    if which < 0.95:
        after = rng.random() < 0.5
        n = rng.randint(0, 39) if after else rng.randint(1, 40)
        word = "after" if after else "before"
        question = say(rng, [f"What comes {word} {n}?", f"{{Which|What}} number {{comes|is}} {word} {n}?"])
        return question, say(rng, [f"{n + 1 if after else n - 1} comes {word} {n}."])
    if a == b:
        b = a + 1
    larger = rng.random() < 0.5
    word = "{larger|bigger}" if larger else "smaller"
    question = say(rng, [f"{{What|Which}} is {word}, {a} or {b}?", f"Is {a} or {b} {word}?"])
    return question, say(rng, [f"{max(a, b) if larger else min(a, b)} is {word}."])


def fact(rng: random.Random) -> Exchange:
    """Opposites, sounds, young animals, colours, who makes what, what things are for, days and months."""
    kind = rng.randrange(7)
    if kind == 0:
        a, b = rng.choice(PAIRS["opposites"])
        if rng.random() < 0.5:
            a, b = b, a
        question = say(rng, [f"What is the opposite of {a}?", f"{{Name|Tell me}} the opposite of {a}."])
        return question, say(rng, [f"The opposite of {a} is {b}."])
    if kind == 1:
        a, b = rng.choice(PAIRS["sounds"])
        question = say(rng, [f"What {{does|sound does}} a~ {a} {{say|make}}?", f"How does a~ {a} {{go|sound}}?"])
        return question, say(rng, [f"A~ {a} says {b}.", f"It says {b}."])
    if kind == 2:
        a, b = rng.choice(PAIRS["young"])
        question = say(rng, [f"What {{is a baby|do you call a young}} {a}{{ called|}}?"])
        return question, say(rng, [f"A {{young|baby}} {a} is {{called |}}a~ {b}."])
    if kind == 3:
        a, _, b = rng.choice(COLOURS)
        question = say(rng, [f"{{What|Which}} colour is {a}?", f"Tell me the colour of {a}."])
        return question, say(rng, [f"{a} is {b}.", f"{a} is {b}, of course."])
    if kind == 4:
        a, b = rng.choice(PAIRS["makers"])
        question = say(rng, [f"Who makes {a}?", f"Where {{does|do}} {a} come from?"])
        return question, say(rng, [f"{b} make {a}.", f"{a} {{come|comes}} from {b}."])
    if kind == 5:
        row = rng.choice(LINES["uses"])
        thing = " ".join(row.split()[:2])
        question = say(rng, [f"What is {thing} for?", f"What does {thing} do?", f"Why would I {{want|need}} {thing}?"])
        return question, say(rng, [f"{row}."])
    word, listed = rng.choice([("day", "any_weekday"), ("month", "any_month")])
    names = stories.WORDS[listed]
    at = rng.randrange(len(names))
    question = say(rng, [f"{{What|Which}} {word} comes after {names[at]}?", f"What comes after {names[at]}?"])
    return question, f"{names[(at + 1) % len(names)]} comes after {names[at]}."


def likes(rng: random.Random) -> Exchange:
    what = rng.choice(list(FAVOURITES))
    answer = rng.choice(LINES["likes answer"]).replace("%", FAVOURITES[what])
    return say(rng, LINES["likes"], what), say(rng, [answer])


def story_wish(rng: random.Random) -> Exchange:
    """A wish for a story, half of the time about somebody or something, and the story."""
    which = rng.random()
    if which < 0.4:
        return say(rng, LINES["story"]), stories.story(rng)
    if which < 0.75:
        kind = rng.choice([*stories.WORDS["animal"], *stories.WORDS["worker"], "girl", "boy", "prince", "princess"])
        adjective = rng.choice(stories.WORDS["character"])
        wished, word = {"kind": kind}, f"a~ {kind}"
        if rng.random() < 0.3:
            wished["trait"], word = adjective, f"a~ {adjective} {kind}"
        if rng.random() < 0.3:
            name = rng.choice(NAMES)
            others = {"girl": "boy", "princess": "boy", "boy": "girl", "prince": "girl"}.get(kind)
            if others is None or name not in stories.WORDS[others]:
                wished["N"] = name
                word += f" {rng.choice(['named', 'called'])} {name}"
    elif which < 0.9:
        thing = rng.choice(stories.WORDS["thing"])
        wished, word = {"thing": thing}, rng.choice([f"a~ {thing}", f"a~ {thing}", f"the {thing}"])
    else:
        name = rng.choice(NAMES)
        wished, word = {"N": name}, name
    return say(rng, LINES["story about"], word), stories.story(rng, wished)


def repeat(rng: random.Random) -> Exchange:
    """Words to say again. Rows of unrelated words teach a model early to look back at what was said."""
    pool = rng.choice([NAMES, NAMES, stories.WORDS["thing"], stories.WORDS["animal"], stories.WORDS["any_food"], MIXED])
    said = ", ".join(rng.choice(pool) for _ in range(rng.randint(2, 24)))
    return say(rng, LINES["repeat"], said), f"{said}."


def roster(rng: random.Random) -> Exchange:
    """Who is what, told in a few sentences, and a question about one of them."""
    names = rng.sample(NAMES, rng.randint(2, 7))
    kinds = rng.sample(stories.WORDS["animal"] + stories.WORDS["worker"], len(names))
    places = rng.sample(stories.WORDS["spot"], len(names))
    told = []
    for name, kind, place in zip(names, kinds, places, strict=True):
        told.append(say(rng, LINES["roster"]).replace("1", name).replace("2", kind).replace("3", place))
    at = rng.randrange(len(names))
    rows = [text.replace("$N", names[at]).replace("$K", kinds[at]).replace("$P", places[at]) for text in rng.choice(ROSTER)]
    return " ".join([*told, rows[0]]), rows[1]


# How often each kind of exchange comes.
MAKERS: dict[Maker, int] = {
    arithmetic: 24, about: 14, story_wish: 13, fact: 9, talk("unknown"): 5, talk("greet"): 7, talk("how"): 4, talk("glad"): 3,
    talk("sad"): 4, likes: 4, talk("joke"): 3,
}  # fmt: skip


def sloppy(rng: random.Random, question: str) -> str:
    """A question as people type it: sometimes without capitals or the full stop."""
    if rng.random() < 0.2:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip(".?!")
    return question


def chat(rng: random.Random) -> list[dict[str, str]]:
    """A conversation of one to eight exchanges, sometimes after a system message; half of them practise one thing."""
    messages = [{"role": "system", "content": say(rng, LINES["system"])}] if rng.random() < 0.15 else []
    which = rng.random()
    if which < 0.5:  # practice of one kind
        maker, most = (arithmetic, 8) if which < 0.25 else (repeat, 3) if which < 0.4 else (roster, 3)
        for question, answer in (maker(rng) for _ in range(rng.randint(1, most))):
            messages += [{"role": "user", "content": sloppy(rng, question)}, {"role": "assistant", "content": answer}]
        return messages
    exchanges = [maker(rng) for maker in rng.choices(list(MAKERS), list(MAKERS.values()), k=rng.choice([1, 1, 2, 3]))]
    if len(exchanges) > 1 and rng.random() < 0.3:
        exchanges[0] = talk("greet")(rng)
    if rng.random() < 0.15:
        name = rng.choice(NAMES)
        exchanges.insert(0, (say(rng, TOPICS["name"][0], name), say(rng, TOPICS["name"][1], name)))
        if rng.random() < 0.6:
            exchanges.append((say(rng, TOPICS["remember"][0], name), say(rng, TOPICS["remember"][1], name)))
    if rng.random() < 0.12:
        exchanges.append(talk("thanks")(rng))
    if rng.random() < 0.08:
        exchanges.append(talk("bye")(rng))
    stories_told = 0
    for question, answer in exchanges:
        stories_told += len(answer) > 400
        if stories_told > 1 and len(answer) > 400:
            continue  # a second story would not fit in the context
        messages += [{"role": "user", "content": sloppy(rng, question)}, {"role": "assistant", "content": answer}]
    return messages

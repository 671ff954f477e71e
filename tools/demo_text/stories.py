"""Short stories: a plot is a row of beats, a beat a choice of templates that share the story's people, things and places.

What keeps a model from reciting, and a check from finding passages of the training text by chance, is that no passage is
probable: any 12 words of a story take at least PASSAGE_BITS bits of choice, or the sentence is drawn again.
"""

import random
from collections.abc import Mapping
from pathlib import Path

from tools.demo_text.grammar import (
    Bound,
    Grammar,
    Piece,
    Row,
    blocks,
    finish,
    lists,
    probable,
    surprise,
    template_words,
    word_lists,
)

FOLDER = Path(__file__).parent
IRREGULAR = {
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "deer": "deer", "moose": "moose", "wolf": "wolves", "fish": "fish",
    "trout": "trout", "salmon": "salmon", "squid": "squid", "bison": "bison", "yak": "yaks", "ostrich": "ostriches",
    "woodlouse": "woodlice", "buffalo": "buffalo", "reindeer": "reindeer", "dormouse": "dormice", "mosquito": "mosquitoes",
    "shrimp": "shrimp", "pike": "pike", "carp": "carp", "perch": "perch", "dice": "dice", "calf": "calves",
    "pocket knife": "pocket knives", "wind chime": "wind chimes",
}  # fmt: skip
# What differs when a part speaks of the friend instead of the hero.
FRIEND = {"$N": "$M", "$kind": "$fkind", "$he": "$fhe", "$his": "$fhis", "$him": "$fhim", "$trait": "$ftrait"}
FRIEND |= {"@gesture": "@fgesture"}
PRONOUNS = {"she": ("she", "her", "her", "herself"), "he": ("he", "his", "him", "himself")}
# In these plots the hero's special thing plays no part.
WITHOUT_THING = {"meal", "rescue", "garden", "learning"}
# What is drawn once for each story, and from which list; later draws may speak of earlier ones.
DRAWN = {
    "trait": "character", "ftrait": "character", "thing": "thing", "col": "colour", "tadj": "thing_adj", "land": "land",
    "ladj": "land_adj", "pet": "pet", "seed": "seed", "skill": "skills", "s1": "any_spot", "s2": "any_spot", "s3": "any_spot",
    "item": "any_thing", "food": "any_food", "food2": "any_food", "coll": "any_coll", "coll2": "any_coll",
    "crs": "any_creatures", "crs2": "any_creatures", "fam": "any_family", "fam2": "any_family_my", "fam3": "any_family_my",
    "tre": "treasure",
    "wk": "worker", "day": "any_weekday", "day2": "any_weekday", "month": "any_month", "ing": "any_ingredient",
    "ing2": "any_ingredient", "ing3": "any_ingredient", "act": "any_activity", "act2": "any_activity", "fact": "any_activity",
}  # fmt: skip
# With some 2**20 pairs of stories between the training text and 50 samples, and a few bits more for the plot and the template,
# hardly a passage of 24 bits repeats by chance.
PASSAGE_WORDS, PASSAGE_BITS = 12, 24.0
ATTEMPTS, FAILURES = 12, 12


def plural(noun: str) -> str:
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def of_friend(template: str) -> str:
    """The same template about the friend."""
    for name in sorted(FRIEND, key=len, reverse=True):
        template = template.replace(name, FRIEND[name].replace("$", "%"))
    return template.replace("%", "$")


def beats_of(lines: list[str]) -> list[tuple[str, ...]]:
    """The beats of a plot: what stands between blank lines, with the entries of a part in place of its name."""
    beats: list[tuple[str, ...]] = [()]
    for line in lines:
        if line == "\n":
            beats.append(())
        else:
            beats[-1] += tuple(PARTS.get(line[1:], [line]))
    return [beat for beat in beats if beat]


PARTS, WORDS = lists(FOLDER / "parts.txt"), word_lists(FOLDER / "words.txt")
LISTS = PARTS | WORDS | {
    "fgesture": [of_friend(t) for t in PARTS["gesture"]], "ftag": [of_friend(t) for t in PARTS["tag"]],
    "animals": [plural(noun) for noun in WORDS["animal"]], "things": [plural(noun) for noun in WORDS["thing"]],
    "spots": [plural(noun) for noun in WORDS["spot"]], "any_creatures": [plural(noun) for noun in WORDS["creature"]],
}  # fmt: skip
GRAMMAR = Grammar(LISTS)
OPENING, LIKES = tuple(PARTS["opening"]), tuple(PARTS["likes"])
BEATS = {name: beats_of(lines) for name, lines in blocks(FOLDER / "plots.txt").items()}


def lexicon() -> set[str]:
    """Every word that a story can contain."""
    found = {word for row in PRONOUNS.values() for word in row} | {"an"}
    for templates in [*LISTS.values(), *(beat for plot in BEATS.values() for beat in plot)]:
        found |= set(template_words(templates))
    return found


def person(rng: random.Random, she: bool, kind: str | None = None) -> tuple[Bound, Bound]:
    """A name and what the person is: an animal most of the time, else a child or somebody with a trade."""
    name = GRAMMAR.draw(rng, "girl" if she else "boy")
    if kind is not None:
        return name, Bound(kind, (4.0,))
    which = rng.random()
    if which < 0.65:
        return name, GRAMMAR.draw(rng, "animal")
    if which < 0.85:
        return name, GRAMMAR.draw(rng, "worker")
    return name, Bound(rng.choice(WORDS["girl_kind" if she else "boy_kind"]), (4.0,))


def bind(rng: random.Random, wished: Mapping[str, str]) -> dict[str, Bound]:
    """The people, things and places of one story. `wished` fixes some of them: N, kind, trait, thing."""
    she = rng.random() < 0.5
    if wished.get("N"):
        she = wished["N"] in WORDS["girl"]
    if wished.get("kind") in WORDS["girl_kind"]:
        she = True
    elif wished.get("kind") in WORDS["boy_kind"]:
        she = False
    bound: dict[str, Bound] = {}
    bound["N"], bound["kind"] = person(rng, she, wished.get("kind"))
    bound["M"], bound["fkind"] = person(rng, not she)
    taken: set[str] = set()
    for key, source in DRAWN.items():
        bound[key] = GRAMMAR.draw(rng, source, bound)
        while bound[key].text in taken:  # the second food is not the first one again
            bound[key] = GRAMMAR.draw(rng, source, bound)
        taken.add(bound[key].text)
    he, his, him, himself = PRONOUNS["she" if she else "he"]
    fhe, fhis, fhim, _ = PRONOUNS["he" if she else "she"]
    pronouns = {"he": he, "his": his, "him": him, "himself": himself, "He": he.capitalize(), "His": his.capitalize()}
    pronouns |= {"fhe": fhe, "fhis": fhis, "fhim": fhim}
    bound |= {key: Bound(text, ()) for key, text in pronouns.items()}
    return bound | {key: Bound(text, (3.0,)) for key, text in wished.items()}


def stretch(rng: random.Random, template: str) -> str:
    """The sentence with an opening or a closing phrase more, where it can take one."""
    if not template:
        return template
    own = "own_" if template.startswith("$N") else ""
    if rng.random() < 0.5 and template.startswith(("$N", "$M", "The ", "In it", "It was", "@number", "There was")):
        return f"@{own}lead, " + template[0].lower() + template[1:]
    if template.endswith(".") and '"' not in template:
        return f"{template[:-1]}, @{own}tail."
    return template


def sentences(rng: random.Random, wished: Mapping[str, str] | None = None) -> list[list[Piece]]:
    """The sentences of one story, each in pieces, without a passage more probable than PASSAGE_BITS.

    A sentence that would make one is drawn again or stretched; where that fails, the one before is drawn again too.
    """
    wished = wished or {}
    while True:
        bound = bind(rng, wished)
        beats: list[tuple[str, ...]] = [OPENING]
        if rng.random() < 0.25:
            beats.append(LIKES)
        beats += BEATS[rng.choice([name for name in BEATS if not ("thing" in wished and name in WITHOUT_THING)])]
        told: list[tuple[list[Piece], Row]] = []
        failures = 0
        while len(told) < len(beats) and failures < FAILURES:
            before = [word for _, row in told[-4:] for word in row][-PASSAGE_WORDS + 1 :]
            for attempt in range(ATTEMPTS):
                template = rng.choice(beats[len(told)])
                if attempt > 2:
                    template = stretch(rng, template)
                pieces = GRAMMAR.expand(rng, template, bound)
                row = surprise(pieces)
                if not probable(before + row, PASSAGE_WORDS, PASSAGE_BITS):
                    told.append((pieces, row))
                    break
            else:
                failures += 1
                del told[-1 - failures // 3 :]
        if len(told) == len(beats):
            return [pieces for pieces, _ in told if pieces]


def story(rng: random.Random, wished: Mapping[str, str] | None = None) -> str:
    """One story as a paragraph of 100 to 300 words."""
    return " ".join(finish("".join(piece.text for piece in pieces)) for pieces in sentences(rng, wished))

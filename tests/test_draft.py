"""Drafts change how many passes it takes and nothing of what comes out: on an engine of dice, and on the cpu device."""

import asyncio
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import wasmrt
from tests.gguf_files import write_llama
from tests.test_sampling import Row
from wasmrt.draft import FIRST, LONGEST, MOST, PER_MATCH, TRIES, Lookup, Room
from wasmrt.errors import DeviceError
from wasmrt.generate import PENALTY_WINDOW, GenerationStats, generate
from wasmrt.options import SamplerOptions
from wasmrt.sync import call

# Lookup

few_tokens = st.lists(st.integers(0, 3), max_size=60)


def definition(tokens, n):
    """The longest match, the latest of equals; then what follows it, and over again from there once the end is reached."""
    end, best, start = len(tokens) - 1, 0, 0
    for place in range(end):
        length = 0
        while length < LONGEST and length <= place and tokens[place - length] == tokens[end - length]:
            length += 1
        if length and length >= best:
            best, start = length, place + 1
    grown = list(tokens)
    for i in range(min(n, PER_MATCH * best)):
        grown.append(grown[start + i])
    return grown[len(tokens) :]


@settings(max_examples=300)
@given(tokens=few_tokens, asked=st.lists(st.tuples(st.integers(1, 9), st.integers(-1, 90)), max_size=12))
def test_a_draft_is_what_followed_the_longest_match(tokens, asked):
    """Asked again and again while the list grows by different steps."""
    lookup, end = Lookup(), 0
    for step, n in asked:
        end += step
        assert lookup.propose(tokens[:end], n) == definition(tokens[:end], n)


@pytest.mark.parametrize(("tokens", "draft"), [
    ([], []),
    ([7], []),
    ([1, 2, 3], []),
    ([5, 1, 2, 9, 5], [1, 2, 9, 5]),                             # one token matches: four are drafted
    ([1, 2, 3, 8, 2, 3, 9, 2, 3], [9, 2, 3, 9, 2, 3, 9, 2]),     # the latest of two equal matches
    ([1, 2, 3, 8, 2, 3, 9, 1, 2, 3], [8, 2, 3, 9, 1, 2, 3, 8, 2, 3]),  # a longer one that is earlier
    ([4, 4], [4, 4, 4, 4]),
    ([1, 2, 1, 2], [1, 2, 1, 2, 1, 2, 1, 2]),
], ids=str)  # fmt: skip
def test_drafts(tokens, draft):
    assert Lookup().propose(tokens, 10) == draft


def test_a_text_of_few_tokens_is_not_slow():
    """Each token is everywhere and hardly a match is long: what is looked at is bounded all the same."""

    class Counted(list):
        looked = 0

        def __getitem__(self, i):
            self.looked += 1
            return super().__getitem__(i)

    rng = random.Random(0)
    tokens, lookup = Counted(rng.randrange(2) for _ in range(20_000)), Lookup()
    lookup.propose(tokens, 1)
    tokens.append(1)
    tokens.looked = 0
    assert len(lookup.propose(tokens, 20)) == 20
    assert TRIES < tokens.looked < 5 * TRIES


def test_a_match_at_both_ends_of_what_is_tried():
    for distance, found in ((TRIES, True), (TRIES + 1, False)):
        tokens = [1, 2, 3, 4, 5, *(x for i in range(distance - 1) for x in (1000 + i, 3)), 2, 3]
        assert (Lookup().propose(tokens, 2) == [4, 5]) is found


def test_who_drafts_nothing_pays_nothing():
    lookup = Lookup()
    assert lookup.propose(range(10**9), 0) == []


# Room. Costs of so many tokens in a pass, as measured on two threads; index 0 is one token.

MEASURED = {
    "Q4_K": [1.0, 2.02, 2.88, 3.75, 4.62, 5.51, 5.52, 5.54, *8 * [8.47], 11.29],
    "Q4_0": [1.0, 1.96, 2.88, 3.8, 4.72, 4.1, 4.1, 4.11, *8 * [6.28], 8.42],
    "Q8_0": [1.0, 2.0, 2.78, 3.66, 4.44, 4.24, 4.2, 4.16, *8 * [6.83], 9.14],
    "F16": [1.0, 2.73, 3.04, 3.33, 3.62, 3.88, 4.2, 4.49, 4.77, *6 * [6.5], 6.92, 7.23],
}


def simulated(costs, reading, overhead, passes, right):
    """Seconds and tokens of passes whose drafts are right or wrong; reading and computing overlap."""
    room, seconds, tokens = Room(), 0.0, 0
    for _ in range(passes):
        n = min(room.tokens, len(costs) - 1)
        took = max(reading, overhead + costs[n])
        seconds, tokens = seconds + took, tokens + 1 + n * right
        room.passed(n, n * right, took)
    return seconds, tokens


@pytest.mark.parametrize("costs", MEASURED.values(), ids=MEASURED)
@given(reading=st.floats(0.01, 40), overhead=st.floats(0, 5))
def test_wrong_drafts_cost_little_and_right_ones_pay(costs, reading, overhead):
    """100 passes. Drafts that are always wrong cost a quarter at most, if computing is the limit too; right ones are used."""
    alone = max(reading, overhead + costs[0])
    seconds, _ = simulated(costs, reading, overhead, 100, right=False)
    assert seconds <= 1.2 * 100 * alone
    seconds, tokens = simulated(costs, reading, overhead, 100, right=True)
    best = max((n + 1) / max(reading, overhead + cost) for n, cost in enumerate(costs[:16]))
    assert tokens / seconds >= 0.6 * best


def test_room_waits_for_a_pass_alone_and_follows_what_drafts_come_to():
    room = Room()
    assert room.tokens == 0
    room.passed(0, 0, 1.0)
    assert room.tokens == FIRST
    room.passed(FIRST, 0, 1.0)                                   # wrong, but free
    assert room.tokens == 2 * FIRST + 1
    for _ in range(9):
        room.passed(room.tokens, room.tokens, 3.0)               # three times as long, for many times as much
    assert room.tokens == MOST
    room.passed(MOST, 3, 3.0)                                    # still more than it costs
    assert room.tokens == MOST
    room.passed(MOST, 1, 3.0)
    assert room.tokens == MOST // 2


def test_drafts_that_never_pay_are_tried_less_and_less():
    room, tried = Room(), 0
    for _ in range(500):
        n = room.tokens
        tried += n > 0
        room.passed(n, 0, 1.0 + n)
    assert 5 <= tried <= 30


# The loop, on an engine of dice


class Dice:
    """An engine whose logits are a function of the last two tokens of six: it repeats itself, though never for long.

    rooms: what it has room for, step after step. broken: two tokens after which the logits are no numbers.
    """

    def __init__(self, seed, context, rooms, broken=None):
        self.turn = asyncio.Lock()
        self.seed, self.context, self.rooms, self.broken = seed, context, rooms, broken
        self.steps = self.n_drafted = self.room = 0
        self.rows = []

    def drafted(self, n, accepted, seconds):
        assert 0 <= accepted <= n
        assert seconds >= 0

    def chain_room(self, options):
        return 0

    def draft_room(self):
        assert self.turn.locked()
        self.room = self.rooms[self.steps % len(self.rooms)]
        return self.room

    async def step(self, tokens, n_out=1):
        assert self.turn.locked()
        assert 1 <= n_out <= self.room + 1
        assert n_out <= len(tokens) <= self.context
        self.rows = [list(tokens[:end]) for end in range(len(tokens) - n_out + 1, len(tokens) + 1)]
        self.steps += 1
        self.n_drafted += n_out - 1
        self.room = 0
        await asyncio.sleep(0)
        return 0

    async def candidates(self, k, recent, penalty, temperature, row=-1):
        await asyncio.sleep(0)
        assert self.turn.locked()
        tokens = self.rows[row]
        assert list(recent) == tokens[-PENALTY_WINDOW:]
        if tuple(tokens[-2:]) == self.broken:
            raise DeviceError("no numbers")
        dice = random.Random(f"{self.seed} {tokens[-2:]}")
        return await Row(range(6), [dice.gauss(0, 3) for _ in range(6)]).candidates(k, recent, penalty, temperature)


def take(engine, prompt, options, max_tokens, end_ids, at_most):
    """What a caller gets who leaves after at_most ids: these, how it ended, and the stats."""

    async def scenario():
        stats, ids = GenerationStats(), []
        stream = generate(engine, prompt, options, max_tokens, end_ids, stats)
        try:
            while len(ids) < at_most:
                ids.append(await anext(stream))
        except StopAsyncIteration:
            return ids, stats.finish, stats
        except DeviceError as error:
            return ids, str(error), stats
        await stream.aclose()
        return ids, "left", stats

    return asyncio.run(scenario())


options = st.builds(
    SamplerOptions,
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
    top_k=st.sampled_from([0, 2, 40]),
    repeat_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 9),
)


@settings(max_examples=300)
@given(
    seed=st.integers(0, 99), prompt=st.lists(st.integers(0, 5), min_size=1, max_size=40), options=options,
    max_tokens=st.none() | st.integers(0, 120), context=st.integers(40, 160), rooms=st.lists(st.integers(0, 16), min_size=1),
    end_ids=st.sets(st.integers(0, 5), max_size=1), at_most=st.integers(0, 160),
    broken=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)),
)  # fmt: skip
def test_the_same_ids_with_any_drafts(seed, prompt, options, max_tokens, context, rooms, end_ids, at_most, broken):
    """And the same end, whether it is the model's, a limit's, an error's or the caller's, between two ids of one pass too."""
    plain = Dice(seed, context, [0], broken)
    drafting = Dice(seed, context, rooms, broken)
    ids, finish, undrafted = take(plain, prompt, options, max_tokens, end_ids, at_most)
    got, got_finish, stats = take(drafting, prompt, options, max_tokens, end_ids, at_most)
    assert (got, got_finish, stats.generated_tokens) == (ids, finish, len(ids))
    assert (plain.n_drafted, undrafted.drafted_tokens, undrafted.accepted_tokens) == (0, 0, 0)
    assert undrafted.decode_passes == undrafted.decode_steps
    failed = got_finish == "no numbers"
    assert stats.decode_passes == max(0, drafting.steps - 1 - failed)
    assert failed or stats.drafted_tokens == drafting.n_drafted
    assert stats.accepted_tokens == stats.decode_steps - stats.decode_passes <= stats.drafted_tokens
    if finish != "left":  # who leaves may leave ids behind that were computed
        assert stats.decode_steps == undrafted.decode_steps == max(0, len(ids) - (finish != "stop"))
    assert drafting.steps <= plain.steps


@given(seed=st.integers(0, 99))
def test_an_error_comes_after_the_ids_before_it(seed):
    """Where logits break behind a drafted token that is right: what was chosen before them is had first."""
    ids, *_ = take(Dice(seed, 99, [0]), [0, 1], SamplerOptions(), 12, (), 12)
    pairs = list(pairwise([0, 1, *ids]))
    pair = next((pair for pair in pairs if pair not in pairs[:3]), None)
    assume(pair)  # unless it repeats one pair
    prompt = [0, 1, *ids, 0, 1]  # so that the ids are drafted
    plain, drafting = Dice(seed, 99, [0], pair), Dice(seed, 99, [9], pair)
    got, finish, _ = take(drafting, prompt, SamplerOptions(), 12, (), 12)
    assert (got, finish) == take(plain, prompt, SamplerOptions(), 12, (), 12)[:2]
    assert finish == "no numbers"
    assert drafting.steps < plain.steps


def test_a_loop_takes_few_passes():
    """Greedy, it must come to repeat itself; from then on each pass gives all that there is room for."""
    engine = Dice(1, 500, [7])
    ids, _, stats = take(engine, [0, 1, 2], SamplerOptions(), 401, (), 500)
    assert len(ids) == 401
    assert engine.steps <= 1 + 60 + 400 // 8
    assert stats.accepted_tokens == 400 - stats.decode_passes
    assert stats.as_dict()["decode_tokens_per_second"] == 400 / stats.decode_seconds


# The loop, on the cpu device

TEXT = "one two three one two three one two three one two"
PROMPTS = [40, 50, 45, 60] * 6, [40, 50] * 50  # after these the tiny model repeats itself, by four tokens and by one
SAMPLED = SamplerOptions(0.3, 40, 0.95, 0.05, 1.1, 5)


@pytest.fixture(scope="module")
def demo(cpu):
    with wasmrt.load(device="cpu") as model:
        yield model


@pytest.fixture(scope="module")
def tiny(cpu, tmp_path_factory):
    """Random weights, so the text is nonsense and soon repeats itself."""
    path = write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", changes={"context_length": 256})
    with wasmrt.load(path, device="cpu") as model:
        yield model


def with_room(monkeypatch, model, n):
    monkeypatch.setattr(model.engine, "draft_room", lambda: n)


def generated(model, prompt, options, max_tokens, room, monkeypatch):
    with_room(monkeypatch, model, room)
    call(forget(model.engine))
    chosen = {name: getattr(options, name) for name in SamplerOptions.__slots__}
    generation = model.generate(prompt, max_tokens=max_tokens, **chosen)
    passes = model.stats.passes
    text = "".join(generation)
    return generation.tokens, text, generation.stats, model.stats.passes - passes


async def forget(engine):
    """Leave nothing in the cache that a prompt could use."""
    async with engine.turn:
        await engine.step([0])


def test_rows_of_a_pass_are_those_of_single_steps(demo):
    """Bit for bit, after tokens of any kind before them."""
    engine = demo.engine
    ids = demo.tokenize(TEXT) + list(range(100, 120))

    async def scenario():
        async with engine.turn:
            single = []
            for end in range(10, len(ids) + 1):
                await engine.step(ids[:end])
                single.append(np.array(await engine.device.logits(engine._bounds[-1]))[0])
            for n_out in (1, 2, 5, 6, 8, 9, 17):
                await engine.step(ids[: len(ids) - n_out])
                assert await engine.step(ids, n_out) == len(ids) - n_out
                rows = np.array(await engine.device.logits(engine._bounds[-1]))
                assert rows.tobytes() == np.array(single[-n_out:]).tobytes()

    call(scenario())


@pytest.mark.parametrize("n", [1, 7, 12])
@pytest.mark.parametrize(
    "options",
    [SamplerOptions(), SamplerOptions(repeat_penalty=1.05), SAMPLED, replace(SAMPLED, seed=6), replace(SAMPLED, top_k=0)],
    ids=["greedy", "penalised", "sampled", "sampled again", "sampled from all"],
)
def test_drafts_change_no_token(demo, tiny, options, n, monkeypatch):
    accepted = 0
    for model, prompt in ((demo, TEXT), (demo, "Once upon a time"), *((tiny, prompt) for prompt in PROMPTS)):
        tokens, text, plain, passes = generated(model, prompt, options, 60, 0, monkeypatch)
        got, got_text, stats, fewer = generated(model, prompt, options, 60, n, monkeypatch)
        assert (got, got_text, stats.finish) == (tokens, text, plain.finish)
        assert fewer == passes - stats.accepted_tokens
        accepted += stats.accepted_tokens
    assert accepted >= 10


def test_a_repetitive_text_takes_few_passes(tiny, monkeypatch):
    """64 tokens, most of them one and the same, by eights."""
    for options in (SamplerOptions(), SamplerOptions(0.1, seed=1)):
        tokens, _, stats, passes = generated(tiny, PROMPTS[1], options, 64, 7, monkeypatch)
        assert (len(tokens), stats.decode_steps) == (64, 63)
        assert passes == 1 + stats.decode_passes <= 12


@pytest.mark.parametrize("left_after", range(1, 12))
def test_leaving_between_two_ids_of_a_pass(tiny, left_after, monkeypatch):
    """The cache then holds tokens that nobody saw: whoever goes on from those that were seen gets what he would have got."""
    prompt = PROMPTS[0]
    tokens, *_ = generated(tiny, prompt, SamplerOptions(), 40, 0, monkeypatch)
    with_room(monkeypatch, tiny, 7)
    generation = tiny.generate(prompt, max_tokens=40)
    while len(generation.tokens) < left_after:
        next(generation)
    generation.close()
    assert generation.tokens == tokens[:left_after]
    rest = tiny.generate(prompt + generation.tokens, max_tokens=40 - left_after)
    list(rest)
    assert rest.tokens == tokens[left_after:]
    assert rest.stats.cached_tokens >= len(prompt) + left_after - 1


def test_two_that_draft_can_take_turns(tiny, monkeypatch):
    """One model, two generations, id by id: each pass winds the cache back to its own text."""
    options = SamplerOptions(0.1, seed=1)
    alone = [generated(tiny, prompt, options, 60, 0, monkeypatch)[0] for prompt in PROMPTS]
    with_room(monkeypatch, tiny, 7)
    a, b = (tiny.generate(prompt, max_tokens=60, temperature=0.1, seed=1) for prompt in PROMPTS)
    for _ in range(60):
        next(a, None), next(b, None)
    list(a), list(b)
    assert [a.tokens, b.tokens] == alone
    assert min(a.stats.accepted_tokens, b.stats.accepted_tokens) > 10


@pytest.mark.parametrize(
    "prompts", [([40, 50] * 30, [40, 50] * 30), ([40, 50] * 127, [41, 50] * 127)], ids=["one text", "long texts"]
)
def test_turns_of_texts_that_share_all_or_nothing(cpu, tmp_path, prompts, monkeypatch):
    """A draft may lie in the cache already, or begin at the last tokens of a chunk: its rows are computed all the same."""
    path = write_llama(tmp_path / "long.gguf", changes={"context_length": 1024})
    with wasmrt.load(path, device="cpu") as model:
        alone = [generated(model, prompt, SamplerOptions(), 60, 0, monkeypatch)[0] for prompt in prompts]
        with_room(monkeypatch, model, 7)
        turns = [model.generate(prompt, max_tokens=60) for prompt in prompts]
        for _ in range(60):
            for generation in turns:
                next(generation, None)
        for generation in turns:
            list(generation)
        assert [generation.tokens for generation in turns] == alone
        assert min(generation.stats.accepted_tokens for generation in turns) > 0


def test_the_context_and_max_tokens_end_at_the_same_token(tiny, monkeypatch):
    """No position past the context is asked for, and no token past max_tokens is computed."""
    prompt = [40, 50] * 110
    for max_tokens in (None, 36, 37, 38, 5):
        tokens, _, plain, _ = generated(tiny, prompt, SamplerOptions(), max_tokens, 0, monkeypatch)
        got, _, stats, _ = generated(tiny, prompt, SamplerOptions(), max_tokens, 15, monkeypatch)
        assert (got, stats.finish) == (tokens, plain.finish)
        assert len(tokens) == min(37, max_tokens or 37)

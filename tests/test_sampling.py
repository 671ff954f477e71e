"""Sampling against a plain float64 definition in numpy, and draws against the distribution that they should have."""

import asyncio
import math
import random
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.programs import CPU, REFERENCE, Rig, record, tensor
from wasmrt.device.device import Candidates
from wasmrt.errors import DeviceError
from wasmrt.generate import choose
from wasmrt.options import SamplerOptions
from wasmrt.sampling import make_rng, sample


class Fixed(random.Random):
    """Always the same number; counts how often it was asked for."""

    def __init__(self, number):
        super().__init__(0)
        self.number = number
        self.asked = 0

    def random(self):
        self.asked += 1
        return self.number


class Row:
    """An engine with these logits. Keeps how many candidates were asked for."""

    def __init__(self, ids, logits):
        self.ids, self.logits = np.array(ids), np.array(logits, np.float64)
        self.asked = []

    async def candidates(self, k, recent, penalty, temperature, row=-1):
        self.asked.append(k)
        assert len(self.asked) < 100                             # so that a draw without an end fails
        logits = np.where(np.isin(self.ids, recent), penalised(self.logits, penalty), self.logits)
        best = np.lexsort((self.ids, -logits))
        ids, logits = self.ids[best].tolist(), logits[best].tolist()
        others = logits[k:]
        return Candidates(ids[:k], logits[:k], log_sum(others, 1.0), log_sum(others, temperature) if temperature else math.nan)


def penalised(logits, penalty):
    return np.where(logits > 0, logits / penalty, logits * penalty)


def log_sum(logits, temperature):
    """log(sum(exp(logit / temperature))), -inf for none."""
    top = max(logits, default=-math.inf)
    if top == -math.inf:
        return top
    return top / temperature + math.log(math.fsum(math.exp((x - top) / temperature) for x in logits))


def draws(ids, logits, options, rngs):
    """The token that each generator draws."""

    async def scenario():
        return [await choose(Row(ids, logits), (), options, rng) for rng in rngs]

    return asyncio.run(scenario())


def draw(ids, logits, options, rng):
    return draws(ids, logits, options, [rng])[0]


def definition(logits, options):
    """The probability of each candidate, float64 (n,): softmax and masks, nothing clever. Temperature above 0."""
    logits = np.array(logits, np.float64)
    with np.errstate(over="ignore"):                             # what is far below the best is -inf below it
        below = logits - logits[0]
        q = np.exp(below / options.temperature)
    p = np.exp(below)
    p[options.top_k or len(p) :] = 0
    q[options.top_k or len(p) :] = 0
    p /= p.sum()
    if options.top_p < 1:
        before = np.concatenate([[0], np.cumsum(p)[:-1]])
        q[before >= options.top_p] = 0                           # those reached only after the sum is
    q[p < options.min_p * p[0]] = 0
    return q / q.sum()


def support(logits, options, steps=4000):
    """The candidates that evenly spaced random numbers can choose, by place."""
    numbers = [*(i / steps for i in range(steps)), math.nextafter(1, 0)]
    return set(draws(range(len(logits)), logits, options, map(Fixed, numbers)))


descending = st.lists(st.floats(-30, 30), min_size=1, max_size=60).map(lambda logits: sorted(logits, reverse=True))
settings_of = st.builds(
    SamplerOptions,
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)


@given(logits=descending, options=settings_of, number=st.floats(0, 1, exclude_max=True))
def test_sample_inverts_the_definition(logits, options, number):
    """The chosen place is the one whose stretch of the cumulative probability holds the number."""
    p = definition(logits, options)
    # Where a mask or an edge lies within rounding of a value, the two may differ: such cases say nothing.
    weights = np.exp(np.array(logits) - logits[0])[: options.top_k or None]
    cumulative = np.cumsum(weights / weights.sum())
    assume(np.abs(cumulative - options.top_p).min() > 1e-12 or options.top_p == 1)
    assume(np.abs(weights - options.min_p).min() > 1e-12 or options.min_p in (0, 1))
    edges = np.cumsum(p)
    assume(np.abs(edges - number).min() > 1e-12)
    ids = [1000 + 3 * i for i in range(len(logits))]
    rng = Fixed(number)
    assert draw(ids, logits, options, rng) == ids[int(np.searchsorted(edges, number, side="right"))]
    assert rng.asked == 1


@given(logits=descending, options=settings_of, seed=st.integers(0, 2**64 - 1))
def test_nothing_excluded_is_ever_chosen(logits, options, seed):
    """-inf has no probability; the rest is the definition's, with a little room for rounding at the edges."""
    logits = [*logits, -math.inf, -math.inf]
    rng = random.Random(seed)
    chosen = set(draws(range(len(logits)), logits, options, [rng] * 20))
    loose = SamplerOptions(options.temperature, options.top_k, min(1, options.top_p + 1e-9), max(0, options.min_p - 1e-9))
    allowed = np.flatnonzero(definition(logits, loose) > 0)
    assert chosen <= set(allowed.tolist())
    assert max(chosen) < len(logits) - 2


@given(logits=descending, seed=st.integers(0, 2**64 - 1), top_k=st.integers(0, 70), top_p=st.floats(0.01, 1))
def test_temperature_zero_is_the_first(logits, seed, top_k, top_p):
    options = SamplerOptions(0, top_k, top_p, seed=seed)
    rng = Fixed(0.999)
    assert draw([7, *range(100, 99 + len(logits))], logits, options, rng) == 7
    assert rng.asked == 0


# Distribution


def chi_square_bound(freedom):
    """The value that a chi-square of so many degrees of freedom exceeds once in 10**5 (Wilson and Hilferty 1931; z = 4.265)."""
    return freedom * (1 - 2 / (9 * freedom) + 4.265 * math.sqrt(2 / (9 * freedom))) ** 3


LOGITS = [3.0, 2.6, 2.6, 1.9, 1.0, 0.4, 0.0, -0.7, -1.1, -1.6]


@pytest.mark.parametrize("options", [
    SamplerOptions(1.0, 0, 1.0, 0.0, seed=1),
    SamplerOptions(0.7, 0, 1.0, 0.0, seed=2),
    SamplerOptions(2.5, 0, 1.0, 0.0, seed=3),
    SamplerOptions(1.0, 4, 1.0, 0.0, seed=4),
    SamplerOptions(1.0, 0, 0.8, 0.0, seed=5),
    SamplerOptions(1.0, 0, 1.0, 0.2, seed=6),
    SamplerOptions(1.5, 7, 0.9, 0.1, seed=7),
    SamplerOptions(0.8, seed=8),
], ids=repr)
def test_draws_have_the_right_distribution(options):
    """20,000 draws with a fixed seed. Temperature applied before top-p, or top-p forgotten, is off by thousands."""
    n = 20_000
    rng = make_rng(options)
    counts = np.bincount(draws(range(10), LOGITS, options, [rng] * n), minlength=10)
    expected = definition(LOGITS, options) * n
    kept = expected > 0
    assert counts[~kept].sum() == 0
    assert expected[kept].min() > 5                              # where the chi-square approximation holds
    assert ((counts - expected)[kept] ** 2 / expected[kept]).sum() < chi_square_bound(kept.sum() - 1)


# Edges


def logs(*p):
    return [math.log(x) for x in p]


HALVES = logs(0.5, 0.25, 0.125, 0.0625, 0.0625)                  # sums that are exact


@pytest.mark.parametrize(("top_k", "kept"), [(0, 5), (1, 1), (2, 2), (5, 5), (6, 5), (10**9, 5)])
def test_top_k(top_k, kept):
    assert support(HALVES, SamplerOptions(1.0, top_k, 1.0, 0.0)) == set(range(kept))


@pytest.mark.parametrize(("top_p", "kept"), [(1e-9, 1), (0.4999, 1), (0.5001, 2), (0.74, 2), (0.76, 3), (0.94, 5), (1.0, 5)])
def test_top_p_keeps_the_fewest_that_reach_it(top_p, kept):
    assert support(HALVES, SamplerOptions(1.0, 0, top_p, 0.0)) == set(range(kept))


def test_top_p_reached_exactly_needs_no_more():
    """Equal logits have equal, exact weights: two of four are exactly half."""
    assert support([1.0] * 4, SamplerOptions(1.0, 0, 0.5, 0.0)) == {0, 1}


def test_top_p_is_of_the_candidates_after_top_k():
    """Of the first two, 2/3 and 1/3, the first alone reaches 0.6; of all five it would not."""
    assert support(HALVES, SamplerOptions(1.0, 2, 0.6, 0.0)) == {0}
    assert support(HALVES, SamplerOptions(1.0, 0, 0.6, 0.0)) == {0, 1}


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, 5), (0.12, 5), (0.13, 3), (0.24, 3), (0.26, 2), (0.51, 1), (1.0, 1)])
def test_min_p_is_in_relation_to_the_likeliest(min_p, kept):
    assert support(HALVES, SamplerOptions(1.0, 0, 1.0, min_p)) == set(range(kept))


def test_min_p_1_keeps_the_ties_of_the_likeliest():
    assert support([2.0, 2.0, 1.999], SamplerOptions(1.0, 0, 1.0, 1.0)) == {0, 1}


def test_temperature_is_applied_last():
    """A high one must not let in what top-p and min-p have excluded at temperature 1."""
    assert support(HALVES, SamplerOptions(100.0, 0, 0.7, 0.0)) == {0, 1}
    assert support(HALVES, SamplerOptions(100.0, 0, 1.0, 0.3)) == {0, 1}


def test_a_number_on_an_edge_is_the_next_candidates():
    """Stretches are half open, as random numbers are: 0 is in the first, 1 in none."""
    options = SamplerOptions(1.0, 0, 1.0, 0.0)
    assert draws([0, 1], [1.0, 1.0], options, map(Fixed, (0.0, 0.5, math.nextafter(1, 0)))) == [0, 1, 1]


def test_one_candidate_still_takes_a_random_number():
    """So a seed's later draws do not depend on how many candidates were left earlier."""
    rng = Fixed(0.5)
    assert draw([9], [-5.0], SamplerOptions(1.0), rng) == 9
    assert rng.asked == 1


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-6])
def test_a_tiny_temperature_is_greedy(temperature):
    options = SamplerOptions(temperature, 0, 1.0, 0.0)
    assert support([1.0, 0.99, 0.5, -1e30, -math.inf], options, 100) == {0}
    assert support([1.0, 1.0, 0.99], options, 100) == {0, 1}


def test_a_huge_temperature_is_uniform_over_what_is_possible():
    assert support([1e30, 1.0, -1e30, -math.inf], SamplerOptions(1.7e308, 0, 1.0, 0.0), 100) == {0, 1, 2}


@pytest.mark.parametrize("top", [1e30, -1e30, 1.7e308, -1.7e308, 0.0, 5e-324])
@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1.0, 1e6])
def test_extreme_logits_do_not_overflow(top, temperature):
    options = SamplerOptions(temperature)
    assert support([top, -1.75e308], options, 100) == {0}
    assert support([top, top], options, 100) == ({0} if temperature == 0 else {0, 1})


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("logits", [
    [math.nan], [math.nan, 1.0], [1.0, math.nan, 0.0], [1.0, 0.5, math.nan], [-math.inf], [-math.inf, -math.inf],
    [math.inf, 1.0],
])
def test_logits_that_are_not_numbers(temperature, logits):
    with pytest.raises(DeviceError, match="logits that are not numbers") as caught:
        draw(range(len(logits)), logits, SamplerOptions(temperature, top_k=1), random.Random(0))
    assert "\n" not in str(caught.value)


def test_candidates_must_match():
    for ids, logits in ([], []), ([1], []), ([1, 2], [0.0]):
        with pytest.raises(ValueError, match="as many logits as ids"):
            sample(Candidates(ids, logits, -math.inf, -math.inf), SamplerOptions(), 0.0)


@pytest.mark.parametrize("rest", [math.nan, math.inf])
def test_a_rest_that_is_no_number_is_an_error(rest):
    with pytest.raises(DeviceError, match="logits that are not numbers"):
        sample(Candidates([1], [0.0], rest, 0.0), SamplerOptions(1.0), 0.0)


# A few candidates of many

SLACK = 1e-9                                                     # sums of 3000 terms are rounded far less


def places(logits, options, u):
    """Where, of descending logits, the definition lets u fall if every threshold may be off by SLACK: a range."""
    if options.temperature == 0:
        return range(1)
    found = set()
    for by in (-SLACK, 0, SLACK):
        top_p = options.top_p if options.top_p == 1 else min(options.top_p * (1 + by), 1)
        for min_by in (-SLACK, 0, SLACK):
            near = SamplerOptions(options.temperature, options.top_k, top_p, min(options.min_p * (1 + min_by), 1))
            edges = np.cumsum(definition(logits, near))
            last = int(np.searchsorted(edges, edges[-1]))        # the last that has a probability
            found |= {min(int(np.searchsorted(edges, u + d, side="right")), last) for d in (-SLACK, 0, SLACK)}
    return range(min(found), max(found) + 1)


@st.composite
def rows(draw, most):
    """Logits (n,), in no order: like a model's, tied, flat, with impossible ones, far apart, far from 0."""
    n, rng = draw(st.integers(1, most)), np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = {
        "normal": lambda: rng.normal(0, draw(st.sampled_from([0.1, 1, 4])), n),
        "zipf": lambda: -1.1 * np.log(rng.permutation(n) + 1),
        "tied": lambda: rng.integers(-3, 4, n).astype(float),
        "flat": lambda: np.full(n, draw(st.sampled_from([0.0, -7.5, 1e4, 1e30]))),
        "far apart": lambda: rng.uniform(-1e30, 1e30, n),
        "two heights": lambda: np.where(rng.random(n) < 0.5, 2e8, 2e8 - 1),
        "far from 0": lambda: 1e5 + rng.normal(0, 1, n),
    }[draw(st.sampled_from(["normal", "zipf", "tied", "flat", "far apart", "two heights", "far from 0"]))]()
    if draw(st.booleans()):
        logits[rng.permutation(n)[1 : 1 + n // 3]] = -math.inf
    return logits


any_settings = st.builds(
    SamplerOptions,
    temperature=st.sampled_from([0.0, 5e-324, 1e-9, 0.7, 1.0, 1e300]) | st.floats(0.05, 5),
    top_k=st.sampled_from([0, 0, 1, 5, 40, 64, 65, 600, 5000, 10**9]),
    top_p=st.sampled_from([1.0, 0.5, 0.95, 0.9999, 1e-9]) | st.floats(0.01, 1),
    min_p=st.sampled_from([0.0, 0.0, 1e-6, 0.05, 0.5, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.3, 0.5]),
)
numbers = st.sampled_from([0.0, math.nextafter(1, 0)]) | st.floats(0, 1, exclude_max=True)


@settings(max_examples=300)
@given(logits=rows(3000), options=any_settings, u=numbers)
def test_a_draw_from_few_is_the_draw_from_all(logits, options, u):
    """Through 64, 512 and more candidates, with one random number; never more candidates than top_k."""
    recent = [int(np.argmax(logits)), 0]
    row, rng = Row(range(len(logits)), logits), Fixed(u)
    token = asyncio.run(choose(row, recent, options, rng))
    assert rng.asked == (options.temperature > 0)
    assert row.asked[0] == (min(64, options.top_k or 64) if options.temperature else 1)
    assert max(row.asked) <= (options.top_k or 8 * 8 * 64)
    logits[recent] = penalised(logits[recent], options.repeat_penalty)
    best = np.lexsort((np.arange(len(logits)), -logits))
    assert token in best[places(logits[best], options, u)]


@settings(max_examples=300)
@given(logits=rows(40), options=any_settings, u=numbers)
def test_any_number_of_candidates_gives_the_same_token_or_none(logits, options, u):
    logits = -np.sort(-logits)
    right = places(logits, options, u)
    row = Row(range(len(logits)), logits)
    for k in range(1, len(logits) + 1):
        token = sample(asyncio.run(row.candidates(k, (), 1.0, options.temperature)), options, u)
        assert token in right or (token is None and k < min(len(logits), options.top_k or len(logits)))


@pytest.mark.parametrize(("options", "u", "needed"), [
    (SamplerOptions(1.0, 0, 1.0, 0.0), 0.49, 1),                 # 1/2, 1/4, 1/8, 1/16, 1/16: the second half is not the first's
    (SamplerOptions(1.0, 0, 1.0, 0.0), 0.51, 2),
    (SamplerOptions(1.0, 0, 1.0, 0.0), 0.95, 5),
    (SamplerOptions(1.0, 0, 0.7, 0.0), 0.99, 2),                 # top-p ends at 2
    (SamplerOptions(1.0, 0, 1.0, 0.3), 0.99, 3),                 # min-p ends at 2, as the third shows
    (SamplerOptions(1.0, 0, 1.0, 0.3), 0.60, 3),                 # of the two kept, the first's; of all, the second's
    (SamplerOptions(2.0, 0, 1.0, 0.0), 0.40, 2),                 # the first has 1/2.91 at temperature 2
    (SamplerOptions(1e-9, 0, 1.0, 0.0), 0.99, 2),                # the others' sum has no digits, but they weigh nothing
    (SamplerOptions(1.0, 3, 0.55, 0.0), 0.99, 3),                # top-p of all keeps two, of three but the first
    (SamplerOptions(1.0, 4, 1.0, 0.0), 0.49, 1),                 # of all or of four, the first's
    (SamplerOptions(1.0, 4, 1.0, 0.0), 0.52, 4),                 # of four, the first's: 1/2 is 8/15 of these
    (SamplerOptions(1.0, 10**9, 1.0, 0.0), 0.51, 5),             # of the first four, the first's; of all five, the second's
], ids=repr)
def test_no_more_candidates_than_needed(options, u, needed):
    row = Row(range(5), HALVES)
    asked = [asyncio.run(row.candidates(k, (), 1.0, options.temperature)) for k in range(1, 6)]
    answers = [sample(candidates, options, u) for candidates in asked]
    assert [answer is None for answer in answers] == [k < needed for k in range(1, 6)]


def test_temperature_zero_looks_at_no_other_sum():
    assert sample(Candidates([3], [1.0], 5.0, math.nan), SamplerOptions(0), 0.0) == 3


class OnDevice:
    """An engine of a real device with these logits; keeps what was asked for and what came."""

    def __init__(self, logits, kind=REFERENCE):
        tensors = {"rows": tensor([logits])}
        self.rig = Rig(kind, (record(lambda t, w: t.last_rows(t.embed(w.rows)), tensors), tensors))
        self.rig.run([0])
        self.asked, self.came = [], []

    async def candidates(self, k, *how):
        assert k < 10**9                                         # so that a draw without an end fails
        got = await self.rig.device.candidates(self.rig.bounds[0], k, *how)
        self.asked.append(k)
        self.came.append(len(got.ids))
        return got

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.rig.__exit__()


TEXT_LIKE = (-1.1 * np.log(1 + np.random.default_rng(5).permutation(2000))).astype(np.float32)  # Zipf's law


@pytest.mark.parametrize("kind", [REFERENCE, CPU], ids=lambda kind: kind.name)
@pytest.mark.parametrize("options", [
    SamplerOptions(1.0, 0, 1.0, 0.0, seed=1),                    # more than a third of the draws are beyond the first 64
    SamplerOptions(0.7, 50, 0.9, 0.01, 1.3, seed=3),
    SamplerOptions(0.7, 0, 0.9, 0.0, 1.3, seed=4),
    SamplerOptions(1.2, 1000, 0.97, 0.002, 0.8, seed=5),
], ids=repr)
def test_draws_on_a_device_have_the_right_distribution(kind, options):
    """20,000 draws with a fixed seed from 2,000 tokens, in bins of some probability. A lost tail is off by thousands."""
    n, recent = 20_000, [7, 8, int(np.argmax(TEXT_LIKE))]
    logits = TEXT_LIKE.astype(np.float64)
    logits[recent] = penalised(logits[recent], options.repeat_penalty)
    best = np.lexsort((np.arange(2000), -logits))
    p = np.zeros(2000)
    p[best] = definition(logits[best], options)
    rng = make_rng(options)

    async def scenario():
        return [await choose(engine, recent, options, rng) for _ in range(n)]

    with OnDevice(TEXT_LIKE, kind) as engine:
        counts = np.bincount(asyncio.run(scenario()), minlength=2000)
    assert counts[p == 0].sum() == 0
    bins = (np.cumsum(p[best]) * 100).astype(int)                # of about 1/100 each, or one likely token
    expected = np.bincount(bins, p[best]) * n
    found = np.bincount(bins, counts[best])[expected > 0]
    expected = expected[expected > 0]
    assert expected[:-1].min() > 5
    assert len(expected) > 15
    assert ((found - expected) ** 2 / expected).sum() < chi_square_bound(len(expected) - 1)


def longest_list(coroutine):
    """The most elements that an array gave as a list while a coroutine ran."""
    sizes = [0]

    def watch(frame, event, function):
        if event == "c_call" and function.__name__ == "tolist":
            sizes.append(function.__self__.size)

    sys.setprofile(watch)
    try:
        asyncio.run(coroutine)
    finally:
        sys.setprofile(None)
    return max(sizes)


@pytest.mark.parametrize(("options", "u", "asked"), [
    (SamplerOptions(0.0), 0.0, [1]),
    (SamplerOptions(0.8), 0.99, [40]),
    (SamplerOptions(0.8, 0, 0.95, 0.1), 0.99, [64]),             # min-p ends within these
    (SamplerOptions(1.0, 0, 1.0, 0.0), 0.3, [64]),
    (SamplerOptions(1.0, 0, 1.0, 0.0), 0.8, [64, 512]),
    (SamplerOptions(1.0, 0, 0.6, 0.0), 0.999, [64]),
    (SamplerOptions(1.0, 0, 0.8, 0.0), 0.999, [64, 512]),
    (SamplerOptions(1.0, 600, 1.0, 0.0), 0.999, [64, 512, 600]),
    (SamplerOptions(1.0, 10**9, 1.0, 0.1), 0.9, [64]),
], ids=repr)
def test_a_large_vocabulary_is_never_a_list(options, u, asked):
    """100,000 tokens: lists are as long as was asked for, which is little."""
    logits = np.log(1 / (10 + np.random.default_rng(6).permutation(100_000)) ** 1.5)
    with OnDevice(logits) as engine:
        longest = longest_list(choose(engine, [5, 6], options, Fixed(u)))
        assert engine.asked == engine.came == asked
        assert longest == max(asked)
        few = asyncio.run(engine.candidates(64, (), 1.0, options.temperature))
    tracemalloc.start()
    sample(few, options, u)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 8 * 32                                    # a handful of lists of 64 floats


@pytest.mark.parametrize("kind", [REFERENCE, CPU], ids=lambda kind: kind.name)
@pytest.mark.parametrize("height", [3.25, 0.0, 1e30, -1e30])
def test_a_flat_row_ends_and_is_exact(kind, height):
    """All samplers off, all tokens alike: u picks its own, if need be from all. The sum of large ones has no digits to tell."""
    options = SamplerOptions(1.0, 0, 1.0, 0.0)
    with OnDevice(np.full(10_000, height), kind) as engine:
        for token in (0, 63, 64, 511, 512, 4095, 4096, 9999):
            assert asyncio.run(choose(engine, (), options, Fixed((token + 0.5) / 10_000))) == token
        assert engine.asked[-4:] == [64, 512, 4096, 32768]
        assert engine.came[-1] == 10_000


# Seeds, penalty, options


def test_a_seed_gives_the_same_tokens_everywhere():
    """Recorded once: CPython's generator is specified to the bit."""
    options = SamplerOptions(1.0, 0, 1.0, 0.0, seed=42)
    assert [make_rng(options).random() for _ in range(2)] == [0.6394267984578837] * 2
    rng = make_rng(options)
    tokens = draws(range(10), LOGITS, options, [rng] * 24)
    assert tokens == [2, 0, 0, 0, 2, 2, 3, 0, 1, 0, 0, 1, 0, 0, 2, 1, 0, 2, 3, 0, 3, 2, 1, 0]
    rng = make_rng(options)
    assert draws(range(10), LOGITS, options, [rng] * 24) == tokens


def test_seeds_differ():
    def tokens(seed):
        options = SamplerOptions(1.0, seed=seed)
        rng = make_rng(options)
        return tuple(draws(range(10), LOGITS, options, [rng] * 40))

    assert len({tokens(seed) for seed in (0, 1, 2, 2**63, 2**64 - 1, None, None)}) == 7


def test_the_defaults_are_those_of_the_api():
    assert SamplerOptions() == SamplerOptions(
        temperature=0.0, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.0, seed=None
    )


@pytest.mark.parametrize(("name", "values"), [
    ("temperature", [math.nan, math.inf, -math.inf, -0.1, -1, True, "1", None, 10**400, 1j]),
    ("top_k", [-1, -5, 1.0, 40.5, True, "40", None, math.nan]),
    ("top_p", [0, 0.0, -0.5, 1.0001, 2, math.nan, math.inf, True, "1", None]),
    ("min_p", [-0.1, 1.0001, 2, math.nan, math.inf, False, "0", None]),
    ("repeat_penalty", [0, 0.0, -1, 0.009, 101, math.nan, math.inf, True, "1", None]),
    ("seed", [-1, 2**64, 1.0, True, "1", math.nan]),
])
def test_wrong_options_are_value_errors(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} must be ") as caught:
            SamplerOptions(**{name: value})
        assert "\n" not in str(caught.value)


def test_the_ends_of_every_range_are_allowed():
    SamplerOptions(temperature=0, top_k=0, top_p=1, min_p=0, repeat_penalty=0.01, seed=0)
    SamplerOptions(temperature=1e300, top_k=10**12, top_p=5e-324, min_p=1, repeat_penalty=100, seed=2**64 - 1)

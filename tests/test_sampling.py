"""Sampling against a plain float64 definition in numpy, and draws against the distribution that they should have."""

import math
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wasmrt.errors import DeviceError
from wasmrt.sampling import SamplerOptions, make_rng, sample


class Fixed(random.Random):
    """Always the same number; counts how often it was asked for."""

    def __init__(self, number):
        super().__init__(0)
        self.number = number
        self.asked = 0

    def random(self):
        self.asked += 1
        return self.number


def definition(logits, options):
    """The probability of each candidate, float64 (n,): softmax and masks, nothing clever. Temperature above 0."""
    logits = np.array(logits, np.float64)
    with np.errstate(invalid="ignore"):
        p = np.exp(logits - logits.max())
    if options.top_k:
        p[options.top_k :] = 0
    p /= p.sum()
    before = np.concatenate([[0], np.cumsum(p)[:-1]])
    if options.top_p < 1:
        p[before >= options.top_p] = 0                           # those reached only after the sum is
    p[p < options.min_p * p[0]] = 0
    q = np.where(p > 0, np.exp((logits - logits.max()) / options.temperature), 0)
    return q / q.sum()


def support(logits, options, steps=4000):
    """The candidates that evenly spaced random numbers can choose, by place."""
    ids = range(len(logits))
    return {sample(ids, logits, options, Fixed(i / steps)) for i in range(steps)} | {
        sample(ids, logits, options, Fixed(math.nextafter(1, 0)))
    }


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
    assert sample(ids, logits, options, rng) == ids[int(np.searchsorted(edges, number, side="right"))]
    assert rng.asked == 1


@given(logits=descending, options=settings_of, seed=st.integers(0, 2**64 - 1))
def test_nothing_excluded_is_ever_chosen(logits, options, seed):
    """-inf has no probability; the rest is the definition's, with a little room for rounding at the edges."""
    logits = [*logits, -math.inf, -math.inf]
    rng = random.Random(seed)
    chosen = {sample(range(len(logits)), logits, options, rng) for _ in range(20)}
    loose = SamplerOptions(options.temperature, options.top_k, min(1, options.top_p + 1e-9), max(0, options.min_p - 1e-9))
    allowed = np.flatnonzero(definition(logits, loose) > 0)
    assert chosen <= set(allowed.tolist())
    assert max(chosen) < len(logits) - 2


@given(logits=descending, seed=st.integers(0, 2**64 - 1), top_k=st.integers(0, 70), top_p=st.floats(0.01, 1))
def test_temperature_zero_is_the_first(logits, seed, top_k, top_p):
    options = SamplerOptions(0, top_k, top_p, seed=seed)
    rng = Fixed(0.999)
    assert sample([7, *range(100, 99 + len(logits))], logits, options, rng) == 7
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
    counts = np.bincount([sample(range(10), LOGITS, options, rng) for _ in range(n)], minlength=10)
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
    assert [sample([0, 1], [1.0, 1.0], options, Fixed(number)) for number in (0.0, 0.5, math.nextafter(1, 0))] == [0, 1, 1]


def test_one_candidate_still_takes_a_random_number():
    """So a seed's later draws do not depend on how many candidates were left earlier."""
    rng = Fixed(0.5)
    assert sample([9], [-5.0], SamplerOptions(1.0), rng) == 9
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
        sample(range(len(logits)), logits, SamplerOptions(temperature, top_k=1), random.Random(0))
    assert "\n" not in str(caught.value)


def test_candidates_must_match():
    for ids, logits in ([], []), ([1], []), ([1, 2], [0.0]):
        with pytest.raises(ValueError, match="as many logits as ids"):
            sample(ids, logits, SamplerOptions(), random.Random(0))


# Seeds, penalty, options


def test_a_seed_gives_the_same_tokens_everywhere():
    """Recorded once: CPython's generator is specified to the bit."""
    options = SamplerOptions(1.0, 0, 1.0, 0.0, seed=42)
    assert [make_rng(options).random() for _ in range(2)] == [0.6394267984578837] * 2
    rng = make_rng(options)
    tokens = [sample(range(10), LOGITS, options, rng) for _ in range(24)]
    assert tokens == [2, 0, 0, 0, 2, 2, 3, 0, 1, 0, 0, 1, 0, 0, 2, 1, 0, 2, 3, 0, 3, 2, 1, 0]
    rng = make_rng(options)
    assert [sample(range(10), LOGITS, options, rng) for _ in range(24)] == tokens


def test_seeds_differ():
    def tokens(seed):
        options = SamplerOptions(1.0, seed=seed)
        rng = make_rng(options)
        return tuple(sample(range(10), LOGITS, options, rng) for _ in range(40))

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

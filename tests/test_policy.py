"""What stays and what leaves: evenly spread residents, the known miss counts of a cyclic scan, and predictors."""

import asyncio
import random
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import Counting, Opened, file_of, layers, size_of
from wasmrt.store.policy import HALF_LIFE, SMALL, Popularity, farthest, fill, least_popular, least_recent, spread
from wasmrt.store.predict import FAR, Cyclic, Learned

# Which tensors stay


@given(sizes=st.lists(st.sampled_from([1, SMALL - 1, SMALL, 1 << 30]), max_size=60))
def test_spread_is_a_permutation_with_what_is_small_first(sizes):
    order = spread(sizes)
    assert sorted(order) == list(range(len(sizes)))
    small = [i for i in order if sizes[i] < SMALL]
    assert order[: len(small)] == small == sorted(small)


def discrepancy(chosen, count):
    """How far the number of chosen ones in any interval of a cycle is from an even share, at most."""
    there = np.zeros(2 * count)
    there[chosen] = 1
    there[[i + count for i in chosen]] = 1
    sums = np.concatenate([[0], np.cumsum(there)]) - np.arange(2 * count + 1) * len(chosen) / count
    return max(np.ptp(sums[start : start + count + 1]) for start in range(count))


# Worst seen above log2(count) / 2 for up to 300 tensors: 0.22. Residents all at the front would have count / 4.
@pytest.mark.parametrize("count", [*range(1, 34), 48, 61, 64, 80, 126, 171])
def test_every_beginning_of_spread_is_spread(count):
    order = spread([SMALL] * count)
    for n in range(1, count + 1):
        assert discrepancy(order[:n], count) <= 0.6 + log2(count) / 2


@given(sizes=st.lists(st.integers(0, 100), max_size=20), room=st.integers(0, 600))
def test_fill_takes_what_fits_in_turn(sizes, room):
    order = sorted(range(len(sizes)), key=lambda i: i * 7 % 11)
    chosen = fill(order, sizes, room)
    assert chosen == [i for i in order if i in chosen]
    left = room
    for i in order:
        assert (i in chosen) == (sizes[i] <= left)
        left -= sizes[i] if i in chosen else 0


# What leaves


def test_what_leaves_first():
    uses = {3: 10, 4: 2, 5: 7}
    assert least_recent(uses, uses.__getitem__) == 4
    assert farthest(uses, lambda i: (float("inf") if i == 5 else uses[i], 0)) == 5
    assert least_popular(uses, {3: 1.0, 4: 0.5, 5: 0.5}.__getitem__, uses.__getitem__) == 5  # of equals the last used
    assert least_recent([], uses.__getitem__) is farthest([], lambda i: (0, 0)) is None


def test_popularity_fades_with_the_number_of_routings():
    popular = Popularity(3)
    popular.used([0, 1])
    popular.used([0])
    assert popular.score(0) > popular.score(1) > popular.score(2) == 0
    old = popular.score(0)
    for _ in range(HALF_LIFE):
        popular.used([2])
    assert popular.score(0) == pytest.approx(old / 2)
    assert popular.score(2) > popular.score(0)


# A scan over N equal layers with room for C of them, through the store: which policy reads how often

N, SIZE, CYCLES = 8, 640, 21


def misses_per_pass(policy, frames, **options):
    """Reads in each pass but the first, and how many layers stay for ever."""
    table = layers(*[SIZE] * N)
    source = Counting(file_of(size_of(table)))
    rows = 64                                                    # the embedding's
    opened = Opened(table, source, rows + frames * SIZE, policy=policy, **options)
    counts = []

    async def passes():
        for _ in range(1 + CYCLES):
            before = len(source.reads)
            async for _ in opened.store.parts(len(table.segments)):
                pass
            counts.append(len(source.reads) - before)

    asyncio.run(passes())
    assert counts[0] >= N                                        # some of the next pass may be on its way
    return counts[1:], len(opened.plan.parts.resident)


@pytest.mark.parametrize("frames", range(1, N))
def test_lru_misses_always_and_belady_as_rarely_as_can_be(frames):
    """In steady state N (N - C) / (N - 1) of N layers; LRU misses all. Without reading ahead, which hides but never helps."""
    assert set(misses_per_pass("lru", frames, prefetch=0)[0]) == {N}
    belady, _ = misses_per_pass("belady", frames, prefetch=0)
    bound = N * (N - frames) / (N - 1)
    assert sum(belady) / CYCLES == pytest.approx(bound, abs=1 / CYCLES)


@pytest.mark.parametrize("frames", range(1, N + 1))
@pytest.mark.parametrize("prefetch", [0, None])
def test_what_stays_is_never_read_again(frames, prefetch):
    """And what does not is read once a pass, or less often: what is in the ring when a pass begins is used from there."""
    counts, resident = misses_per_pass("plan", frames, prefetch=prefetch)
    assert N - frames <= sum(counts) / CYCLES <= N - resident


# Which segments come next


@given(n=st.integers(1, 9), now=st.integers(0, 8), asked=st.integers(0, 30))
def test_a_pass_goes_round(n, now, asked):
    cyclic = Cyclic(n)
    assert list(cyclic.predict_next(n)) == list(range(n))        # before anything, the first pass
    cyclic.observe(now % n)
    assert list(cyclic.predict_next(asked)) == [(now + 1 + i) % n for i in range(asked)]
    for segment in range(n):
        assert cyclic.until(segment) == 1 + list(cyclic.predict_next(n)).index(segment)


def test_a_pass_without_the_head_begins_again_before_it():
    cyclic = Cyclic(4)
    cyclic.end = 3
    cyclic.observe(1)
    assert list(cyclic.predict_next(6)) == [2, 0, 1, 2, 3, 0]
    cyclic.observe(2)
    assert list(cyclic.predict_next(3)) == [0, 1, 2]


PATTERNS = {
    "forwards": list(range(7)),
    "backwards": list(range(7))[::-1],
    "there and back": [0, 1, 2, 3, 2, 1],
    "two steps forwards, one back": [0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5],
    "a model and its draft": [7, 8, 7, 9, 0, 1, 2],
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_a_pattern_is_known_after_one_period(pattern):
    """Each of these tells by the last three segments what follows."""
    learned = Learned()
    assert (list(learned.predict_next(5)), learned.until(0)) == ([], FAR)
    for segment in [*pattern, *pattern[:3]]:
        learned.observe(segment)
    for turn in range(2 * len(pattern)):
        at = (3 + turn) % len(pattern)
        coming = [pattern[(at + i) % len(pattern)] for i in range(10)]
        assert list(learned.predict_next(10)) == coming
        assert learned.until(coming[-1]) == 1 + coming.index(coming[-1])
        learned.observe(pattern[at])
    assert learned.until(99) == FAR


def test_a_new_pattern_replaces_the_old_one():
    learned = Learned()
    for segment in [0, 1, 2, 3] * 3 + [3, 2, 1, 0] * 6:
        learned.observe(segment)
    assert list(learned.predict_next(4)) == [3, 2, 1, 0]


def test_of_what_followed_as_often_the_latest_is_expected():
    learned = Learned()
    for segment in (0, 1, 0, 2, 0):
        learned.observe(segment)
    assert learned.predict_next(1) == [2]


def test_chance_is_predicted_by_what_was_and_never_breaks():
    learned, dice = Learned(), random.Random(4)
    seen = set()
    for _ in range(300):
        segment = dice.randrange(6)
        seen.add(segment)
        learned.observe(segment)
        assert set(learned.predict_next(20)) <= seen
        assert len(learned.predict_next(20)) <= 20

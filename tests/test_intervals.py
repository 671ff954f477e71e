"""Intervals against plain sets of positions."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wasmrt.store.intervals import Intervals

SPAN = st.tuples(st.integers(0, 60), st.integers(0, 60))
STEPS = st.lists(st.tuples(st.booleans(), SPAN), max_size=25)


def built(steps):
    intervals, positions = Intervals(), set()
    for add, (start, end) in steps:
        if add:
            intervals.add(start, end)
            positions |= set(range(start, end))
        else:
            intervals.remove(start, end)
            positions -= set(range(start, end))
    return intervals, positions


@given(steps=STEPS)
def test_adding_and_removing(steps):
    """Sorted, without overlaps or touching neighbours: so equal sets are equal lists."""
    intervals, positions = built(steps)
    ranges = list(intervals)
    assert {i for a, b in ranges for i in range(a, b)} == positions
    assert all(a < b for a, b in ranges)
    assert all(b < c for (_, b), (c, _) in pairwise(ranges))
    assert intervals.n_bytes == len(positions)
    assert Intervals(ranges) == intervals


@given(steps=STEPS, span=SPAN)
def test_asking(steps, span):
    intervals, positions = built(steps)
    start, end = span
    run = next(i for i in range(start, 200) if i not in positions)
    assert intervals.run_end(start) == run
    begins = [a for a, _ in intervals if a > start]
    assert intervals.next_start(start, 999) == min(begins, default=999)
    gaps = list(intervals.gaps(start, end))
    assert {i for a, b in gaps for i in range(a, b)} == set(range(start, end)) - positions
    assert all(a < b for a, b in gaps)


def test_positions_past_four_gigabytes():
    intervals = Intervals([(2**40, 2**41)])
    intervals.add(2**41, 2**41 + 1)
    assert list(intervals) == [(2**40, 2**41 + 1)]

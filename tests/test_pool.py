"""Pool: frames that never overlap, space that can be used again, a ring that does not fragment, and a limit."""

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmrt.store.pool import Pool

START = 2**32 - 500                                              # so that frames cross it


@given(
    n_bytes=st.integers(0, 1000),
    steps=st.lists(st.tuples(st.sampled_from("aaf"), st.integers(1, 300)), max_size=60),
)
def test_frames_are_apart_and_freed_space_can_be_used_again(n_bytes, steps):
    """In any order. A frame is refused only if no free part is as large, so adjacent free parts are one."""
    pool = Pool(START, n_bytes)
    frames = {}

    def holes():
        """The lengths of free parts, by what the frames leave."""
        ends = sorted((at, at + size) for at, size in frames.items())
        return [begin - end for (_, end), (begin, _) in zip([(0, START), *ends], [*ends, (START + n_bytes, 0)], strict=True)]

    for step, number in steps:
        if step == "a":
            at = pool.allocate(number)
            if at is None:
                assert max(holes()) < number
            else:
                assert START <= at <= START + n_bytes - number
                assert all(at + number <= other or other + size <= at for other, size in frames.items())
                frames[at] = number
        elif frames:
            at = sorted(frames)[number % len(frames)]
            del frames[at]
            pool.free(at)
        assert pool.used == sum(frames.values()) <= pool.limit
    for at in frames:
        pool.free(at)
    if n_bytes:
        assert pool.allocate(n_bytes) == START                   # all of it is one part again


@given(spare=st.integers(0, 600), seed=st.integers(0, 1 << 32))
def test_used_first_in_first_out_it_is_a_ring(spare, seed):
    """A frame finds room while what is used, it, and the largest that may be split by the end fit together."""
    dice = random.Random(seed)
    capacity = 200 + spare
    pool, queue = Pool(START, capacity), deque[int]()
    for _ in range(500):
        size = dice.choice([dice.randint(1, 20), dice.randint(60, 100)])
        while pool.used + size + 100 > capacity or (queue and dice.random() < 0.2):
            pool.free(queue.popleft())
        at = pool.allocate(size)
        assert at is not None
        queue.append(at)


def test_a_limit_is_below_what_there_is_room_for():
    pool = Pool(START, 100)
    pool.limit = 60
    first = pool.allocate(40)
    assert first == START
    assert pool.allocate(30) is None
    assert pool.allocate(20) == START + 40
    pool.free(first)
    assert pool.allocate(41) is None
    assert pool.allocate(40) is not None


def test_what_is_no_frame_cannot_be_freed():
    pool = Pool(START, 100)
    at = pool.allocate(10)
    pool.free(at)
    for wrong in (at, START + 50):
        with pytest.raises(KeyError):
            pool.free(wrong)


def test_a_frame_that_was_handed_over_is_not_given_out_again():
    pool = Pool(START, 100)
    first, second = pool.allocate(40), pool.allocate(30)
    pool.hand_over(first)
    pool.limit -= 40
    pool.free(second)
    assert (pool.used, pool.limit) == (0, 60)
    assert pool.allocate(60) == START + 40
    assert pool.allocate(1) is None


@given(n_bytes=st.integers(1, 100), smaller=st.integers(0, 100))
def test_an_empty_pool_can_be_cut(n_bytes, smaller):
    smaller = min(smaller, n_bytes)
    pool = Pool(START, n_bytes)
    at = pool.allocate(1)
    with pytest.raises(ValueError, match="1 bytes are in use"):
        pool.cut(smaller)
    pool.free(at)
    assert pool.cut(smaller) == n_bytes - smaller
    assert pool.allocate(smaller + 1) is None
    if smaller:
        assert pool.allocate(smaller) == START

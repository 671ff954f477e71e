"""Memory: frames that are aligned, zeroed and apart, within a capacity that is a ceiling, also past 2**32."""

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmrt.errors import BudgetError
from wasmrt.store.memory import ALIGNMENT, HostMemory, aligned

KIB = 1 << 10


@given(sizes=st.lists(st.integers(0, 5000), max_size=20))
def test_frames_are_aligned_zeroed_and_apart(sizes):
    """The processor's own addresses are aligned too; address 0 means absent and is never given."""
    memory = HostMemory(sum(map(aligned, sizes)))
    frames = [(memory.allocate(n), n) for n in sizes]
    for i, (address, n) in enumerate(frames, 1):
        assert address > 0
        assert address % ALIGNMENT == 0
        view = memory.view(address, n)
        assert bytes(view) == bytes(n)
        if n:
            assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGNMENT == 0
        view[:] = bytes([i]) * n
    for i, (address, n) in enumerate(frames, 1):
        assert bytes(memory.view(address, n)) == bytes([i]) * n  # no frame was written through another
    assert memory.used == memory.capacity == sum(aligned(n) for n in sizes)


def test_the_capacity_is_a_ceiling():
    memory = HostMemory(3 * ALIGNMENT)
    memory.allocate(ALIGNMENT + 1)                               # takes two of three
    with pytest.raises(BudgetError, match=r"65 more bytes do not fit: 128 of 192"):
        memory.allocate(ALIGNMENT + 1)
    assert memory.used == 2 * ALIGNMENT                          # what was refused took nothing
    memory.allocate(ALIGNMENT)
    with pytest.raises(BudgetError):
        memory.allocate(1)


def test_what_the_system_refuses_is_a_budget_error():
    for capacity in (1 << 62, 1 << 80):
        with pytest.raises(BudgetError, match="choose a smaller budget"):
            HostMemory(capacity)


def test_addresses_past_4_gib():
    """Pages cost nothing until they are written, so this takes two."""
    memory = HostMemory(9 << 29)
    first, last = memory.allocate(1 << 32), memory.allocate(100)
    assert last > 1 << 32
    memory.view(first, 8)[:] = b"at first"
    memory.view(last, 8)[:] = b"at last."
    assert bytes(memory.view(last - 4, 12)) == b"\0\0\0\0at last."
    assert bytes(memory.view(first, 8)) == b"at first"           # no address was cut to 32 bits
    memory.close()


def test_views_share_the_memory_and_stay_inside_it():
    memory = HostMemory(KIB)
    address = memory.allocate(100)
    memory.view(address + 10, 3)[:] = b"abc"
    assert bytes(memory.view(address, 16)) == bytes(10) + b"abc" + bytes(3)
    for wrong in ((0, 1), (ALIGNMENT - 1, 1), (address, aligned(100) + 1), (address, -1), (address + KIB, 1)):
        with pytest.raises(ValueError, match="no frame"):
            memory.view(*wrong)


def test_closing_keeps_the_pages_of_views_that_are_held():
    memory = HostMemory(KIB)
    address = memory.allocate(100)
    array = np.frombuffer(memory.view(address, 100), np.uint8)
    array[:] = 7
    memory.close()
    memory.close()
    assert (array == 7).all()
    with pytest.raises(BudgetError):
        memory.allocate(1)
    with pytest.raises(ValueError, match="no frame"):
        memory.view(address, 1)


def test_what_is_released_stays_usable_and_its_neighbours_stay_as_they_are():
    """Only whole pages are given back; their content is the system's to keep or lose."""
    memory = HostMemory(64 * KIB)
    first, middle, last = memory.allocate(1000), memory.allocate(40 * KIB), memory.allocate(1000)
    for address, n_bytes in ((first, 1000), (middle, 40 * KIB), (last, 1000)):
        memory.view(address, n_bytes)[:] = b"\xee" * n_bytes
    memory.release(middle, 40 * KIB)
    memory.release(middle, 0)
    assert bytes(memory.view(first, 1000)) == bytes(memory.view(last, 1000)) == b"\xee" * 1000
    memory.view(middle, 40 * KIB)[:] = b"\xdd" * 40 * KIB
    assert bytes(memory.view(middle, 40 * KIB)) == b"\xdd" * 40 * KIB

"""Memory: one linear, 64-bit-addressed memory of a fixed size, and frames in it.

Weights, key/value cache and activations of a model lie in one memory, so that its size is the budget that holds. Address 0 is
never given out: in an address table it means "not in memory".
"""

import ctypes
import mmap
import sys
from typing import Any, Protocol, TypeAlias

from wasmrt.errors import BudgetError

ALIGNMENT = 64  # bytes; a cache line, and more than any SIMD load needs


def aligned(n_bytes: int) -> int:
    """The bytes that a frame of n_bytes takes."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


# Shared pages, the default, are held against the machine's memory when they are reserved and not when they are written.
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


class Words(Protocol):
    """64-bit words of a memory, such as an address table."""

    def __getitem__(self, i: int, /) -> int: ...
    def __setitem__(self, i: int, word: int, /) -> None: ...


class Place:
    """Bytes of a memory that Python does not reach: whoever fills or reads them is told where they lie."""

    __slots__ = ("address", "memory", "n_bytes")

    def __init__(self, memory: "Memory", address: int, n_bytes: int) -> None:
        self.memory, self.address, self.n_bytes = memory, address, n_bytes

    def __len__(self) -> int:
        return self.n_bytes

    def __getitem__(self, part: slice) -> "Place":
        start, stop, step = part.indices(self.n_bytes)
        if step != 1:
            raise ValueError("the bytes of a place follow one another")
        return Place(self.memory, self.address + start, max(0, stop - start))

    def __bytes__(self) -> bytes:
        """A copy."""
        return self.memory.read(self.address, self.n_bytes)


Frame: TypeAlias = memoryview | Place  # bytes of a memory, to be filled by a source, or read by what copies them on


def flat(frame: Frame) -> Frame:
    """The same as bytes, whatever the format of a view."""
    return frame if isinstance(frame, Place) else frame.cast("B")


def clear(frame: Frame) -> None:
    """Make all bytes zero."""
    zeros = bytes(len(frame))
    if isinstance(frame, Place):
        frame.memory.write(frame.address, zeros)
    else:
        frame[:] = zeros


class Memory(Protocol):
    """What the store and the devices need of a memory."""

    capacity: int  # bytes that frames may take in all
    used: int

    def allocate(self, n_bytes: int) -> int:
        """The address of a new frame, zeroed and 64-byte aligned. Raises BudgetError beyond the capacity."""

    def place(self, address: int, n_bytes: int) -> Frame:
        """The bytes at an address, without a copy."""

    def words(self, address: int, n: int) -> Words:
        """The n 64-bit words at an address, without a copy."""

    def read(self, address: int, n_bytes: int) -> bytes:
        """A copy of the bytes at an address."""

    def write(self, address: int, data: Any) -> None:
        """Copy bytes (of any object that has them in a row) to an address."""

    def copy(self, source: int, target: int, n_bytes: int) -> None:
        """Copy bytes from one address to another."""

    def release(self, address: int, n_bytes: int) -> None:
        """Nobody needs what lies here any more: the system may take the pages, and gives zeroed ones when they are written."""

    def close(self) -> None:
        """Give everything back; views that are still held keep their own pages alive."""


def release_pages(view: memoryview) -> None:
    """Give the whole pages of a view back to the system, if it is one that can be told; their content is lost."""
    begin = ctypes.addressof(ctypes.c_char.from_buffer(view)) if len(view) else 0
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, (begin + len(view)) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last and sys.platform in ("linux", "darwin"):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        madvise(first, last - first, mmap.MADV_DONTNEED if sys.platform == "linux" else mmap.MADV_FREE)


class Allocating:
    """Frames one behind the other, from `start` on, in a memory of a fixed size."""

    def __init__(self, start: int, capacity: int) -> None:
        self.start, self.capacity, self.used = start, capacity, 0

    def allocate(self, n_bytes: int) -> int:
        """See Memory."""
        size = aligned(n_bytes)
        if self.used + size > self.capacity:
            raise BudgetError(f"{n_bytes} more bytes do not fit: {self.used} of {self.capacity} are taken")
        address = self.start + self.used
        self.used += size
        return address

    def check(self, address: int, n_bytes: int) -> None:
        """ValueError unless these bytes lie in frames."""
        if address < self.start or n_bytes < 0 or address + n_bytes > self.start + self.used:
            raise ValueError(f"no frame at {address} + {n_bytes}")


class Viewed(Allocating):
    """A memory of this process: its bytes are reached through views of them."""

    def view(self, address: int, n_bytes: int) -> memoryview:
        """The bytes at an address, writable, without a copy."""
        raise NotImplementedError

    def place(self, address: int, n_bytes: int) -> Frame:
        return self.view(address, n_bytes)

    def words(self, address: int, n: int) -> Words:
        return self.view(address, 8 * n).cast("Q")

    def read(self, address: int, n_bytes: int) -> bytes:
        return bytes(self.view(address, n_bytes))

    def write(self, address: int, data: Any) -> None:
        flat = memoryview(data).cast("B")
        self.view(address, len(flat))[:] = flat

    def copy(self, source: int, target: int, n_bytes: int) -> None:
        self.view(target, n_bytes)[:] = self.view(source, n_bytes)

    def release(self, address: int, n_bytes: int) -> None:
        release_pages(self.view(address, n_bytes))


class HostMemory(Viewed):
    """Memory in this process, reserved at once; the operating system backs a page when it is first written."""

    def __init__(self, capacity: int) -> None:
        super().__init__(ALIGNMENT, capacity)
        try:
            self._pages: mmap.mmap | None = mmap.mmap(-1, ALIGNMENT + aligned(capacity), **PRIVATE)
        except (OSError, OverflowError, ValueError) as error:
            raise BudgetError(f"the system refuses {capacity} bytes of memory ({error}); choose a smaller budget") from error
        self._bytes = memoryview(self._pages)

    def view(self, address: int, n_bytes: int) -> memoryview:
        self.check(address, n_bytes)
        return self._bytes[address : address + n_bytes]

    def close(self) -> None:
        # numpy arrays over views may outlive us; the pages go with the last of them.
        self._pages = None
        self._bytes = memoryview(b"")
        self.capacity = self.used = 0

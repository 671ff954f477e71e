"""The interface of a device: compile programs, bind a segment's weights and cache, run ops, read the result."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from wasmrt.program.ops import Program
from wasmrt.store.memory import aligned


class Control(IntEnum):
    """The control word, polled between ops: a run goes on, leaves early, or leaves for good."""

    RUN = 0
    CANCEL = 1  # by whoever waits for the run; the next run goes on
    ABORT = 2  # the device is being closed, or one of its threads has failed


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run left off. `missing` names table entries (chosen experts) to bring into memory before it resumes."""

    next_op: int
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """A segment on a device: its program, its address table, where its slots lie, its own cache and state buffers."""

    program: Program
    table: "array[int]"
    slots: tuple[int, ...]
    kv: tuple[Any, ...]
    state: tuple[Any, ...]


class Device(Protocol):
    """One device with one model. Methods that may wait are async; `run` leaves the event loop free and can be cancelled."""

    name: str

    def compile(self, programs: Sequence[Program], max_tokens: int, max_out: int) -> None:
        """Make room for the activations of passes of at most max_tokens tokens, of which max_out want logits."""

    def bind(self, program: Program, table: "array[int]", context: int) -> Bound:
        """A segment ready to run: cache buffers for `context` positions, recurrent state zeroed."""

    def begin(self, ids: Sequence[int], pos: int, n_out: int) -> None:
        """What the next pass is about: token ids, the position of the first, and how many rows of logits are wanted.

        ValueError for more tokens or rows than the device was compiled for.
        """

    async def run(self, bound: Bound, ops: range) -> Stop:
        """Run these ops of a segment. Cancelling the awaiting task sets the control word and waits until the run has left."""

    def clear_state(self, bound: Bound) -> None:
        """Zero a segment's recurrent state: the next pass starts at position 0."""

    def logits(self, head: Bound) -> "memoryview[float]":
        """A copy of the logits of the last pass: format "f", shape (n_out, n_vocab). DeviceError if one is not a number."""

    def candidates(self, head: Bound, k: int, recent: Sequence[int], penalty: float) -> tuple[list[int], list[float]]:
        """The k likeliest tokens after the last row (k = 0: all), best first, ties by id; `recent` ids are penalised first."""

    def close(self) -> None:
        """Stop threads and drop buffers. Idempotent."""


def arena_offsets(program: Program, max_tokens: int, max_out: int) -> tuple[int, ...]:
    """Where each slot of a program begins in the arena, in bytes, and last where the program's part ends.

    Segments run one after another, so all programs share one arena; only slot 0, the residual stream, outlives a segment, and
    it begins at 0 in each of them.
    """
    offsets = [0]
    for slot in program.slots:
        offsets.append(offsets[-1] + aligned(4 * slot.width * (max_tokens if slot.rows == "T" else max_out)))
    return tuple(offsets)

"""The interface of a device: compile programs, bind a segment's weights and cache, run ops, read the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from wasmrt.errors import UnsupportedError
from wasmrt.gguf.types import BY_NAME
from wasmrt.options import SamplerOptions
from wasmrt.program.ops import Program
from wasmrt.store.layers import LayerTable
from wasmrt.store.memory import Frame, Words, aligned
from wasmrt.store.plan import OnGpu

# The formats that every device computes with, by ggml's ids: what one can run, all can.
_NAMES = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
    "MXFP4", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0",
)  # fmt: skip
FORMATS = frozenset(BY_NAME[name].id for name in _NAMES)


@dataclass(frozen=True, slots=True)
class Kept:
    """Slots that keep a row for each of `rows` tokens, so that all chunks of a prompt can go through some ops before the next.

    slots: of each program. A program that is not named keeps none, but slot 0 is kept by all or none, since it is handed on.
    """

    rows: int = 0
    slots: Mapping[Program, frozenset[int]] = field(default_factory=dict)

    def of(self, program: Program) -> frozenset[int]:
        return self.slots.get(program, frozenset())


KEPT_NONE = Kept()


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run left off: before op `next_op` of the segment bounds[segment].

    `missing` names entries of that segment's table (chosen experts) to bring into memory before it resumes.
    """

    segment: int
    next_op: int
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """A segment on a device: its program, its address table, where its slots lie, its own cache and state buffers."""

    program: Program
    table: Words  # 64-bit addresses, for the store to fill; 0: not in memory
    slots: tuple[int, ...]
    kv: tuple[Any, ...]
    state: tuple[Any, ...]
    address: int = 0  # where a device that has the segment in its own memory keeps it
    kept: frozenset[int] = frozenset()  # the slots that keep rows


@dataclass(frozen=True, slots=True)
class Candidates:
    """The tokens likeliest to follow, and what all others weigh together.

    The sums are logarithms so that no logit is too large for them; each is -inf if there are no others.
    """

    ids: Sequence[int]  # best first, ties by the lower id
    logits: Sequence[float]  # float32 numbers, after the penalty
    rest: float  # log of the sum of exp(logit) over the others
    rest_at: float  # log of the sum of exp(logit / temperature) over the others; of no meaning at temperature 0


class Device(Protocol):
    """One device with one model. Methods that may wait are async: they can be cancelled, and closing gives DeviceError.

    `run` leaves the event loop free. What a pass gave can be read until the next `begin`, also after a wait that was cancelled.
    """

    name: str
    batch_invariant: bool  # a token's logits have the same bits, however many others are in its pass

    @property
    def kernel_seconds(self) -> float:
        """Seconds that kernels have computed so far: what is beside them is our own overhead."""

    @property
    def n_threads(self) -> int:
        """How many threads compute."""

    def compile(self, programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE) -> None:
        """Make room for passes of at most max_tokens tokens, of which max_out want logits.

        programs: of all segments, in the order of the pass; equal ones are compiled once.
        """

    def bind(self, program: Program, context: int) -> Bound:
        """A segment ready to run: an empty address table, cache buffers for `context` positions, recurrent state zeroed."""

    def begin(self, ids: Sequence[int], pos: int, n_out: int, row: int = 0) -> None:
        """What the next runs are about: token ids, the position of the first, and how many rows of logits are wanted.

        row: where the tokens' rows begin in slots that are kept. ValueError for more than the device was compiled for.
        """

    async def run(self, bounds: Sequence[Bound], ops: range, partial: bool = False) -> Stop:
        """Run consecutive segments, from op ops.start of the first to before op ops.stop of the last.

        partial: an expert_matmul computes the rows of those experts that are in memory and leaves the others as they are.
        Cancelling the awaiting task sets the control word and waits until the run has left.
        """

    def chosen(self, bound: Bound, route: int) -> set[int]:
        """The experts that op number `route` of a segment chose for the tokens of the last begin()."""

    def clear_state(self, bound: Bound) -> None:
        """Zero a segment's recurrent state: the next pass starts at position 0."""

    async def logits(self, head: Bound) -> "memoryview[float]":
        """A copy of the logits of the last pass: format "f", shape (n_out, n_vocab). DeviceError if one is not a number."""

    async def candidates(
        self, head: Bound, k: int, recent: Sequence[int], penalty: float, temperature: float, row: int = -1
    ) -> Candidates:
        """The k >= 1 likeliest tokens after a row, all if there are fewer; `recent` ids are penalised first.

        row: which of the last pass's n_out rows, counted as Python counts. May be asked again about the same row, in any order.
        DeviceError if a logit of the row is not a number, IndexError for a row that there is not.
        """

    def close(self) -> None:
        """Stop threads and drop buffers. Idempotent."""


@runtime_checkable
class Chaining(Protocol):
    """A device on which passes of one token follow one another without the host: each chooses the token of the next."""

    def chains(self, options: SamplerOptions) -> bool:
        """Whether tokens can be chosen there by these options, for a model that is bound and loaded by now."""

    async def chain(
        self, bounds: Sequence[Bound], token: int, pos: int, n: int, options: SamplerOptions, uniforms: Sequence[float]
    ) -> Sequence[int]:
        """Run at most n passes, the first of `token` at `pos`; returns the tokens that they chose, as sampling.sample would.

        uniforms: a number in [0, 1) for each pass, unless the temperature is 0. The tokens are fewer than n, maybe none, where
        one can't be chosen there: a pass of its own then meets the same logits.
        """


@runtime_checkable
class Following(Protocol):
    """A device that can be asked how far a run is."""

    def segment(self) -> int:
        """Which of the segments of the run that is under way computes now; of the last one, where it ended."""


@runtime_checkable
class Uploading(Protocol):
    """A device with memory of its own, where weights may stay."""

    def settle(self, table: LayerTable, homes: Sequence[OnGpu]) -> None:
        """Make room for the weights that stay there, and a ring for the others; all segments of the table are bound by now."""

    def upload(self, places: Sequence[tuple[int, int]], data: Frame) -> None:
        """A weight that stays has come, for these entries (segment, entry); `data` may be reused at once."""

    async def uploaded(self, everything: bool) -> None:
        """Wait until what was uploaded is there: all of it, or so that not too much is on its way. DeviceError if it failed."""


def out_row(row: int, n_out: int) -> int:
    """Where a row counted as Python counts lies among n_out. IndexError for one that there is not."""
    if not -n_out <= row < n_out:
        raise IndexError(f"row {row} of logits: the last pass gave {n_out}")
    return row % n_out


def check_formats(programs: Sequence[Program]) -> None:
    """UnsupportedError for a weight in a format that no device computes with."""
    for weight in (w for program in programs for w in program.weights if w.type.id not in FORMATS):
        what = f"tensor {weight.name!r} is in format {weight.type.name}, which is not supported"
        raise UnsupportedError(f"{what}; supported: {', '.join(_NAMES)}")


def arena_offsets(program: Program, max_tokens: int, max_out: int, kept: Kept = KEPT_NONE) -> tuple[int, ...]:
    """Where each slot of a program begins in the arena, in bytes, and last where the program's part ends.

    Segments run one after another, so all programs share one arena; only slot 0, the residual stream, outlives a segment, and
    it begins at 0 in each of them.
    """
    offsets = [0]
    for i, slot in enumerate(program.slots):
        rows = max_out if slot.rows == "out" else max(kept.rows, max_tokens) if i in kept.of(program) else max_tokens
        offsets.append(offsets[-1] + aligned(4 * slot.width * rows))
    return tuple(offsets)


def check_rows(row: int, n_tokens: int, kept: Kept) -> None:
    """ValueError if the rows of a pass do not lie in what kept slots hold."""
    if row and not 0 <= row <= kept.rows - n_tokens:
        raise ValueError(f"{n_tokens} tokens at row {row}: {kept.rows} rows are kept")

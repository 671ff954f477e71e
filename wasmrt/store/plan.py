"""The plan: what lies where, and what it costs, decided from the header alone before a weight is read.

A pure function of sizes and budget. Today every tensor's home is the memory: what does not fit is refused with the numbers.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from wasmrt.errors import BudgetError
from wasmrt.store.layers import LayerTable
from wasmrt.store.memory import aligned

DEFAULT_CONTEXT = 4096
SMALLEST_CONTEXT = 64  # what an automatic context is never lowered below


@dataclass(frozen=True, slots=True)
class Plan:
    """The ledger of a loaded model, in bytes. Its lines add up to what the memory holds."""

    context: int  # positions of the key/value cache
    weight_bytes: int
    kv_bytes: int
    state_bytes: int
    activation_bytes: int
    budget: int
    resident_bytes: int  # of the weights
    streamed_bytes: int  # of the weights, a pass
    touched_bytes: int  # weights that a pass reads from memory, at most: all experts are counted
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.state_bytes + self.activation_bytes

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes), "total_bytes": self.total_bytes}


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model needs besides its weights: bytes of cache a position, of recurrent state, of activations."""

    kv_frames: tuple[int, ...]  # bytes a position of every key and value buffer
    state_frames: tuple[int, ...]
    activation_frames: tuple[int, ...]
    context_step: int = 1  # positions that a cache comes in

    def kv_bytes(self, context: int) -> int:
        positions = -(-context // self.context_step) * self.context_step
        return sum(aligned(frame * positions) for frame in self.kv_frames)


def make_plan(table: LayerTable, sizes: Sizes, budget: int, context: int | None, n_ctx_train: int) -> Plan:
    """Everything resident, or BudgetError with the smallest budget that would do.

    context None: the model's own, at most 4096, lowered to what the budget holds.
    """
    weights = sum(aligned(entry.n_bytes) for entry in table.ranges())
    state = sum(map(aligned, sizes.state_frames))
    activations = sum(map(aligned, sizes.activation_frames))
    fixed = weights + state + activations
    notes: list[str] = []
    chosen = min(n_ctx_train, DEFAULT_CONTEXT) if context is None else context
    if context is None:
        wanted, least = chosen, min(chosen, SMALLEST_CONTEXT)
        while chosen > least and fixed + sizes.kv_bytes(chosen) > budget:
            chosen = max(least, chosen * 7 // 8)
        if chosen < wanted:
            notes.append(f"the context is {chosen} positions, not {wanted}: more do not fit a memory budget of {budget} bytes")
    kv = sizes.kv_bytes(chosen)
    if fixed + kv > budget:
        raise BudgetError(
            f"a memory budget of {budget} bytes is too small: with a context of {chosen} this model needs {_mib(fixed + kv)} "
            f"({_mib(weights)} weights, {_mib(kv)} key/value cache, {_mib(state + activations)} activations); "
            "raise --memory or lower --context"
        )
    return Plan(chosen, weights, kv, state, activations, budget, weights, 0, table.touched_bytes, tuple(notes))


def _mib(n_bytes: int) -> str:
    """Rounded up, so that the budget which a message asks for is enough."""
    return f"{math.ceil(10 * n_bytes / 2**20) / 10:.1f} MiB"

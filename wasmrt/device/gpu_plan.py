"""What of a model stays on a GPU, and what all of it takes there: exact, since it is counted on a device without a GPU.

A GpuDevice on a CountingHost does all that one on a GPU does but compute: the bytes that its buffers take are the ledger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wasmrt.device.device import Kept
from wasmrt.device.gpu import GpuDevice
from wasmrt.device.gpu_host import Adapter, Binding, Dispatch, Range, Use
from wasmrt.device.gpu_ring import most_slots
from wasmrt.errors import BudgetError
from wasmrt.program.ops import Program
from wasmrt.store.layers import Kind, LayerTable
from wasmrt.store.plan import GpuLedger, OnGpu, mib
from wasmrt.store.policy import fill, spread

LEAST_SLOTS = 2  # of the ring
RING_PARAMS_BYTES = 1 << 20  # of kernels' params, which differ by where in the ring weights are


@dataclass(frozen=True, slots=True)
class Counted:
    """A buffer that is none."""

    size: int


class CountingHost:
    """A GpuHost that counts."""

    directives = False

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.limits, self.features = adapter, adapter.limits, adapter.features
        self.allocated = self.high_water = 0

    def buffer(self, n_bytes: int, use: Use = Use.STORAGE) -> Counted:
        size = -(-max(4, n_bytes) // 4) * 4
        self.allocated += size
        self.high_water = max(self.high_water, self.allocated)
        return Counted(size)

    def free(self, buffer: Counted) -> None:
        self.allocated -= buffer.size

    def pipeline(self, name: str, code: str, bindings: Sequence[Binding], constants: Mapping[str, float]) -> None: ...
    def group(self, bindings: Sequence[Binding], ranges: Sequence[Range]) -> None: ...
    def write(self, buffer: Any, offset: int, data: Any) -> None: ...
    def submit(self, steps: Sequence[Dispatch], copies: Sequence[tuple[Any, int, Any, int, int]] = ()) -> None: ...
    def close(self) -> None: ...

    async def fetch(self, staging: Any, n_bytes: int) -> memoryview:
        raise NotImplementedError("nothing is computed here")

    async def read(self, buffer: Any, offset: int, n_bytes: int) -> memoryview:
        raise NotImplementedError("nothing is computed here")

    async def done(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Model:
    """What a plan is about."""

    programs: Sequence[Program]
    table: LayerTable
    max_tokens: int
    max_out: int
    kept: Kept
    adapter: Adapter
    f16_cache: bool


def counted(model: Model, context: int, resident: frozenset[int]) -> tuple[GpuDevice, GpuLedger]:
    """A device without a GPU, with these extents in place, and its ledger so far; without a ring."""
    host = CountingHost(model.adapter)
    device = GpuDevice(host, None, model.f16_cache)
    device.compile(model.programs, model.max_tokens, model.max_out, model.kept)
    before = host.allocated
    bounds = [device.bind(program, context) for program in model.programs]
    kv = sum(n_bytes for bound in bounds for _, _, n_bytes in bound.kv)
    state = host.allocated - before - kv
    device.place(model.table, resident)
    weights = device.bytes_of(sorted(resident))
    device.prepare()
    # Of scratch that had to grow, only the last is made where the sizes are known.
    scratch = sum(map(aligned4, device.scratch_sizes.values()))
    device.reserve()
    others = host.allocated - weights - kv - state - device.scratch_made + scratch
    return device, GpuLedger(0, weights, kv, state, others, 0)


def aligned4(n_bytes: int) -> int:
    return -(-max(4, n_bytes) // 4) * 4


def units(model: Model, device: GpuDevice) -> list[tuple[int, ...]]:
    """The extents that stay or go together: what an op needs as one."""
    parent = list(range(len(model.table.extents)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for extents in device.joined_extents():
        for other in extents[1:]:
            a, b = root(extents[0]), root(other)
            parent[max(a, b)] = min(a, b)
    found: dict[int, list[int]] = {}
    for i in range(len(parent)):
        found.setdefault(root(i), []).append(i)
    return [tuple(found[i]) for i in sorted(found)]


def everything(model: Model, context: int) -> tuple[GpuDevice, GpuLedger]:
    """What all of it takes."""
    return counted(model, context, frozenset(range(len(model.table.extents))))


def kv_bytes(model: Model, context: int) -> int:
    return counted(model, context, frozenset())[1].kv_bytes


def plan_gpu(model: Model, context: int, budget: int | None, never: frozenset[int] = frozenset()) -> OnGpu:
    """What stays on the GPU. BudgetError if not even what must be there fits.

    budget None: no limit is known, everything stays. never: extents that do not, as another GPU has no room for them.
    """
    extents = model.table.extents
    device, ledger = everything(model, context)
    if budget is None or (not never and ledger.total_bytes <= budget):
        return OnGpu(frozenset(range(len(extents))), ledger.within(budget, 0), 0, device.scratch_sizes)
    # What passes through the ring needs it as large as the largest of all; kernels are the same wherever weights lie.
    empty, _ = counted(model, context, frozenset())
    largest = empty.largest_load()
    slots, slot_bytes = most_slots(largest), sum(map(aligned4, largest))
    fixed = ledger.total_bytes - ledger.weight_bytes + RING_PARAMS_BYTES
    while slots > LEAST_SLOTS and fixed + slots * slot_bytes > budget:
        slots -= 1
    room = budget - fixed - slots * slot_bytes
    if room < 0:
        least = fixed + LEAST_SLOTS * slot_bytes
        raise BudgetError(
            f"a GPU memory budget of {budget} bytes is too small: with a context of {context} this model needs "
            f"{mib(least)} ({mib(ledger.kv_bytes)} key/value cache), and {mib(ledger.total_bytes)} to keep all of it there; "
            f"raise --gpu-memory, lower --context, or use --device cpu",
            least,
            "gpu_memory",
        )
    together = units(model, device)
    sizes = [device.bytes_of(unit) for unit in together]
    rows = [i for i, unit in enumerate(together) if any(extents[e].kind is Kind.ROWS for e in unit)]
    may = [i for i, unit in enumerate(together) if never.isdisjoint(unit)]
    order, rows = [i for i in may if i not in set(rows)], [i for i in may if i in set(rows)]
    chosen = fill([order[i] for i in spread([sizes[i] for i in order])] + rows, sizes, room)
    resident = frozenset(e for i in chosen for e in together[i])
    weights = sum(sizes[i] for i in chosen)
    streaming = replace(ledger, weight_bytes=weights, activation_bytes=ledger.activation_bytes + RING_PARAMS_BYTES)
    return OnGpu(resident, streaming.within(budget, slots * slot_bytes), slots, device.scratch_sizes)

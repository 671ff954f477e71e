"""What tests of programs and devices share: tensors, programs of one op, and a rig that runs programs on a device.

    got = run_op(REFERENCE, "rms_norm", x, w, eps=1e-6)      # records a one-op program, runs it, reads the result: f32 (T, n)

Nothing here looks inside a device: inputs enter by `embed` (a table with a row for each token), results leave by Device.logits.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from tests.test_quants import F16_FIELDS
from wasmrt.device.choice import Choice, choose
from wasmrt.device.device import Bound, Candidates, Stop
from wasmrt.gguf.types import BY_NAME, QuantType
from wasmrt.options import EngineOptions
from wasmrt.program.ops import KERNELS, Operand, Program, Weight
from wasmrt.program.record import CHUNK_BYTES, Recorder
from wasmrt.store.memory import aligned

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Kind:
    """A device under test: as what open() is asked for, with this many threads."""

    device: str
    threads: int | None = None
    kv_type: str | None = None

    @property
    def name(self) -> str:
        return f"{self.device}-{self.threads}" if self.threads else self.device

    def choose(self) -> Choice:
        return choose(EngineOptions(device=self.device, threads=self.threads, kv_type=self.kv_type))


REFERENCE = Kind("reference")
CPU = Kind("cpu:wasm32", 3)
PLAIN = Kind("cpu:plain")
GPU = Kind("gpu")

# Tests of what every device promises run once for each of these.
KINDS = (REFERENCE, CPU, PLAIN, GPU)


# Tensors


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it lies in a file. shape: row length, rows, experts."""

    type: QuantType
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> F64:
        """Its weights by the published gguf package, in numpy's order of axes: (experts, rows, row length)."""
        rows = np.frombuffer(self.data, np.uint8).reshape(-1, self.type.row_bytes(self.shape[0]))
        with np.errstate(all="ignore"):
            values: F64 = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(self.type.id)).astype(np.float64)
        return values.reshape(self.shape[::-1])


def tensor(values: npt.ArrayLike) -> Tensor:
    """An F32 tensor of these values, given in numpy's order of axes."""
    data = np.asarray(values, np.float32)
    return Tensor(BY_NAME["F32"], data.shape[::-1], data.tobytes())


def random_tensor(seed: int, type_name: str, *shape: int) -> Tensor:
    """Random weights of any format, most of them between -5 and 5. shape: as in a file, row length first."""
    rng, quant = np.random.default_rng(seed), BY_NAME[type_name]
    if quant.block == 1:
        values = rng.standard_normal(shape[::-1]).astype(np.float32)
        bfloat = (values.view(np.uint32) >> 16).astype(np.uint16)
        data = {"F32": values.tobytes(), "F16": values.astype(np.float16).tobytes(), "BF16": bfloat.tobytes()}
        return Tensor(quant, shape, data[type_name])
    n_blocks = int(np.prod(shape)) // quant.block
    blocks = rng.integers(0, 256, (n_blocks, quant.block_bytes), dtype=np.uint8)
    # Random bits would make some scales inf or NaN.
    d = rng.uniform(0.001, 0.02, (n_blocks, 1)).astype("<f2")
    for at in F16_FIELDS[type_name]:
        blocks[:, at : at + 2] = d.view(np.uint8)
    set_scales(type_name, blocks, d[:, 0].view("<u2"), rng)
    return Tensor(quant, shape, blocks.tobytes())


def set_scales(type_name: str, blocks: npt.NDArray[np.uint8], d: npt.NDArray[Any], rng: np.random.Generator) -> None:
    """The scales of formats where they are no f16 in one piece: of IQ1_M in four nibbles, of MXFP4 an exponent."""
    if type_name == "IQ1_M":
        for i in range(4):
            blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | (d >> (4 * i) & 15) << 4
    if type_name == "MXFP4":
        blocks[:, 0] = rng.integers(118, 128, len(blocks))


def normal(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> F32:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def nmse(got: npt.ArrayLike, want: npt.ArrayLike, size: npt.ArrayLike | None = None) -> float:
    """The squared error over the squared size of what is wanted, in float64.

    size: where `want` are sums whose terms may cancel, the root of the sum of squared terms, which rounding errors go with.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    error, norm = np.sum((got - want) ** 2), np.sum(np.asarray(want if size is None else size, np.float64) ** 2)
    return float(error / norm) if norm else float(error > 0)


# Programs


def record(
    page: Callable[..., Operand], tensors: Mapping[str, Tensor], width: int | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Program:
    """The program of page(t, w), or with a width of page(t, w, x) on a residual stream; w.name is the tensor of that name."""
    t = Recorder(page.__name__, chunk_bytes)
    w = SimpleNamespace(**{name: t.weight(name, x.type, x.shape) for name, x in tensors.items()})
    return t.finish(page(t, w) if width is None else page(t, w, t.residual(width)))


def pieces(weight: Weight, data: bytes) -> list[bytes]:
    """A tensor's bytes, cut as its entries in the address table are."""
    size = weight.rows_per_entry * weight.type.row_bytes(weight.shape[0])
    cut = [data[i : i + size] for i in range(0, len(data), size)]
    assert len(cut) == weight.n_entries
    return cut


class Rig:
    """Segments on a device of their own with their weights in its memory: an engine without a file. A context manager.

    segments: programs with their tensors. A pass has at most max_tokens tokens; the cache has `context` positions. `spare`
    bytes of the memory are left for the test.
    """

    def __init__(
        self, kind: Kind, *segments: tuple[Program, Mapping[str, Tensor]], max_tokens: int = 8, context: int = 8, spare: int = 0
    ) -> None:
        programs = [program for program, _ in segments]
        choice = kind.choose()
        sizes = choice.sizes(programs, max_tokens, max_tokens)
        n_bytes = sizes.kv_bytes(context) + sum(map(aligned, sizes.state_frames + sizes.activation_frames)) + spare
        for program, tensors in segments:
            n_bytes += sum(aligned(len(piece)) for w in program.weights for piece in pieces(w, tensors[w.name].data))
        self.memory, self.device = choice.make(programs, n_bytes)
        self.device.compile(programs, max_tokens, max_tokens)
        self.bounds: list[Bound] = []
        for program, tensors in segments:
            self.bounds.append(self.device.bind(program, context))
            table = self.bounds[-1].table
            for weight in program.weights:
                for i, piece in enumerate(pieces(weight, tensors[weight.name].data), weight.first):
                    table[i] = self.memory.allocate(len(piece))
                    self.memory.write(table[i], piece)

    async def read(self) -> F32:
        """What the last segment gave in the last pass: f32 (n_out, width)."""
        return np.asarray(await self.device.logits(self.bounds[-1]))

    def result(self) -> F32:
        return asyncio.run(self.read())

    def candidates(self, k: int, recent: Sequence[int], penalty: float, temperature: float, row: int = -1) -> Candidates:
        """The tokens likeliest to follow a row of the last pass."""
        return asyncio.run(self.device.candidates(self.bounds[-1], k, recent, penalty, temperature, row))

    async def step(self, ids: Sequence[int], pos: int = 0, n_out: int | None = None) -> F32:
        """One pass through all segments; logits of the last n_out rows (None: of all)."""
        self.device.begin(ids, pos, len(ids) if n_out is None else n_out)
        end = len(self.bounds[-1].program.ops)
        assert await self.device.run(self.bounds, range(end)) == Stop(len(self.bounds) - 1, end)
        return await self.read()

    def run(self, ids: Sequence[int], pos: int = 0, n_out: int | None = None) -> F32:
        return asyncio.run(self.step(ids, pos, n_out))

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close()
        self.bounds.clear()
        self.memory.close()


def run_op(
    kind: Kind, kernel: str, *ins: Any, pos: int = 0, chunk_bytes: int = CHUNK_BYTES, rig: type[Rig] = Rig, **params: Any
) -> F32:
    """Run a program of one op and read its result: f32 (T, width). Of `route` that is the weights; run_route gives both.

    rig: what runs it. params: as the recorder takes them. ins: in the order of the op's table row, without pos:
        None, or left out at the end             an operand that is absent
        a Tensor, or an array as w or factors    a weight
        any other array, (T, n)                  a value with these rows
        tokens, n_out                            a list of ids, a number
        experts, i32 (T, n_used)                 chosen by a router that is made to
        keys, values, (pos + T, n)               the first `pos` rows are stored by passes before this one
    """
    roles = [role.rstrip("?") for role in KERNELS[kernel].ins if role != "pos"]
    given = {role: x for role, x in zip(roles, ins + (None,) * (len(roles) - len(ins)), strict=True) if x is not None}
    past = pos if "keys" in given else 0
    tensors: dict[str, Tensor] = {}
    rows: list[str] = []  # the roles that `embed` serves: row past + t of the table is token t's
    n_tokens = len(given.get("tokens", ()))
    for role, x in given.items():
        if isinstance(x, Tensor):
            tensors[role] = x
        elif role in ("w", "factors", "keys", "values"):
            tensors[role] = tensor(x)
        elif role not in ("tokens", "n_out"):
            rows.append(role)
            n_tokens = len(x)
            table = router_for(x, tensors["w"].shape[-1]) if role == "experts" else x
            tensors[role] = tensor(np.concatenate([np.zeros((past, table.shape[1])), table]))

    def page(t: Recorder, w: SimpleNamespace) -> Operand:
        named = {role: getattr(w, role) for role in tensors if role not in ("keys", "values")}
        operands = named | {role: t.embed(named[role]) for role in rows}
        if "experts" in given:
            operands["experts"], _ = t.route(operands["experts"], given["experts"].shape[1])
        if "keys" in given:
            t.store_kv(t.embed(w.keys), t.embed(w.values))
        absent = {role.rstrip("?"): None for role in KERNELS[kernel].ins if role.endswith("?")}
        made = getattr(t, kernel)(**absent | operands, **params)
        result: Operand = made[1] if kernel == "route" else made
        return result if result.rows == "out" else t.last_rows(result)

    program = record(page, tensors, chunk_bytes=chunk_bytes)
    with rig(kind, (program, tensors), max_tokens=max(n_tokens, min(past, 64)), context=past + n_tokens) as runner:
        for start in range(0, past, 64):
            stored = 1 + next(i for i, op in enumerate(program.ops) if op.kernel == "store_kv")
            runner.device.begin(range(start, min(start + 64, past)), start, 0)
            asyncio.run(runner.device.run(runner.bounds[:1], range(stored)))
        return runner.run(given.get("tokens", range(past, past + n_tokens)), pos, given.get("n_out", n_tokens))


def run_route(
    kind: Kind, logits: F32, n_used: int, bias: Tensor | None = None, rig: type[Rig] = Rig, **params: Any
) -> tuple[I32, F32]:
    """What `route` chooses: the experts, i32 (T, n_used), and their weights."""
    n_tokens, n_experts = logits.shape
    tensors = {"logits": tensor(logits), "ones": tensor(np.ones((n_tokens, n_used))), "ids": tensor(np.arange(n_experts))}
    tensors |= {"bias": bias} if bias else {}

    def experts(t: Recorder, w: SimpleNamespace) -> Operand:
        given = t.embed(w.logits), n_used, w.bias if bias else None
        return t.last_rows(t.expert_mul(t.embed(w.ones), w.ids, t.route(*given, **params)[0]))

    with rig(kind, (record(experts, tensors), tensors), max_tokens=n_tokens) as runner:
        chosen = runner.run(range(n_tokens)).astype(np.int32)
    return chosen, run_op(kind, "route", logits, bias, rig=rig, n_used=n_used, **params)


def router_for(experts: I32, n_experts: int) -> F32:
    """Logits by which `route` chooses these experts in this order."""
    logits = np.full((len(experts), n_experts), -9, np.float32)
    np.put_along_axis(logits, experts.astype(np.int64), np.arange(experts.shape[1], 0, -1, dtype=np.float32)[None], axis=1)
    return logits

"""The canary: whether a GPU computes what it should, by small programs of a model's ops and formats, before its first token.

What is right was recorded from the reference device (canary_truth.py), so that nothing else must be there to compare with. Each
op goes through the kernels for many tokens and for few; weights are laid out, bound and chosen from as a model's are.
"""

import base64
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import mul

from wasmrt.device.canary_truth import TRUTH
from wasmrt.device.device import FORMATS, Bound, Device
from wasmrt.device.gpu import NOT_NUMBERS, GpuDevice
from wasmrt.device.gpu_host import Adapter, GpuHost
from wasmrt.errors import DeviceError, WasmrtError
from wasmrt.gguf.types import BY_NAME, TYPES, QuantType
from wasmrt.options import SamplerOptions
from wasmrt.program.fuse import fuse
from wasmrt.program.ops import FUNCTIONS, KERNELS, Op, Operand, Program, Space
from wasmrt.program.record import Recorder, Rope
from wasmrt.store.layers import Entry, LayerTable, Segment
from wasmrt.store.memory import HostMemory, Memory

# NMSE from the truth. Worst seen on a software adapter: 3e-13, with a cache in f16 6e-7; with activations rounded to 8 bits it
# is 5e-5. Drivers may round otherwise, as WGSL lets them. A kernel that goes wrong is mostly off by 1.
BOUND = 1e-3

PASSES = (40, 5, 1)  # tokens of each: for all of them there are kernels of their own
ROWS = sum(PASSES)  # of each table of values: a token each
N = 256  # elements of a row: a superblock
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32
N_VOCAB = 1100  # more than there are workgroups that look for the likeliest
EXPERTS, USED = 4, 2
CONTEXT = ROWS + 64
SUMS = 6  # of each pass, that are compared
F32 = BY_NAME["F32"]
FUSED = BY_NAME["Q8_0"]  # of the matrices of fused ops
# Of each format, where in a block its scales in f16 are: of random bytes some would be no numbers. Not here: at 0.
SCALES = {
    "Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "TQ1_0": (52,), "TQ2_0": (64,), "IQ1_M": (), "MXFP4": (),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it lies in a file, of random weights."""

    type: QuantType
    shape: tuple[int, ...]
    seed: int
    middle: float = 0.0  # of F32, which is up to 1 from it

    def data(self) -> bytes:
        rng, n = random.Random(self.seed), 1
        for length in self.shape:
            n *= length
        if self.type.name == "F32":
            number = rng.random  # Random.uniform would take twice as long
            return array("f", [2 * number() - 1 + self.middle for _ in range(n)]).tobytes()
        if self.type.name == "BF16":  # the upper halves of f32
            return b"".join(array("f", [rng.uniform(-1, 1)]).tobytes()[2:] for _ in range(n))
        if self.type.name == "F16":
            return b"".join(_f16(rng, rng.choice((0, 32)) + rng.randrange(10, 15)) for _ in range(n))
        data = bytearray(rng.randbytes(n // self.type.block * self.type.block_bytes))
        for block in range(0, len(data), self.type.block_bytes):
            for at in SCALES.get(self.type.name, (0,)):  # 0.004 to 0.03
                data[block + at : block + at + 2] = _f16(rng, rng.randrange(7, 10))
            if self.type.name == "MXFP4":
                data[block] = rng.randrange(119, 122)  # 2^-9 to 2^-7
            if self.type.name == "IQ1_M":  # a nibble in each of its last four words
                d = int.from_bytes(_f16(rng, rng.randrange(7, 10)), "little")
                for i in range(4):
                    data[block + 49 + 2 * i] = data[block + 49 + 2 * i] & 15 | (d >> 4 * i & 15) << 4
        return bytes(data)


def _f16(rng: random.Random, exponent: int) -> bytes:
    """A number with these upper 6 bits, sign and exponent: 15 is 1 to 2."""
    return (exponent << 10 | rng.getrandbits(10)).to_bytes(2, "little")


Page = Callable[[Recorder, Mapping[str, Operand]], Operand]


@dataclass(frozen=True, slots=True)
class Case:
    """Some ops on some weights, and what is said to be wrong if their result is."""

    name: str
    page: Page
    tensors: Mapping[str, Tensor]

    def program(self) -> Program:
        t = Recorder(self.name)
        result = self.page(t, {name: t.weight(name, w.type, w.shape) for name, w in self.tensors.items()})
        return t.finish(result if result.rows == "out" else t.last_rows(result))

    def truth(self) -> Sequence[float]:
        """The digest of what is right."""
        return array("f", base64.b85decode(TRUTH[self.name]))  # (passes, SUMS)


def _values(n: int, seed: int) -> Tensor:
    return Tensor(F32, (n, ROWS), seed)


def _matrix(format: QuantType, n_rows: int, seed: int) -> Tensor:
    return Tensor(format, (N, n_rows), seed)


def _rope(style: str) -> Rope:
    return Rope(HEAD_DIM, HEAD_DIM, style=style)


def _by_format(kind: str, format: QuantType) -> Case:
    """kind: "embed", "matmul" or "expert_matmul"."""
    name = f"{kind} {format.name}"
    if kind == "embed":
        return Case(name, lambda t, w: t.embed(w["w"]), {"w": _matrix(format, ROWS, 1)})
    if kind == "matmul":
        return Case(name, lambda t, w: t.matmul(w["w"], t.embed(w["x"])), {"x": _values(N, 2), "w": _matrix(format, 24, 3)})

    def experts(t: Recorder, w: Mapping[str, Operand]) -> Operand:
        chosen, weights = t.route(t.embed(w["logits"]), USED)
        return t.expert_sum(t.expert_matmul(w["w"], t.embed(w["x"]), chosen), weights)

    some = {"x": _values(N, 4), "logits": _values(EXPERTS, 5), "w": Tensor(format, (N, 16, EXPERTS), 6)}
    return Case(name, experts, some)


def _attention(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    q, k, v = (t.embed(w[name]) for name in "qkv")
    t.store_kv(k, v)
    return t.attention(q, HEADS, KV_HEADS, 1.0)


def _rope_kv(style: str) -> Page:
    def page(t: Recorder, w: Mapping[str, Operand]) -> Operand:
        q, k, v = (t.embed(w[name]) for name in "qkv")
        q = t.rope(q, _rope(style))
        t.store_kv(t.rope(k, _rope(style)), v)
        return t.attention(q, HEADS, KV_HEADS, 1.0)

    return page


def _qkv(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    h = t.rms_norm(t.embed(w["x"]), w["norm"], 0.1)
    q, k, v = (t.matmul(w[name], h) for name in "qkv")
    return t.mul(t.mul(q, k), v)


def _gate_up(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    h = t.rms_norm(t.embed(w["x"]), w["norm"], 0.1)
    return t.swiglu(t.matmul(w["gate"], h), t.matmul(w["up"], h))


def _expert_mul(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    chosen, _ = t.route(t.embed(w["logits"]), USED)
    return t.expert_mul(t.embed(w["x"]), w["w"], chosen)


def _layer_norm(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    return t.layer_norm(t.embed(w["x"]), w["norm"], 0.1, w["b"])


def _norms_of_groups(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    h = t.rms_norm(t.rms_norm(t.embed(w["x"]), w["of_group"], 0.1, 64), w["norm"], 0.1, 32)
    return t.layer_norm(t.layer_norm(h, w["norm"], 0.1, w["b"], 64), None, 0.1)


def _unary(function: str) -> Page:
    numbers = {"scale": (1.5,), "softcap": (0.5,), "clamp": (-0.3, 0.6), "xielu": (0.8, 0.7, 0.5, -1e-6)}
    return lambda t, w: t.unary(t.unary(t.embed(w["x"]), "scale", 3.0), function, *numbers.get(function, ()))


def _geglu_up(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    h = t.embed(w["x"])
    return t.geglu(t.matmul(w["gate"], h), t.matmul(w["up"], h))


def _some_keys(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    q, k, v = (t.embed(w[name]) for name in "qkv")
    t.store_kv(k, v)
    of_window = t.attention(q, HEADS, KV_HEADS, 1.0, w["sinks"], window=7, softcap=2.0)
    return t.add(of_window, t.attention(q, HEADS, KV_HEADS, 1.0, window=16, chunked=True, max_bias=8.0))


def _large_heads(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    q, k, v = (t.embed(w[name]) for name in "qkv")
    t.store_kv(k, v)
    return t.attention(q, 3, 1, 0.2)


def _routes(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    logits, x = t.embed(w["logits"]), t.embed(w["x"])
    e, of_sigmoid = t.route(logits, 3, w["bias"], "sigmoid", scale=2.5, n_groups=4, n_groups_used=2)
    some = t.expert_mul(x, w["w"], e)
    _, of_chosen = t.route(logits, 3, w["bias"], "chosen")
    e, of_softmax = t.route(logits, 3, None, "softmax", normalize=False)
    return t.concat(t.add(t.expert_mul(x, w["w"], e), some), t.add(t.add(of_sigmoid, of_chosen), of_softmax))


def _experts(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    chosen, weights = t.route(t.embed(w["logits"]), USED)
    return t.expert_sum(t.expert_add(t.expert_spread(t.embed(w["x"]), weights), w["b"], chosen), None, USED)


def _ssm_scan(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    x, dt, b, c = (t.embed(w[name]) for name in ("x", "dt", "b", "c"))
    return t.add(t.ssm_scan(x, dt, b, c, w["each"], 2, w["d"]), t.ssm_scan(x, dt, b, c, w["one"], 2))


def _delta_net(t: Recorder, w: Mapping[str, Operand]) -> Operand:
    q, k, v, g, beta = (t.embed(w[name]) for name in ("q", "k", "v", "g", "beta"))
    k = t.scale(t.rms_norm(k, None, 1e-6, HEAD_DIM), HEAD_DIM**-0.5)
    g, beta = t.scale(t.unary(g, "sigmoid"), -1.0), t.unary(beta, "sigmoid")
    return t.delta_net(q, k, v, g, beta, KV_HEADS, 1.0, tiled=False)


_X, _Y, _NORM, _VECTOR = _values(N, 7), _values(N, 8), Tensor(F32, (N,), 9), Tensor(F32, (N,), 10)
_HEADS = {"q": _values(HEADS * HEAD_DIM, 11), "k": _values(KV_HEADS * HEAD_DIM, 12), "v": _values(KV_HEADS * HEAD_DIM, 13)}
_NORMED = {"x": _X, "norm": _NORM}
_EXPERTS = {"logits": _values(EXPERTS, 14), "x": _values(USED, 15), "w": Tensor(F32, (EXPERTS,), 16)}

_GATES = {"x": _X, "gate": _matrix(FUSED, 24, 21), "up": _matrix(FUSED, 24, 22)}
_SSM = {
    "x": _values(HEADS * 8, 25), "dt": _values(HEADS, 26), "b": _values(2 * 20, 27), "c": _values(2 * 20, 28),
    "each": Tensor(F32, (20, HEADS), 29, -1.5), "one": Tensor(F32, (1, HEADS), 30, -1.5), "d": Tensor(F32, (HEADS,), 31),
}  # fmt: skip
_DELTA = {
    "q": _values(KV_HEADS * HEAD_DIM, 32), "k": _values(KV_HEADS * HEAD_DIM, 33), "v": _values(HEADS * 24, 34),
    "g": _values(HEADS, 35), "beta": _values(HEADS, 36),
}  # fmt: skip

BY_FORMAT = ("embed", "matmul", "expert_matmul")
# Each before what builds on it.
CASES = {
    case.name: case
    for case in (
        *(_by_format(kind, type) for kind in BY_FORMAT for type in TYPES.values() if type.id in FORMATS),
        Case("rms_norm", lambda t, w: t.rms_norm(t.embed(w["x"]), w["norm"], 0.1), _NORMED),
        Case("layer_norm", _layer_norm, {**_NORMED, "b": _VECTOR}),
        Case("softmax", lambda t, w: t.softmax(t.embed(w["x"])), {"x": _X}),
        Case("add", lambda t, w: t.add(t.embed(w["x"]), t.embed(w["y"])), {"x": _X, "y": _Y}),
        Case("mul", lambda t, w: t.mul(t.embed(w["x"]), t.embed(w["y"])), {"x": _X, "y": _Y}),
        Case("div", lambda t, w: t.div(t.embed(w["x"]), t.embed(w["y"])), {"x": _X, "y": Tensor(F32, (N, ROWS), 8, 3.0)}),
        Case("swiglu", lambda t, w: t.swiglu(t.embed(w["x"]), t.embed(w["y"])), {"x": _X, "y": _Y}),
        Case("causal_conv", lambda t, w: t.causal_conv(t.embed(w["x"]), w["w"]), {"x": _X, "w": Tensor(F32, (3, N), 17)}),
        Case("rope pairs", lambda t, w: t.rope(t.embed(w["q"]), _rope("pairs")), {"q": _HEADS["q"]}),
        Case("rope halves", lambda t, w: t.rope(t.embed(w["q"]), _rope("halves")), {"q": _HEADS["q"]}),
        Case("attention", _attention, _HEADS),
        Case("rope_kv pairs", _rope_kv("pairs"), _HEADS),
        Case("rope_kv halves", _rope_kv("halves"), _HEADS),
        Case("expert_mul", _expert_mul, _EXPERTS),
        Case("qkv", _qkv, {**_NORMED, "q": _matrix(FUSED, 24, 18), "k": _matrix(FUSED, 24, 19), "v": _matrix(FUSED, 24, 20)}),
        Case("gate_up", _gate_up, {**_NORMED, "gate": _matrix(FUSED, 24, 21), "up": _matrix(FUSED, 24, 22)}),
        Case(
            "matmul_add",
            lambda t, w: t.add(t.embed(w["y"]), t.matmul(w["w"], t.embed(w["x"]))),
            {"x": _X, "y": _values(24, 23), "w": _matrix(FUSED, 24, 24)},
        ),
        *(Case(f"unary {function}", _unary(function), {"x": _X}) for function in FUNCTIONS),
        Case("norms of groups", _norms_of_groups, {**_NORMED, "of_group": Tensor(F32, (64,), 37), "b": _VECTOR}),
        Case("geglu", lambda t, w: t.geglu(t.embed(w["x"]), t.embed(w["y"])), {"x": _X, "y": _Y}),
        Case("swiglu_oai", lambda t, w: t.swiglu_oai(t.embed(w["x"]), t.embed(w["y"]), 1.7, 0.6), {"x": _X, "y": _Y}),
        Case("gate_up geglu", _geglu_up, _GATES),
        Case("columns", lambda t, w: t.columns(t.embed(w["x"]), 5, 20, 32), {"x": _X}),
        Case("concat", lambda t, w: t.concat(t.embed(w["x"]), t.embed(w["y"]), 4), {"x": _X, "y": _values(24, 23)}),
        Case("add_position", lambda t, w: t.add_position(t.embed(w["x"]), w["y"]), {"x": _X, "y": _Y}),
        Case("temper", lambda t, w: t.temper(t.embed(w["x"]), 7.0, 0.5, 1.0), {"x": _X}),
        Case(
            "head_matmul",
            lambda t, w: t.head_matmul(w["w"], t.embed(w["x"]), 4),
            {"x": _values(4 * 64, 38), "w": Tensor(FUSED, (64, 24, 4), 39)},
        ),
        Case("attention of some keys", _some_keys, {**_HEADS, "sinks": Tensor(F32, (HEADS,), 40)}),
        Case(
            "attention of large heads",
            _large_heads,
            {"q": _values(3 * 288, 41), "k": _values(288, 42), "v": _values(264, 43)},
        ),
        Case(
            "routes",
            _routes,
            {"logits": _values(16, 44), "x": _values(3, 45), "w": Tensor(F32, (16,), 46), "bias": Tensor(F32, (16,), 47)},
        ),
        Case("experts", _experts, {"logits": _EXPERTS["logits"], "x": _X, "b": Tensor(F32, (N, EXPERTS), 48)}),
        Case("ssm_scan", _ssm_scan, _SSM),
        Case("delta_net", _delta_net, _DELTA),
    )
}
# Kernels that are seen at work in another's case.
SEEN_IN = {
    "store_kv": "attention", "route": "", "expert_sum": "", "last_rows": "", "expert_add": "experts",
    "expert_spread": "experts",
}  # fmt: skip


def cases_of(programs: Sequence[Program]) -> list[Case]:
    """What shows all ops and formats of a model."""
    wanted = {"embed F32"}
    for program in dict.fromkeys(programs):
        for op in program.ops:
            wanted.update(_names(program, op))
    return [case for name, case in CASES.items() if name in wanted]


def _names(program: Program, op: Op) -> Iterator[str]:
    """The cases that an op wants."""
    if op.kernel in ("embed", "matmul", "expert_matmul", "head_matmul", "qkv", "gate_up", "matmul_add"):
        kind = op.kernel if op.kernel in ("embed", "expert_matmul") else "matmul"
        for o in op.ins:
            if o is not None and o.space is Space.WEIGHT and len(program.weights[o.index].shape) > 1:
                yield f"{kind} {program.weights[o.index].type.name}"
    if op.kernel in ("rope", "rope_kv"):
        yield f"{op.kernel} {op.params[2]}"
    elif (name := SEEN_IN.get(op.kernel, op.kernel)) in CASES:
        yield name
    if op.kernel == "qkv" and op.ins[1] is not None:
        yield "rms_norm"
    yield from _variants(op)


def _variants(op: Op) -> Iterator[str]:
    """The cases of what only some models want of an op."""
    named = dict(zip(KERNELS[op.kernel].params, op.params, strict=True))
    x = op.ins[0]
    if op.kernel == "unary":
        yield f"unary {named['function']}"
    if op.kernel in ("rms_norm", "layer_norm") and x and (named["group"] != x.width or op.ins[1] is None):
        yield "norms of groups"
    if op.kernel == "gate_up" and named["activation"] == "geglu":
        yield "gate_up geglu"
    if op.kernel == "attention" and x:
        if op.ins[3] or named["window"] or named["softcap"] or named["max_bias"]:
            yield "attention of some keys"
        if max(x.width, op.out[0].width) > 256 * int(named["n_heads"]):
            yield "attention of large heads"
    if op.kernel == "route" and (op.ins[1] or op.params[1:] != ("softmax", 1, 1.0, 1, 1)):
        yield "routes"
    if op.kernel == "expert_sum" and op.ins[1] is None:
        yield "experts"


# What was found, by adapter, cache and case: "" for right. Neither drivers nor kernels change while a process runs.
_found: dict[tuple[object, ...], str] = {}
CHOOSING = "choosing tokens"


async def check(adapter: Adapter, host: Callable[[], GpuHost], f16_cache: bool, programs: Sequence[Program] | None) -> None:
    """Compute a model's ops on a GPU, those that were not yet in this process. DeviceError for a GPU that is wrong.

    programs: of the model; None: all ops in all formats.
    """
    key = adapter, f16_cache
    cases = list(CASES.values()) if programs is None else cases_of(programs)
    names = [*(case.name for case in cases), CHOOSING]
    if not all((*key, name) in _found for name in names):
        new = [case for case in cases if (*key, case.name) not in _found]
        await _compute(GpuDevice(host(), HostMemory(1), f16_cache), new, key)
    for name in names:
        if wrong := _found.get((*key, name)):
            told = f"the GPU {adapter.name!r} is not to be trusted: {wrong}"
            raise DeviceError(f"{told}; update its driver ({adapter.driver}), or use --device cpu")


async def _compute(device: GpuDevice, cases: Sequence[Case], key: tuple[object, ...]) -> None:
    """Fill in what is found about these cases, up to one that is wrong, and about choosing tokens."""
    programs = [*(fuse(case.program(), whole=True) for case in cases), _rows_program()]
    doing = "making room"
    try:
        bounds = bind(device, programs, [*(case.tensors for case in cases), {}])
        for case, bound in zip(cases, bounds, strict=False):
            doing = case.name
            _found[*key, doing] = await _wrong(device, bound, case)
            if _found[*key, doing]:
                return
        doing = CHOOSING
        _found[*key, doing] = await _choosing(device, bounds[-1])
    except WasmrtError as error:
        raise DeviceError(f"the GPU {device.host.adapter.name!r} fails at {doing}: {error}") from error
    finally:
        device.close()


async def _wrong(device: GpuDevice, bound: Bound, case: Case) -> str:
    """What is wrong with a case; empty: nothing."""
    try:
        error = worst(digest(await result(device, bound)), case.truth())
    except DeviceError as refused:
        if str(refused) != NOT_NUMBERS:
            raise
        return f"it computes {case.name} wrongly (to NaN or infinity)"
    return "" if error < BOUND else f"it computes {case.name} wrongly (NMSE {error:.1e} from what is right)"


def bind(
    device: Device, programs: Sequence[Program], tensors: Sequence[Mapping[str, Tensor]], memory: Memory | None = None
) -> list[Bound]:
    """Segments with their weights in place: on the GPU, or in the memory of another device."""
    device.compile(programs, max(PASSES), max(PASSES))
    bounds = [device.bind(program, CONTEXT) for program in programs]
    segments, data, offset = [], [], 0
    for program, some in zip(programs, tensors, strict=True):
        entries = []
        for weight in program.weights:
            whole = some[weight.name].data() if some else _rows_data()
            size = len(whole) // weight.n_entries
            for i in range(weight.n_entries):
                data.append(whole[i * size : (i + 1) * size])
                entries.append(Entry(weight.name, offset, size))
                offset += size
        segments.append(Segment(program.name, tuple(entries), tuple(program.entries_of(op) for op in program.ops)))
    table = LayerTable(tuple(segments))
    if isinstance(device, GpuDevice):
        device.place(table, frozenset(range(len(table.extents))))
    for extent, some_bytes in zip(table.extents, data, strict=True):
        if isinstance(device, GpuDevice):
            device.upload(extent.places, memoryview(some_bytes))
        elif memory is not None:
            ((segment, entry),) = extent.places
            bounds[segment].table[entry] = address = memory.allocate(len(some_bytes))
            memory.write(address, some_bytes)
    return bounds


async def result(device: Device, bound: Bound) -> list[Sequence[float]]:
    """What a segment gives in each pass, one after another: f32 (tokens, width)."""
    found: list[Sequence[float]] = []
    pos = 0
    device.clear_state(bound)
    for n in PASSES:
        device.begin(range(pos, pos + n), pos, n)
        await device.run([bound], range(len(bound.program.ops)))
        found.append(array("f", (await device.logits(bound)).tobytes()))
        pos += n
    return found


def digest(passes: Sequence[Sequence[float]]) -> Sequence[float]:
    """(passes, SUMS): sums over all that a pass gives, with random signs. What is wrong with a few elements shows in them."""
    return array("f", [sum(map(mul, values, signs)) for values in passes for signs in _signs(len(values))])


@cache
def _signs(n: int) -> Sequence[Sequence[float]]:
    rng = random.Random(26)
    return [array("f", [1.0 - 2.0 * (bits >> i & 1) for i in range(n)]) for bits in (rng.getrandbits(n) for _ in range(SUMS))]


def worst(got: Sequence[float], wanted: Sequence[float]) -> float:
    """The NMSE of the worst pass of a digest: mean squared error over mean square."""
    return max(_nmse(got[i : i + SUMS], wanted[i : i + SUMS]) for i in range(0, len(wanted), SUMS))


def _nmse(got: Sequence[float], wanted: Sequence[float]) -> float:
    return sum((g - w) ** 2 for g, w in zip(got, wanted, strict=True)) / sum(w * w for w in wanted)


# Choosing tokens: each row of a table of logits names the next row.

NEXT = tuple((7 * t + 3) % ROWS for t in range(ROWS))


@cache
def _logits() -> "tuple[array[float], ...]":
    """Row t has its largest logit at NEXT[t], so large that a draw takes it."""
    rng = random.Random(25)
    rows = []
    for following in NEXT:
        row = array("f", [x / 0x8000 for x in array("h", rng.randbytes(2 * N_VOCAB))])
        row[following] = 40.0
        rows.append(row)
    return tuple(rows)


def _rows_data() -> bytes:
    return b"".join(row.tobytes() for row in _logits())


def _rows_program() -> Program:
    t = Recorder("choose")
    return t.finish(t.last_rows(t.embed(t.weight("rows", F32, (N_VOCAB, len(NEXT))))))


async def _choosing(device: GpuDevice, bound: Bound) -> str:
    """What is wrong with how tokens are chosen: the likeliest of a row, and chains of passes."""
    device.begin([2], 0, 1)
    await device.run([bound], range(len(bound.program.ops)))
    row = _logits()[2]
    found = await device.candidates(bound, 8, (), 1.0, 1.0)
    wanted = sorted(range(N_VOCAB), key=lambda i: (-row[i], i))[:8]
    if list(found.ids) != wanted or list(found.logits) != [row[i] for i in wanted]:
        return f"it takes {list(found.ids)} for the likeliest tokens, which are {wanted}"
    tokens = [0]
    for _ in range(4):
        tokens.append(NEXT[tokens[-1]])
    for options in (SamplerOptions(), SamplerOptions(temperature=1.0)):
        if device.chains(options):
            chosen = await device.chain([bound], 0, 0, 4, options, [0.1, 0.5, 0.9, 0.3] if options.temperature else [])
            if list(chosen) != tokens[1:]:
                return f"it chooses the tokens {list(chosen)} in a chain of passes, not {tokens[1:]}"
    return ""

"""Attention on a GPU: rope, store_kv, attention and rope_kv as dispatches, and the layout of the cache that they share.

A layer's keys and its values are a buffer each, [head][capacity][dim], with the dim padded to whole units of 8 elements and the
capacity to whole units of 256 positions; elements are f32, or two f16 in a u32.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wasmrt.device.gpu_host import Range
from wasmrt.device.gpu_steps import NARROW, Grid, Lower, Pass, Site, Step, ceil_div, fold, words
from wasmrt.errors import UnsupportedError
from wasmrt.program.ops import KERNELS, Op, Operand, Param

WG = 64  # threads of a workgroup, in all of these shaders
KEYS_OF_PART = 256  # fewer make work for more workgroups, but more to add up afterwards
MOST_PARTS = 64
MOST_DIM = 1024  # of a head, by what a workgroup holds of a query
WIDE_ROWS, WIDE_FOURS = 32, 64  # of a workgroup of attention_wide: rows, and fours of columns
DIM_UNIT, POSITIONS_UNIT = 8, 256


def kv_bytes(width: int, n_kv_heads: int, context: int, f16: bool) -> int:
    """Of a layer's keys or values: rows of `width` elements."""
    return n_kv_heads * capacity(context) * padded(width // n_kv_heads) * (2 if f16 else 4)


def capacity(context: int) -> int:
    """Positions that a cache has room for."""
    return ceil_div(context, POSITIONS_UNIT) * POSITIONS_UNIT


def padded(dim: int) -> int:
    return ceil_div(dim, DIM_UNIT) * DIM_UNIT


def n_split(n_keys: int) -> int:
    """Parts into which a narrow pass cuts the keys: a power of two, so that few lists of dispatches are ever made."""
    n: int = 1 << (ceil_div(n_keys, KEYS_OF_PART) - 1).bit_length()
    return min(n, MOST_PARTS)


def rope_table(params: Sequence[Param], factors: Sequence[float] | None) -> bytes:
    """How far each pair turns from one position to the next: u64 parts of a revolution, in units of 2^-64, low word first.

    params: of a rope op. factors: what divides each pair's angle.
    """
    named = dict(zip(KERNELS["rope"].params, params, strict=True))
    n_dims, scale, extrapolation = int(named["n_dims"]), float(named["scale"]), float(named["extrapolation"])
    low, high = float(named["ramp_low"]), float(named["ramp_high"])
    steps = []
    for pair in range(n_dims // 2):
        angle = float(named["base"]) ** (-2.0 * pair / n_dims) / (factors[pair] or math.nan if factors else 1.0)
        ramp = extrapolation * (1 - min(max((pair - low) / max(0.001, high - low), 0.0), 1.0))
        revolution = angle * (scale * (1 - ramp) + ramp) / math.tau
        # Factors that are no numbers come from a damaged file, and nothing from them is right.
        steps.append(int(revolution * 2.0**64) % 2**64 if math.isfinite(revolution) else 0)
    return struct.pack(f"<{len(steps)}Q", *steps)


def lower_rope(op: Op, site: Site) -> Iterator[Step]:
    x, factors, _ = op.ins
    (y,) = op.out
    assert x
    constants = _rope_constants(op)
    n_heads = x.width // constants["HEAD_DIM"]
    n_groups = ceil_div(n_heads * _units(constants), WG)
    ranges = site.slot(x), _turns(op, factors, site), site.slot(y)
    yield Step(("turn", "rope"), words(n_heads, _magnitude(op)), ranges, lambda p: (n_groups, p.rows(y), 1), constants)


def lower_store_kv(op: Op, site: Site) -> Iterator[Step]:
    k, v, _ = op.ins
    assert k
    assert v
    constants = _cache_constants(site, k.width // site.kv_heads, v.width // site.kv_heads)
    n_groups = ceil_div(_words(site, constants), WG)
    ranges = site.slot(k), site.slot(v), site.kv(0), site.kv(1)
    files = "kv_write", "store_kv"
    yield Step(files, b"", ranges, lambda p: (n_groups, p.n_tokens, 1), {**constants, "KV_HEADS": site.kv_heads})


def lower_rope_kv(op: Op, site: Site) -> Iterator[Step]:
    q, k, v, factors, _ = op.ins
    y = op.out[0]
    assert q
    assert k
    assert v
    rope, cache = _rope_constants(op), _cache_constants(site, k.width // site.kv_heads, v.width // site.kv_heads)
    n_heads = q.width // rope["HEAD_DIM"]
    n_groups = ceil_div(n_heads * _units(rope) + _words(site, cache), WG)
    in_place = q.index == y.index
    ranges = (
        site.dummy if in_place else site.slot(q),
        site.slot(k),
        site.slot(v),
        _turns(op, factors, site),
        site.slot(y),
        site.kv(0),
        site.kv(1),
    )
    constants = {**rope, **cache, "KV_HEADS": site.kv_heads, "IN_PLACE": in_place}
    files = "turn", "kv_write", "rope_kv"
    yield Step(files, words(n_heads, _magnitude(op)), ranges, lambda p: (n_groups, p.n_tokens, 1), constants)


def lower_attention(op: Op, site: Site) -> Iterator[Step]:
    q, keys, values, _, _ = op.ins
    (y,) = op.out
    assert q
    assert keys
    assert values
    n_kv_heads = int(op.params[1])
    constants = _cache_constants(site, keys.width // n_kv_heads, values.width // n_kv_heads)
    dims = max(constants["KEY_DIM"], constants["VALUE_DIM"])
    if dims > MOST_DIM:
        raise UnsupportedError(f"heads of {dims} elements: a gpu takes at most {MOST_DIM}; open the model with device 'cpu'")
    constants["GROUP"] = int(op.params[0]) // n_kv_heads
    yield from (_wide if site.wide else _narrow)(site, constants, _heads(op, site), q, y)


@dataclass(frozen=True, slots=True)
class Heads:
    """How scores are made of what queries and keys give, by which shaders; sinks and slopes are bound where there are any."""

    n: int
    n_kv: int
    scale: float
    score: tuple[str, ...]
    constants: dict[str, float]
    sink: str
    sinks: tuple[Range, ...]
    slopes: tuple[Range, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return ("kv_read", *self.score, self.sink, "attention_out")


def _heads(op: Op, site: Site) -> Heads:
    sinks = op.ins[3]
    n, n_kv, scale, window, chunked, softcap, max_bias = op.params
    score: tuple[str, ...] = ("score_plain",)
    constants: dict[str, float] = {}
    slopes: tuple[Range, ...] = ()
    if window or softcap or max_bias:
        score = "tanh", "score_more"
        constants = {"WINDOW": int(window), "CHUNKED": int(chunked), "SOFTCAP": float(softcap), "HAS_SLOPES": bool(max_bias)}
        slopes = (site.constant(alibi_slopes(int(n), float(max_bias))),)
    sink = "sink_some" if sinks else "sink_none"
    bound = (site.vector(sinks),) if sinks else ()
    return Heads(int(n), int(n_kv), float(scale), score, constants, sink, bound, slopes)


def alibi_slopes(n_heads: int, max_bias: float) -> bytes:
    """Of each head, f32: powers of 2^(-max_bias / n), n the largest power of two up to n_heads; those past it lie between."""
    n = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-max_bias * (h + 1) / n) for h in range(n)]
    slopes += [2.0 ** (-max_bias * (2 * h + 1) / (2 * n)) for h in range(n_heads - n)]
    return words(*slopes)


def rows_of(key_dim: int, value_dim: int) -> int:
    """Query heads of a workgroup of attention.wgsl, by its memory and by the sums of a thread."""
    keys, values = padded(key_dim) // 4, padded(value_dim) // 4
    if max(keys, values) <= 64:
        return 8 if max(key_dim, value_dim) <= 128 else 4
    columns = ceil_div(values, WG)
    return max(1, min(8 // columns, 960 // (keys + WG * columns + 20)))  # fours in 15 KiB


def _narrow(site: Site, constants: dict[str, int], heads: Heads, q: Operand, y: Operand) -> Iterator[Step]:
    group, value_dim = constants["GROUP"], constants["VALUE_DIM"]
    n_chunks = ceil_div(group, rows_of(constants["KEY_DIM"], value_dim))
    rows = ceil_div(group, n_chunks)
    fours = padded(value_dim) // 4
    parts = site.scratch("attention", 16 * NARROW * heads.n * n_split(site.context) * (fours + 1))
    ranges = site.slot(q), site.kv(0), site.kv(1), site.slot(y), parts, *heads.sinks, *heads.slopes

    def grid(p: Pass) -> Grid:
        return heads.n_kv * ceil_div(group, rows), p.n_tokens, p.n_split

    def reduce_grid(p: Pass) -> Grid:
        return fold(ceil_div(p.n_tokens * heads.n * fours, WG), site.limits) if p.n_split > 1 else (0, 0, 0)

    files = (*heads.files, "attention")
    yield Step(files, words(heads.n, heads.scale), ranges, grid, {**constants, **heads.constants, "ROWS": rows})
    files = heads.sink, "attention_out", "attention_reduce"
    yield Step(files, words(heads.n), (parts, site.slot(y), *heads.sinks), reduce_grid, {"VALUE_DIM": value_dim})


def _wide(site: Site, constants: dict[str, int], heads: Heads, q: Operand, y: Operand) -> Iterator[Step]:
    group = constants["GROUP"]
    q_ranges = (site.slot(q), site.dummy) if constants["KEY_DIM"] % 4 else (site.dummy, site.slot(q))
    ranges = *q_ranges, site.kv(0), site.kv(1), site.slot(y), *heads.sinks, *heads.slopes
    pieces = ceil_div(padded(constants["VALUE_DIM"]) // 4, WIDE_FOURS)

    def grid(p: Pass) -> Grid:
        return ceil_div(p.n_tokens * group, WIDE_ROWS), heads.n_kv, pieces

    files = (*heads.files, "attention_wide")
    yield Step(files, words(heads.n, heads.scale), ranges, grid, {**constants, **heads.constants})


def _cache_constants(site: Site, key_dim: int, value_dim: int) -> dict[str, int]:
    return {"F16": site.f16_cache, "CAPACITY": capacity(site.context), "KEY_DIM": key_dim, "VALUE_DIM": value_dim}


def _words(site: Site, constants: dict[str, int]) -> int:
    """u32 that a token's keys and values are in the cache."""
    elements = site.kv_heads * (padded(constants["KEY_DIM"]) + padded(constants["VALUE_DIM"]))
    return elements // 2 if site.f16_cache else elements


def _rope_constants(op: Op) -> dict[str, int]:
    """All but the magnitude."""
    named = dict(zip(KERNELS["rope"].params, op.params, strict=True))
    halves = named["style"] == "halves"
    return {"HEAD_DIM": int(named["head_dim"]), "N_PAIRS": int(named["n_dims"]) // 2, "HALVES": halves}


def _magnitude(op: Op) -> float:
    return float(op.params[KERNELS["rope"].params.index("magnitude")])


def _units(constants: dict[str, int]) -> int:
    """Of a head: pairs that turn, and elements that stay."""
    return constants["HEAD_DIM"] - constants["N_PAIRS"]


def _turns(op: Op, factors: Operand | None, site: Site) -> Range:
    return site.constant(rope_table(op.params, None if factors is None else site.host_vector(factors)))


LOWER: dict[str, Lower] = {
    "rope": lower_rope,
    "store_kv": lower_store_kv,
    "attention": lower_attention,
    "rope_kv": lower_rope_kv,
}

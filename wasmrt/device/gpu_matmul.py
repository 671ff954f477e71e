"""Matmuls on a GPU: with one row of x (matmul.wgsl), with four at a time (matmul_few.wgsl), or in tiles (matmul_tiled.wgsl).

Which variant of each runs, and what counts as a few, gpu_tune.py knows.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from wasmrt.device.gpu_host import Range
from wasmrt.device.gpu_layout import Layout
from wasmrt.device.gpu_small import norm_of
from wasmrt.device.gpu_steps import NARROW, Grid, Lower, Pass, Site, Span, Step, ceil_div, fold, words
from wasmrt.device.gpu_tune import Tuning, Variant
from wasmrt.program.ops import Op, Operand

WG = 64  # threads of a workgroup of embed.wgsl
FEW = 4  # rows of x that matmul_few.wgsl takes together
GATED = 2  # rows of a gate that a thread of matmul.wgsl takes
QUANTIZE_WG = 64
INTS_BYTES = 48  # of 32 elements of x as quantize.wgsl gives them
THREE = 3  # outputs of a qkv
COMMON = "gates", "matmul_common"


class Product:
    """One product of rows of x with a matrix, and what comes before and after it, as shaders have it."""

    def __init__(
        self,
        site: Site,
        x: Operand,
        y: Operand,
        *,
        first: int = 0,
        norm: Operand | None = None,
        eps: float = 0.0,
        out: str = "out_plain",
        more: Sequence[Range] = (),
        ends: tuple[int, int] = (0, 0),
        widths: tuple[int, int] = (0, 0),
        in_place: bool = False,
        up: int = 0,
        gelu: bool = False,
    ) -> None:
        self.site, self.x, self.y = site, x, y
        self.first, self.norm, self.eps = first, norm, eps
        self.out, self.more, self.ends, self.widths = out, more, ends, widths
        self.in_place, self.up, self.gelu = in_place, up, gelu
        self.x_range, self.y_range = site.slot(x), site.slot(y)
        self.rows = site.max_out if x.rows == "out" else site.max_tokens if site.wide else NARROW
        self.most_few = min(site.tuning.most_few, self.rows)
        self.even = x.width % 32 == 0

    def params(self, span: Span, n_rows: int) -> bytes:
        units = span.layout.units(self.x.width)
        first = self.first + span.first
        shape = units, self.x.width, n_rows, span.at, first, self.y.width, self.up, float(self.eps)
        return words(*shape, *self.ends, *self.widths, 0, 0, 0, 0, int(self.x.rows == "out"))

    def constants(self, span: Span, variant: Variant) -> dict[str, float]:
        gate = int(bool(self.up))
        return {**constants_of(self.site.tuning, variant, span.layout.units(self.x.width)), "GATE": gate, **self.placing()}

    def placing(self) -> dict[str, float]:
        return {**({"IN_PLACE": 1} if self.in_place else {}), **({"GELU": 1} if self.gelu else {})}

    def steps(self, spans: Sequence[Span]) -> Iterator[Step]:
        """All rows of the spans, by whichever kernel suits the rows of x that a pass has."""
        if self.x.rows == "out" or not self.site.wide:
            yield from self.one(spans)
        if self.most_few > 1:
            yield from self.few(spans)
        if self.rows > self.most_few:
            yield from self.tiled(spans)

    def one(self, spans: Sequence[Span]) -> Iterator[Step]:
        """For one row of x."""
        tuning, units = self.site.tuning, ceil_div(self.x.width, 32)
        floats, ints = _by_ints(spans, lambda span: tuning.for_one(span.layout.name, units).ints)
        wanted = self.between(1, 1)
        gain: tuple[Range, ...] = ()
        x = self.x_range
        if floats and self.norm is not None and not self.even:
            x = yield from self.normed(wanted)
        elif self.norm is not None:
            gain = (self.site.vector(self.norm),)
        small = (yield from self.quantized(wanted)) if ints else x
        kind = "x_norm" if gain else "x_plain" if self.even else "x_any"
        for span in spans:
            variant = tuning.for_one(span.layout.name, units)
            n_rows = self.up or span.n_rows  # of a gate and its up matrix, half
            constants = self.constants(span, variant)
            per_group = variant.wg // int(constants["LANES"]) * (GATED if self.up else variant.rows)
            files = (*dot_files(span.layout, variant, kind), "pick_plain", reduce_file(variant), self.out, "matmul")
            inputs = (small,) if variant.ints else (x, *gain)
            ranges = (span.a, span.b, *inputs, self.y_range, *self.more)
            x_groups, y_groups, _ = fold(ceil_div(n_rows, per_group), self.site.limits)
            yield Step(files, self.params(span, n_rows), ranges, _times(wanted, x_groups, y_groups), constants)

    def few(self, spans: Sequence[Span]) -> Iterator[Step]:
        """For several, up to most_few."""
        tuning, units = self.site.tuning, ceil_div(self.x.width, 32)
        least = 1 if self.site.wide and self.x.rows != "out" else 2
        wanted = self.between(least, self.most_few, FEW)
        floats, ints = _by_ints(spans, lambda span: tuning.for_few(span.layout.name, units).ints)
        x = self.x_range
        if floats and self.norm is not None:
            x = yield from self.normed(wanted)
        small = (yield from self.quantized(wanted)) if ints else x
        for span in spans:
            variant = tuning.for_few(span.layout.name, units)
            n_rows = self.up or span.n_rows
            constants = self.constants(span, variant)
            per_group = variant.wg // int(constants["LANES"]) * (variant.rows // 2 if self.up else variant.rows)
            kind = "x_plain" if self.even else "x_any"
            files = (*dot_files(span.layout, variant, kind), reduce_file(variant), self.out, "matmul_few")
            ranges = (span.a, span.b, small if variant.ints else x, self.y_range, *self.more)
            x_groups, y_groups, _ = fold(ceil_div(n_rows, per_group), self.site.limits)
            yield Step(files, self.params(span, n_rows), ranges, _times(wanted, x_groups, y_groups), constants)

    def between(self, least: int, most: int, by: int = 1) -> Callable[[Pass], int]:
        """How many times `by` rows of x there are in a pass, if there are so many rows; else 0."""
        return lambda p: ceil_div(p.rows(self.x), by) if least <= p.rows(self.x) <= most else 0

    def tiled(self, spans: Sequence[Span]) -> Iterator[Step]:
        """For more."""
        tuning = self.site.tuning
        tile = tuning.tile
        wanted = self.between(self.most_few + 1, self.rows, tile)
        x = self.x_range
        if self.norm is not None:
            x = yield from self.normed(wanted)
        constants = {"TILE": tile, "WG": tile * tile // 16, "CELLS": tile * 8, **self.placing()}
        kind, kept = "x_plain" if self.even else "x_any", "tile_f16" if tuning.half else "tile_f32"
        for span in spans:
            files = (*COMMON, *span.layout.files, kind, kept, self.out, "matmul_tiled")
            ranges = (span.a, span.b, x, self.y_range, *self.more)
            yield Step(files, self.params(span, span.n_rows), ranges, _tiles(wanted, ceil_div(span.n_rows, tile)), constants)

    def normed(self, wanted: Callable[[Pass], int]) -> Generator[Step, None, Range]:
        """The norm by itself, in passes that want it; returns where its result lies."""
        assert self.norm is not None
        h = self.site.scratch("normed", 4 * self.x.width * self.rows)
        ranges = self.x_range, self.site.vector(self.norm), h
        step = norm_of("rms_norm", self.site, self.x, ranges, float(self.eps), self.x.width, {})
        yield replace(step, grid=lambda p: step.grid(p) if wanted(p) else (0, 0, 0))
        return h

    def quantized(self, wanted: Callable[[Pass], int]) -> Generator[Step, None, Range]:
        """x as i8, behind the norm if there is one, in passes that want it; returns where it lies."""
        units = ceil_div(self.x.width, 32)
        small = self.site.scratch("quantized", INTS_BYTES * units * max(NARROW, self.most_few))
        gain = self.site.dummy if self.norm is None else self.site.vector(self.norm)
        params = words(units, self.x.width, float(self.eps), int(self.x.rows == "out"))
        constants = {"WG": QUANTIZE_WG, "NORM": int(self.norm is not None)}
        files, limits = ("rows", "group_sum", "quantize"), self.site.limits
        rows = self.x

        def grid(p: Pass) -> Grid:
            return fold(p.rows(rows), limits) if wanted(p) else (0, 0, 0)

        yield Step(files, params, (self.x_range, gain, small), grid, constants)
        return small


def _by_ints(spans: Sequence[Span], ints: Callable[[Span], bool]) -> tuple[bool, bool]:
    """Whether some spans take x as it is, and whether some take it rounded."""
    kinds = {ints(span) for span in spans}
    return False in kinds, True in kinds


def _times(wanted: Callable[[Pass], int], x_groups: int, y_groups: int) -> Callable[[Pass], Grid]:
    return lambda p: (x_groups, y_groups, n) if (n := wanted(p)) else (0, 0, 0)


def _tiles(wanted: Callable[[Pass], int], columns: int) -> Callable[[Pass], Grid]:
    return lambda p: (columns, n, 1) if (n := wanted(p)) else (0, 0, 0)


def dot_files(layout: Layout, variant: Variant, kind: str) -> tuple[str, ...]:
    """The shaders that multiply a unit of a weight with one of x, which one of kind x_* reads."""
    if variant.ints:
        return (*COMMON, *layout.files, "dot_ints")
    return (*COMMON, *layout.files, kind, "dot_floats")


def reduce_file(variant: Variant) -> str:
    return "reduce_subgroup" if variant.subgroup else "reduce_shared"


def constants_of(tuning: Tuning, variant: Variant, units: int) -> dict[str, float]:
    made: dict[str, float] = {"WG": variant.wg, "LANES": lanes_for(units, variant.lanes), "ROWS": variant.rows}
    if variant.subgroup:
        made["LEAST_SUBGROUP"] = tuning.least_subgroup
    return made


def lanes_for(units: int, lanes: int) -> int:
    """Threads that share a row: no more than it has units."""
    while lanes > units:
        lanes //= 2
    return lanes


def _operand(operand: Operand | None) -> Operand:
    assert operand is not None
    return operand


def lower_matmul(op: Op, site: Site) -> Iterator[Step]:
    w, x = map(_operand, op.ins)
    yield from Product(site, x, op.out[0], first=int(op.params[0])).steps(site.spans(w))


def lower_matmul_add(op: Op, site: Site) -> Iterator[Step]:
    w, x, r = map(_operand, op.ins)
    y = op.out[0]
    in_place = r.index == y.index
    more = (site.dummy if in_place else site.slot(r),)
    first = int(op.params[0])
    yield from Product(site, x, y, first=first, out="out_add", more=more, in_place=in_place).steps(site.spans(w))


def lower_qkv(op: Op, site: Site) -> Iterator[Step]:
    x, norm, *weights = op.ins
    given = [w for w in weights if w is not None]
    eps, first = float(op.params[0]), int(op.params[1])
    if len(given) == 1:
        yield from Product(site, _operand(x), op.out[0], first=first, norm=norm, eps=eps).steps(site.spans(*given))
        return
    outs = [*op.out, *op.out[1:]][:THREE]  # of two, the third is never written
    ends = op.out[0].width, op.out[0].width + op.out[1].width
    more = [site.slot(o) for o in outs[1:]]
    if len(given) < THREE:
        more[1] = site.scratch("nowhere", 16)
    widths = op.out[1].width, outs[2].width
    product = Product(site, _operand(x), op.out[0], norm=norm, eps=eps, out="out_three", more=more, ends=ends, widths=widths)
    yield from product.steps(site.spans(*given))


def lower_gate_up(op: Op, site: Site) -> Iterator[Step]:
    x, norm, gate, up = op.ins
    eps, gelu, first, n_rows = float(op.params[0]), op.params[1] == "geglu", int(op.params[2]), int(op.params[3])
    spans = site.spans(_operand(gate), _operand(up))
    y = op.out[0]
    together = Product(site, _operand(x), y, first=first, norm=norm, eps=eps, up=n_rows, gelu=gelu)
    if len(spans) == 1 and together.rows <= together.most_few:
        yield from together.steps(spans)
        return
    scratch = site.scratch("gate", 4 * y.width * (site.max_tokens if site.wide else NARROW))
    for out, half in (("out_plain", range(n_rows)), ("out_gate", range(n_rows, 2 * n_rows))):
        part = Product(site, _operand(x), y, first=first - half.start, norm=norm, eps=eps, out=out)
        if out == "out_plain":
            part.y_range = scratch
        else:
            part.more, part.gelu = (scratch,), gelu
        yield from part.steps(list(_some(spans, half)))


def _some(spans: Sequence[Span], rows: range) -> Iterator[Span]:
    """What of some spans is among these rows."""
    for span in spans:
        first, stop = max(span.first, rows.start), min(span.first + span.n_rows, rows.stop)
        if first < stop:
            yield Span(first, stop - first, span.at + first - span.first, span.layout, span.a, span.b)


def lower_embed(op: Op, site: Site) -> Iterator[Step]:
    w, y = _operand(op.ins[0]), op.out[0]
    for span in site.spans(w):
        units = span.layout.units(w.width)
        params = words(units, w.width, span.n_rows, span.at, span.first, *[0] * 12)
        files = (*COMMON, *span.layout.files, "embed")
        ranges = (span.a, span.b, site.tokens, site.slot(y))
        yield Step(files, params, ranges, _by_token(ceil_div(units, WG)), {"WG": WG})


def _by_token(groups: int) -> Callable[[Pass], Grid]:
    return lambda p: (groups, p.n_tokens, 1)


def lower_expert_matmul(op: Op, site: Site) -> Iterator[Step]:
    w, x, experts = map(_operand, op.ins)
    y = op.out[0]
    n_used = experts.width
    rows = site.weight(w).shape[1]
    even = w.width % 32 == 0
    for span in site.spans(w):
        units = span.layout.units(w.width)
        per_expert = int(x.width != w.width)
        shape = units, w.width, span.n_rows, span.at, 0, y.width, 0, 0.0, 0, 0, 0, 0
        params = words(*shape, n_used, per_expert, rows, span.first // rows, 0)
        variant = replace(site.tuning.for_one(span.layout.name, units), ints=False)  # x has a row for each, or for several
        constants = {**constants_of(site.tuning, variant, units), "GATE": 0}
        per_group = variant.wg // int(constants["LANES"]) * variant.rows
        x_groups, y_groups, _ = fold(ceil_div(rows, per_group), site.limits)
        kind = "x_plain" if even else "x_any"
        files = (*dot_files(span.layout, variant, kind), "pick_expert", reduce_file(variant), "out_plain", "matmul")
        ranges = (span.a, span.b, site.slot(x), site.slot(y), site.slot(experts))
        yield Step(files, params, ranges, _by_pair(x_groups, y_groups, n_used), constants)


def lower_head_matmul(op: Op, site: Site) -> Iterator[Step]:
    """By rows of x as in Product: one after another, four at a time, or in tiles."""
    w, x = map(_operand, op.ins)
    y, n_heads = op.out[0], int(op.params[0])
    n, m = site.weight(w).shape[:2]
    kind = "x_plain" if n % 32 == 0 else "x_any"
    tuning, limits = site.tuning, site.limits
    most = site.max_out if x.rows == "out" else site.max_tokens if site.wide else NARROW
    for span in site.spans(w):
        units, layout = span.layout.units(n), span.layout
        heads = span.n_rows // m
        shape = units, n, m, span.at, 0, y.width, 0, 0.0, 0, 0, 0, 0
        params = words(*shape, heads, n_heads, m, span.first // m, int(x.rows == "out"))
        ranges = span.a, span.b, site.slot(x), site.slot(y)

        one = replace(tuning.for_one(layout.name, units), ints=False)
        constants = {**constants_of(tuning, one, units), "GATE": 0}
        files = (*dot_files(layout, one, kind), "pick_head", reduce_file(one), "out_plain", "matmul")
        groups = fold(ceil_div(m, one.wg // int(constants["LANES"]) * one.rows), limits)
        if x.rows == "out" or not site.wide:
            yield Step(files, params, ranges, _by_head(x, (1, NARROW), 1, heads, groups), constants)
        if most <= NARROW:
            continue
        few = replace(tuning.for_few(layout.name, units), ints=False)
        constants = {**constants_of(tuning, few, units), "GATE": 0, "HEADED": 1}
        files = (*dot_files(layout, few, kind), reduce_file(few), "out_plain", "matmul_few")
        groups = fold(ceil_div(m, few.wg // int(constants["LANES"]) * few.rows), limits)
        yield Step(files, params, ranges, _by_head(x, (NARROW + 1, tuning.most_few), FEW, heads, groups), constants)
        if most <= tuning.most_few:
            continue
        tile = tuning.tile
        constants = {"TILE": tile, "WG": tile * tile // 16, "CELLS": tile * 8, "HEADED": 1}
        files = (*COMMON, *layout.files, kind, "tile_f16" if tuning.half else "tile_f32", "out_plain", "matmul_tiled")
        least = max(NARROW, tuning.most_few) + 1
        yield Step(files, params, ranges, _head_tiles(x, least, tile, ceil_div(m, tile), heads), constants)


def _by_head(x: Operand, rows: tuple[int, int], by: int, heads: int, groups: Grid) -> Callable[[Pass], Grid]:
    """For passes of so many rows of x, `by` at a time."""

    def grid(p: Pass) -> Grid:
        n = p.rows(x)
        return (groups[0], groups[1], ceil_div(n, by) * heads) if rows[0] <= n <= rows[1] else (0, 0, 0)

    return grid


def _head_tiles(x: Operand, least: int, tile: int, columns: int, heads: int) -> Callable[[Pass], Grid]:
    return lambda p: (columns, ceil_div(p.rows(x), tile), heads) if p.rows(x) >= least else (0, 0, 0)


def _by_pair(x_groups: int, y_groups: int, n_used: int) -> Callable[[Pass], Grid]:
    return lambda p: (x_groups, y_groups, p.n_tokens * n_used)


LOWER: dict[str, Lower] = {
    "embed": lower_embed,
    "matmul": lower_matmul,
    "matmul_add": lower_matmul_add,
    "qkv": lower_qkv,
    "gate_up": lower_gate_up,
    "expert_matmul": lower_expert_matmul,
    "head_matmul": lower_head_matmul,
}

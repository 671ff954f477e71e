"""Matmuls on a GPU: with a few rows of x a read of the weight for each (matmul.wgsl), with many tiles (matmul_tiled.wgsl)."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from wasmrt.device.gpu_host import Range
from wasmrt.device.gpu_small import row_step
from wasmrt.device.gpu_steps import NARROW, Grid, Lower, Pass, Site, Span, Step, ceil_div, fold, words
from wasmrt.program.ops import Op, Operand

WG = 64  # threads
LANES = 8  # that go along a row together
ROWS = 4  # that a thread takes
TILE = 32  # columns and tokens that a workgroup makes
THREE = 3  # outputs of a qkv


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
    ) -> None:
        self.site, self.x, self.y = site, x, y
        self.first, self.norm, self.eps = first, norm, eps
        self.out, self.more, self.ends, self.widths = out, more, ends, widths
        self.in_place, self.up = in_place, up
        self.x_range, self.y_range = site.slot(x), site.slot(y)
        self.rows = site.max_out if x.rows == "out" else site.max_tokens if site.wide else NARROW
        self.even = x.width % 32 == 0

    def params(self, span: Span, n_rows: int) -> bytes:
        units = span.layout.units(self.x.width)
        first = self.first + span.first
        shape = units, self.x.width, n_rows, span.at, first, self.y.width, self.up, float(self.eps)
        return words(*shape, *self.ends, *self.widths, 0, 0, 0, 0, int(self.x.rows == "out"))

    def constants(self) -> dict[str, float]:
        return {"IN_PLACE": 1} if self.in_place else {}

    def steps(self, spans: Sequence[Span]) -> Iterator[Step]:
        """All rows of the spans, by whichever kernel suits the rows of x that a pass has."""
        if self.x.rows == "out" or not self.site.wide:
            yield from self.narrow(spans)
        if self.rows > NARROW:
            yield from self.tiled(spans)

    def narrow(self, spans: Sequence[Span]) -> Iterator[Step]:
        """For at most NARROW rows of x."""
        gain: tuple[Range, ...] = ()
        x = self.x_range
        if self.norm is not None and not self.even:
            x = yield from self.normed(self.few((1, 1)))
        elif self.norm is not None:
            gain = (self.site.vector(self.norm),)
        kind = "x_norm" if gain else "x_plain" if self.even else "x_any"
        for span in spans:
            n_rows = self.up or span.n_rows  # of a gate and its up matrix, half
            units = span.layout.units(self.x.width)
            lanes = lanes_for(units)
            per_group = WG // lanes * (2 if self.up else ROWS)
            constants = {"WG": WG, "LANES": lanes, "ROWS": ROWS, "GATE": int(bool(self.up)), **self.constants()}
            files = (*span.layout.files, kind, "pick_plain", "reduce_shared", self.out, "matmul")
            ranges = (span.a, span.b, x, *gain, self.y_range, *self.more)
            x_groups, y_groups, _ = fold(ceil_div(n_rows, per_group), self.site.limits)
            grid = self.few((x_groups, y_groups))
            yield Step(("matmul_common", *files), self.params(span, n_rows), ranges, grid, constants)

    def few(self, groups: tuple[int, int]) -> Callable[[Pass], Grid]:
        """So many workgroups for each row of x, if there are no more than NARROW."""
        return lambda p: (*groups, p.rows(self.x)) if 0 < p.rows(self.x) <= NARROW else (0, 0, 0)

    def many(self, columns: int) -> Callable[[Pass], Grid]:
        """Tiles of so many columns, if there are more rows of x."""
        return lambda p: (ceil_div(columns, TILE), ceil_div(p.rows(self.x), TILE), 1) if p.rows(self.x) > NARROW else (0, 0, 0)

    def tiled(self, spans: Sequence[Span]) -> Iterator[Step]:
        """For more."""
        x = self.x_range
        if self.norm is not None:
            x = yield from self.normed(self.many(1))
        constants = {"TILE": TILE, "WG": TILE * TILE // 16, "CELLS": TILE * 8, **self.constants()}
        for span in spans:
            files = ("matmul_common", *span.layout.files, "x_plain" if self.even else "x_any", self.out, "matmul_tiled")
            ranges = (span.a, span.b, x, self.y_range, *self.more)
            yield Step(files, self.params(span, span.n_rows), ranges, self.many(span.n_rows), constants)

    def normed(self, wanted: Callable[[Pass], Grid]) -> Generator[Step, None, Range]:
        """The norm by itself, in passes that want it; returns where its result lies."""
        assert self.norm is not None
        h = self.site.scratch("normed", 4 * self.x.width * self.rows)
        step = row_step("rms_norm", self.site, self.x, (self.x_range, self.site.vector(self.norm), h), float(self.eps))
        yield replace(step, grid=lambda p: step.grid(p) if wanted(p)[0] else (0, 0, 0))
        return h


def lanes_for(units: int) -> int:
    """Threads that share a row: no more than it has units."""
    lanes = LANES
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
    eps, first, n_rows = float(op.params[0]), int(op.params[2]), int(op.params[3])
    spans = site.spans(_operand(gate), _operand(up))
    y = op.out[0]
    together = Product(site, _operand(x), y, first=first, norm=norm, eps=eps, up=n_rows)
    if len(spans) == 1 and not site.wide:
        yield from together.narrow(spans)
        return
    scratch = site.scratch("gate", 4 * y.width * (site.max_tokens if site.wide else NARROW))
    for out, half in (("out_plain", range(n_rows)), ("out_gate", range(n_rows, 2 * n_rows))):
        part = Product(site, _operand(x), y, first=first - half.start, norm=norm, eps=eps, out=out)
        if out == "out_plain":
            part.y_range = scratch
        else:
            part.more = (scratch,)
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
        files = ("matmul_common", *span.layout.files, "embed")
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
        lanes = lanes_for(units)
        x_groups, y_groups, _ = fold(ceil_div(rows, WG // lanes * ROWS), site.limits)
        kind = "x_plain" if even else "x_any"
        files = ("matmul_common", *span.layout.files, kind, "pick_expert", "reduce_shared", "out_plain", "matmul")
        ranges = (span.a, span.b, site.slot(x), site.slot(y), site.slot(experts))
        constants = {"WG": WG, "LANES": lanes, "ROWS": ROWS, "GATE": 0}
        yield Step(files, params, ranges, _by_pair(x_groups, y_groups, n_used), constants)


def _by_pair(x_groups: int, y_groups: int, n_used: int) -> Callable[[Pass], Grid]:
    return lambda p: (x_groups, y_groups, p.n_tokens * n_used)


LOWER: dict[str, Lower] = {
    "embed": lower_embed,
    "matmul": lower_matmul,
    "matmul_add": lower_matmul_add,
    "qkv": lower_qkv,
    "gate_up": lower_gate_up,
    "expert_matmul": lower_expert_matmul,
}

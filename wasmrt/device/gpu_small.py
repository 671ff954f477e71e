"""Small ops on a GPU: norms, element by element, routing and convolution as dispatches; next to products they take little time.

Norms, softmax and route take a workgroup a row. The others go over rows and columns in a grid of two dimensions, so that no
index is divided; a thread takes a few elements.
"""

from collections.abc import Callable, Iterator

from wasmrt.device.gpu_host import Limits, Range
from wasmrt.device.gpu_steps import Grid, Lower, Pass, Site, Step, ceil_div, fold, words
from wasmrt.program.ops import Op, Operand, Space

WG = 64  # threads of a workgroup, in all of these shaders
ELEMENTS = 4  # that a thread takes of a row
VALUE, ROW, NUMBER = 0, 1, 2  # what the second input of add and mul is
COMPUTE, MOVE, BOTH = 1, 2, 3  # PARTS of causal_conv.wgsl
UNIT = 32  # elements to which rows of vectors are padded


def lower_rms_norm(op: Op, site: Site) -> Iterator[Step]:
    x, w = operands(op)
    ranges = site.slot(x), site.vector(w), site.slot(op.out[0])
    yield row_step("rms_norm", site, x, ranges, float(op.params[0]))


def lower_layer_norm(op: Op, site: Site) -> Iterator[Step]:
    x, w, *b = operands(op)
    ranges = site.slot(x), site.vector(w), site.vector(b[0]) if b else site.dummy, site.slot(op.out[0])
    yield row_step("layer_norm", site, x, ranges, float(op.params[0]), HAS_B=len(b))


def lower_softmax(op: Op, site: Site) -> Iterator[Step]:
    [x] = operands(op)
    yield row_step("softmax", site, x, (site.slot(x), site.slot(op.out[0])))


def lower_binary(op: Op, site: Site) -> Iterator[Step]:
    """add, mul, swiglu: of two inputs, either of which the output may lie on."""
    x, y = operands(op)
    [out] = op.out
    first = site.dummy if lies_on(x, out) else site.slot(x)
    constants = {"IN_PLACE": lies_on(x, out) + 2 * lies_on(y, out)}
    if y.space is Space.WEIGHT:
        constants["Y_IS"] = NUMBER if y.width == 1 else ROW
        second = site.vector(y)
    else:
        second = site.dummy if lies_on(y, out) else site.slot(y)
    grid = plane(x.width, lambda p: p.rows(x), site.limits)
    files = ("rows", "elementwise", op.kernel)
    yield Step(files, words(x.width, are_out(x)), (first, second, site.slot(out)), grid, constants)


def lower_last_rows(op: Op, site: Site) -> Iterator[Step]:
    x = operands(op)[0]
    [out] = op.out
    grid = plane(x.width, lambda p: p.rows(out), site.limits)
    yield Step(("rows", "last_rows"), words(x.width, are_out(x)), (site.slot(x), site.slot(out)), grid)


def lower_route(op: Op, site: Site) -> Iterator[Step]:
    [logits] = operands(op)
    experts, weights = op.out
    ranges = site.slot(logits), site.slot(experts), site.slot(weights)
    yield Step(("rows", "route"), words(logits.width, experts.width), ranges, lambda p: fold(p.rows(logits), site.limits))


def lower_expert_mul(op: Op, site: Site) -> Iterator[Step]:
    x, w, experts = operands(op)
    n, n_used = x.width // experts.width, experts.width
    ranges = site.slot(x), site.vector(w), site.slot(experts), site.slot(op.out[0])
    grid = plane(n, lambda p: p.rows(x) * n_used, site.limits)
    yield Step(("rows", "expert_mul"), words(n, n_used), ranges, grid)


def lower_expert_sum(op: Op, site: Site) -> Iterator[Step]:
    x, weights = operands(op)
    [out] = op.out
    ranges = site.slot(x), site.slot(weights), site.slot(out)
    grid = plane(out.width, lambda p: p.rows(x), site.limits)
    yield Step(("rows", "expert_sum"), words(out.width, weights.width), ranges, grid)


def lower_causal_conv(op: Op, site: Site) -> Iterator[Step]:
    """The window is moved by those that have read it, or in a dispatch of its own once all have."""
    x, w = operands(op)
    out, window = op.out
    params = words(x.width, w.width, ceil_div(w.width, UNIT) * UNIT)
    ranges = site.slot(x), site.vector(w), site.slot(out), site.recurrent(window)
    for parts in (COMPUTE, MOVE) if site.wide else (BOTH,):
        by_row = parts == COMPUTE
        grid = plane(x.width, (lambda p: p.n_tokens) if by_row else (lambda p: 1), site.limits)
        yield Step(("rows", "causal_conv"), params, ranges, grid, {"PARTS": parts})


def row_step(kernel: str, site: Site, x: Operand, ranges: tuple[Range, ...], *params: float, **constants: float) -> Step:
    """A workgroup for each row of x."""
    return Step(
        ("rows", "group_sum", kernel),
        words(x.width, *params, are_out(x)),
        ranges,
        lambda p: fold(p.rows(x), site.limits),
        constants,
    )


def plane(n_columns: int, n_rows: Callable[[Pass], int], limits: Limits) -> Callable[[Pass], Grid]:
    """A grid over columns and rows, of as many workgroups as there may be: kernels go on in strides of it."""
    columns = min(ceil_div(n_columns, WG * ELEMENTS), limits.workgroups)

    def grid(p: Pass) -> Grid:
        rows = min(n_rows(p), limits.workgroups)
        return columns if rows else 0, rows, 1

    return grid


def operands(op: Op) -> list[Operand]:
    """The inputs that are there."""
    return [o for o in op.ins if o is not None]


def lies_on(x: Operand, out: Operand) -> int:
    """Whether an op writes where it reads x; a buffer cannot be bound for both."""
    return 1 if (x.space, x.index) == (out.space, out.index) else 0


def are_out(operand: Operand) -> int:
    """Whether an activation has the rows whose logits are wanted, and not those of all tokens; as shaders are told."""
    return 1 if operand.rows == "out" else 0


LOWER: dict[str, Lower] = {
    "rms_norm": lower_rms_norm,
    "layer_norm": lower_layer_norm,
    "softmax": lower_softmax,
    "add": lower_binary,
    "mul": lower_binary,
    "swiglu": lower_binary,
    "last_rows": lower_last_rows,
    "route": lower_route,
    "expert_mul": lower_expert_mul,
    "expert_sum": lower_expert_sum,
    "causal_conv": lower_causal_conv,
}

"""Small ops on a GPU: norms, element by element, routing and convolution as dispatches; next to products they take little time.

Norms, softmax and route take a workgroup a row, or a group of a row's elements. The others go over rows and columns in a grid
of two dimensions, so that no index is divided; a thread takes a few elements.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from wasmrt.device.gpu_host import Limits, Range
from wasmrt.device.gpu_steps import Grid, Lower, Pass, Site, Step, ceil_div, fold, words
from wasmrt.errors import UnsupportedError
from wasmrt.program.ops import FUNCTIONS, SCORES, Op, Operand, Space

WG = 64  # threads of a workgroup, in all of these shaders
ELEMENTS = 4  # that a thread takes of a row
VALUE, ROW, NUMBER = 0, 1, 2  # what the second input of add and mul is
COMPUTE, MOVE, BOTH = 1, 2, 3  # PARTS of causal_conv.wgsl
MOST_GROUPS = 4 * WG  # of route.wgsl
UNIT = 32  # elements to which rows of vectors are padded
HELPERS = {"geglu": ("gates",), "swiglu_oai": ("sigmoid",)}  # shaders that ops of two inputs need


def lower_rms_norm(op: Op, site: Site) -> Iterator[Step]:
    x, w = op.ins
    assert x
    yield norm_step("rms_norm", site, x, w, (), op.out[0], float(op.params[0]), int(op.params[1]))


def lower_layer_norm(op: Op, site: Site) -> Iterator[Step]:
    x, w, b = op.ins
    assert x
    yield norm_step("layer_norm", site, x, w, (b,), op.out[0], float(op.params[0]), int(op.params[1]))


def lower_softmax(op: Op, site: Site) -> Iterator[Step]:
    [x] = operands(op)
    params = words(x.width, are_out(x))
    ranges = site.slot(x), site.slot(op.out[0])
    yield Step(("rows", "group_sum", "softmax"), params, ranges, lambda p: fold(p.rows(x), site.limits))


def lower_unary(op: Op, site: Site) -> Iterator[Step]:
    [x] = operands(op)
    [out] = op.out
    function, *numbers = op.params
    constants = {"FUNCTION": FUNCTIONS.index(str(function)), "IN_PLACE": lies_on(x, out)}
    ranges = site.dummy if lies_on(x, out) else site.slot(x), site.slot(out)
    params = words(x.width, are_out(x), *map(float, numbers))
    grid = plane(x.width, lambda p: p.rows(x), site.limits)
    yield Step(("rows", "tanh", "sigmoid", "softplus", "unary"), params, ranges, grid, constants)


def lower_binary(op: Op, site: Site) -> Iterator[Step]:
    """add, mul and the gates: of two inputs, either of which the output may lie on."""
    x, y = operands(op)
    [out] = op.out
    first = site.dummy if lies_on(x, out) else site.slot(x)
    constants: dict[str, float] = {"IN_PLACE": lies_on(x, out) + 2 * lies_on(y, out)}
    if op.kernel == "swiglu_oai":
        constants["ALPHA"], constants["LIMIT"] = map(float, op.params)
    if y.space is Space.WEIGHT:
        constants["Y_IS"] = NUMBER if y.width == 1 else ROW
        second = site.vector(y)
    else:
        second = site.dummy if lies_on(y, out) else site.slot(y)
    grid = plane(x.width, lambda p: p.rows(x), site.limits)
    files = ("rows", *HELPERS.get(op.kernel, ()), "elementwise", op.kernel)
    yield Step(files, words(x.width, are_out(x)), (first, second, site.slot(out)), grid, constants)


def lower_last_rows(op: Op, site: Site) -> Iterator[Step]:
    x = operands(op)[0]
    [out] = op.out
    grid = plane(x.width, lambda p: p.rows(out), site.limits)
    yield Step(("rows", "last_rows"), words(x.width, are_out(x)), (site.slot(x), site.slot(out)), grid)


def lower_columns(op: Op, site: Site) -> Iterator[Step]:
    """A row here is a group of columns of a row."""
    [x] = operands(op)
    group, start, n = map(int, op.params)
    n_groups = x.width // group
    grid = plane(n, lambda p: p.rows(x) * n_groups, site.limits)
    params = words(n, are_out(x), n_groups, group, start)
    yield Step(("rows", "columns"), params, (site.slot(x), site.slot(op.out[0])), grid)


def lower_concat(op: Op, site: Site) -> Iterator[Step]:
    x, y = operands(op)
    of_x, of_y = map(int, op.params)
    n_groups = x.width // of_x
    grid = plane(of_x + of_y, lambda p: p.rows(x) * n_groups, site.limits)
    ranges = site.slot(x), site.slot(y), site.slot(op.out[0])
    yield Step(("rows", "concat"), words(of_x, of_y, are_out(x), n_groups), ranges, grid)


def lower_add_position(op: Op, site: Site) -> Iterator[Step]:
    x, w, _ = operands(op)
    n_positions = site.weight(w).shape[1]
    grid = plane(x.width, lambda p: p.rows(x), site.limits)
    ranges = site.slot(x), site.vector(w), site.slot(op.out[0])
    yield Step(("rows", "add_position"), words(x.width, stride_of(w), n_positions), ranges, grid)


def lower_temper(op: Op, site: Site) -> Iterator[Step]:
    x, _ = operands(op)
    grid = plane(x.width, lambda p: p.rows(x), site.limits)
    params = words(x.width, *map(float, op.params))
    yield Step(("rows", "temper"), params, (site.slot(x), site.slot(op.out[0])), grid)


def lower_route(op: Op, site: Site) -> Iterator[Step]:
    logits, bias = op.ins
    experts, weights = op.out
    assert logits
    n_used, score, normalize, scale, n_groups, n_groups_used = op.params
    n_experts, n_groups = logits.width, int(n_groups)
    if n_groups > MOST_GROUPS:
        most = f"a gpu takes at most {MOST_GROUPS}; open the model with device 'cpu'"
        raise UnsupportedError(f"experts in {n_groups} groups: {most}")
    if score == "softmax" and normalize and bias is None and n_groups == 1:
        score = "chosen"  # what all are divided by then falls out
    constants = {
        "SCORE": SCORES.index(str(score)), "NORMALIZE": int(normalize), "HAS_BIAS": int(bias is not None), "N_GROUPS": n_groups
    }  # fmt: skip
    params = words(n_experts, int(n_used), float(scale), n_experts // n_groups, int(n_groups_used))
    ranges = site.slot(logits), site.slot(experts), site.slot(weights), site.vector(bias) if bias else site.dummy
    files = "rows", "group_sum", "sigmoid", "route"
    yield Step(files, params, ranges, lambda p: fold(p.rows(logits), site.limits), constants)


def lower_expert_mul(op: Op, site: Site) -> Iterator[Step]:
    x, w, experts = operands(op)
    n, n_used = x.width // experts.width, experts.width
    ranges = site.slot(x), site.vector(w), site.slot(experts), site.slot(op.out[0])
    grid = plane(n, lambda p: p.rows(x) * n_used, site.limits)
    yield Step(("rows", "expert_mul"), words(n, n_used), ranges, grid)


def lower_expert_add(op: Op, site: Site) -> Iterator[Step]:
    x, w, experts = operands(op)
    n, n_used = x.width // experts.width, experts.width
    ranges = site.slot(x), site.vector(w), site.slot(experts), site.slot(op.out[0])
    grid = plane(n, lambda p: p.rows(x) * n_used, site.limits)
    yield Step(("rows", "expert_add"), words(n, n_used, stride_of(w)), ranges, grid)


def lower_expert_spread(op: Op, site: Site) -> Iterator[Step]:
    x, weights = operands(op)
    ranges = site.slot(x), site.slot(weights), site.slot(op.out[0])
    grid = plane(x.width, lambda p: p.rows(x) * weights.width, site.limits)
    yield Step(("rows", "expert_spread"), words(x.width, weights.width), ranges, grid)


def lower_expert_sum(op: Op, site: Site) -> Iterator[Step]:
    x, weights = op.ins
    [out] = op.out
    assert x
    constants = {} if weights else {"WEIGHTED": 0}
    ranges = site.slot(x), site.slot(weights) if weights else site.dummy, site.slot(out)
    grid = plane(out.width, lambda p: p.rows(x), site.limits)
    yield Step(("rows", "expert_sum"), words(out.width, int(op.params[0])), ranges, grid, constants)


def lower_causal_conv(op: Op, site: Site) -> Iterator[Step]:
    """The window is moved by those that have read it, or in a dispatch of its own once all have."""
    x, w = operands(op)
    out, window = op.out
    params = words(x.width, w.width, stride_of(w))
    ranges = site.slot(x), site.vector(w), site.slot(out), site.recurrent(window)
    for parts in (COMPUTE, MOVE) if site.wide else (BOTH,):
        by_row = parts == COMPUTE
        grid = plane(x.width, (lambda p: p.n_tokens) if by_row else (lambda p: 1), site.limits)
        yield Step(("rows", "causal_conv"), params, ranges, grid, {"PARTS": parts})


def norm_step(
    kernel: str, site: Site, x: Operand, w: Operand | None, others: Sequence[Operand | None], y: Operand, eps: float, group: int
) -> Step:
    """A norm of `group` elements at a time. others: vectors behind w, as long as it."""
    vectors = [site.dummy if o is None else site.vector(o) for o in (w, *others)]
    n_groups, stride = x.width // group, 0
    if w and n_groups > 1 and math.prod(site.weight(w).shape) > group:  # each group has its own part, in a row or in rows
        stride = group if len(site.weight(w).shape) == 1 else stride_of(w)
    constants: dict[str, float] = {"STRIDE": stride} if stride else {}
    absent = (("HAS_W", w), *(("HAS_B", o) for o in others))
    constants.update({name: 0 for name, o in absent if o is None})
    return norm_of(kernel, site, x, (site.slot(x), *vectors, site.slot(y)), eps, group, constants)


def norm_of(
    kernel: str, site: Site, x: Operand, ranges: tuple[Range, ...], eps: float, group: int, constants: Mapping[str, float]
) -> Step:
    """A workgroup for each group of each row of x."""
    n_groups = x.width // group
    return Step(
        ("rows", "group_sum", kernel),
        words(group, eps, are_out(x), n_groups),
        ranges,
        lambda p: fold(p.rows(x) * n_groups, site.limits),
        constants,
    )


def plane(n_columns: int, n_rows: Callable[[Pass], int], limits: Limits) -> Callable[[Pass], Grid]:
    """A grid over columns and rows, of as many workgroups as there may be: kernels go on in strides of it."""
    columns = min(ceil_div(n_columns, WG * ELEMENTS), limits.workgroups)

    def grid(p: Pass) -> Grid:
        rows = min(n_rows(p), limits.workgroups)
        return columns if rows else 0, rows, 1

    return grid


def stride_of(w: Operand) -> int:
    """Elements from a row of a vector to the next."""
    return ceil_div(w.width, UNIT) * UNIT


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
    "div": lower_binary,
    "swiglu": lower_binary,
    "geglu": lower_binary,
    "swiglu_oai": lower_binary,
    "unary": lower_unary,
    "columns": lower_columns,
    "concat": lower_concat,
    "add_position": lower_add_position,
    "temper": lower_temper,
    "last_rows": lower_last_rows,
    "route": lower_route,
    "expert_mul": lower_expert_mul,
    "expert_add": lower_expert_add,
    "expert_spread": lower_expert_spread,
    "expert_sum": lower_expert_sum,
    "causal_conv": lower_causal_conv,
}

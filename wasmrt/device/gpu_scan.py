"""Recurrent layers on a GPU: ssm_scan and delta_net as one dispatch each, which goes through a pass's tokens in sequence.

A workgroup keeps its part of the state in registers for all tokens of a pass.
"""

from collections.abc import Iterator

from wasmrt.device.gpu_small import WG, operands, stride_of
from wasmrt.device.gpu_steps import Lower, Site, Step, ceil_div, fold, words
from wasmrt.errors import UnsupportedError
from wasmrt.program.ops import Op

MOST_EACH = 32  # elements of the state that a thread holds of a row or column
MOST_N, MOST_D = 2048, 512  # elements of a row of ssm_scan.wgsl, by its threads, and of delta_net.wgsl, by its memory
SSM_LANES, DELTA_LANES = 8, 4  # threads that share one, if that is enough


def lower_ssm_scan(op: Op, site: Site) -> Iterator[Step]:
    x, dt, b, c, a, d = op.ins
    y, past = op.out
    assert x
    assert dt
    assert b
    assert c
    assert a
    n_heads, n_groups = map(int, op.params)
    n = b.width // n_groups
    rows = x.width
    # Rows of weights are padded. d is a row, or a row for each head.
    strides = {"A_STRIDE": stride_of(a), "A_EACH": int(a.width == n and n > 1), "D_STRIDE": 0}
    if d:
        strides["D_STRIDE"] = 1 if d.width == n_heads else stride_of(d)
    _check(n, MOST_N)
    constants = {"N": n, "LANES": lanes_for(n, SSM_LANES), **strides}
    ranges = (
        *(site.slot(o) for o in (x, dt, b, c)),
        site.vector(a),
        site.vector(d) if d else site.dummy,
        site.recurrent(past),
        site.slot(y),
    )
    grid = fold(ceil_div(rows, WG // constants["LANES"]), site.limits)
    params = words(n_heads, rows // n_heads, n_heads // n_groups, n_groups)
    yield Step(("softplus", "ssm_scan"), params, ranges, lambda p: grid, constants)


def lower_delta_net(op: Op, site: Site) -> Iterator[Step]:
    q, k, v, g, beta = operands(op)
    y, past = op.out
    n_heads, n_k_heads, scale, tiled = op.params
    d, d_v = q.width // int(n_k_heads), v.width // int(n_heads)
    _check(d, MOST_D)
    constants = {"D": d, "LANES": lanes_for(d, DELTA_LANES), "TILED": int(tiled)}
    ranges = *(site.slot(o) for o in (q, k, v, g, beta)), site.recurrent(past), site.slot(y)
    grid = ceil_div(d_v, WG // constants["LANES"]), int(n_heads), 1
    params = words(int(n_heads), int(n_k_heads), d_v, float(scale))
    yield Step(("delta_net",), params, ranges, lambda p: grid, constants)


def lanes_for(n: int, lanes: int) -> int:
    """Threads that share n elements: no more than there are, and enough of them."""
    while lanes > n:
        lanes //= 2
    while MOST_EACH * lanes < n:
        lanes *= 2
    return lanes


def _check(n: int, most: int) -> None:
    if n > most:
        told = f"a gpu takes at most {most}; open the model with device 'cpu'"
        raise UnsupportedError(f"a recurrent state with rows of {n} elements: {told}")


LOWER: dict[str, Lower] = {"ssm_scan": lower_ssm_scan, "delta_net": lower_delta_net}

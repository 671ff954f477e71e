"""Blocks that families share, written on a recorder."""

from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def linear(t: Recorder, w: Weights, name: str, x: Operand) -> Operand:
    """x times the matrix `name`, then the scale and the bias that some files carry. x: (T, n). Returns (T, m)."""
    y = t.matmul(getattr(w, name), x)
    scale, bias = w.get(name, "scale"), w.get(name, "bias")
    if scale is not None:
        y = t.mul(y, scale)
    return y if bias is None else t.add(y, bias)


def ffn_linear(t: Recorder, w: Weights, name: str, x: Operand) -> Operand:
    """As linear, but the scale also applies to the bias: the order in which ggml's feed-forward block has them."""
    y = t.matmul(getattr(w, name), x)
    scale, bias = w.get(name, "scale"), w.get(name, "bias")
    if bias is not None:
        y = t.add(y, bias)
    return y if scale is None else t.mul(y, scale)


def expert_linear(t: Recorder, w: Weights, name: str, x: Operand, experts: Operand) -> Operand:
    """x times the matrix of each chosen expert, then its scale. x: (T, n) or (T, n_used * n). Returns (T, n_used * m)."""
    y = t.expert_matmul(getattr(w, name), x, experts)
    scale = w.get(name, "scale")
    return y if scale is None else t.expert_mul(y, scale, experts)

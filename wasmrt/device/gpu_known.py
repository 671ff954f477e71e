"""What a model's programs alone show of GPUs: whether any can compute them. What an adapter has room for it says itself."""

from collections.abc import Sequence

from wasmrt.device import gpu_attention, gpu_matmul, gpu_scan, gpu_small
from wasmrt.device.gpu_host import Limits, Range
from wasmrt.device.gpu_layout import layout_of
from wasmrt.device.gpu_steps import Span
from wasmrt.device.gpu_tune import Tuning
from wasmrt.errors import UnsupportedError
from wasmrt.program.ops import Operand, Program, Weight

MIB = 1 << 20
# What WebGPU promises of every adapter.
LIMITS = Limits(128 * MIB, 256 * MIB, 16384, 256, 8, 65535, 256)
LOWER = {**gpu_small.LOWER, **gpu_attention.LOWER, **gpu_scan.LOWER}  # of these, what does not fit is known by the op alone
NOWHERE: Range = (None, 0, 16)


def check(programs: Sequence[Program]) -> None:
    """UnsupportedError for what no GPU computes: an op, its sizes, a format. programs: as they were recorded, not fused."""
    for program in dict.fromkeys(programs):
        for weight in program.weights:
            layout_of(weight.type)
        for op in program.ops:
            if op.kernel in LOWER:
                for wide in (False, True):
                    list(LOWER[op.kernel](op, Anywhere(program, wide)))
            elif op.kernel not in gpu_matmul.LOWER:
                raise UnsupportedError(f"the gpu device has no {op.kernel}; open the model with device 'cpu'")


class Anywhere:
    """A Site where everything is, and nothing."""

    features: frozenset[str] = frozenset()
    max_tokens, max_out, context, f16_cache = 256, 256, 256, False

    def __init__(self, program: Program, wide: bool) -> None:
        self._program, self.wide = program, wide
        self.limits, self.dummy, self.tokens, self.tuning = LIMITS, NOWHERE, NOWHERE, Tuning()
        self.kv_heads = next((int(op.params[1]) for op in program.ops if op.kernel == "attention"), 1)

    def slot(self, operand: Operand) -> Range:
        return NOWHERE

    def kv(self, index: int) -> Range:
        return NOWHERE

    def recurrent(self, operand: Operand) -> Range:
        return NOWHERE

    def weight(self, operand: Operand) -> Weight:
        return self._program.weights[operand.index]

    def constant(self, data: bytes) -> Range:
        return NOWHERE

    def host_vector(self, operand: Operand) -> Sequence[float]:
        return [1.0] * self.weight(operand).shape[0]

    def vector(self, operand: Operand) -> Range:
        return NOWHERE

    def spans(self, *operands: Operand) -> Sequence[Span]:
        raise NotImplementedError("ops with matrices are not lowered here")

    def scratch(self, name: str, n_bytes: int) -> Range:
        return NOWHERE

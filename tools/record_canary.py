"""Record what is right for the canary of GPUs, from the reference device: python tools/record_canary.py

Writes wasmrt/device/canary_truth.py; tests/test_gpu_trust.py checks that it is still what the reference device computes.
"""

import asyncio
import base64
from array import array
from collections.abc import Sequence
from pathlib import Path

from wasmrt.device.canary import CASES, CONTEXT, PASSES, Case, bind, digest, result
from wasmrt.device.choice import choose
from wasmrt.options import EngineOptions

OUT = Path(__file__).resolve().parents[1] / "wasmrt" / "device" / "canary_truth.py"
WIDTH = 120
HEAD = '''"""What is right for each case of canary.py, f32 (passes, SUMS) as base85. Written by tools/record_canary.py."""

TRUTH: dict[str, str] = {
'''


def truth_of(case: Case) -> Sequence[float]:
    """The digest of what the reference device computes."""
    program, choice = case.program(), choose(EngineOptions(device="reference"))
    needs = choice.sizes([program], max(PASSES), max(PASSES))
    n_bytes = needs.kv_bytes(CONTEXT) + needs.state_bytes + needs.activation_bytes + (1 << 20)
    memory, device = choice.make([program], n_bytes)
    (bound,) = bind(device, [program], [case.tensors], memory)
    return digest(asyncio.run(result(device, bound)))


def quoted(text: str) -> str:
    """Base85 has neither quotes nor backslashes."""
    return f'"{text}"'


def main() -> None:
    lines = [HEAD]
    for name, case in CASES.items():
        text = base64.b85encode(array("f", truth_of(case)).tobytes()).decode()
        lines.append(f'    "{name}": (\n')
        lines += [f"        {quoted(text[i : i + WIDTH])}\n" for i in range(0, len(text), WIDTH)]
        lines.append("    ),\n")
    OUT.write_text("".join([*lines, "}\n"]), encoding="utf-8")


if __name__ == "__main__":
    main()

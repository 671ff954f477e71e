"""Speed of the CPU device's matmul for each format: `python tools/bench_kernels.py [--formats Q4_K,Q8_0] [--threads 1]`.

One table: GB of packed weights read per second at one token, and multiply-adds per second (10^9) at many; medians. Weights are
random and larger than the caches.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt

from wasmrt.device.choice import choose
from wasmrt.device.device import FORMATS
from wasmrt.gguf.types import BY_NAME, TYPES, QuantType
from wasmrt.options import EngineOptions
from wasmrt.program.ops import Program
from wasmrt.program.record import Recorder
from wasmrt.store.memory import aligned


def program_of(quant: QuantType, n: int, m: int) -> Program:
    t = Recorder("bench")
    x = t.embed(t.weight("table", BY_NAME["F32"], (n, 1)))
    return t.finish(t.last_rows(t.matmul(t.weight("w", quant, (n, m)), x)))


def weights_of(quant: QuantType, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """About a MiB of whole blocks, as real weights are: processors are slow at subnormal numbers."""
    values = (rng.standard_normal(1 << 18) * 0.02).astype(np.float32)
    if quant.name == "F32":
        return values.view(np.uint8)
    if quant.name == "F16":
        return values.astype(np.float16).view(np.uint8)
    if quant.name == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    pool = rng.integers(0, 256, (1 << 20) // quant.block_bytes * quant.block_bytes, dtype=np.uint8)
    pool[1::2] &= 0x3B  # no f16 exponent of all ones, so no NaN
    if quant.name == "MXFP4":  # its exponent is a byte
        pool[:: quant.block_bytes] = 120
    return pool


async def measure(
    quant: QuantType, n: int, m: int, tokens: Sequence[int], device: str, threads: int | None, runs: int
) -> list[float]:
    """Seconds of the matmul, for each number of tokens: the median of `runs`."""
    program = program_of(quant, n, m)
    choice = choose(EngineOptions(device=device, threads=threads))
    sizes = choice.sizes([program], max(tokens), max(tokens))
    row = quant.row_bytes(n)
    rows = program.weights[1].rows_per_entry
    n_bytes = sum(map(aligned, sizes.activation_frames)) + aligned(4 * n) + program.weights[1].n_entries * aligned(rows * row)
    memory, machine = choice.make([program], n_bytes)
    try:
        machine.compile([program], max(tokens), max(tokens))
        bound = machine.bind(program, 1)
        rng = np.random.default_rng(1)
        pool = weights_of(quant, rng)
        for i in range(program.n_entries):
            size = 4 * n if i == 0 else min(rows, m - (i - 1) * rows) * row
            bound.table[i] = memory.allocate(size)
            data = np.resize(pool, size) if i else rng.standard_normal(n).astype(np.float32).view(np.uint8)
            memory.write(bound.table[i], data.tobytes())
        medians = []
        for t in tokens:
            machine.begin([0] * t, 0, t)
            await machine.run([bound], range(1))
            seconds, empty = [], []
            for _ in range(runs + 1):
                started = time.perf_counter()
                await machine.run([bound], range(1, 1))
                middle = time.perf_counter()
                await machine.run([bound], range(1, 2))
                empty.append(middle - started)
                seconds.append(time.perf_counter() - middle)
            medians.append(statistics.median(seconds[1:]) - statistics.median(empty[1:]))
        return medians
    finally:
        machine.close()
        memory.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ",".join(TYPES[i].name for i in sorted(FORMATS))
    parser.add_argument("--formats", default=names, help=f"default: {names}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of the prefill column")
    parser.add_argument("--shape", default="4096x16384", help="row length x rows")
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    n, m = map(int, args.shape.split("x"))
    print(f"{args.device}, {args.threads or 'default'} threads, {n} x {m}, median of {args.runs}")
    print(f"{'format':8} {'1 token':>12} {f'{args.tokens} tokens':>16}")
    for name in args.formats.split(","):
        quant = BY_NAME[name]
        one, many = asyncio.run(measure(quant, n, m, (1, args.tokens), args.device, args.threads, args.runs))
        gb = quant.row_bytes(n) * m / one / 1e9
        print(f"{name:8} {gb:7.1f} GB/s {args.tokens * n * m / many / 1e9:9.0f} GMAC/s", flush=True)


if __name__ == "__main__":
    main()

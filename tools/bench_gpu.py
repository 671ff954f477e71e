"""Speed of models on a GPU: `python tools/bench_gpu.py MODEL.gguf ... [--adapter 0|NAME] [--json]`.

For each model: prefill, time to the first token, decode (medians), what share that is of the rate at which the adapter reads
memory, and a table of a token's kernels, those that take most first. Before them, what Python takes to encode and submit a
token of 32 layers: on a fast GPU that is what small models wait for. A program that imitates a GPU is called software, and its
figures are of no use but to compare versions of this code.

A kernel's time is that of its dispatches one after another, again and again. What is then in a cache may not be there while a
whole model streams by, so a token takes longer than their sum.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.make_test_model import Shape, write_model
from wasmrt import engine
from wasmrt.bench import fit, prompt_ids, repetition
from wasmrt.device.gpu import GpuDevice
from wasmrt.device.gpu_host import Adapter, Dispatch, Range, bindings_of
from wasmrt.device.gpu_native import WgpuHost
from wasmrt.errors import WasmrtError

PROMPT, NEW, REPEAT = 512, 128, 5
# The dispatches of a 7B model, on weights that take no time.
LAYERS = Shape(256, 32, 4, 4, 64, 256, 512, 512)
TOKENS = 20  # that are encoded to see what a token takes
READ_BYTES = 256 << 20  # more than caches hold
SOFTWARE_READ_BYTES = 64 << 20
MEASURED = 0.05  # seconds that a kernel is timed for, at least

READ = """
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> found: array<u32>;
override COUNT: u32 = 1;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    var sum = vec4<u32>(0u, 0u, 0u, 0u);
    for (var i = id.x; i < COUNT; i += groups.x * 64u) { sum += data[i]; }
    if (sum.x + sum.y + sum.z + sum.w == 1u) { found[0] = 1u; }
}
"""
READ_GROUPS = 8192


async def seconds_of(host: WgpuHost, steps: Sequence[Dispatch], least: float = MEASURED) -> float:
    """That a list of dispatches takes, once it has run before: the median of five."""

    async def run(times: int) -> float:
        await host.done()
        start = time.perf_counter()
        host.submit(list(steps) * times)
        await host.done()
        return (time.perf_counter() - start) / times

    await run(1)
    times = max(1, min(1000, round(least / 5 / max(await run(1), 1e-6))))
    return statistics.median([await run(times) for _ in range(5)])


async def read_bandwidth(adapter: Adapter) -> float:
    """Bytes per second that a kernel reads which does nothing else."""
    host = WgpuHost(adapter)
    try:
        n_bytes = min(SOFTWARE_READ_BYTES if adapter.software else READ_BYTES, adapter.limits.binding, adapter.limits.buffer)
        data, found = host.buffer(n_bytes), host.buffer(4)
        bindings = bindings_of(READ)
        pipeline = host.pipeline("read", READ, bindings, {"COUNT": n_bytes // 16})
        ranges: list[Range] = [(data, 0, n_bytes), (found, 0, 4)]
        step = pipeline, host.group(bindings, ranges), min(READ_GROUPS, adapter.limits.workgroups), 1, 1
        return n_bytes / await seconds_of(host, [step])
    finally:
        host.close()


class Watched:
    """What a device submits while this is open, in the order of submits."""

    def __init__(self, host: Any) -> None:
        self._host, self._submit = host, host.submit
        self.submits: list[list[Dispatch]] = []

    def __enter__(self) -> "Watched":
        def submit(steps: Sequence[Dispatch], copies: Sequence[Any] = ()) -> None:
            self.submits.append(list(steps))
            self._submit(steps, copies)

        self._host.submit = submit
        return self

    def __exit__(self, *_: object) -> None:
        self._host.submit = self._submit


def device_of(model: engine.Model) -> GpuDevice:
    if not isinstance(model.device, GpuDevice):
        raise WasmrtError(f"{model.name} is not on one GPU, but on the {model.device.name} device")
    return model.device


async def one_token(model: engine.Model, token: int, pos: int) -> None:
    """A pass of one token, encoded and submitted, not waited for."""
    device, bounds = device_of(model), model._bounds
    device.begin([token], pos, 1)
    await device.run(bounds, range(len(bounds[-1].program.ops)))
    device._flush()


async def host_time(adapter: str) -> dict[str, float]:
    """What Python takes to encode and submit a token of 32 layers, with nothing to compute."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.gguf"
        write_model(path, "tiny", "Q4_K_M", shape=LAYERS)
        model = await engine.open(path, device=adapter, context=64)
        try:
            device = device_of(model)
            times, busy = [], []
            before = device.dispatches
            for pos in range(TOKENS):
                await device._finish()  # or a later token would wait for those before
                start, cpu = time.perf_counter(), time.thread_time()
                await one_token(model, 1, pos)
                times.append(time.perf_counter() - start)
                busy.append(time.thread_time() - cpu)
            return {
                "host_seconds_per_token": statistics.median(times),
                "host_cpu_seconds_per_token": statistics.median(busy),
                "host_dispatches_per_token": (device.dispatches - before) / TOKENS,
            }
        finally:
            await model.close()


async def kernels_of(model: engine.Model, pos: int) -> list[dict[str, Any]]:
    """A token's kernels, slowest first."""
    device = device_of(model)
    with Watched(device.host) as watched:
        await one_token(model, 1, pos)
    await device.host.done()
    groups: dict[tuple[str, tuple[int, int, int]], list[Dispatch]] = {}
    for step in (step for steps in watched.submits for step in steps):
        name = step[0].label.removeprefix("common+").removeprefix("matmul_common+")
        groups.setdefault((name, step[2:]), []).append(step)
    rows = []
    for (name, grid), steps in groups.items():
        seconds = await seconds_of(device.host, steps)  # type: ignore[arg-type]
        rows.append({"kernel": name, "grid": grid, "calls": len(steps), "microseconds": seconds / len(steps) * 1e6})
    return sorted(rows, key=lambda row: -row["calls"] * row["microseconds"])


async def measure(path: str, adapter: str, n_prompt: int, n_new: int, repeat: int, bandwidth: float) -> dict[str, Any]:
    model = await engine.open(path, device=adapter)
    try:
        device = device_of(model)
        n_prompt, n_new = fit(n_prompt, n_new, model.plan.context)
        samples, counts = [], []
        for i in range(repeat + 1):  # the first is not counted
            prompt = prompt_ids(n_prompt, model.config.n_vocab, i)
            await repetition(model, prompt, 1)
            before = device.dispatches, device.submits
            prefill = await repetition(model, [prompt[0] + 1, *prompt[1:]], 1)
            used = device.dispatches - before[0], device.submits - before[1]
            before = device.dispatches, device.submits
            # Decode by itself: after a prompt of one token.
            decode = await repetition(model, [prompt[0]], n_new)
            steps = max(1, decode.decode_steps)
            counts.append(((device.dispatches - before[0]) / steps, (device.submits - before[1]) / steps, *used))
            samples.append((prefill, decode))
        counted = samples[1:]
        rates = [d.decode_tokens_per_second for _, d in counted if d.decode_tokens_per_second]
        rate = statistics.median(rates) if rates else None
        weights = model.plan.touched_bytes
        return {
            "model": model.name,
            "prompt_tokens": n_prompt,
            "new_tokens": n_new,
            "prefill_tokens_per_second": statistics.median(p.prefill_tokens_per_second for p, _ in counted),
            "first_token_seconds": statistics.median(p.first_token_seconds for p, _ in counted),
            "decode_tokens_per_second": rate,
            "weight_bytes": weights,
            "weight_bytes_per_second": rate and weights * rate,
            "bandwidth_share": rate and weights * rate / bandwidth,
            "dispatches_per_token": counts[-1][0],
            "submits_per_token": counts[-1][1],
            "kernels": await kernels_of(model, min(n_prompt, model.plan.context - 1)),
        }
    finally:
        await model.close()


async def bench(args: argparse.Namespace) -> dict[str, Any]:
    adapter = f"gpu:{args.adapter}" if args.adapter else "gpu"
    host = await host_time(adapter)  # first, as it finds out whether there is such an adapter
    chosen = _adapter(adapter)
    bandwidth = await read_bandwidth(chosen)
    measured = [await measure(str(m), adapter, args.prompt, args.new, args.repeat, bandwidth) for m in args.models]
    return {
        "adapter": chosen.name,
        "backend": chosen.backend,
        "driver": chosen.driver,
        "software": chosen.software,
        "read_bytes_per_second": bandwidth,
        **host,
        "models": measured,
    }


def _adapter(device: str) -> Adapter:
    from wasmrt.device.choice import choose
    from wasmrt.options import EngineOptions

    site = choose(EngineOptions(device=device)).gpu
    assert site is not None
    return site.adapters[0]


def shown(result: dict[str, Any]) -> str:
    kind = "software, not a GPU" if result["software"] else "GPU"
    lines = [
        f"{result['adapter']} ({kind}; {result['backend']}, {result['driver']})",
        f"  reads {result['read_bytes_per_second'] / 1e9:.1f} GB/s",
        f"  Python takes {result['host_seconds_per_token'] * 1e3:.2f} ms to encode and submit a token of 32 layers "
        f"({result['host_cpu_seconds_per_token'] * 1e3:.2f} computing; {result['host_dispatches_per_token']:.0f} dispatches)",
    ]
    for m in result["models"]:
        lines += ["", f"{m['model']}: {m['weight_bytes'] / 1e9:.2f} GB of weights a token"]
        lines += [
            f"  prefill {m['prefill_tokens_per_second']:.1f} tokens/s, first token after {m['first_token_seconds']:.3f} s "
            f"({m['prompt_tokens']} tokens)"
        ]
        if m["decode_tokens_per_second"]:
            lines += [
                f"  decode {m['decode_tokens_per_second']:.1f} tokens/s: {m['weight_bytes_per_second'] / 1e9:.1f} GB/s, "
                f"{m['bandwidth_share']:.0%} of what is read at most; {m['dispatches_per_token']:.1f} dispatches and "
                f"{m['submits_per_token']:.2f} submits a token"
            ]
        lines += ["    ms/token   calls    us each  kernel"]
        for k in m["kernels"]:
            spent = k["calls"] * k["microseconds"] / 1e3
            lines += [f"  {spent:10.3f} {k['calls']:7} {k['microseconds']:10.1f}  {k['kernel']} {tuple(k['grid'])}"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--adapter", metavar="N|NAME", help="number, or part of the name, of the GPU (default: the best)")
    parser.add_argument("--prompt", type=int, default=PROMPT, metavar="N", help=f"tokens of the prompt (default: {PROMPT})")
    parser.add_argument("--new", type=int, default=NEW, metavar="N", help=f"tokens of the answer (default: {NEW})")
    parser.add_argument("--repeat", type=int, default=REPEAT, metavar="N", help=f"repetitions (default: {REPEAT})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    if min(args.prompt, args.new, args.repeat) < 1:
        parser.error("--prompt, --new and --repeat are at least 1")
    try:
        result = asyncio.run(bench(args))
    except (WasmrtError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1) if args.json else shown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

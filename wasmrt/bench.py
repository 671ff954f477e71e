"""wasmrt bench: load, prefill and decode of one model on one device.

Decoding a token reads every weight once, so weight bytes times tokens per second is the bandwidth achieved; what the machine
can read stands beside it. Python's share is what neither the device nor waiting for bytes explains.
"""

import logging
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmrt.errors import WasmrtError
from wasmrt.generate import GenerationStats, generate
from wasmrt.options import SamplerOptions

if TYPE_CHECKING:  # so that peak_rss_bytes can be had from any interpreter
    from wasmrt.engine import Model

log = logging.getLogger("wasmrt")

# What repetitions are summed up by: their median is reported, their extremes are its spread.
SUMMED_UP = (
    "first_token_seconds",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "stalled_seconds",
    "python_seconds_per_token",
    "python_share",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition. Decode is what comes after the first token; its parts are sums over all of its steps."""

    first_token_seconds: float
    prefill_tokens_per_second: float
    cached_tokens: int  # of the prompt, not computed: 0, or the rates above are of less than they say
    generated_tokens: int
    decode_steps: int
    decode_seconds: float
    kernel_seconds: float  # of decode: in the device's kernels
    decode_stalled_seconds: float  # of decode: waiting for bytes
    stalled_seconds: float  # of prefill and decode together
    bytes_read: int  # of prefill and decode together
    decode_bytes_read: int
    decode_passes: int

    @property
    def decode_tokens_per_second(self) -> float | None:
        """None if there was no step to measure: the first token comes from the prompt's pass."""
        return self.decode_steps / self.decode_seconds if self.decode_steps else None

    @property
    def python_seconds_per_token(self) -> float | None:
        """What a decode step spends neither in the device's kernels nor waiting for bytes."""
        if not self.decode_steps:
            return None
        elsewhere = self.kernel_seconds + self.decode_stalled_seconds
        return max(0.0, self.decode_seconds - elsewhere) / self.decode_steps

    @property
    def python_share(self) -> float | None:
        """The same as a part of decode: 0 to 1."""
        if (seconds := self.python_seconds_per_token) is None:
            return None
        return seconds * self.decode_steps / self.decode_seconds

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), **{name: getattr(self, name) for name in SUMMED_UP}}


async def measure(
    model: "Model",
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    repeat: int = 3,
    warmup: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Prefill a made-up prompt and decode greedily, `repeat` times, end tokens ignored; medians, samples and spreads.

    Lengths that the context does not hold are cut, with a note. warmup: one repetition more, before the others and not counted.
    progress is called with (tokens generated, tokens in all).
    """
    if repeat < 1:
        raise ValueError(f"repeat must be 1 or more, not {repeat}")
    n_prompt, n_new = fit(prompt_tokens, new_tokens, model.context)
    if (n_prompt, n_new) != (prompt_tokens, new_tokens):
        log.warning(
            f"the context holds {model.context}: measuring {n_prompt} prompt and {n_new} new tokens, "
            f"not {prompt_tokens} and {new_tokens}"
        )
    samples: list[Sample] = []
    total = (repeat + warmup) * n_new
    done = count(1)

    def on_token(_: int) -> None:
        if progress:
            progress(next(done), total)

    for i in range(repeat + warmup):
        sample = await repetition(model, prompt_ids(n_prompt, model.config.n_vocab, i), n_new, on_token)
        if i >= warmup:
            samples.append(sample)

    medians = {name: _median([getattr(sample, name) for sample in samples]) for name in SUMMED_UP}
    plan, threads = model.plan, model.stats.threads
    decode = medians["decode_tokens_per_second"]
    # Which experts a token visits is not known here.
    achieved = None if decode is None or model.config.n_experts else plan.touched_bytes * decode
    peak = peak_rss_bytes()  # before the memory that the next line reads
    possible = machine_read_bandwidth(threads)
    return {
        "model": model.name,
        "device": model.stats.device,
        "threads": threads,
        "prompt_tokens": n_prompt,
        "generated_tokens": samples[0].generated_tokens,
        "repeat": repeat,
        "load_seconds": model.stats.load_seconds,
        **medians,
        "read_bytes_per_second": achieved,
        "machine_read_bytes_per_second": possible,
        "read_share": achieved / possible if achieved is not None and possible else None,
        "bytes_per_pass": bytes_per_pass(samples),
        "bytes_bound": plan.bytes_bound,
        "store": model.stats.store,
        "peak_rss_bytes": peak,
        "spread": {name: spread([getattr(sample, name) for sample in samples]) for name in SUMMED_UP},
        "samples": [sample.as_dict() for sample in samples],
        "plan": plan.as_dict(),
    }


async def repetition(
    model: "Model", prompt: Sequence[int], n_new: int, on_token: Callable[[int], None] | None = None
) -> Sample:
    """One prompt and n_new greedy tokens, end tokens ignored; on_token is called with each.

    A first token other than the last prompt's leaves nothing in the cache to be used again.
    """
    stats = GenerationStats()
    before = model.stats
    decode = before  # what it was when decode began
    async for token in generate(model, prompt, SamplerOptions(temperature=0.0, top_k=1), n_new, (), stats):
        if stats.generated_tokens == 1:
            decode = model.stats
        if on_token:
            on_token(token)
    after = model.stats
    return Sample(
        first_token_seconds=stats.first_token_seconds,
        prefill_tokens_per_second=stats.prefill_tokens_per_second,
        cached_tokens=stats.cached_tokens,
        generated_tokens=stats.generated_tokens,
        decode_steps=stats.decode_steps,
        decode_seconds=stats.decode_seconds,
        kernel_seconds=after.kernel_seconds - decode.kernel_seconds,
        decode_stalled_seconds=after.store["stalled_seconds"] - decode.store["stalled_seconds"],
        stalled_seconds=after.store["stalled_seconds"] - before.store["stalled_seconds"],
        bytes_read=after.store["bytes_read"] - before.store["bytes_read"],
        decode_bytes_read=after.store["bytes_read"] - decode.store["bytes_read"],
        decode_passes=stats.decode_passes,
    )


def bytes_per_pass(samples: Sequence[Sample]) -> float:
    """What a pass read, on average over decode, as the first pass also reads what then stays; without decode, over all."""
    passes = sum(sample.decode_passes for sample in samples)
    if not passes:
        return sum(sample.bytes_read for sample in samples) / len(samples)
    return sum(sample.decode_bytes_read for sample in samples) / passes


def prompt_ids(n: int, n_vocab: int, repetition: int) -> list[int]:
    """A made-up prompt. Two repetitions in a row begin with different ids, so that no prefix of one serves the next."""
    return [(7 * i + 1 + repetition) % n_vocab for i in range(n)]


def fit(prompt_tokens: int, new_tokens: int, context: int) -> tuple[int, int]:
    """The lengths as asked if the context holds them; else cut, the answer to what the prompt leaves or half of the context.

    The last new token is not computed any further and needs no position.
    """
    positions = context + 1
    n_new = min(new_tokens, max(positions - prompt_tokens, positions // 2, 1))
    return min(prompt_tokens, positions - n_new), n_new


def machine_read_bandwidth(threads: int) -> float | None:
    """Bytes per second that so many threads read from memory on this machine, or None where the kernels cannot be run."""
    try:
        from wasmrt.device.cpu_native import read_bandwidth

        return read_bandwidth(threads)
    except (ImportError, WasmrtError):
        return None


def peak_rss_bytes() -> int | None:
    """The most memory that this process has had resident, or None where the system does not say."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    try:
        # Not getrusage: its peak is also that of whoever started this process, if that was larger.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def spread(values: Sequence[float | None]) -> list[float] | None:
    """The least and the most of values, or None if there are none."""
    known = [value for value in values if value is not None]
    return [min(known), max(known)] if known else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def table(measured: dict[str, Any]) -> str:
    """The measurement as lines for a person."""

    def row(key: str, unit: str, digits: int, factor: float = 1) -> str:
        if measured[key] is None:
            return "unknown"
        text = f"{factor * measured[key]:.{digits}f} {unit}"
        if measured["repeat"] > 1 and key in measured["spread"]:
            low, high = (f"{factor * value:.{digits}f}" for value in measured["spread"][key])
            text += f" ({low} to {high})"
        return text

    threads, repeat = measured["threads"], measured["repeat"]
    rows = [
        ("model", measured["model"]),
        ("device", f"{measured['device']}, {_plural(threads, 'thread')}"),
        ("measured", f"{_plural(measured['prompt_tokens'], 'prompt token')}, {measured['generated_tokens']} new"),
        ("runs", f"{repeat}, the median of each figure" + (" (least to most)" if repeat > 1 else "")),
        ("load", row("load_seconds", "s", 3)),
        ("first token", row("first_token_seconds", "s", 3)),
        ("prefill", row("prefill_tokens_per_second", "tok/s", 1)),
        ("decode", row("decode_tokens_per_second", "tok/s", 1)),
        ("python", f"{row('python_seconds_per_token', 'ms a token', 3, 1e3)}, {row('python_share', '% of decode', 1, 100)}"),
        ("weights", f"{measured['plan']['touched_bytes'] / 2**20:.1f} MiB a pass"),
        ("achieved", row("read_bytes_per_second", "GB/s of weights", 2, 1e-9)),
        ("machine", row("machine_read_bytes_per_second", "GB/s of memory", 2, 1e-9)),
        ("share", row("read_share", "% of the machine's", 1, 100)),
        ("streamed", f"{row('bytes_per_pass', 'MiB a pass', 1, 2**-20)}; memory lacks {row('bytes_bound', 'MiB', 1, 2**-20)}"),
        ("stalled", row("stalled_seconds", "s", 3)),
        ("peak memory", row("peak_rss_bytes", "MiB", 0, 2**-20)),
    ]
    return "".join(f"{name:12} {value}\n" for name, value in rows)


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" + ("s" if n != 1 else "")

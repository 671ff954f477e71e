"""wasmrt bench: load, prefill and decode of one model on one device."""

import sys
from typing import Any

import psutil

from wasmrt.engine import Model
from wasmrt.generate import GenerationStats, generate
from wasmrt.sampling import SamplerOptions


async def measure(model: Model, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    """Prefill a made-up prompt and decode greedily, end tokens ignored. Lengths are cut to what the context holds."""
    prompt_tokens = min(prompt_tokens, max(1, model.context - new_tokens))
    prompt = [(7 * i + 1) % model.config.n_vocab for i in range(prompt_tokens)]
    stats = GenerationStats()
    passes, bytes_read = model.stats.passes, model.stats.store["bytes_read"]
    async for _ in generate(model, prompt, SamplerOptions(temperature=0.0, top_k=1), new_tokens, (), stats):
        pass
    plan = model.plan
    passes, bytes_read = model.stats.passes - passes, model.stats.store["bytes_read"] - bytes_read
    return {
        "model": model.name,
        "device": model.stats.device,
        "threads": 1,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "load_seconds": model.stats.load_seconds,
        "first_token_seconds": stats.first_token_seconds,
        "prefill_tokens_per_second": stats.prefill_tokens_per_second,
        "decode_tokens_per_second": stats.decode_tokens_per_second,
        "bytes_per_pass": bytes_read / passes,
        "bytes_bound": max(0, plan.touched_bytes - plan.resident_bytes),
        "stalled_seconds": model.stats.store["stalled_seconds"],
        "peak_rss_bytes": peak_rss_bytes(),
        "plan": plan.as_dict(),
    }


def peak_rss_bytes() -> int | None:
    """The most memory that this process has had resident, or None where the system does not say."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def table(measured: dict[str, Any]) -> str:
    """The measurement as lines for a person."""
    rss = measured["peak_rss_bytes"]
    rows = [
        ("model", measured["model"]),
        ("device", f"{measured['device']}, {measured['threads']} thread"),
        ("load", f"{measured['load_seconds']:.3f} s"),
        ("prefill", f"{measured['prefill_tokens_per_second']:.1f} tok/s ({measured['prompt_tokens']} tokens)"),
        ("first token", f"{measured['first_token_seconds']:.3f} s"),
        ("decode", f"{measured['decode_tokens_per_second']:.1f} tok/s ({measured['generated_tokens']} tokens)"),
        ("weights", f"{measured['plan']['touched_bytes'] / 2**20:.1f} MiB a pass, {measured['bytes_per_pass']:.0f} B streamed"),
        ("peak memory", "unknown" if rss is None else f"{rss / 2**20:.0f} MiB"),
    ]
    return "".join(f"{name:12} {value}\n" for name, value in rows)

"""Rows of tools/acceptance.py about Chromium: speed beside wllama's, models past 4 GiB and models larger than memory."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import wasmrt
from tests.browser.engines import missing
from tools import bench_browser
from tools.acceptance_base import LARGE, ROOT, SMALL, Found, Setup, Skip, apart, compared, gb, model_file
from tools.bench_browser import ENGINE, NATIVE, PEER, opened, peak_rss
from tools.bench_peers import RATES
from wasmrt.bench import prompt_ids

THREADS = 2
CONTEXT = 256
PROMPT_TOKENS, TOKENS = 8, 6
RUN_SECONDS = 900.0
LARGE_BUDGET = 1 << 30
LARGE_MEMORY = 7 * 10**9  # bytes that must be free to have the large model in a page, and its file on the way
BESIDES = 300  # MiB that a page takes beside the engine's memory: Python, the kernels' code, what is on its way

RUN = """
import { open } from "/wasmrt.js";

export default async ({ url, local, prompt, n, options }) => {
  const ref = local ? new File([await (await fetch(url)).blob()], "chosen.gguf") : url;
  const model = await open(ref, { device: "cpu", draft: 0, cache: false, ...options });
  const written = [];
  const write = async (maxTokens) => {
    const text = model.generate([...prompt, ...written], { maxTokens });
    for await (const piece of text) { /* its tokens are wanted */ }
    written.push(...text.tokens);
    return model.stats();
  };
  const first = await write(1); // which also reads what then stays
  const last = await write(n - 1);
  await model.close();
  return { tokens: written, plan: { ...model.plan, homes: null }, first, last };
};
"""


# Speed


@cache
def beside_wllama(setup: Setup) -> dict[str, Any]:
    """What bench_browser measures. Raises Skip where the browser is not there."""
    arguments = [str(model_file(setup, *SMALL)), "--peer", "--native", "--threads", str(THREADS)]
    return bench_browser.measure(bench_browser.parser().parse_args([*arguments, "--most-others", str(setup.most_others)]))


def over(setup: Setup, name: str, rate: str, target: float) -> Found:
    require_browser()
    found = beside_wllama(setup)
    ours, theirs = (found["runtimes"][runtime][rate]["median"] for runtime in (bench_browser.PAGE, name))
    note = f"{ours:.1f} and {theirs:.1f} tok/s, threads {found['threads']}, rounds {found['rounds']}"
    return compared(found["ratios"][name][rate]["median"], ">=", target, note=note)


def browser_prefill(setup: Setup) -> Found:
    """speed of a prompt in a page, over wllama's"""
    return over(setup, PEER, RATES[0], 3)


def browser_decode(setup: Setup) -> Found:
    """speed of decoding in a page, over wllama's"""
    return over(setup, PEER, RATES[1], 3)


def browser_native_prefill(setup: Setup) -> Found:
    """speed of a prompt in a page, over that outside of the browser"""
    return over(setup, NATIVE, RATES[0], 0.8)


def browser_native_decode(setup: Setup) -> Found:
    """speed of decoding in a page, over that outside of the browser"""
    return over(setup, NATIVE, RATES[1], 0.8)


def browser_gpu_share(setup: Setup) -> Found:
    """Python's and JavaScript's part of a token of 32 layers with WebGPU, the median of twelve"""
    require_browser()
    found = bench_browser.gpu_overhead(ENGINE)
    note = f"{found['dispatches']:.0f} dispatches; in chains {1e3 * found['chained_seconds']:.2f} ms"
    return compared(1e3 * found["seconds"], "<=", 3, "ms", note)


# Memory


def in_page(file: Path, options: dict[str, Any], local: bool = False) -> dict[str, Any]:
    """What RUN gives, with what the browser's memory grew by at the most, of a browser of its own."""
    with opened(ENGINE) as (site, page, browser):
        site.models[file.name] = file
        given = {"url": f"/models/{file.name}", "local": local, "prompt": prompt_ids(PROMPT_TOKENS, 1000, 0), "n": TOKENS}
        given["options"] = {"context": CONTEXT, "threads": THREADS, **options}
        before = browser.rss()
        with peak_rss(browser) as peak:
            found: dict[str, Any] = site.call(page, RUN, given, RUN_SECONDS)
        return {**found, "grown": max(peak) - before}


def native_ids(file: Path) -> list[int]:
    with wasmrt.load(file, device="cpu", context=CONTEXT) as model:
        text = model.generate(prompt_ids(PROMPT_TOKENS, 1000, 0), max_tokens=TOKENS)
        list(text)
        return text.tokens


@cache
def wanted(file: Path) -> list[int]:
    return apart(native_ids, file)


def large(setup: Setup) -> Path:
    import psutil

    require_browser()
    if not setup.large or (free := psutil.virtual_memory().available) < LARGE_MEMORY:
        raise Skip(f"needs {gb(LARGE_MEMORY)} of memory; {gb(free)} are available" if setup.large else "--no-large")
    return model_file(setup, *LARGE)


@cache
def large_streamed(setup: Setup) -> dict[str, Any]:
    return in_page(large(setup), {"memory": LARGE_BUDGET})


def browser_large_bytes(setup: Setup) -> Found:
    """the large model in a page within 1 GiB: what a pass reads, over what memory lacks of the weights; the resident ids"""
    return streamed(large_streamed(setup), wanted(large(setup)), LARGE_BUDGET)


def browser_large_memory(setup: Setup) -> Found:
    """what the browser grows by with the large model within 1 GiB"""
    found = large_streamed(setup)
    note = f"{found['plan']['total_bytes'] / 2**20:.0f} MiB planned; {BESIDES} MiB are for Python and what is on its way"
    return compared(found["grown"] / 2**20, "<=", LARGE_BUDGET / 2**20 + BESIDES, "MiB", note)


def browser_large_resident(setup: Setup) -> Found:
    """the large model whole in a page's memory, past 4 GiB: ids that are those outside of the browser"""
    file = large(setup)
    found = in_page(file, {"memory": "8GiB", "context": 1024})  # so that the cache reaches past 4 GiB
    same = bench_browser.same(found, {"tokens": wanted(file)})
    total, streamed_bytes = found["plan"]["total_bytes"], found["plan"]["streamed_bytes"]
    ok = same == 1 and total > 1 << 32 and not streamed_bytes
    decoding = found["last"]["kernel_seconds"] - found["first"]["kernel_seconds"]
    note = f"{total / 2**30:.2f} GiB, browser {found['grown'] / 2**30:.2f} GiB larger, {(TOKENS - 1) / decoding:.1f} tok/s"
    return Found(f"{100 * same:.0f} % same", "100 % same", ok, note)


def browser_stream_url(setup: Setup) -> Found:
    """a model three times its budget, from a server: what a pass reads, over what memory lacks; the resident ids"""
    return streamed_third(setup, local=False)


def browser_stream_file(setup: Setup) -> Found:
    """a model three times its budget, from a File that the user chose: the same"""
    return streamed_third(setup, local=True)


def streamed_third(setup: Setup, local: bool) -> Found:
    require_browser()
    file = model_file(setup, *SMALL)
    budget = file.stat().st_size // 3
    found = in_page(file, {"memory": budget}, local)
    # The ring that all else goes through: in a budget this small a sixteenth of what memory lacks.
    return streamed(found, wanted(file), budget, found["plan"]["staging_bytes"])


def streamed(found: dict[str, Any], ids: list[int], budget: int, spare: int = 0) -> Found:
    """spare: bytes that a pass may read besides."""
    plan, first, last = (found[name] for name in ("plan", "first", "last"))
    a_pass = (last["store"]["bytes_read"] - first["store"]["bytes_read"]) / (last["passes"] - first["passes"])
    same = found["tokens"] == ids
    note = (
        f"{'the resident' if same else 'OTHER'} ids; {a_pass / 1e6:.0f} MB a pass, {plan['bytes_bound'] / 1e6:.0f} lacking; "
        f"{plan['total_bytes'] / 2**20:.0f} of {budget / 2**20:.0f} MiB, browser {found['grown'] / 2**20:.0f} MiB larger"
    )
    result = compared(a_pass / plan["bytes_bound"], "<=", round(1.05 + spare / plan["bytes_bound"], 3), note=note)
    return result._replace(ok=result.ok and same and plan["total_bytes"] <= budget)


# Serving


def serve_rate(setup: Setup) -> Found:
    """ranges of 8 MiB from `wasmrt serve` to one client"""
    command = [sys.executable, str(ROOT / "tools" / "bench_serve.py"), "--json"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    row = found["rows"][0]
    note = f"{row['least'] / 1e9:.2f} to {row['most'] / 1e9:.2f}; {row['processor_seconds_per_gb']:.2f} CPU s a GB"
    return compared(row["bytes_per_second"] / 1e9, ">=", 2, "GB/s", note)


def require_browser() -> None:
    if why := missing(ENGINE):
        raise Skip(why)


ROWS = (
    browser_prefill, browser_decode, browser_native_prefill, browser_native_decode, browser_gpu_share, browser_stream_url,
    browser_stream_file, browser_large_bytes, browser_large_memory, browser_large_resident, serve_rate,
)  # fmt: skip

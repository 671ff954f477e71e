"""wasmrt in a page, beside wllama there and itself outside: `python tools/bench_browser.py FILE.gguf --peer --native`.

All run the same file with the same threads, the same prompt and the same number of greedy tokens. The two in a page are in the
same page of one browser, and each keeps its model; the one outside of it is a process of its own. Turns alternate, and ratios
are those of turns side by side; the first round is not counted. --most-others 0.1 repeats the rounds in which other processes
took more than a tenth of a core: see tools/bench_peers.py.

wllama is llama.cpp compiled for pages. It comes as its npm package, and computes on the CPU.

--gpu-overhead measures something else: what Python and JavaScript take of a token of 32 layers with WebGPU. No file is needed.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import signal
import statistics
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser.engines import ENGINES, Browser, missing, started  # noqa: E402  run as a script, from any folder
from tests.browser.server import PageError, PageHung, PageState, Site  # noqa: E402
from tools import bench_peers  # noqa: E402
from tools.bench_peers import (  # noqa: E402
    RATES,
    SETTLE_SECONDS,
    TRIES,
    Child,
    PeerError,
    busy_seconds,
    cores,
    file,
    middle,
    rates,
    ratios,
    whole,
)  # fmt: skip
from tools.build_web import build  # noqa: E402
from tools.make_test_model import Shape, write_model  # noqa: E402
from tools.web_parts import BuildError, Part, fetch  # noqa: E402
from wasmrt.bench import prompt_ids  # noqa: E402
from wasmrt.engine import open_tokenizer  # noqa: E402
from wasmrt.errors import WasmrtError  # noqa: E402
from wasmrt.resources import demo_model  # noqa: E402
from wasmrt.sync import call  # noqa: E402
from wasmrt.tokenizer import Tokenizer  # noqa: E402

WLLAMA = Part(
    "@wllama/wllama", "3.8.1", "npm", "wllama-wllama-3.8.1.tgz", "sha512",
    "3e5ec110984f53c3879d5ff2867dc31596212cb39d48787ee13343efd5827ed1"
    "e795401d40f02cc9cfc27c8398fb8995c6f7f9556dd7c3751fec105fa2d4b583",
)  # fmt: skip
WLLAMA_FILES = {"/wllama/index.js": "package/esm/index.js", "/wllama/wllama.wasm": "package/esm/wasm/wllama.wasm"}
WLLAMA_MOST_BYTES = 2 * 10**9  # it takes a file in one piece

ENGINE = "chromium"  # unless another is named
PAGE, PEER, NATIVE = "wasmrt", "wllama", "native"
CONTEXT = 512  # at least
START_SECONDS, ASK_SECONDS = 120.0, 900.0
RSS_SECONDS = 0.1  # between two looks at the browser's memory
EMPTYING_ID = 5  # its pass leaves nothing in the cache that a prompt could begin with

# One turn of each runtime, by name.
Round = dict[str, dict[str, Any]]


class Runtime(Protocol):
    """What takes turns: bench_peers.Child, or InPage."""

    name: str

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]: ...


class InPage:
    """A runtime of tools/bench_browser.js. Its turns tell the CPU time of all of the browser's processes."""

    def __init__(self, name: str, site: Site, page: PageState, browser: Browser) -> None:
        self.name = name
        self._site, self._page, self._browser = site, page, browser

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        busy = self._cpu_seconds()
        source = 'import { ask } from "/bench.js";\nexport default ({ name, what, args }) => ask(name, what, args);'
        try:
            with peak_rss(self._browser) as peak:
                command = {"name": self.name, "what": do, "args": arguments}
                answer: dict[str, Any] = self._site.call(self._page, source, command, ASK_SECONDS)
        except (PageError, PageHung) as error:
            raise PeerError(f"{self.name} in {self._browser.engine}: {error}") from error
        return {**answer, "cpu_seconds": self._cpu_seconds() - busy, "peak_rss_bytes": max(peak)}

    def _cpu_seconds(self) -> float:
        total = 0.0
        for process in self._browser.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:2])
        return total


@contextlib.contextmanager
def opened(engine: str, csp: bool = True) -> Iterator[tuple[Site, PageState, Browser]]:
    """An isolated page with our files, in a browser of its own. Raises PeerError."""
    try:
        folder = build()
    except BuildError as error:
        raise PeerError(str(error)) from error
    with Site(folder) as site:
        page = site.page("isolated", csp)
        with started(engine, page.url) as browser:
            if not site.wait_for(page, 1, START_SECONDS):
                raise PeerError(f"{engine} does not open {page.url}: {browser.log()}")
            yield site, page, browser


@contextlib.contextmanager
def peak_rss(browser: Browser) -> Iterator[list[int]]:
    """The browser's memory, looked at again and again meanwhile."""
    seen, ended = [browser.rss()], threading.Event()

    def look() -> None:
        while not ended.wait(RSS_SECONDS):
            seen.append(browser.rss())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        seen.append(browser.rss())


# Prompts


def prompt(tokenizer: Tokenizer, n: int, i: int) -> tuple[str, list[int]]:
    """A made-up text of n tokens with the begin token, if the model wants one: wllama takes no ids. Of each i another."""
    n_vocab = tokenizer.n_vocab
    for salt in range(i, i + 1000, 10):
        ids = [(9973 * (salt + 1) + id) % n_vocab for id in prompt_ids(4 * n + 64, n_vocab, i)]
        pool = tokenizer.detokenize(ids)
        low, high = 0, len(pool)
        while low < high:  # more text has more tokens, but where a character joins two of them
            half = (low + high) // 2
            low, high = (half + 1, high) if len(tokenizer.tokenize(pool[:half], tokenizer.add_bos)) < n else (low, half)
        ids = tokenizer.tokenize(pool[:low], tokenizer.add_bos)
        if len(ids) == n:
            return pool[:low], ids
    raise PeerError(f"no text of exactly {n} tokens was found for this vocabulary; try another --prompt")


def broken_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens whose bytes are no text by themselves. wllama fails when a model of random weights writes them in disorder."""
    return [id for id in range(tokenizer.n_vocab) if "\ufffd" in tokenizer.detokenize([id])]


# The measurement


def compare(
    runtimes: Sequence[Runtime], prompts: Sequence[tuple[str, list[int]]], n: int, rounds: int, most_others: float
) -> list[Round]:
    """The rounds that count: as many as asked, in which the rest of the machine took at most so many cores.

    prompts: one for each round that may be tried; the first round is not counted.
    """
    kept: list[Round] = []
    for i, (text, ids) in enumerate(prompts):
        found = {runtime.name: _turn(runtime, text, ids, n) for runtime in runtimes}
        if i > 0 and bench_peers.is_quiet(found, most_others):
            kept.append(found)
        if len(kept) == rounds:
            break
    if not kept:
        raise PeerError(f"others took more than {most_others} cores in each round; try again on a quiet machine")
    return kept


def _turn(runtime: Runtime, text: str, ids: list[int], n: int) -> dict[str, Any]:
    """One turn, with tokens per second and how many cores the rest of the machine took meanwhile."""
    if runtime.name != PEER:  # which is told not to use what it has cached
        runtime.ask("run", ids=[EMPTYING_ID], n=1)
    time.sleep(SETTLE_SECONDS)
    clock, busy = time.perf_counter(), busy_seconds()
    turn = runtime.ask("run", **({"text": text} if runtime.name == PEER else {"ids": ids}), n=n)
    busy = busy_seconds() - busy - turn["cpu_seconds"]
    # A process of bench_peers computes all it is asked for, or fails.
    if (found := (turn.get("n_prompt", len(ids)), turn.get("n", n))) != (len(ids), n):
        raise PeerError(f"{runtime.name} computed {found[0]} tokens of a prompt of {len(ids)} and wrote {found[1]} of {n}; "
                        "where a model ends its texts early, take fewer --tokens")  # fmt: skip
    others = max(0.0, busy) / (time.perf_counter() - clock)
    return {**turn, **rates(turn, len(ids), n), "cores_of_others": others}


def sum_up(loaded: Round, rounds: Sequence[Round]) -> dict[str, Any]:
    """The figures of each runtime over all rounds, and those of the page in relation to the others'."""
    found = {
        name: {
            **loaded[name],
            **{key: middle([turns[name][key] for turns in rounds]) for key in (*RATES, "cores_of_others")},
        }
        for name in loaded
    }
    samples = {name: {rate: [turns[name][rate] for turns in rounds] for rate in RATES} for name in loaded}
    others = [name for name in loaded if name != PAGE]
    return {
        "rounds": len(rounds),
        "runtimes": found,
        "samples": samples,
        "ratios": {name: {rate: ratios(samples[PAGE][rate], samples[name][rate]) for rate in RATES} for name in others},
        "same": {name: [same(turns[PAGE], turns[name]) for turns in rounds] for name in others},
    }


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """How much of what was written is equal before the first difference, from 0 to 1: of tokens, or of a text."""
    key = "tokens" if "tokens" in theirs else "text"
    pairs = list(itertools.zip_longest(ours[key], theirs[key]))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs)) / max(len(pairs), 1)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load all, run all turns, sum up. Raises PeerError."""
    if why := missing(args.browser):
        raise PeerError(why)
    size = args.file.stat().st_size
    if args.peer and size > WLLAMA_MOST_BYTES:
        raise PeerError(f"wllama takes a file of at most {WLLAMA_MOST_BYTES / 1e9:.0f} GB; this one has {size / 1e9:.1f}")
    try:
        tokenizer = call(open_tokenizer(args.file))
        wllama = wllama_files() if args.peer else {}
    except (WasmrtError, BuildError) as error:
        raise PeerError(str(error)) from error
    tries = args.rounds * (1 if args.most_others == math.inf else TRIES)
    prompts = [prompt(tokenizer, args.prompt, i) for i in range(tries + 1)]
    bench_peers.read_through(args.file)
    context = max(CONTEXT, args.prompt + args.tokens)
    options = {"threads": args.threads, "context": context, "device": args.device}
    with contextlib.ExitStack() as stack:
        # wllama makes its worker of a text, which a page's strict policy forbids.
        site, page, browser = stack.enter_context(opened(args.browser, csp=False))
        site.models[args.file.name] = args.file.resolve()
        site.files |= {"/bench.js": (ROOT / "tools" / "bench_browser.js").read_bytes(), **wllama}
        runtimes: list[Runtime] = []
        loaded: Round = {}
        for name in (PAGE, PEER) if args.peer else (PAGE,):
            runtime = InPage(name, site, page, browser)
            before = browser.rss()
            loaded[name] = runtime.ask("load", url=f"/models/{args.file.name}", never=broken_ids(tokenizer), **options)
            text, ids = prompts[0]
            first = runtime.ask("run", text=text, ids=ids, n=args.tokens)
            peak = max(loaded[name]["peak_rss_bytes"], first["peak_rss_bytes"])
            loaded[name] |= {"peak_rss_bytes": peak, "added_rss_bytes": peak - before}
            runtimes.append(runtime)
        if args.native:
            child = Child("wasmrt", sys.executable)
            stack.callback(child.close)
            child.name = NATIVE
            loaded[NATIVE] = child.ask("load", file=str(args.file), repack=True, **options)
            runtimes.append(child)
        turns = compare(runtimes, prompts, args.tokens, args.rounds, args.most_others)
        if args.native:
            peak = max(turn[NATIVE]["peak_rss_bytes"] for turn in turns)
            loaded[NATIVE] |= {"peak_rss_bytes": peak, "added_rss_bytes": peak}
        return {
            "file": args.file.name,
            "file_bytes": size,
            "browser": args.browser,
            "threads": args.threads,
            "prompt_tokens": args.prompt,
            "generated_tokens": args.tokens,
            **sum_up(loaded, turns),
        }


def gpu_overhead(engine: str) -> dict[str, Any]:
    """Seconds that encoding a token of 32 layers takes, by itself and as one of a chain: medians. Raises PeerError."""
    from tests.browser import test_gpu  # which has a bound for it, and needs pytest

    with tempfile.TemporaryDirectory() as folder, opened(engine) as (site, page, _):
        file = Path(folder) / "layers.gguf"
        write_model(file, "tiny", "Q4_K_M", shape=Shape(256, 32, 4, 4, 64, 256, 512, 512))
        site.models[file.name] = file
        wheels = [f"/pyodide/{wheel.name}" for wheel in sorted(site.folder.glob("pyodide/*.whl"))]
        given = {"text": test_gpu.PRELUDE + test_gpu.HOST_TIME, "wheels": wheels, "globals": {"name": file.name}}
        try:
            dispatches, alone, chained = site.call(page, test_gpu.PYTHON, given, ASK_SECONDS)
        except (PageError, PageHung) as error:
            raise PeerError(f"{engine}: {error}") from error
    return {"dispatches": dispatches, "seconds": statistics.median(alone), "chained_seconds": statistics.median(chained)}


BARE = b"""
import { loadPyodide } from "./pyodide/pyodide.mjs";
await loadPyodide({ indexURL: new URL("./pyodide/", import.meta.url).href });
postMessage("ready");
"""
STARTS = ("bare", "plan", "text")  # see tools/bench_browser.js


def start_times(engine: str, rounds: int, most_others: float) -> dict[str, list[dict[str, float]]]:
    """What a start takes to Pyodide alone, to a plan and to a first token: in turns, each in a browser of its own.

    Rounds count in which others took at most so many cores. Raises PeerError.
    """
    kept: dict[str, list[dict[str, float]]] = {what: [] for what in STARTS}
    for _ in range(rounds * (1 if most_others == math.inf else TRIES)):
        turns = {what: _start(engine, what) for what in STARTS}
        if all(turn["cores_of_others"] <= most_others for turn in turns.values()):
            for what, turn in turns.items():
                kept[what].append(turn)
        if len(kept["bare"]) == rounds:
            break
    if not kept["bare"]:
        raise PeerError(f"others took more than {most_others} cores in each round; try again on a quiet machine")
    return kept


def _start(engine: str, what: str) -> dict[str, float]:
    with opened(engine) as (site, page, browser):
        site.models["demo.gguf"] = demo_model()
        site.files |= {"/bench.js": (ROOT / "tools" / "bench_browser.js").read_bytes(), "/bare.js": BARE}
        time.sleep(SETTLE_SECONDS)
        clock, busy = time.perf_counter(), busy_seconds()
        answer = InPage("start", site, page, browser).ask("run", what=what, url="/models/demo.gguf", device="cpu")
        busy = busy_seconds() - busy - answer["cpu_seconds"]
        others = max(0.0, busy) / (time.perf_counter() - clock)
    return {"seconds": answer["seconds"], "cpu_seconds": answer["cpu_seconds"], "cores_of_others": others}


def start_table(engine: str, found: dict[str, list[dict[str, float]]]) -> str:
    """The same for a person. What is beyond Pyodide is the median over rounds of the difference."""

    def line(title: str, values: Sequence[float], unit: str = "s") -> str:
        return f"{title:34}{statistics.median(values):6.2f} {unit}  ({min(values):.2f} to {max(values):.2f})\n"

    def of(what: str, key: str = "seconds") -> list[float]:
        return [turn[key] for turn in found[what]]

    titles = {"bare": "Pyodide alone", "plan": "the demo model's plan", "text": "the demo model's first token"}
    text = f"{engine}, cold, {len(found['bare'])} rounds, median (least to most)\n"
    for what, title in titles.items():
        text += line(title, of(what))
        if what != "bare":
            text += line("  beyond Pyodide", [b - a for a, b in zip(of("bare"), of(what), strict=True)])
    cores = [turn["cores_of_others"] for turns in found.values() for turn in turns]
    return text + line("cores that others took", cores, "")


def wllama_files() -> dict[str, bytes]:
    """Its module and its kernels, from build/cache or from npm."""
    archive = fetch(WLLAMA, ROOT / "build" / "cache").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {path: tar.extractfile(name) for path, name in WLLAMA_FILES.items()}
        return {path: file.read() for path, file in files.items() if file is not None}


def table(result: dict[str, Any]) -> str:
    """All that was found, for a person."""
    runtimes = result["runtimes"]
    others = [name for name in runtimes if name != PAGE]

    def spread(found: dict[str, float], digits: int) -> str:
        return f"{found['median']:.{digits}f} ({found['least']:.{digits}f} to {found['most']:.{digits}f})"

    def line(title: str, cells: Sequence[str]) -> str:
        return f"{title:22}" + "".join(f"{cell:>26}" for cell in cells).rstrip() + "\n"

    def rate(title: str, key: str) -> str:
        ratio = [spread(result["ratios"][name][key], 2) for name in others]
        return line(title, [*(spread(runtimes[name][key], 1) for name in runtimes), *ratio])

    def plain(title: str, key: str, digits: int, factor: float = 1) -> str:
        return line(title, [f"{factor * runtimes[name][key]:.{digits}f}" for name in runtimes])

    equal = [f"Equal to what {name} wrote, before the first difference: {100 * statistics.median(result['same'][name]):.0f} %\n"
             for name in others]  # fmt: skip
    return (
        f"{result['file']}, {result['file_bytes'] / 2**20:.1f} MiB; {result['browser']}; {result['prompt_tokens']} prompt "
        f"tokens, {result['generated_tokens']} new; threads {result['threads']}; rounds {result['rounds']}, "
        "median (least to most)\n"
        + "".join(f"{name}: {found['about']}\n" for name, found in runtimes.items())
        + "\n"
        + line("", [*runtimes, *(f"ratio to {name}" for name in others)])
        + rate("prefill tok/s", RATES[0])
        + rate("decode tok/s", RATES[1])
        + plain("load s", "load_seconds", 2)
        + plain("memory MiB", "added_rss_bytes", 0, 2**-20)
        + plain("peak RSS MiB", "peak_rss_bytes", 0, 2**-20)
        + line("cores that others took", [spread(found["cores_of_others"], 2) for found in runtimes.values()])
        + "\nRatios are the medians over rounds. Memory: what a runtime adds, in the page to all of the browser's processes "
        "together;\nthe page loads wasmrt first, and keeps it. The file was in the page cache.\n" + "".join(equal)
    )


# The command


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description="Compare the speed of wasmrt in a page with wllama's and with its own outside.")
    p.add_argument("file", type=file, nargs="?", metavar="FILE.gguf")
    p.add_argument("--browser", choices=ENGINES, default=ENGINE, help=f"default: {ENGINE}")
    p.add_argument("--threads", type=whole(1), default=os.cpu_count() or 1, metavar="N", help="of each (default: all cores)")
    p.add_argument("--prompt", type=whole(2), default=128, metavar="N", help="tokens of the prompt (default: 128)")
    p.add_argument("--tokens", type=whole(2), default=32, metavar="N", help="tokens to generate (default: 32)")
    p.add_argument("--rounds", type=whole(1), default=3, metavar="R", help="counted turns of each (default: 3)")
    p.add_argument("--peer", action="store_true", help=f"also wllama {WLLAMA.version}, on the CPU")
    p.add_argument("--native", action="store_true", help="also wasmrt outside of the browser")
    p.add_argument("--device", default="cpu", metavar="D", help="of wasmrt (default: cpu)")
    p.add_argument("--most-others", type=cores, default=math.inf, metavar="C", help="cores that others may take in a round")
    p.add_argument("--gpu-overhead", action="store_true", help="instead: what is not the GPU's of a token with WebGPU")
    p.add_argument("--start", action="store_true", help="instead: how long a page takes from nothing to its first token")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.file is None and not args.gpu_overhead and not args.start:
        p.error("a FILE.gguf is needed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the browser would outlive us
    try:
        if args.start:
            result: dict[str, Any] = start_times(args.browser, args.rounds, args.most_others)
        else:
            result = gpu_overhead(args.browser) if args.gpu_overhead else measure(args)
    except PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json:
        print(json.dumps(result))
    elif args.start:
        print(start_table(args.browser, result), end="")
    elif args.gpu_overhead:
        one, many = (f"{1e3 * result[name]:.2f} ms" for name in ("seconds", "chained_seconds"))
        print(f"{args.browser}: {result['dispatches']:.0f} dispatches a token, encoded in {one}; as one of a chain in {many}")
    else:
        print(table(result), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

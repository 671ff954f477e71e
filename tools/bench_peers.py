"""wasmrt beside llama.cpp: `python tools/bench_peers.py FILE.gguf` prints one table of speed, load time and memory.

Both run the same file with the same threads, the same prompt ids and the same number of greedy tokens, end tokens ignored. Each
is a process of its own that loads the model once and then waits for its turns; turns alternate, so that what disturbs the
machine disturbs both, and ratios are those of turns side by side. The first turn of each is not counted.

A machine that does something else gives wrong ratios all the same: a runtime whose threads wait for each other in every layer
falls to a fraction of its speed when one of them has no core. So the cores that others took are measured, and --most-others 0.1
repeats the rounds in which that was more than a tenth of a core. Turns of less than a second measure it coarsely.

llama.cpp comes as the Python package llama-cpp-python, compiled for this machine from its source package. It may live in an
interpreter of its own (--peer-python), which needs nothing of wasmrt.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from wasmrt.bench import prompt_ids  # noqa: E402  run as a script, from any folder

CHILD = ROOT / "tools" / "peer_runtimes.py"
NAMES = ("wasmrt", "llama.cpp")
RATES = ("prefill_tokens_per_second", "decode_tokens_per_second")

TRIES = 10  # times the rounds asked for, where only quiet ones count

# One turn of each runtime, by name.
Round = dict[str, dict[str, Any]]

# Threads of a compute pool spin a while after their work; the next turn begins when they sleep.
SETTLE_SECONDS = 0.1

HOW_TO_GET_IT = (
    "llama-cpp-python is not there: `pip install --no-binary llama-cpp-python 'wasmrt[peers]'` compiles it (many minutes), "
    "or name an interpreter that has it with --peer-python"
)


class PeerError(Exception):
    """One of the two cannot go on."""


# The two processes


class Child:
    """A process that serves one runtime."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        command = [python, str(CHILD), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the runtime do something and wait for the answer. Raises PeerError if it fails or dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise PeerError(f"{self.name}: its process ended with code {self._process.wait()}; what it said stands above")
        result: dict[str, Any] = json.loads(answer)
        if "error" in result:
            raise PeerError(f"{self.name}: {result['error']}")
        return result

    def close(self) -> None:
        """End the process: kindly, then not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


# The measurement


def schedule(names: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """Whose turn it is: (round, name), all of them in each round. Round 0 is the one that is not counted."""
    return [(i, name) for i in range(rounds + 1) for name in names]


def compare(
    children: Sequence[Child], n_vocab: int, n_prompt: int, n: int, rounds: int, most_others: float = math.inf
) -> list[Round]:
    """The rounds that count: as many as asked, in which the rest of the machine took at most so many cores.

    Others are tried again, TRIES times as many in all; so there may be fewer. Raises PeerError if there is none.
    """
    from tqdm import tqdm

    by_name = {child.name: child for child in children}
    kept: list[Round] = []
    tries = rounds if most_others == math.inf else TRIES * rounds
    with tqdm(total=rounds, unit=" round", disable=None, leave=False) as bar:
        for i, group in itertools.groupby(schedule(list(by_name), tries), key=lambda turn: turn[0]):
            found = {name: _turn(by_name[name], prompt_ids(n_prompt, n_vocab, i), n) for _, name in group}
            if i > 0 and is_quiet(found, most_others):
                kept.append(found)
                bar.update()
            if len(kept) == rounds:
                break
    if not kept:
        raise PeerError(f"others took more than {most_others} cores in all of {tries} rounds; try again on a quiet machine")
    return kept


def _turn(child: Child, ids: list[int], n: int) -> dict[str, Any]:
    """One turn, and how many cores the rest of the machine took meanwhile."""
    time.sleep(SETTLE_SECONDS)
    clock, busy = time.perf_counter(), busy_seconds()
    turn = child.ask("run", ids=ids, n=n)
    busy = busy_seconds() - busy - turn["cpu_seconds"]
    return {**turn, "cores_of_others": max(0.0, busy) / (time.perf_counter() - clock)}


def is_quiet(found: Round, most_others: float) -> bool:
    """Whether a round tells of the runtimes and not of what else the machine did."""
    return all(turn["cores_of_others"] <= most_others for turn in found.values())


def busy_seconds() -> float:
    """CPU time that the whole machine has spent, with what its host has taken from it."""
    import psutil

    times: dict[str, float] = psutil.cpu_times()._asdict()
    # A guest's times are part of the user's.
    return sum(seconds for name, seconds in times.items() if name not in ("idle", "iowait", "guest", "guest_nice"))


def rates(turn: dict[str, Any], n_prompt: int, n: int) -> dict[str, float]:
    """Tokens per second of a turn. The first token is the prompt's work; decode is the n - 1 after it."""
    return {
        "prefill_tokens_per_second": n_prompt / turn["first_token_seconds"],
        "decode_tokens_per_second": (n - 1) / turn["decode_seconds"],
    }


def middle(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ours over theirs, round by round: what slows the machine for a while falls out."""
    return middle([a / b for a, b in zip(ours, theirs, strict=True)])


def same_start(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens are equal before the first difference."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def sum_up(loaded: dict[str, dict[str, Any]], rounds: Sequence[Round], n_prompt: int, n: int) -> dict[str, Any]:
    """The figures of each runtime over all rounds, and ours in relation to the other's."""
    found: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        turns = [turn[name] for turn in rounds]
        samples = [rates(turn, n_prompt, n) for turn in turns]
        found[name] = {
            "about": loaded[name]["about"],
            **{rate: middle([sample[rate] for sample in samples]) for rate in RATES},
            "load_seconds": loaded[name]["load_seconds"],
            "peak_rss_bytes": max(turn["peak_rss_bytes"] for turn in turns),
            "overhead_seconds_per_token": statistics.median(turn["overhead_seconds"] / (n - 1) for turn in turns),
            "idle_cpu_seconds": statistics.median(turn["idle_cpu_seconds"] for turn in turns),
            "cores_of_others": middle([turn["cores_of_others"] for turn in turns]),
            "samples": samples,
        }
    ours, theirs = (found[name] for name in NAMES)
    pairs = {rate: [[sample[rate] for sample in runtime["samples"]] for runtime in (ours, theirs)] for rate in RATES}
    return {
        "rounds": len(rounds),
        "runtimes": found,
        "ratios": {
            **{rate: ratios(*pair) for rate, pair in pairs.items()},
            **{key: ours[key] / theirs[key] for key in ("load_seconds", "peak_rss_bytes")},
        },
        "same_tokens": [same_start(*(turn[name]["tokens"] for name in NAMES)) for turn in rounds],
    }


def table(result: dict[str, Any]) -> str:
    """All that was found, for a person."""
    ours, theirs = (result["runtimes"][name] for name in NAMES)
    ratio, n = result["ratios"], result["generated_tokens"]

    def spread(found: dict[str, float], digits: int) -> str:
        return f"{found['median']:.{digits}f} ({found['least']:.{digits}f} to {found['most']:.{digits}f})"

    def row(title: str, key: str, digits: int, factor: float = 1) -> str:
        if isinstance(ours[key], dict):
            cells = [spread(ours[key], digits), spread(theirs[key], digits), spread(ratio[key], 2) if key in ratio else ""]
        else:
            cells = [f"{factor * runtime[key]:.{digits}f}" for runtime in (ours, theirs)]
            cells.append(f"{ratio[key]:.2f}" if key in ratio else "")
        return line(title, *cells)

    def line(title: str, *cells: str) -> str:
        return f"{title:22}" + "".join(f"{cell:>30}" for cell in cells).rstrip() + "\n"

    return (
        f"{result['file']}, {result['file_bytes'] / 2**20:.1f} MiB; {result['prompt_tokens']} prompt tokens, {n} new; "
        f"threads {result['threads']}; rounds {result['rounds']}, median (least to most)\n"
        + "".join(f"{name}: {result['runtimes'][name]['about']}\n" for name in NAMES)
        + "\n"
        + line("", *NAMES, "ratio")
        + row("prefill tok/s", "prefill_tokens_per_second", 1)
        + row("decode tok/s", "decode_tokens_per_second", 1)
        + row("load s", "load_seconds", 2)
        + row("peak RSS MiB", "peak_rss_bytes", 0, 2**-20)
        + row("beside passes us/tok", "overhead_seconds_per_token", 0, 1e6)
        + row("CPU s between turns", "idle_cpu_seconds", 2)
        + row("cores that others took", "cores_of_others", 2)
        + f"\nRatios are {NAMES[0]} over {NAMES[1]}; of rates, the median over rounds. The file was in the page cache.\n"
        f"Greedy tokens equal before the first difference, by round: {', '.join(map(str, result['same_tokens']))} of {n}\n"
    )


# The command


@contextlib.contextmanager
def started(pythons: dict[str, str]) -> Iterator[list[Child]]:
    """A child for each name; all are ended at the end."""
    with contextlib.ExitStack() as stack:
        children = []
        for name, python in pythons.items():
            children.append(Child(name, python))
            stack.callback(children[-1].close)
        yield children


def has_peer(python: str | None) -> bool:
    """Whether this interpreter, or that one, has llama-cpp-python."""
    if python is None:
        return importlib.util.find_spec("llama_cpp") is not None
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('llama_cpp') is None)"
    try:
        return subprocess.run([python, "-c", look], stderr=subprocess.DEVNULL).returncode == 0
    except OSError as error:
        raise PeerError(f"cannot start {python}: {error.strerror}") from error


def read_through(path: Path) -> None:
    """Bring a file into the page cache, so that whoever loads it first does not wait for the disk alone."""
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load both, run all turns, sum up. Raises PeerError."""
    if not has_peer(args.peer_python):
        raise PeerError(HOW_TO_GET_IT)
    read_through(args.file)
    pythons = dict(zip(NAMES, (sys.executable, args.peer_python or sys.executable), strict=True))
    with started(pythons) as children:
        options = {name: getattr(args, name) for name in ("threads", "device", "repack")}
        options |= {"file": str(args.file), "context": args.prompt_tokens + args.n}
        loaded = {child.name: child.ask("load", **options) for child in children}
        n_vocab = min(answer["n_vocab"] for answer in loaded.values())
        rounds = compare(children, n_vocab, args.prompt_tokens, args.n, args.rounds, args.most_others)
    return {
        "file": args.file.name,
        "file_bytes": args.file.stat().st_size,
        "threads": args.threads,
        "prompt_tokens": args.prompt_tokens,
        "generated_tokens": args.n,
        **sum_up(loaded, rounds, args.prompt_tokens, args.n),
    }


def whole(minimum: int) -> Any:
    def check(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number from {minimum} on, not {text!r}")
        return int(text)

    return check


def cores(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"expected a number of cores such as 0.1, not {text!r}")
    return float(text)


def file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no file")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description="Compare the speed of wasmrt and llama.cpp.")
    p.add_argument("file", type=file, metavar="FILE.gguf")
    p.add_argument("--threads", type=whole(1), default=os.cpu_count() or 1, metavar="N", help="of each (default: all cores)")
    p.add_argument("--prompt-tokens", type=whole(1), default=128, metavar="N", help="length of the prompt (default: 128)")
    p.add_argument("-n", type=whole(2), default=64, metavar="N", help="tokens to generate (default: 64)")
    p.add_argument("--rounds", type=whole(1), default=5, metavar="R", help="counted turns of each (default: 5)")
    p.add_argument("--most-others", type=cores, default=math.inf, metavar="C", help="cores that others may take in a round")
    p.add_argument("--device", default="auto", metavar="D", help="of wasmrt (default: auto)")
    p.add_argument("--peer-python", metavar="PATH", help="an interpreter that has llama-cpp-python (default: this one)")
    p.add_argument("--no-repack", dest="repack", action="store_false", help="llama.cpp takes weights as they are in the file")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        result = measure(args)
    except PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result) if args.json else table(result), end="\n" if args.json else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How long headers and tokenizers take: `python tools/bench_text.py FILE.gguf ...` prints a row a file.

Each time is the median of three, each with a tokenizer of its own: nothing is cached. Texts are 1 MB: stories of the demo
model's kind, and the inputs that are hardest on a tokenizer.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.demo_text.stories import story  # noqa: E402  run as a script, from any folder
from wasmrt.errors import WasmrtError  # noqa: E402
from wasmrt.gguf.reader import parse_header  # noqa: E402
from wasmrt.tokenizer import from_metadata  # noqa: E402

SIZE = 1_000_000


def texts() -> dict[str, str]:
    """Name to text, each of SIZE characters."""
    rng = random.Random(1)
    pages: list[str] = []
    while sum(map(len, pages)) < SIZE:
        pages.append(story(rng))
    return {"English": "\n".join(pages)[:SIZE], "letters": "a" * SIZE, "spaces": " " * SIZE, "emoji": "🙂" * (SIZE // 4)}


def seconds(call: Callable[[], Any]) -> float:
    """The median of three runs."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.gguf")
    samples = texts()
    columns = ["header", "tokenizer", *samples]
    print(f"{'file':24} {'tokens':>7} " + " ".join(f"{name:>9}" for name in columns) + "  seconds")
    for path in parser.parse_args().files:
        try:
            print(row(path, samples), flush=True)
        except WasmrtError as error:
            print(f"{path.name:24} {error}")


def row(path: Path, samples: dict[str, str]) -> str:
    data = path.read_bytes()
    metadata = parse_header(data).metadata

    def encode(text: str) -> Callable[[], list[int]]:
        return lambda: from_metadata(metadata).tokenize(text)

    times = [seconds(lambda: parse_header(data)), seconds(lambda: from_metadata(metadata))]
    times += [seconds(encode(text)) for text in samples.values()]
    return f"{path.name:24} {from_metadata(metadata).n_vocab:7} " + " ".join(f"{t:9.3f}" for t in times)


if __name__ == "__main__":
    main()

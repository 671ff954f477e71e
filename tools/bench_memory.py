"""How fast this machine reads memory: `python tools/bench_memory.py` prints GB/s (10**9 bytes) for 1 to N threads.

By numpy and not by the kernel that `wasmrt bench` reads with, so that a slow kernel could not flatter the share it reports.
It is the ceiling of decoding, which reads every weight once a token: tokens per second cannot exceed it divided by the weight
bytes. Each thread reads a part of its own, all parts together several times larger than the last cache. numpy's bitwise-or does
the reading: the fastest of the reductions that were tried (or 37, max 35, sum 35, sum of float32 24 GB/s with one thread).
"""

import argparse
import os
import re
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL_CACHE = 64 << 20  # bytes, where the system does not say
TIMES_CACHE = 8
LEAST = 512 << 20
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cache_bytes(folder: Path = CACHES) -> int:
    """The size of the largest cache that one core sees."""
    sizes = [re.fullmatch(r"([0-9]+)([KMG]?)\s*", path.read_text()) for path in folder.glob("index*/size")]
    return max((int(m[1]) * UNITS[m[2]] for m in sizes if m), default=USUAL_CACHE)


def read_rates(n_threads: int, n_bytes: int, rounds: int) -> list[float]:
    """Bytes per second of each round, in which n_threads together read n_bytes once."""
    n_words = n_bytes // n_threads // 8
    barrier = threading.Barrier(n_threads)
    spans: list[list[tuple[float, float]]] = [[] for _ in range(n_threads)]

    def read(mine: list[tuple[float, float]]) -> None:
        words = np.ones(n_words, dtype=np.int64)  # written here, so that every page exists
        for _ in range(rounds + 1):
            barrier.wait()
            started = time.perf_counter()
            np.bitwise_or.reduce(words)
            mine.append((started, time.perf_counter()))

    threads = [threading.Thread(target=read, args=(mine,)) for mine in spans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A round lasts from whoever begins first to whoever ends last; the first round is a warm-up.
    walls = [max(end for _, end in round) - min(begin for begin, _ in round) for round in zip(*spans, strict=True)]
    return [n_threads * n_words * 8 / wall for wall in walls[1:]]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how fast this machine reads memory.")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="at most (default: all cores)")
    parser.add_argument("--rounds", type=int, default=11, metavar="R", help="of each number of threads (default: 11)")
    args = parser.parse_args()
    if args.threads < 1 or args.rounds < 1:
        parser.error("--threads and --rounds begin at 1")
    cache = cache_bytes()
    n_bytes = max(LEAST, TIMES_CACHE * cache)
    print(f"reads of {n_bytes >> 20} MiB; the last cache has {cache >> 20} MiB; {args.rounds} rounds")
    print(f"{'threads':>7} {'median':>8} {'least':>8} {'most':>8}  GB/s")
    for n in range(1, args.threads + 1):
        rates = [rate / 1e9 for rate in read_rates(n, n_bytes, args.rounds)]
        print(f"{n:7} {statistics.median(rates):8.1f} {min(rates):8.1f} {max(rates):8.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

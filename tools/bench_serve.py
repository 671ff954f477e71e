"""How fast `wasmrt serve` gives out a model: `python tools/bench_serve.py` prints one table.

One client asks for 8 MiB at a time on one connection, and does nothing with what comes; the server is a process of its own.
Beside it, in turns with it, the same server with a plainer way to send a file, that of Starlette's FileResponse, which reads a
chunk, sends it, reads the next. The file is in the system's page cache: a drive is measured by other means.

On a machine that has other work to do, the processor time that the server takes says more than the rate.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402  run as a script, from any folder
from starlette.requests import Request  # noqa: E402
from starlette.responses import FileResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from wasmrt.serve import files  # noqa: E402
from wasmrt.serve.app import make_app  # noqa: E402
from wasmrt.serve.server import listen, make_server  # noqa: E402

RANGE_BYTES = 8 << 20
WAYS = {  # by name: whose way to send, and the bytes of a piece
    "wasmrt serve": ("wasmrt", files.PIECE_BYTES),
    "wasmrt, 512 KiB pieces": ("wasmrt", 512 << 10),
    "wasmrt, 2 MiB pieces": ("wasmrt", 2 << 20),
    "FileResponse, 64 KiB": ("starlette", 64 << 10),
    "FileResponse, 1 MiB": ("starlette", 1 << 20),
}


def serve(path: Path, whose: str, piece_bytes: int, tell: Connection) -> None:
    """In a process of its own: tells its port, then serves until it is ended."""

    class Plain(FileResponse):
        chunk_size = piece_bytes

    async def plain(_: Request) -> Response:
        return Plain(path)

    files.PIECE_BYTES = piece_bytes
    app = make_app(path)
    if whose == "starlette":
        app.router.routes.insert(0, Route("/models/{name}", plain))
    with listen("127.0.0.1", 0) as listening:
        tell.send(listening.getsockname()[1])
        make_server(app).run(sockets=[listening])


def rate(port: int, name: str, size: int, n_ranges: int) -> float:
    """Bytes a second of so many ranges, one after the other, through the whole file again and again."""
    buffer = memoryview(bytearray(RANGE_BYTES))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        started = time.perf_counter()
        for i in range(n_ranges):
            first = i * RANGE_BYTES % size
            wanted = f"GET /models/{name} HTTP/1.1\r\nHost: localhost\r\nRange: bytes={first}-{first + RANGE_BYTES - 1}\r\n\r\n"
            connection.sendall(wanted.encode())
            n = connection.recv_into(buffer)
            head, _, _ = bytes(buffer[: min(n, 4096)]).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 206") or b"content-length: %d" % RANGE_BYTES not in head.lower().split(b"\r\n"):
                raise RuntimeError(f"the server said {head[:200]!r}")
            left = RANGE_BYTES - (n - len(head) - 4)
            while left:
                n = connection.recv_into(buffer)
                if not n:
                    raise RuntimeError("the server broke off")
                left -= n
        return n_ranges * RANGE_BYTES / (time.perf_counter() - started)


def measure(path: Path, runs: int, n_ranges: int) -> dict[str, Any]:
    """All ways in turns, so that what else the machine does meets all of them alike."""
    context = multiprocessing.get_context("spawn")
    ports: dict[str, int] = {}
    processes: list[Any] = []
    try:
        for name, (whose, piece_bytes) in WAYS.items():
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(path, whose, piece_bytes, there), daemon=True)
            process.start()
            processes.append(process)
            ports[name] = here.recv()
        size = path.stat().st_size
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        before: list[float] = []
        for turn in range(1 + runs):
            if turn == 1:
                before = [processor_seconds(process.pid) for process in processes]
            for name, port in ports.items():
                got = rate(port, path.name, size, n_ranges)
                if turn:  # the first warms up
                    found[name].append(got)
        taken = [processor_seconds(process.pid) - since for process, since in zip(processes, before, strict=True)]
    finally:
        for process in processes:
            process.terminate()
            process.join()
    rows = [
        {
            "way": name, "bytes_per_second": statistics.median(rates), "least": min(rates), "most": max(rates),
            "processor_seconds_per_gb": seconds / (runs * n_ranges * RANGE_BYTES / 1e9),
        }
        for (name, rates), seconds in zip(found.items(), taken, strict=True)
    ]  # fmt: skip
    return {"range_bytes": RANGE_BYTES, "file_bytes": size, "runs": runs, "cores": os.cpu_count(), "rows": rows}


def processor_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def table(found: dict[str, Any]) -> str:
    lines = [
        f"ranges of {found['range_bytes'] >> 20} MiB of a file of {found['file_bytes'] >> 20} MiB in memory, one client, "
        f"{found['cores']} cores; median of {found['runs']} runs",
        f"{'':24} {'GB/s':>6} {'least':>7} {'most':>7} {'CPU s/GB':>9}",
    ]
    for row in found["rows"]:
        rates = f"{row['bytes_per_second'] / 1e9:6.2f} {row['least'] / 1e9:7.2f} {row['most'] / 1e9:7.2f}"
        lines.append(f"{row['way']:24} {rates} {row['processor_seconds_per_gb']:9.2f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, metavar="N", help="of each way (default: 9)")
    parser.add_argument("--ranges", type=int, default=48, metavar="N", help="of 8 MiB, in each run (default: 48)")
    parser.add_argument("--mib", type=int, default=256, metavar="N", help="of the file (default: 256)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and no table")
    args = parser.parse_args()
    if min(args.runs, args.ranges) < 1 or args.mib < 8 or args.mib % 8:
        parser.error("--runs and --ranges begin at 1, --mib is a multiple of 8")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        with path.open("wb") as file:
            for _ in range(args.mib):
                file.write(os.urandom(1 << 20))
        found = measure(path, args.runs, args.ranges)
    print(json.dumps(found) if args.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The CPU device's host in a page: the kernels in WebAssembly, on workers that share a memory, or on Python's own thread."""

from collections.abc import Sequence
from typing import Any

from wasmrt import browser
from wasmrt.errors import DeviceError
from wasmrt.resources import kernels
from wasmrt.store.browser_memory import BrowserMemory

LARGEST_WASM32 = 7 << 29  # 3.5 GiB; 32-bit addresses are faster, so they are used wherever they reach
LARGEST_WASM64 = 16 << 30  # what browsers allow a memory to be; the module's own limit is higher than they accept
LARGEST_PLAIN = 2 << 30  # what any browser gives a page
MAX_THREADS = 8  # meetings of more cost more than they bring
THREAD_BYTES = 8 << 20  # weights for each thread, at least: cpu_native.py


class PageHost:
    """Runs the kernels on n_threads workers, or where the page has no shared memory on this thread."""

    def __init__(self, build: str, capacity: int, n_threads: int) -> None:
        self.n_threads = n_threads
        self.memory = BrowserMemory(build, capacity)
        try:
            code = _module(build)
            self._js = browser.module("cpu").CpuHost.new(code, self.memory.js, n_threads, browser.script_url("cpu-worker"))
        except Exception as error:
            self.memory.close()
            raise browser.translated(error) from error

    @property
    def kernel_seconds(self) -> float:
        return float(self._js.seconds)

    def start(self, team: int, stacks: Sequence[int]) -> None:
        from pyodide.ffi import to_js

        try:
            self._js.start(team, to_js(list(stacks)))
        except Exception as error:
            raise browser.translated(error) from error

    def call(self, name: str, *args: float) -> float:
        from pyodide.ffi import to_js

        try:
            return float(self._js.call(name, to_js(list(args))))
        except Exception as error:
            raise browser.translated(error) from error

    async def run(self, team: int) -> int:
        try:
            return int(await self._js.run())
        except Exception as error:
            raise browser.translated(error) from error

    def abort(self) -> None:
        self._js.abort()


def abilities() -> tuple[bool, bool]:
    """Whether this page has shared memory, and memory with 64-bit addresses."""
    found = browser.module("memory").abilities()
    return bool(found.shared), bool(found.wide)


def choose_build(n_bytes: int) -> str:
    """The fastest build whose memory can hold n_bytes here. DeviceError if there is none."""
    shared, wide = abilities()
    if not shared:
        return "plain"
    if n_bytes <= LARGEST_WASM32:
        return "wasm32"
    if not wide or n_bytes > LARGEST_WASM64:
        raise DeviceError(f"a memory of {n_bytes} bytes is more than this browser has; choose a smaller memory budget")
    return "wasm64"


def default_threads(weight_bytes: int) -> int:
    """A worker for each processor, but for one where there are many; fewer for a model that is not worth their meetings."""
    import js

    if not abilities()[0]:
        return 1
    n = int(js.navigator.hardwareConcurrency or 1)
    return max(1, min(n if n <= 4 else n - 1, MAX_THREADS, round(weight_bytes / THREAD_BYTES)))


def spare_memory() -> int:
    """The budget of who names none. Browsers tell little: at most that there are 8 GiB or so, and a tab may have half."""
    import js

    shared, wide = abilities()
    known = float(getattr(js.navigator, "deviceMemory", None) or 4)
    most = LARGEST_PLAIN if not shared else LARGEST_WASM64 if wide else LARGEST_WASM32
    return min(most - (1 << 20), int(known * (1 << 30)) // 2)


def _module(build: str) -> Any:
    """The module's bytes. That of 64-bit addresses allows for more memory than a browser accepts: its limit is lowered.

    Format: WebAssembly core specification, binary format; an import is names, a kind, then limits: flags, minimum, maximum.
    """
    import js

    code = bytearray(kernels(build).read_bytes())
    if build == "wasm64":
        flags = code.index(b"\x03env\x06memory\x02") + 12
        start = _after_number(code, _after_number(code, flags))
        end = _after_number(code, start)
        number, pages = bytearray(), LARGEST_WASM64 >> 16
        for _ in range(end - start - 1):  # as many bytes as there were: leading zeros are allowed
            number.append(pages & 127 | 128)
            pages >>= 7
        code[start:end] = bytes([*number, pages])
    found = js.Uint8Array.new(len(code))
    found.assign(code)
    return found


def _after_number(code: bytearray, at: int) -> int:
    """Where a LEB128 number ends."""
    while code[at] & 128:
        at += 1
    return at + 1

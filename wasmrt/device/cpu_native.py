"""The CPU device's host on a desktop: wasmtime, one store and one instance of the module a thread, all on one memory.

Traps of wasmtime-py 50: SharedMemory passes the address of its pointer to an import where the pointer is meant; a shared memory
cannot be larger than Config.memory_reservation, whose default is 4 GiB; a Trap's text is a page, whose end tells the cause.
"""

import asyncio
import contextlib
import ctypes
import functools
import os
import statistics
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasmrt.errors import DeviceError
from wasmrt.resources import kernels
from wasmrt.store.memory import Viewed, aligned

PAGE = 65536
BUILDS = ("wasm32", "wasm64", "plain")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Weights for each thread, at least. At 4.5 MB a second thread adds 10 % on an idle machine, and halves the speed on a busy one,
# where the threads, which meet some hundred times a token, wait for whichever is not running.
THREAD_BYTES = 8 << 20
LARGEST_WASM32 = 7 << 29  # 3.5 GiB; 32-bit addresses are faster, so they are used wherever they reach


class SharedMemory(wasmtime.SharedMemory):
    def _as_extern(self) -> ffi.wasmtime_extern_t:
        union = ffi.wasmtime_extern_union(sharedmemory=self.ptr())
        return ffi.wasmtime_extern_t(ffi.WASMTIME_EXTERN_SHAREDMEMORY, union)


class WasmMemory(Viewed):
    """The module's linear memory, made at its full size; the operating system backs a page when it is first written.

    The first pages are the module's own (its data); frames begin after them.
    """

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, build: str, capacity: int) -> None:
        self.store: Any = None  # of an unshared memory
        kind = next((i.type for i in module.imports if isinstance(i.type, wasmtime.MemoryType)), None)
        if kind is None:
            raise DeviceError(f"the {build} kernels import no memory: they are another module, or damaged; build them again")
        super().__init__(kind.limits.min * PAGE, capacity)
        n_pages = -(-(self.start + capacity) // PAGE)
        try:
            if build == "plain":
                self.store = wasmtime.Store(engine)
                memory = wasmtime.Memory(self.store, wasmtime.MemoryType(wasmtime.Limits(n_pages, n_pages)))
                base = memory.data_ptr(self.store)
                self.extern: Any = memory
            else:
                limits = wasmtime.Limits(n_pages, n_pages)
                self.extern = SharedMemory(engine, wasmtime.MemoryType(limits, is_64=build == "wasm64", shared=True))
                base = self.extern.data_ptr()
        except wasmtime.WasmtimeError as error:
            refused = f"the system refuses {capacity} bytes of memory ({_line(error)})"
            moves = "choose a smaller budget, allow more address space (ulimit -v), or use --device reference"
            raise DeviceError(f"{refused}; {moves}") from error
        pages: Any = (ctypes.c_ubyte * (n_pages * PAGE)).from_address(ctypes.addressof(base.contents))
        pages.owner = self.extern, self.store  # views may outlive us; the memory goes with the last of them
        self._bytes = memoryview(pages).cast("B")

    def view(self, address: int, n_bytes: int) -> memoryview:
        self.check(address, n_bytes)
        return self._bytes[address : address + n_bytes]

    def close(self) -> None:
        self.extern = self.store = None
        self._bytes = memoryview(b"")
        self.capacity = self.used = 0


class WasmtimeHost:
    """Runs the kernels on n_threads threads: one that run() is called on, the others waiting in work(). plain has one."""

    def __init__(self, build: str, capacity: int, n_threads: int) -> None:
        self.build, self.n_threads = build, n_threads
        reservation = 1 << 32 if build != "wasm64" else 1 << max(33, capacity.bit_length() + 1)
        self._engine, self._module = _compiled(build, reservation)
        self.memory = WasmMemory(self._engine, self._module, build, capacity)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="wasmrt-cpu")
        self.kernel_seconds = 0.0
        self._team = 0
        self._lock = threading.Lock()  # several threads may fail at once
        self._leader: tuple[wasmtime.Store, Any] | None = None
        self._aborter: Callable[[], object] = bool  # there is nothing to abort
        self._failure: BaseException | None = None
        self._process = os.getpid()

    def start(self, team: int, stacks: Sequence[int]) -> None:
        self._team = team
        try:
            self._executor.submit(int)  # its thread begins here: a run() that got none would leave its job to the next
            self._leader = self._instance(stacks[0])
            # Its own instance, since the leader's is busy while there is something to abort. It needs no stack. A finalizer,
            # so that a host that is dropped and not closed ends its threads.
            if self.n_threads > 1:
                self._aborter = weakref.finalize(self, _abort_team, *self._instance(stacks[0]), team)
            for i in range(1, self.n_threads):
                store, exports = self._instance(stacks[i])
                args = weakref.ref(self), store, exports, team, i
                threading.Thread(target=_work, args=args, name=f"wasmrt-cpu-{i}", daemon=True).start()
        except (RuntimeError, wasmtime.WasmtimeError) as error:  # wasmtime's Trap is one too
            self.abort()
            what = f"the {self.build} kernels do not start ({_line(error)})"
            raise DeviceError(f"{what}; use fewer threads, or --device reference") from error

    def _instance(self, stack: int) -> tuple[wasmtime.Store, Any]:
        store = self.memory.store if self.build == "plain" else wasmtime.Store(self._engine)
        exports: Any = wasmtime.Instance(store, self._module, [self.memory.extern]).exports(store)
        exports["__stack_pointer"].set_value(store, stack)
        return store, exports

    def call(self, name: str, *args: float) -> float:
        store, exports = self._ready()
        started = time.perf_counter()
        try:
            result: float = exports[name](store, *args)
            self.kernel_seconds += time.perf_counter() - started
        except wasmtime.WasmtimeError as error:
            raise _trapped(error) from error
        return result

    def run(self, team: int) -> Awaitable[int]:
        leader = self._ready()
        try:
            return asyncio.get_running_loop().run_in_executor(self._executor, self._run, team, *leader)
        except RuntimeError as error:
            raise _closed() from error

    def _ready(self) -> tuple[wasmtime.Store, Any]:
        if os.getpid() != self._process:  # it has the memory and no threads: a run would wait for ever
            raise DeviceError("a model does not survive a fork; open it in the process that uses it")
        if self._leader is None:
            raise _closed()
        return self._leader

    def _run(self, team: int, store: wasmtime.Store, exports: Any) -> int:
        started = time.perf_counter()
        try:
            status = int(exports["run"](store, team))
            self.kernel_seconds += time.perf_counter() - started
        except BaseException as error:
            self.fail(error)
        if self._failure is not None:
            raise _trapped(self._failure) from self._failure
        return status

    def abort(self) -> None:
        with self._lock:
            self._aborter()  # once
            self._aborter, self._leader = bool, None  # instances hold the memory: who keeps a closed device keeps no more
            self._executor.shutdown(wait=False)

    def fail(self, error: BaseException) -> None:
        """End a run with this error: one of its threads has left it."""
        self._failure = error.with_traceback(None)  # its frames hold the memory
        self.abort()


def _work(host: "weakref.ref[WasmtimeHost]", store: wasmtime.Store, exports: Any, team: int, thread: int) -> None:
    """A worker's life. It holds no host, so that one that is dropped goes away."""
    try:
        exports["work"](store, team, thread)
    except BaseException as error:
        alive = host()
        if alive is not None:
            alive.fail(error)


def _abort_team(store: wasmtime.Store, exports: Any, team: int) -> None:
    exports["abort_team"](store, team)


def _closed() -> DeviceError:
    return DeviceError("the device was closed; open the model again")


def _trapped(error: BaseException) -> DeviceError:
    return DeviceError(f"a kernel failed ({_line(error)}); open the model again, or try --device reference")


def _line(error: BaseException) -> str:
    """What happened, from a report of many lines: the cause stands last, before the frames."""
    text = str(error).strip()
    _, _, cause = text.partition("Caused by:")
    return " ".join((cause or text).split())[:200]


@functools.lru_cache(maxsize=4)
def _compiled(build: str, reservation: int) -> tuple[wasmtime.Engine, wasmtime.Module]:
    """The module, compiled for this machine; kept, since that takes a moment. Raises DeviceError."""
    config = wasmtime.Config()
    config.shared_memory = True
    config.wasm_memory64 = True
    config.memory_reservation = reservation
    # Against what untrusted code may learn by speculation. This code is ours, and on a 64-bit memory a quarter slower with it.
    config.cranelift_flag_set("enable_heap_access_spectre_mitigation", "false")
    with contextlib.suppress(wasmtime.WasmtimeError):  # no folder to cache it in: it is compiled again each time
        config.cache = True
    path = kernels(build)
    try:
        engine = wasmtime.Engine(config)
        return engine, wasmtime.Module(engine, path.read_bytes())
    except wasmtime.WasmtimeError as error:
        raise DeviceError(f"the kernels in {path} cannot be loaded ({_line(error)}); build them again") from error


def default_threads(weight_bytes: int) -> int:
    """The physical cores that this process may use; fewer for a model that is too small to be worth their meetings."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no Linux container, or one without a limit ("max")
        quota, period = map(int, CPU_QUOTA.read_text().split())
        allowed = min(allowed, quota // period)  # threads beyond it are stopped in turns, and the others wait for them
    cores = min(psutil.cpu_count(logical=False) or allowed, allowed)
    return max(1, min(cores, round(weight_bytes / THREAD_BYTES)))


def choose_build(n_bytes: int) -> str:
    """The fastest build whose memory can hold n_bytes."""
    return "wasm32" if n_bytes <= LARGEST_WASM32 else "wasm64"


READ_BYTES = 256 << 20  # more than any cache holds


def read_bandwidth(n_threads: int, runs: int = 7) -> float:
    """Bytes per second that n_threads kernels read from memory: the median of a few runs. Takes READ_BYTES for a moment."""
    host = WasmtimeHost("wasm32", READ_BYTES + n_threads * PAGE, n_threads)
    share = aligned(READ_BYTES // n_threads)
    places = [host.memory.allocate(share) for _ in range(n_threads)]
    for place in places:
        host.memory.view(place, share)[:] = b"\1" * share  # pages that nobody has written are all one page of zeros
    instances = [host._instance(host.memory.allocate(PAGE) + PAGE) for _ in places]
    rates = []
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(runs):
            started = time.perf_counter()
            reads = [pool.submit(e["read_memory"], s, p, share) for (s, e), p in zip(instances, places, strict=True)]
            for read in reads:
                read.result()
            rates.append(n_threads * share / (time.perf_counter() - started))
    host.abort()
    host.memory.close()
    return statistics.median(rates)

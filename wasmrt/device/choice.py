"""Which device computes: from what was asked for to how it is made. A device's libraries are imported only if it is chosen."""

import functools
import glob
import logging
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from wasmrt import browser
from wasmrt.device.device import KEPT_NONE, Device, Kept, arena_offsets
from wasmrt.device.gpu_host import Adapter, GpuHost
from wasmrt.errors import DeviceError
from wasmrt.options import EngineOptions
from wasmrt.program.ops import Program
from wasmrt.store.layers import LayerTable, shares
from wasmrt.store.memory import HostMemory, Memory
from wasmrt.store.plan import OnGpu, Sizes

if TYPE_CHECKING:
    from wasmrt.device.cpu import Host

log = logging.getLogger("wasmrt")

DEVICES = ("auto", "gpu", "cpu", "reference")
CPU_BUILDS = ("wasm32", "wasm64", "plain")  # "cpu:wasm64" and so on force one
WASMTIME = "wasmtime>=50,<51"  # as pyproject.toml has it
WGPU = "wgpu>=0.32,<0.33"
# On Linux a GPU that Vulkan reaches has one of these: Mesa's drivers, NVIDIA's, that of WSL, Arm's, Qualcomm's. To look takes
# microseconds. To import wgpu and to ask it for adapters takes a second, which no model on a CPU is to wait for.
GPU_NODES = ("/dev/dri/renderD*", "/dev/nvidia[0-9]*", "/dev/dxg", "/dev/mali*", "/dev/kgsl*")


class SizesOf(Protocol):
    """What a device needs beside the weights, as its compile() and bind() take it; of the programs of all segments."""

    def __call__(self, programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE, /) -> Sizes: ...


@dataclass(frozen=True, slots=True)
class GpuSite:
    """GPUs that are to be planned for, in the order in which they compute."""

    adapters: tuple[Adapter, ...]
    f16_cache: bool
    budget: int | None  # of each
    host: Callable[[Adapter], GpuHost]  # a device of its own on one of them

    def parts(self, table: LayerTable) -> list[range]:
        """The segments of each."""
        return self.shares([sum(entry.n_bytes for entry in segment.entries) for segment in table.segments])

    def shares(self, sizes: Sequence[int]) -> list[range]:
        try:
            return shares(sizes, [self.budget] * len(self.adapters))
        except ValueError as error:
            raise DeviceError(f"this model is too small for {len(self.adapters)} GPUs ({error}); name fewer") from error

    def resident(self, table: LayerTable, homes: Sequence[OnGpu]) -> frozenset[int]:
        """The extents of a table that stay on GPUs: on each that has a segment which reads them."""
        stays, leaves = self._offsets(table, homes)
        return frozenset(i for i, extent in enumerate(table.extents) if extent.offset in stays - leaves)

    def torn(self, table: LayerTable, homes: Sequence[OnGpu]) -> frozenset[int]:
        """The offsets of extents that stay on one GPU and not on another: a tied head's."""
        stays, leaves = self._offsets(table, homes)
        return frozenset(stays & leaves)

    def _offsets(self, table: LayerTable, homes: Sequence[OnGpu]) -> tuple[set[int], set[int]]:
        """Of the extents that stay on some GPU, and of those that do not on some."""
        stays: set[int] = set()
        leaves: set[int] = set()
        for segments, one in zip(self.parts(table), homes, strict=True):
            for i, extent in enumerate(table.part(segments).extents):
                (stays if i in one.resident else leaves).add(extent.offset)
        return stays, leaves


@dataclass(frozen=True, slots=True)
class Choice:
    """A device to be made: first asked what it needs for a model, then made with a memory that holds all of it."""

    name: str
    sizes: SizesOf
    make: Callable[[Sequence[Program], int], tuple[Memory, Device]]  # of the same programs, with this many bytes of memory
    threads: Callable[[Sequence[Program]], int] = lambda _: 1  # that compute with these
    with_threads: "Callable[[int], Choice] | None" = None  # the same with so many; None: it has one
    build: str = ""  # of the cpu device, if one was named, or if there is only one here
    gpu: "GpuSite | None" = None  # where a model may lie besides
    # DeviceError if it computes wrongly what is in these; None: anything.
    check: Callable[[Sequence[Program] | None], Coroutine[Any, Any, None]] | None = None

    @property
    def adapter(self) -> str:
        """The names of the GPUs that compute; empty: none does."""
        return ", ".join(adapter.name for adapter in self.gpu.adapters) if self.gpu else ""


async def ready(device: str) -> None:
    """Have what choose() needs and cannot wait for: in a page its scripts, and a GPU if it may be one."""
    if browser.IN_PAGE:
        await browser.load("memory", "cpu")
        if device.partition(":")[0].partition(",")[0] in ("auto", "gpu"):
            from wasmrt.device import gpu_browser

            await gpu_browser.find()


def choose(options: EngineOptions) -> Choice:
    """What computes: "auto" is the best there is. Options that it has no use for are named, not swallowed.

    Raises DeviceError for a name that is none, and where a library that the device needs is missing.
    """
    name, _, build = options.device.partition(":")
    known = name in DEVICES and (not build or (name == "cpu" and build in CPU_BUILDS))
    if not known and not re.fullmatch(r"gpu(:[^,]+)?(,gpu(:[^,]+)?)*", options.device):
        builds = ", ".join(f"cpu:{b}" for b in CPU_BUILDS)
        gpus = "GPUs by number or part of their name: gpu:0, gpu:intel, gpu:0,gpu:1"
        there_is = f"{', '.join(DEVICES)}, or a build of the cpu device: {builds}, or {gpus}"
        raise DeviceError(f"device {options.device!r} is unknown or not in this version; there is: {there_is}")
    if name.startswith("gpu") or (name == "auto" and real_gpus()[0]):
        chosen, unused = _gpu(options), ["threads"]
    elif name == "reference":
        chosen, unused = _reference(), ["gpu_memory", "threads", "kv_type"]
    else:
        chosen, unused = _cpu(options, build), ["gpu_memory", "threads"] if build == "plain" else ["gpu_memory"]
    given = [option for option in unused if getattr(options, option) is not None]
    if given:
        log.warning("the %s device has no use for: %s", options.device if build else chosen.name, ", ".join(given))
    return chosen


def real_gpus() -> tuple[list[Adapter], str]:
    """The GPUs that device "auto" may take, best first, none of which is a program that imitates one; or why there are none."""
    if browser.IN_PAGE:
        from wasmrt.device import gpu_browser

        real = [adapter for adapter in gpu_browser.adapters() if not adapter.software]
        return real, "" if real else gpu_browser.why_none() or "only software adapters"
    if sys.platform.startswith("linux") and not any(map(glob.glob, GPU_NODES)):
        return [], f"no driver of a GPU is at work here (there is no {', '.join(GPU_NODES)})"
    try:
        from wasmrt.device import gpu_native

        there = gpu_native.adapters()
    except Exception as error:  # whatever is wrong with wgpu or a driver, there is the CPU
        return [], f"wgpu does not work here ({error})"
    real = [adapter for adapter in there if not adapter.software]
    return real, "" if real else "no GPU is reached by Vulkan, Metal or DX12" + (", only software adapters" if there else "")


def _reference() -> Choice:
    if browser.IN_PAGE:
        raise DeviceError("the reference device needs numpy, which a page does not have; use device 'cpu'")
    try:
        from wasmrt.device.reference_device import ReferenceDevice
    except ImportError as error:
        raise DeviceError(f"the reference device needs numpy, which is not here ({error}); install it") from error

    def sizes(programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE, /) -> Sizes:
        return Sizes(
            kv_frames=tuple(4 * width for p in programs for width in p.kv),
            state_frames=tuple(4 * n for p in programs for n in p.state),
            activation_frames=(max(arena_offsets(p, max_tokens, max_out, kept)[-1] for p in programs),),
        )

    def make(programs: Sequence[Program], n_bytes: int) -> tuple[Memory, Device]:
        memory = HostMemory(n_bytes)
        return memory, ReferenceDevice(memory)

    return Choice("reference", sizes, make)


def _gpu(options: EngineOptions) -> Choice:
    from wasmrt.device import canary, gpu, gpu_split

    there, make_host, new_memory = _page_gpus() if browser.IN_PAGE else _native_gpus()
    chosen, f16_cache = _adapters(options.device, there), options.kv_type == "f16"
    site = GpuSite(chosen, f16_cache, options.gpu_memory, make_host)

    def sizes(programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE, /) -> Sizes:
        return Sizes((), (), ())  # all of it is on the GPU

    def make(programs: Sequence[Program], n_bytes: int) -> tuple[Memory, Device]:
        memory = new_memory(n_bytes)
        devices = [gpu.GpuDevice(make_host(adapter), memory, f16_cache) for adapter in chosen]
        if len(devices) == 1:
            return memory, devices[0]
        return memory, gpu_split.SplitGpu(devices, site.shares([sum(w.n_bytes for w in p.weights) for p in programs]))

    async def check(programs: Sequence[Program] | None) -> None:
        for adapter in dict.fromkeys(chosen):
            await canary.check(adapter, functools.partial(make_host, adapter), f16_cache, programs)

    return Choice("gpu", sizes, make, gpu=site, check=check)


_Gpus: TypeAlias = tuple[Sequence[Adapter], Callable[[Adapter], GpuHost], Callable[[int], Memory]]


def _native_gpus() -> _Gpus:
    """The adapters, what makes a host on one, and what makes the memory where weights are before they are on a GPU."""
    try:
        from wasmrt.device import gpu_native
    except (ImportError, OSError, RuntimeError) as error:  # the last two without its native library, as on musl
        why = f"the gpu device needs wgpu, which is not here ({error})"
        raise DeviceError(f'{why}; install it with: python -m pip install "{WGPU}"') from error
    there = gpu_native.adapters()
    if not there:
        raise DeviceError("no GPU is reached here by Vulkan, Metal or DX12; install its driver, or use device 'cpu'")
    return there, gpu_native.WgpuHost, HostMemory


def _page_gpus() -> _Gpus:
    """The same in a page."""
    from wasmrt.device import cpu_browser, gpu_browser
    from wasmrt.store.browser_memory import BrowserMemory

    there = gpu_browser.adapters()
    if not there:
        raise DeviceError(f"the browser gives this page no GPU ({gpu_browser.why_none()}); use device 'cpu'")
    return there, gpu_browser.PageHost, lambda n_bytes: BrowserMemory(cpu_browser.choose_build(n_bytes), n_bytes)


def _adapters(device: str, there: Sequence[Adapter]) -> tuple[Adapter, ...]:
    """Those that a name such as "gpu", "gpu:1", "gpu:intel" or "gpu:0,gpu:1" means; the same one may be named twice."""
    chosen = []
    for name in device.split(","):
        wanted = name.partition(":")[2] or "0"
        named = [adapter for adapter in there if wanted.casefold() in adapter.name.casefold()]
        if wanted.isdecimal():
            named = list(there[int(wanted) :])
        if not named:
            listed = ", ".join(f"gpu:{i} is {adapter.name!r}" for i, adapter in enumerate(there))
            number = "number " if wanted.isdecimal() else ""
            raise DeviceError(f"there is no GPU {number}{wanted!r} for device {device!r}; here {listed}")
        chosen.append(named[0])
    return tuple(chosen)


def _cpu(options: EngineOptions, build: str) -> Choice:
    from wasmrt.device import cpu

    make_host, choose_build, default_threads = _page_cpu(build) if browser.IN_PAGE else _native_cpu()
    f16_cache = options.kv_type == "f16"
    one_thread = build == "plain" or choose_build(0) == "plain"

    def n_threads(programs: Sequence[Program]) -> int:
        weight_bytes = sum(w.n_bytes for p in programs for w in p.weights)
        return 1 if one_thread else options.threads or default_threads(weight_bytes)

    def sizes(programs: Sequence[Program], max_tokens: int, max_out: int, kept: Kept = KEPT_NONE, /) -> Sizes:
        return cpu.sizes(programs, max_tokens, max_out, kept, n_threads(programs), f16_cache)

    def make(programs: Sequence[Program], n_bytes: int) -> tuple[Memory, Device]:
        host = make_host(build or choose_build(n_bytes), n_bytes, n_threads(programs))
        return host.memory, cpu.CpuDevice(host, f16_cache)

    def with_threads(n: int) -> Choice:
        return _cpu(replace(options, threads=n), build)

    if one_thread:
        return Choice("cpu", sizes, make, build="plain")
    return Choice("cpu", sizes, make, n_threads, with_threads, build)


# What makes a host (of a build, with so much memory, with so many threads), what chooses a build, and how many threads.
_Cpu: TypeAlias = tuple[Callable[[str, int, int], "Host"], Callable[[int], str], Callable[[int], int]]


def _native_cpu() -> _Cpu:
    try:
        from wasmrt.device import cpu_native
    except ImportError as error:
        why = f"the cpu device needs wasmtime, which is not here ({error})"
        raise DeviceError(f'{why}; install it with: python -m pip install "{WASMTIME}"') from error
    return cpu_native.WasmtimeHost, cpu_native.choose_build, cpu_native.default_threads


def _page_cpu(build: str) -> _Cpu:
    from wasmrt.device import cpu_browser

    shared, wide = cpu_browser.abilities()
    if build in ("wasm32", "wasm64") and not shared:
        lacks = "memory that workers share: it is not cross-origin isolated, or the browser has none"
        raise DeviceError(f"this page has no {lacks}; use device 'cpu'")
    if build == "wasm64" and not wide:
        raise DeviceError("this browser has no memory with 64-bit addresses; use device 'cpu'")
    return cpu_browser.PageHost, cpu_browser.choose_build, cpu_browser.default_threads

"""The GPU of a desktop, through wgpu-py (Vulkan, Metal, DX12): the few calls that differ from a page's navigator.gpu.

Everything here is a call or two of WebGPU; what is computed stands in gpu.py and shaders/. Nothing beyond what the adapter
reports is ever requested, and every buffer is counted.
"""

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import wgpu
from wgpu.backends.wgpu_native import ffi, lib

from wasmrt.device.gpu_host import Adapter, Binding, Dispatch, Limits, Use
from wasmrt.errors import DeviceError

# wgpu-py logs what it also raises.
logging.getLogger("wgpu").setLevel(logging.CRITICAL)

# WebGPU's names of features, by ours. wgpu-py says "subgroup" where the standard says "subgroups".
FEATURES = {"subgroups": "subgroup", "f16": "shader-f16", "timestamps": "timestamp-query"}
SOFTWARE = "CPU"  # wgpu's adapter type
NULL = ffi.NULL

_USAGE = {
    Use.STORAGE: wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC,
    Use.STATE: wgpu.BufferUsage.UNIFORM | wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC,
    Use.READ: wgpu.BufferUsage.MAP_READ | wgpu.BufferUsage.COPY_DST,
}
_BINDING = {"uniform": "uniform", "read": "read-only-storage", "write": "storage"}


def adapters() -> list[Adapter]:
    """What computes on this machine, best first: real GPUs before software; of one that several backends reach, the first."""
    found: dict[str, Adapter] = {}
    with _quiet():
        there = wgpu.gpu.enumerate_adapters_sync()
    for handle in there:
        info = dict(handle.info)
        if info["backend_type"] in ("OpenGL", "OpenGLES"):
            continue  # its compute is a subset, and every such adapter has a better backend or is none that is asked for
        limits = {name.replace("-", "_"): int(value) for name, value in handle.limits.items()}
        adapter = Adapter(
            name=info["device"] or info["description"],
            vendor=info["vendor"],
            backend=info["backend_type"],
            driver=info["description"],
            software=info["adapter_type"] == SOFTWARE,
            integrated=info["adapter_type"] == "IntegratedGPU",
            features=frozenset(ours for ours, theirs in FEATURES.items() if theirs in handle.features),
            limits=Limits(
                binding=limits["max_storage_buffer_binding_size"],
                buffer=limits["max_buffer_size"],
                workgroup_bytes=limits["max_compute_workgroup_storage_size"],
                invocations=min(limits["max_compute_invocations_per_workgroup"], limits["max_compute_workgroup_size_x"]),
                buffers=limits["max_storage_buffers_per_shader_stage"],
                workgroups=limits["max_compute_workgroups_per_dimension"],
                alignment=max(limits["min_storage_buffer_offset_alignment"], limits["min_uniform_buffer_offset_alignment"]),
            ),
            handle=handle,
        )
        found.setdefault(adapter.name, adapter)
    return sorted(found.values(), key=lambda a: (a.software, a.integrated))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Where Mesa finds no folder for a display, it complains on stderr."""
    name, missing = "XDG_RUNTIME_DIR", os.name == "posix" and "XDG_RUNTIME_DIR" not in os.environ
    if missing:
        os.environ[name] = tempfile.gettempdir()
    try:
        yield
    finally:
        if missing:
            del os.environ[name]


class WgpuHost:
    """One adapter's device, with what is made on it. Raises DeviceError for whatever the driver refuses."""

    directives = False

    def __init__(self, adapter: Adapter, features: frozenset[str] | None = None) -> None:
        """features: those that may be used, of the adapter's; None: all."""
        self.adapter = adapter
        self.limits = adapter.limits
        self.features = adapter.features if features is None else adapter.features & features
        self.allocated = self.high_water = 0  # bytes of all buffers
        limits = {
            "max-storage-buffer-binding-size": self.limits.binding,
            "max-buffer-size": self.limits.buffer,
            "max-compute-workgroup-storage-size": self.limits.workgroup_bytes,
            "max-compute-invocations-per-workgroup": self.limits.invocations,
            "max-compute-workgroup-size-x": self.limits.invocations,
            "max-storage-buffers-per-shader-stage": self.limits.buffers,
        }
        try:
            self._device = adapter.handle.request_device_sync(
                required_features=[FEATURES[name] for name in sorted(self.features)], required_limits=limits
            )
        except Exception as error:
            raise _refused(f"the adapter {adapter.name!r} gives no device", error) from error
        self._queue = self._device.queue
        self._layouts: dict[tuple[Binding, ...], Any] = {}
        self._fence: tuple[Any, Any] | None = None
        self._waiting: set[asyncio.Future[None]] = set()  # for what can be read
        self._closed = False

    # Making

    def buffer(self, n_bytes: int, use: Use = Use.STORAGE) -> Any:
        """Zeroed."""
        size = -(-max(4, n_bytes) // 4) * 4
        if size > self.limits.buffer:
            most = f"more than the {self.limits.buffer} that {self.adapter.name!r} allows"
            raise DeviceError(f"a GPU buffer of {size} bytes is {most}")
        try:
            made = self._device.create_buffer(size=size, usage=_USAGE[use])
        except Exception as error:
            raise _refused(f"the GPU has no room for {size} bytes more, beside {self.allocated}", error) from error
        self.allocated += size
        self.high_water = max(self.high_water, self.allocated)
        return made

    def free(self, buffer: Any) -> None:
        self.allocated -= buffer.size
        buffer.destroy()

    def pipeline(self, name: str, code: str, bindings: Sequence[Binding], constants: Mapping[str, float]) -> Any:
        """The compute shader `main` of a WGSL text."""
        try:
            module = self._device.create_shader_module(label=name, code=code)
            layout = self._device.create_pipeline_layout(bind_group_layouts=[self._layout(tuple(bindings))])
            compute = {"module": module, "entry_point": "main", "constants": dict(constants)}
            return self._device.create_compute_pipeline(label=name, layout=layout, compute=compute)
        except Exception as error:
            raise _refused(f"the shader {name} does not compile on {self.adapter.name!r}", error) from error

    def _layout(self, bindings: tuple[Binding, ...]) -> Any:
        if bindings not in self._layouts:
            compute = wgpu.ShaderStage.COMPUTE
            entries = [{"binding": b.index, "visibility": compute, "buffer": {"type": _BINDING[b.kind]}} for b in bindings]
            self._layouts[bindings] = self._device.create_bind_group_layout(entries=entries)
        return self._layouts[bindings]

    def group(self, bindings: Sequence[Binding], ranges: Sequence[tuple[Any, int, int]]) -> Any:
        """A bind group: for each binding a (buffer, offset, bytes)."""
        entries = [
            {"binding": b.index, "resource": {"buffer": buffer, "offset": offset, "size": -(-size // 4) * 4}}
            for b, (buffer, offset, size) in zip(bindings, ranges, strict=True)
        ]
        try:
            return self._device.create_bind_group(layout=self._layout(tuple(bindings)), entries=entries)
        except Exception as error:
            raise _refused("the GPU takes no such bindings", error) from error

    # Doing

    def write(self, buffer: Any, offset: int, data: Any) -> None:
        """Copy bytes into a buffer before what is submitted later; offset and length in fours."""
        try:
            self._queue.write_buffer(buffer, offset, data)
        except Exception as error:
            raise _refused("the GPU takes no bytes", error) from error

    def submit(self, steps: Sequence[Dispatch], copies: Sequence[tuple[Any, int, Any, int, int]] = ()) -> None:
        """Run dispatches one after another in one pass, then copies (from, offset, to, offset, bytes).

        No object is made for a step.
        """
        set_pipeline, set_group = lib.wgpuComputePassEncoderSetPipeline, lib.wgpuComputePassEncoderSetBindGroup
        dispatch = lib.wgpuComputePassEncoderDispatchWorkgroups
        try:
            encoder = self._device.create_command_encoder()
            if steps:
                compute = encoder.begin_compute_pass()
                handle, last = compute._internal, None
                for pipeline, group, x, y, z in steps:
                    if pipeline is not last:
                        set_pipeline(handle, pipeline._internal)
                        last = pipeline
                    set_group(handle, 0, group._internal, 0, NULL)
                    dispatch(handle, x, y, z)
                compute.end()
            for source, at, target, to, n_bytes in copies:
                encoder.copy_buffer_to_buffer(source, at, target, to, n_bytes)
            self._queue.submit([encoder.finish()])
        except Exception as error:
            raise _refused("the GPU does not compute", error) from error

    async def fetch(self, staging: Any, n_bytes: int) -> memoryview:
        """The first bytes of a buffer made for READ, once what was submitted has run; then it may be copied to again."""
        mapping = asyncio.ensure_future(staging.map_async(wgpu.MapMode.READ, 0, -(-n_bytes // 4) * 4))
        self._waiting.add(mapping)
        try:
            await mapping
            data = memoryview(staging.read_mapped(0, -(-n_bytes // 4) * 4))[:n_bytes]
            staging.unmap()
            return data
        except asyncio.CancelledError:
            if self._closed:
                raise DeviceError("the device was closed") from None
            raise
        except Exception as error:
            raise _refused("nothing can be read from the GPU", error) from error
        finally:
            self._waiting.discard(mapping)

    async def read(self, buffer: Any, offset: int, n_bytes: int) -> memoryview:
        """A copy of bytes of any buffer, by way of one made for it."""
        staging = self.buffer(n_bytes, Use.READ)
        try:
            self.submit((), [(buffer, offset, staging, 0, -(-n_bytes // 4) * 4)])
            return await self.fetch(staging, n_bytes)
        finally:
            self.free(staging)

    async def done(self) -> None:
        """Until what was submitted has run. (Waiting for the queue itself fails in wgpu-py 0.32; a copy is last in it, too.)"""
        fence, self._fence = self._fence or (self.buffer(4), self.buffer(4, Use.READ)), None
        try:
            self.submit((), [(fence[0], 0, fence[1], 0, 4)])
            await self.fetch(fence[1], 4)
        except BaseException:
            for buffer in fence:  # it may be mapped later, and copying to it then would end the process
                self.free(buffer)
            raise
        self._fence = fence

    def close(self) -> None:
        """Idempotent. Buffers are gone afterwards."""
        if not self._closed:
            self._closed = True
            self._layouts.clear()
            for mapping in self._waiting:  # a device that is gone would not tell them
                mapping.cancel()
            self._device.destroy()


def _refused(what: str, error: Exception) -> DeviceError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return DeviceError(f"{what}: {' '.join(lines)[:600]}")

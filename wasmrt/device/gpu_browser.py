"""The GPU of a page, through WebGPU: the few calls that differ from a desktop's. web/gpu.js makes them; things go by number.

find() is to be awaited before adapters() and PageHost(): what they need of the browser comes asynchronously.
"""

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from wasmrt import browser
from wasmrt.device.gpu_host import Adapter, Binding, Dispatch, Limits, Range, Use
from wasmrt.errors import DeviceError
from wasmrt.store.memory import Place

_adapters: list[Adapter] = []
_why = "nobody has looked for one yet"


async def find() -> None:
    """Look for what computes in this browser, and ask for devices there. Again: for what is gone since."""
    global _adapters, _why
    await browser.load("gpu")
    try:
        found = (await browser.module("gpu").find()).to_py()
    except Exception as error:
        raise browser.translated(error) from error
    _adapters, _why = [_adapter(facts) for facts in found["adapters"]], found["why"]


def adapters() -> list[Adapter]:
    """What find() found, best first."""
    return list(_adapters)


def why_none() -> str:
    """Why adapters() gives none."""
    return _why


def _adapter(facts: Mapping[str, Any]) -> Adapter:
    return Adapter(
        name=facts["name"],
        vendor=facts["vendor"],
        backend="WebGPU",
        driver=facts["driver"],
        software=facts["software"],
        integrated=facts["key"] == "low-power",
        features=frozenset(facts["features"]),
        limits=Limits(**facts["limits"]),
        handle=facts["key"],
    )


class Buffer:
    """A buffer's number, and its bytes."""

    __slots__ = ("number", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size


class Group(int):
    """A bind group's number. When nobody has it any more, the page lets go of the group."""

    dropped: "list[int]"  # where it is then told

    def __del__(self) -> None:
        self.dropped.append(int(self))


class PageHost:
    """A GpuHost in a page. All hosts on one adapter share its device."""

    directives = True

    def __init__(self, adapter: Adapter, features: frozenset[str] | None = None) -> None:
        """features: those that may be used, of the adapter's; None: all."""
        self.adapter, self.limits = adapter, adapter.limits
        self.features = adapter.features if features is None else adapter.features & features
        self.allocated = self.high_water = 0
        self._bindings: dict[tuple[Binding, ...], str] = {}
        self._dropped: list[int] = []
        self._js = self._call(browser.module("gpu").GpuHost.new, adapter.handle)

    def _call(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except Exception as error:
            raise browser.translated(error) from error

    # Making

    def buffer(self, n_bytes: int, use: Use = Use.STORAGE) -> Buffer:
        size = -(-max(4, n_bytes) // 4) * 4
        if size > self.limits.buffer:
            most = f"more than the {self.limits.buffer} that {self.adapter.name!r} allows"
            raise DeviceError(f"a GPU buffer of {size} bytes is {most}")
        number = self._call(self._js.buffer, size, use.value)
        self.allocated += size
        self.high_water = max(self.high_water, self.allocated)
        return Buffer(number, size)

    def free(self, buffer: Buffer) -> None:
        self.allocated -= buffer.size
        self._call(self._js.free, buffer.number)

    def pipeline(self, name: str, code: str, bindings: Sequence[Binding], constants: Mapping[str, float]) -> int:
        numbers = json.dumps({key: float(value) for key, value in sorted(constants.items())})
        return int(self._call(self._js.pipeline, name, code, self._told(bindings), numbers))

    def group(self, bindings: Sequence[Binding], ranges: Sequence[Range]) -> Group:
        places = array("d")
        for buffer, offset, size in ranges:
            places.extend((buffer.number, offset, -(-size // 4) * 4))
        made = Group(self._call(self._js.group, self._told(bindings), _typed(places)))
        made.dropped = self._dropped
        return made

    def _told(self, bindings: Sequence[Binding]) -> str:
        key = tuple(bindings)
        if key not in self._bindings:
            self._bindings[key] = json.dumps([[b.index, b.kind] for b in key])
        return self._bindings[key]

    # Doing

    def write(self, buffer: Buffer, offset: int, data: Any) -> None:
        """Copy bytes, or what lies at a Place, into a buffer before what is submitted later; offset and length in fours."""
        if isinstance(data, Place):
            memory: Any = data.memory
            self._call(self._js.writeFrom, buffer.number, offset, memory.js, data.address, len(data))
        else:
            self._call(self._js.write, buffer.number, offset, _typed(memoryview(data).cast("B")))

    def submit(self, steps: Sequence[Dispatch], copies: Sequence[tuple[Any, int, Any, int, int]] = ()) -> None:
        """Run dispatches one after another in one pass, then copies (from, offset, to, offset, bytes)."""
        numbers = array("d")
        for source, at, target, to, n_bytes in copies:
            numbers.extend((source.number, at, target.number, to, -(-n_bytes // 4) * 4))
        dropped, self._dropped[:] = array("I", self._dropped), []
        self._call(self._js.replay, _typed(array("I", chain.from_iterable(steps))), _typed(numbers), _typed(dropped))

    async def fetch(self, staging: Buffer, n_bytes: int) -> memoryview:
        """The first bytes of a buffer made for READ, once what was submitted has run; then it may be copied to again."""
        try:
            return memoryview((await self._js.fetch(staging.number, n_bytes)).to_bytes())
        except Exception as error:
            raise browser.translated(error) from error

    async def read(self, buffer: Buffer, offset: int, n_bytes: int) -> memoryview:
        """A copy of bytes of any buffer, by way of one made for it."""
        staging = self.buffer(n_bytes, Use.READ)
        try:
            self.submit((), [(buffer, offset, staging, 0, n_bytes)])
            return await self.fetch(staging, n_bytes)
        finally:
            self.free(staging)

    async def done(self) -> None:
        """Until what was submitted has run."""
        try:
            await self._js.done()
        except Exception as error:
            raise browser.translated(error) from error

    def close(self) -> None:
        """Idempotent. Buffers are gone afterwards."""
        self._js.close()


def _typed(data: Any) -> Any:
    """A typed array with these numbers."""
    from pyodide.ffi import to_js

    return to_js(data)

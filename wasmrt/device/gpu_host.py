"""What a GPU device needs of its surroundings, and how shaders become pipelines: shared by a desktop and a page.

A shader is the text of some files of shaders/ joined: a format's, helpers, an op's. Its bindings are read from that text, so
that they are written down once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, Protocol

from wasmrt.resources import shader

# (pipeline, bind group, workgroups x, y, z)
Dispatch = tuple[Any, Any, int, int, int]
Range = tuple[Any, int, int]  # buffer, offset, bytes


class Use(Enum):
    """What a buffer is for."""

    STORAGE = "storage"
    STATE = "state"  # read as a uniform, and written by shaders
    READ = "read"  # read by the host


@dataclass(frozen=True, slots=True)
class Limits:
    """What an adapter allows, in bytes and counts."""

    binding: int
    buffer: int
    workgroup_bytes: int
    invocations: int
    buffers: int  # storage buffers of a shader
    workgroups: int  # a dimension
    alignment: int  # of a binding's offset


@dataclass(frozen=True, slots=True)
class Adapter:
    """A GPU, or a program that imitates one."""

    name: str
    vendor: str
    backend: str
    driver: str
    software: bool
    integrated: bool
    features: frozenset[str]  # "subgroups", "f16", "timestamps"
    limits: Limits
    handle: Any = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binding:
    """A resource that a shader declares. kind: "uniform", "read" or "write" (which may also be read)."""

    index: int
    kind: str
    name: str


class GpuHost(Protocol):
    """One adapter's device with what is made on it. Raises DeviceError for whatever the driver refuses."""

    adapter: Adapter
    limits: Limits
    features: frozenset[str]  # that are used
    allocated: int  # bytes of all buffers
    high_water: int
    directives: bool  # its compiler wants to be told that a shader uses subgroups; another does not know how

    def buffer(self, n_bytes: int, use: Use = Use.STORAGE) -> Any: ...
    def free(self, buffer: Any) -> None: ...
    def pipeline(self, name: str, code: str, bindings: Sequence[Binding], constants: Mapping[str, float]) -> Any: ...
    def group(self, bindings: Sequence[Binding], ranges: Sequence[Range]) -> Any: ...
    def write(self, buffer: Any, offset: int, data: Any) -> None: ...
    def submit(self, steps: Sequence[Dispatch], copies: Sequence[tuple[Any, int, Any, int, int]] = ()) -> None: ...
    async def fetch(self, staging: Any, n_bytes: int) -> memoryview: ...
    async def read(self, buffer: Any, offset: int, n_bytes: int) -> memoryview: ...
    async def done(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Shader:
    """A pipeline and what it binds."""

    pipeline: Any
    bindings: tuple[Binding, ...]


class Shaders:
    """Pipelines of a host, each made when it is first wanted."""

    def __init__(self, host: GpuHost) -> None:
        self._host = host
        self._made: dict[tuple[Any, ...], Shader] = {}

    def get(self, *files: str, **constants: float) -> Shader:
        """The op of the last file, behind what it builds on. constants: its overrides."""
        key = (files, tuple(sorted(constants.items())))
        if key not in self._made:
            code = source(files, self._host.directives)
            bindings = bindings_of(code)
            self._made[key] = Shader(self._host.pipeline("+".join(files), code, bindings, constants), bindings)
        return self._made[key]


@cache
def source(files: tuple[str, ...], directives: bool = False) -> str:
    """The files joined. directives: with those that not all compilers take."""
    code = "\n".join(shader(name).read_text(encoding="utf-8") for name in files)
    if directives and "reduce_subgroup" in files:
        code = f"enable subgroups;\n{code}"
    return f"enable f16;\n{code}" if "tile_f16" in files else code


_DECLARED = re.compile(r"@group\(0\) @binding\((\d+)\) var<(uniform|storage, read_write|storage, read)> (\w+)")


def bindings_of(code: str) -> tuple[Binding, ...]:
    """The resources that a shader declares, by index."""
    found = []
    for index, space, name in _DECLARED.findall(code):
        kind = "uniform" if space == "uniform" else "write" if space.endswith("read_write") else "read"
        found.append(Binding(int(index), kind, name))
    return tuple(sorted(found, key=lambda b: b.index))

"""Every shader that the GPU device can ask for, through the compilers of browsers: Tint in Chromium, naga in Firefox.

What it asks for is written down by a host without a GPU, while a device computes with it: all ops in all formats, by every
variant of its kernels, and all that is measured and chosen besides.
"""

import asyncio
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from tests.conftest import ROOT, skip_or_fail
from wasmrt.device import canary, gpu_autotune
from wasmrt.device.canary import CASES, F32, Case, Tensor
from wasmrt.device.gpu import GpuDevice
from wasmrt.device.gpu_host import Adapter, Binding, Limits
from wasmrt.device.gpu_layout import LAYOUTS
from wasmrt.device.gpu_plan import CountingHost
from wasmrt.device.gpu_tune import LONG_UNITS, REAL, SOFTWARE, Tuning, Variant
from wasmrt.gguf.types import BY_NAME
from wasmrt.options import SamplerOptions
from wasmrt.program.fuse import fuse
from wasmrt.program.ops import Program

browsers = pytest.mark.parametrize("browser", ["chromium", "firefox"], indirect=True)

# What any device has that is asked for nothing more.
LEAST = Limits(128 << 20, 256 << 20, 16384, 256, 8, 65535, 256)
ADAPTER = Adapter("any", "", "WebGPU", "", True, False, frozenset({"subgroups", "f16"}), LEAST, None)
Constants = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Asked:
    """A pipeline that was asked for."""

    name: str
    code: str
    bindings: tuple[tuple[int, str], ...]
    constants: Constants

    @property
    def kernel(self) -> tuple[str, ...]:
        """What pipelines differ by that differ in more than how formats are read."""
        files = self.name.split("+")
        return files[-1], *(name for name in files if name.startswith(("reduce_", "dot_", "tile_")))


class Recording(CountingHost):
    """Takes down which pipelines are asked for; what it computes is zero."""

    directives = True

    def __init__(self, asked: dict[Asked, None]) -> None:
        super().__init__(ADAPTER)
        self._asked = asked

    def pipeline(self, name: str, code: str, bindings: Sequence[Binding], constants: Mapping[str, float]) -> None:
        numbers = tuple(sorted((key, float(value)) for key, value in constants.items()))
        self._asked[Asked(name, code, tuple((b.index, b.kind) for b in bindings), numbers)] = None

    async def fetch(self, staging: object, n_bytes: int) -> memoryview:
        return memoryview(bytes(n_bytes))

    async def read(self, buffer: object, offset: int, n_bytes: int) -> memoryview:
        return memoryview(bytes(n_bytes))


def more_cases() -> Iterator[Case]:
    """Vectors in all formats, rows that are not whole units, which only some have, and heads that are not whole fours."""
    for name in LAYOUTS:
        vectors = {"x": canary._X, "gain": Tensor(BY_NAME[name], (canary.N,), 7)}
        yield Case(f"gain {name}", lambda t, w: t.rms_norm(t.embed(w["x"]), w["gain"], 0.1), vectors)
    for name in ("F32", "F16", "BF16"):
        x, w, gain = Tensor(F32, (33, canary.ROWS), 1), Tensor(BY_NAME[name], (33, 5), 2), Tensor(F32, (33,), 3)
        yield Case(f"odd {name}", lambda t, w: t.matmul(w["w"], t.rms_norm(t.embed(w["x"]), w["gain"], 0.1)),
                   {"x": x, "gain": gain, "w": w})  # fmt: skip
    for dim in (6, 80, 200):
        heads = {"q": canary._values(4 * dim, 4), "k": canary._values(2 * dim, 5), "v": canary._values(2 * dim, 6)}
        yield Case(f"heads of {dim}", canary._attention, heads)


def tunings() -> Iterator[Tuning]:
    yield from (REAL, SOFTWARE, replace(REAL, half=True), replace(SOFTWARE, half=True, most_few=1))
    yield from (replace(REAL, one=variant, few=replace(variant, rows=8)) for variant in gpu_autotune.CANDIDATES)
    quants = [name for name, layout in LAYOUTS.items() if not layout.is_float]
    for variant in (Variant(ints=True), Variant(64, 32, 4, subgroup=True, ints=True)):
        yield replace(REAL, chosen={(name, False): variant for name in quants}, few=replace(variant, rows=8))


def programs(whole: bool | None) -> list[tuple[Program, Mapping[str, Tensor]]]:
    """All ops in all formats with their tensors; whole: how they are fused, None: not at all."""
    made = [(case.program(), case.tensors) for case in (*CASES.values(), *more_cases())]
    return made if whole is None else [(fuse(program, whole), tensors) for program, tensors in made]


async def compute(device: GpuDevice, of: Sequence[tuple[Program, Mapping[str, Tensor]]]) -> None:
    bounds = canary.bind(device, [program for program, _ in of], [tensors for _, tensors in of])
    for bound in bounds:
        await canary.result(device, bound)
    await device.candidates(bounds[0], 5, [1, 2], 1.1, 0.5)
    for temperature in (0.0, 0.5):
        await device.chain(bounds[:1], 0, 0, 2, SamplerOptions(temperature=temperature), [0.5, 0.5])


def measure(host: Recording) -> None:
    """What a GPU is measured with."""
    bench = gpu_autotune.Bench(host)
    for name, units in itertools.product(LAYOUTS, (8, LONG_UNITS)):
        for variant in bench.candidates():
            bench._run(name, units, variant)


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    found: dict[Asked, None] = {}
    alone, fused = programs(None), programs(True)
    runs = [(REAL, True, alone), (REAL, True, fused), (REAL, False, programs(False))]
    runs += [(tuning, False, some) for tuning in tunings() for some in (alone, fused)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "data", functools.cache(Tensor.data))
        for tuning, f16_cache, some in runs:
            device = GpuDevice(Recording(found), None, f16_cache)
            device.tuning = tuning
            asyncio.run(compute(device, some))
    measure(Recording(found))
    return list(found)


@pytest.fixture
def features(kept_page) -> frozenset[str]:
    source = "const { find } = await import('/gpu.js'); return await find()"
    found = kept_page.run(source)
    if not found["adapters"]:
        skip_or_fail("gpu", f"{kept_page.engine}: {found['why']}")
    return frozenset(found["adapters"][0]["features"])


def usable(asked: Sequence[Asked], features: frozenset[str]) -> list[Asked]:
    lacking = {"reduce_subgroup": "subgroups", "tile_f16": "f16"}
    return [one for one in asked if all(lacking.get(name, "") in {"", *features} for name in one.name.split("+"))]


def test_all_files_are_among_them(asked):
    """So that whatever is added to shaders/ goes through these compilers."""
    names = {name for one in asked for name in one.name.split("+")}
    assert names == {path.stem for path in ROOT.glob("shaders/*.wgsl")}


MODULES = """
const { find, GpuHost } = await import("/gpu.js");
await find();
const host = new GpuHost("high-performance");
const said = await Promise.all(Object.entries(args.codes).map(async ([name, code]) => {
  const { messages } = await host.device.createShaderModule({ code }).getCompilationInfo();
  return messages.map((m) => `${name}:${m.lineNum}: ${m.type}: ${m.message}: ${code.split("\\n")[m.lineNum - 1]}`);
}));
host.close();
return said.flat();
"""


@browsers
def test_nothing_is_said_about_any(kept_page, asked, features):
    """Neither errors nor warnings: barriers in flow that is not uniform among them, which naga lets pass."""
    codes = {one.name: one.code for one in usable(asked, features)}
    assert len(codes) > 150
    assert kept_page.run(MODULES, codes=codes) == []


PIPELINES = """
const { find, GpuHost } = await import("/gpu.js");
await find();
const host = new GpuHost("high-performance");
for (const { name, code, bindings, constants } of args.asked) {
  host.pipeline(name, code, JSON.stringify(bindings), JSON.stringify(Object.fromEntries(constants)));
}
await Promise.all(host.scopes);
const errors = host.errors;
host.close();
return errors;
"""


@browsers
def test_pipelines_are_made(kept_page, asked, features):
    """In Chromium's software adapter each takes half a second: one of each kernel there, and all in Firefox."""
    there = usable(asked, features)
    if kept_page.engine == "chromium":
        there = list({one.kernel: one for one in there}.values())
    made = [{"name": o.name, "code": o.code, "bindings": o.bindings, "constants": o.constants} for o in there]
    assert kept_page.run(PIPELINES, asked=made, seconds=300) == []

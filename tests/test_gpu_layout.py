"""Weights laid out for a GPU and read again: every number as the gguf package has it, bit for bit; no other byte touched."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import skip_or_fail
from tests.programs import F32, Tensor, random_tensor, set_scales
from tests.test_quants import EXTREME_F16, F16_FIELDS
from wasmrt.device.gpu_host import Range, Shaders, Use, bindings_of, source
from wasmrt.device.gpu_layout import LAYOUTS, WORKGROUP, Layout, layout_of
from wasmrt.errors import UnsupportedError
from wasmrt.gguf.types import BY_NAME, TYPES

# Of each unit 32 numbers, then da, db, ma, mb.
READER = """
struct Params { units: u32, n_units: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> wa: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> wb: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
) {
    let t = group_index(group, groups) * 64u + tid;
    if (t >= params.n_units) { return; }
    let unit = LOAD(t / params.units, t % params.units);
    for (var i = 0u; i < 16u; i += 1u) {
        y[36u * t + i] = NUMBER_A;
        y[36u * t + 16u + i] = NUMBER_B;
    }
    y[36u * t + 32u] = unit.da;
    y[36u * t + 33u] = unit.db;
    y[36u * t + 34u] = unit.ma;
    y[36u * t + 35u] = unit.mb;
}
"""
READERS = {
    "load_unit": ("unit.a[i >> 2u][i & 3u]", "unit.b[i >> 2u][i & 3u]"),
    "load_ints": ("f32(unpack4xI8(unit.a[i >> 2u])[i & 3u])", "f32(unpack4xI8(unit.b[i >> 2u])[i & 3u])"),
}

PATTERN = 0xA5
formats = pytest.mark.parametrize("name", LAYOUTS)


class Gpu:
    """Runs what lays out and what reads."""

    def __init__(self, host: Any) -> None:
        self.host, self.shaders = host, Shaders(host)
        self.readers: dict[tuple[str, str], Any] = {}
        self.buffers: list[Any] = []

    def given(self, data: Any, use: Use = Use.STORAGE) -> Range:
        data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.buffers.append(self.host.buffer(data.size, use))
        self.host.write(self.buffers[-1], 0, data)
        return self.buffers[-1], 0, data.size

    def run(self, shader: Any, params: bytes, ranges: Sequence[Range], n_groups: int, columns: int) -> None:
        """In a grid of so many columns, which has a few workgroups too many."""
        uniforms = {0: self.given(np.frombuffer(params.ljust(16, b"\0"), np.uint8), Use.STATE)}
        uniforms[1] = self.given(np.zeros(4, np.uint32), Use.STATE)
        storage = iter(ranges)
        bound = [uniforms[b.index] if b.index in uniforms else next(storage) for b in shader.bindings]
        assert next(storage, None) is None
        group = self.host.group(shader.bindings, bound)
        self.host.submit([(shader.pipeline, group, columns, -(-n_groups // columns), 1)])

    def read(self, at: Range) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.frombuffer(asyncio.run(self.host.read(*at)), np.uint8)

    def reader(self, layout: Layout, load: str) -> Any:
        if (layout.name, load) not in self.readers:
            a, b = READERS[load]
            reader = READER.replace("LOAD", load).replace("NUMBER_A", a).replace("NUMBER_B", b)
            code = source(("common", *layout.files)) + reader
            found = bindings_of(code)
            self.readers[layout.name, load] = Reader(self.host.pipeline(f"{load} of {layout.name}", code, found, {}), found)
        return self.readers[layout.name, load]

    def clear(self) -> None:
        for buffer in self.buffers:
            self.host.free(buffer)
        self.buffers.clear()


@dataclass(frozen=True)
class Reader:
    pipeline: Any
    bindings: Any


@pytest.fixture(scope="module")
def gpu() -> Iterator[Gpu]:
    try:
        from wasmrt.device.gpu_native import WgpuHost, adapters
    except ImportError as error:
        skip_or_fail("gpu", f"wgpu is not here ({error})")
    found = adapters()
    if not found:
        skip_or_fail("gpu", "there is no GPU adapter, not even one in software")
    host = WgpuHost(found[0])
    yield Gpu(host)
    host.close()


def laid_out(gpu: Gpu, x: Tensor, before: int, chunks: Sequence[int], after: int, columns: int = 3) -> tuple[Range, Range]:
    """A tensor's streams, laid out in chunks of so many rows, between rows that nothing may touch."""
    layout, n, n_rows = layout_of(x.type), x.shape[0], x.shape[1]
    assert sum(chunks) == n_rows
    total = before + n_rows + after
    sizes = layout.a_row_bytes(n), layout.b_row_bytes(n)
    a, b = (gpu.given(np.full(size * total or 16, PATTERN, np.uint8)) for size in sizes)
    row_bytes = x.type.row_bytes(n)
    first = 0
    for count in chunks:
        data = x.data[first * row_bytes : (first + count) * row_bytes]
        raw = gpu.given(np.frombuffer(data + bytes([PATTERN]) * (-len(data) % 4), np.uint8))
        repack = layout.repack(n, count, before + first)
        shader = gpu.shaders.get("common", *repack.files, **repack.constants)
        points = (gpu.given(np.frombuffer(repack.points, np.uint8)),) if repack.points else ()
        gpu.run(shader, repack.params, (raw, a, *(() if layout.is_float else (b,)), *points), repack.workgroups, columns)
        first += count
    for stream, size in zip((a, b), sizes, strict=True):
        got = gpu.read(stream)
        assert (got[: before * size] == PATTERN).all()
        assert (got[(before + n_rows) * size :] == PATTERN).all()
    return a, b


def units_read(gpu: Gpu, x: Tensor, first_row: int, streams: tuple[Range, Range], load: str) -> F32:
    """What a load gives, f32 (n_rows, units, 36)."""
    layout, n_rows, units = layout_of(x.type), x.shape[1], layout_of(x.type).units(x.shape[0])
    total = first_row + n_rows
    y = gpu.given(np.zeros((total, units, 36), np.float32))
    params = np.array([units, total * units], np.uint32).tobytes()
    gpu.run(gpu.reader(layout, load), params, (*streams, y), -(-total * units // 64), 5)
    return gpu.read(y).view(np.float32).reshape(total, units, 36)[first_row:]


def check(gpu: Gpu, x: Tensor, before: int, chunks: Sequence[int], after: int, columns: int = 3) -> None:
    layout, (n, n_rows) = layout_of(x.type), x.shape
    want = np.zeros((n_rows, layout.units(n) * 32), np.float32)
    want[:, :n] = x.values()
    try:
        streams = laid_out(gpu, x, before, chunks, after, columns)
        for load in READERS if not layout.is_float else ("load_unit",):
            got = units_read(gpu, x, before, streams, load).reshape(n_rows, -1, 36)
            q = got[..., :32].reshape(n_rows, -1, 2, 16)
            d, m = got[..., 32:34, None], got[..., 34:36, None]
            if layout.is_float:
                assert (d == 1).all()
            else:
                np.testing.assert_array_equal(q, np.round(q))
            np.testing.assert_array_equal((d * q + m).reshape(want.shape), want)
    finally:
        gpu.clear()


chunk_lists = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@formats
@given(
    blocks=st.integers(1, 3), n=st.integers(1, 150), chunks=chunk_lists, before=st.integers(0, 3), after=st.integers(0, 2),
    columns=st.integers(1, 4), seed=st.integers(0, 2**32 - 1),
)
def test_every_weight_is_read_as_it_was(gpu, name, blocks, n, chunks, before, after, columns, seed):
    """blocks: of a row, or n weights of a float format. Odd numbers of blocks leave part of a word of scales empty."""
    length = n if BY_NAME[name].block == 1 else blocks * BY_NAME[name].block
    check(gpu, random_tensor(seed, name, length, sum(chunks)), before, chunks, after, columns)


@formats
def test_many_rows(gpu, name):
    """Thousands of blocks: every six-bit scale and every pattern of bits at each place."""
    check(gpu, random_tensor(5, name, 512, 301), 1, (300, 1), 1, columns=40)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if F16_FIELDS[name] and not LAYOUTS[name].is_float])
def test_extreme_scales(gpu, name):
    """Zeros, denormals and the largest as scale and min. WGSL promises nothing of inf and NaN, so those stay away."""
    quant, places = BY_NAME[name], F16_FIELDS[name]
    finite = [bits for bits in EXTREME_F16 if bits & 0x7C00 != 0x7C00]
    values = np.array(list(itertools.product(finite, repeat=len(places))), dtype="<u2")
    blocks = np.random.default_rng(3).integers(0, 256, (len(values), quant.block_bytes), dtype=np.uint8)
    for column, place in enumerate(places):
        blocks[:, place : place + 2] = values[:, column : column + 1].view(np.uint8)
    check(gpu, Tensor(quant, (quant.block, len(values)), blocks.tobytes()), 0, (len(values),), 0)


def test_extreme_scales_in_four_parts(gpu):
    quant = BY_NAME["IQ1_M"]
    d = np.array([bits for bits in EXTREME_F16 if bits & 0x7C00 != 0x7C00], "<u2")
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (len(d), quant.block_bytes), dtype=np.uint8)
    set_scales("IQ1_M", blocks, d, rng)
    check(gpu, Tensor(quant, (quant.block, len(d)), blocks.tobytes()), 0, (len(d),), 0)


def test_all_exponents(gpu):
    """Of MXFP4. A GPU may make 0 of a scale that is no normal number, or of what comes of it; the largest overflow."""
    quant = BY_NAME["MXFP4"]
    blocks = np.random.default_rng(3).integers(0, 256, (256, quant.block_bytes), dtype=np.uint8)
    blocks[:, 0] = np.arange(256)
    x = Tensor(quant, (quant.block, 256), blocks.tobytes())
    with np.errstate(over="ignore"):
        want = x.values()
    try:
        got = units_read(gpu, x, 0, laid_out(gpu, x, 0, (256,), 0), "load_unit")
        with np.errstate(over="ignore"):
            w = got[:, 0, :32] * got[:, 0, 32:33]
    finally:
        gpu.clear()
    np.testing.assert_array_equal(w[2:], want[2:])
    assert ((w[:2] == want[:2]) | (w[:2] == 0)).all()


@pytest.mark.parametrize("byte", [0x00, 0x7F, 0xFF])
@pytest.mark.parametrize("name", [name for name in LAYOUTS if not LAYOUTS[name].is_float])
def test_damaged_blocks_harm_no_others(gpu, name, byte):
    """Scales that are NaN or infinite, the last points of tables, digits and fields that no quantizer writes."""
    x = random_tensor(6, name, 3 * BY_NAME[name].block, 5)
    row_bytes = x.type.row_bytes(x.shape[0])
    data = bytearray(x.data)
    data[2 * row_bytes : 3 * row_bytes] = bytes([byte]) * row_bytes
    whole = [0, 1, 3, 4]
    try:
        streams = laid_out(gpu, Tensor(x.type, x.shape, bytes(data)), 0, (5,), 0)
        got = units_read(gpu, x, 0, streams, "load_unit").reshape(5, -1, 36)[whole]
    finally:
        gpu.clear()
    q, d, m = got[..., :32].reshape(4, -1, 2, 16), got[..., 32:34, None], got[..., 34:36, None]
    np.testing.assert_array_equal((d * q + m).reshape(4, -1), x.values()[whole])


# Of the others a GPU holds what a file does, or up to 5 % more. Bits a weight: of a file, of a GPU.
GROWN = {
    "TQ1_0": (1.6875, 2.125), "IQ1_S": (1.5625, 2.5), "IQ1_M": (1.75, 2.5), "IQ2_XXS": (2.0625, 3.375),
    "IQ2_XS": (2.3125, 3.375), "IQ2_S": (2.5625, 3.375), "IQ3_XXS": (3.0625, 4.25), "IQ3_S": (3.4375, 4.25),
}  # fmt: skip


@formats
@pytest.mark.parametrize("n", [2048, 4096, 5632])
def test_streams_are_hardly_larger_than_the_file(name, n):
    layout, file_bytes = layout_of(BY_NAME[name]), BY_NAME[name].row_bytes(n)
    a, b = layout.a_row_bytes(n), layout.b_row_bytes(n)
    assert a % 16 == 0
    assert b % 4 == 0
    if name in GROWN:
        assert (8 * file_bytes / n, 8 * (a + b) / n) == GROWN[name]
    else:
        assert file_bytes <= a + b <= 1.05 * file_bytes


def test_a_matrix_takes_as_many_workgroups_as_it_has_units():
    assert LAYOUTS["Q4_K"].repack(4096, 7, 0).workgroups == 7 * 4096 // 32 // WORKGROUP
    assert LAYOUTS["F16"].repack(33, 1, 0).workgroups == 1
    assert LAYOUTS["Q8_0"].repack(4096, 0, 0).workgroups == 0


def test_formats_without_a_layout_are_named():
    for quant in TYPES.values():
        if quant.name not in LAYOUTS:
            with pytest.raises(UnsupportedError, match=f"{quant.name} is not supported on a GPU; supported: F32, "):
                layout_of(quant)

"""Every variant of the GPU's matmuls, forced, in every format; and how what was measured is chosen, kept and found again.

Bounds on the normalised squared error stand beside the tests: the worst seen on a software adapter over a hundred random
cases of five passes each, times ten.
"""

import asyncio
import functools
import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import GPU, REFERENCE, Kind, Rig, nmse, normal, random_tensor, record, tensor
from tests.test_gpu_matmul import Little, Resident
from tests.test_gpu_small import Guarded, assert_same_bits
from tests.test_quants import F16_FIELDS
from tests.test_reference_device import size_of_product
from wasmrt.device import gpu_autotune, gpu_tune
from wasmrt.device.choice import Choice
from wasmrt.device.gpu_layout import LAYOUTS
from wasmrt.device.gpu_tune import REAL, SOFTWARE, Tuning, Variant, name_of, tuning_of
from wasmrt.gguf.types import BY_NAME
from wasmrt.program.fuse import fuse
from wasmrt.program.record import CHUNK_BYTES

pytestmark = pytest.mark.usefixtures("gpu")

seeds = st.integers(0, 2**32 - 1)
formats = pytest.mark.parametrize("name", F16_FIELDS)
int_formats = pytest.mark.parametrize("name", [name for name in F16_FIELDS if not LAYOUTS[name].is_float])
heights = st.sampled_from([1, 5, 31, 64, 129])
lane_counts, workgroups = st.sampled_from([1, 2, 8, 16, 32, 64]), st.sampled_from([64, 128, 256])
# Rows of x: one, a few, and more than are a few.
PASSES = (1, 3, 4, 7, 18)
MANY = max(PASSES)
EPS = 1e-5


@dataclass(frozen=True)
class Tuned(Kind):
    """A GPU that runs what it is told to."""

    device: str = "gpu"
    tuning: Tuning = SOFTWARE
    base: Kind = GPU

    def choose(self) -> Choice:
        choice = self.base.choose()

        def make(*args: Any) -> Any:
            memory, device = choice.make(*args)
            device.tuning = self.tuning  # type: ignore[attr-defined]
            return memory, device

        return replace(choice, make=make)


def widths(name):
    block = BY_NAME[name].block
    if block == 1:
        return st.sampled_from([1, 33, 64, 96, 400, 1056])
    return st.sampled_from([block * i for i in ((1, 3, 5) if block == 256 else (1, 2, 9, 33))])


def three(t, w):
    """Every way out of a product, around one in; the last of it is read."""
    x = t.embed(w.x)
    h = t.rms_norm(x, w.gain, EPS)
    return t.last_rows(t.add(t.matmul(w.down, x), t.swiglu(t.matmul(w.gate, h), t.matmul(w.up, h))))


def all_of(seed, name, n, m):
    tensors = {part: random_tensor(seed + i, name, n, m) for i, part in enumerate(("gate", "up", "down"))}
    return {**tensors, "x": tensor(normal(seed + 3, (MANY, n))), "gain": tensor(normal(seed + 4, (n,)))}


def passes_of(make, page, tensors, whole=True, chunk_bytes=CHUNK_BYTES):
    """What a page gives for each of PASSES; fused where it runs on a GPU."""
    program = record(page, tensors, chunk_bytes=chunk_bytes)
    program = program if whole is None else fuse(program, whole)
    with make((program, tensors), max_tokens=MANY) as rig:
        return [rig.run(range(n)) for n in PASSES]


def size_of_three(tensors):
    """What rounding errors of `three` go with: (T, m)."""
    x, gain = tensors["x"].values(), tensors["gain"].values()
    h = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + EPS) * gain
    products = size_of_product(tensors["gate"].values(), h) * size_of_product(tensors["up"].values(), h)
    return np.hypot(size_of_product(tensors["down"].values(), x), products)


def worst(tuning, tensors, want=None):
    got = passes_of(functools.partial(Guarded, Tuned(tuning=tuning)), three, tensors)
    want = want or passes_of(functools.partial(Rig, REFERENCE), three, tensors, None)
    size = size_of_three(tensors)
    return max(nmse(a, b, size[: len(a)]) for a, b in zip(got, want, strict=True))


# Variants


# Worst: 1.3e-12.
@formats
@settings(max_examples=2)
@given(
    data=st.data(), m=heights, wg=workgroups, lanes=lane_counts, rows=st.sampled_from([1, 2, 4]),
    few=st.sampled_from([2, 4, 8]),
    subgroup=st.booleans(), most_few=st.sampled_from([1, 4, 16]), tile=st.sampled_from([32, 64]), seed=seeds,
)  # fmt: skip
def test_variants(name, data, m, wg, lanes, rows, few, subgroup, most_few, tile, seed):
    """Threads, lanes, rows and tiles of any size; sums through workgroup memory or by subgroups."""
    variant = Variant(wg, lanes, rows, subgroup)
    tuning = Tuning(one=variant, few=replace(variant, rows=few), most_few=most_few, tile=tile)
    assert worst(tuning, all_of(seed, name, data.draw(widths(name)), m)) < 1.3e-11


def heads_and_gelu(t, w):
    """What only some models want of products."""
    x = t.embed(w.x)
    return t.last_rows(t.concat(t.head_matmul(w.heads, x, 3), t.geglu(t.matmul(w.gate, x), t.matmul(w.up, x))))


# Worst: 4.6e-12.
@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K"])
@settings(max_examples=4)
@given(
    data=st.data(), m=heights, wg=workgroups, lanes=lane_counts, rows=st.sampled_from([1, 2, 4]),
    few=st.sampled_from([2, 4, 8]), most_few=st.sampled_from([1, 4, 16]), tile=st.sampled_from([32, 64]), seed=seeds,
)  # fmt: skip
def test_variants_of_heads_and_gelu(name, data, m, wg, lanes, rows, few, most_few, tile, seed):
    n, variant = data.draw(widths(name)), Variant(wg, lanes, rows)
    tuning = Tuning(one=variant, few=replace(variant, rows=few), most_few=most_few, tile=tile)
    tensors = {"heads": random_tensor(seed, name, n, m, 3), "x": tensor(normal(seed + 1, (MANY, 3 * n)))}
    tensors |= {part: random_tensor(seed + i, name, 3 * n, m) for i, part in enumerate(("gate", "up"), 2)}
    got = passes_of(functools.partial(Guarded, Tuned(tuning=tuning)), heads_and_gelu, tensors)
    want = passes_of(functools.partial(Rig, REFERENCE), heads_and_gelu, tensors, None)
    x = tensors["x"].values()
    of_heads = [size_of_product(w, x[:, h * n : (h + 1) * n]) for h, w in enumerate(tensors["heads"].values())]
    gated = size_of_product(tensors["gate"].values(), x) * size_of_product(tensors["up"].values(), x)
    size = np.concatenate([*of_heads, gated], axis=1)
    ends = 3 * m
    for a, b in zip(got, want, strict=True):
        assert nmse(a[:, :ends], b[:, :ends], size[: len(a), :ends]) < 4.6e-11
        assert nmse(a[:, ends:], b[:, ends:], size[: len(a), ends:]) < 4.6e-11


@pytest.mark.parametrize("lanes", [2, 8, 16, 64])
def test_subgroups(lanes):
    """Fewer lanes than a subgroup has threads, as many, and more."""
    variant = Variant(64, lanes, 4, subgroup=True)
    tuning = Tuning(one=variant, few=variant, most_few=MANY)
    assert worst(tuning, all_of(1, "Q8_0", 65 * 32, 9)) < 1.3e-11


# Worst: 4.8e-7.
@formats
@settings(max_examples=2)
@given(data=st.data(), m=heights, most_few=st.sampled_from([1, 4]), tile=st.sampled_from([32, 64]), seed=seeds)
def test_tiles_in_f16(name, data, m, most_few, tile, seed):
    tuning = replace(SOFTWARE, most_few=most_few, tile=tile, half=True)
    assert worst(tuning, all_of(seed, name, data.draw(widths(name)), m)) < 4.8e-6


def rounded(x):
    """x as quantize.wgsl rounds it: to a 127th of the largest of 32."""
    units = x.astype(np.float32).reshape(len(x), -1, 32)
    largest = np.abs(units).max(axis=2, keepdims=True)
    by = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(units * by).astype(np.float64) * (largest.astype(np.float64) / 127)).reshape(x.shape)


def three_rounded(tensors):
    """What `three` gives for rounded x."""
    x, gain = tensors["x"].values(), tensors["gain"].values()
    h = rounded(x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + EPS) * gain)
    g, u, d = h @ tensors["gate"].values().T, h @ tensors["up"].values().T, rounded(x) @ tensors["down"].values().T
    return [(d + g / (1 + np.exp(-np.maximum(g, -700))) * u)[:n] for n in PASSES]


# Worst: 4.2e-13.
@int_formats
@settings(max_examples=2)
@given(data=st.data(), m=heights, lanes=lane_counts, few=st.sampled_from([2, 4, 8]), subgroup=st.booleans(), seed=seeds)
def test_ints(name, data, m, lanes, few, subgroup, seed):
    variant = Variant(64, lanes, 4, subgroup, ints=True)
    tuning = Tuning(one=variant, few=replace(variant, rows=few), most_few=MANY)
    tensors = all_of(seed, name, data.draw(widths(name)), m)
    assert worst(tuning, tensors, three_rounded(tensors)) < 4.2e-12


# 2e-5 to 4e-5 by the format: rounding to a 127th of the largest of 32 is off by a twelfth of its square, on average.
@int_formats
def test_rounding_x_costs_little(name):
    w, x = random_tensor(5, name, 768, 64), normal(6, (MANY, 768))

    def page(t, w):
        return t.last_rows(t.matmul(w.w, t.embed(w.x)))

    kind = Tuned(tuning=Tuning(one=Variant(ints=True), most_few=MANY))
    [*_, got] = passes_of(functools.partial(Rig, kind), page, {"w": w, "x": tensor(x)})
    assert 1e-6 < nmse(got, x @ w.values().T, size_of_product(w.values(), x)) < 1e-4


def test_ints_of_nothing():
    """A unit of zeros has no largest; what is beside it stays exact."""
    w, x = random_tensor(1, "Q4_K", 256, 5), np.zeros((MANY, 256), np.float32)
    x[1:, 7] = 1
    tuning = Tuning(one=Variant(ints=True), most_few=MANY)

    def page(t, w):
        return t.last_rows(t.matmul(w.w, t.embed(w.x)))

    made = passes_of(functools.partial(Rig, Tuned(tuning=tuning)), page, {"w": w, "x": tensor(x)})
    for got, n in zip(made, PASSES, strict=True):
        assert not got[0].any()
        np.testing.assert_allclose(got, x[:n] @ w.values().T, rtol=1e-6)


@pytest.mark.parametrize("subgroup", [False, True])
@pytest.mark.parametrize("ints", [False, True])
@settings(max_examples=2)
@given(name=st.sampled_from(["Q4_K", "Q6_K", "Q8_0", "Q2_K"]), m=heights, seed=seeds)
def test_where_weights_are_makes_no_difference(subgroup, ints, name, m, seed):
    """In the ring or on the GPU, whole or in pieces: the same bits."""
    variant = Variant(64, 16, 4, subgroup, ints)
    tuning, tensors = Tuning(one=variant, few=variant, most_few=4), all_of(seed, name, 768, m)
    kinds = [Tuned(tuning=tuning, base=base) for base in (GPU, Little("gpu"))]
    makes = [functools.partial(rig, kind) for rig in (Guarded, Resident) for kind in kinds]
    chunks = (CHUNK_BYTES, 20_000)
    first, *others = (passes_of(make, three, tensors, chunk_bytes=chunk) for make, chunk in itertools.product(makes, chunks))
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert_same_bits(b, a)


# Measuring, and what is kept of it


@pytest.fixture
def adapter(monkeypatch, tmp_path):
    """The GPU here as if it were real, with nothing measured yet and a folder of its own for what will be."""
    from wasmrt.device.gpu_native import adapters

    monkeypatch.setattr(gpu_tune, "folder", lambda: tmp_path / "cache" / "tuning")
    monkeypatch.setattr(gpu_tune, "_found", {})
    return replace(adapters()[0], software=False)


def host_of(adapter):
    from wasmrt.device.gpu_native import WgpuHost

    return WgpuHost(adapter)


def programs_of(*names):
    tensors = {name: random_tensor(1, name, 256, 8) for name in names} | {"x": tensor(np.zeros((1, 256)))}

    def page(t, w):
        made = [t.matmul(getattr(w, name), t.embed(w.x)) for name in names]
        return t.last_rows(functools.reduce(t.add, made))

    return [record(page, tensors)]


@pytest.fixture
def brief(monkeypatch):
    """Two candidates, on a small weight, and all the time that they take on a machine that does much besides."""
    monkeypatch.setattr(gpu_autotune, "tune", functools.partial(gpu_autotune.tune, seconds=60))
    monkeypatch.setattr(gpu_autotune, "CANDIDATES", (Variant(), Variant(64, 16, 2, subgroup=True)))
    monkeypatch.setattr(gpu_autotune, "WEIGHT_BYTES", 1 << 16)


@int_formats
@pytest.mark.usefixtures("brief")
def test_what_is_measured_with_gives_numbers(adapter, name):
    """Far from the end of f32: else no variant would agree with another, and none be chosen."""
    host = host_of(adapter)
    try:
        bench = gpu_autotune.Bench(host, 0.0)
        for units in (8, 128):
            _, got = asyncio.run(bench.measure(name, units, Variant()))
            assert 0 < np.max(np.abs(got)) < 1e32  # and no NaN
    finally:
        host.close()


@pytest.mark.usefixtures("brief")
def test_what_is_measured_is_kept(adapter, monkeypatch):
    programs = programs_of("Q4_K", "Q6_K")
    assert set(gpu_autotune.missing(adapter, programs)) == {("Q4_K", False), ("Q6_K", False), ("F32", False)}
    made = []
    asyncio.run(gpu_autotune.prepare(adapter, lambda: made.append(host_of(adapter)) or made[0], programs))
    chosen = tuning_of(adapter).chosen
    assert set(chosen) == {("Q4_K", False), ("Q6_K", False), ("F32", False)}
    assert set(chosen.values()) <= set(gpu_autotune.CANDIDATES)
    assert gpu_autotune.missing(adapter, programs) == {}

    monkeypatch.setattr(gpu_tune, "_found", {})                  # as another process
    assert tuning_of(adapter).chosen == chosen
    asyncio.run(gpu_autotune.prepare(adapter, lambda: pytest.fail("nothing was missing"), programs))
    assert gpu_autotune.missing(replace(adapter, driver="another"), programs)


@pytest.mark.usefixtures("brief")
def test_later_models_add_to_what_earlier_ones_measured(adapter, monkeypatch):
    gpu_tune.remember(adapter, {("Q4_K", False): Variant(128, 2, 1)})
    asyncio.run(gpu_autotune.prepare(adapter, lambda: host_of(adapter), programs_of("Q4_K", "Q8_0")))
    gpu_tune.remember(adapter, {("Q4_K", False): Variant()})
    assert tuning_of(adapter).chosen["Q4_K", False] == Variant(128, 2, 1)
    assert ("Q8_0", False) in tuning_of(adapter).chosen
    before = tuning_of(adapter)
    monkeypatch.setattr(gpu_tune, "_found", {})
    assert tuning_of(adapter) == before


@pytest.mark.usefixtures("brief")
def test_where_every_answer_is_late_nothing_is_measured(adapter, monkeypatch):
    """As in Firefox: what kernels take cannot be seen there."""
    host = host_of(adapter)
    done = host.done

    async def late():
        await done()
        await asyncio.sleep(2 * gpu_autotune.LONGEST_TRIP)

    monkeypatch.setattr(host, "done", late)
    allocated = host.allocated
    asyncio.run(gpu_autotune.prepare(adapter, lambda: host, programs_of("Q4_K")))
    assert tuning_of(adapter).chosen == {}
    assert host.high_water <= allocated + 64  # nor is anything prepared


def test_software_is_never_measured(adapter):
    software = replace(adapter, software=True)
    asyncio.run(gpu_autotune.prepare(software, lambda: pytest.fail("no host"), programs_of("Q4_K")))
    assert tuning_of(software) == SOFTWARE
    assert replace(tuning_of(replace(adapter, name="another")), least_subgroup=4) == REAL


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", '{"chosen": 3}', '{"chosen": {"Q4_K": {}}}', '{"chosen": {"F16 long": {}, "F16 tall": {}}}',
        '{"chosen": {"F16 long": {"wg": "64"}}}', '{"chosen": {"Q4_K long": {"wg": 63}}}', '{"chosen": {"F16 long": {"x": 1}}}',
        '{"chosen": {"Q4_K short": {"wg": 1024, "lanes": 8}}}', '{"chosen": {"Q4_K short": {"lanes": 0}}}', "\0",
        '{"chosen": {"Q4_K short": {"subgroup": 1}}}', '{"chosen": {"Q4_K short": {"rows": 8}}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_written_anew(adapter, text, monkeypatch):
    path = gpu_tune.folder() / f"{name_of(adapter)}.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert tuning_of(adapter).chosen == {}
    gpu_tune.remember(adapter, {("Q4_K", True): Variant(64, 32, 2)})
    monkeypatch.setattr(gpu_tune, "_found", {})
    assert tuning_of(adapter).chosen == {("Q4_K", True): Variant(64, 32, 2)}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_where_nothing_can_be_kept(adapter, tmp_path):
    (tmp_path / "cache").write_text("a file, where a folder would be")
    gpu_tune.remember(adapter, {("Q4_K", True): Variant(64, 32, 2)})
    assert tuning_of(adapter).chosen == {("Q4_K", True): Variant(64, 32, 2)}


def test_variants_that_differ_are_not_chosen(adapter):
    """As if subgroups held threads in another order: what is first by far, but wrong, is left."""

    class Bench:
        def candidates(self):
            return [Variant(), Variant(64, 16, 4), Variant(64, 32, 4, subgroup=True)]

        async def measure(self, name, units, variant):
            return {8: 3.0, 16: 2.0, 32: 1.0}[variant.lanes], [1.0, 2.0] if not variant.subgroup else [1.0, 2.1]

    bench: Any = Bench()
    assert asyncio.run(gpu_autotune.fastest(bench, "Q4_K", 8, False, float("inf"))) == Variant(64, 16, 4)
    assert asyncio.run(gpu_autotune.fastest(bench, "Q4_K", 8, False, 0)) == Variant()


@pytest.mark.parametrize(("rounded", "taken"), [(0.85, True), (0.95, False)])
def test_x_is_rounded_only_where_that_gains_much(rounded, taken):
    class Bench:
        def candidates(self):
            return [Variant()]

        async def measure(self, name, units, variant):
            return rounded if variant.ints else 1.0, [1.0]

    bench: Any = Bench()
    assert asyncio.run(gpu_autotune.fastest(bench, "Q4_K", 8, True, float("inf"))).ints == taken
    assert not asyncio.run(gpu_autotune.fastest(bench, "Q4_K", 8, False, float("inf"))).ints
    assert not asyncio.run(gpu_autotune.fastest(bench, "F16", 8, True, float("inf"))).ints

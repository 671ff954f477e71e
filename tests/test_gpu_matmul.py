"""The GPU's matmuls, embeddings and what is fused with them, in every format, against the reference device.

Weights pass through the ring, or stay on the GPU in one buffer or several; passes have few rows of x and many, for which there
are different kernels. Bounds on the normalised squared error stand beside the tests: the worst seen on a software adapter over
100 to 200 random cases of three passes, times ten.
"""

import functools
import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import GPU, REFERENCE, Kind, Rig, nmse, normal, pieces, random_tensor, record, router_for, tensor
from tests.test_gpu_small import Guarded, assert_same_bits
from tests.test_quants import F16_FIELDS
from tests.test_reference_device import draw_experts, size_of_product
from wasmrt.device.choice import Choice
from wasmrt.device.gpu_steps import NARROW
from wasmrt.gguf.types import BY_NAME
from wasmrt.program.fuse import fuse
from wasmrt.program.record import CHUNK_BYTES
from wasmrt.store.layers import Entry, LayerTable, Segment

pytestmark = pytest.mark.usefixtures("gpu")

seeds = st.integers(0, 2**32 - 1)
formats = pytest.mark.parametrize("name", F16_FIELDS)
scales = st.sampled_from([1e-3, 1.0, 1e3])
small_scales, normed = st.sampled_from([1e-3, 1e-3, 1.0, 1e3]), st.sampled_from([True, True, False])
# Rows of x: 4 at most go through one kernel; others take them in tiles of 32.
few, many = st.integers(1, NARROW), st.one_of(st.integers(NARROW + 1, 70), st.sampled_from([31, 32, 33, 63, 64, 65]))
# Rows of a weight: a workgroup takes 32 or more, a thread 4.
heights = st.one_of(st.integers(1, 80), st.sampled_from([31, 32, 33, 64, 129, 260]))
chunks = st.sampled_from([CHUNK_BYTES, 1, 5_000, 20_000])


def widths(name):
    """Of rows: some blocks, or any number where there are none; units of 32 are shared by 8 threads or fewer."""
    block = BY_NAME[name].block
    if block == 1:
        return st.one_of(st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 96, 128, 256]), st.integers(1, 400))
    return st.sampled_from([block * i for i in ((1, 2, 3) if block == 256 else (1, 2, 3, 4, 7, 8, 9, 13))])


# Where weights are


class Resident(Guarded):
    """A rig whose weights stay on the GPU."""

    def __init__(self, kind: Kind, *parts: Any, **room: int) -> None:
        super().__init__(kind, *parts, **room)
        device: Any = self.device
        offsets = itertools.count()
        segments, sizes = [], []
        for program, tensors in parts:
            cut = [(w.name, len(piece)) for w in program.weights for piece in pieces(w, tensors[w.name].data)]
            entries = tuple(Entry(name, next(offsets), n_bytes) for name, n_bytes in cut)
            segments.append(Segment(program.name, entries, tuple(program.entries_of(op) for op in program.ops)))
            sizes.append([n_bytes for _, n_bytes in cut])
        table = LayerTable(tuple(segments))
        device.place(table, frozenset(range(len(table.extents))))
        for s, bound in enumerate(self.bounds):
            for entry, n_bytes in enumerate(sizes[s]):
                device.upload([(s, entry)], self.memory.place(bound.table[entry], n_bytes))
                bound.table[entry] = 0  # it is needed no more
        device.prepare()


@dataclass(frozen=True, slots=True)
class Little(Kind):
    """A GPU that allows two workgroups a dimension, and bindings of 20,000 bytes, as far as the device knows."""

    def choose(self) -> Choice:
        choice = Kind.choose(self)

        def make(*args: Any) -> Any:
            memory, device = choice.make(*args)
            host: Any = device.host  # type: ignore[attr-defined]
            host.limits = replace(host.limits, workgroups=2, binding=20_000)
            return memory, device

        return replace(choice, make=make)


PLACES = {
    "ring": functools.partial(Guarded, GPU),
    "resident": functools.partial(Resident, GPU),
    "little": functools.partial(Guarded, Little("gpu")),
    "parts": functools.partial(Resident, Little("gpu")),
}
places = st.sampled_from(sorted(PLACES))


def outputs(make, program, tensors, passes):
    """What a program of one segment gives in passes of (tokens, rows wanted)."""
    most = max(n for n, _ in passes)
    with make((program, tensors), max_tokens=most) as rig:
        return [rig.run(range(n), n_out=n_out) for n, n_out in passes]


def worst(place, page, tensors, passes, size, chunk, whole=None):
    """The largest error of some passes. size: of what the errors are a share, (tokens, columns). whole: how ops are fused."""
    program = record(page, tensors, chunk_bytes=chunk)
    fused = program if whole is None else fuse(program, whole)
    got = outputs(PLACES[place], fused, tensors, passes)
    want = outputs(functools.partial(Rig, REFERENCE), program, tensors, passes)
    return max(nmse(a, b, size[n - n_out : n]) for a, b, (n, n_out) in zip(got, want, passes, strict=True))


def kernels(page, tensors, chunk, whole=True):
    return [op.kernel for op in fuse(record(page, tensors, chunk_bytes=chunk), whole).ops]


def two_passes(n_few, n_many, some):
    """A pass of few tokens before one of many, so that what it may not touch is seen; and one with few rows of many tokens."""
    return [(n_few, n_few), (n_many, n_many), (n_many, min(some, n_many))]


# Products


# Worst: 6.4e-13.
@formats
@settings(max_examples=6)
@given(place=places, n_few=few, n_many=many, data=st.data(), m=heights, scale=scales, chunk=chunks, seed=seeds)
def test_matmul(name, place, n_few, n_many, data, m, scale, chunk, seed):
    n = data.draw(widths(name))
    w, x = random_tensor(seed, name, n, m), normal(seed + 1, (n_many, n), scale)
    early = data.draw(st.booleans())

    def page(t, w):
        x = t.embed(w.x)
        return t.matmul(w.w, t.last_rows(x)) if early else t.last_rows(t.matmul(w.w, x))

    passes = two_passes(n_few, n_many, data.draw(few))
    error = worst(place, page, {"w": w, "x": tensor(x)}, passes, size_of_product(w.values(), x), chunk)
    assert error < 6.4e-12


# Worst: 2e-13.
@formats
@settings(max_examples=4)
@given(
    place=places, n_few=few, n_many=many, data=st.data(), m=st.sampled_from([1, 5, 16, 31, 33, 64]),
    n_experts=st.integers(1, 9), own_rows=st.booleans(), seed=seeds,
)  # fmt: skip
def test_expert_matmul(name, place, n_few, n_many, data, m, n_experts, own_rows, seed):
    n_used, n = data.draw(st.integers(1, n_experts)), data.draw(widths(name))
    w, experts = random_tensor(seed, name, n, m, n_experts), draw_experts(seed, n_many, n_experts, n_used)
    x = normal(seed + 1, (n_many, n_used if own_rows else 1, n))
    tensors = {"w": w, "x": tensor(x.reshape(n_many, -1)), "router": tensor(router_for(experts, n_experts))}

    def page(t, w):
        return t.last_rows(t.expert_matmul(w.w, t.embed(w.x), t.route(t.embed(w.router), n_used)[0]))

    wide = np.broadcast_to(x, (n_many, n_used, n)).astype(np.float64)
    size = np.sqrt(np.einsum("tun,tumn->tum", wide**2, w.values().reshape(n_experts, m, n)[experts] ** 2)).reshape(n_many, -1)
    assert worst(place, page, tensors, two_passes(n_few, n_many, 1), size, CHUNK_BYTES) < 2e-12


# Worst: 1.4e-13.
@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
@settings(max_examples=6)
@given(
    place=places, n_few=few, n_many=many, data=st.data(), m=st.sampled_from([1, 5, 16, 31, 33, 64, 129]),
    n_heads=st.integers(1, 9), early=st.booleans(), seed=seeds,
)  # fmt: skip
def test_head_matmul(name, place, n_few, n_many, data, m, n_heads, early, seed):
    n = data.draw(widths(name))
    w, x = random_tensor(seed, name, n, m, n_heads), normal(seed + 1, (n_many, n_heads, n))
    tensors = {"w": w, "x": tensor(x.reshape(n_many, -1))}

    def page(t, w):
        x = t.embed(w.x)
        return t.head_matmul(w.w, t.last_rows(x), n_heads) if early else t.last_rows(t.head_matmul(w.w, x, n_heads))

    size = np.sqrt(np.einsum("thn,hmn->thm", x.astype(np.float64) ** 2, w.values().reshape(n_heads, m, n) ** 2))
    passes = two_passes(n_few, n_many, data.draw(few))
    assert worst(place, page, tensors, passes, size.reshape(n_many, -1), CHUNK_BYTES) < 1.4e-12


# Worst: 1.3e-13.
@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("whole", [None, True, False])
@settings(max_examples=4)
@given(place=places, n_few=few, n_many=many, data=st.data(), with_norm=st.booleans(), others=st.integers(0, 2), seed=seeds)
def test_matrices_of_one_row(name, whole, place, n_few, n_many, data, with_norm, others, seed):
    """A weight that has the shape of a vector, alone and with others that are fused with it."""
    n = data.draw(widths(name))
    w, x, gain = random_tensor(seed, name, n), normal(seed + 1, (n_many, n)), normal(seed + 2, (n,))
    tensors = {"w": w, "x": tensor(x), "gain": tensor(gain)}
    tensors |= {f"w{i}": random_tensor(seed + i, name, n, 5) for i in range(others)}
    if not with_norm:
        del tensors["gain"]

    def page(t, w):
        h = t.embed(w.x)
        h = t.rms_norm(h, w.gain, 1e-5) if with_norm else h
        for i in range(others):
            t.matmul(getattr(w, f"w{i}"), h)
        return t.last_rows(t.matmul(w.w, h))

    h = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-5) * gain if with_norm else x
    size = size_of_product(w.values().reshape(1, n), h)
    assert worst(place, page, tensors, two_passes(n_few, n_many, 2), size, CHUNK_BYTES, whole) < 1.3e-12


@formats
@settings(max_examples=12)
@given(place=places, n_few=few, n_many=many, data=st.data(), m=heights, chunk=chunks, seed=seeds)
def test_embed(name, place, n_few, n_many, data, m, chunk, seed):
    """On a software adapter the bits are the same; on others a product and a sum may be rounded once."""
    w = random_tensor(seed, name, data.draw(widths(name)), m)
    program = record(lambda t, w: t.last_rows(t.embed(w.w)), {"w": w}, chunk_bytes=chunk)
    ids = np.random.default_rng(seed).integers(0, m, n_many).tolist()
    with PLACES[place]((program, {"w": w}), max_tokens=n_many) as rig:
        for some in (ids[:n_few], ids):
            want = w.values()[some].astype(np.float32)
            if BY_NAME[name].block == 1:
                assert_same_bits(rig.run(some), want)
            else:
                assert nmse(rig.run(some), want) < 1e-14


# With what is fused


# Worst: 2.9e-13.
@formats
@settings(max_examples=6)
@given(
    place=places, n_few=few, n_many=many, data=st.data(), ms=st.lists(heights, min_size=1, max_size=3), with_norm=normed,
    early=st.booleans(), scale=small_scales, chunk=chunks, whole=st.booleans(), seed=seeds,
)  # fmt: skip
def test_qkv(name, place, n_few, n_many, data, ms, with_norm, early, scale, chunk, whole, seed):
    """At scale 1e-3 the eps of the norm is as large as the mean square. early: only rows that are wanted are computed."""
    n, which = data.draw(widths(name)), data.draw(st.integers(0, len(ms) - 1))
    matrices = {f"w{i}": random_tensor(seed + i, name, n, m) for i, m in enumerate(ms)}
    x, gain = normal(seed + 7, (n_many, n), scale), normal(seed + 8, (n,))
    tensors = {**matrices, "x": tensor(x), "gain": tensor(gain)}

    def page(t, w):
        x = t.embed(w.x)
        x = t.last_rows(x) if early else x
        h = t.rms_norm(x, w.gain, 1e-5) if with_norm else x
        made = [t.matmul(getattr(w, matrix), h) for matrix in matrices][which]
        return made if early else t.last_rows(made)

    if not with_norm:
        del tensors["gain"]
    fused = kernels(page, tensors, chunk, whole)
    assert ("qkv" in fused) == (with_norm or (whole and len(ms) > 1))
    assert "rms_norm" not in fused
    h = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-5) * gain if with_norm else x
    size = size_of_product(matrices[f"w{which}"].values(), h)
    assert worst(place, page, tensors, two_passes(n_few, n_many, data.draw(few)), size, chunk, whole) < 2.9e-12


# Worst: 4.8e-13.
@formats
@settings(max_examples=5)
@given(
    place=places, n_few=few, n_many=many, data=st.data(), m=heights, with_norm=normed, early=st.booleans(),
    scale=small_scales, chunk=chunks, whole=st.booleans(), activation=st.sampled_from(["swiglu", "geglu"]), seed=seeds,
)  # fmt: skip
def test_gate_up(name, place, n_few, n_many, data, m, with_norm, early, scale, chunk, whole, activation, seed):
    n = data.draw(widths(name))
    gate, up = random_tensor(seed, name, n, m), random_tensor(seed + 1, name, n, m)
    x, gain = normal(seed + 2, (n_many, n), scale), normal(seed + 3, (n,))
    tensors = {"gate": gate, "up": up, "x": tensor(x)} | ({"gain": tensor(gain)} if with_norm else {})

    def page(t, w):
        x = t.embed(w.x)
        x = t.last_rows(x) if early else x
        h = t.rms_norm(x, w.gain, 1e-5) if with_norm else x
        made = getattr(t, activation)(t.matmul(w.gate, h), t.matmul(w.up, h))
        return made if early else t.last_rows(made)

    fused = kernels(page, tensors, chunk, whole)
    assert set(fused) == {"embed", "last_rows", "gate_up"}
    h = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-5) * gain if with_norm else x
    size = size_of_product(gate.values(), h) * size_of_product(up.values(), h)
    assert worst(place, page, tensors, two_passes(n_few, n_many, data.draw(few)), size, chunk, whole) < 4.8e-12


# Worst: 3.3e-13.
@formats
@settings(max_examples=5)
@given(
    place=places, n_few=few, n_many=many, data=st.data(), m=heights, in_place=st.booleans(), early=st.booleans(), chunk=chunks,
    whole=st.booleans(), seed=seeds,
)  # fmt: skip
def test_matmul_add(name, place, n_few, n_many, data, m, in_place, early, chunk, whole, seed):
    """To what nobody needs any more, where it lies, or beside it."""
    n = data.draw(widths(name))
    w, x, r = random_tensor(seed, name, n, m), normal(seed + 1, (n_many, n)), normal(seed + 2, (n_many, m))
    tensors = {"w": w, "x": tensor(x), "r": tensor(r)}

    def page(t, w):
        x, r = t.embed(w.x), t.embed(w.r)
        if early:
            x, r = t.last_rows(x), t.last_rows(r)
        y = t.add(t.matmul(w.w, x), r)
        y = y if in_place else t.mul(y, r)
        return y if early else t.last_rows(y)

    [*_, product] = [op for op in fuse(record(page, tensors, chunk_bytes=chunk), whole).ops if op.kernel == "matmul_add"]
    assert (product.ins[2] == product.out[0]) == in_place
    size = np.hypot(size_of_product(w.values(), x), r) * (1 if in_place else np.abs(r))
    assert worst(place, page, tensors, two_passes(n_few, n_many, data.draw(few)), size, chunk, whole) < 3.3e-12

"""gpu_choose.py and its shaders against the reference device's meaning of candidates and against sampling.py."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import missing_for_gpu, skip_or_fail
from tests.programs import REFERENCE
from tests.test_reference_device import rig_of_logits
from wasmrt.device.device import Candidates
from wasmrt.device.gpu_choose import Chooser
from wasmrt.device.gpu_host import Shaders, Use, bindings_of
from wasmrt.errors import DeviceError

SEEDS = st.integers(0, 2**32 - 1)
# Fewer than a workgroup, a group for each, some in a group; where groups are uneven; two vocabularies.
SIZES = (1, 2, 63, 65, 1000, 1025, 2047, 5000, 32000, 128256)


COPY = """
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> target_: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    if (thread.x < arrayLength(&target_)) { target_[thread.x] = source[thread.x]; }
}
"""


class Bench:
    """A GPU and a chooser for each size of row."""

    def __init__(self):
        from wasmrt.device.gpu_native import WgpuHost, adapters

        self.host = WgpuHost(adapters()[0])
        self.shaders = Shaders(self.host)
        self.choosers = {}
        self.buffers = {}
        self.pipeline = None

    def chooser(self, n):
        if n not in self.choosers:
            self.choosers[n] = Chooser(self.host, self.shaders, n)
        return self.choosers[n]

    def rows(self, rows, pad=0):
        """Rows one behind another on the GPU, `pad` floats before them: the range of each."""
        rows = np.asarray(rows, np.float32)
        n = rows.shape[1]
        key = rows.size + pad
        if key not in self.buffers:
            self.buffers[key] = self.host.buffer(4 * key)
        self.host.write(self.buffers[key], 0, np.concatenate([np.full(pad, 9e9, np.float32), rows.ravel()]))
        return [(self.buffers[key], 4 * (pad + i * n), 4 * n) for i in range(len(rows))]

    def words(self, values, use=Use.STORAGE):
        data = np.asarray(values, np.uint32).tobytes()
        buffer = self.host.buffer(len(data), use)
        self.host.write(buffer, 0, data)
        return buffer, 0, len(data)

    def copy(self, source, target):
        """A dispatch that copies a range to another."""
        bindings = bindings_of(COPY)
        self.pipeline = self.pipeline or self.host.pipeline("copy", COPY, bindings, {})
        return self.pipeline, self.host.group(bindings, (source, target)), -(-target[2] // 256), 1, 1

    def read(self, where, dtype):
        return np.frombuffer(asyncio.run(self.host.read(*where)), dtype).copy()

    def candidates(self, row, *ask):
        (where,) = self.rows([row])
        found = asyncio.run(self.chooser(len(row)).candidates(where, *ask))
        assert self.read(where, np.float32).tobytes() == np.asarray(row, np.float32).tobytes()
        return found


@pytest.fixture(scope="module")
def bench():
    if why := missing_for_gpu():
        skip_or_fail("gpu", why)
    bench = Bench()
    yield bench
    for chooser in bench.choosers.values():
        chooser.close()
    bench.host.close()


def wanted(row, *ask):
    """What the reference device finds, asked about one row."""
    with rig_of_logits(REFERENCE, [row]) as rig:
        rig.run([0])
        return rig.candidates(*ask)


def normal_row(n, seed, scale, steps):
    """Normal numbers in steps of scale / steps: many are equal. Some are -0."""
    rng = np.random.default_rng(seed)
    row = np.round(rng.standard_normal(n) * steps) * scale / steps
    return np.where((row == 0) & (rng.random(n) < 0.5), -0.0, row).astype(np.float32)


# Ids and logits are exact. Sums of exp in float32: worst over 900 cases on a software adapter 1.3e-7.
REST = 1.5e-6


def assert_same(got: Candidates, want: Candidates, temperature: float):
    assert list(got.ids) == list(want.ids)
    assert list(got.logits) == list(want.logits)
    assert got.rest == pytest.approx(want.rest, rel=REST, abs=REST)
    if temperature:
        assert got.rest_at == pytest.approx(want.rest_at, rel=REST, abs=REST)


@settings(max_examples=150)
@given(
    n=st.sampled_from(SIZES),
    k=st.sampled_from([1, 2, 40, 63, 64, 65, 512, 700, 5000, 128256]),
    steps=st.sampled_from([1, 3, 1 << 20]),
    scale=st.sampled_from([0.01, 1.0, 5.0, 1000.0]),
    n_recent=st.sampled_from([0, 1, 64, 300]),
    penalty=st.sampled_from([1.0, 1.1, 5.0, 0.5]),
    temperature=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    seed=SEEDS,
)
@example(n=32000, k=512, steps=1, scale=1.0, n_recent=256, penalty=1.1, temperature=0.8, seed=0)
@example(n=128256, k=64, steps=1 << 20, scale=3.0, n_recent=64, penalty=1.1, temperature=0.8, seed=1)
@example(n=128256, k=1, steps=1 << 20, scale=3.0, n_recent=0, penalty=1.0, temperature=0.0, seed=1)
@example(n=5000, k=64, steps=3, scale=1.0, n_recent=64, penalty=1.1, temperature=1e-31, seed=1)
@example(n=5000, k=64, steps=3, scale=1.0, n_recent=64, penalty=1.1, temperature=1e30, seed=1)
def test_candidates(bench, n, k, steps, scale, n_recent, penalty, temperature, seed):
    row = normal_row(n, seed, scale, steps)
    # Of the likeliest many are recent; some are named again and again.
    rng = np.random.default_rng(seed + 1)
    recent = rng.choice(np.argsort(-row)[: 2 * n_recent + 1], n_recent).tolist()
    ask = (k, recent, penalty, temperature)
    got = bench.candidates(row, *ask)
    assert_same(got, wanted(row, *ask), temperature)
    assert bench.candidates(row, *ask) == got


@pytest.mark.parametrize("k", [1, 2, 64])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(
    "row",
    [
        [2e38, -2e38] * 600,
        [0.0] * 1199 + [-200.0],
        [-1e30] * 1100 + [1e30] * 100,
        [1000.0] + [-1000.0 - i for i in range(4000)],               # exp of the others' distance is 0
        [1e-45, 0.0, -1e-45, -0.0, 1e-40, -1e-40] * 300,             # a GPU may take them all for 0
        [*range(5000)],
        [*range(5000, 0, -1)],
        [float(i % 1024 == 7) for i in range(8192)],                 # what is likely lies in one group
        [float(i % 1000 == 7) for i in range(32000)],
        [float(i >= 31000) for i in range(32000)],
    ],
    ids=["huge", "equal", "far", "farther", "tiny", "rising", "falling", "one-group", "few-groups", "tail"],
)
def test_candidates_of_odd_rows(bench, row, k, temperature):
    for recent, penalty in ((), 1.0), ([0, 1, 2, len(row) - 1], 1.5):
        ask = (k, recent, penalty, temperature)
        assert_same(bench.candidates(row, *ask), wanted(row, *ask), temperature)


@settings(max_examples=60)
@given(
    n=st.sampled_from(SIZES),
    k=st.sampled_from([1, 64, 128256]),
    bad=st.sampled_from([0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF]),
    count=st.sampled_from([1, 2, 200, 128256]),
    place=st.floats(0, 1),
    seed=SEEDS,
)
def test_what_is_no_number_is_found(bench, n, k, bad, count, place, seed):
    row = normal_row(n, seed, 1.0, 1 << 20)
    first = round(place * (n - 1))
    row.view(np.uint32)[first : first + count] = bad
    for recent in ((), [first]):
        with pytest.raises(DeviceError, match="NaN or infinity"):
            bench.candidates(row, k, recent, 1.2, 0.8)


def test_rows_begin_anywhere(bench):
    """An adapter binds at multiples of some bytes; rows of 1001 logits begin between those, and neighbours do not matter."""
    rows = np.random.default_rng(0).standard_normal((4, 1001))
    rows[2, 5] = math.nan
    ask = (5, [1, 2], 1.3, 0.7)
    where = bench.rows(rows, pad=3)
    for i in (0, 3, 1, 0):
        assert_same(asyncio.run(bench.chooser(1001).candidates(where[i], *ask)), wanted(rows[i], *ask), 0.7)
    with pytest.raises(DeviceError, match="NaN"):
        asyncio.run(bench.chooser(1001).candidates(where[2], *ask))


def test_candidates_behind_a_pass(bench):
    """What computes the row runs in the same submit."""
    row = normal_row(1000, 0, 1.0, 1 << 20)
    for k in (3, 1000):
        (where,) = bench.rows([np.full(1000, math.nan)])
        ask = (k, (), 1.0, 0.5)
        before = [bench.copy(bench.words(row.view(np.uint32)), where)]
        assert_same(asyncio.run(bench.chooser(1000).candidates(where, *ask, before)), wanted(row, *ask), 0.5)


def test_cancelled_while_waiting(bench):
    """The next question is answered, also where the one before never heard its answer."""
    row = normal_row(128256, 0, 1.0, 1 << 20)
    (where,) = bench.rows([row])
    chooser = bench.chooser(128256)
    slow = [bench.copy(bench.words(row.view(np.uint32)), where)] * 300

    async def main():
        cancelled = 0
        for k in (64, 128256):
            ask = (k, (), 1.0, 0.5)
            for yields in (0, 1, 2, 3, 4, 5):
                task = asyncio.create_task(chooser.candidates(where, *ask, slow))
                for _ in range(yields):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                cancelled += task.cancelled()                    # an adapter in software may have been quicker
                assert (await chooser.candidates(where, 5, *ask[1:])).ids == wanted_ids[:5]
                assert (await chooser.candidates(where, 64, *ask[1:])).ids == wanted_ids[:64]
        assert cancelled >= 2

    wanted_ids = wanted(row, 64, (), 1.0, 0.5).ids
    asyncio.run(main())
    allocated = bench.host.allocated
    asyncio.run(main())
    assert bench.host.allocated == allocated

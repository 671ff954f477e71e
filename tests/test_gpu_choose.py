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
from wasmrt.device.gpu_choose import Chooser, Outcome, outcome
from wasmrt.device.gpu_host import Shaders, Use, bindings_of
from wasmrt.errors import DeviceError
from wasmrt.options import SamplerOptions
from wasmrt.sampling import sample

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


# Chains: the "pass" copies row number pos to where the logits are, so that a kernel that leaves pos alone gives itself away.

PASS = """
@group(0) @binding(0) var<storage, read> state: array<u32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> row: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    let n = arrayLength(&row);
    if (thread.x < n) { row[thread.x] = rows[state[1] * n + thread.x]; }
}
"""


def run_chain(bench, rows, ends, n_passes, room=None):
    """What a chain over rows gives: its outcome, the last token and state. ends(logits, state, tokens, chain): dispatches."""
    rows = np.asarray(rows, np.float32)
    n = rows.shape[1]
    source, logits = bench.words(rows.view(np.uint32).ravel()), bench.words(np.zeros(n))
    state, tokens = bench.words([1, 0, 1, 1], Use.STATE), bench.words([7, 7, 7, 7])
    chain = bench.words([9] * (4 + (room or n_passes)))
    bindings = bindings_of(PASS)
    bench.pass_ = getattr(bench, "pass_", None) or bench.host.pipeline("pass", PASS, bindings, {})
    compute = bench.pass_, bench.host.group(bindings, (state, source, logits)), -(-n // 64), 1, 1
    steps = [compute, *ends(logits, state, tokens, chain)]
    bench.chooser(n).begin(chain)
    bench.host.submit(steps * n_passes)
    words = bench.read(chain, np.uint32)
    return outcome(memoryview(words.tobytes())), bench.read(tokens, np.uint32).tolist(), bench.read(state, np.uint32).tolist()


@settings(max_examples=40)
@given(n=st.sampled_from(SIZES), steps=st.sampled_from([1, 3, 1 << 20]), n_passes=st.integers(1, 5), seed=SEEDS)
def test_greedy_chain(bench, n, steps, n_passes, seed):
    rows = normal_row(n * n_passes, seed, 1.0, steps).reshape(n_passes, n)
    want = [min(range(n), key=lambda i: (-row[i], i)) for row in rows.tolist()]
    got, tokens, state = run_chain(bench, rows, bench.chooser(n).greedy, n_passes)
    assert got == Outcome(want, False, False)
    assert (tokens, state) == ([want[-1], 7, 7, 7], [1, n_passes, 1, 1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_greedy_chain_ends_at_what_is_no_number(bench, bad):
    """Later passes change nothing. A chain that is longer than its room keeps to it."""
    rows = normal_row(3000, 0, 1.0, 1 << 20).reshape(3, 1000)
    first = [int(np.argmax(row)) for row in rows]
    assert run_chain(bench, rows, bench.chooser(1000).greedy, 3, 2)[0].tokens == first[:2]
    rows[1, 999] = bad
    got, tokens, state = run_chain(bench, rows, bench.chooser(1000).greedy, 3)
    assert (got, tokens[0], state[1]) == (Outcome(first[:1], True, False), first[0], 1)


def draw_all(bench, rows, options, us):
    """What a chain draws, and what sampling.py draws from the reference's candidates."""
    uniforms = bench.words(np.asarray(us, np.float32).view(np.uint32))
    chooser = bench.chooser(rows.shape[1])
    got, _, state = run_chain(bench, rows, lambda *to: chooser.sampled(*to, uniforms, options), len(rows))
    want = []
    for row, u in zip(rows, us, strict=True):
        few = wanted(row, min(64, options.top_k or 64), (), 1.0, options.temperature)
        want.append(sample(few, options, u))
    assert got.tokens == want[: len(got.tokens)]
    assert state[1] == len(got.tokens)
    assert got.undecided == (len(got.tokens) < len(rows))
    return got, want


@settings(max_examples=150)
@given(
    n=st.sampled_from([1, 2, 63, 64, 65, 300, 1025, 5000, 32000]),
    steps=st.sampled_from([3, 1 << 20]),
    scale=st.sampled_from([0.01, 1.0, 4.0, 1000.0]),
    temperature=st.sampled_from([0.01, 0.3, 1.0, 1.7, 50.0]),
    top_k=st.sampled_from([0, 1, 2, 40, 64, 65, 500]),
    top_p=st.sampled_from([0.1, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=SEEDS,
)
def test_sampled_chain(bench, n, steps, scale, temperature, top_k, top_p, min_p, seed):
    """As sampling.py draws it, or not at all."""
    rows = normal_row(n * 4, seed, scale, steps).reshape(4, n)
    options = SamplerOptions(temperature, top_k, top_p, min_p)
    draw_all(bench, rows, options, np.random.default_rng(seed).random(4))


@settings(max_examples=100)
@given(
    n=st.sampled_from([65, 70, 100, 300]),
    temperature=st.sampled_from([0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 65, 90]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.02]),
    seed=SEEDS,
)
def test_sampled_chain_where_the_others_count(bench, n, temperature, top_k, top_p, min_p, seed):
    """The 64 likeliest are some of the weight, so that a draw among them needs to know of the others'."""
    rows = normal_row(n * 4, seed, 1.5, 1 << 20).reshape(4, n)
    draw_all(bench, rows, SamplerOptions(temperature, top_k, top_p, min_p), np.random.default_rng(seed).random(4) * 0.6)


@settings(max_examples=60)
@given(n=st.sampled_from([3, 64, 1000]), temperature=st.sampled_from([0.3, 1.0, 2.0]), seed=SEEDS)
def test_sampled_chain_at_the_ends_of_shares(bench, n, temperature, seed):
    """Numbers that float32 can't tell from where a token's share ends."""
    (row,) = rows = normal_row(n, seed, 2.0, 1 << 20).reshape(1, n)
    rng = np.random.default_rng(seed)
    ends = np.cumsum(np.exp(np.sort(row.astype(np.float64))[::-1][:40] / temperature))
    for u in rng.choice(ends[:-1] / ends[-1], 4) * (1 + 1e-7 * rng.standard_normal(4)):
        draw_all(bench, rows, SamplerOptions(temperature, 40, 1.0, 0.0), [u])


def test_a_chain_seldom_leaves_a_draw_to_the_host(bench):
    """Of a model's usual logits and options. A number at the end of a token's share is left."""
    options = SamplerOptions(0.8, 40, 0.95, 0.05)
    undecided = 0
    for seed in range(100):
        rows = np.random.default_rng(seed).gumbel(0, 3, (4, 2000)).astype(np.float32)
        got, want = draw_all(bench, rows, options, np.random.default_rng(seed).random(4))
        assert None not in want
        undecided += got.undecided
    assert undecided <= 4
    equal = np.zeros((1, 4), np.float32)
    got, want = draw_all(bench, equal, SamplerOptions(1.0, 0, 1.0, 0.0), [0.5])
    assert (got.undecided, want) == (True, [2])


def test_sampled_chain_ends_at_what_is_no_number(bench):
    rows = normal_row(3000, 0, 1.0, 1 << 20).reshape(3, 1000)
    rows[1, 70] = math.nan
    uniforms = bench.words(np.zeros(3, np.uint32))
    options = SamplerOptions(1.0)
    got, tokens, state = run_chain(bench, rows, lambda *to: bench.chooser(1000).sampled(*to, uniforms, options), 3)
    assert got == Outcome([int(np.argmax(rows[0]))], True, False)
    assert (tokens[0], state[1]) == (got.tokens[0], 1)


def test_what_no_chain_draws(bench):
    nothing = bench.words([0] * 8)
    for options in (SamplerOptions(0.0), SamplerOptions(1e9), SamplerOptions(1.0, repeat_penalty=1.1)):
        with pytest.raises(ValueError, match="no chain"):
            bench.chooser(1000).sampled(nothing, nothing, nothing, nothing, nothing, options)

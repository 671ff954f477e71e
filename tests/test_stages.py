"""Stages: all ops once and in order, within what the ring holds, and with everything kept that a later stage reads."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import CPU, PLAIN, REFERENCE, Rig, pieces, random_tensor, record, tensor
from wasmrt.device.device import KEPT_NONE, Kept
from wasmrt.model.stages import cut, kept_slots, live_slots, live_widths, stages_of
from wasmrt.program.ops import Space
from wasmrt.program.record import Rope
from wasmrt.store.layers import Entry, Kind, LayerTable, Segment
from wasmrt.store.memory import aligned
from wasmrt.store.plan import RING_BYTES, Demand

N, HEADS, KV = 32, 2, 16                                         # elements of the residual stream, query heads, width of a key
N_TOKENS = 20                                                    # in the vocabulary

# Pages of layers, small and with all that makes a difference to what is alive


def dense(t, w, x):
    rope = Rope(n_dims=KV, head_dim=KV)
    h = t.rms_norm(x, w.norm, 1e-5)
    q = t.rope(t.matmul(w.q, h), rope)
    t.store_kv(t.rope(t.matmul(w.k, h), rope), t.matmul(w.v, h))
    x = t.add(x, t.matmul(w.o, t.attention(q, HEADS, 1, 0.25)))
    h = t.rms_norm(x, w.norm, 1e-5)
    return t.add(x, t.matmul(w.down, t.swiglu(t.matmul(w.gate, h), t.matmul(w.up, h))))


def convolved(t, w, x):
    """With recurrent state."""
    return t.add(x, t.matmul(w.o, t.causal_conv(t.matmul(w.q, x), w.taps)))


def routed(t, w, x):
    chosen, weights = t.route(t.matmul(w.router, x), 2)
    y = t.swiglu(t.expert_matmul(w.gate_exps, x, chosen), t.expert_matmul(w.up_exps, x, chosen))
    return t.add(x, t.expert_sum(t.expert_matmul(w.down_exps, y, chosen), weights))


SHAPES = {
    "norm": (N,), "q": (N, HEADS * KV), "k": (N, KV), "v": (N, KV), "o": (HEADS * KV, N), "gate": (N, 48), "up": (N, 48),
    "down": (48, N), "taps": (3, HEADS * KV), "router": (N, 4), "gate_exps": (N, 24, 4), "up_exps": (N, 24, 4),
    "down_exps": (24, N, 4),
}  # fmt: skip
PAGES = {
    dense: ("norm", "q", "k", "v", "o", "gate", "up", "down"),
    convolved: ("o", "q", "taps"),
    routed: ("router", "gate_exps", "up_exps", "down_exps"),
}
EMBEDDING = {"token_embd": tensor(np.random.default_rng(1).standard_normal((N_TOKENS, N)))}
HEAD = {"output": tensor(np.random.default_rng(2).standard_normal((N_TOKENS, N)))}


def embedding(t, w):
    return t.embed(w.token_embd)


def head(t, w, x):
    return t.matmul(w.output, t.last_rows(x))


def segments_of(layers, chunk_bytes):
    """Programs with tensors: an embedding, these layers, a head. Weights in pieces of at most chunk_bytes."""
    made = [(record(embedding, EMBEDDING), EMBEDDING)]
    for seed, page in enumerate(layers):
        tensors = {name: random_tensor(10 * seed + i, "F32", *SHAPES[name]) for i, name in enumerate(PAGES[page])}
        made.append((record(page, tensors, N, chunk_bytes), tensors))
    return [*made, (record(head, HEAD, N), HEAD)]


def table_of(segments):
    """As the engine makes it, for a file that has the tensors one after another."""
    end, made = 64, []
    for program, tensors in segments:
        entries = []
        for weight in program.weights:
            for piece in pieces(weight, tensors[weight.name].data):
                entries.append(Entry(weight.name, end, len(piece)))
                end += len(piece)
        experts = {e for w in program.weights if w.is_expert for e in range(w.first, w.first + w.n_entries)}
        routes = {i for i, op in enumerate(program.ops) if op.kernel == "route"}
        uses = tuple(program.entries_of(op) for op in program.ops)
        made.append(Segment(program.name, tuple(entries), uses, frozenset(experts), frozenset(routes)))
    return LayerTable(tuple(made), 4 * N, N_TOKENS)


any_layers = st.lists(st.sampled_from(list(PAGES)), min_size=1, max_size=4)
any_chunk = st.sampled_from([256, 1024, 4096, 1 << 20])


# Where stages end


@given(layers=any_layers, chunk_bytes=any_chunk, block=st.sampled_from([1, 4096]), share=st.floats(0, 1))
def test_stages_are_all_ops_in_order_and_fit(layers, chunk_bytes, block, share):
    """Between one op's weights and all of a layer's. What routers choose, and routers, end and begin a stage."""
    segments = segments_of(layers, chunk_bytes)
    table = table_of(segments)
    demand = Demand(table, block, 4)
    for s, (program, _) in enumerate(segments[:-1]):
        sizes = [demand.bytes_of([i for i in needs if table.extents[i].kind is Kind.DENSE]) for needs in table.needs[s]]
        capacity = max([1, *sizes]) + int(share * sum(sizes))
        here = table.segments[s]
        alone = here.routes | {op for op, used in enumerate(here.uses) if here.experts.intersection(used)}
        stages = stages_of(s, program, sizes, capacity, alone)
        assert [op for stage in stages for op in stage.ops] == list(range(len(program.ops)))
        for stage in stages:
            assert stage.segment == s
            assert len(stage.ops) == 1 or sum(sizes[op] for op in stage.ops) <= capacity
            assert len(stage.ops) == 1 or not alone.intersection(stage.ops)


@given(layers=any_layers, chunk_bytes=any_chunk, block=st.sampled_from([1, 4096]))
def test_a_cut_leaves_the_ring_room_and_the_head_alone(layers, chunk_bytes, block):
    """Two ops' weights less than the ring, unless that is less than one's; equal programs keep the same slots."""
    segments = segments_of([*layers, *layers], chunk_bytes)
    table = table_of(segments)
    demand = Demand(table, block, 4)
    stages, kept = cut([program for program, _ in segments], demand)
    assert [(stage.segment, op) for stage in stages for op in stage.ops] == [
        (s, op) for s, (program, _) in enumerate(segments[:-1]) for op in range(len(program.ops))
    ]
    most = max(demand.largest_op, demand.ring_bytes - 2 * demand.largest_op)
    dense_ones = set(demand.of(Kind.DENSE))
    for stage in stages:
        needs = [i for op in stage.ops for i in table.needs[stage.segment][op]]
        assert demand.bytes_of([i for i in needs if i in dense_ones]) <= most <= RING_BYTES
        program = segments[stage.segment][0]
        assert live_slots(program)[stage.ops.stop] <= kept[program]
        chosen = [op for op in stage.ops if program.ops[op].kernel in ("route", "expert_matmul")]
        assert not chosen or len(stage.ops) == 1                 # what a router chose is read between stages
    assert set(kept) == {program for program, _ in segments}
    assert all(0 in slots for slots in kept.values())


def test_a_stage_ends_where_least_is_alive():
    """Of a layer that does not fit whole: where there is only the residual stream, not in the middle of a feed-forward net."""
    segments = segments_of([dense], 1 << 20)
    program = segments[1][0]
    sizes = [sum(aligned(4 * int(np.prod(SHAPES[program.weights[o.index].name])))
                 for o in op.ins if o is not None and o.space is Space.WEIGHT) for op in program.ops]  # fmt: skip
    stages = stages_of(1, program, sizes, sum(sizes) - 1, frozenset())
    widths = live_widths(program)
    assert [widths[stage.ops.stop] for stage in stages] == [N, N]
    assert program.ops[stages[0].ops.stop - 1].kernel == "add"
    assert stages_of(1, program, sizes, sum(sizes), frozenset())[0].ops == range(len(program.ops))


# What is alive


@given(layers=any_layers, chunk_bytes=any_chunk)
def test_what_is_alive_is_what_a_later_op_reads(layers, chunk_bytes):
    """Against the definition: read later, and not filled in between, but by a matmul of several ops, which fills in parts."""
    for program, _ in segments_of(layers, chunk_bytes):
        live = live_slots(program)
        assert len(live) == len(program.ops) + 1
        for at in range(len(program.ops) + 1):
            wanted = set()
            for slot in range(len(program.slots)):
                for op in program.ops[at:]:
                    if any(o is not None and (o.space, o.index) == (Space.ACTIVATION, slot) for o in op.ins):
                        wanted.add(slot)
                        break
                    fills = any((o.space, o.index) == (Space.ACTIVATION, slot) for o in op.out)
                    if fills and op.kernel == "matmul" and op.params[0] > 0:
                        wanted.add(slot)  # what the first of its ops gave
                        break
                    if fills:
                        break
                else:
                    if program.result.rows == "T" and program.result.index == slot:
                        wanted.add(slot)
            assert live[at] == wanted
        assert kept_slots(program, range(len(live))) >= frozenset().union(*live)


# Chunk by chunk is stage by stage


class Staged(Rig):
    """A rig that keeps rows of a whole prompt between stages."""

    def __init__(self, kind, segments, chunk, n_tokens, kept):
        self.kept, self.chunk = kept, chunk
        programs = [program for program, _ in segments]
        choice = kind.choose()
        sizes = choice.sizes(programs, chunk, chunk, kept)
        n_bytes = sizes.kv_bytes(n_tokens) + sizes.state_bytes + sizes.activation_bytes
        for program, tensors in segments:
            n_bytes += sum(aligned(len(piece)) for w in program.weights for piece in pieces(w, tensors[w.name].data))
        self.memory, self.device = choice.make(programs, n_bytes)
        self.device.compile(programs, chunk, chunk, kept)
        self.bounds = []
        for program, tensors in segments:
            self.bounds.append(self.device.bind(program, n_tokens))
            for weight in program.weights:
                for i, piece in enumerate(pieces(weight, tensors[weight.name].data), weight.first):
                    self.bounds[-1].table[i] = self.memory.allocate(len(piece))
                    self.memory.view(self.bounds[-1].table[i], len(piece))[:] = piece

    def prompt(self, ids, stages):
        """The logits of the last chunk: chunk by chunk, or if there are stages, all chunks through each."""
        chunks = [(pos, ids[pos : pos + self.chunk]) for pos in range(0, len(ids), self.chunk)]
        end = len(self.bounds[-1].program.ops)

        def begin(pos, chunk):
            self.device.begin(chunk, pos, len(chunk) if pos == chunks[-1][0] else 0, pos if stages else 0)

        async def run():
            if not stages:
                for pos, chunk in chunks[:-1]:
                    begin(pos, chunk)
                    await self.device.run(self.bounds[:-1], range(len(self.bounds[-2].program.ops)))
                begin(*chunks[-1])
                await self.device.run(self.bounds, range(end))
                return
            for stage in stages:
                for pos, chunk in chunks:
                    begin(pos, chunk)
                    await self.device.run(self.bounds[stage.segment : stage.segment + 1], stage.ops)
            await self.device.run(self.bounds[-1:], range(end))

        asyncio.run(run())
        return self.result()


@pytest.mark.parametrize("kind", [REFERENCE, CPU, PLAIN], ids=lambda kind: kind.name)
@settings(max_examples=25)
@given(
    layers=any_layers, chunk_bytes=any_chunk, share=st.floats(0, 1), chunk=st.integers(1, 5),
    ids=st.lists(st.integers(0, N_TOKENS - 1), min_size=1, max_size=14),
)  # fmt: skip
def test_stage_by_stage_gives_the_same_bits(cpu, kind, layers, chunk_bytes, share, chunk, ids):
    """With no more slots kept than are said to be alive; on every device, as each computes the same rows together."""
    segments = segments_of(layers, chunk_bytes)
    table = table_of(segments)
    demand = Demand(table, 1, 4)
    stages, ends = [], {}
    for s, (program, _) in enumerate(segments[:-1]):
        sizes = [demand.bytes_of(needs) for needs in table.needs[s]]
        found = stages_of(s, program, sizes, max([1, *sizes]) + int(share * sum(sizes)), table.segments[s].routes)
        stages += found
        ends.setdefault(program, set()).update(stage.ops.stop for stage in found)
    kept = Kept(len(ids), {program: kept_slots(program, sorted(ends.get(program, ()))) for program, _ in segments})
    with Staged(kind, segments, chunk, len(ids), KEPT_NONE) as rig:
        wanted = rig.prompt(ids, [])
    with Staged(kind, segments, chunk, len(ids), kept) as rig:
        np.testing.assert_array_equal(rig.prompt(ids, stages), wanted)

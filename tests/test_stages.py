"""Stages: where a segment is cut so that all chunks of a prompt go through a part of it before the next weights come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gguf_files import write_llama
from wasmrt.model.build import build
from wasmrt.model.stages import cut, kept_slots, live_slots, live_widths, stages_of
from wasmrt.program.ops import Space
from wasmrt.store.open import open_model
from wasmrt.store.plan import Demand
from wasmrt.sync import call

N_EMBD, N_FF = 64, 96


def built(tmp_path, chunk_bytes=1 << 20, **options):
    source, header = call(open_model(write_llama(tmp_path / "m.gguf", **options)))
    call(source.close())
    return build(header, chunk_bytes)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """In small pieces: a matrix is several ops."""
    return built(tmp_path_factory.mktemp("dense"), chunk_bytes=4096)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return built(tmp_path_factory.mktemp("experts"), experts=4)


@given(data=st.data(), capacity=st.integers(1, 300))
def test_stages_cover_each_op_once_within_the_capacity(dense, data, capacity):
    program = dense.programs[1]
    n_ops = len(program.ops)
    sizes = data.draw(st.lists(st.integers(0, 100), min_size=n_ops, max_size=n_ops))
    alone = data.draw(st.sets(st.integers(0, n_ops - 1), max_size=4))
    found = stages_of(1, program, sizes, capacity, alone)
    assert [op for stage in found for op in stage.ops] == list(range(n_ops))
    for stage in found:
        assert stage.segment == 1
        assert len(stage.ops) == 1 or sum(sizes[op] for op in stage.ops) <= capacity
        assert len(stage.ops) == 1 or not alone.intersection(stage.ops)


def test_everything_in_one_stage_if_it_fits(dense):
    program = dense.programs[1]
    (stage,) = stages_of(1, program, [1] * len(program.ops), len(program.ops), frozenset())
    assert stage.ops == range(len(program.ops))


def naive_live(program):
    """Slot by slot, looking ahead from each place: read before it is wholly written, or handed on at the end."""
    found = []
    for place in range(len(program.ops) + 1):
        live = set()
        for slot in range(len(program.slots)):
            for op in program.ops[place:]:
                if any(o is not None and (o.space, o.index) == (Space.ACTIVATION, slot) for o in op.ins):
                    live.add(slot)
                    break
                writes = any((o.space, o.index) == (Space.ACTIVATION, slot) for o in op.out)
                if writes and not (op.kernel == "matmul" and op.params[0]):
                    break
            else:
                if (program.result.index, program.result.rows) == (slot, "T"):
                    live.add(slot)
        found.append(frozenset(live))
    return found


@pytest.mark.parametrize("model", ["dense", "experts"])
def test_what_is_alive_between_ops(model, request):
    for program in request.getfixturevalue(model).programs[:-1]:
        assert live_slots(program) == naive_live(program)
        widths = [sum(program.slots[i].width for i in live) for live in live_slots(program)]
        assert live_widths(program) == widths
        assert live_slots(program)[-1] == {0}


def test_a_matrix_in_several_pieces_is_alive_between_them(dense):
    """What the first of them wrote is not written again."""
    program = dense.programs[1]
    first = next(i for i, op in enumerate(program.ops) if op.kernel == "matmul" and op.params[0])
    assert program.ops[first].out[0].index in live_slots(program)[first]


def test_a_layer_is_cut_where_little_is_alive(dense):
    """Half way through the residual stream alone crosses from attention to the feed-forward network."""
    program = dense.programs[1]
    widths = live_widths(program)
    middle = next(i for i, op in enumerate(program.ops) if op.kernel == "rms_norm" and i > 0)
    assert widths[middle] == N_EMBD == min(widths)
    sizes = [1 if op.kernel == "matmul" else 0 for op in program.ops]
    before = sum(sizes[:middle])
    assert stages_of(1, program, sizes, before + 2, frozenset())[0].ops == range(middle)


@pytest.mark.parametrize("model", ["dense", "experts"])
def test_cut_keeps_what_crosses_and_leaves_the_head_out(model, request):
    made = request.getfixturevalue(model)
    demand = Demand(made.table, 4096, 256)
    stages, kept = cut(made.programs, demand)
    assert [stage.segment for stage in stages] == sorted(stage.segment for stage in stages)
    for segment, program in enumerate(made.programs[:-1]):
        mine = [stage.ops for stage in stages if stage.segment == segment]
        assert [op for ops in mine for op in ops] == list(range(len(program.ops)))
        for ops in mine:
            assert live_slots(program)[ops.stop] <= kept[program]
    assert not [stage for stage in stages if stage.segment == len(made.programs) - 1]
    assert all(0 in slots for slots in kept.values())
    assert kept_slots(made.programs[1], [len(made.programs[1].ops)]) == {0}


def test_routers_and_experts_are_stages_of_their_own(experts):
    stages, kept = cut(experts.programs, Demand(experts.table, 4096, 256))
    program = experts.programs[1]
    alone = [i for i, op in enumerate(program.ops) if op.kernel in ("route", "expert_matmul")]
    assert len(alone) == 4
    found = [stage.ops for stage in stages if stage.segment == 1]
    assert all(range(i, i + 1) in found for i in alone)
    route = program.ops[alone[0]]
    assert {o.index for o in route.out} <= kept[program]         # who chose whom is wanted by all that follows

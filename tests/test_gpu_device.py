"""What the GPU device promises beyond tests/test_reference_device.py, which holds every device to the same contract."""

import asyncio

import numpy as np
import pytest

from tests.programs import GPU, Rig, nmse, normal, record, tensor
from tests.test_gpu_matmul import Resident
from tests.test_reference_device import IDS, VOCAB, chosen_experts, expert_entries, expert_layer, layer, segments
from wasmrt.errors import DeviceError

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.parametrize("ids", [[VOCAB], [-1], [3, VOCAB, 4]])
def test_a_token_that_is_none_is_refused(ids):
    with Rig(GPU, *segments(layer)) as rig, pytest.raises((ValueError, OverflowError)):
        rig.device.begin(ids, 0, 1)


@pytest.mark.parametrize("pos", [-1, 7, 8, 1 << 40])
def test_a_position_outside_of_the_cache_is_refused(pos):
    """Shaders would write keys and values where they do not belong."""
    with Rig(GPU, *segments(layer), context=8) as rig:
        with pytest.raises(ValueError, match="8 positions"):
            rig.device.begin([1, 2], pos, 1)
        assert rig.run([1, 2], 6).shape == (2, VOCAB)


def test_parts_of_the_experts_one_after_another():
    """A partial run computes the rows of the experts that are there, and leaves those of the others."""
    with Rig(GPU, *segments(expert_layer)) as rig:
        want = rig.run(IDS)
        bound = rig.bounds[1]
        program, table = bound.program, bound.table
        home = {entry: table[entry] for entry in expert_entries(program, range(6))}
        halves = [expert_entries(program, some) for some in (range(3), range(3, 6))]
        route = next(i for i, op in enumerate(program.ops) if op.kernel == "route")

        async def step():
            for entry in home:
                table[entry] = 0
            rig.device.begin(IDS, 0, len(IDS))
            await rig.device.run(rig.bounds[0:1], range(1))
            stop = await rig.device.run([bound], range(len(program.ops)))
            assert stop.next_op == route + 1
            assert rig.device.chosen(bound, route) == chosen_experts(IDS)
            assert set(stop.missing) == expert_entries(program, chosen_experts(IDS))
            for at in range(route + 1, len(program.ops)):
                for there in halves if program.ops[at].kernel == "expert_matmul" else [set(home)]:
                    for entry, address in home.items():
                        table[entry] = address if entry in there else 0
                    assert (await rig.device.run([bound], range(at, at + 1), True)).next_op == at + 1
            await rig.device.run(rig.bounds[2:3], range(len(rig.bounds[2].program.ops)))

        asyncio.run(step())
        np.testing.assert_array_equal(rig.result(), want)


def test_a_closed_device_says_so():
    with Rig(GPU, *segments(layer)) as rig:
        rig.run(IDS)
        rig.device.close()
        rig.device.close()
        for use in (lambda: rig.run(IDS), rig.result, lambda: rig.candidates(1, (), 1.0, 0.0)):
            with pytest.raises(DeviceError, match="closed"):
                use()


@pytest.mark.parametrize("delay", [0, 0.001, 0.01])
def test_reading_may_be_cancelled_and_asked_again(delay):
    with Rig(GPU, *segments(layer)) as rig:
        want = rig.run(IDS)

        async def scenario():
            asks = (lambda: rig.device.candidates(rig.bounds[-1], 3, (), 1.0, 0.7), lambda: rig.device.logits(rig.bounds[-1]))
            for ask in asks:
                task = asyncio.ensure_future(ask())
                await asyncio.sleep(delay)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return (await asks[0]()).ids[0], np.asarray(await asks[1]())

        best, logits = asyncio.run(scenario())
        assert best == int(np.argmax(want[-1]))
        np.testing.assert_array_equal(logits, want)


# Worst: 0.
def test_weights_that_stay_give_what_those_of_the_ring_give():
    tensors = {"x": tensor(normal(1, (8, 64))), "w": tensor(normal(2, (96, 64)))}
    program = record(lambda t, w: t.last_rows(t.matmul(w.w, t.embed(w.x))), tensors)
    with Rig(GPU, (program, tensors)) as ring, Resident(GPU, (program, tensors)) as resident:
        for n in (1, 4, 8):
            assert nmse(resident.run(range(n)), ring.run(range(n))) <= 1e-13

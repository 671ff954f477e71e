"""Several GPUs as one device: the layers divided among them, and the same text as on one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wasmrt
from tests.test_gpu_streaming import CONTEXT, smallest
from tests.test_streaming import PROMPT, SHAPES, greedy, write_layers
from tools.make_test_model import Shape, write_model
from wasmrt.engine import CHUNK
from wasmrt.errors import DeviceError
from wasmrt.store.layers import shares


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_shares_are_consecutive_and_near_their_part(sizes, budgets):
    """Each has a segment; a line between two lies within half of a segment of where it should, if all have enough."""
    if len(budgets) > len(sizes):
        with pytest.raises(ValueError, match="cannot be divided"):
            shares(sizes, budgets)
        return
    parts = shares(sizes, budgets)
    assert [i for part in parts for i in part] == list(range(len(sizes)))
    assert all(parts)
    if len(budgets) == 2:
        line = sum(sizes) * budgets[0] / sum(budgets)
        cut = sum(sizes[: parts[0].stop])
        assert abs(cut - line) <= max(sizes) / 2 or len(parts[0]) == 1 or len(parts[1]) == 1


@pytest.mark.parametrize("name", ["dense", "tied", "experts", "long"])
@pytest.mark.usefixtures("gpu")
def test_the_same_text_on_two_and_three(tmp_path, name):
    """Two logical devices of one adapter; with a budget of each that does not hold its share, that is streamed."""
    path = write_layers(tmp_path / "model.gguf", **SHAPES[name])
    n = CHUNK + 5 if name == "long" else len(PROMPT)
    prompt, context = [1 + i * i % 90 for i in range(n)], n + 20 if name == "long" else CONTEXT
    with wasmrt.load(path, device="gpu", context=context) as model:
        ids, logits = greedy(model, prompt), model.logits(PROMPT).copy()
    least = smallest(path, context=context, device="gpu:0,gpu:0")
    for device, budget in (("gpu:0,gpu:0", None), ("gpu:0,gpu:0,gpu:0", None), ("gpu:0,gpu:0", least)):
        with wasmrt.load(path, device=device, gpu_memory=budget, context=context) as model:
            assert greedy(model, prompt) == ids
            np.testing.assert_array_equal(model.logits(PROMPT), logits)
            parts = model.engine.device.parts
            assert len(parts) == device.count("gpu")
            assert all(part.host.high_water <= (budget or model.plan.gpu.total_bytes) for part in parts)
            assert all(part.dispatches for part in parts)


@pytest.mark.usefixtures("gpu")
def test_gpus_that_are_not_there():
    with pytest.raises(DeviceError, match=r"no GPU number '7' .*; here gpu:0 is '"):
        wasmrt.load(device="gpu:7")
    with pytest.raises(DeviceError, match=r"too small for 8 GPUs .*; name fewer"):
        wasmrt.load(device=",".join(["gpu"] * 8))


@pytest.mark.usefixtures("gpu")
def test_a_shared_matrix_stays_on_both_or_on_neither(tmp_path):
    """A tied head on the last and its embedding on the first, within budgets that hold it on one of them."""
    shape = Shape(256, 4, 4, 2, 64, 1024, 3000, 512, tied=True)
    write_model(tmp_path / "m.gguf", "tied", "F16", shape=shape)
    prompt = [1 + i * 271 % 2990 for i in range(11)]
    with wasmrt.load(tmp_path / "m.gguf", device="gpu", context=CONTEXT) as model:
        logits = model.logits(prompt).copy()
    # Each GPU has a smallest budget of its own.
    least = max(smallest(tmp_path / "m.gguf", context=CONTEXT, device="gpu:0,gpu:0", gpu_memory=n) for n in (1, 10_000_000))
    for more in (0, 300_000, 1_000_000, 1_700_000, 2_500_000, 4_000_000):
        with wasmrt.load(tmp_path / "m.gguf", device="gpu:0,gpu:0", gpu_memory=least + more, context=CONTEXT) as model:
            np.testing.assert_array_equal(model.logits(prompt), logits)
            assert all(part.host.high_water <= least + more for part in model.engine.device.parts)

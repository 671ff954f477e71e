"""Models larger than a GPU's budget: the same bits as with everything there, and never more than the budget."""

import numpy as np
import pytest

import wasmrt
from tests.test_streaming import PROMPT, SHAPES, greedy, write_layers
from tools.make_test_model import Shape, write_model
from wasmrt.device.gpu_plan import RING_PARAMS_BYTES
from wasmrt.engine import CHUNK
from wasmrt.errors import BudgetError
from wasmrt.sync import call

pytestmark = pytest.mark.usefixtures("gpu")

# Where of the room between the smallest budget and all of it. Compiling shaders is most of the time that a test takes.
SHARES = (0.0, 0.35, 0.9)
CONTEXT = 40
LEDGER_SLACK = 0.6  # of a ledger that is taken at the least: it holds the largest readback and every row of candidates


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: write_layers(folder / f"{name}.gguf", **shape) for name, shape in SHAPES.items()}


def smallest(path, **options):
    """The budget that a refusal asks for, rounded up to a tenth of a MiB by its message."""
    with pytest.raises(BudgetError, match="GPU memory budget") as refused:
        wasmrt.load(path, **{"device": "gpu", "gpu_memory": 1, **options})
    return int(float(str(refused.value).split("this model needs ")[1].split(" MiB")[0]) * 2**20)


def assert_within(model):
    """What the device has counted is what the plan said, or less, and the plan is within the budget."""
    host, ledger = model.engine.device.host, model.plan.gpu
    assert host.high_water <= ledger.total_bytes
    if ledger.budget:
        assert ledger.total_bytes <= ledger.budget
    assert host.high_water > LEDGER_SLACK * (ledger.total_bytes - RING_PARAMS_BYTES)


@pytest.mark.parametrize("name", SHAPES)
def test_any_gpu_budget_gives_the_same_bits(paths, name):
    """Dense, tied and expert models, also with prompts of several chunks, which pass over the weights once."""
    n = CHUNK + 5 if name.startswith("long") else len(PROMPT)
    prompt = [1 + i * i % 90 for i in range(n)]
    options = {"context": n + 20 if name.startswith("long") else CONTEXT}
    with wasmrt.load(paths[name], device="gpu", **options) as model:
        ids, logits = greedy(model, prompt), model.logits(PROMPT).copy()
        assert set(model.plan.homes.values()) == {"device"}
        assert_within(model)
        total = model.plan.gpu.total_bytes
    least = smallest(paths[name], **options)
    for share in SHARES:
        budget = int(least + share * max(0, total - least))
        with wasmrt.load(paths[name], device="gpu", gpu_memory=budget, **options) as model:
            assert "device" not in model.plan.homes.values() or model.plan.gpu.weight_bytes > 0
            assert greedy(model, prompt) == ids
            np.testing.assert_array_equal(model.logits(PROMPT), logits)
            assert_within(model)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """25 MB, of which the smallest GPU budget holds little."""
    path = tmp_path_factory.mktemp("models") / "large.gguf"
    write_model(path, "large", "F16", shape=Shape(256, 8, 4, 2, 64, 1536, 2048, 512))
    return path


@pytest.mark.parametrize("memory", ["64MiB", "9MiB"])
def test_what_neither_budget_holds_comes_from_the_file(large, memory):
    """Through both rings: the store's, and the GPU's. A prompt of two chunks passes over the weights once."""
    prompt = [1 + i * 7 % 2000 for i in range(CHUNK + 9)]
    options = {"device": "gpu", "context": 300, "draft": 0}
    with wasmrt.load(large, **options) as model:
        ids, logits = greedy(model, prompt), model.logits(PROMPT).copy()
    least = smallest(large, context=300)
    with wasmrt.load(large, gpu_memory=least, memory=memory, **options) as model:
        homes = set(model.plan.homes.values())
        assert ("stream" in homes or "both" in homes) == (memory == "9MiB")
        assert greedy(model, prompt) == ids
        np.testing.assert_array_equal(model.logits(PROMPT), logits)
        assert_within(model)
        assert model.engine._memory.used <= model.plan.total_bytes <= model.plan.budget
        assert (model.stats.store["streamed_bytes"] > 0) == (memory == "9MiB")


def test_submits_are_no_more_than_slots_are_filled(large):
    """At most one a token where all of a model is on the GPU; otherwise one each time the ring is full, and the last."""
    with wasmrt.load(large, device="gpu", context=CONTEXT) as model:
        device = model.engine.device
        list(model.generate(PROMPT, max_tokens=2))
        before = device.submits
        list(model.generate(PROMPT[:4], max_tokens=8, repeat_penalty=1.1))
        assert device.submits - before <= 8
        before = device.submits
        list(model.generate(PROMPT[:5], max_tokens=20))
        assert device.submits - before < 20  # chained
    with wasmrt.load(large, device="gpu", gpu_memory=smallest(large, context=CONTEXT), context=CONTEXT) as model:
        device = model.engine.device
        list(model.generate(PROMPT, max_tokens=1))
        streamed = sum(not device._stays(s, at) for s in device._segments for at in range(len(s.groups)))
        before = device.submits
        list(model.generate([*PROMPT, 3], max_tokens=1, repeat_penalty=1.1))
        assert streamed > 10
        assert device.submits - before <= streamed + 1


@pytest.mark.parametrize(("quant", "most"), [("Q4_K_M", 9), ("Q6_K", 8)])
def test_a_layer_is_few_dispatches(tmp_path, quant, most):
    """In decode; Q4_K_M has the values' matrix in another format than queries' and keys' in half of the layers."""
    n_layers = 8
    write_model(tmp_path / "m.gguf", "few", quant, shape=Shape(256, n_layers, 4, 2, 64, 512, 512, 512))
    with wasmrt.load(tmp_path / "m.gguf", device="gpu") as model:
        device = model.engine.device
        list(model.generate([5, 6, 7], max_tokens=1))
        before = device.dispatches
        list(model.generate([5, 6, 7, 8], max_tokens=1))
        # Besides: the embedding, the rows that want logits, the head, and what chooses the token.
        others = 3 + 4
        assert (device.dispatches - before - others) / n_layers <= most


def test_a_cache_that_the_gpu_cannot_bind(tmp_path):
    """An explicit context is refused with what to do; an automatic one is lowered, with a note."""
    shape = Shape(256, 2, 4, 4, 64, 256, 512, 1 << 20)
    write_model(tmp_path / "m.gguf", "long", "Q8_0", shape=shape)
    with pytest.raises(BudgetError, match=r"a context of 200000 needs .* for the keys of a layer, .*; lower --context, or"):
        wasmrt.load(tmp_path / "m.gguf", device="gpu", context=200_000)


@pytest.mark.parametrize("name", ["dense", "tied", "wide"])
def test_a_host_budget_below_the_ring_for_uploads(paths, name):
    """All of a model on the GPU, and little memory to bring it there: nothing is read by rows that is not in rows."""
    with wasmrt.load(paths[name], device="gpu", context=CONTEXT) as model:
        logits, ring = model.logits(PROMPT).copy(), model.plan.staging_bytes
    with wasmrt.load(paths[name], device="gpu", memory=ring // 2, context=CONTEXT) as model:
        assert set(model.plan.homes.values()) == {"device"}
        np.testing.assert_array_equal(model.logits(PROMPT), logits)


def test_experts_that_neither_gpu_nor_memory_holds(paths):
    """Their cache has beside it the ring through which the others go to the GPU."""
    options = {"device": "gpu", "context": CONTEXT}
    with wasmrt.load(paths["experts"], **options) as model:
        ids, logits, total = greedy(model, PROMPT), model.logits(PROMPT).copy(), model.plan.gpu.total_bytes
    least = smallest(paths["experts"], **options)
    for share in SHARES:
        budget = int(least + share * max(0, total - least))
        for memory in ("300KiB", "600KiB"):
            with wasmrt.load(paths["experts"], gpu_memory=budget, memory=memory, **options) as model:
                assert greedy(model, PROMPT) == ids
                np.testing.assert_array_equal(model.logits(PROMPT), logits)
                assert_within(model)


def test_a_lowered_memory_streams_nothing_that_is_on_the_gpu(paths):
    with wasmrt.load(paths["dense"], device="gpu", memory="64MiB", context=CONTEXT) as model:
        logits = model.logits(PROMPT).copy()
        call(model.engine.lower_memory(model.plan.total_bytes - 8000))
        assert not model.plan.streams
        np.testing.assert_array_equal(model.logits(PROMPT), logits)

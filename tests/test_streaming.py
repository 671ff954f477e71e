"""Models larger than their budget, end to end: the same bits as with everything in memory, and no byte read without need."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wasmrt
from tests.gguf_files import LLAMA, N_VOCAB, random_tensors, write_llama
from wasmrt.engine import CHUNK
from wasmrt.errors import BudgetError
from wasmrt.store.layers import Kind
from wasmrt.store.plan import Demand
from wasmrt.sync import call

# The cpu device's numbers depend on nothing but the model and the tokens. The reference device's depend on how many tokens are
# computed together, which the budget has no say in either.
DEVICES = {"cpu": {"device": "cpu", "threads": 1, "draft": 0}, "reference": {"device": "reference", "draft": 0}}
PROMPT = [1 + i * 7 % 90 for i in range(11)]
N_TOKENS = 6


@dataclass
class Model:
    """A file and what it says with everything in memory."""

    path: Path
    context: int
    options: dict
    ids: list
    logits: np.ndarray
    minimum: int
    total: int
    prompt: list

    def between(self, share):
        """A budget between the smallest that works and one that holds everything."""
        return self.minimum + int(share * (self.total - self.minimum))


def write_layers(path, n_layers, *, experts=0, tied=False, context=64, seed=0, n_vocab=N_VOCAB):
    """A llama of so many layers, from write_llama's of two; with a tokenizer if it has write_llama's vocabulary."""
    tensors = {}
    if n_vocab != N_VOCAB:
        rng = np.random.default_rng(seed)
        for name, scale in ("token_embd.weight", 1), ("output.weight", 1 / 8):
            tensors[name] = (scale * rng.standard_normal((n_vocab, LLAMA["embedding_length"]))).astype(np.float32)
    if tied:
        tensors["output.weight"] = None
    for layer in range(2, n_layers):
        made = random_tensors(seed + layer, experts)
        prefix = "blk.0."
        tensors |= {f"blk.{layer}.{name[len(prefix):]}": data for name, data in made.items() if name.startswith(prefix)}
    changes = {"block_count": n_layers, "context_length": context}
    tokenizer = n_vocab == N_VOCAB
    return write_llama(path, seed=seed, changes=changes, tensors=tensors, experts=experts, tokenizer=tokenizer)


WIDE = 5000  # tokens: more than a chunk's, so that rows of the embedding take less than all of it, and it has two entries
SHAPES = {
    "dense": {"n_layers": 5},
    "tied": {"n_layers": 3, "tied": True},
    "experts": {"n_layers": 4, "experts": 6},
    "tied-experts": {"n_layers": 2, "experts": 4, "tied": True},
    "long": {"n_layers": 4, "context": 900},
    "wide": {"n_layers": 2, "n_vocab": WIDE},
    "long-experts": {"n_layers": 5, "experts": 5, "context": 900},
}
FORMATS = ("llama-dense.Q4_K_M", "llama-dense.Q6_K", "llama-moe.Q4_K_M")


def recorded(path, prompt, device, context):
    options = {**DEVICES[device], "context": context}
    with wasmrt.load(path, **options) as model:
        ids, logits, plan = greedy(model, prompt), model.logits(PROMPT).copy(), model.plan
        return Model(path, context, options, ids, logits, plan.minimum_bytes, plan.total_bytes, prompt)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: write_layers(folder / f"{name}.gguf", **shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module", params=SHAPES)
def model(request, paths, device):
    """Prompts of long models take three chunks, the last of them short; two on the slow reference device."""
    if not request.param.startswith("long"):
        return recorded(paths[request.param], PROMPT, device, 40)
    n = (CHUNK if device == "reference" else 2 * CHUNK) + 5
    return recorded(paths[request.param], [1 + i * i % 90 for i in range(n)], device, n + 20)


def greedy(loaded, prompt):
    """The ids that follow; bounded, so that a hang fails."""

    async def generate():
        generation = loaded.engine.generate(prompt, max_tokens=N_TOKENS)
        async for _ in generation:
            pass
        return generation.tokens

    return call(asyncio.wait_for(generate(), 60))


def assert_the_same(model, loaded):
    assert greedy(loaded, model.prompt) == model.ids
    np.testing.assert_array_equal(loaded.logits(PROMPT), model.logits)
    plan, store = loaded.plan, loaded.engine._store
    assert store.metrics.high_water_bytes <= plan.weight_bytes
    assert loaded.engine._memory.used <= plan.total_bytes <= plan.budget
    assert all(held.pins == 0 for held in store._held)


OPTIONS = {
    "share": st.one_of(st.sampled_from([0.0, 0.999]), st.floats(0, 1.1)),
    "policy": st.sampled_from(["plan", "plan", "lru", "belady"]),
    "prefetch": st.sampled_from([None, 0, 1, 3]),
    "in_memory": st.booleans(),
}


@settings(max_examples=8)
@given(**OPTIONS)
def test_any_budget_gives_the_same_ids_and_logits(model, share, policy, prefetch, in_memory):
    """Greedy ids and logits, bit by bit, from the smallest budget that works to more than there is need for."""
    ref = model.path.read_bytes() if in_memory else model.path
    with wasmrt.load(ref, memory=model.between(share), policy=policy, prefetch=prefetch, **model.options) as loaded:
        assert loaded.plan.streams or share > 0
        assert_the_same(model, loaded)


@pytest.mark.reference
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=8)
@given(**OPTIONS)
def test_any_budget_gives_the_same_in_other_formats(cpu, reference_dir, name, share, policy, prefetch, in_memory):
    path = reference_dir / "logits" / f"{name}.gguf"
    model = recorded(path, PROMPT, "cpu", 40)
    ref = path.read_bytes() if in_memory else path
    with wasmrt.load(ref, memory=model.between(share), policy=policy, prefetch=prefetch, **model.options) as loaded:
        assert_the_same(model, loaded)


@settings(max_examples=20)
@given(context=st.integers(20, 60), share=st.floats(0, 1), kv_type=st.sampled_from(["f32", "f16"]))
def test_a_minimum_is_enough_and_less_is_refused_with_a_figure(cpu, paths, context, share, kv_type):
    path, options = paths["dense"], {**DEVICES["cpu"], "context": context, "kv_type": kv_type}
    with wasmrt.load(path, **options) as loaded:
        minimum = loaded.plan.minimum_bytes
    with wasmrt.load(path, memory=minimum, **options) as loaded:
        list(loaded.generate(PROMPT, max_tokens=3))
    for budget in (minimum - 1, max(1, int(share * minimum) - 1)):
        with pytest.raises(BudgetError, match=r"needs [\d.]+ MiB") as error:
            wasmrt.load(path, memory=budget, **options)
        assert "\n" not in str(error.value)


# What is read


def read_by(loaded, ids):
    """Bytes of weights that a pass with these ids reads from the file; embedding rows apart."""
    metrics = loaded.engine._store.metrics

    async def step():
        async with loaded.engine.turn:
            before = metrics.bytes_read - metrics.row_bytes_read
            await loaded.engine.step(ids)
            await settled(loaded.engine._store)
            return metrics.bytes_read - metrics.row_bytes_read - before

    return call(step())


async def settled(store):
    """What is read ahead has arrived, so that each pass counts its own and all that it left to the next."""
    while running := list(store._frames.fetcher._running):
        await asyncio.wait(running)


def frames_of(loaded):
    """Weight bytes of a pass with what reads are widened to."""
    table = loaded.engine._store._table
    demand = Demand(table, loaded.plan.block, CHUNK)
    return demand.bytes_of(demand.of(Kind.DENSE)), max(demand.frame(extent) for extent in table.extents)


@settings(max_examples=20)
@given(share=st.floats(0, 1), prefetch=st.sampled_from([None, 0, 2]), in_memory=st.booleans())
def test_a_pass_reads_what_memory_lacks_and_a_ring(cpu, paths, share, prefetch, in_memory):
    """And never more than one tensor that found no place beside."""
    model = recorded(paths["dense"], PROMPT, "cpu", 40)
    ref = model.path.read_bytes() if in_memory else model.path
    with wasmrt.load(ref, memory=model.between(share), prefetch=prefetch, **model.options) as loaded:
        ids = list(PROMPT)
        read_by(loaded, ids)
        counts = []
        for _ in range(12):
            ids.append(5)
            counts.append(read_by(loaded, ids))
        weights, largest = frames_of(loaded)
        lack = max(0, weights - loaded.plan.room)
        others = loaded.plan.staging_bytes + loaded.plan.row_bytes + loaded.plan.parts.padding + largest
        if loaded.plan.streams:
            assert sum(counts) / 12 <= 1.05 * lack + others
            assert sum(counts) / 12 >= loaded.plan.bytes_bound
        else:
            assert set(counts) == {0}


def test_with_everything_in_memory_no_byte_is_read_twice(model):
    with wasmrt.load(model.path, **model.options) as loaded:
        assert_the_same(model, loaded)
        metrics, table = loaded.stats.store, loaded.engine._store._table
        assert metrics["bytes_read"] == table.n_bytes
        assert metrics["reads"] == len(table.extents)
        assert (metrics["streamed_bytes"], metrics["stalls"], metrics["evictions"]) == (0, 0, 0)


def test_what_is_touched_fits_but_not_the_embedding(paths, device):
    """Rows of the embedding are read as tokens come, each once; nothing streams."""
    model = recorded(paths["wide"], PROMPT, device, 40)
    with wasmrt.load(model.path, memory=model.total - 64, **model.options) as loaded:
        assert not loaded.plan.streams
        assert_the_same(model, loaded)
        metrics, table = loaded.stats.store, loaded.engine._store._table
        assert metrics["bytes_read"] - metrics["row_bytes_read"] == table.touched_bytes
        assert metrics["row_bytes_read"] == len({*PROMPT, *model.ids[:-1]}) * table.row_bytes


@pytest.mark.parametrize("prefetch", [None, 0])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.97])
@pytest.mark.parametrize("name", ["long", "long-experts"])
def test_a_prompt_of_several_chunks_is_one_pass_over_the_weights(cpu, paths, name, share, prefetch):
    """Where there is room for what it keeps meanwhile. With experts too: all chunks go through those that any has chosen."""
    prompts = [[1 + i * step % 90 for i in range(2 * CHUNK + 5)] for step in (7, 11)]
    options = {**DEVICES["cpu"], "context": 600}
    wanted = []
    with wasmrt.load(paths[name], **options) as loaded:
        minimum, total = loaded.plan.minimum_bytes, loaded.plan.total_bytes
        for prompt in prompts:
            read_by(loaded, prompt)
            wanted.append(np.array(call(loaded.engine.device.logits(loaded.engine._bounds[-1]))))
    with wasmrt.load(paths[name], memory=minimum + int(share * (total - minimum)), prefetch=prefetch, **options) as loaded:
        plan, table = loaded.plan, loaded.engine._store._table
        assert plan.streams
        assert plan.kept_rows == (600 if share >= 0.9 else 0)
        for prompt, logits in zip(prompts, wanted, strict=True):
            read = read_by(loaded, prompt)
            np.testing.assert_array_equal(np.array(call(loaded.engine.device.logits(loaded.engine._bounds[-1]))), logits)
        # The second has all residents there. What it reads ahead of the next pass is counted too.
        ahead = plan.staging_bytes + plan.expert_cache_bytes + 2 * plan.block * len(table.extents)
        if plan.kept_rows:
            assert read <= plan.streamed_bytes + ahead
        elif name == "long":
            assert read >= 3 * (plan.streamed_bytes - plan.staging_bytes)


def test_embeddings_in_several_entries(paths, device):
    """Rows of the first, of the last, and on both sides of where one entry ends."""
    with wasmrt.load(paths["wide"], **DEVICES[device], context=40) as loaded:
        minimum = loaded.plan.minimum_bytes
    with wasmrt.load(paths["wide"], memory=minimum, **DEVICES[device], context=40) as loaded:
        first, *rest = loaded.engine._store._table.segments[0].entries
        assert rest
        cut = first.n_bytes // loaded.engine._store._table.row_bytes
    model = recorded(paths["wide"], [0, cut - 1, cut, cut + 1, WIDE - 1], device, 40)
    with wasmrt.load(model.path, memory=minimum, **model.options) as loaded:
        assert_the_same(model, loaded)

"""Models on a GPU from file to text: the reference device's ids, in chains of passes or not, and after whatever came before."""

import asyncio
import contextlib

import numpy as np
import pytest

import wasmrt
from tests.gguf_files import write_llama
from tools.make_test_model import SHAPES, write_model
from wasmrt.engine import CHUNK
from wasmrt.sync import call

pytestmark = pytest.mark.usefixtures("gpu")

PROMPT = "Once upon a time there was a"
# What no chain knows, and what changes nothing: so near 1 that no float32 number is another.
ALONE = {"repeat_penalty": 1 + 1e-9}
DRAWN = {"temperature": 0.9, "seed": 11}


@pytest.fixture(scope="module")
def model():
    with wasmrt.load(device="gpu", context=256) as model:
        yield model


@pytest.fixture(scope="module")
def reference():
    with wasmrt.load(device="reference", context=256) as model:
        yield model


def generated(model, prompt=PROMPT, **options):
    """A generation that has ended."""
    generation = model.generate(prompt, **options)
    text = "".join(generation)
    assert text == generation.text
    return generation


def forget(model):
    """Leave nothing in the cache."""
    model.logits([0])


@contextlib.contextmanager
def chained(model, monkeypatch, n):
    """With chains of n passes, and a count of those that were started."""
    started = []
    chain = model.engine.device.chain

    async def counted(bounds, token, pos, most, *how):
        chosen = await chain(bounds, token, pos, most, *how)
        started.append((most, len(chosen)))
        return chosen

    with monkeypatch.context() as patch:
        patch.setattr(model.engine, "chain_room", lambda options: n)
        patch.setattr(model.engine.device, "chain", counted)
        yield started


# The reference device's ids


@pytest.mark.parametrize("prompt", [PROMPT, "<|user|>", "The little dog was very sad because", "x"])
def test_greedy_text_is_that_of_the_reference_device(model, reference, prompt):
    wanted = generated(reference, prompt, max_tokens=96)
    got = generated(model, prompt, max_tokens=96)
    assert (got.tokens, got.text, got.stats.finish) == (wanted.tokens, wanted.text, wanted.stats.finish)


# At temperature 0.9 no draw of 64 x 4 fell so near the edge of two tokens that rounding decided it.
@pytest.mark.parametrize("seed", range(4))
def test_drawn_text_is_that_of_the_reference_device(model, reference, seed):
    options = {"temperature": 0.9, "seed": seed, "max_tokens": 64}
    assert generated(model, **options).tokens == generated(reference, **options).tokens


TINY = SHAPES["tiny"]
QUANTS = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32")
MODELS = {quant: (TINY, quant) for quant in QUANTS}
IDS = np.random.default_rng(5).integers(3, TINY.n_vocab, 8).tolist()
N_FORCED = 128


async def best_by_token(engine, ids, first):
    """The likeliest token after each of ids[first:], in passes of one token."""
    async with engine.turn:
        await engine.step(ids[:first])
        found = []
        for end in range(first + 1, len(ids) + 1):
            await engine.step(ids[:end])
            found += (await engine.candidates(1, (), 1.0, 0.0)).ids
        return found


# Agreement seen: 100 % of each.
@pytest.mark.parametrize("kv_type", [None, "f16"])
@pytest.mark.parametrize("quant", QUANTS)
def test_forced_decoding_agrees(tmp_path, quant, kv_type):
    """Along the reference device's greedy ids, the likeliest token is the same, token by token and in one pass."""
    path = tmp_path / "m.gguf"
    write_model(path, "tiny", quant)
    with wasmrt.load(path, device="reference", context=256) as model:
        ids = IDS + generated(model, IDS, max_tokens=N_FORCED, stop=()).tokens
        ids = (ids + IDS * N_FORCED)[: len(IDS) + N_FORCED]  # where it ended early
        wanted = np.argmax(model.logits(ids), axis=1)[len(IDS) :]
    with wasmrt.load(path, device="gpu", context=256, kv_type=kv_type) as model:
        at_once = np.argmax(model.logits(ids), axis=1)[len(IDS) :]
        one_by_one = call(best_by_token(model.engine, ids, len(IDS)))
    assert np.mean(at_once == wanted) >= 0.99
    assert np.mean(one_by_one == wanted) >= 0.99


def test_a_cache_of_f16_takes_half_the_memory(model):
    with wasmrt.load(device="gpu", context=256, kv_type="f16") as half:
        assert model.plan.gpu.kv_bytes == 2 * half.plan.gpu.kv_bytes
        assert generated(half, max_tokens=8).tokens == generated(model, max_tokens=8).tokens
        assert not np.array_equal(half.logits([5, 9, 70]), model.logits([5, 9, 70]))


# Chains


@pytest.mark.parametrize("options", [{}, DRAWN, {**DRAWN, "top_k": 5}, {**DRAWN, "top_k": 0, "top_p": 1.0, "min_p": 0.0}])
@pytest.mark.parametrize("n", [2, 7, 64])
def test_chains_change_no_id(model, monkeypatch, options, n):
    """The last chain is cut short by max_tokens; a few draws are left to the host, most where all of a vocabulary counts."""
    with chained(model, monkeypatch, 0) as started:
        forget(model)
        wanted = generated(model, max_tokens=45, **options)
        assert started == []
    with chained(model, monkeypatch, n) as started:
        forget(model)
        got = generated(model, max_tokens=45, **options)
    assert (got.tokens, got.text) == (wanted.tokens, wanted.text)
    assert sum(count for _, count in started) >= 30
    assert max(most for most, _ in started) == min(n, 44)


def test_what_no_chain_knows_comes_without(model, monkeypatch):
    wanted = generated(model, max_tokens=20)
    calls = []
    monkeypatch.setattr(model.engine.device, "chain", lambda *how: calls.append(how))
    assert generated(model, max_tokens=20, **ALONE).tokens == wanted.tokens
    generated(model, max_tokens=5, temperature=1e9, seed=1)
    assert calls == []


@pytest.mark.parametrize("n", [0, 5, 64])
def test_ends(model, monkeypatch, n):
    """max_tokens, a stop string, the context, the model's own end: each after the same tokens, amid a chain too."""
    whole = generated(model, max_tokens=40)
    with chained(model, monkeypatch, n):
        for most in (0, 1, 2, 6, 7, 13):
            some = generated(model, max_tokens=most)
            assert (some.tokens, some.stats.finish) == (whole.tokens[:most], "length")
            assert some.stats.generated_tokens == most
        stop = whole.text[30:34]
        cut = generated(model, max_tokens=40, stop=stop)
        assert (cut.text, cut.stats.finish) == (whole.text[: whole.text.index(stop)], "stop")
        ended = generated(model, max_tokens=None)
        full = generated(model, [5] * 240, max_tokens=None, **DRAWN)
    assert ended.stats.finish in ("stop", "context")
    assert ended.tokens[:40] == whole.tokens
    assert len(full.tokens) <= model.plan.context + 1 - 240
    with chained(model, monkeypatch, 0):
        forget(model)
        assert generated(model, max_tokens=None).tokens == ended.tokens
        assert generated(model, [5] * 240, max_tokens=None, **DRAWN).tokens == full.tokens


@pytest.mark.parametrize("n", [0, 6])
def test_the_context_ends_a_text_without_an_end(tmp_path, monkeypatch, n):
    path = write_llama(tmp_path / "ids.gguf", tokenizer=False)  # so there is no end token either
    with wasmrt.load(path, device="gpu") as model, chained(model, monkeypatch, n):
        generation = generated(model, [5] * 9, max_tokens=None)
        assert (generation.stats.finish, len(generation.tokens)) == ("context", model.plan.context + 1 - 9)
        with wasmrt.load(path, device="reference") as other:
            assert generation.tokens == generated(other, [5] * 9, max_tokens=None).tokens


@pytest.mark.parametrize("options", [{}, DRAWN])
@pytest.mark.parametrize("left_after", [1, 2, 5, 8])
def test_a_text_that_was_left_goes_on_as_if_it_were_new(model, monkeypatch, options, left_after):
    """A chain has been further than what was taken of it: what is cached of that is not in the way."""
    with chained(model, monkeypatch, 8):
        for count, _ in enumerate(generation := model.generate(PROMPT, max_tokens=60, **options)):
            if count == left_after:
                break
        generation.close()
        ids = generation.prompt_tokens + generation.tokens + [7, 8]
        after = generated(model, ids, max_tokens=20)
        assert after.stats.cached_tokens >= len(ids) - 3
        forget(model)
        fresh = generated(model, ids, max_tokens=20)
    assert fresh.stats.cached_tokens <= 1
    assert after.tokens == fresh.tokens


def test_two_that_take_turns(model, monkeypatch):
    prompts = PROMPT, "The dog"
    alone = [generated(model, prompt, max_tokens=20).tokens for prompt in prompts]
    with chained(model, monkeypatch, 5):
        a, b = (model.generate(prompt, max_tokens=20) for prompt in prompts)
        for _ in range(30):
            next(a, None), next(b, None)
    assert [a.tokens, b.tokens] == alone


def test_cancelling_a_chain_leaves_the_model_usable():
    """A buffer that is waited for may become readable later: to copy to it then would end the process."""

    async def scenario():
        async with await wasmrt.open(device="gpu", context=256) as model:
            wanted = model.generate(PROMPT, max_tokens=30)
            [_ async for _ in wanted]
            for delay in (0, 0.001, 0.005, 0.02, 0.05):
                generation = model.generate(PROMPT, max_tokens=30)
                await anext(generation)
                task = asyncio.create_task(anext(generation))
                await asyncio.sleep(delay)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            again = model.generate(PROMPT, max_tokens=30)
            [_ async for _ in again]
            return wanted.tokens, again.tokens

    wanted, again = asyncio.run(scenario())
    assert again == wanted


# What it says of itself


def test_stats(model):
    before = model.stats
    generation = generated(model, max_tokens=30, seed=3, temperature=0.8)
    stats, after = generation.stats, model.stats
    assert (after.device, after.threads) == ("gpu", 1)
    assert stats.generated_tokens == len(generation.tokens) == 30
    assert stats.decode_steps == 29
    assert 1 <= stats.decode_passes <= 29 + 64
    assert stats.drafted_tokens == 0
    assert after.passes > before.passes
    assert (
        before.kernel_seconds < after.kernel_seconds < before.kernel_seconds + stats.first_token_seconds + stats.decode_seconds
    )


def test_a_prompt_of_several_chunks(tmp_path):
    path = write_llama(tmp_path / "long.gguf", changes={"context_length": 3 * CHUNK})
    ids = [1 + i * 7 % 90 for i in range(2 * CHUNK + 5)]
    with wasmrt.load(path, device="gpu") as model, wasmrt.load(path, device="reference") as other:
        wanted = other.logits(ids)
        got = model.logits(ids)
        assert generated(model, ids, max_tokens=9).tokens == generated(other, ids, max_tokens=9).tokens
    # Worst seen over 4 prompts: 1.4e-13.
    assert np.sum((got - wanted) ** 2) / np.sum(wanted**2) < 1.4e-12

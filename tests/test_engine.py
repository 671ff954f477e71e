"""open, generate, logits and close: prompt splits, cache reuse, cancelling, budgets, and what is refused beforehand."""

import asyncio
import gc
import os
import sys
import threading
import time
import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wasmrt
from tests.conftest import ROOT
from tests.gguf_files import N_VOCAB, random_tensors, write_llama
from wasmrt.device.choice import WASMTIME, choose
from wasmrt.device.device import FORMATS
from wasmrt.engine import CHUNK
from wasmrt.gguf.quants import DEQUANTIZE
from wasmrt.options import EngineOptions
from wasmrt.sync import call

IDS = [1, 40, 50, 45, 60, 41, 77, 52, 38, 66, 49, 71]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path, device):
    with wasmrt.load(path, device=device) as model:
        yield model


def nmse(got, wanted):
    return float(np.mean((got - wanted) ** 2) / np.mean(wanted**2))


# Prompt splits. The cpu device promises the same bits. The reference device's depend on the order in which BLAS adds, and that
# on the number of rows: worst NMSE seen over 600 random splits of 40 tokens 3.4e-13. Bound: about ten times that.

SPLIT_BOUND = {"reference": 4e-12, "cpu": 0.0}


@given(cuts=st.sets(st.integers(1, 39)), ids=st.lists(st.integers(0, N_VOCAB - 1), min_size=40, max_size=40))
def test_any_prompt_split_gives_the_same_ids_and_logits(model, device, cuts, ids):
    """Cut into chunks of any lengths, one token to all of them."""
    whole = model.logits(ids)[-1]

    async def in_chunks():
        engine = model.engine
        async with engine.turn:
            await engine.step([0])  # so that nothing of ids[1:] is in the cache
            for end in [*sorted(cuts), len(ids)]:
                await engine.step(ids[:end])
            logits = np.array(await engine.device.logits(engine._bounds[-1]))
            return logits[-1], (await engine.candidates(1, (), 1.0, 0.0)).ids

    split, best = call(in_chunks())
    assert nmse(split, whole) <= SPLIT_BOUND[device]
    assert best == [int(np.argmax(whole))]


def test_long_prompts_cross_the_chunk_size(tmp_path, device):
    """More tokens than one chunk, with logits wanted at every position and only at the last."""
    path = write_llama(tmp_path / "long.gguf", changes={"context_length": 3 * CHUNK})
    ids = [1 + i * 7 % 90 for i in range(2 * CHUNK + 5)]
    with wasmrt.load(path, device=device) as model:
        every = model.logits(ids)
        generation = model.generate(ids, max_tokens=1)
        list(generation)
        assert every.shape == (len(ids), N_VOCAB)
        assert generation.tokens == [int(np.argmax(every[-1]))]
        assert nmse(model.logits(ids[:20]), every[:20]) <= SPLIT_BOUND[device]


# The cache


def test_a_second_prompt_computes_only_what_differs(model, device):
    """Counted in passes' tokens, and the ids are those of a fresh model."""
    first = model.generate(IDS, max_tokens=4)
    list(first)
    longer = IDS + first.tokens + [42, 43]
    again = model.generate(longer, max_tokens=6)
    list(again)
    # The last generated token was sampled but never run through the layers, so it is not in the cache.
    assert again.stats.cached_tokens == len(IDS) + 3
    other = model.generate([*IDS[:5], 3, 4], max_tokens=6)
    list(other)
    assert other.stats.cached_tokens == 5
    with wasmrt.load(model.name, device=device) as fresh:
        check = fresh.generate(longer, max_tokens=6)
        list(check)
        assert check.tokens == again.tokens
        assert check.stats.cached_tokens == 0
        fresh.logits([5])
        check = fresh.generate([*IDS[:5], 3, 4], max_tokens=6)
        list(check)
        assert check.tokens == other.tokens


def test_a_chat_turn_computes_only_what_is_new(tmp_path, device):
    """Counted: the second turn finds the first turn's tokens in the cache; its ids are those of a fresh model."""
    template = "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}.{% endfor %}a: "
    path = write_llama(tmp_path / "chat.gguf", changes={"context_length": 256}, extra={"tokenizer.chat_template": template})
    history = [{"role": "user", "content": "hello there"}]
    with wasmrt.load(path, device=device) as model, wasmrt.load(path, device=device) as fresh:
        answer = model.chat(history, max_tokens=8)
        list(answer)
        history += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "and you"}]
        second, anew = model.chat(history, max_tokens=8), fresh.chat(history, max_tokens=8)
        list(second), list(anew)
        assert second.tokens == anew.tokens
        assert second.prompt_tokens == anew.prompt_tokens
        assert anew.stats.cached_tokens == 0
        held = answer.prompt_tokens + answer.tokens[:-1]
        shared = next((i for i, (a, b) in enumerate(zip(held, second.prompt_tokens, strict=False)) if a != b), len(held))
        assert second.stats.cached_tokens == shared >= len(answer.prompt_tokens) - 1


def test_two_generations_can_take_turns(model):
    """Interleaved, each gives what it gives alone."""
    prompts = IDS, [*IDS[:3], 9, 9]
    alone = []
    for prompt in prompts:
        generation = model.generate(prompt, max_tokens=8)
        list(generation)
        alone.append(generation.tokens)
    a, b = (model.generate(prompt, max_tokens=8) for prompt in prompts)
    for _ in range(8):
        next(a, None), next(b, None)
    list(a), list(b)
    assert [a.tokens, b.tokens] == alone


def test_concurrent_tasks_wait_for_their_turn(path, device):
    async def scenario():
        async with await wasmrt.open(path, device=device) as model:
            alone = [[t async for t in _ids(model, p)] for p in (IDS, IDS[:4])]
            together = await asyncio.gather(*(_collect(model, p) for p in (IDS, IDS[:4])))
            return alone, together

    async def _ids(model, prompt):
        generation = model.generate(prompt, max_tokens=6)
        async for _ in generation:
            pass
        for token in generation.tokens:
            yield token

    async def _collect(model, prompt):
        return [t async for t in _ids(model, prompt)]

    alone, together = asyncio.run(scenario())
    assert alone == list(together)


# Ends


def test_finish_reasons(model):
    def finish(**options):
        generation = model.generate(IDS, **options)
        list(generation)
        return generation.stats.finish, len(generation.tokens)

    assert finish(max_tokens=5) == ("length", 5)
    assert finish(max_tokens=0) == ("length", 0)
    # The last token is sampled after the last position was computed.
    assert finish(max_tokens=None, top_k=1) == ("context", model.plan.context + 1 - len(IDS))
    first = model.generate(IDS, max_tokens=1)
    assert finish(stop="".join(first)) == ("stop", 1)


def test_an_end_token_ends_the_text(tmp_path, device):
    """The model is made to like the end token best after its first answer: it is neither shown nor counted."""
    output = random_tensors(0)["output.weight"].copy()
    path = write_llama(tmp_path / "end.gguf", tensors={"output.weight": output})
    with wasmrt.load(path, device=device) as model:
        generation = model.generate(IDS, max_tokens=1)
        list(generation)
    output[2] = 2 * output[generation.tokens[0]]  # </s> now beats what won before
    with wasmrt.load(write_llama(path, tensors={"output.weight": output}), device=device) as model:
        ended = model.generate(IDS, max_tokens=9)
        assert "".join(ended) == ""
        assert (ended.stats.finish, ended.tokens, ended.stats.generated_tokens) == ("stop", [], 0)


def test_the_callers_time_is_not_counted(model):
    """A slow reader does not make the model look slow."""
    generation = model.generate(IDS, max_tokens=4)
    for _ in generation:
        time.sleep(0.3)
    assert generation.stats.decode_seconds < 0.3
    assert generation.stats.decode_steps == 3


def test_stop_strings_end_the_text_before_them(model):
    whole = "".join(model.generate(IDS, max_tokens=24))
    assert len(whole) > 8
    stop = whole[4:7]
    generation = model.generate(IDS, max_tokens=24, stop=stop)
    assert "".join(generation) == whole[: whole.index(stop)] == generation.text
    assert generation.stats.finish == "stop"


def test_seed_decides_the_text(model):
    def text(seed):
        return "".join(model.generate(IDS, max_tokens=20, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=seed))

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_repeat_penalty_changes_the_choice(model):
    plain = model.generate([40] * 30, max_tokens=20)
    list(plain)
    loop = max(set(plain.tokens), key=plain.tokens.count)
    penalised = model.generate([40] * 30, max_tokens=20, repeat_penalty=5.0)
    list(penalised)
    assert penalised.tokens.count(loop) < max(2, plain.tokens.count(loop))


# Cancelling


async def first_chunk(model):
    """Wait until the first chunk of a long prompt has been computed: many are still to come."""
    async with asyncio.timeout(60):
        while model.stats.passes == 0:  # noqa: ASYNC110  it has no event for that
            await asyncio.sleep(0)


def test_cancelling_a_prefill_is_prompt_and_leaves_the_model_usable(tmp_path, device):
    """The task is cancelled between two ops: long before the prefill's end. The next generation is right."""
    path = write_llama(tmp_path / "long.gguf", changes={"context_length": 4096})
    ids = [1 + i * 7 % 90 for i in range(3500)]

    async def scenario():
        async with await wasmrt.open(path, device=device) as model:
            wanted = model.generate(IDS, max_tokens=5)
            [_ async for _ in wanted]
            started = time.perf_counter()
            await anext(model.generate(ids, max_tokens=1))
            whole = time.perf_counter() - started
            await anext(model.generate(IDS, max_tokens=1))  # empties the cache of most of ids
            task = asyncio.create_task(anext(model.generate(ids, max_tokens=1)))
            await asyncio.sleep(whole / 10)
            started = time.perf_counter()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            left = time.perf_counter() - started
            again = model.generate(IDS, max_tokens=5)
            [_ async for _ in again]
            return whole, left, again.tokens == wanted.tokens

    whole, left, same = asyncio.run(scenario())
    assert same
    assert left < whole / 2


def test_cancelling_while_a_token_is_chosen_is_as_if_it_had_not_been(tmp_path, device, monkeypatch):
    """No other pass begins while a device is waited for; afterwards the pass is in the cache, and the token comes again."""
    path = write_llama(tmp_path / "ids.gguf", tokenizer=False)

    async def scenario():
        async with await wasmrt.open(path, device=device) as model:
            wanted = model.generate(IDS, max_tokens=5)
            [_ async for _ in wanted]
            generation, asked = model.generate(IDS, max_tokens=5), asyncio.Event()
            before = [await anext(generation), await anext(generation)]

            async def never(*how):
                asked.set()
                await asyncio.Event().wait()

            with monkeypatch.context() as patch:
                patch.setattr(model.device, "candidates", never)
                task = asyncio.create_task(anext(generation))
                await asked.wait()
                passes = model.stats.passes
                again = model.generate(IDS + generation.tokens, max_tokens=3)
                rest = asyncio.create_task(anext(again))
                await asyncio.sleep(0.05)
                assert model.stats.passes == passes
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert generation.tokens == wanted.tokens[: len(before)]
            assert generation.stats.generated_tokens == len(before)
            await rest
            [_ async for _ in again]
            assert again.stats.cached_tokens == len(IDS) + len(before) - 1
            assert again.tokens == wanted.tokens[len(before) :]

    asyncio.run(scenario())


def test_cancelling_a_load_leaves_nothing_behind(path, device):
    """Threads and files are gone after a load that was cancelled at its first progress report."""

    async def scenario():
        loading = asyncio.current_task()
        with pytest.raises(asyncio.CancelledError):
            await wasmrt.open(path, device=device, progress=lambda done, total: loading.cancel())
        loading.uncancel()

    before = threading.active_count()
    asyncio.run(scenario())
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_closing_a_generation_from_another_task(tmp_path, device):
    """A piece that is being computed is given up; who waits for it sees the iterator end; the model goes on."""
    path = write_llama(tmp_path / "long.gguf", changes={"context_length": 4096})
    ids = [1 + i * 7 % 90 for i in range(3500)]

    async def scenario():
        async with await wasmrt.open(path, device=device) as model:
            generation = model.generate(ids, max_tokens=3)
            waiting = asyncio.create_task(anext(generation, "ended"))
            await first_chunk(model)
            await generation.aclose()
            assert await waiting == "ended"
            assert generation.stats.finish == "closed"
            assert await anext(generation, "ended") == "ended"
            again = model.generate(IDS, max_tokens=2)
            return len([piece async for piece in again]), again.tokens

    pieces, tokens = asyncio.run(scenario())
    assert pieces == len(tokens) == 2


def test_closing_the_model_during_a_pass(tmp_path, device):
    """The generation ends with a typed error; nothing hangs."""
    path = write_llama(tmp_path / "long.gguf", changes={"context_length": 4096})

    async def scenario():
        model = await wasmrt.open(path, device=device)
        waiting = asyncio.create_task(anext(model.generate([3] * 3500)))
        await first_chunk(model)
        await model.close()
        with pytest.raises(wasmrt.DeviceError, match="was closed"):
            await waiting

    asyncio.run(scenario())


def test_leaving_a_generation_early_is_fine(model):
    for _ in model.generate(IDS, max_tokens=50):
        break
    generation = model.generate(IDS, max_tokens=5)
    next(generation)
    generation.close()
    assert list(generation) == []


# Refusals


def test_arguments_are_checked_before_anything_is_computed(model):
    passes = model.stats.passes
    for wrong in ({"temperature": float("nan")}, {"max_tokens": -1}, {"top_k": -5}, {"stop": [""]}, {"seed": -1}, {"top_p": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
            model.generate(IDS, **wrong)
    assert model.logits(np.array(IDS)).shape == (len(IDS), N_VOCAB)
    passes = model.stats.passes
    for ids in ([], [N_VOCAB], [-1], [1.5], ["a"]):
        with pytest.raises(ValueError, match=r"token"):
            model.generate(ids)
    with pytest.raises(wasmrt.ContextFull, match=r"the prompt has 65 tokens, but the context holds 64"):
        model.generate([3] * 65)
    assert model.stats.passes == passes


def test_budgets_are_hard_and_say_what_would_do(path, device):
    with wasmrt.load(path, device=device) as model:
        needed = model.plan.total_bytes
    with wasmrt.load(path, device=device, memory=needed, context=64) as model:
        assert model.engine._memory.used == model.plan.total_bytes == needed
        least = model.plan.minimum_bytes
    with wasmrt.load(path, device=device, memory=least, context=64) as model:
        assert model.engine._memory.used <= model.plan.total_bytes <= least
    with pytest.raises(wasmrt.BudgetError, match=r"raise --memory or lower --context"):
        wasmrt.load(path, device=device, memory=least - 1, context=64)
    with pytest.raises(wasmrt.ContextFull, match=r"a context of 65 is too long: this model was made for 64"):
        wasmrt.load(path, device=device, context=65)


def test_an_automatic_context_shrinks_to_the_budget_with_a_note(tmp_path, caplog, device):
    path = write_llama(tmp_path / "m.gguf", changes={"context_length": 2048})
    with wasmrt.load(path, device=device) as model:
        assert model.plan.context == 2048
        needed = model.plan.total_bytes
    with wasmrt.load(path, device=device, memory=needed - 100_000) as model:
        assert 64 <= model.plan.context < 2048
        assert model.plan.total_bytes <= needed - 100_000
        assert f"the context is {model.plan.context} positions, not 2048" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"device": "tpu"}, wasmrt.DeviceError, "device 'tpu' is unknown.*there is: auto, gpu, cpu, reference, .* cpu:wasm64"),
        ({"device": "cpu:wasm128"}, wasmrt.DeviceError, "device 'cpu:wasm128' is unknown"),
        ({"device": "reference:plain"}, wasmrt.DeviceError, "device 'reference:plain' is unknown"),
        ({"kv_type": "q8_0"}, ValueError, "kv_type 'q8_0' is unknown; there is: f32, f16"),
        ({"threads": 0}, ValueError, "threads must be"),
        ({"threads": 10**12}, ValueError, "threads must be at most 1024"),
        ({"memory": "lots"}, ValueError, "no amount of memory"),
        ({"context": 0}, ValueError, "context must be"),
        ({"policy": "magic"}, ValueError, "policy 'magic' is unknown"),
    ],
)
def test_wrong_options_are_refused(path, options, error, match):
    with pytest.raises(error, match=match):
        wasmrt.load(path, **options)


@pytest.mark.parametrize(
    ("device", "unused"),
    [
        ("reference", "the reference device has no use for: gpu_memory, threads, kv_type"),
        ("cpu", "the cpu device has no use for: gpu_memory"),
        ("auto", "the cpu device has no use for: gpu_memory"),
        ("cpu:plain", "the cpu:plain device has no use for: gpu_memory, threads"),
    ],
)
@pytest.mark.usefixtures("cpu")
def test_options_without_effect_are_named(path, caplog, device, unused):
    """Each option that the device ignores, and none that it heeds."""
    wasmrt.load(path, device=device, threads=2, kv_type="f16", gpu_memory=1 << 20).close()
    assert [record.message for record in caplog.records] == [unused]


# What computes


@pytest.mark.usefixtures("cpu")
def test_auto_is_the_cpu_device_with_a_thread_a_core(path):
    with wasmrt.load(path) as model:
        stats = model.stats
    assert stats.device == "cpu"
    assert 1 <= stats.threads <= os.cpu_count()
    with wasmrt.load(path, threads=3) as model:
        assert model.stats.threads == 3


@pytest.mark.usefixtures("cpu")
def test_builds_and_threads_give_the_same_bits(path):
    """Of the logits at every position, and so of all text."""
    with wasmrt.load(path, device="cpu:wasm32", threads=1) as model:
        wanted = model.logits(IDS)
    for device, threads in (("cpu:wasm64", 1), ("cpu:plain", None), ("cpu:wasm32", 2), ("cpu:wasm64", 3)):
        with wasmrt.load(path, device=device, threads=threads) as model:
            assert np.array_equal(model.logits(IDS), wanted), (device, threads)


# Worst NMSE seen over 300 random prompts of up to 63 tokens: 9.4e-8. Bound: about ten times that.
@pytest.mark.usefixtures("cpu")
def test_a_cache_of_f16_takes_half_the_memory(path):
    """And is really rounded: its logits are near those of an f32 cache, and not the same."""
    found = {}
    for kv_type in (None, "f32", "f16"):
        with wasmrt.load(path, device="cpu", kv_type=kv_type) as model:
            found[kv_type] = model.plan.kv_bytes, model.logits(IDS)
    assert found["f32"][0] == found[None][0] == 2 * found["f16"][0]
    assert np.array_equal(found["f32"][1], found[None][1])
    assert 0 < nmse(found["f16"][1], found["f32"][1]) < 1e-6


def test_a_page_has_no_reference_device(monkeypatch):
    monkeypatch.setattr("wasmrt.browser.IN_PAGE", True)
    with pytest.raises(wasmrt.DeviceError, match="needs numpy, which a page does not have; use device 'cpu'"):
        choose(EngineOptions(device="reference"))


def test_a_missing_wasmtime_comes_with_the_command_that_installs_it(monkeypatch):
    """The release that pyproject.toml asks for: the next one may not fit."""
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    monkeypatch.delitem(sys.modules, "wasmrt.device.cpu_native", raising=False)
    monkeypatch.delattr("wasmrt.device.cpu_native", raising=False)
    with pytest.raises(wasmrt.DeviceError, match=f'python -m pip install "{WASMTIME}"'):
        choose(EngineOptions())
    assert f'"{WASMTIME}; ' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_device_computes_with_the_same_formats():
    """What is on the shared list the reference device can dequantize."""
    assert set(DEQUANTIZE) > FORMATS


def test_a_closed_model_says_so(path, device):
    model = wasmrt.load(path, device=device)
    model.close()
    model.close()
    with pytest.raises(wasmrt.DeviceError, match="the model was closed"):
        list(model.generate(IDS))


# Without a tokenizer


def test_ids_still_work_without_a_tokenizer(tmp_path, device):
    """Same weights, no vocabulary: the same ids, shown in decimal; text is refused by name."""
    path = write_llama(tmp_path / "ids.gguf", tokenizer=False)
    with wasmrt.load(path, device=device) as model:
        generation = model.generate(IDS, max_tokens=5)
        assert "".join(generation) == "".join(f"{i} " for i in generation.tokens)
        assert len(generation.tokens) == 5
        for _ in range(3):
            with pytest.raises(wasmrt.UnsupportedError, match="the file has no tokenizer") as caught:
                model.tokenize("hello")
        depth = sum(1 for _ in traceback.walk_tb(caught.tb))
        assert depth < 10  # the error is kept; its frames are not


# Async and sync are one engine


def test_async_and_sync_agree(path, model, device):
    async def scenario():
        async with await wasmrt.open(path, device=device) as opened:
            generation = opened.generate(IDS, max_tokens=8)
            text = "".join([piece async for piece in generation])
            logits = await opened.logits(IDS)
            return text, generation.tokens, logits

    text, tokens, logits = asyncio.run(scenario())
    generation = model.generate(IDS, max_tokens=8)
    assert (text, tokens) == ("".join(generation), generation.tokens)
    assert logits.format == "f"
    assert logits.shape == (len(IDS), N_VOCAB)
    assert np.array_equal(np.asarray(logits), model.logits(IDS))


def test_a_model_in_memory(path, model, device):
    with wasmrt.load(path.read_bytes(), device=device) as from_bytes:
        assert np.array_equal(from_bytes.logits(IDS), model.logits(IDS))

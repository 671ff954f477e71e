"""open(wait=False): tokens are computed while weights arrive, each layer as soon as its own are there, with the same result."""

import asyncio
from collections import deque

import pytest

import wasmrt
from tests.gguf_files import write_llama
from wasmrt.errors import SourceError
from wasmrt.store.source import MemorySource

PROMPT = [1, 40, 50, 45, 60, 41, 77]


class Link(MemorySource):
    """A file of which the header comes at once, and each range of weights when it is let through."""

    def __init__(self, data, weights):
        super().__init__(data)
        self.weights = weights  # where they begin
        self.waiting = deque()
        self.error = None

    async def read_into(self, offset, view):
        if offset >= self.weights:
            turn = asyncio.get_running_loop().create_future()
            turn.offset = offset
            self.waiting.append(turn)
            await turn
            if self.error:
                raise self.error
        await super().read_into(offset, view)

    async def let_through(self):
        """The range that was asked for first, and time for what it makes possible."""
        self.waiting.popleft().set_result(None)
        await asyncio.sleep(0.05)


@pytest.fixture(params=["cpu", "gpu"])
def device(request):
    request.getfixturevalue(request.param)
    return request.param


@pytest.fixture(params=[0, 4], ids=["dense", "experts"])
def path(tmp_path, request):
    return write_llama(tmp_path / "m.gguf", experts=request.param)


async def tokens_of(model, n=4):
    generation = model.generate(PROMPT, max_tokens=n)
    async for _ in generation:
        pass
    return generation.tokens


async def open_behind(monkeypatch, path, device):
    """The model behind a link, and the tokens that it gives without one."""
    async with await wasmrt.open(path, device=device) as model:
        want = await tokens_of(model)
        weights = min(entry.offset for segment in model._built.table.segments for entry in segment.entries)
    link = Link(path.read_bytes(), weights)

    async def open_source(ref, cache):
        return link

    monkeypatch.setattr("wasmrt.store.open.open_source", open_source)
    return link, await wasmrt.open(path, device=device, wait=False), want


def test_layers_run_while_others_arrive(monkeypatch, path, device):
    """Ops run with the first ranges and more with each layer; the last range is all that the first token waits for."""

    async def run():
        link, model, want = await open_behind(monkeypatch, path, device)
        ran, run = [], model.device.run

        async def recorded(bounds, ops, partial=False):
            stop = await run(bounds, ops, partial)
            ran.append(stop)
            return stop

        monkeypatch.setattr(model.device, "run", recorded)
        async with model:
            task = asyncio.create_task(tokens_of(model))
            await asyncio.sleep(0.05)
            seen, left = [], len(model._store._held)
            while left > 1:
                await link.let_through()
                seen.append(len(ran))
                left -= 1
                assert not task.done()
            before = len(ran)
            await link.let_through()
            assert await asyncio.wait_for(task, 30) == want
            await model.loaded()
            return seen, before

    seen, before = asyncio.run(run())
    assert before >= 3                               # the embedding and both layers had run without the last range
    assert 0 < seen[len(seen) // 2] < before         # and not at the very end


@pytest.mark.parametrize("last", ["ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"])
@pytest.mark.parametrize("path", [4], indirect=True)
def test_weights_may_arrive_in_any_order(monkeypatch, path, device, last):
    """Experts' matrices before their router, and some of an expert before its others."""

    async def run():
        link, model, want = await open_behind(monkeypatch, path, device)
        model._store._frames.fetcher.at_once = 64
        spans = [(e.offset, e.offset + e.n_bytes) for s in model._built.table.segments for e in s.entries if last in e.tensor]
        assert spans

        def is_late(turn):
            return any(first <= turn.offset < end for first, end in spans)

        async with model:
            task = asyncio.create_task(tokens_of(model))
            while not task.done():
                await asyncio.sleep(0.05)
                ready = [turn for turn in link.waiting if not is_late(turn)] or list(link.waiting)
                for turn in ready:
                    link.waiting.remove(turn)
                    turn.set_result(None)
            assert await task == want

    asyncio.run(run())


def test_what_keeps_weights_from_coming_is_told(monkeypatch, path, device):
    """Whoever computes or waits gets the error; once the link is back, both go on."""

    async def run():
        link, model, want = await open_behind(monkeypatch, path, device)
        async with model:
            link.error = SourceError("the link is broken")
            waiting = asyncio.create_task(model.loaded())
            task = asyncio.create_task(tokens_of(model))
            for _ in range(200):
                await asyncio.sleep(0.01)
                while link.waiting:
                    await link.let_through()
                if waiting.done() and task.done():
                    break
            for ended in (waiting, task):
                with pytest.raises(SourceError, match="the link is broken"):
                    await ended
            link.error = None
            task = asyncio.create_task(tokens_of(model))
            while not task.done():
                await asyncio.sleep(0.01)
                while link.waiting:
                    await link.let_through()
            assert await task == want

    asyncio.run(run())


def test_closing_ends_what_arrives(monkeypatch, path, device):
    async def run():
        link, model, _ = await open_behind(monkeypatch, path, device)
        await asyncio.sleep(0.05)
        assert link.waiting
        await asyncio.wait_for(model.close(), 10)
        assert all(turn.cancelled() for turn in link.waiting)

    asyncio.run(run())

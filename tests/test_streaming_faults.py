"""Models that stream, and all that can go wrong meanwhile: the ids of an undisturbed run or a typed error, in bounded time.

Afterwards the model is of use again, unless its file is another one by now, and closing it leaves nothing behind. A bit that
flips on its way is not among these: it cannot be told without a checksum of what was read.
"""

import asyncio
import contextlib
import errno
import gc
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wasmrt
from tests import gguf_files
from tests.gguf_files import write_llama
from tests.range_server import Fault, RangeServer
from wasmrt import engine, fit
from wasmrt.errors import BudgetError, DeviceError, SourceError
from wasmrt.store import fetcher, http_rules, remote
from wasmrt.store.http_rules import HttpLimits

pytestmark = pytest.mark.usefixtures("cpu")

KIB = 1 << 10
FAST = HttpLimits(
    connect_seconds=5, read_seconds=0.3, attempts=4, backoff_seconds=0.005, backoff_cap=0.02, retry_after_cap=0.05,
    total_seconds=10, bytes_per_second=1e6,
)
PROMPT = [1, 40, 50, 45, 60, 41, 77]
N_TOKENS = 3
BASE = {"attention.head_count": 8, "rope.dimension_count": 16, "embedding_length": 128}
DENSE = {**BASE, "block_count": 5, "feed_forward_length": 256}
ROW_BYTES = 512  # of the embedding
EXPERTS = {**BASE, "block_count": 3, "feed_forward_length": 128}
LONG = {**DENSE, "block_count": 4, "context_length": 400}
TIED = {**BASE, "attention.head_count": 2, "embedding_length": 32, "block_count": 16, "feed_forward_length": 128}
LARGE = {**BASE, "attention.head_count": 32, "embedding_length": 512, "block_count": 5, "feed_forward_length": 1024}


@dataclass(frozen=True)
class File:
    """A model, and what it gives when nothing is wrong and all of it is in memory."""

    path: Path
    data: bytes
    prompt: list[int]
    context: int
    ids: list[int]
    logits: bytes
    least: int  # the smallest budget
    most: int  # one for all weights

    def budget(self, share: float = 0.3) -> int:
        """A share of what lies between the smallest and all."""
        return self.least + int(share * (self.most - self.least))


def make(folder: Path, sizes: dict[str, int], *, experts: int = 0, seed: int = 0, tied: bool = False) -> File:
    """tied: the head is the embedding, and the largest tensor."""
    path = folder / f"{len(list(folder.iterdir()))}.gguf"
    with pytest.MonkeyPatch.context() as patch:
        for key, value in sizes.items():
            patch.setitem(gguf_files.LLAMA, key, value)
        if tied:
            patch.setattr(gguf_files, "N_VOCAB", 800)
        write_llama(path, seed=seed, experts=experts, tokenizer=False, tensors={"output.weight": None} if tied else {})
    context = sizes.get("context_length", 64)
    # Of the longer context all but a few positions: a prompt of several chunks, which go through the layers in stages.
    prompt = PROMPT if context == 64 else [1 + i * 7 % 90 for i in range(context - 20)]

    async def undisturbed():
        async with await wasmrt.open(path, context=context, device="cpu", memory="1GiB") as model:
            assert not model.plan.streams
            return await answer(model, prompt), await logits(model, prompt), model.plan.minimum_bytes, model.plan.total_bytes

    return File(path, path.read_bytes(), prompt, context, *asyncio.run(undisturbed()))


@pytest.fixture(autouse=True)
def _small(_no_user_cache, monkeypatch):
    """Pieces small enough that a token takes tens of reads; nothing kept of a remote file; little patience; no proxy."""
    monkeypatch.setattr(fit, "LEAST_CHUNK", 64 * KIB)
    monkeypatch.setattr(fetcher, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(http_rules, "HttpLimits", lambda **_: FAST)  # open_remote() makes its own
    cache_in(monkeypatch, None)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def cache_in(patch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Where copies of remote files are kept. None: below a file, where no folder can be made, so that every pass reads anew."""
    patch.setattr(remote, "default_cache", lambda: folder or Path(__file__) / "cache")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "dense": make(folder, DENSE),
        "experts": make(folder, EXPERTS, experts=4),
        "other": make(folder, DENSE, seed=1),
        "long": make(folder, LONG),
        "tied": make(folder, TIED, experts=4, tied=True),
    }


@pytest.fixture
def file(files):
    return files["dense"]


@pytest.fixture
def server(file):
    with RangeServer(file.data) as server:
        yield server


def run(scene, seconds=20):
    """Bounded, so that a hang fails. Afterwards no task, thread or file is left, and asyncio has nothing to complain about."""
    complaints = []

    async def bounded():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with asyncio.timeout(seconds):
            result = await scene
        gc.collect(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    before = set(threading.enumerate())
    result = asyncio.run(bounded())
    assert not complaints
    deadline = time.monotonic() + 5
    while (left := [t for t in ours() if t not in before]) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not left
    assert not [f.path for f in psutil.Process().open_files() if f.path.endswith((".gguf", ".part", ".lock"))]
    return result


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("wasmrt-")]


@contextlib.asynccontextmanager
async def opened(file, ref, share=0.3, **options):
    async with await wasmrt.open(ref, context=file.context, device="cpu", memory=file.budget(share), **options) as model:
        assert model.plan.streams
        assert bool(model.plan.kept_rows) == (len(file.prompt) > engine.CHUNK)
        yield model


async def answer(model, prompt):
    """Drawn at a high temperature, so that other logits soon give other ids."""
    generation = model.generate(prompt, max_tokens=N_TOKENS, temperature=2.0, seed=3)
    try:
        async for _ in generation:
            pass
    finally:
        model.last_ids = list(generation.tokens)  # also of one that failed
    return generation.tokens


async def logits(model, prompt):
    return bytes(await model.logits(prompt))


async def right_or_error(model, file):
    """None, or the typed error that came instead. What was given before it is right, too."""
    error = None
    try:
        await answer(model, file.prompt)
    except (SourceError, BudgetError, DeviceError) as caught:
        error = caught
    assert model.last_ids == (file.ids[: len(model.last_ids)] if error else file.ids)
    assert "\n" not in str(error)
    if isinstance(error, SourceError):
        assert model.name in str(error)
        assert any(move in str(error) for move in ("again", "check ", "download ", "token")), error
    return error


async def assert_right(model, file):
    """With what the cache holds of the prompt, and without."""
    assert await answer(model, file.prompt) == file.ids
    assert await logits(model, file.prompt) == file.logits


# Servers


def span(request):
    """The first and the last byte that it asks for."""
    return map(int, request.headers["range"].removeprefix("bytes=").split("-"))


def elsewhere(file, shift):
    """A whole answer that says to be `shift` bytes further on."""

    def fault(request):
        first, last = span(request)
        return Fault(headers={"Content-Range": f"bytes {first + shift}-{last + shift}/{len(file.data)}"})

    return fault


FAULTS = {
    "cut": Fault(cut=10_000),
    "reset": Fault(cut=30_000, reset=True),
    "no answer": Fault(no_answer=True),
    "hang": Fault(hang=20_000),
    "silent": Fault(silent=True),
    "shifted": 100,
    "no range": Fault(headers={"Content-Range": None}),
    "short": Fault(resize=-1),
    "long": Fault(resize=1),
    "short, unannounced": Fault(resize=-700, headers={"Content-Length": None}),
    "long, unannounced": Fault(resize=700, chunked=True),
    "gzip": Fault(headers={"Content-Encoding": "gzip"}),
    "whole": Fault(whole=True),
    "busy": Fault(status=429, headers={"Retry-After": "0"}),
    "down": Fault(status=503, headers={"Retry-After": "3"}),
    "forbidden": Fault(status=403),
    "no tag": Fault(headers={"ETag": None}),
}


STAYING = ["cut", "hang", "shifted", "long", "gzip", "whole", "forbidden"]


def faults_of(file, name):
    """The fault as a function of a request."""
    fault = FAULTS[name]
    return elsewhere(file, fault) if isinstance(fault, int) else lambda _: fault


@pytest.mark.parametrize("name", FAULTS)
def test_a_passing_fault_is_not_seen(file, server, name, monkeypatch):
    """Every twentieth answer goes wrong: the ids are right all the same."""
    monkeypatch.setattr(http_rules, "HttpLimits", lambda **_: replace(FAST, read_seconds=0.15))
    fault = faults_of(file, name)

    async def scene():
        async with opened(file, server.url) as model:
            numbers = count(1)
            server.faults = lambda request: fault(request) if next(numbers) % 20 == 0 else None
            await assert_right(model, file)
            assert next(numbers) > 60
            assert model.stats.store["stalls"] > 0

    run(scene())


@pytest.mark.parametrize("name", STAYING)
def test_a_fault_that_stays_is_an_error_until_it_goes(file, server, name, monkeypatch):
    """From one request on, in the middle of a pass, nothing else comes; later all is well again."""
    fault = faults_of(file, name)
    monkeypatch.setattr(http_rules, "HttpLimits", lambda **_: replace(FAST, read_seconds=0.05, attempts=2))

    async def scene():
        async with opened(file, server.url) as model:
            numbers = count()
            server.faults = lambda request: fault(request) if next(numbers) >= 50 else None
            started = time.perf_counter()
            assert isinstance(await right_or_error(model, file), SourceError)
            assert isinstance(await right_or_error(model, file), SourceError)
            assert time.perf_counter() - started < 10
            server.faults = deque()
            await assert_right(model, file)

    run(scene())


def fault_scripts(n_bytes):
    """What happens to answers in turn: None is a good one."""
    k = st.one_of(st.sampled_from([0, 1]), st.integers(2, 70_000))
    fault = st.one_of(
        st.builds(Fault, cut=k, reset=st.booleans(), chunked=st.booleans()),
        st.builds(Fault, resize=k.map(lambda k: k + 1), chunked=st.booleans()),
        st.builds(Fault, resize=k.map(lambda k: -k - 1)),
        st.builds(Fault, headers=k.map(lambda k: {"Content-Range": f"bytes {k}-{k + 65535}/{n_bytes}"})),
        st.builds(Fault, hang=k),
        st.builds(Fault, status=st.sampled_from([403, 404, 416, 429, 500, 503])),
        st.builds(Fault, headers=st.sampled_from([{"ETag": '"another"'}, {"ETag": None}, {"Content-Encoding": "gzip"}])),
        st.sampled_from([Fault(whole=True), Fault(no_answer=True), Fault(silent=True), Fault(delay=0.02)]),
    )
    good = st.integers(0, 20).map(lambda n: [None] * n)
    return st.lists(st.one_of(good, st.lists(fault, min_size=1, max_size=6)), min_size=1, max_size=8).map(
        lambda runs: [fault for run in runs for fault in run]
    )


@pytest.mark.parametrize(
    ("name", "kept"), [("dense", False), ("dense", True), ("experts", False), ("experts", True), ("long", False)]
)
def test_right_ids_or_an_error_whatever_the_server_does(files, name, kept, tmp_path):
    file = files[name]

    @settings(max_examples=3 if name == "long" else 4)
    @given(script=fault_scripts(len(file.data)), share=st.sampled_from([0.0, 0.3, 0.7] if name != "long" else [0.7]))
    def check(script, share):
        async def scene():
            async with opened(file, server.url, share) as model:
                server.faults = deque(script)
                for _ in range(2):
                    await right_or_error(model, file)
                server.faults = deque()
                await assert_right(model, file)

        with RangeServer(file.data) as server, pytest.MonkeyPatch.context() as patch:
            patch.setattr(http_rules, "HttpLimits", lambda **_: replace(FAST, read_seconds=0.1))
            folder = tmp_path / "cache"
            shutil.rmtree(folder, ignore_errors=True)
            cache_in(patch, folder if kept else None)
            run(scene())

    check()


@pytest.mark.parametrize("size", ["same size", "another size"])
@pytest.mark.parametrize("tags", [True, False], ids=["ETag", "Last-Modified"])
def test_a_file_that_is_replaced_stays_an_error(file, files, server, size, tags):
    """No id is computed with the weights of two files, then and later."""
    server.etag = tags
    new = files["other"].data + bytes(64 if size == "another size" else 0)

    async def scene():
        async with opened(file, server.url) as model:
            numbers = count()
            server.faults = lambda request: server.put(new) if next(numbers) == 60 else None
            for _ in range(3):
                error = await right_or_error(model, file)
                assert isinstance(error, SourceError)
                assert "changed while it was in use" in str(error)
                assert not error.transient
                model.last_ids.clear()
        server.faults = deque()
        async with opened(files["other"], server.url) as model:  # opened again, it is that one
            await assert_right(model, files["other"])

    run(scene())


def test_what_is_kept_on_disk_outlives_a_file_that_is_replaced(file, files, server, tmp_path, monkeypatch):
    """All of the old file is here after a pass, so that it goes on; a copy that has only part of it says that it changed."""
    cache_in(monkeypatch, tmp_path)

    async def scene():
        async with opened(file, server.url) as model:
            await assert_right(model, file)
            asked = len(server.requests)
            server.put(files["other"].data)
            await assert_right(model, file)
            assert len(server.requests) == asked
        async with opened(files["other"], server.url) as model:
            numbers = count()
            server.faults = lambda request: server.put(file.data) if next(numbers) == 10 else None
            assert "changed" in str(await right_or_error(model, files["other"]))

    run(scene())


def test_a_slow_link_is_waited_for(file, server):
    async def scene():
        async with opened(file, server.url) as model:
            server.bytes_per_second = 5 * model.plan.streamed_bytes  # a fifth of a second a token
            assert await answer(model, file.prompt) == file.ids
            return model.stats.store

    store = run(scene())
    assert store["stalled_seconds"] > 0.3
    assert store["retries"] == 0


def test_a_server_that_starts_again_in_the_middle(file, server):
    async def scene():
        loop, reached, numbers = asyncio.get_running_loop(), asyncio.Event(), count()

        def notice(request):
            if next(numbers) == 50:
                loop.call_soon_threadsafe(reached.set)

        async with opened(file, server.url) as model:
            server.faults = notice
            task = asyncio.create_task(right_or_error(model, file))
            await reached.wait()
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.05)
            server.start()
            assert (error := await task) is None or error.transient
            await assert_right(model, file)

    run(scene())


def test_signatures_that_expire_are_renewed(file):
    """Between two tokens and within a pass; the user sees nothing of it."""
    with RangeServer(file.data, signed=True) as server:

        async def scene():
            async with opened(file, server.url) as model:
                server.requests.clear()
                numbers = count(1)
                server.faults = lambda request: server.expire_signatures() if next(numbers) % 40 == 0 else None
                await assert_right(model, file)

        run(scene())
        renewed = sum(request.status == 302 for request in server.requests)
        assert 2 <= renewed <= len(server.requests) // 20


def test_two_models_stream_at_once(files):
    """From one server, one of them with faults: each has its own ids."""
    dense, experts = files["dense"], files["experts"]
    with RangeServer({"/dense.gguf": dense.data, "/experts.gguf": experts.data}) as server:

        async def scene():
            async with (
                opened(dense, server.url_of("/dense.gguf")) as first,
                opened(experts, server.url_of("/experts.gguf")) as second,
            ):
                pick = random.Random(5)
                cut = Fault(cut=5000, reset=True)
                server.faults = lambda request: cut if "experts" in request.path and pick.random() < 0.1 else None
                for _ in range(2):
                    got = await asyncio.gather(answer(first, PROMPT), answer(second, PROMPT))
                    assert got == [dense.ids, experts.ids]
                assert second.stats.store["stalls"] > 0

        run(scene())


# Disks


def passing(real, number, first, last=sys.maxsize):
    """A system call that fails from its first-th to its last-th time."""
    calls = count()

    def call(*arguments):
        if first <= next(calls) <= last:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    return call


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="needs os.pwrite")
@pytest.mark.parametrize("first", [0, 25])
def test_a_full_disk_under_the_cache(file, server, tmp_path, monkeypatch, caplog, first):
    """What is kept by then is read from there, the rest is fetched for each token."""
    cache_in(monkeypatch, tmp_path)

    async def scene():
        async with opened(file, server.url) as model:
            monkeypatch.setattr(os, "pwrite", passing(os.pwrite, errno.ENOSPC, first))
            await assert_right(model, file)
            asked = len(server.requests)
            await assert_right(model, file)
            assert len(server.requests) > asked

    run(scene())
    assert [record.message for record in caplog.records if os.strerror(errno.ENOSPC) in record.message]


def test_a_folder_that_cannot_be_written_to(file, server, caplog):
    async def scene():
        async with opened(file, server.url) as model:
            await assert_right(model, file)

    run(scene())
    assert [record.message for record in caplog.records if "is not kept in" in record.message]


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs os.preadv")
def test_a_drive_that_fails_for_a_while(file, monkeypatch):
    async def scene():
        async with opened(file, file.path) as model:
            monkeypatch.setattr(os, "preadv", passing(os.preadv, errno.EIO, 50, 99))
            errors = 0
            while error := await right_or_error(model, file):    # what nobody waited for was just read again
                assert os.strerror(errno.EIO) in str(error)
                errors += 1
            assert errors
            await assert_right(model, file)

    run(scene())


@pytest.mark.parametrize("how", ["cut short", "grown", "written to"])
def test_a_local_file_that_changes_in_place(file, tmp_path, how):
    path = shutil.copy(file.path, tmp_path / "model.gguf")
    os.utime(path, (1, 1))

    async def scene():
        async with opened(file, path) as model:
            generation = model.generate(PROMPT, max_tokens=20, temperature=2.0, seed=3)
            assert await anext(generation) == f"{file.ids[0]} "
            if how == "written to":
                with path.open("r+b") as other:
                    other.seek(len(file.data) // 2)
                    other.write(bytes(len(file.data) // 4))
            else:
                os.truncate(path, len(file.data) // 2 if how == "cut short" else len(file.data) + 1)
                os.utime(path, (1, 1))                           # as if it had not been touched
            with pytest.raises(SourceError, match=r"changed while it was in use.*open it again") as caught:
                [_ async for _ in generation]
            assert not caught.value.transient
            assert generation.tokens == file.ids[:1]
            assert isinstance(await right_or_error(model, file), SourceError)

    run(scene())


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is open")
@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_local_file_that_is_renamed_over(file, files, tmp_path, how):
    """The one that was opened goes on."""
    path = shutil.copy(file.path, tmp_path / "model.gguf")

    async def scene():
        async with opened(file, path) as model:
            generation = model.generate(PROMPT, max_tokens=N_TOKENS, temperature=2.0, seed=3)
            await anext(generation)
            if how == "replaced":
                os.replace(shutil.copy(files["other"].path, tmp_path / "new.gguf"), path)
            else:
                path.unlink()
            [_ async for _ in generation]
            assert generation.tokens == file.ids
            await assert_right(model, file)

    run(scene())


# A smaller budget


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("dense", [1.0, 0.7, 0.5, 0.4]), ("dense", [0.8, 0.6, 0.5, 0.1]), ("experts", [0.8, 0.6, 0.5, 0.1]),
        # Experts in memory stay there, since they would need a cache of their own; so does an embedding that is also the head.
        ("experts", [1.0, 0.97, 0.94, 0.9]), ("tied", [1.0, 0.995, 0.985, 0.98]),
    ],
)  # fmt: skip
def test_a_budget_is_lowered_between_tokens(files, name, shares):
    """Step by step, each time within it; the text that is under way goes on as if nothing had been."""
    file = files[name]

    async def scene():
        async with await wasmrt.open(file.path, context=64, device="cpu", memory=file.budget(shares[0])) as model:
            assert model.plan.streams == (shares[0] < 1)
            generation = model.generate(PROMPT, max_tokens=N_TOKENS, temperature=2.0, seed=3)
            for share in shares[1:]:
                await anext(generation)
                await model.lower_memory(file.budget(share))
                assert model.plan.total_bytes <= model.plan.budget == file.budget(share)
                assert model.plan.streams
            assert generation.tokens == file.ids
            await assert_right(model, file)

    run(scene())


@pytest.mark.parametrize(("name", "share"), [("dense", 0.5), ("dense", 1), ("experts", 1), ("tied", 1)])
def test_a_budget_that_is_too_small_or_no_smaller_changes_nothing(files, name, share):
    file = files[name]

    async def scene():
        async with await wasmrt.open(file.path, context=64, device="cpu", memory=file.budget(share)) as model:
            before = model.plan
            assert await answer(model, file.prompt) == file.ids
            with pytest.raises(BudgetError, match=r"too small.*needs [0-9.]+ MiB") as caught:
                await model.lower_memory(1000)
            assert "\n" not in str(caught.value)
            with pytest.raises(ValueError, match="can only be lowered"):
                await model.lower_memory(before.budget + 1)
            assert model.plan == before
            await assert_right(model, file)
            await model.lower_memory(before.budget)
            assert model.plan.resident_bytes == before.resident_bytes
            assert model.plan.streams == before.streams

    run(scene())


def test_a_budget_is_lowered_while_others_generate(file, server):
    """It takes its turn between two passes; under faults, too."""

    async def scene():
        async with opened(file, server.url, 0.9) as model:
            server.faults = deque(([None] * 9 + [Fault(cut=9000)]) * 30)
            tasks = [asyncio.create_task(answer(model, file.prompt)) for _ in range(2)]
            for share in (0.6, 0.2):
                await asyncio.sleep(0.15)
                await model.lower_memory(file.budget(share))
                assert model.plan.total_bytes <= file.budget(share)
            assert await asyncio.gather(*tasks) == [file.ids, file.ids]
            await assert_right(model, file)

    run(scene())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process keeps its pages until others need them")
def test_a_lower_budget_gives_memory_back(tmp_path):
    file = make(tmp_path, LARGE)

    async def scene():
        async with await wasmrt.open(file.path, context=64, device="cpu", memory="1GiB") as model:
            assert await answer(model, file.prompt) == file.ids
            before, was = psutil.Process().memory_info().rss, model.plan.total_bytes
            await model.lower_memory(file.budget(0.2))
            given_up = was - model.plan.total_bytes
            assert given_up > 20e6
            assert before - psutil.Process().memory_info().rss > 0.8 * given_up
            await assert_right(model, file)
            assert before - psutil.Process().memory_info().rss > 0.6 * given_up

    run(scene())


# Being cancelled, and closing


async def duration(model, file):
    started = time.perf_counter()
    await answer(model, file.prompt)
    return time.perf_counter() - started


@pytest.mark.parametrize(
    ("name", "where"),
    [("dense", "disk"), ("dense", "server"), ("experts", "server"), ("long", "disk")],
)
def test_cancelling_at_any_moment(files, name, where):
    file = files[name]

    async def scene(ref):
        async with opened(file, ref, 0.7 if name == "long" else 0.3) as model:
            pick, seconds = random.Random(1), await duration(model, file)
            for turn in range(6):
                task = asyncio.create_task(answer(model, file.prompt))
                await asyncio.sleep(seconds * pick.random())
                for _ in range(1 + turn % 2):                    # an impatient user does it twice
                    task.cancel()
                    await asyncio.sleep(0)
                started = time.perf_counter()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await task == file.ids
                assert time.perf_counter() - started < 2
                assert model.last_ids == file.ids[: len(model.last_ids)]
                if turn % 3 == 2:
                    await assert_right(model, file)

    with RangeServer(file.data) as server:
        run(scene(file.path if where == "disk" else server.url))


@pytest.mark.parametrize("rows", [True, False], ids=["embedding rows", "weights"])
def test_cancelling_does_not_wait_for_a_silent_server(file, server, monkeypatch, rows):
    monkeypatch.setattr(http_rules, "HttpLimits", lambda **_: replace(FAST, read_seconds=1.0))

    async def scene():
        async with opened(file, server.url) as model:
            left = [Fault(silent=True)] * 4

            def silent(request):
                first, last = span(request)
                return left.pop() if left and (last + 1 - first == ROW_BYTES) == rows else None

            server.faults = silent
            task = asyncio.create_task(answer(model, file.prompt))
            await asyncio.sleep(0.3)
            started = time.perf_counter()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.perf_counter() - started < 0.5
            assert not left
            await assert_right(model, file)

    run(scene())


def test_an_interrupt_while_a_pass_streams(file, server):
    """Ctrl-C, through the synchronous facade, while it waits for a server that says nothing."""
    server.faults = deque([None] * 40 + [Fault(silent=True)] * 20)
    with wasmrt.load(server.url, context=64, device="cpu", memory=file.budget()) as model:
        timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
        generation = model.generate(PROMPT, max_tokens=60, temperature=2.0, seed=3)
        timer.start()
        started = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            list(generation)
        assert time.perf_counter() - started < 5
        timer.join()
        server.faults = deque()
        again = model.generate(PROMPT, max_tokens=N_TOKENS, temperature=2.0, seed=3)
        list(again)
        assert again.tokens == file.ids


@pytest.mark.parametrize(
    "trouble", [None, Fault(silent=True), Fault(hang=1000), Fault(cut=1000)], ids=["none", "silent", "hang", "cut"]
)
def test_closing_in_the_middle_of_a_pass(file, server, trouble):
    """Soon, whatever the server does; the pass ends with a typed error, and so does everything later."""
    pick = random.Random(2)

    async def scene():
        for turn in range(5):
            server.faults = deque([None] * 30 + [trouble] * 60)
            async with opened(file, server.url) as model:
                waiting = [asyncio.create_task(right_or_error(model, file)) for _ in range(2)]
                await asyncio.sleep(0.3 * pick.random() if turn else 0)
                started = time.perf_counter()
                await model.close()
                assert time.perf_counter() - started < 1
                for error in await asyncio.gather(*waiting):
                    assert error is None or isinstance(error, DeviceError | SourceError)
                assert time.perf_counter() - started < 2
                with pytest.raises(DeviceError, match="was closed; open it again"):
                    await answer(model, file.prompt)

    run(scene(), 40)


@pytest.mark.parametrize("name", ["dense", "experts"])
@pytest.mark.parametrize("begun", [False, True], ids=["before its kernels", "in its kernels"])
def test_closing_while_any_part_runs(files, name, begun, monkeypatch):
    """The budget is one that has experts of an op computed in two turns."""
    file = files[name]

    def closing(model, number):
        run_part, numbers = model.device.run, count()

        async def run_and_close(*arguments, **options):
            running = asyncio.ensure_future(run_part(*arguments, **options))
            if next(numbers) == number:
                if begun:
                    await asyncio.sleep(0)
                await model.close()
            return await running

        return run_and_close

    async def scene():
        for number in range(0, 60, 4):
            async with opened(file, file.path, 0.27) as model:
                monkeypatch.setattr(model.device, "run", closing(model, number))
                error = await right_or_error(model, file)
                assert error if number < 20 else True            # how many parts there are follows from how fast reads are

    run(scene(), 40)


# What never should happen


@pytest.mark.parametrize("name", ["dense", "experts"])
@pytest.mark.parametrize("moment", [0, 5, 50])
def test_a_reader_that_dies_takes_nothing_with_it(files, name, moment, monkeypatch):
    """An error that nobody foresaw, once, of the moment-th read: it is done again."""
    file = files[name]

    async def scene():
        async with opened(file, file.path) as model:
            read_into, numbers = model._source.read_into, count()

            async def dying(offset, view):
                if next(numbers) == moment:
                    view.cast("B")[:] = bytes(len(view))         # half done
                    raise RuntimeError("nobody foresaw this")
                await read_into(offset, view)

            monkeypatch.setattr(model._source, "read_into", dying)
            await assert_right(model, file)
            assert next(numbers) > moment

    run(scene())


def test_a_read_that_is_cancelled_is_done_again(file, server):
    async def scene():
        async with opened(file, server.url) as model:
            running, cancelled = model._store._frames.fetcher._running, set()
            task = asyncio.create_task(answer(model, file.prompt))
            while not task.done():
                await asyncio.sleep(0.02)
                if victims := [task for task, read in running.items() if read.offset not in cancelled]:
                    cancelled.add(running[victims[-1]].offset)   # each once: twice in a row would be an error
                    victims[-1].cancel()
            assert task.result() == file.ids
            assert len(cancelled) > 3
            await assert_right(model, file)

    run(scene())

"""The worker's Python side, without a page: its messages, in the order in which a page would see them."""

import asyncio
import contextvars
import json
import logging
from array import array

import pytest

import wasmrt
from tests.gguf_files import write_llama
from tests.range_server import RangeServer
from wasmrt import page as page_module
from wasmrt import speed
from wasmrt.engine import Model
from wasmrt.model.config import ModelConfig
from wasmrt.page import Page
from wasmrt.resources import demo_model

pytestmark = pytest.mark.usefixtures("cpu")
PROMPT = "Once upon a time"


class Other:
    """The page's end: sends requests, keeps what comes back by request."""

    def __init__(self, takes=True):
        self.page = Page(self.post)
        self.heard = {}
        self.notes = []
        self.takes = takes  # pieces at once
        self.changed = asyncio.Event()
        self.last = 0

    def post(self, text, numbers):
        message = json.loads(text)
        if numbers is not None:
            message["numbers"] = array("f", numbers.cast("B").cast("f"))
        self.heard.setdefault(message.get("id"), []).append(message)
        self.changed.set()
        if "pieces" in message and self.takes:
            asyncio.get_running_loop().call_soon(self.page.handle, json.dumps({"taken": message["id"]}))

    def send(self, **request):
        self.last += 1
        self.page.handle(json.dumps({"id": self.last, **request}))
        return self.last

    async def wait(self, number, *kinds):
        """The first message of a request that has one of these."""
        while True:
            for message in self.heard.get(number, []):
                if any(kind in message for kind in kinds):
                    return message
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 60)

    async def ask(self, **request):
        message = await self.wait(self.send(**request), "done", "error")
        return message["error"] if "error" in message else message["done"]

    async def open(self, **options):
        number = self.send(do="open", ref=str(demo_model()), options={"device": "cpu", **options})
        assert "done" in await self.wait(number, "done", "error"), self.heard
        return number

    def pieces(self, number):
        return [piece for message in self.heard[number] for piece in message.get("pieces", [])]

    def tokens(self, number):
        lists = [m["tokens"] if "tokens" in m else m.get("done", {}).get("tokens", []) for m in self.heard[number]]
        return [token for tokens in lists for token in tokens]


def converse(test, **options):
    async def run():
        other = Other(**options)
        try:
            await test(other)
        finally:
            await other.page.close()

    asyncio.run(run())


def test_a_text_is_that_of_the_model():
    with wasmrt.load(device="cpu") as model:
        expected = model.generate(PROMPT, max_tokens=40)
        text = "".join(expected)
        config, ids = model.config.as_dict(), model.tokenize(PROMPT, add_bos=True)
        logits = model.logits(ids)

    async def test(other):
        number = await other.open()
        opened = (await other.wait(number, "done"))["done"]
        assert opened["config"] == json.loads(json.dumps(config))
        assert opened["plan"]["context"] > 0
        one = other.send(do="generate", model=number, prompt=PROMPT, options={"max_tokens": 40})
        done = (await other.wait(one, "done"))["done"]
        assert "".join(other.pieces(one)) == text
        assert other.tokens(one) == expected.tokens
        assert done["stats"]["finish"] == "length"
        assert await other.ask(do="tokenize", model=number, text=PROMPT, options={"add_bos": True}) == ids
        assert await other.ask(do="detokenize", model=number, ids=ids) == PROMPT
        numbers = await other.wait(other.send(do="logits", model=number, ids=ids), "done")
        assert numbers["done"] == {"shape": list(logits.shape)}
        assert numbers["numbers"].tobytes() == logits.tobytes()
        assert (await other.ask(do="stats", model=number))["passes"] > 0
        assert await other.ask(do="loaded", model=number) is None
        found = await other.ask(do="map", model=number)
        assert sum(segment["resident"] for segment in found["segments"]) == found["read_bytes"] > 0
        progress = [message["progress"] for message in other.heard[number] if "progress" in message]
        assert progress[-1][0] == progress[-1][1] > 0

    converse(test)


def test_pieces_are_gathered_while_the_page_is_busy():
    """Whoever does not take pieces gets one message, and the rest when it asks; the engine runs ahead by so many at most."""

    async def test(other):
        number = await other.open()
        one = other.send(do="generate", model=number, prompt=PROMPT, options={"max_tokens": 200})
        await other.wait(one, "pieces")
        await asyncio.sleep(1.0)
        assert len(other.heard[one]) == 1
        assert other.page._texts[one]._pieces[page_module.MOST_AHEAD - 1 :] != []
        assert len(other.page._texts[one]._pieces) == page_module.MOST_AHEAD
        other.takes = True
        other.page.handle(json.dumps({"taken": one}))
        done = (await other.wait(one, "done"))["done"]
        assert done["stats"]["generated_tokens"] == 200
        assert len(other.tokens(one)) == 200
        assert len(other.heard[one]) < 200  # messages

    converse(test, takes=False)


def test_stop_ends_a_text_and_cancel_breaks_it_off():
    async def test(other):
        number = await other.open()
        for how in ("stop", "cancel"):
            one = other.send(do="generate", model=number, prompt=PROMPT, options={"max_tokens": None})
            await other.wait(one, "pieces")
            other.page.handle(json.dumps({how: one}))
            end = await other.wait(one, "done", "error")
            if how == "stop":
                assert end["done"]["stats"]["finish"] == "closed"
            else:
                assert end["error"]["kind"] == "AbortError"
        again = await other.ask(do="generate", model=number, prompt=PROMPT, options={"max_tokens": 3})
        assert again["stats"]["generated_tokens"] == 3

    converse(test)


def test_a_stop_reaches_who_waits_for_the_page():
    async def test(other):
        number = await other.open()
        one = other.send(do="generate", model=number, prompt=PROMPT, options={"max_tokens": None})
        await other.wait(one, "pieces")
        await asyncio.sleep(0.5)  # now it waits
        other.page.handle(json.dumps({"stop": one}))
        assert (await other.wait(one, "done"))["done"]["stats"]["finish"] == "closed"

    converse(test, takes=False)


def test_a_load_can_be_cancelled():
    async def test(other):
        one = other.send(do="open", ref=str(demo_model()), options={"device": "cpu"})
        other.page.handle(json.dumps({"cancel": one}))
        assert (await other.wait(one, "done", "error"))["error"]["kind"] == "AbortError"
        assert other.page._models == {}

    converse(test)


def test_closing_a_model_ends_what_it_does():
    async def test(other):
        number, second = await other.open(), await other.open()
        one = other.send(do="generate", model=number, prompt=PROMPT, options={"max_tokens": None})
        await other.wait(one, "pieces")
        assert await other.ask(do="close", model=number) is None
        assert (await other.wait(one, "done", "error"))["error"]["kind"] == "AbortError"
        assert await other.ask(do="close", model=number) is None
        assert (await other.ask(do="stats", model=number))["kind"] == "DeviceError"
        assert "stats" in await other.ask(do="generate", model=second, prompt=PROMPT, options={"max_tokens": 2})
        assert list(other.page._models) == [second]

    converse(test)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"do": "open", "ref": "/no/such/file.gguf"}, "SourceError"),
        ({"do": "open", "ref": "x", "options": {"speed": 9}}, "TypeError"),
        ({"do": "open", "ref": "x", "options": {"memory": "much"}}, "ValueError"),
        ({"do": "generate", "prompt": "x" * 100_000}, "ContextFull"),
        ({"do": "generate", "prompt": "x", "options": {"temperature": -1}}, "ValueError"),
        ({"do": "detokenize", "ids": [10**9]}, "ValueError"),
        ({"do": "dance"}, "ValueError"),
    ],
)
def test_errors_have_their_kind(request_, kind):
    async def test(other):
        extra = {} if request_["do"] == "open" else {"model": await other.open()}
        error = await other.ask(**request_, **extra)
        assert error["kind"] == kind
        assert error["message"]
        assert "trace" not in error

    converse(test)


def test_an_error_of_ours_tells_where():
    async def test(other):
        error = await other.ask(do="stats")  # of no model
        assert error["kind"] == "KeyError"
        assert "_do" in error["trace"]

    converse(test)


def test_notes_come_with_the_request_that_they_are_about():
    async def test(other):
        logging.getLogger("wasmrt").warning("to all")
        number = other.send(do="open", ref=str(demo_model()), options={"device": "cpu", "gpu_memory": "1GiB"})
        note = await other.wait(number, "note")
        assert "gpu" in note["note"].lower()
        assert other.heard[None][0] == {"note": "to all"}

    converse(test)


def test_a_text_can_be_stopped_before_it_has_begun():
    """Its request and the stop come in one go, as after a long computation."""

    async def test(other):
        number = await other.open()
        text = other.send(do="generate", model=number, prompt=PROMPT, options={"max_tokens": None})
        other.page.handle(json.dumps({"stop": text}))
        done = (await asyncio.wait_for(other.wait(text, "done", "error"), 20))["done"]
        assert done["stats"]["finish"] == "closed"
        assert other.tokens(text) == []

    converse(test, takes=False)


@pytest.mark.parametrize("of", ["open", "stats"])
def test_an_answer_that_is_no_json_is_an_error(monkeypatch, of):
    """Infinity is none, which Python's json would write. A model that cannot be described does not stay."""
    closed = []

    async def close(model):
        closed.append(model)
        await closing(model)

    closing = Model.close

    class Stats:
        def as_dict(self):
            return {"seconds": float("inf")}

    async def test(other):
        monkeypatch.setattr(Model, "close", close)
        if of == "stats":
            number = await other.open()
            monkeypatch.setattr(Model, "stats", Stats())
            told = await other.ask(do="stats", model=number)
        else:
            monkeypatch.setattr(ModelConfig, "as_dict", lambda config: {"rms_eps": float("nan")})
            told = await other.ask(do="open", ref=str(demo_model()), options={"device": "cpu"})
            await asyncio.sleep(0.1)
        assert told["kind"] == "ValueError"
        assert len(closed) == (of == "open")

    converse(test)


# Before a model is opened


@pytest.fixture
def opens(monkeypatch):
    """Sources that were opened, by their names, and those that were closed."""
    seen = {"opened": [], "closed": []}
    opening = page_module.open_model

    async def open_counted(ref, cache=True):
        source, header = await opening(ref, cache)
        seen["opened"].append(source.name)
        closing = source.close

        async def close():
            seen["closed"].append(source.name)
            await closing()

        source.close = close
        return source, header

    monkeypatch.setattr(page_module, "open_model", open_counted)
    return seen


def test_examining_reads_a_header_once_and_open_goes_on_from_there(opens, monkeypatch):
    """Other options are planned for with what is known, also of what the kernels take."""
    measured = []
    computing_rate = speed.computing_rate

    async def counted(*args):
        measured.append(args)
        return await computing_rate(*args)

    monkeypatch.setattr(speed, "computing_rate", counted)

    async def test(other):
        ref = str(demo_model())
        for memory in (None, "9MiB", "1MiB"):
            found = await other.ask(do="examine", ref=ref, options={"device": "cpu", "threads": 1, "memory": memory})
            assert found["runs"] == (memory != "1MiB")
        assert (opens["opened"], opens["closed"], len(measured)) == ([ref], [], 1)
        assert (found["kind"], found["needs"], found["plan"], found["predicted"]) == ("BudgetError", "memory", None, None)
        enough = await other.ask(do="examine", ref=ref, options={"device": "cpu", "memory": found["needs_bytes"]})
        assert enough["runs"]
        less = await other.ask(do="examine", ref=ref, options={"device": "cpu", "memory": found["needs_bytes"] - 1})
        assert less["needs_bytes"] == found["needs_bytes"]
        number = await other.open()
        assert (opens["opened"], opens["closed"]) == ([ref], [])
        again = await other.ask(do="examine", ref=ref, options={"device": "cpu"})  # the open model's own file
        assert again["runs"]
        assert opens["opened"] == [ref]
        await other.ask(do="close", model=number)
        assert opens["closed"] == [ref]

    converse(test)


def test_what_was_examined_is_closed(opens, monkeypatch, tmp_path):
    """When another is, when it is forgotten, after a while, when it is opened in another way, and at the end."""
    ref, second = str(demo_model()), write_llama(tmp_path / "second.gguf")

    async def test(other):
        await other.ask(do="examine", ref=ref, options={"device": "cpu"})
        await other.ask(do="examine", ref=str(second), options={"device": "cpu"})
        assert opens["closed"] == [ref]
        assert await other.ask(do="forget") is None
        assert opens["closed"] == [ref, str(second)]
        assert await other.ask(do="forget") is None
        monkeypatch.setattr(page_module, "EXAMINED_SECONDS", 0.05)
        await other.ask(do="examine", ref=ref, options={"device": "cpu"})
        await asyncio.sleep(0.5)
        assert opens["closed"] == [ref, str(second), ref]
        monkeypatch.setattr(page_module, "EXAMINED_SECONDS", 60.0)
        await other.ask(do="examine", ref=ref, options={"device": "cpu", "cache": False})
        await other.open()
        assert opens["closed"] == [ref, str(second), ref, ref]
        await other.ask(do="examine", ref=str(second), options={"device": "cpu"})

    converse(test)
    assert opens["closed"][-1] == str(second)


def test_what_a_file_has_to_say_is_told_to_the_last_who_asked_for_it(monkeypatch):
    """Also where another request had opened it: a disk may be full after the last read."""
    contexts = []
    opening = page_module.open_model

    async def open_seen(*args):
        contexts.append(contextvars.copy_context())
        return await opening(*args)

    monkeypatch.setattr(page_module, "open_model", open_seen)

    async def test(other):
        ref = str(demo_model())

        def asker():
            contexts[-1].run(logging.getLogger("wasmrt").warning, "full")
            return next(number for number, heard in other.heard.items() if heard[-1].pop("note", None))

        for _ in range(2):
            await other.ask(do="examine", ref=ref, options={"device": "cpu"})
            assert asker() == other.last
        number = await other.open()
        assert (asker(), len(contexts)) == (number, 1)
        await other.ask(do="close", model=number)
        await other.ask(do="examine", ref=ref, options={"device": "cpu"})
        await other.ask(do="forget")
        assert not other.page._heirs

    converse(test)


@pytest.mark.parametrize("options", [{"device": "plum"}, {"memory": "plum"}, {"plum": 1}, {"device": "cpu", "memory": 1}])
def test_what_was_examined_is_closed_if_it_cannot_be_opened(opens, options):
    """Whatever speaks against it, and however early: an open file could not be deleted, nor be had by another tab."""
    ref = str(demo_model())

    async def test(other):
        await other.ask(do="examine", ref=ref, options={"device": "cpu"})
        assert "kind" in await other.ask(do="open", ref=ref, options=options)
        assert set(opens["closed"]) == {ref}

    converse(test)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"architecture": "plum"}, "UnsupportedError"),
        ({"changes": {"block_count": 100}}, "FormatError"),
        ({}, "DeviceError"),
    ],
)
def test_what_cannot_run_is_said_and_not_thrown(tmp_path, change, kind):
    options = {"device": "cpu"} if change else {"device": "tpu"}

    async def test(other):
        ref = str(write_llama(tmp_path / "m.gguf", **change))
        found = await other.ask(do="examine", ref=ref, options=options)
        assert (found["runs"], found["kind"], found["plan"], found["predicted"]) == (False, kind, None, None)
        assert found["why_not"]
        assert found["n_parameters"] > 0
        assert (len(found["segments"]) > 0) == (kind == "DeviceError")

    converse(test)


@pytest.mark.parametrize(
    ("ref", "options", "kind"),
    [
        ("/no/such/file.gguf", {}, "SourceError"),
        (__file__, {}, "FormatError"),
        (str(demo_model()), {"memory": "much"}, "ValueError"),
        (str(demo_model()), {"speed": 9}, "TypeError"),
    ],
)
def test_what_cannot_be_examined_is_an_error(ref, options, kind):
    async def test(other):
        assert (await other.ask(do="examine", ref=ref, options=options))["kind"] == kind

    converse(test)


@pytest.mark.parametrize("cache", [False, True])
def test_a_download_is_foretold(tmp_path, monkeypatch, cache):
    """From the header and a moment's try: at a rate that is the server's, of the bytes that are not here yet."""
    monkeypatch.setattr("wasmrt.store.remote.default_cache", lambda: tmp_path / "cache")
    size = demo_model().stat().st_size

    async def test(other):
        with RangeServer(demo_model()) as server:
            server.bytes_per_second = 400_000
            found = await other.ask(do="examine", ref=server.url, options={"device": "cpu", "cache": cache})
            download, sent = found["download"], sum(request.sent for request in server.requests)
            assert sent < size / 4
            assert 200_000 < download["rate"] < 600_000  # seen: 330,000 to 410,000, of whole pieces in 0.4 s
            assert download["bytes"] + download["cached_bytes"] == size
            assert (download["cached_bytes"] > 0) == cache
            assert download["seconds"] == pytest.approx(download["bytes"] / download["rate"])
            before = len(server.requests)
            small = await other.ask(do="examine", ref=server.url, options={"device": "cpu", "cache": cache, "context": 64})
            assert small["download"]["rate"] == download["rate"]
            assert len(server.requests) == before
            server.bytes_per_second = None
            number = other.send(do="open", ref=server.url, options={"device": "cpu", "cache": cache})
            await other.wait(number, "done")
            await other.ask(do="loaded", model=number)
            later = await other.ask(do="examine", ref=server.url, options={"device": "cpu", "cache": cache})
            assert (later["download"]["bytes"] < size / 100) == cache

    converse(test)


def test_an_examination_can_be_cancelled():
    async def test(other):
        with RangeServer(demo_model()) as server:
            server.bytes_per_second = 1000
            one = other.send(do="examine", ref=server.url, options={"device": "cpu", "cache": False})
            await asyncio.sleep(0.3)
            other.page.handle(json.dumps({"cancel": one}))
            assert (await other.wait(one, "done", "error"))["error"]["kind"] == "AbortError"
        found = await other.ask(do="examine", ref=str(demo_model()), options={"device": "cpu"})
        assert found["runs"]

    converse(test)

"""BrowserSource as Python: what it asks of JavaScript, and what becomes of answers, errors and cancellation.

tests/browser/test_source.py has the real thing; here JavaScript's side is a few classes that do what they are told.
"""

import asyncio
import json
import sys
from contextvars import ContextVar
from types import ModuleType, SimpleNamespace

import pytest

from wasmrt import browser
from wasmrt.errors import SourceError, UnsupportedError
from wasmrt.store import browser_source, hub
from wasmrt.store.browser_source import BrowserSource, list_files, open_browser, url_of_ref
from wasmrt.store.memory import Place
from wasmrt.store.source import Source, Turn

DATA = bytes(range(256)) * 4


class Thrown(Exception):
    """An Error of JavaScript, as Pyodide shows it."""

    def __init__(self, message, kind="SourceError", transient=False):
        super().__init__(f"Error: {message}")
        self.message, self.kind, self.transient = message, kind, transient


class Bytes(bytes):
    def assign_to(self, view):
        view[:] = self


class Memory:
    """A store's memory, and its JavaScript object at once."""

    def __init__(self):
        self.data = bytearray(4096)
        self.js = self


class FakeSource:
    """web/source.js: reads end when the test says so, or at once."""

    name, size, exposed, ranges = "http://x/a.gguf", len(DATA), True, True
    etag = '"1"'

    def __init__(self, ref=None, options=None, url=None):
        self.ref, self.options, self.url = ref, options or {}, url
        self.cache = SimpleNamespace(state="on", why="")
        self.lastModified = None
        self.reads, self.cancelled, self.hurried, self.closed = {}, [], [], 0
        self.at_once = True
        self.error = None

    def start(self, offset, n, memory, address, demand):
        done = asyncio.get_running_loop().create_future()
        given = {"offset": offset, "n": n, "memory": memory, "address": address, "demand": demand}
        read = SimpleNamespace(id=len(self.reads) + 1, done=done, **given)
        self.reads[read.id] = read
        if self.at_once:
            self.finish(read)
        return read

    def finish(self, read):
        part = DATA[read.offset : read.offset + read.n]
        if self.error:
            read.done.set_exception(self.error)
        elif read.memory is None:
            read.done.set_result(Bytes(part))
        else:
            read.memory.data[read.address : read.address + read.n] = part
            read.done.set_result(None)

    def hurry(self, read_id):
        self.hurried.append(read_id)

    def cancel(self, read_id):
        self.cancelled.append(read_id)

    async def stats(self):
        return SimpleNamespace(to_py=lambda: {"network": 5})

    async def close(self):
        self.closed += 1


class Proxy:
    """What JavaScript may call until it is destroyed."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *given):
        self.function(*given)

    def destroy(self):
        self.function = None


@pytest.fixture
def page(monkeypatch):
    """What a page has of it: `made` are the sources that were opened, `opening` what Source.open does."""
    page = SimpleNamespace(made=[], answers=[], asked=[], kept=[], aborted=0)

    async def open_source(ref, options, url):
        page.made.append(FakeSource(ref, options, url))
        return page.made[-1]

    def abort():
        page.aborted += 1

    async def fetch(url, options):
        page.asked.append(url)
        answer = page.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def kept(url):
        if isinstance(page.kept, Exception):
            raise page.kept
        return page.kept

    async def load(*names):
        return None

    page.open = open_source
    js = SimpleNamespace(
        AbortController=SimpleNamespace(new=lambda: SimpleNamespace(signal="signal", abort=abort)),
        AbortSignal=SimpleNamespace(timeout=lambda ms: ms),
        Object=SimpleNamespace(fromEntries=dict), fetch=fetch, Blob=SimpleNamespace(new=lambda parts: ("blob", parts)),
    )
    ffi = SimpleNamespace(to_js=lambda value, **_: value, JsException=Thrown, create_proxy=Proxy)
    files = SimpleNamespace(FS=SimpleNamespace(readFile=lambda path: f"content of {path}"))
    modules = {"source": SimpleNamespace(Source=SimpleNamespace(open=lambda *given: page.open(*given))),
               "storage": SimpleNamespace(list=kept)}
    for name, module in {"js": js, "pyodide.ffi": ffi, "pyodide_js": files, "pyodide": ModuleType("pyodide")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(browser, "load", load)
    monkeypatch.setattr(browser, "module", modules.__getitem__)
    monkeypatch.setattr(browser, "script_url", lambda name: f"/{name}.js")
    return page


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 10))


def test_an_open_that_is_cancelled_too_late_is_closed(page):
    """JavaScript has opened it, and Python has not heard of that when it is cancelled."""

    async def scene():
        opened = asyncio.get_running_loop().create_future()
        page.open = lambda *given: opened
        task = asyncio.create_task(BrowserSource.open("http://x/a.gguf"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        made = FakeSource()
        opened.set_result(made)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert made.closed == 1

    run(scene())


@pytest.mark.parametrize(("facts", "told"), [
    ({}, None),
    ({"etag": None, "lastModified": "Fri, 01 Mar 2024 00:00:00 GMT"}, None),
    ({"exposed": False, "etag": None}, "Access-Control-Expose-Headers: Content-Range, ETag"),
    ({"etag": None}, "no ETag and no Last-Modified"),
    ({"ranges": False}, None),  # a small file is there at once
    ({"ranges": False, "size": 17 << 20}, "does no ranges, so all of it was fetched"),
    ({"ranges": False, "size": 17 << 20, "cache": SimpleNamespace(state="whole", why="")}, None),
])
def test_what_cannot_be_checked_is_told(page, caplog, facts, told):
    async def open_source(ref, options, url):
        made = FakeSource(ref, options, url)
        made.__dict__.update(facts)
        return made

    page.open = open_source
    run(open_browser("http://x/a.gguf?secret"))
    assert [told in record.getMessage() for record in caplog.records] == ([True] if told else [])
    assert "secret" not in caplog.text
    caplog.clear()
    run(open_browser(SimpleNamespace(arrayBuffer=None)))  # a File
    assert caplog.text == ""


def test_a_disk_that_is_full_is_told_to_who_opened_the_file(page, caplog):
    """Also after the last read: what is kept is written behind them."""
    request = ContextVar("request", default=0)
    told = []

    async def opened():
        request.set(7)
        return await BrowserSource.open("http://x/a.gguf", cache=True)

    async def scene():
        source = await asyncio.create_task(opened())
        (made,) = page.made
        caplog.handler.addFilter(lambda record: told.append(request.get()) or True)
        made.oncache(SimpleNamespace(state="whole", why=""))
        assert caplog.text == ""
        made.oncache(SimpleNamespace(state="full", why="this origin may keep no more on the disk"))
        listener = made.oncache
        await source.close()
        return made, listener

    made, listener = run(scene())
    assert "no more of 'http://x/a.gguf' is kept on this device: this origin may keep no more" in caplog.text
    assert told == [7]
    assert made.oncache is listener.function is None


def test_bytes_go_to_a_place_or_a_view(page):
    async def scene():
        source = await open_browser("http://x/a.gguf?secret")
        assert (source.name, source.size, source.exposed, source.cached) == ("http://x/a.gguf", 1024, True, "on")
        (made,) = page.made
        assert (made.ref, made.url, made.options["cache"]) == ("http://x/a.gguf?secret", "/prefetch-worker.js", True)
        memory = Memory()
        await source.read_into(10, Place(memory, 100, 50))
        assert memory.data[100:150] == DATA[10:60]
        assert not any(memory.data[:100] + memory.data[150:])
        view = memoryview(bytearray(16)).cast("I")
        await source.read_in_turn(3, view, Turn(demand=False))
        assert view.tobytes() == DATA[3:19]
        assert [read.demand for read in made.reads.values()] == [True, False]
        made.at_once = False
        turn = Turn(demand=False)
        reading = asyncio.create_task(source.read_in_turn(5, view, turn))
        await asyncio.sleep(0)
        turn.hurry()
        turn.hurry()
        assert made.hurried == [3]                       # once, of that read
        made.finish(made.reads[3])
        await reading
        assert await source.stats() == {"network": 5}

    run(scene())


def test_arguments_are_checked_before_anything_is_asked(page):
    async def scene():
        source = await open_browser("http://x/a.gguf")
        for offset, view in [(-1, bytearray(1)), (1024, bytearray(1)), (0, bytearray(1025)), (0, bytes(4))]:
            with pytest.raises(ValueError, match=r"read-only|not all in"):
                await source.read_into(offset, memoryview(view))
        assert not page.made[0].reads

    run(scene())


@pytest.mark.parametrize(("thrown", "kind", "transient"), [
    (Thrown("gone", transient=True), SourceError, True),
    (Thrown("changed"), SourceError, False),
    (Thrown("what", kind="UnsupportedError"), UnsupportedError, None),
    (Thrown("odd", kind=None), SourceError, False),
])
def test_what_javascript_throws(page, thrown, kind, transient):
    async def scene():
        source = await open_browser("http://x/a.gguf")
        page.made[0].error = thrown
        with pytest.raises(kind, match=f"^{thrown.message}$") as caught:
            await source.read_into(0, memoryview(bytearray(4)))
        assert getattr(caught.value, "transient", None) == transient

        async def fail(*_):
            raise thrown

        page.open = fail
        with pytest.raises(kind, match=f"^{thrown.message}$"):
            await open_browser("http://x/a.gguf")

    run(scene())


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("error", [Thrown("cancelled", kind="Cancelled"), None])
def test_a_cancelled_read_waits_for_the_workers_end(page, times, error):
    async def scene():
        source = await open_browser("http://x/a.gguf")
        (made,) = page.made
        made.at_once, made.error = False, error
        view = memoryview(bytearray(4))
        reading = asyncio.create_task(source.read_into(1, view))
        await asyncio.sleep(0)
        for _ in range(times):
            reading.cancel()
            await asyncio.sleep(0.01)
            assert not reading.done()
        assert made.cancelled == [1] * times
        made.finish(made.reads[1])
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert view.tobytes() == bytes(4)

    run(scene())


def test_opening_that_is_cancelled_is_given_up(page):
    async def scene():
        ended = asyncio.get_running_loop().create_future()

        async def wait(*_):
            return await ended

        page.open = wait
        opening = asyncio.create_task(open_browser("http://x/a.gguf"))
        await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.sleep(0.01)
        assert page.aborted == 1
        assert not opening.done()
        ended.set_exception(Thrown("given up", kind="Cancelled"))
        with pytest.raises(asyncio.CancelledError):
            await opening

    run(scene())


def test_close(page):
    async def scene():
        source = await open_browser("http://x/a.gguf")
        await source.close()
        await source.close()
        with pytest.raises(SourceError, match="is closed; open it again"):
            await source.read_into(0, memoryview(bytearray(4)))
        assert not page.made[0].reads

    run(scene())


def test_why_nothing_is_kept(page):
    async def scene():
        source = await open_browser("http://x/a.gguf", cache=False)
        assert not page.made[0].options["cache"]
        page.made[0].cache = SimpleNamespace(state="full", why="no room")
        assert source.cached == "full: no room"

    run(scene())


def test_what_a_reference_names(page, tmp_path):
    path = tmp_path / "a b.gguf"
    path.write_bytes(b"abc")
    chosen = SimpleNamespace(arrayBuffer=None)

    async def scene():
        for ref in (str(path), path, path.as_uri()):
            await open_browser(ref)
            assert page.made[-1].ref == ("blob", [f"content of {path}"])
            assert page.made[-1].options["name"] == str(path)
        await open_browser(chosen)
        assert page.made[-1].ref is chosen
        await open_browser("HF:owner/repo/a.gguf")
        assert page.made[-1].ref == "https://huggingface.co/owner/repo/resolve/main/a.gguf"
        with pytest.raises(SourceError, match="no file '/nothing'"):
            await open_browser("/nothing")
        with pytest.raises(UnsupportedError, match="choose it here"):
            await open_browser("ftp://user:word@x/a.gguf?key")
        with pytest.raises(TypeError, match="not by int"):
            await open_browser(5)

    run(scene())


# A hub

REF = hub.parse("hf:owner/repo:Q4_0")


def answer(files=(), status=200, link=None, body=None):
    text = body if body is not None else json.dumps([{"type": "file", "path": path} for path in files]).encode()

    async def array_buffer():
        return SimpleNamespace(to_bytes=lambda: text)

    return SimpleNamespace(status=status, arrayBuffer=array_buffer, headers={"Link": link} if link else {})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    real = asyncio.sleep
    monkeypatch.setattr(browser_source.asyncio, "sleep", lambda seconds: real(min(seconds, 0.01)))


def test_a_hubs_list_goes_on_over_pages_and_failures(page):
    page.answers = [answer(["a-Q4_0.gguf"], link='</api/next>; rel="next"'), answer(status=503), Thrown("no network"),
                    answer(["b-Q8_0.gguf"])]
    assert run(list_files(REF, "http://hub")) == ["a-Q4_0.gguf", "b-Q8_0.gguf"]
    first = "http://hub/api/models/owner/repo/tree/main?recursive=true"
    assert page.asked == [first, *["http://hub/api/next"] * 3]
    page.answers = [answer(["a-Q4_0.gguf", "b-Q8_0.gguf"])]
    assert run(url_of_ref("hf:owner/repo:Q4_0", "http://hub")) == "http://hub/owner/repo/resolve/main/a-Q4_0.gguf"


@pytest.mark.parametrize(("answers", "part", "transient"), [
    ([answer(status=404)], "everyone may read", False),
    ([answer(status=418)], "status 418", False),
    ([answer(body=b"[3]")], "makes no sense", False),
    ([answer(body=bytes(5 << 20))], "page of more than", False),
    ([answer([], link='<https://evil.example/x>; rel="next"')], "another host", False),
    ([answer([], link='<//evil.example/x>; rel="next"')], "another host", False),
    ([answer([], link='</again>; rel="next"')] * 30, "more than 20 pages", False),
    ([answer(status=429)] * 3, "status 429", True),
    ([Thrown("no network")] * 3, "no network", True),
])
def test_a_hub_that_gives_no_list(page, answers, part, transient):
    page.answers = list(answers)
    with pytest.raises(SourceError, match=part) as caught:
        run(list_files(REF, "http://hub"))
    assert caught.value.transient == transient


def test_without_the_hub_a_whole_copy_is_found(page):
    above = "http://hub/owner/repo/resolve/main/"
    page.kept = [SimpleNamespace(url=url, whole=whole) for url, whole in [
        (above + "some%20folder/a-Q4_0.gguf", True), (above + "b-Q8_0.gguf", False), ("http://other/c-Q8_0.gguf", True)]]
    page.answers = [Thrown("no network")] * 6
    assert run(url_of_ref("hf:owner/repo:Q4_0", "http://hub")) == above + "some%20folder/a-Q4_0.gguf"
    with pytest.raises(SourceError, match="no file of 'Q8_0'"):
        run(url_of_ref("hf:owner/repo:Q8_0", "http://hub"))
    for kept in ([], Thrown("no disk")):
        page.kept = kept
        page.answers = [Thrown("no network")] * 3
        with pytest.raises(SourceError, match="cannot list the files") as caught:
            run(url_of_ref("hf:owner/repo:Q4_0", "http://hub"))
        assert caught.value.transient


def test_it_is_a_source():
    source: Source = BrowserSource(FakeSource())
    assert source.block == 1

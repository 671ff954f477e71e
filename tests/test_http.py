"""A file behind HTTP: exactly its bytes or a SourceError in bounded time, whatever the network and the server do."""

import asyncio
import email.utils
import gc
import hashlib
import os
import random
import ssl
import time
import tracemalloc
from dataclasses import replace

import pytest

from tests.range_server import Fault, RangeServer, redirect
from wasmrt.errors import SourceError
from wasmrt.store import http_rules as rules
from wasmrt.store.http import HttpSource, certificates, end, make_client, parse_url
from wasmrt.store.http_rules import HttpLimits, Identity, Next, Trouble
from wasmrt.store.source import open_source

DATA = random.Random(1).randbytes(100_000)
FAST = HttpLimits(
    connect_seconds=5, read_seconds=0.5, attempts=4, backoff_seconds=0.01, backoff_cap=0.02, retry_after_cap=0.2,
    total_seconds=10, bytes_per_second=1e6,
)
SIZE = str(len(DATA))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    """Of the machine that runs the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    with RangeServer(DATA) as server:
        yield server


def run(coroutine):
    """Bounded, so that a hang fails. Nothing may be left for asyncio to complain about: a task's error that nobody saw, say."""
    complaints = []

    async def scene():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        try:
            return await asyncio.wait_for(coroutine, 30)
        finally:
            gc.collect(1)

    try:
        return asyncio.run(scene())
    finally:
        assert not complaints


async def read(source: HttpSource, offset: int = 0, n_bytes: int = len(DATA)) -> bytes:
    buffer = bytearray(n_bytes)
    await source.read_into(offset, memoryview(buffer))
    buffer.append(0)                                             # no view of it is left
    return bytes(buffer[:-1])


def with_source(server: RangeServer, check, limits: HttpLimits = FAST, **options):
    """Open, forget the requests of that, run `check(source)`, close."""

    async def scene():
        source = await HttpSource.open(server.url, limits=limits, **options)
        server.requests.clear()
        try:
            return await check(source)
        finally:
            await source.close()

    return run(scene())


def open_error(url: str, limits: HttpLimits = FAST) -> SourceError:
    with pytest.raises(SourceError) as caught:
        run(HttpSource.open(url, limits=limits))
    return caught.value


def read_error(server: RangeServer, *faults: Fault, offset: int = 10, n_bytes: int = 1000, limits: HttpLimits = FAST):
    async def check(source):
        server.faults.extend(faults)
        with pytest.raises(SourceError) as caught:
            await read(source, offset, n_bytes)
        return caught.value

    return with_source(server, check, limits)


def assert_one_line(error: SourceError, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def ranges(server: RangeServer) -> list[str]:
    return [request.headers["range"] for request in server.requests]


# What is read


def test_any_range_is_the_files_bytes(server):
    pick = random.Random(2)
    spans = [(0, 0), (len(DATA), 0), (0, len(DATA)), (len(DATA) - 1, 1)]
    spans += [(a, pick.randrange(len(DATA) - a)) for a in (pick.randrange(len(DATA)) for _ in range(20))]

    async def check(source):
        assert source.size == len(DATA)
        assert source.block == 1
        await source.bypass_cache()
        for offset, n_bytes in spans:
            assert await read(source, offset, n_bytes) == DATA[offset : offset + n_bytes]
        assert await asyncio.gather(*(read(source, *span) for span in spans)) == [DATA[a : a + n] for a, n in spans]

    with_source(server, check)


def test_open_asks_for_one_byte_and_reads_keep_the_connection(server):
    async def scene():
        source = await HttpSource.open(server.url, limits=FAST)
        for offset in range(5):
            await read(source, offset, 10)
        await source.close()

    run(scene())
    first, *others = server.requests
    assert (first.method, first.headers["range"], first.sent) == ("GET", "bytes=0-0", 1)
    assert "if-range" not in first.headers
    assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}
    assert {request.headers["if-range"] for request in others} == {'"0-100000-"'}
    assert server.connections == 1


@pytest.mark.parametrize("ref", ["http://127.0.0.1:", "HTTP://127.0.0.1:"])
def test_open_source_takes_urls(server, ref):
    async def scene():
        source = await open_source(f"{ref}{server.port}/model.gguf")
        assert await read(source) == DATA
        await source.close()

    run(scene())


def test_a_large_read_is_several_requests_side_by_side(server):
    limits = replace(FAST, part_bytes=10_000, parallel=3)

    async def check(source):
        assert await read(source, 5, 95_000) == DATA[5:95_005]

    server.faults = lambda request: Fault(delay=0.05)
    with_source(server, check, limits)
    spans = [(start, min(start + 10_000, 95_005)) for start in range(5, 95_005, 10_000)]
    assert sorted(request.range for request in server.requests) == spans
    assert server.peak == 3


def test_a_body_is_streamed_and_never_whole_in_memory():
    data = bytes(32 << 20)
    with RangeServer(data) as server:

        async def check(source):
            buffer = memoryview(bytearray(len(data)))
            tracemalloc.start()
            await source.read_into(0, buffer)
            return tracemalloc.get_traced_memory()[1]

        try:
            # Worst seen: 4.6 MB, for four connections at both ends. Bound: a quarter of one body.
            assert with_source(server, check, replace(FAST, parallel=4, part_bytes=8 << 20)) < 8 << 20
        finally:
            tracemalloc.stop()


def test_arguments_are_checked(server):
    async def check(source):
        for offset, view in ((-1, bytearray(1)), (len(DATA), bytearray(1)), (0, b"read-only")):
            with pytest.raises(ValueError, match=r"not all in|read-only"):
                await source.read_into(offset, memoryview(view))

    with_source(server, check)
    assert server.requests == []


def test_messages_and_the_name_keep_secrets(server):
    url = f"http://user:pa55@127.0.0.1:{server.port}/model.gguf?signature=s3cret#f"

    async def scene():
        source = await HttpSource.open(url, limits=FAST)
        assert source.url == url
        assert source.name == f"http://127.0.0.1:{server.port}/model.gguf"
        assert await read(source) == DATA
        server.faults = lambda request: Fault(status=500)
        with pytest.raises(SourceError) as caught:
            await read(source)
        await source.close()
        return str(caught.value)

    texts = [run(scene())]
    assert server.requests[-1].headers["authorization"].startswith("Basic ")
    texts += [str(open_error(url)), str(open_error("ftp://user:pa55@host/?s3cret")), str(open_error("http://u:pa55@[/?s3cret"))]
    for text in texts:
        assert "pa55" not in text
        assert "s3cret" not in text


def test_etag_and_hash(server):
    async def scene():
        source = await HttpSource.open(server.url, limits=FAST)
        await source.close()
        return source.etag, source.sha256

    assert run(scene()) == ('"0-100000-"', None)
    server.etag = False
    assert run(scene()) == (None, None)
    server.faults = lambda request: Fault(headers={"ETag": 'W/"weak"'})
    assert run(scene()) == (None, None)
    with RangeServer(DATA, signed=True) as server:
        assert run(scene()) == ('"0-100000-"', hashlib.sha256(DATA).hexdigest())


def test_an_empty_file():
    with RangeServer(b"") as server:

        async def check(source):
            assert source.size == 0
            assert await read(source, 0, 0) == b""

        with_source(server, check)
        server.faults.append(Fault(whole=True))
        with_source(server, check)


# Opening fails


@pytest.mark.parametrize(("fault", "parts"), [
    (Fault(status=404), ("no such file", "404", "check the URL")),
    (Fault(status=410), ("no such file", "410")),
    (Fault(status=401), ("denied", "401", "token")),
    (Fault(status=403), ("denied", "403", "token")),
    (Fault(status=400), ("400",)),
    (Fault(whole=True), ("does not do ranges", "download the file")),
    (Fault(headers={"Content-Range": "bytes 0-0/*"}), ("how large", "download the file")),
])
def test_what_cannot_be_opened_is_said_at_once(server, fault, parts):
    server.faults = lambda request: fault
    error = open_error(server.url)
    assert_one_line(error, f"'{server.url}'", *parts)
    assert not error.transient
    assert len(server.requests) == 1


def test_a_server_without_ranges_is_left_before_it_sends_the_file():
    with RangeServer(bytes(64 << 20)) as server:
        server.faults = lambda request: Fault(whole=True)
        assert_one_line(open_error(server.url), "does not do ranges")
        assert server.sent < 16 << 20                            # what the system's buffers hold


@pytest.mark.parametrize("fault", [
    Fault(status=500), Fault(status=429), Fault(no_answer=True), Fault(silent=True), Fault(resize=1), Fault(resize=-1),
    Fault(headers={"Content-Range": "bytes 1-1/100000"}), Fault(headers={"Content-Range": None}),
    Fault(headers={"Content-Encoding": "gzip"}), Fault(headers={"Content-Type": "multipart/byteranges; boundary=x"}),
    Fault(chunked=True, resize=1), Fault(headers={"Content-Range": "bytes 0-0/" + "9" * 5000}),
])
def test_opening_tries_again(server, fault):
    async def check(source):
        assert await read(source) == DATA

    limits = replace(FAST, read_seconds=0.2)
    server.faults.extend([fault] * 3)
    with_source(server, check, limits)
    server.faults.extend([fault] * 4)
    error = open_error(server.url, limits)
    assert_one_line(error, f"'{server.url}'", "4 attempts failed")
    assert error.transient


def test_no_server(server):
    server.stop()
    error = open_error(server.url)
    assert_one_line(error, f"'{server.url}'", "4 attempts failed", "check")
    assert error.transient


def test_opening_has_a_deadline(server):
    server.faults = lambda request: Fault(silent=True)
    began = time.monotonic()
    error = open_error(server.url, replace(FAST, read_seconds=60, total_seconds=0.3))
    assert time.monotonic() - began < 5
    assert_one_line(error, f"'{server.url}'", "0.3 s")
    assert error.transient


@pytest.mark.parametrize("url", ["http://", "http:///model.gguf", "https://[::1", "ftp://example.org/m.gguf", "m.gguf",
                                 "http://example.org/\x00", "http://example.org:99999999999/m.gguf"])
def test_what_is_no_url(url):
    assert_one_line(open_error(url, replace(FAST, attempts=1)))


def test_a_header_with_a_line_end_is_refused_without_showing_it(server):
    with pytest.raises(ValueError, match="'Authorization'") as caught:
        run(HttpSource.open(server.url, headers={"Authorization": "Bearer t0ken\n"}))
    assert "t0ken" not in str(caught.value)


# Answers that are wrong once are asked for again

WRONG_ONCE = {
    "status 500": Fault(status=500),
    "status 503": Fault(status=503),
    "status 408": Fault(status=408),
    "cut": Fault(cut=300),
    "cut at once": Fault(cut=0),
    "reset": Fault(cut=300, reset=True),
    "no answer": Fault(no_answer=True),
    "no answer, reset": Fault(no_answer=True, reset=True),
    "hang": Fault(hang=300),
    "silent": Fault(silent=True),
    "short": Fault(resize=-1),
    "empty": Fault(resize=-1000),
    "long": Fault(resize=1),
    "short, chunked": Fault(resize=-1, chunked=True),
    "long, chunked": Fault(resize=7, chunked=True),
    "cut, chunked": Fault(cut=300, chunked=True),
    "short, to the end": Fault(resize=-1, headers={"Content-Length": None}),
    "long, to the end": Fault(resize=7, headers={"Content-Length": None}),
    "empty, to the end": Fault(resize=-1000, headers={"Content-Length": None}),
    "other length said": Fault(headers={"Content-Length": "999"}),
    "other range": Fault(headers={"Content-Range": f"bytes 11-1010/{SIZE}"}),
    "longer range": Fault(headers={"Content-Range": f"bytes 10-1010/{SIZE}"}),
    "no range": Fault(headers={"Content-Range": None}),
    "no total": Fault(headers={"Content-Range": "bytes 10-1009/*"}),
    "senseless range": Fault(headers={"Content-Range": "bytes 10-1009"}),
    "compressed": Fault(headers={"Content-Encoding": "gzip"}),
    "compressed twice": Fault(headers={"Content-Encoding": "identity, br"}),
    "several parts": Fault(headers={"Content-Type": "multipart/byteranges; boundary=x"}),
    "whole": Fault(whole=True),
    "no ETag": Fault(headers={"ETag": None}),
    "weak ETag": Fault(headers={"ETag": 'W/"0-100000-"'}),
    "416 for what is there": Fault(status=416, headers={"Content-Range": f"bytes */{SIZE}"}),
}


@pytest.mark.parametrize("fault", WRONG_ONCE.values(), ids=WRONG_ONCE)
def test_a_wrong_answer_is_asked_for_again(server, fault):
    async def check(source):
        server.faults.append(fault)
        assert await read(source, 10, 1000) == DATA[10:1010]
        assert len(server.requests) == 2
        assert await asyncio.gather(read(source, 0, 500), read(source, 500, 500)) == [DATA[:500], DATA[500:1000]]

    with_source(server, check)


@pytest.mark.parametrize("fault", WRONG_ONCE.values(), ids=WRONG_ONCE)
def test_answers_that_stay_wrong_end_in_an_error(server, fault):
    limits = replace(FAST, read_seconds=0.1)
    error = read_error(server, *[fault] * 4, limits=limits) if fault.cut != 300 and fault.hang != 300 else read_error(
        server, fault, *[replace(fault, cut=fault.cut and 0, hang=fault.hang and 0)] * 4, limits=limits)
    assert_one_line(error, f"'{server.url}'", "bytes 10 to 1010", "4 times", "at last because", "check the connection")
    assert error.transient


def test_good_answers_in_other_shapes(server):
    async def check(source):
        for headers in ({}, {"Content-Length": None}, {"Content-Encoding": "identity"}):
            server.faults.append(Fault(headers=headers, chunked=not headers))
            assert await read(source) == DATA
        assert len(server.requests) == 3

    with_source(server, check)


def test_bytes_behind_the_announced_length_are_not_the_next_answer(server):
    async def check(source):
        server.faults.append(Fault(resize=100, headers={"Content-Length": "1000"}))
        for _ in range(3):
            assert await read(source, 10, 1000) == DATA[10:1010]

    with_source(server, check)


def test_an_answer_that_is_too_long_is_not_trusted_in_its_first_bytes_either(server):
    """It comes in several pieces, of which only the last shows that it is too long."""

    async def check(source):
        server.faults.append(Fault(resize=70_000, flip=100, chunked=True))
        assert await read(source, 10, 80_000) == DATA[10:80_010]

    with_source(server, check)
    assert ranges(server) == ["bytes=10-80009"] * 2


def test_a_read_goes_on_where_it_broke_off(server):
    async def check(source):
        server.faults.extend([Fault(cut=30_000), Fault(status=503), Fault(hang=20_000), Fault(chunked=True, resize=5)])
        assert await read(source, 1000, 90_000) == DATA[1000:91_000]

    with_source(server, check, replace(FAST, attempts=5))
    assert ranges(server) == [f"bytes={start}-90999" for start in (1000, 31_000, 31_000, 51_000, 51_000)]


def test_progress_renews_the_attempts(server):
    async def check(source):
        server.faults = lambda request: Fault(cut=5000)
        assert await read(source) == DATA

    with_source(server, check, replace(FAST, progress_bytes=5000))
    assert len(server.requests) == 20


def test_the_server_comes_back(server):
    async def check(source):
        await read(source, 0, 10)
        server.stop()
        task = asyncio.create_task(read(source))
        await asyncio.sleep(0.2)
        assert not task.done()
        server.start()
        assert await task == DATA

    with_source(server, check, replace(FAST, attempts=100))


def test_a_slow_link_is_no_failure(server):
    server.bytes_per_second = 200_000

    async def check(source):
        began = time.monotonic()
        assert await read(source) == DATA
        assert time.monotonic() - began > 0.3

    with_source(server, check)
    assert len(server.requests) == 1


# Waiting


@pytest.mark.parametrize(("asked", "low", "high"), [
    ("0", 0, 0.5), ("1", 0.5, 5), ("3600", 0.5, 5), ("date", 0.5, 5), ("soon", 0, 0.5), ("-5", 0, 0.5), ("9" * 20, 0, 0.5),
])
def test_retry_after_is_kept_up_to_the_cap(server, asked, low, high):
    value = email.utils.formatdate(time.time() + 3600, usegmt=True) if asked == "date" else asked

    async def check(source):
        server.faults.append(Fault(status=503, headers={"Retry-After": value}))
        began = time.monotonic()
        assert await read(source) == DATA
        return time.monotonic() - began

    assert low <= with_source(server, check, replace(FAST, retry_after_cap=0.5)) < high


def test_pauses_double_up_to_the_cap_and_differ():
    limits = HttpLimits(backoff_seconds=1, backoff_cap=8)
    for failed, longest in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (5000, 8)):
        pauses = [limits.pause(failed, None) for _ in range(200)]
        assert 0 <= min(pauses) < longest * 0.2
        assert longest * 0.8 < max(pauses) <= longest


def test_a_trickle_ends_at_the_deadline(server):
    """Each byte comes in time, but the read would take for ever."""
    server.bytes_per_second = 100

    async def check(source):
        began = time.monotonic()
        with pytest.raises(SourceError) as caught:
            await read(source, 10, 90_000)
        assert time.monotonic() - began < 5
        assert_one_line(caught.value, f"'{server.url}'", "bytes 10 to 90010", "given up after 0.6 s", "check")
        assert caught.value.transient

    with_source(server, check, replace(FAST, total_seconds=0.51))


def test_time_for_a_read_grows_with_its_size():
    limits = HttpLimits(total_seconds=100, bytes_per_second=1000)
    assert limits.deadline(0) == 100
    assert limits.deadline(5000) == 105


# The file changes


def other_data() -> bytes:
    return random.Random(9).randbytes(len(DATA))


CHANGES = {
    "content": lambda server: server.put(other_data()),
    "longer": lambda server: server.put(DATA + b"x"),
    "shorter": lambda server: server.put(DATA[:50_000]),
    "shorter than the range": lambda server: server.put(DATA[:5]),
    "empty": lambda server: server.put(b""),
}


@pytest.mark.parametrize("etag", [True, False], ids=["ETag", "Last-Modified"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_noticed(server, change, etag):
    server.etag = etag

    async def check(source):
        change(server)
        with pytest.raises(SourceError) as caught:
            await read(source, 10, 1000)
        assert_one_line(caught.value, f"'{server.url}'", "changed while it was in use", "offset 10", "open it again")
        assert not caught.value.transient

    with_source(server, check)
    assert len(server.requests) == 1


def test_a_change_between_two_parts_of_a_read(server):
    async def check(source):
        def replace_then_serve(request):
            if len(server.requests) == 2:
                server.put(other_data())

        server.faults = replace_then_serve
        with pytest.raises(SourceError, match="changed"):
            await read(source)

    with_source(server, check, replace(FAST, part_bytes=30_000, parallel=1))


@pytest.mark.parametrize("fault", [
    Fault(headers={"ETag": '"other"'}), Fault(headers={"Content-Range": "bytes 10-1009/100001"}),
    Fault(status=416, headers={"Content-Range": "bytes */7"}), Fault(status=416),
    Fault(whole=True, headers={"ETag": '"other"'}), Fault(whole=True, headers={"Content-Length": "100001"}),
])
def test_signs_of_another_file(server, fault):
    error = read_error(server, fault)
    assert_one_line(error, "changed while it was in use")
    assert not error.transient
    assert len(server.requests) == 1


def test_without_etag_the_time_of_modification_decides(server):
    server.etag = False
    error = read_error(server, Fault(headers={"Last-Modified": "Tue, 14 Nov 2023 22:13:21 GMT"}))
    assert_one_line(error, "changed", "22:13:20", "22:13:21")
    error = read_error(server, *[Fault(headers={"Last-Modified": None})] * 4)
    assert_one_line(error, "no Last-Modified")
    server.last_modified = False                                 # and where there is neither, the size

    async def check(source):
        assert await read(source) == DATA
        server.put(DATA + b"x")
        with pytest.raises(SourceError, match="changed"):
            await read(source, 0, 10)

    with_source(server, check)


def test_a_file_that_is_deleted(server):
    async def check(source):
        server.remove()
        with pytest.raises(SourceError) as caught:
            await read(source, 10, 1000)
        assert_one_line(caught.value, "bytes 10 to 1010", "no such file", "404")
        assert not caught.value.transient

    with_source(server, check)


# Redirects


@pytest.fixture
def hub():
    with RangeServer({"/model.gguf": DATA, "/other.gguf": other_data()}, signed=True) as hub:
        yield hub


def test_reads_go_to_where_the_redirect_led(hub):
    async def check(source):
        assert await read(source) == DATA
        assert source.name == hub.url

    with_source(hub, check)
    assert [request.target for request in hub.requests] == ["/model.gguf?signature=1"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect(server, status):
    async def check(source):
        assert await read(source) == DATA

    server.faults.append(redirect(server.url_of("/model.gguf?here"), status))
    with_source(server, check)
    assert server.requests[0].target == "/model.gguf?here"


def test_an_expired_signature_is_renewed_once_for_all_reads(hub):
    async def check(source):
        for _ in range(3):                                       # every hour again
            hub.expire_signatures()
            hub.requests.clear()
            assert await read(source) == DATA
            assert [r.target for r in hub.requests].count("/model.gguf") == 1

    with_source(hub, check, replace(FAST, part_bytes=10_000))


@pytest.mark.parametrize("status", [401, 403, 404, 410, 302])
def test_what_may_be_an_expired_signature(hub, status):
    async def check(source):
        hub.faults.append(Fault(status=status, headers={"Location": "/nowhere"}))
        assert await read(source) == DATA
        assert [request.status for request in hub.requests] == [status, 302, 206, 206]
        hub.faults = lambda request: Fault(status=status) if request.headers["range"] != "bytes=0-0" else None
        with pytest.raises(SourceError) as caught:
            await read(source, 10, 1000)
        assert_one_line(caught.value, "bytes 10 to 1010", str(status), "looked up again")
        assert not caught.value.transient

    with_source(hub, check)


def test_access_that_is_taken_away(hub):
    async def check(source):
        hub.faults = lambda request: Fault(status=403)
        with pytest.raises(SourceError, match="access was denied"):
            await read(source)

    with_source(hub, check)


def test_a_renewed_file_has_to_be_the_same(hub):
    async def check(source):
        hub.put(other_data())
        hub.expire_signatures()
        with pytest.raises(SourceError) as caught:
            await read(source, 10, 1000)
        assert_one_line(caught.value, "changed while it was in use", "SHA-256")
        assert not caught.value.transient

    with_source(hub, check)


def test_one_hash_under_another_tag_is_the_same_file(hub):
    """Stores of one hub may tag the same content differently."""

    async def check(source):
        hub.put(DATA)                                            # the same bytes, another ETag
        hub.expire_signatures()
        assert await read(source) == DATA
        assert source.etag == '"0-100000-"'                      # as at open: a key that others hold

    with_source(hub, check)


def test_a_host_that_is_gone_is_looked_for_again(server):
    with RangeServer(DATA) as first:
        first.etag = server.etag = False
        server.faults.append(redirect(first.url))

        async def check(source):
            assert await read(source, 0, 100) == DATA[:100]
            first.stop()                                         # the next redirect leads elsewhere
            assert await read(source) == DATA

        with_source(server, check)


@pytest.mark.parametrize(("location", "parts"), [
    ("/model.gguf", ("circle",)),
    ("ftp://127.0.0.1/model.gguf", ("'ftp'", "not followed")),
    ("file:///etc/passwd", ("'file'", "not followed")),
    (None, ("Location",)),
])
def test_redirects_that_are_not_followed(server, location, parts):
    server.faults = lambda request: Fault(status=302, headers={"Location": location})
    error = open_error(server.url)
    assert_one_line(error, f"'{server.url}'", *parts, "give the file's own URL")
    assert not error.transient
    assert len(server.requests) == 1


def test_a_redirect_to_nonsense(server):
    server.faults = lambda request: redirect("http://x:y/?s3cret")
    error = open_error(server.url)
    assert_one_line(error, f"'{server.url}'", "location header")
    assert "s3cret" not in str(error)


def test_five_redirects_and_no_more(server):
    async def check(source):
        assert await read(source) == DATA

    server.faults.extend(redirect(f"/hop{i}") for i in range(4))
    server.faults.append(redirect("/model.gguf?end"))
    with_source(server, check)
    server.requests.clear()
    server.faults = lambda request: redirect(f"/hop{len(server.requests)}")
    assert_one_line(open_error(server.url), "more than 5 redirects")
    assert len(server.requests) == 6


def test_headers_are_for_the_urls_own_host(server):
    """Another port is another host; what comes back to the first one gets them again."""
    secret = {"Authorization": "Bearer t0ken", "X-Key": "k", "range": "bytes=5-5"}
    with RangeServer(DATA) as other:
        server.faults.append(redirect("/model.gguf?same"))
        server.faults.append(redirect(other.url))

        async def check(source):
            assert await read(source) == DATA
            other.faults.append(Fault(status=403))
            assert await read(source) == DATA

        with_source(server, check, headers=secret)
        assert other.requests
        for request in other.requests:
            assert not {"authorization", "x-key"} & set(request.headers)
        assert server.requests
        for request in server.requests:
            assert (request.headers["authorization"], request.headers["x-key"]) == ("Bearer t0ken", "k")
            assert request.headers["range"] in ("bytes=0-0", "bytes=0-99999")


def test_a_password_in_the_url_goes_no_further_than_its_host(server):
    with RangeServer(DATA) as other:
        server.faults.extend([redirect(server.url_of("/model.gguf?same")), redirect(other.url)])
        url = server.url.replace("//", "//user:pa55@")

        async def scene():
            source = await HttpSource.open(url, limits=FAST)
            assert await read(source) == DATA
            await source.close()

        run(scene())
        assert ["authorization" in request.headers for request in server.requests] == [True, True]
        assert ["authorization" in request.headers for request in other.requests] == [False, False]


@pytest.mark.parametrize(("original", "target", "refused"), [
    ("https://example.org/a", "https://cdn.example.com/b", ""),
    ("http://example.org/a", "https://example.org/a", ""),
    ("http://example.org/a", "http://cdn.example.com/b", ""),
    ("https://example.org/a", "http://example.org/a", "from https to http"),
    ("https://example.org/a", "ftp://example.org/a", "ftp"),
    ("https://example.org/a", "javascript:alert(1)", "javascript"),
    ("https://example.org/a", "https:///b", "address"),
    *[("https://example.org/a", f"https://{host}/b", "local one") for host in (
        "127.0.0.1", "127.9.9.9", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "localhost",
        "LOCALHOST", "localhost.", "a.localhost",
    )],
    ("https://example.org/a", "https://8.8.8.8/b", ""),
    ("https://example.org/a", "https://[2606:4700::1111]/b", ""),
    ("https://example.org/a", "https://localhost.example.org/b", ""),
    ("http://127.0.0.1:8000/a", "http://192.168.1.1/b", ""),
    ("http://localhost/a", "http://127.0.0.1/b", ""),
    ("http://10.0.0.1/a", "https://example.org/b", ""),
])
def test_where_a_redirect_may_lead(original, target, refused):
    reason = rules.redirect_refused(original, original, target)
    assert refused in reason
    assert bool(reason) == bool(refused)


def test_a_redirect_back_to_http_late_in_the_chain():
    assert "https to http" in rules.redirect_refused("http://example.org/a", "https://example.org/a", "http://example.org/b")


# Proxies


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(server, monkeypatch):
    with RangeServer({"http://models.invalid/m.gguf": DATA}) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):                # Windows knows only one of the two
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")

        async def scene(url):
            source = await HttpSource.open(url, limits=FAST)
            assert await read(source) == DATA
            await source.close()

        run(scene("http://models.invalid/m.gguf"))
        asked = len(proxy.requests)
        assert asked == 2
        run(scene(server.url))
        run(scene(server.url.replace("127.0.0.1", "localhost")))
        assert len(proxy.requests) == asked
        proxy.faults.append(redirect(server.url))                # a public name leads to this machine
        assert_one_line(open_error("http://models.invalid/m.gguf"), "'http://models.invalid/m.gguf'", "local one, 127.0.0.1")


def test_a_proxy_that_makes_no_sense(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "gopher://127.0.0.1:1")
    assert_one_line(open_error("http://models.invalid/m.gguf?s3cret"), "'http://models.invalid/m.gguf'", "check the proxy")


# Cancelling, closing


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  it is about a thread of the server
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("fault", [Fault(hang=300), Fault(silent=True), Fault(status=503, headers={"Retry-After": "100"})])
def test_a_cancelled_read_ends_its_requests_and_writes_no_more(server, fault):
    limits = replace(FAST, read_seconds=60, retry_after_cap=60, part_bytes=30_000, parallel=2)

    async def check(source):
        server.faults.extend([fault] * 4)
        buffer = bytearray(len(DATA))
        view = memoryview(buffer)
        task = asyncio.create_task(source.read_into(0, view))
        await until(lambda: len(server.requests) >= 2)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 2)
        view.release()
        buffer[:] = bytes(len(buffer))
        buffer.append(0)                                         # nobody else holds it
        await until(lambda: server.in_flight == 0)               # the server sees that its client is gone
        asked = len(server.requests)
        await asyncio.sleep(0.05)
        assert not any(buffer)
        assert len(server.requests) == asked
        server.faults.clear()
        assert await read(source) == DATA                        # the others go on

    with_source(server, check, limits)


def test_cancelling_at_any_moment(server):
    """The read may be connecting, asking, in a body, in a pause: it ends, and the source stays whole."""
    pick = random.Random(3)
    server.bytes_per_second = 3e6
    server.faults = lambda request: pick.choice([None, None, Fault(cut=20_000), Fault(delay=0.01), Fault(status=500)])

    async def check(source):
        cancelled = 0
        for _ in range(40):
            try:
                async with asyncio.timeout(pick.random() * 0.05):
                    assert await read(source) == DATA
            except TimeoutError:
                cancelled += 1
        assert cancelled > 5
        server.faults = lambda request: None
        assert await read(source) == DATA

    with_source(server, check, replace(FAST, part_bytes=30_000, parallel=3, attempts=50))


def test_close_ends_reads_in_flight(server):
    async def check(source):
        server.faults = lambda request: Fault(hang=300)
        reads = [asyncio.create_task(read(source, i, 1000)) for i in range(3)]
        await until(lambda: server.in_flight == 3)
        await asyncio.wait_for(source.close(), 2)
        for task in reads:
            with pytest.raises(SourceError) as caught:
                await task
            assert_one_line(caught.value, f"'{server.url}' is closed", "open it again")
        await until(lambda: server.in_flight == 0)

    with_source(server, check, replace(FAST, read_seconds=60))


def test_reading_after_close(server):
    async def check(source):
        await source.close()
        await source.close()
        for n_bytes in (0, 10):
            with pytest.raises(SourceError) as caught:
                await read(source, 0, n_bytes)
            assert_one_line(caught.value, f"'{server.url}' is closed")

    with_source(server, check)
    assert server.requests == []


def test_a_cancelled_open_leaves_nothing_behind(server):
    server.faults.append(Fault(silent=True))

    async def scene():
        task = asyncio.create_task(HttpSource.open(server.url))
        await until(lambda: server.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.in_flight == 0)

    run(scene())


def test_a_cancel_that_comes_out_of_the_client_as_a_timeout(server):
    """Two at the same moment: the client may report its own."""

    async def check(source):
        asked = []

        async def swallow(place, part):
            asked.append(part)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise Trouble("no byte came", Next.AGAIN) from None

        source._fetch = swallow
        task = asyncio.create_task(read(source))
        await until(lambda: asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 2)
        assert len(asked) == 1

    with_source(server, check)


def test_ending_tasks_lets_them_clean_up_and_looks_at_their_errors():
    tidied = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)                            # as closing a connection does
            tidied.append(1)

    async def fail():
        try:
            await asyncio.sleep(60)
        finally:
            raise SourceError("seen by nobody")

    async def scene():
        tasks = [asyncio.create_task(work()), asyncio.create_task(fail())]
        await asyncio.sleep(0)
        closing = asyncio.create_task(end(tasks))
        await asyncio.sleep(0.005)
        await end(tasks)                                         # a read is cancelled while close() waits for it
        await closing
        assert tidied == [1]

    run(scene())


# Rules


@pytest.mark.parametrize(("value", "sha256"), [
    (f'"{"ab" * 32}"', "ab" * 32), ("AB" * 32, "ab" * 32), (f'W/"{"ab" * 32}"', "ab" * 32), ('"0123"', None), ("", None),
    (f'"{"xy" * 32}"', None),
])
def test_linked_sha256(value, sha256):
    assert rules.linked_sha256({"x-linked-etag": value}) == sha256


@pytest.mark.parametrize(("value", "expected"), [
    ("bytes 0-0/1", ((0, 1), 1)), ("BYTES 5-9/100", ((5, 10), 100)), ("bytes */7", (None, 7)), ("bytes 5-9/*", ((5, 10), None)),
    ("bytes 5-9", (None, None)), ("items 0-0/1", (None, None)), ("bytes 0-0/1, bytes 0-0/2", (None, None)),
    ("bytes -5-9/100", (None, None)), ("bytes 0-0/" + "1" * 20, (None, None)), ("bytes 0-0/١", (None, None)),
])
def test_content_range(value, expected):
    assert rules.content_range({"content-range": value}) == expected


def test_a_file_is_the_same_as_far_as_the_server_says():
    file = Identity(5, '"a"', "monday", "f" * 64)
    for same in (file, Identity(5, '"b"', None, "f" * 64)):
        assert not file.difference(same)
    for other in (Identity(6, '"a"', "monday", "f" * 64), Identity(5, '"a"', "monday", "e" * 64), Identity(5, '"b"', "monday"),
                  Identity(5, None, "monday")):
        assert file.difference(other)
    assert not Identity(5).difference(file)                      # nothing was known
    assert not Identity(5, None, "monday").difference(Identity(5, '"new"', "monday"))
    assert Identity(5, None, "monday").difference(Identity(5, None, "tuesday"))


def test_a_bad_certificate_is_not_tried_again():
    import httpx

    from wasmrt.store.http import trouble_of

    error = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1)")
    trouble = trouble_of(error, "", FAST)
    assert isinstance(trouble, Trouble)
    assert trouble.then is Next.NEVER
    assert "SSL_CERT_FILE" in trouble.reason
    assert trouble_of(httpx.ConnectError("refused"), "", FAST).then is Next.AGAIN


@pytest.mark.parametrize("location", ["http://xn--a/", "javascript:1", "http:x", "http://[::1", "http://１/", "//"])
def test_a_location_that_makes_no_sense(server, location):
    server.faults = lambda request: redirect(location.encode().decode("latin-1"))
    assert_one_line(open_error(server.url), "cannot open")


@pytest.mark.parametrize("url", ["http://user:s3cret@h:port/m.gguf?s3cret", "http://user:s3cret@xn--a/", "http://a@s3cret@１/"])
def test_what_is_no_url_is_named_without_secrets(url):
    with pytest.raises(SourceError, match="is not a URL") as caught:
        parse_url(url)
    assert "s3cret" not in str(caught.value)


def test_certificates_are_read_again_only_if_others_are_named(monkeypatch, tmp_path):
    url = parse_url("https://h/m.gguf")
    reads = []
    create = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *args, **of: reads.append(1) or create(*args, **of))
    certificates.cache_clear()
    for _ in range(3):
        make_client(url, FAST)
    assert len(reads) == 1
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(SourceError, match="SSL_CERT_"):
        make_client(url, FAST)


def test_names_of_urls():
    source_name = str(parse_url("HTTPS://Example.org:443/a%20b/c.gguf#top"))
    assert source_name == "https://example.org/a%20b/c.gguf"


# Everything at once


def random_fault(pick: random.Random) -> Fault | None:
    k = pick.choice([0, 1, pick.randrange(200), pick.randrange(60_000)])
    return pick.choice([
        None, None, None, None, Fault(chunked=True), Fault(delay=0.02),
        Fault(cut=k), Fault(cut=k, reset=True), Fault(cut=k, chunked=True), Fault(hang=k), Fault(silent=True),
        Fault(no_answer=True),
        Fault(resize=k + 1), Fault(resize=-k - 1), Fault(resize=k + 1, chunked=True), Fault(headers={"Content-Length": "10"}),
        Fault(resize=k + 1, headers={"Content-Length": None}), Fault(resize=-k - 1, headers={"Content-Length": None}),
        Fault(headers={"Content-Range": f"bytes {k}-{k + 999}/{SIZE}"}), Fault(headers={"Content-Range": None}),
        Fault(headers={"Content-Encoding": "gzip"}), Fault(headers={"ETag": None}), Fault(whole=True),
        Fault(status=pick.choice([403, 404, 500, 503])), Fault(status=429, headers={"Retry-After": "0"}),
        redirect("/model.gguf?elsewhere"),
    ])


@pytest.mark.parametrize("replaced", [False, True], ids=["kept", "replaced"])
@pytest.mark.parametrize("seed", range(8))
def test_right_bytes_or_an_error_whatever_happens(server, seed, replaced):
    pick = random.Random(seed)
    calm = seed % 2                                              # half of the runs have fewer faults
    limits = replace(FAST, read_seconds=0.06, part_bytes=pick.choice([7000, 50_000]), parallel=pick.choice([1, 4]), attempts=6)

    def fault_for(request):
        if replaced and len(server.requests) == 60:
            server.put(other_data())
        return None if calm and pick.random() < 0.7 else random_fault(pick)

    async def one_read(source):
        offset = pick.randrange(len(DATA))
        n_bytes = min(len(DATA) - offset, pick.choice([1, 100, 10_000, 60_000]))
        try:
            assert await read(source, offset, n_bytes) == DATA[offset : offset + n_bytes]
        except SourceError as error:
            return error
        return None

    async def check(source):
        server.faults = fault_for
        outcomes = []
        for _ in range(12):
            outcomes += await asyncio.gather(*(one_read(source) for _ in range(pick.randint(1, 4))))
        assert None in outcomes
        server.faults = lambda request: None
        if replaced:
            server.put(other_data())
            with pytest.raises(SourceError, match="changed"):
                await read(source)
        else:
            assert not any("changed" in str(error) for error in outcomes if error and "416" not in str(error))
            assert await read(source) == DATA

    with_source(server, check, limits)


def test_a_file_beyond_four_gigabytes(tmp_path):
    path = tmp_path / "sparse.gguf"
    size = (5 << 30) + 3
    try:
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(size - 3)
            file.write(b"end")
    except OSError as error:
        pytest.skip(f"no sparse files here: {error}")
    if os.name == "posix" and path.stat().st_blocks * 512 > 1 << 30:
        pytest.skip("no sparse files here")
    with RangeServer(path) as server:

        async def check(source):
            assert source.size == size
            assert await read(source, size - 5, 5) == b"\0\0end"

        with_source(server, check)

"""A page's byte source: exactly the file's bytes or a SourceError in bounded time, whatever network, disk and user do."""

import hashlib
import json
import random
import time
from dataclasses import replace

import pytest

from tests.range_server import Fault, RangeServer, redirect

DATA = random.Random(1).randbytes(1 << 20)
SIZE = str(len(DATA))
HEAD = 256 << 10  # read when a file is opened: what lies behind it is asked for later
AT, N = 300_000, 200_000  # a read behind it
FAST = {
    "idleSeconds": 0.7, "stallSeconds": 1.5, "totalSeconds": 15, "openAttempts": 3, "probeSeconds": 1,
    "backoffSeconds": 0.01, "backoffCap": 0.02, "retryAfterCap": 0.2, "saveSeconds": 0.2,
}
ALLOWED = {"Access-Control-Allow-Origin": "*"}
EXPOSED = ALLOWED | {"Access-Control-Expose-Headers": "Content-Range, ETag, Content-Encoding"}
# What each engine has: shared memory, a disk of the page's own.
SHARED = {"chromium": True, "firefox": True, "webkit": False}
DISK = {"chromium": True, "firefox": True, "webkit": False}

PRELUDE = """
const { Source } = await import("/source.js");
const kept = (globalThis.kept ??= {});
const told = (promise) =>
  promise.then((value) => ({ value }), ({ kind, message, transient }) => ({ kind, message, transient }));
const open = (ref, options) => Source.open(ref, { limits: args.limits, ...options }, args.worker);
function memoryOf(shared, nBytes) {
  const pages = Math.ceil(nBytes / 65536);
  const memory = new WebAssembly.Memory(shared ? { initial: pages, maximum: pages, shared } : { initial: pages });
  return { memory, shared, window: (address, n) => new Uint8Array(memory.buffer, address, n) };
}
// Read into a memory whose bytes around and in the place are 7, and give the place's.
async function readInto(source, offset, n, shared, demand) {
  const memory = (kept.memory = memoryOf(shared, n + 128));
  memory.window(0, n + 128).fill(7);
  kept.read = source.start(offset, n, memory, 64, demand);
  await kept.read.done;
  const all = memory.window(0, n + 128).slice();
  const beside = [...all.slice(0, 64), ...all.slice(n + 64)];
  if (beside.some((byte) => byte !== 7)) throw new Error("bytes beside the place were written");
  return all.slice(64, n + 64);
}
"""


class Web(RangeServer):
    """Another origin, which lets pages read its files; `exposed`: and Content-Range and ETag, too."""

    exposed = True

    def fault_for(self, request):
        fault = super().fault_for(request)
        return replace(fault, headers={**(EXPOSED if self.exposed else ALLOWED), **fault.headers})


class Reader:
    """One source in a page, and one memory. Errors are dicts with kind, message and transient."""

    def __init__(self, page):
        self.page = page
        self.shared = SHARED[page.engine]
        self.worker = "/prefetch-worker.js"
        self.limits = FAST

    def run(self, body, **args):
        return self.page.run(PRELUDE + body, limits=self.limits, worker=self.worker, shared=self.shared, **args)

    def open(self, url, **options):
        """What it says of itself, or an error."""
        return self.run(
            """await kept.source?.close();
            return told(open(args.url, args.options).then((source) => {
              kept.source = source;
              const { name, size, etag, lastModified, exposed, cache } = source;
              return { name, size, etag, lastModified, exposed, cache };
            }));""",
            url=url, options=options,
        )

    def opened(self, url, **options):
        answer = self.open(url, **options)
        assert "value" in answer, answer
        return answer["value"]

    def start(self, offset=AT, n=N, demand=True):
        self.run("kept.told = told(readInto(kept.source, args.offset, args.n, args.shared, args.demand))",
                 offset=offset, n=n, demand=demand)

    def end(self):
        """Of what was started: bytes or an error."""
        answer = self.run("return kept.told")
        return answer["value"].tobytes() if "value" in answer else answer

    def read(self, offset=AT, n=N):
        self.start(offset, n)
        return self.end()

    def stats(self):
        return self.run("return kept.source.stats()")


@pytest.fixture
def server():
    with Web(DATA) as server:
        yield server


@pytest.fixture(scope="module")
def own():
    """The browsers that were started for these tests."""
    return set()


@pytest.fixture
def reader(browser, own):
    if browser.name not in own:  # a page of other tests may have a model open, and with it files of this origin's disk
        own.add(browser.name)
        browser.close_browser()
    kept_page = browser.reuse()
    reader = Reader(kept_page)
    yield reader
    reader.worker = "/prefetch-worker.js"
    reader.run("await kept.source?.close(); for (const name in kept) delete kept[name]")


def assert_error(answer, *parts, transient):
    assert isinstance(answer, dict), "there is no error"
    assert answer["kind"] == "SourceError"
    assert "\n" not in answer["message"]
    for part in parts:
        assert part in answer["message"]
    assert answer["transient"] == transient


def ranges(server):
    return [request.headers.get("range") for request in server.requests]


# Reading


@pytest.mark.parametrize("exposed", [True, False])
def test_any_range_is_the_files_bytes(reader, server, exposed):
    server.exposed = exposed
    assert reader.opened(server.url + "?token=secret")["name"] == server.url
    rng = random.Random(5)
    for offset, n in [(0, 1), (0, HEAD), (HEAD - 1, 2), (len(DATA) - 1, 1), (17, len(DATA) - 17), (AT, 0),
                      *((start, rng.randint(0, len(DATA) - start)) for start in rng.choices(range(len(DATA)), k=3))]:
        assert reader.read(offset, n) == DATA[offset : offset + n]


def test_unshared_memory_and_bytes_without_one(reader, server):
    reader.opened(server.url)
    reader.shared = False
    assert reader.read() == DATA[AT : AT + N]
    assert reader.run("return kept.source.read(args.at, 1000)", at=AT).tobytes() == DATA[AT : AT + 1000]


def test_requests_are_simple_and_bear_no_secrets(reader, server):
    """The server answers no OPTIONS request: one that needs a preflight would fail."""
    reader.opened(server.url)
    reader.read()
    assert ranges(server) == [f"bytes=0-{HEAD - 1}", f"bytes={AT}-{AT + N - 1}"]
    for request in server.requests:
        assert not {"if-range", "cookie", "referer", "authorization"} & request.headers.keys()
        assert request.headers["accept-encoding"] == "identity"


def test_the_header_is_read_once(reader, server):
    reader.opened(server.url)
    for offset in (0, 1000, HEAD - 10):
        assert reader.read(offset, 10) == DATA[offset : offset + 10]
    assert len(server.requests) == 1


def test_a_large_read_is_several_requests(reader):
    data = random.Random(2).randbytes(20 << 20)
    with Web(data) as server:
        reader.opened(server.url)
        assert reader.read(HEAD, len(data) - HEAD) == data[HEAD:]
        assert sorted(end - start for _, start, end in spans(server)[1:]) == [len(data) - HEAD - (16 << 20), 8 << 20, 8 << 20]


def spans(server):
    return [(request, *request.range) for request in server.requests]


@pytest.mark.parametrize("browser", ["chromium", "firefox"], indirect=True)
def test_a_place_past_4_gib(reader, server):
    reader.opened(server.url)
    got = reader.run(
        """const memory = new WebAssembly.Memory({ address: "i64", initial: 70000n, maximum: 70000n, shared: true });
        const window = (address, n) => new Uint8Array(memory.buffer, address, n);
        await kept.source.read(args.at, 1000, { memory, shared: true, window }, 2 ** 32 + 100);
        return window(2 ** 32 + 100, 1000).slice();""",
        at=AT,
    )
    assert got.tobytes() == DATA[AT : AT + 1000]


def test_an_offset_past_4_gib(reader, tmp_path):
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.seek(5 << 30)
        file.write(DATA)
    with Web(path) as server:
        assert reader.opened(server.url)["size"] == (5 << 30) + len(DATA)
        assert reader.read((5 << 30) + 10, 1000) == DATA[10:1010]


def test_a_range_outside_the_file_is_refused(reader, server):
    reader.opened(server.url)
    for offset, n in [(-1, 5), (len(DATA), 1), (AT, len(DATA))]:
        refused = "try { kept.source.start(args.offset, args.n) } catch (error) { return error.message }"
        error = reader.run(refused, offset=offset, n=n)
        assert "not all in" in error


def test_what_is_waited_for_comes_before_what_is_read_ahead(reader):
    with Web(bytes(40 << 20)) as server:
        reader.opened(server.url)
        server.bytes_per_second = 20e6
        order = reader.run(
            """const order = [];
            const reads = Array.from({ length: 16 }, (_, i) => kept.source.start((i + 1) * 2 ** 21, 2 ** 21, null, 0, false));
            reads.push(kept.source.start(2 ** 20, 2 ** 20));
            kept.source.hurry(reads[15].id);
            await Promise.all(reads.map(({ id, done }) => done.then(() => order.push(id))));
            return order.map((id) => reads.findIndex((read) => read.id === id));"""
        )
        # Five of those read ahead had begun and share the link with them; the others stand behind.
        assert sorted(order) == list(range(17))
        assert max(order.index(15), order.index(16)) < 10


# Opening


@pytest.mark.parametrize(("fault", "parts"), [
    (Fault(status=404), ("no such file", "404", "check the URL")),
    (Fault(status=410), ("no such file", "410")),
    (Fault(status=401), ("denied", "401", "token")),
    (Fault(status=403), ("denied", "403", "token")),
    (Fault(status=400), ("400",)),
], ids=lambda value: "")
def test_what_cannot_be_opened_is_said_at_once(reader, server, fault, parts):
    server.faults = lambda request: fault
    assert_error(reader.open(server.url), f"'{server.url}'", *parts, transient=False)
    assert len(server.requests) == 1


def test_of_a_server_without_ranges_a_small_file_is_taken_whole(reader, server):
    server.faults = lambda request: Fault(whole=True, headers={"Accept-Ranges": None})
    assert reader.opened(server.url)["size"] == len(DATA)
    for offset, n in [(0, 1000), (HEAD - 1, 2), (AT, N), (len(DATA) - 1, 1), (0, len(DATA))]:
        assert reader.read(offset, n) == DATA[offset : offset + n]
    assert len(server.requests) == 1


def test_what_comes_whole_and_breaks_off_is_asked_for_again(reader, server):
    server.faults.extend([Fault(whole=True, cut=500_000), Fault(whole=True)])
    reader.opened(server.url)
    assert reader.read(0, len(DATA)) == DATA
    assert len(server.requests) == 2


def test_a_server_without_ranges_is_left_before_it_sends_a_large_file(reader):
    with Web(bytes((64 << 20) + 1)) as server:
        server.faults = lambda request: Fault(whole=True)
        assert_error(reader.open(server.url), "does not do ranges", "67108865", "choose it here", transient=False)
        time.sleep(0.3)
        assert server.sent < 32 << 20                            # what the buffers of system and browser hold


@pytest.mark.parametrize("fault", [
    Fault(status=500), Fault(status=429), Fault(no_answer=True), Fault(silent=True), Fault(resize=1), Fault(resize=-1),
    Fault(cut=1000), Fault(hang=1000), Fault(headers={"Content-Range": f"bytes 1-{HEAD}/{SIZE}"}),
    Fault(headers={"Content-Encoding": "gzip"}), Fault(headers={"Content-Type": "multipart/byteranges; boundary=x"}),
], ids=str)
def test_opening_tries_again(reader, server, fault):
    server.faults.append(fault)
    reader.opened(server.url)
    assert reader.read(0, 1000) == DATA[:1000]
    server.faults = lambda request: fault
    assert_error(reader.open(server.url), f"'{server.url}'", "3 attempts failed", "check the URL", transient=True)


def test_no_server(reader, server):
    server.stop()
    assert_error(reader.open(server.url), f"'{server.url}'", "3 attempts failed", "Access-Control-Allow-Origin", transient=True)


@pytest.mark.parametrize("url", ["ftp://example.org/a.gguf", "http://", "a.gguf", "http://user:word@127.0.0.1/a.gguf"])
def test_what_is_no_url(reader, url):
    error = reader.open(url)
    assert_error(error, transient=False)
    assert "word" not in error["message"].replace("password", "")


def test_opening_is_given_up(reader, server):
    server.faults = lambda request: Fault(silent=True)
    reader.limits = FAST | {"idleSeconds": 60}
    error = reader.run(
        """const giving_up = new AbortController();
        setTimeout(() => giving_up.abort(), 300);
        return told(open(args.url, { signal: giving_up.signal }));""",
        url=server.url,
    )
    assert error["kind"] == "Cancelled"


def test_an_empty_file(reader):
    with Web(b"") as server:
        assert reader.opened(server.url)["size"] == 0


# What a server does not let a page see


def test_without_exposed_headers_the_size_is_asked_for(reader, server):
    server.exposed = False
    facts = reader.opened(server.url)
    assert (facts["size"], facts["exposed"], facts["etag"]) == (len(DATA), False, None)
    assert [request.method for request in server.requests] == ["GET", "HEAD", "GET"]


@pytest.mark.parametrize("said", [len(DATA) - 1, len(DATA) + 1, 1000, None])
def test_a_size_that_is_wrong_is_not_believed(reader, server, said):
    """As that of compressed bytes, which is what a server may say to HEAD."""
    server.exposed = False
    headers = {"Content-Length": None if said is None else str(said)}
    server.faults = lambda request: Fault(headers=headers) if request.method == "HEAD" else None
    assert_error(reader.open(server.url), "how large", "Access-Control-Expose-Headers", transient=False)


def test_a_small_file_without_exposed_headers(reader):
    with Web(DATA[:1000]) as server:
        server.exposed = False
        assert reader.opened(server.url)["size"] == 1000
        assert reader.read(10, 990) == DATA[10:1000]


# Answers that are wrong once are asked for again

WRONG_ONCE = {
    "status 503": Fault(status=503),
    "status 429": Fault(status=429, headers={"Retry-After": "1"}),
    "cut": Fault(cut=300),
    "reset": Fault(cut=300, reset=True),
    "no answer": Fault(no_answer=True),
    "hang": Fault(hang=300),
    "silent": Fault(silent=True),
    "short": Fault(resize=-1),
    "empty": Fault(resize=-N),
    "long": Fault(resize=1),
    "short, chunked": Fault(resize=-1, chunked=True),
    "long, chunked": Fault(resize=70_000, flip=100, chunked=True),
    "cut, chunked": Fault(cut=300, chunked=True),
    "short, to the end": Fault(resize=-1, headers={"Content-Length": None}),
    "long, to the end": Fault(resize=7, headers={"Content-Length": None}),
    "other length said": Fault(headers={"Content-Length": str(N - 1)}),
    "compressed": Fault(headers={"Content-Encoding": "gzip"}),
    "several parts": Fault(headers={"Content-Type": "multipart/byteranges; boundary=x"}),
    "whole": Fault(whole=True),
}
WRONG_ONCE_IF_SEEN = {
    "other range": Fault(headers={"Content-Range": f"bytes {AT + 1}-{AT + N}/{SIZE}"}),
    "longer range": Fault(headers={"Content-Range": f"bytes {AT}-{AT + N}/{SIZE}"}),
    "no range": Fault(headers={"Content-Range": None}),
    "no total": Fault(headers={"Content-Range": f"bytes {AT}-{AT + N - 1}/*"}),
    "no ETag": Fault(headers={"ETag": None}),
    "weak ETag": Fault(headers={"ETag": f'W/"0-{SIZE}-"'}),
    "416 for what is there": Fault(status=416, headers={"Content-Range": f"bytes */{SIZE}"}),
}
ALL_WRONG = [*((name, fault, exposed) for name, fault in WRONG_ONCE.items() for exposed in (True, False)),
             *((name, fault, True) for name, fault in WRONG_ONCE_IF_SEEN.items())]


@pytest.mark.parametrize(("fault", "exposed"), [wrong[1:] for wrong in ALL_WRONG],
                         ids=[f"{name}{'' if exposed else ', not exposed'}" for name, _, exposed in ALL_WRONG])
def test_a_wrong_answer_is_asked_for_again(reader, server, fault, exposed):
    server.exposed = exposed
    reader.opened(server.url)
    server.requests.clear()
    server.faults.append(fault)
    assert reader.read() == DATA[AT : AT + N]
    # WebKitGTK hands on bytes that do not unpack as they are, and nothing shows that: here they are the right ones.
    assert len(server.requests) >= 2 or (reader.page.engine == "webkit" and "Content-Encoding" in fault.headers)


@pytest.mark.parametrize("name", ["status 503", "cut", "no answer", "silent", "short", "long, chunked", "compressed", "whole"])
def test_answers_that_stay_wrong_end_in_an_error(reader, server, name):
    reader.opened(server.url)
    fault = WRONG_ONCE[name]
    server.faults = lambda request: fault if fault.cut is None else replace(fault, cut=0)
    began = time.monotonic()
    error = reader.read()
    assert_error(error, f"'{server.url}'", f"bytes {AT} to {AT + N}", "at last because", "check the connection", transient=True)
    assert 1.5 <= time.monotonic() - began < 10


def test_a_read_goes_on_where_it_broke_off(reader, server):
    reader.limits = FAST | {"progressBytes": 10_000}
    reader.opened(server.url)
    server.requests.clear()
    server.bytes_per_second = 300_000                            # in pieces of 15 kB
    server.faults.extend([Fault(cut=30_000), Fault(status=503), Fault(hang=20_000), Fault(chunked=True, resize=5)])
    assert reader.read() == DATA[AT : AT + N]
    starts = [int(asked.removeprefix("bytes=").partition("-")[0]) - AT for asked in ranges(server)]
    broke_off = starts[1]                                        # when it broke, browsers forget what was not yet taken
    assert 15_000 <= broke_off <= 30_000
    assert starts == [0, broke_off, broke_off, broke_off + 20_000, broke_off + 20_000]


def test_progress_renews_the_patience(reader, server):
    reader.limits = FAST | {"progressBytes": 50_000}
    reader.opened(server.url)
    server.faults = lambda request: Fault(cut=150_000)
    server.bytes_per_second = 250_000                            # or browsers forget all of them
    assert reader.read(AT, 700_000) == DATA[AT : AT + 700_000]


def test_a_server_that_dies_and_comes_back(reader, server):
    reader.limits = FAST | {"stallSeconds": 20, "backoffCap": 0.5}
    reader.opened(server.url)
    server.bytes_per_second = 100_000
    reader.start()
    time.sleep(0.3)
    server.stop()
    time.sleep(2)
    server.bytes_per_second = None
    server.start()
    assert reader.end() == DATA[AT : AT + N]


def test_a_trickle_ends_at_the_deadline(reader, server):
    reader.limits = FAST | {"totalSeconds": 1, "bytesPerSecond": 1e6}
    reader.opened(server.url)
    server.bytes_per_second = 2000
    assert_error(reader.read(), "took too long", transient=True)


# The file changes


CHANGES = {
    "content": lambda server: server.put(DATA[::-1]),
    "longer": lambda server: server.put(DATA + b"x"),
    "shorter": lambda server: server.put(DATA[:600_000]),
    "shorter than the range": lambda server: server.put(DATA[:5]),
}


@pytest.mark.parametrize("exposed", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_noticed(reader, server, change, exposed):
    server.exposed = exposed                                     # else by Last-Modified
    reader.opened(server.url)
    change(server)
    assert_error(reader.read(), f"'{server.url}'", "changed while it was in use", "open it again", transient=False)


# Redirects


def test_an_expired_signature_is_renewed(reader):
    with Web(DATA, signed=True) as hub:
        assert reader.opened(hub.url)["name"] == hub.url
        for _ in range(2):
            hub.expire_signatures()
            hub.requests.clear()
            assert reader.read() == DATA[AT : AT + N]
            assert [request.status for request in hub.requests] == [403, 302, 206, 206]
        hub.requests.clear()
        assert reader.read() == DATA[AT : AT + N]
        assert [request.target for request in hub.requests] == [f"/model.gguf?{hub.signature()}"]


def test_access_that_is_taken_away(reader):
    with Web(DATA, signed=True) as hub:
        reader.opened(hub.url)
        hub.faults = lambda request: Fault(status=403)
        assert_error(reader.read(), "access was denied", transient=False)


def test_a_renewed_file_has_to_be_the_same(reader):
    with Web(DATA, signed=True) as hub:
        reader.opened(hub.url)
        hub.put(DATA[::-1])
        hub.expire_signatures()
        assert_error(reader.read(), "changed while it was in use", "ETag", transient=False)


def test_a_host_that_is_gone_is_looked_for_again(reader, server):
    with Web(DATA) as mirror:
        server.faults.append(redirect(mirror.url))
        mirror.put(DATA)                                         # the same version as the server's
        server.put(DATA)
        reader.opened(server.url)
        assert mirror.requests
    assert reader.read() == DATA[AT : AT + N]


def test_redirects_in_a_circle(reader, server):
    server.faults = lambda request: redirect(server.url)
    assert_error(reader.open(server.url), "3 attempts failed", transient=True)


# Cancelling and closing


@pytest.mark.parametrize("fault", [Fault(hang=N // 2), Fault(silent=True), Fault(status=503), None])
def test_a_cancelled_read_ends_once_and_writes_no_more(reader, server, fault):
    reader.opened(server.url)
    server.faults.append(fault)
    server.bytes_per_second = 500_000
    reader.start()
    time.sleep(0.25)
    error = reader.run("kept.source.cancel(kept.read.id); return kept.told")
    assert error["kind"] == "Cancelled"
    still = reader.run(
        """const { memory } = kept;
        memory.window(64, args.n).fill(9);
        await new Promise((resolve) => setTimeout(resolve, 600));
        return memory.window(64, args.n).every((byte) => byte === 9) && (await kept.source.stats()).waiting === 0;""",
        n=N,
    )
    assert still
    server.bytes_per_second = None
    assert reader.read() == DATA[AT : AT + N]


def test_cancelling_at_any_moment(reader, server):
    """Whatever comes first, each read has one end; a read of before leaves no bytes in one of later."""
    reader.opened(server.url)
    ends = reader.run(
        """const ends = {};
        for (let i = 0; i < 40; i++) {
          const memory = memoryOf(args.shared, args.n);
          const read = kept.source.start(args.at, args.n, memory, 0);
          await new Promise((resolve) => setTimeout(resolve, Math.random() * 12));
          kept.source.cancel(read.id);
          const { kind = "done" } = await told(read.done);
          memory.window(0, args.n).fill(9);
          ends[kind] = (ends[kind] ?? 0) + 1;
          if (i % 8 === 0) await new Promise((resolve) => setTimeout(resolve, 100));
          if (memory.window(0, args.n).some((byte) => byte !== 9)) throw new Error("it was written to after its end");
        }
        return ends;""",
        at=AT, n=N,
    )
    assert ends.keys() <= {"done", "Cancelled"}
    assert sum(ends.values()) == 40
    assert reader.read() == DATA[AT : AT + N]


def test_close_ends_reads(reader, server):
    reader.opened(server.url)
    server.faults = lambda request: Fault(hang=1000)
    reader.start()
    time.sleep(0.2)
    reader.run("await kept.source.close(); await kept.source.close();")
    assert_error(reader.end(), "closed", "open it again", transient=False)
    assert_error(reader.read(), "closed", "open it again", transient=False)
    assert reader.run("return told(kept.source.stats())")["kind"] == "SourceError"


# A worker that stops

HANGING = b"""
addEventListener("message", ({ data }) => {
  if (data.type === "read") for (;;);
});
import "/prefetch-worker.js";
"""


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("how", ["hangs", "killed", "throws"])
def test_a_worker_that_stops_is_started_again_once(reader, server, site, how, times):
    site.files["/hanging-worker.js"] = HANGING
    server.bytes_per_second = 400_000
    got = reader.run(
        """const { Worker } = globalThis;
        const workers = [];
        let bad = args.how === "hangs" ? args.times : 0;
        globalThis.Worker = class extends Worker {
          constructor(url, options) {
            super(bad-- > 0 ? "/hanging-worker.js" : url, options);
            workers.push(this);
          }
        };
        try {
          const source = (kept.source = await open(args.url, { pingSeconds: 0.2 }));
          const reading = told(readInto(source, args.at, args.n, args.shared));
          for (let i = 0; i < args.times && args.how !== "hangs"; i++) {
            while (workers.length <= i) await new Promise((resolve) => setTimeout(resolve, 20));
            await new Promise((resolve) => setTimeout(resolve, 150));
            if (args.how === "killed") workers[i].terminate();
            else workers[i].postMessage({ type: "nonsense" });
          }
          return { ...(await reading), workers: workers.length };
        } finally {
          globalThis.Worker = Worker;
        }""",
        url=server.url, at=AT, n=N, how=how, times=times,
    )
    assert got.pop("workers") == 2
    if times == 1:
        assert got["value"].tobytes() == DATA[AT : AT + N]
    else:
        assert_error(got, "the prefetch worker stopped", "open the model again", transient=True)


def test_a_file_that_changed_while_the_worker_was_away(reader, server):
    server.bytes_per_second = 400_000
    reader.run(
        """const { Worker } = globalThis;
        globalThis.Worker = class extends Worker { constructor(...given) { super(...given); kept.worker = this; } };
        try { kept.source = await open(args.url, { pingSeconds: 0.2 }) } finally { globalThis.Worker = Worker }
        kept.told = told(readInto(kept.source, args.at, args.n, args.shared));""",
        url=server.url, at=AT, n=N,
    )
    server.put(DATA[::-1])
    reader.run("kept.worker.terminate()")
    assert_error(reader.end(), "changed while it was in use", transient=False)


def test_a_script_that_is_missing(reader, server):
    reader.worker = "/nothing.js"
    assert_error(reader.open(server.url), "the prefetch worker stopped", transient=True)


# Files of the user


def test_a_blob(reader):
    got = reader.run(
        """kept.source = await open(new File([args.data], "a.gguf"));
        const { name, size } = kept.source;
        return [name, size, await readInto(kept.source, args.at, args.n, args.shared)];""",
        data=DATA, at=AT, n=N,
    )
    assert got[:2] == ["a.gguf", len(DATA)]
    assert got[2].tobytes() == DATA[AT : AT + N]


@pytest.mark.parametrize("browser", ["chromium", "firefox"], indirect=True)
def test_a_file_that_changed_on_the_disk(reader):
    """A file of the page's own disk stands for the user's, which no test can choose."""
    error = reader.run(
        """const root = await navigator.storage.getDirectory();
        const handle = await root.getFileHandle("chosen.gguf", { create: true });
        const write = async (data) => {
          const stream = await handle.createWritable();
          await stream.write(data);
          await stream.close();
        };
        await write(args.data);
        kept.source = await open(await handle.getFile());
        await new Promise((resolve) => setTimeout(resolve, 1100));
        await write(args.data.slice(0, 1000));
        try { return await told(kept.source.read(args.at, args.n)) } finally { await root.removeEntry("chosen.gguf") }""",
        data=DATA, at=AT, n=N,
    )
    assert_error(error, "'chosen.gguf'", "choose it again", transient=False)


# The disk


@pytest.fixture
def disk(reader):
    """A reader whose page keeps nothing yet."""
    if not DISK[reader.page.engine]:
        pytest.skip("this engine gives pages no disk of their own; see test_without_a_disk_it_is_said")
    reader.run(
        """const { list, remove } = await import("/storage.js");
        for (const { key } of await list(args.worker)) await remove(key, args.worker);"""
    )
    return reader


def stored(reader):
    return reader.run('const { list } = await import("/storage.js"); return list(args.worker)')


def close(reader):
    reader.run("await kept.source.close()")


@pytest.mark.parametrize("browser", ["webkit"], indirect=True)
def test_without_a_disk_it_is_said(reader, server):
    cache = reader.opened(server.url, cache=True)["cache"]
    assert cache == {"state": "none", "why": "this page has no disk of its own (that needs https)"}
    assert reader.read() == DATA[AT : AT + N]
    error = reader.run('const { list } = await import("/storage.js"); return told(list(args.worker))')
    assert error["kind"] == "SourceError"


def test_what_was_read_is_read_from_the_disk(disk, server):
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "on"
    assert disk.read() == DATA[AT : AT + N]
    close(disk)
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "on"
    server.requests.clear()
    assert disk.read() == DATA[AT : AT + N]
    assert server.requests == []
    assert disk.read(AT - 10_000, N + 20_000) == DATA[AT - 10_000 : AT + N + 10_000]
    assert sorted(ranges(server)) == [f"bytes={AT - 10_000}-{AT - 1}", f"bytes={AT + N}-{AT + N + 9_999}"]
    (model,) = stored(disk)
    assert (model["name"], model["url"], model["size"]) == ("model.gguf", server.url, len(DATA))
    assert not model["whole"]


def keep_all(reader, server):
    reader.opened(server.url, cache=True)
    assert reader.read(0, len(DATA)) == DATA
    close(reader)


def test_a_reload_needs_no_network(disk, server):
    keep_all(disk, server)
    (model,) = stored(disk)
    assert (model["present"], model["whole"]) == (len(DATA), True)
    server.requests.clear()
    disk.page.reload()
    assert disk.opened(server.url, cache=True)["cache"] == {"state": "whole", "why": ""}
    assert disk.read(0, len(DATA)) == DATA
    assert ranges(server) == ["bytes=0-0"]                       # is it still that file?
    close(disk)
    server.stop()
    disk.page.reload()
    facts = disk.opened(server.url, cache=True)
    assert facts["cache"] == {"state": "whole", "why": "its server cannot be reached"}
    assert (facts["size"], facts["exposed"]) == (len(DATA), True)
    assert disk.read(0, len(DATA)) == DATA
    assert disk.stats()["network"] == 0


def test_what_came_whole_is_kept(disk, server):
    """And the server's answer to the question whether it is still that file is left before its bytes come."""
    server.faults = lambda request: Fault(whole=True)
    disk.opened(server.url, cache=True)
    close(disk)
    (model,) = stored(disk)
    assert model["whole"]
    disk.page.reload()
    assert disk.opened(server.url, cache=True)["cache"] == {"state": "whole", "why": ""}
    assert disk.read(0, len(DATA)) == DATA
    assert disk.stats()["network"] == 0
    close(disk)
    server.stop()
    disk.page.reload()
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "whole"
    assert disk.read(0, len(DATA)) == DATA


def test_of_what_comes_whole_the_disk_gets_what_it_lacks(disk, server):
    disk.opened(server.url, cache=True)
    assert disk.read() == DATA[AT : AT + N]
    close(disk)
    server.faults = lambda request: Fault(whole=True)
    disk.opened(server.url, cache=True)
    close(disk)
    (model,) = stored(disk)
    assert (model["present"], model["whole"]) == (len(DATA), True)


def test_a_whole_copy_of_an_old_version_is_replaced(disk, server):
    keep_all(disk, server)
    server.put(DATA[::-1])
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "on"
    assert disk.read() == DATA[::-1][AT : AT + N]
    close(disk)
    (model,) = stored(disk)
    assert model["present"] < len(DATA)


def test_a_part_of_an_old_version_is_replaced(disk, server):
    disk.opened(server.url, cache=True)
    disk.read()
    close(disk)
    server.put(DATA[::-1])
    disk.opened(server.url, cache=True)
    assert disk.read() == DATA[::-1][AT : AT + N]


def test_the_only_sign_of_a_version_may_be_its_time(disk, server):
    server.exposed = False
    keep_all(disk, server)
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "whole"
    close(disk)
    server.put(DATA[::-1])
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "on"


def test_without_a_sign_of_the_version_nothing_is_kept(disk, server):
    server.etag = server.last_modified = False
    cache = disk.opened(server.url, cache=True)["cache"]
    assert cache["state"] == "none"
    assert "would show a change" in cache["why"]
    assert disk.read() == DATA[AT : AT + N]
    close(disk)
    assert stored(disk) == []


def test_a_second_tab_reads_from_the_network(disk, server):
    disk.opened(server.url, cache=True)
    got = disk.run(
        """const { list, remove } = await import("/storage.js");
        const second = await open(args.url, { cache: true });
        const [{ key }] = await list(args.worker);
        try {
          return [second.cache.state, await second.read(args.at, args.n), await told(remove(key, args.worker))];
        } finally {
          await second.close();
        }""",
        url=server.url, at=AT, n=N,
    )
    assert got[0] == "busy"
    assert got[1].tobytes() == DATA[AT : AT + N]
    assert "in use" in got[2]["message"]
    assert disk.read() == DATA[AT : AT + N]


def test_what_is_whole_and_in_use_stays_whole(disk, server):
    keep_all(disk, server)
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "whole"
    got = disk.run(
        """const { list, remove } = await import("/storage.js");
        const [{ key }] = await list(args.worker);
        const error = await told(remove(key, args.worker));
        return [error, await list(args.worker)];""",
    )
    assert "in use" in got[0]["message"]
    assert [one["whole"] for one in got[1]] == [True]


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)
def test_tabs_share_what_is_whole(disk, server):
    """Chromium alone knows handles that only read."""
    keep_all(disk, server)
    disk.opened(server.url, cache=True)
    state = disk.run("const second = await open(args.url, { cache: true }); await second.close(); return second.cache.state",
                     url=server.url)
    assert state == "whole"


# Of the map: two slots of 256 KiB, written in turn.
SPOIL = """
const root = await navigator.storage.getDirectory();
const folder = await root.getDirectoryHandle("wasmrt-models");
const [{ key }] = await (await import("/storage.js")).list(args.worker);
const change = async (name, use) => {
  const handle = await folder.getFileHandle(`${key}${name}`);
  const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer());
  const stream = await handle.createWritable();
  await stream.write(use(bytes) ?? bytes);
  await stream.close();
};
"""
SPOILED = {
    "cut": "await change('.map', (map) => map.slice(0, 20))",
    "empty": "await change('.map', () => new Uint8Array(0))",
    "garbage": "await change('.map', (map) => map.map((_, i) => (i * 7919) >> 3))",
    "both torn": "await change('.map', (map) => void ((map[20] ^= 1), (map[262144 + 20] ^= 1)))",
    "no map": "await folder.removeEntry(`${key}.map`)",
    "no data": "await folder.removeEntry(`${key}.gguf`)",
    "data cut": "await change('.gguf', (data) => data.slice(0, 1000))",
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_was_spoiled_is_fetched_anew(disk, server, spoil):
    keep_all(disk, server)
    disk.run(SPOIL + spoil)
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "on"
    server.requests.clear()
    assert disk.read() == DATA[AT : AT + N]
    assert len(server.requests) == 1
    assert disk.read() == DATA[AT : AT + N]
    assert len(server.requests) == 1


def test_a_torn_slot_leaves_the_other(disk, server):
    disk.opened(server.url, cache=True)
    disk.read()
    close(disk)
    disk.opened(server.url, cache=True)                          # a second save, in the other slot
    disk.read(AT + N, N)
    close(disk)
    disk.run(SPOIL + "await change('.map', (map) => void (map[(args.newest & 1) * 262144 + 30] ^= 1))",
             newest=disk.run(SPOIL + """let newest = 0;
             await change('.map', (map) => {
               for (const at of [0, 262144]) {
                 const text = new TextDecoder().decode(map.subarray(at + 8, at + 4000));
                 newest = Math.max(newest, Number(/"sequence":(\\d+)/.exec(text)?.[1] ?? 0));
               }
             });
             return newest;"""))
    disk.opened(server.url, cache=True)
    server.requests.clear()
    assert disk.read() == DATA[AT : AT + N]
    assert server.requests == []
    assert disk.read(AT + N, N) == DATA[AT + N : AT + 2 * N]
    assert len(server.requests) == 1


def test_a_worker_that_is_killed_loses_only_what_was_not_saved(disk, server):
    """After saveSeconds all is."""
    disk.run(
        """const { Worker } = globalThis;
        globalThis.Worker = class extends Worker { constructor(...given) { super(...given); kept.worker = this; } };
        try { kept.source = await open(args.url, { cache: true }) } finally { globalThis.Worker = Worker }""",
        url=server.url,
    )
    disk.read()
    time.sleep(0.6)
    disk.run("kept.worker.terminate(); kept.source = null")
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "on"
    server.requests.clear()
    assert disk.read() == DATA[AT : AT + N]
    assert server.requests == []


def test_a_full_disk_stops_keeping_and_nothing_else(disk, server, site):
    """The page's disk cannot be filled from here: a worker whose files grow to 600 kB only stands for that."""
    site.files["/small-disk.js"] = b"""
const { write } = FileSystemSyncAccessHandle.prototype;
FileSystemSyncAccessHandle.prototype.write = function (data, { at }) {
  if (at + data.length > 600000) throw new DOMException("no room", "QuotaExceededError");
  return write.call(this, data, { at });
};"""
    site.files["/small-disk-worker.js"] = b'import "/small-disk.js"; import "/prefetch-worker.js";'
    disk.worker = "/small-disk-worker.js"
    disk.opened(server.url, cache=True)
    assert disk.read(0, len(DATA)) == DATA
    time.sleep(0.5)
    cache = disk.run("return kept.source.cache")
    assert cache["state"] == "full"
    assert "no more on the disk" in cache["why"]
    close(disk)
    (model,) = stored(disk)
    assert HEAD <= model["present"] < 600_000
    disk.opened(server.url, cache=True)
    assert disk.read(0, len(DATA)) == DATA


def test_a_copy_that_vanishes_while_it_is_open(disk, server, site):
    keep_all(disk, server)
    site.files["/vanishing.js"] = b"""
const { read } = FileSystemSyncAccessHandle.prototype;
FileSystemSyncAccessHandle.prototype.read = function (data, { at }) {
  return at > 400000 ? 0 : read.call(this, data, { at });
};"""
    site.files["/vanishing-worker.js"] = b'import "/vanishing.js"; import "/prefetch-worker.js";'
    disk.worker = "/vanishing-worker.js"
    assert disk.opened(server.url, cache=True)["cache"]["state"] == "whole"
    assert disk.read(1000, 1000) == DATA[1000:2000]
    assert disk.read(450_000, 1000) == DATA[450_000:451_000]
    assert disk.run("return kept.source.cache.state") == "lost"
    server.requests.clear()
    assert disk.read(1000, 1000) == DATA[1000:2000]
    assert len(server.requests) == 1
    close(disk)
    assert stored(disk) == []


def test_a_copy_that_is_deleted_while_copies_are_listed(disk, server, site):
    """By another tab: its name was there, the file no longer is."""
    keep_all(disk, server)
    close(disk)
    assert [model["whole"] for model in stored(disk)] == [True]
    site.files["/deleting.js"] = b"""
FileSystemDirectoryHandle.prototype.getFileHandle = async () => {
  throw new DOMException("it could not be found", "NotFoundError");
};"""
    site.files["/deleting-worker.js"] = b'import "/deleting.js"; import "/prefetch-worker.js";'
    disk.worker = "/deleting-worker.js"
    assert stored(disk) == []


def test_the_disk_is_not_filled_with_bytes_of_a_wrong_answer(disk, server):
    """Of which nothing showed that it was wrong but its end, and after which no right one came."""
    disk.opened(server.url, cache=True)
    too_long = iter([Fault(resize=70_000, flip=100, chunked=True)])
    server.faults = lambda request: next(too_long, Fault(status=503))
    server.bytes_per_second = 1e6                                # so that it comes in several pieces
    assert_error(disk.read(), "status 503", transient=True)
    close(disk)
    server.faults = lambda request: None
    disk.opened(server.url, cache=True)
    assert disk.read() == DATA[AT : AT + N]


def test_models_are_deleted(disk, server):
    keep_all(disk, server)
    left = disk.run(
        """const { estimate, list, persist, remove } = await import("/storage.js");
        const before = await estimate();
        const [{ key }] = await list(args.worker);
        await remove(key, args.worker);
        await remove(key, args.worker);
        return [before, await list(args.worker)];"""
    )
    assert left[0]["quota"] > left[0]["usage"] >= len(DATA)
    assert left[1] == []


def test_a_browser_that_does_not_say_how_much_may_be_kept_is_no_trouble(disk):
    """Models are examined in any case, and what there is room for is a part of that."""
    got = disk.run(
        """const { estimate } = await import("/storage.js");
        const refuse = () => Promise.reject(new DOMException("The operation is insecure.", "SecurityError"));
        for (const name of ["estimate", "persisted"]) Object.defineProperty(navigator.storage, name, { value: refuse });
        return estimate();"""
    )
    assert got == {"usage": 0, "quota": 0, "persisted": False}


# In Python


PYTHON = """
import asyncio, hashlib, json, js
js.wasmrtScripts = f"{js.location.origin}/"
from wasmrt import browser
from wasmrt.errors import SourceError
from wasmrt.store.browser_source import list_files, open_browser
from wasmrt.store.hub import parse
await browser.load("memory")
from wasmrt.store.browser_memory import BrowserMemory

async def failure(work):
    try:
        await work
    except SourceError as error:
        return [str(error), error.transient]

found = {}
memory = BrowserMemory("wasm32" if shared else "plain", 4 << 20)
address = memory.allocate(1 << 20)
source = await open_browser(url, cache=False)
found["facts"] = [source.name, source.size, source.exposed, source.cached]
await source.read_into(at, memory.place(address, n))
found["place"] = hashlib.sha256(memory.read(address, n)).hexdigest()
data = bytearray(n)
await source.read_into(at, memoryview(data))
found["view"] = hashlib.sha256(data).hexdigest()

async def cancelled(seconds):
    reading = asyncio.ensure_future(source.read_into(at, memory.place(address, n)))
    await asyncio.sleep(seconds)
    reading.cancel()
    try:
        await reading
    except asyncio.CancelledError:
        memory.write(address, bytes(n))
    await asyncio.sleep(0.05)
    return reading.cancelled() == (not any(memory.read(address, n)))

found["cancelled"] = [await cancelled(i / 1000) for i in range(8)]
found["stats"] = (await source.stats())["network"] > n
await source.close()
found["closed"] = await failure(source.read_into(0, memoryview(data)))
with open("/tmp/model.gguf", "wb") as file:
    file.write(bytes(range(100)))
for ref in ("/tmp/model.gguf", js.File.new([js.Uint8Array.new(100)], "chosen.gguf")):
    source = await open_browser(ref)
    await source.read_into(10, memory.place(address, 50))
    found[source.name] = memory.read(address, 50).hex()
    await source.close()
found["missing"] = await failure(open_browser(url + ".not", cache=False))
found["files"] = await list_files(parse("hf:owner/repo"), hub)
found["no hub"] = await failure(list_files(parse("hf:owner/nothing"), hub))
memory.close()
found
"""


def test_python_reads_into_a_store(kept_page, site, server):
    entries = [{"type": "file", "path": "a-Q4_0.gguf"}, {"type": "directory", "path": "b"}]
    server.put(json.dumps(entries).encode(), "/api/models/owner/repo/tree/main")
    wheels = [f"/pyodide/{wheel.name}" for wheel in sorted(site.folder.glob("pyodide/*.whl"))]
    names = {"url": server.url, "hub": server.url_of(""), "at": AT, "n": N, "shared": SHARED[kept_page.engine]}
    found = kept_page.run(
        """const { runPython } = await import("/remote/python.js");
        return runPython(args.text, { wheels: args.wheels, globals: args.names });""",
        text=PYTHON, wheels=wheels, names=names,
    )
    digest = hashlib.sha256(DATA[AT : AT + N]).hexdigest()
    assert found["facts"] == [server.url, len(DATA), True, "off"]
    assert (found["place"], found["view"], found["stats"]) == (digest, digest, True)
    assert found["cancelled"] == [True] * 8
    assert "is closed" in found["closed"][0]
    assert found["/tmp/model.gguf"] == bytes(range(10, 60)).hex()
    assert found["chosen.gguf"] == bytes(50).hex()
    assert found["missing"][1] is False
    assert "404" in found["missing"][0]
    assert found["files"] == ["a-Q4_0.gguf"]
    assert "everyone may read" in found["no hub"][0]

"""pull and what follows it: whole files, resumed wherever they were stopped, each byte fetched once, and then no network."""

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from tests.gguf_files import write_llama
from tests.range_server import Fault, RangeServer
from wasmrt import pull as module
from wasmrt.errors import SourceError, UnsupportedError
from wasmrt.pull import pull, shard_urls, targets
from wasmrt.store import cache
from wasmrt.store.cache import CachedFile, CachedSource, place_of, url_key
from wasmrt.store.disk_copy import read_map
from wasmrt.store.http_rules import HttpLimits
from wasmrt.store.remote import default_cache, open_remote, url_of_ref
from wasmrt.store.source import open_source

DATA = random.Random(3).randbytes(1_000_003)
SHA256 = hashlib.sha256(DATA).hexdigest()
RANGE = 64 << 10

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a cache folder that the environment names")


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


PAUSE = HttpLimits.pause


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr(module, "RANGE_BYTES", RANGE)
    monkeypatch.setattr(cache, "PIECE_BYTES", RANGE)
    monkeypatch.setattr(HttpLimits, "pause", lambda *_: 0.0)


@pytest.fixture
def server():
    with RangeServer(DATA) as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Also for processes, where the environment names it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def weights(server):
    """Bytes of the file that were sent, without the probes for its first byte."""
    return sum(r.sent for r in server.requests if r.range and r.range != (0, 1))


async def read(source, offset, n_bytes):
    buffer = bytearray(n_bytes)
    await source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


# Pulling


def test_the_whole_file_side_by_side(server, tmp_path):
    server.faults = lambda _: Fault(delay=0.02)
    seen = []
    (pulled,) = run(pull(server.url, cache_dir=tmp_path, progress=lambda *counts: seen.append(counts)))
    assert pulled.as_dict() == {"path": str(place_of(tmp_path, url_key(server.url)).path), "url": server.url,
                                "n_bytes": len(DATA), "fetched_bytes": len(DATA), "sha256": None}
    assert Path(pulled.path).read_bytes() == DATA
    assert weights(server) == len(DATA)
    assert server.peak == module.PARALLEL
    assert seen == sorted(seen)
    assert seen[-1] == (len(DATA), len(DATA))
    (again,) = run(pull(server.url, cache_dir=tmp_path))
    assert (again.path, again.fetched_bytes) == (pulled.path, 0)
    assert weights(server) == len(DATA)


@pytest.mark.parametrize("to_path", [False, True])
def test_cancelled_at_random_points_and_resumed(server, tmp_path, to_path):
    """Every byte is fetched once; of the ranges that were in flight, again what was cut off."""
    output = tmp_path / "m.gguf" if to_path else None
    luck = random.Random(4)
    server.bytes_per_second = 3e6
    cancels = 0

    async def once(seconds):
        async with asyncio.timeout(seconds):
            return await pull(server.url, output, cache_dir=tmp_path)

    while True:
        try:
            (pulled,) = run(once(luck.uniform(0.02, 0.15)))
            break
        except TimeoutError:
            cancels += 1
        assert cancels < 100
    assert cancels >= 2
    assert Path(pulled.path).read_bytes() == DATA
    assert len(DATA) <= weights(server) <= len(DATA) + cancels * module.PARALLEL * RANGE
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == (["m.gguf"] if to_path else [])


def test_progress_begins_with_what_is_there(server, tmp_path):
    """So that a bar's rate is of what comes, and not of what came another time."""
    server.bytes_per_second = 3e6
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(pull(server.url, cache_dir=tmp_path), 0.2))
    server.bytes_per_second = None
    sent, seen = weights(server), []
    (pulled,) = run(pull(server.url, cache_dir=tmp_path, progress=lambda *counts: seen.append(counts)))
    assert seen[0] == (len(DATA) - pulled.fetched_bytes, len(DATA))
    assert 0 < seen[0][0] <= sent
    assert seen == sorted(seen)


def test_ranges_grow_until_they_take_a_while_and_shrink_on_a_slow_line(monkeypatch):
    monkeypatch.setattr(module, "RANGE_BYTES", 8 << 20)
    for rate in (10e3, 200e3, 3e6, 1e9):  # bytes per second
        n_bytes, sizes = module.FIRST_BYTES, []
        for _ in range(10):
            sizes.append(n_bytes)
            n_bytes = module.next_bytes(n_bytes, n_bytes / rate)
        seconds = sizes[-1] / rate
        assert sizes[-1] == sizes[-2]
        assert module.SHORT <= seconds <= module.LONG or sizes[-1] in (module.LEAST_BYTES, module.RANGE_BYTES)


def test_ranges_are_taken_off_what_is_missing_in_order_and_once():
    gaps = [(3, 10), (20, 21), (30, 47)]
    missing, taken = deque(gaps), []
    while missing:
        taken.append(module.take(missing, 1 + len(taken) % 5))
    assert [byte for start, end in taken for byte in range(start, end)] == [byte for gap in gaps for byte in range(*gap)]
    assert all(0 < end - start <= 1 + i % 5 for i, (start, end) in enumerate(taken))


KILLED = """
import asyncio, sys
from pathlib import Path
from wasmrt import pull
from wasmrt.store import cache
pull.RANGE_BYTES = cache.PIECE_BYTES = cache.SAVE_BYTES = 16 << 10
asyncio.run(pull.pull(sys.argv[1], cache_dir=Path(sys.argv[2])))
"""


def test_killed_at_random_points_and_resumed(server, tmp_path):
    """What the map had by then is never fetched again, and all of it is right."""
    luck = random.Random(5)
    place = place_of(tmp_path, url_key(server.url))
    server.bytes_per_second = 2e6
    present = [0]
    for _ in range(4):
        before = weights(server)
        with subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(tmp_path)]) as child:
            target = before + luck.uniform(0.5, 3) * RANGE
            while weights(server) < target and child.poll() is None:
                time.sleep(0.005)
            time.sleep(luck.uniform(0, 0.1))
            child.kill()
            child.wait(20)
        while server.in_flight:
            time.sleep(0.005)
        found = read_map(place.map)
        present.append(found.present.n_bytes if found else 0)
    assert present == sorted(present)
    assert present[-1] > 0
    server.bytes_per_second = None
    before = weights(server)
    (pulled,) = run(pull(server.url, cache_dir=tmp_path))
    assert Path(pulled.path).read_bytes() == DATA
    assert weights(server) - before == pulled.fetched_bytes == len(DATA) - present[-1]


def test_a_link_that_breaks_now_and_then(server, tmp_path):
    luck = random.Random(6)
    server.faults = lambda _: Fault(cut=luck.randrange(1, RANGE)) if luck.random() < 0.3 else None
    (pulled,) = run(pull(server.url, cache_dir=tmp_path))
    assert Path(pulled.path).read_bytes() == DATA


def test_a_server_that_stays_away_keeps_what_came(server, tmp_path):
    """The error is one line, and the next try goes on."""
    server.faults = lambda r: Fault(status=503) if len(server.requests) > 6 else None
    with pytest.raises(SourceError, match="503") as caught:
        run(pull(server.url, cache_dir=tmp_path))
    assert "\n" not in str(caught.value)
    came = weights(server) - sum(r.sent for r in server.requests if r.status == 503)
    server.faults = lambda _: None
    (pulled,) = run(pull(server.url, cache_dir=tmp_path))
    assert pulled.fetched_bytes <= len(DATA) - came + module.PARALLEL * RANGE
    assert pulled.fetched_bytes < len(DATA)
    assert Path(pulled.path).read_bytes() == DATA


def test_a_wrong_hash(tmp_path):
    """A bit that flipped on the way: an error, and the copy is gone; the next try is right."""
    with RangeServer(DATA, signed=True) as server:
        server.faults = lambda r: Fault(flip=100) if r.headers.get("range", "").startswith(f"bytes={3 * RANGE}-") else None
        with pytest.raises(SourceError, match=r"SHA-256.*deleted") as caught:
            run(pull(server.url, cache_dir=tmp_path))
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.rglob("*.gguf"))
        assert not list(tmp_path.rglob("*.part"))
        server.faults = lambda _: None
        seen = []
        (pulled,) = run(pull(server.url, cache_dir=tmp_path, checking=lambda *counts: seen.append(counts)))
        assert pulled.sha256 == SHA256
        assert seen[-1] == (len(DATA), len(DATA))
        assert Path(pulled.path).read_bytes() == DATA


def test_a_signature_that_expires_meanwhile(tmp_path):
    with RangeServer(DATA, signed=True) as server:

        places = {f"bytes={i * RANGE}-{(i + 1) * RANGE - 1}" for i in (4, 10)}

        def expire(request):
            if request.headers["range"] in places:
                places.discard(request.headers["range"])
                server.expire_signatures()

        server.faults = expire
        (pulled,) = run(pull(server.url, cache_dir=tmp_path))
        assert pulled.sha256 == SHA256
        assert 403 in {r.status for r in server.requests}


def test_another_version_meanwhile(server, tmp_path):
    """Bytes of two versions are never mixed."""

    def replace(request):
        if len(server.requests) == 6:
            server.put(DATA[::-1])

    server.faults = replace
    with pytest.raises(SourceError, match="changed"):
        run(pull(server.url, cache_dir=tmp_path))
    (pulled,) = run(pull(server.url, cache_dir=tmp_path))
    assert Path(pulled.path).read_bytes() == DATA[::-1]
    assert pulled.fetched_bytes == len(DATA)


def test_a_full_disk(server, tmp_path, monkeypatch):
    """Before a byte is fetched where that is known, otherwise at once; what is there stays."""
    shortage = type(cache.Room(None)).shortage
    monkeypatch.setattr("wasmrt.store.room.Room.shortage", lambda *_: 77)
    with pytest.raises(SourceError, match=r"77 more than there is room for"):
        run(pull(server.url, cache_dir=tmp_path))
    assert weights(server) == 0
    monkeypatch.setattr("wasmrt.store.room.Room.shortage", shortage)
    if not hasattr(os, "pwrite"):
        return
    pwrite, left = os.pwrite, [5]

    def full(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(SourceError, match="No space left on device"):
        run(pull(server.url, cache_dir=tmp_path))
    monkeypatch.setattr(os, "pwrite", pwrite)
    (pulled,) = run(pull(server.url, cache_dir=tmp_path))
    assert pulled.fetched_bytes == len(DATA) - 5 * RANGE
    assert Path(pulled.path).read_bytes() == DATA


def test_while_someone_else_fetches_it(server, tmp_path):
    async def check():
        other = await open_remote(server.url, cache_dir=tmp_path)
        with pytest.raises(SourceError, match="another process"):
            await pull(server.url, cache_dir=tmp_path)
        await other.close()
        assert (await pull(server.url, cache_dir=tmp_path))[0].n_bytes == len(DATA)

    run(check())


@pytest.mark.parametrize("ref", ["model.gguf", "file:///m.gguf", "ftp://x/m.gguf"])
def test_what_is_not_remote(ref):
    with pytest.raises(UnsupportedError, match="nothing to fetch"):
        run(pull(ref))


# To a path


def test_to_a_path(server, tmp_path):
    (tmp_path / "folder").mkdir()
    for output, path in (("m.gguf", "m.gguf"), ("folder", "folder/model.gguf"), ("new/", "new/model.gguf")):
        text = str(tmp_path / output) + ("/" if output.endswith("/") else "")
        (pulled,) = run(pull(server.url, text, cache_dir=tmp_path / "cache"))
        assert pulled.path == str(tmp_path / path)
        assert (tmp_path / path).read_bytes() == DATA
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["m.gguf", "model.gguf", "model.gguf"]


def test_to_a_path_that_is_taken(tmp_path):
    """The file is left alone; one that is right already is not fetched."""
    path = tmp_path / "m.gguf"
    with RangeServer(DATA, signed=True) as server:
        for content in (b"mine", DATA[::-1]):
            path.write_bytes(content)
            with pytest.raises(SourceError, match="exists and is not"):
                run(pull(server.url, path, cache_dir=tmp_path / "cache"))
            assert path.read_bytes() == content
        path.write_bytes(DATA)
        (pulled,) = run(pull(server.url, path, cache_dir=tmp_path / "cache"))
        assert pulled.fetched_bytes == 0
        assert weights(server) == 0


def test_to_a_path_out_of_the_cache(server, tmp_path):
    run(pull(server.url, cache_dir=tmp_path / "cache"))
    sent = weights(server)
    run(pull(server.url, tmp_path / "m.gguf", cache_dir=tmp_path / "cache"))
    assert (tmp_path / "m.gguf").read_bytes() == DATA
    assert weights(server) == sent


def test_last_modified_tells_versions_apart_too(server, tmp_path):
    server.etag = False
    assert [run(pull(server.url, cache_dir=tmp_path))[0].fetched_bytes for _ in range(2)] == [len(DATA), 0]
    server.put(DATA[::-1])
    assert run(pull(server.url, cache_dir=tmp_path))[0].fetched_bytes == len(DATA)
    (path,) = tmp_path.glob("*/*.gguf")
    assert path.read_bytes() == DATA[::-1]


def test_a_file_without_a_version_goes_to_a_path_only(server, tmp_path, caplog):
    server.etag = server.last_modified = False
    with pytest.raises(SourceError, match="cannot be cached"):
        run(pull(server.url, cache_dir=tmp_path / "cache"))
    run(pull(server.url, tmp_path / "m.gguf", cache_dir=tmp_path / "cache"))
    assert (tmp_path / "m.gguf").read_bytes() == DATA


# Shards


@pytest.mark.parametrize(("url", "names"), [
    ("http://h/m-00002-of-00003.gguf?x=1", [f"http://h/m-0000{i}-of-00003.gguf?x=1" for i in (1, 2, 3)]),
    ("http://h/m.gguf", ["http://h/m.gguf"]),
    ("http://h/m-00003-of-00002.gguf", ["http://h/m-00003-of-00002.gguf"]),
    ("http://h/m-00000-of-00000.gguf", ["http://h/m-00000-of-00000.gguf"]),
    ("http://h/get?m-00001-of-00002.gguf", ["http://h/get?m-00001-of-00002.gguf"]),
])
def test_which_files_a_model_has(url, names):
    assert shard_urls(url) == names


def test_too_many_shards():
    with pytest.raises(SourceError, match="99999 files") as caught:
        shard_urls("http://user:s3cret@h/m-00001-of-99999.gguf?s3cret")
    assert "s3cret" not in str(caught.value)


def test_where_shards_go(tmp_path):
    urls = shard_urls("http://h/a/m-00001-of-00002.gguf?x")
    assert targets(urls, f"{tmp_path}/") == [tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"]
    with pytest.raises(SourceError, match="2 files"):
        targets(urls, tmp_path / "m.gguf")


def shards():
    return {f"/o/m-0000{i}-of-00003.gguf": random.Random(i).randbytes(100_000 + i) for i in (1, 2, 3)}


@pytest.mark.parametrize("to_path", [False, True])
def test_all_shards(tmp_path, to_path):
    """Side by side under their names, whichever was named; progress is of all together."""
    files = shards()
    with RangeServer(files) as server:
        seen = []
        output = f"{tmp_path}/out/" if to_path else None
        done = run(pull(server.url_of("/o/m-00002-of-00003.gguf"), output, cache_dir=tmp_path / "cache",
                        progress=lambda *counts: seen.append(counts)))
    assert [Path(pulled.path).read_bytes() for pulled in done] == list(files.values())
    assert [os.path.basename(pulled.path) for pulled in done] == [name.rpartition("/")[2] for name in files]
    assert len({os.path.dirname(pulled.path) for pulled in done}) == 1
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {300_006}
    assert seen[-1][0] == 300_006


def test_a_missing_shard_is_noticed_first(tmp_path):
    files = shards()
    del files["/o/m-00003-of-00003.gguf"]
    with RangeServer(files) as server:
        with pytest.raises(SourceError, match=r"00003-of-00003.*404"):
            run(pull(server.url, cache_dir=tmp_path))
        assert weights(server) == 0


# Opening


def test_open_source_goes_through_the_cache(server, monkeypatch, tmp_path):
    monkeypatch.setattr("wasmrt.store.remote.default_cache", lambda: tmp_path / "default")

    async def check():
        for _ in range(2):
            source = await open_source(server.url)
            assert await read(source, 0, len(DATA)) == DATA
            await source.close()
        assert isinstance(source, CachedFile)

    run(check())
    assert weights(server) == len(DATA)


@linux
def test_the_systems_folder(tmp_path):
    assert default_cache() == tmp_path / "xdg" / "wasmrt" / "models"


def test_a_whole_copy_serves_soon_when_its_server_asks_to_wait(server, tmp_path, monkeypatch, caplog):
    run(pull(server.url, cache_dir=tmp_path))
    monkeypatch.setattr("wasmrt.store.remote.PROBE_SECONDS", 0.1)
    monkeypatch.setattr(HttpLimits, "pause", PAUSE)
    server.faults = lambda request: Fault(status=503, headers={"Retry-After": "30"})

    async def check():
        async with asyncio.timeout(5):
            source = await open_remote(server.url, cache_dir=tmp_path)
        assert isinstance(source, CachedFile)
        await source.close()

    run(check())
    assert "without asking its server" in caplog.text


def test_a_whole_copy_serves_when_its_server_does_not(server, tmp_path, caplog):
    async def check():
        with pytest.raises(SourceError, match="no whole copy"):
            await open_remote(server.url, cache_dir=tmp_path, offline=True)
        await pull(server.url, cache_dir=tmp_path)
        server.faults = lambda _: Fault(status=503)
        source = await open_remote(server.url, cache_dir=tmp_path)
        assert "without asking its server" in caplog.text
        assert await read(source, 0, len(DATA)) == DATA
        await source.close()
        server.stop()
        n = len(server.requests)
        for offline in (False, True):
            source = await open_remote(server.url, cache_dir=tmp_path, offline=offline)
            assert isinstance(source, CachedFile)
            await source.close()
        assert len(server.requests) == n

    run(check())


def test_half_a_copy_needs_its_server(server, tmp_path):
    async def check():
        source = await open_remote(server.url, cache_dir=tmp_path)
        await read(source, 0, 1000)
        await source.close()
        server.stop()
        for offline in (False, True):
            with pytest.raises(SourceError):
                await open_remote(server.url, cache_dir=tmp_path, offline=offline)

    run(check())


def test_a_copy_that_is_gone_from_the_server_is_an_error(server, tmp_path):
    """The server answers, so it decides."""
    run(pull(server.url, cache_dir=tmp_path))
    server.remove()
    with pytest.raises(SourceError, match="404"):
        run(open_remote(server.url, cache_dir=tmp_path))


def test_a_new_version_replaces_a_whole_copy(server, tmp_path):
    async def check():
        await pull(server.url, cache_dir=tmp_path)
        server.put(DATA[::-1])
        source = await open_remote(server.url, cache_dir=tmp_path)
        assert isinstance(source, CachedSource)
        assert await read(source, 0, len(DATA)) == DATA[::-1]
        await source.close()
        source = await open_remote(server.url, cache_dir=tmp_path)
        assert isinstance(source, CachedFile)
        assert await read(source, 0, len(DATA)) == DATA[::-1]
        await source.close()

    run(check())


def test_from_a_hub_and_without_it(tmp_path, caplog):
    """The quant's file is looked for among the copies where the hub cannot be asked."""
    tree = json.dumps([{"type": "file", "path": path} for path in ("m-Q4_0.gguf", "m-Q8_0.gguf")]).encode()
    files = {"/o/r/resolve/main/m-Q8_0.gguf": DATA, "/api/models/o/r/tree/main": tree}

    async def check(server):
        endpoint = server.url_of("")
        (pulled,) = await pull("hf:o/r:Q8_0", cache_dir=tmp_path, endpoint=endpoint)
        assert pulled.url == server.url
        server.stop()
        assert await url_of_ref("hf:o/r:q8_0", cache_dir=tmp_path, endpoint=endpoint) == server.url
        for ref in ("hf:o/r:Q8_0", "hf:o/r", "hf:o/r/m-Q8_0.gguf"):
            source = await open_remote(ref, cache_dir=tmp_path, endpoint=endpoint, offline=True)
            assert await read(source, 0, len(DATA)) == DATA
            await source.close()
        with pytest.raises(SourceError, match="no file of 'Q4_0'"):
            await open_remote("hf:o/r:Q4_0", cache_dir=tmp_path, endpoint=endpoint, offline=True)
        with pytest.raises(SourceError, match="no copy of 'hf:o/other'"):
            await open_remote("hf:o/other", cache_dir=tmp_path, endpoint=endpoint, offline=True)

    with RangeServer(files) as server:
        run(check(server))


# The command


def wasmrt(*arguments, **options):
    command = [sys.executable, "-m", "wasmrt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_the_command_prints_the_path(server, tmp_path):
    done = wasmrt("pull", server.url, "--cache", tmp_path / "c")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.rstrip("\n")).read_bytes() == DATA
    done = wasmrt("pull", server.url, "--cache", tmp_path / "c", "--json", "-o", tmp_path / "m.gguf")
    (file,) = json.loads(done.stdout)["files"]
    assert file == {"path": str(tmp_path / "m.gguf"), "url": server.url, "n_bytes": len(DATA), "fetched_bytes": len(DATA),
                    "sha256": None}


@pytest.mark.parametrize("ref", ["nothing.gguf", "hf:o", "http://127.0.0.1:9/m.gguf"])
def test_errors_of_the_command_are_one_line(ref, tmp_path):
    done = wasmrt("pull", ref, "--cache", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupted_command_goes_on_later(server, tmp_path):
    server.bytes_per_second = 4e5
    command = [sys.executable, "-m", "wasmrt", "pull", server.url, "--cache", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while weights(server) < 200_000:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (130, "")
    assert err == "note: what was fetched stays; the same command goes on from there\n"
    server.bytes_per_second = None
    assert wasmrt("pull", server.url, "--cache", tmp_path).returncode == 0
    assert next(tmp_path.rglob("*.gguf")).read_bytes() == DATA


@linux
@pytest.mark.usefixtures("cpu")
def test_run_needs_no_network_for_weights_afterwards(tmp_path):
    """Nor after it was run once: the second time the server is asked for one byte, to see whether the file has changed."""
    path = write_llama(tmp_path / "tiny.gguf")
    arguments = ("-p", "he", "-n", "3", "--temp", "0")
    expected = wasmrt("run", path, *arguments).stdout
    for first in ("pull", "run"):
        with RangeServer({f"/{first}.gguf": path}) as server:
            assert wasmrt(first, server.url, *(arguments if first == "run" else ())).returncode == 0
            server.requests.clear()
            done = wasmrt("run", server.url, *arguments)
            assert (done.returncode, done.stdout) == (0, expected)
            assert [r.range for r in server.requests] == [(0, 1)]

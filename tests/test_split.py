"""Split models: several files are one model, and a set of files that is none is a typed error with nothing left open."""

import asyncio
import functools
import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wasmrt
from tests import raw_gguf as raw
from tests.gguf_files import N_VOCAB, write_llama
from tests.range_server import RangeServer
from wasmrt.engine import open_tokenizer
from wasmrt.errors import FormatError, SourceError, UnsupportedError, WasmrtError
from wasmrt.gguf.reader import parse_header
from wasmrt.gguf.split import MAX_SHARDS
from wasmrt.inspect import describe
from wasmrt.store import open as module
from wasmrt.store import remote
from wasmrt.store.file import FileSource
from wasmrt.store.open import locate, name_of, open_model, read_header, sibling
from wasmrt.store.source import MemorySource, open_source
from wasmrt.store.split import SHARD_ALIGNMENT, SplitSource

IDS = [1, 40, 50, 45, 60, 41, 77, 52]


def run(coroutine):
    """Bounded, so that a hang fails."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("whole") / "whole.gguf")


@pytest.fixture
def opened(monkeypatch):
    """The files opened so far."""
    files = []
    open_file = FileSource.open

    async def watched(name):
        files.append(await open_file(name))
        return files[-1]

    monkeypatch.setattr(FileSource, "open", watched)
    return files


def shard_path(folder, number, count, prefix="m"):
    return folder / f"{prefix}-{number:05}-of-{count:05}.gguf"


def split(whole, folder, groups, *, split_keys=None, more=None):
    """A whole model's tensors in one file a group, numbers in place of names; returns the first file.

    split_keys: shard -> its (split.no, split.count, split.tensors.count), where they are not the right ones; None leaves one
    out. more: shard -> metadata entries to add.
    """
    data = whole.read_bytes()
    header = parse_header(data)
    tensors = list(header.tensors.values())
    n_info = sum(24 + len(t.name.encode()) + 8 * len(t.shape) for t in tensors)
    metadata = data[24 : header.n_bytes - n_info]
    total = len(tensors)
    for i, group in enumerate(groups):
        numbers = (split_keys or {}).get(i, (i, len(groups), total))
        kinds = {"split.no": raw.U16, "split.count": raw.U16, "split.tensors.count": raw.I32}
        entries = [
            raw.number_entry(key, kind, n) for (key, kind), n in zip(kinds.items(), numbers, strict=True) if n is not None
        ]
        entries += (more or {}).get(i, [])
        infos, body = [], b""
        for number in group:
            t = tensors[number]
            infos.append(raw.tensor(t.name, t.shape, t.type.id, len(body)))
            body += data[t.offset : t.end]
            body += bytes(-len(body) % 32)
        first = [metadata] if i == 0 else []
        head = raw.header(first + entries, infos, n_entries=len(entries) + (len(header.metadata) if first else 0))
        shard_path(folder, i + 1, len(groups)).write_bytes(head + bytes(-len(head) % 32) + body)
    return shard_path(folder, 1, len(groups))


def evenly(whole, n):
    """The numbers of all tensors in n groups."""
    total = len(parse_header(whole.read_bytes()).tensors)
    return [list(range(total * i // n, total * (i + 1) // n)) for i in range(n)]


async def read(source, offset, n_bytes):
    buffer = bytearray(n_bytes)
    await source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


# One model


def test_a_model_split_by_other_code_answers_as_the_whole_one(tmp_path, whole, device, monkeypatch):
    """Split by the gguf package. The same bits: the same numbers in the same order."""
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "GGUFWriter", functools.partial(gguf.GGUFWriter, split_max_tensors=5))
        write_llama(tmp_path / "m.gguf")
    count = len(list(tmp_path.iterdir()))
    assert count == 5
    with wasmrt.load(shard_path(tmp_path, 1, count), device=device) as model, wasmrt.load(whole, device=device) as wanted:
        assert np.array_equal(model.logits(IDS), wanted.logits(IDS))
        answers = [m.generate(IDS, max_tokens=20) for m in (model, wanted)]
        for answer in answers:
            list(answer)
        assert answers[0].tokens == answers[1].tokens
        assert model.plan.weight_bytes == wanted.plan.weight_bytes


@pytest.mark.parametrize("n", [2, 3, "one each", "first empty", "last empty"])
def test_tensors_are_where_the_header_says(tmp_path, whole, n, opened):
    total = len(parse_header(whole.read_bytes()).tensors)
    groups = {"one each": evenly(whole, total), "first empty": [[], *evenly(whole, 2)], "last empty": [*evenly(whole, 2), []]}
    path = split(whole, tmp_path, groups[n] if isinstance(n, str) else evenly(whole, n))

    async def check():
        one = await FileSource.open(whole)
        wanted = await read_header(one)
        source, header = await open_model(path)
        assert source.name == str(path)
        assert list(header.tensors) == list(wanted.tensors)
        offsets = [t.offset for t in header.tensors.values()]
        assert offsets == sorted(offsets)
        assert header.data_offset <= offsets[0]
        for name, tensor in header.tensors.items():
            other = wanted.tensors[name]
            assert (tensor.type, tensor.shape, tensor.n_bytes) == (other.type, other.shape, other.n_bytes)
            assert tensor.offset % 32 == 0
            assert tensor.end <= source.size
            assert await read(source, tensor.offset, tensor.n_bytes) == await read(one, other.offset, other.n_bytes)
        assert header.metadata["tokenizer.ggml.tokens"][5] == wanted.metadata["tokenizer.ggml.tokens"][5]
        await one.close()
        await source.close()
        assert all(file._file.closed for file in opened)

    run(check())


def test_inspect_and_the_tokenizer_take_split_models(tmp_path, whole):
    path = split(whole, tmp_path, evenly(whole, 3))
    found, wanted = run(describe(path)), run(describe(whole))
    assert found["runs"]
    assert found["n_parameters"] == wanted["n_parameters"]
    assert run(open_tokenizer(path)).n_vocab == N_VOCAB


def test_a_model_of_one_shard_is_a_plain_file(tmp_path):
    for name in ("m-00001-of-00001.gguf", "any.gguf"):
        path = write_llama(tmp_path / name, extra={"split.count": 1})
        source, _ = run(open_model(path))
        assert isinstance(source, FileSource)
        run(source.close())


def test_a_name_alone_splits_nothing(tmp_path):
    source, _ = run(open_model(write_llama(tmp_path / "m-00002-of-00003.gguf")))
    run(source.close())


def test_references_to_local_files(tmp_path, whole, monkeypatch):
    """The others are looked for beside the first, however that is named."""
    folder = tmp_path / "with space%"
    folder.mkdir()
    path = split(whole, folder, evenly(whole, 2))
    monkeypatch.chdir(folder)
    for ref in (path, str(path), path.name, Path(path.name), path.as_uri(), os.path.join("..", folder.name, path.name)):
        assert run(describe(ref))["runs"], ref
    if os.name == "posix":                                       # a path that looks like a hub's name
        monkeypatch.chdir(tmp_path)
        folder.rename(tmp_path / "hf:x")
        assert run(describe(Path("hf:x", path.name)))["runs"]


@pytest.mark.parametrize(("ref", "wanted"), [
    ("https://h.org/a/b/m-00001-of-00002.gguf", "https://h.org/a/b/OTHER"),
    ("https://h.org/a/m-00001-of-00002.gguf?key=a/b?c#d/e", "https://h.org/a/OTHER?key=a/b?c#d/e"),
    ("HTTP://u:p@h.org:81/m-00001-of-00002.gguf", "HTTP://u:p@h.org:81/OTHER"),
    ("hf:owner/repo/m-00001-of-00002.gguf", "hf:owner/repo/OTHER"),
    ("hf:owner/repo@refs/pr/1/Q4/m-00001-of-00002.gguf", "hf:owner/repo@refs/pr/1/Q4/OTHER"),
    ("hf:owner/repo:Q4_K_M", "https://hub.org/owner/repo/resolve/main/Q4/OTHER"),
    ("HF:owner/repo", "https://hub.org/owner/repo/resolve/main/Q4/OTHER"),
    ("a/m-00001-of-00002.gguf", Path("a/OTHER")),
    ("m-00001-of-00002.gguf", Path("OTHER")),
    (Path("hf:a/m-00001-of-00002.gguf"), Path("hf:a/OTHER")),
    ("file:///a%20b/m-00001-of-00002.gguf", Path("/a b/OTHER")),
])
def test_what_lies_beside_a_reference(ref, wanted):
    first = MemorySource(b"", "https://hub.org/owner/repo/resolve/main/Q4/m-00001-of-00002.gguf")
    located = locate(ref, first)
    assert name_of(located) == "m-00001-of-00002.gguf"
    assert sibling(located, "OTHER") == wanted


def test_shards_behind_urls(tmp_path, whole, monkeypatch):
    """A query is kept, because it may be what opens the door, and told nobody."""
    path = split(whole, tmp_path, evenly(whole, 3))
    asked = []

    async def from_folder(ref, cache):
        asked.append(ref)
        name = ref.partition("?")[0].rpartition("/")[2]
        if not (tmp_path / name).exists():
            raise SourceError(f"https://h.org/{name} answers 503", transient=True)
        return MemorySource((tmp_path / name).read_bytes(), f"https://h.org/{name}")

    monkeypatch.setattr(module, "open_source", from_folder)
    ref = f"https://h.org/{path.name}?key=s3cret"
    source, header = run(open_model(ref))
    assert len(header.tensors) == len(parse_header(whole.read_bytes()).tensors)
    assert asked == [ref.replace("00001-of", f"0000{i}-of") for i in (1, 2, 3)]
    run(source.close())
    shard_path(tmp_path, 2, 3).unlink()
    with pytest.raises(SourceError, match="shard 2 of 3 cannot be had") as caught:
        run(open_model(ref))
    assert caught.value.transient
    assert "s3cret" not in str(caught.value)


def test_shards_of_a_web_server(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(remote, "default_cache", lambda: tmp_path / "cache")
    split(whole, tmp_path, evenly(whole, 3))
    shards = {f"/folder/{name.name}": name for name in (shard_path(tmp_path, i, 3) for i in (1, 2, 3))}

    async def check(url):
        one = await FileSource.open(whole)
        wanted = await read_header(one)
        source, header = await open_model(url)
        for name, tensor in header.tensors.items():
            other = wanted.tensors[name]
            assert await read(source, tensor.offset, tensor.n_bytes) == await read(one, other.offset, other.n_bytes)
        await one.close()
        await source.close()

    with RangeServer(shards) as server:
        run(check(server.url))


# What is no model


def renamed(folder, a, b):
    a, b = (shard_path(folder, n, 3) for n in (a, b))
    aside = folder / "aside"
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


def missing(whole, folder):
    path = split(whole, folder, evenly(whole, 3))
    shard_path(folder, 3, 3).unlink()
    return path


def cut_short(whole, folder):
    path = split(whole, folder, evenly(whole, 3))
    os.truncate(shard_path(folder, 2, 3), shard_path(folder, 2, 3).stat().st_size - 100)
    return path


def a_folder(whole, folder):
    path = missing(whole, folder)
    shard_path(folder, 3, 3).mkdir()
    return path


def no_gguf(whole, folder):
    path = split(whole, folder, evenly(whole, 3))
    shard_path(folder, 2, 3).write_bytes(b"<html>not found</html>")
    return path


def duplicate(whole, folder):
    path = split(whole, folder, evenly(whole, 3))
    shard_path(folder, 2, 3).write_bytes(path.read_bytes())
    return path


def reordered(whole, folder):
    path = split(whole, folder, evenly(whole, 3))
    renamed(folder, 2, 3)
    return path


def first_reordered(whole, folder):
    path = split(whole, folder, evenly(whole, 3))
    renamed(folder, 1, 2)
    return path


def another_named(whole, folder):
    split(whole, folder, evenly(whole, 3))
    return shard_path(folder, 2, 3)


def without_its_name(whole, folder):
    return split(whole, folder, evenly(whole, 3)).rename(folder / "model.gguf")


def in_memory(whole, folder):
    return split(whole, folder, evenly(whole, 3)).read_bytes()


def tensor_twice(whole, folder):
    groups = evenly(whole, 3)
    groups[1][0] = groups[0][0]
    return split(whole, folder, groups)


def of_keys(shard, *numbers):
    return lambda whole, folder: split(whole, folder, evenly(whole, 3), split_keys={shard: numbers})


def with_entry(*entries):
    return lambda whole, folder: split(whole, folder, evenly(whole, 3), more={1: list(entries)})


def with_tensors(change):
    """Shards of which one has a tensor less or more than they say."""
    def make(whole, folder):
        groups = evenly(whole, 3)
        if change < 0:
            groups[2].pop()
        return split(whole, folder, groups, split_keys={0: (0, 3, 19), 1: (1, 3, 19), 2: (2, 3, 19)} if change > 0 else None)
    return make


def above(whole, folder):
    """The first shard is a link to another folder: its siblings are looked for beside the link."""
    (folder / "away").mkdir()
    path = split(whole, folder / "away", evenly(whole, 3))
    link = folder / path.name
    link.symlink_to(path)
    return link


TWO, THREE = "m-00002-of-00003.gguf: ", "m-00003-of-00003.gguf"

WRONG = [
    (missing, SourceError, f"m-00001-of-00003.gguf: shard 3 of 3 cannot be had: cannot open .*{THREE}"),
    (a_folder, SourceError, f"shard 3 of 3 cannot be had: cannot open .*{THREE}.* directory"),
    (cut_short, FormatError, f"{TWO}tensor .* bytes are missing"),
    (no_gguf, FormatError, f"{TWO}not a GGUF file.*web page"),
    (duplicate, FormatError, f"{TWO}the metadata says shard 1 of 3, it should be shard 2 of 3"),
    (reordered, FormatError, f"{TWO}the metadata says shard 3 of 3, it should be shard 2 of 3"),
    (first_reordered, FormatError, "00001.*: the name says shard 1 of 3, the metadata shard 2 of 3"),
    (another_named, UnsupportedError, f"{TWO}this is shard 2 of 3; open the first, 'm-00001-of-00003.gguf'"),
    (without_its_name, UnsupportedError, r"model.gguf: this is shard 1 of 3, but it is not called \.\.\.-00001-of-00003.gguf"),
    (in_memory, UnsupportedError, "one of several shards.*give the first's path"),
    (tensor_twice, FormatError, f"{TWO}tensor '.*' is also in .*m-00001"),
    (of_keys(0, 0, 4, 21), FormatError, "the name says shard 1 of 3, the metadata shard 1 of 4"),
    (of_keys(0, 0, 0, 21), FormatError, "split.count"),
    (of_keys(0, 0, MAX_SHARDS + 1, 21), FormatError, "split.count"),
    (of_keys(0, 3, 3, 21), FormatError, "split.no"),
    (of_keys(0, None, 3, 21), FormatError, "'split.no' should be an integer, found no such key"),
    (of_keys(0, 0, 3, None), FormatError, "'split.tensors.count' should be an integer, found no such key"),
    (of_keys(1, 1, 4, 21), FormatError, f"{TWO}the metadata says shard 2 of 4, it should be shard 2 of 3"),
    (of_keys(1, 1, None, 21), FormatError, f"{TWO}the metadata says shard 2 of 1"),
    (of_keys(1, None, 3, 21), FormatError, "00002-of-00003.gguf: metadata key 'split.no'"),
    (of_keys(2, 2, 3, 20), FormatError,
     f"{THREE}: 'split.tensors.count' differs from shard 1's .the integer 20, there the integer 21."),
    (with_tensors(-1), FormatError, "the 3 shards have 20 tensors together, should have 21"),
    (with_tensors(+1), FormatError, "the 3 shards have 21 tensors together, should have 19"),
    (with_entry(raw.entry("general.architecture", raw.STRING, raw.string("qwen2"))), FormatError,
     f"{TWO}'general.architecture' differs from shard 1's .the string 'qwen2', there the string 'llama'.; .*another model"),
    (with_entry(raw.number_entry("llama.block_count", raw.U32, 3)), FormatError,
     "'llama.block_count' differs .*the integer 3, there"),
    (with_entry(raw.strings_entry("tokenizer.ggml.tokens", ["<unk>"] * N_VOCAB)), FormatError, "'tokenizer.ggml.tokens'"),
    (with_entry(raw.array_entry("tokenizer.ggml.scores", raw.F32, bytes(4 * N_VOCAB), N_VOCAB)), FormatError, "ggml.scores"),
    (above, SourceError, "shard 2 of 3 cannot be had"),
]


@pytest.mark.parametrize(("make", "kind", "match"), WRONG, ids=[match for _, _, match in WRONG])
def test_files_that_are_not_one_model(tmp_path, whole, opened, make, kind, match):
    if make is above and os.name != "posix":
        pytest.skip("links need a privilege on Windows")
    assert len(parse_header(whole.read_bytes()).tensors) == 21
    ref = make(whole, tmp_path)
    with pytest.raises(WasmrtError, match=match) as caught:
        run(open_model(ref))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert opened or isinstance(ref, bytes)
    assert all(file._file.closed for file in opened)


def test_metadata_that_is_repeated_is_fine(tmp_path, whole):
    header = parse_header(whole.read_bytes())
    tokens = [header.metadata["tokenizer.ggml.tokens"].raw(i) for i in range(N_VOCAB)]
    path = split(whole, tmp_path, evenly(whole, 3), more={1: [
        raw.entry("general.architecture", raw.STRING, raw.string("llama")),
        raw.strings_entry("tokenizer.ggml.tokens", tokens),
        raw.array_entry("tokenizer.ggml.scores", raw.F32, header.metadata["tokenizer.ggml.scores"].tobytes(), N_VOCAB),
        raw.number_entry("only.here", raw.U32, 3),
    ]})
    source, merged = run(open_model(path))
    assert "only.here" not in merged.metadata
    run(source.close())


def test_a_cancelled_open_closes_all(tmp_path, whole, opened, monkeypatch):
    path = split(whole, tmp_path, evenly(whole, 3))
    at_the_last = asyncio.Event()
    read_header = module.read_header

    async def slow(source):
        if "00003-of" in source.name:
            at_the_last.set()
            await asyncio.sleep(60)
        return await read_header(source)

    monkeypatch.setattr(module, "read_header", slow)

    async def check():
        task = asyncio.create_task(open_model(path))
        await at_the_last.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(check())
    assert len(opened) == 3
    assert all(file._file.closed for file in opened)


# The source


SIZES = (5000, 4096, 0, 1, 12288, 777)
PARTS = [bytes((7 * i + k) % 251 for i in range(n)) for k, n in enumerate(SIZES)]
LAID_OUT = b"".join(part + bytes(-len(part) % SHARD_ALIGNMENT) for part in PARTS[:-1]) + PARTS[-1]
edges = st.sampled_from([base + n for base in range(0, len(LAID_OUT), SHARD_ALIGNMENT) for n in (-1, 0, 1, 904)])


@given(a=st.integers(0, len(LAID_OUT)) | edges, b=st.integers(0, len(LAID_OUT)) | edges)
def test_every_range(a, b):
    """Also over several shards and what lies between them."""
    a, b = sorted(max(0, min(n, len(LAID_OUT))) for n in (a, b))
    source = SplitSource([MemorySource(part) for part in PARTS])
    assert source.size == len(LAID_OUT)
    buffer = bytearray(b"\xee" * (b - a + 20))
    run(source.read_into(a, memoryview(buffer)[10:-10]))
    assert buffer == b"\xee" * 10 + LAID_OUT[a:b] + b"\xee" * 10


def test_arguments_and_close():
    source = SplitSource([MemorySource(part) for part in PARTS])
    for offset, n_bytes in [(-1, 1), (source.size, 1), (0, source.size + 1)]:
        with pytest.raises(ValueError, match="are not all in"):
            run(read(source, offset, n_bytes))
    run(source.close())
    run(source.close())
    for offset, n_bytes in [(0, 10), (0, 0), (5000, 10)]:        # bytes, none, those between two shards
        with pytest.raises(SourceError, match="closed"):
            run(read(source, offset, n_bytes))


def test_an_error_in_closing_closes_the_rest():
    class Broken(MemorySource):
        async def close(self):
            raise SourceError("broken")

    class Slow(MemorySource):
        ended = False

        async def close(self):
            await asyncio.sleep(0.01)
            self.ended = True

    async def check():
        slow = Slow(b"abc")
        with pytest.raises(SourceError, match="broken"):
            await SplitSource([Broken(b"abc"), slow]).close()
        assert slow.ended

    run(check())


@pytest.mark.parametrize(("blocks", "common"), [((1, 1), 1), ((4096, 1), 4096), ((512, 4096), 4096), ((4096, 8192), 1)])
def test_the_common_block(blocks, common):
    """Known when all have been asked."""

    class Blocks(MemorySource):
        later = 1

        async def bypass_cache(self):
            self.block = self.later

    shards = [Blocks(b"abc") for _ in blocks]
    for shard, block in zip(shards, blocks, strict=True):
        shard.later = block
    source = SplitSource(shards)
    assert source.block == 1
    run(source.bypass_cache())
    assert source.block == common


def test_direct_reads_of_shards(tmp_path, whole):
    path = split(whole, tmp_path, evenly(whole, 3))

    async def check():
        source, header = await open_model(path)
        plain = await open_source(path)
        await source.bypass_cache()
        await plain.bypass_cache()
        assert source.block == plain.block
        one = await FileSource.open(whole)
        for tensor, other in zip(header.tensors.values(), (await read_header(one)).tensors.values(), strict=True):
            assert await read(source, tensor.offset, tensor.n_bytes) == await read(one, other.offset, other.n_bytes)
        for each in (source, plain, one):
            await each.close()

    run(check())

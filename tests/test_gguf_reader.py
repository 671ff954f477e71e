"""The header parser on good files: against the gguf package, in any chunks, past 4 GiB, with a large vocabulary."""

import struct
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import raw_gguf as raw
from wasmrt.errors import FormatError
from wasmrt.gguf import reader
from wasmrt.gguf.reader import Header, HeaderParser, StringArray, TensorInfo, parse_header
from wasmrt.gguf.types import BY_NAME


def plain(value: object) -> object:
    """A metadata value as the gguf package gives it: numbers, strings and lists of them."""
    if isinstance(value, memoryview):
        return value.tolist()
    return list(value) if isinstance(value, StringArray) else value


def content(header: Header) -> tuple[Any, ...]:
    """Everything a header says, comparable."""
    metadata = [(key, plain(value)) for key, value in header.metadata.items()]
    return header.version, metadata, list(header.tensors.items()), header.alignment, header.data_offset, header.n_bytes


def every_kind() -> bytes:
    """A file with every value type, alone and in an array, and tensors of several types; 64-byte alignment."""
    numbers = [
        (raw.U8, 200, "B"), (raw.I8, -100, "b"), (raw.U16, 60000, "H"), (raw.I16, -30000, "h"), (raw.U32, 4 << 29, "I"),
        (raw.I32, -(1 << 31), "i"), (raw.F32, 0.5, "f"), (raw.BOOL, 1, "?"), (raw.U64, (1 << 64) - 1, "Q"),
        (raw.I64, -(1 << 63), "q"), (raw.F64, 1e300, "d"),
    ]
    entries = [raw.number_entry(f"one.{kind}", kind, value) for kind, value, _ in numbers]
    entries += [
        raw.array_entry(f"many.{kind}", kind, struct.pack(f"<3{letter}", value, 0, 1), 3) for kind, value, letter in numbers
    ]
    entries += [
        raw.entry("general.architecture", raw.STRING, raw.string("llama")),
        raw.entry("empty", raw.STRING, raw.string("")),
        raw.strings_entry("tokens", ["a", "", "ü", "\N{GRINNING FACE}", "x" * 300, "last"]),
        raw.strings_entry("no strings", []),
        raw.array_entry("no numbers", raw.F32, b"", 0),
        raw.number_entry("general.alignment", raw.U32, 64),
    ]
    tensors = [
        raw.tensor("token_embd.weight", (256, 3), BY_NAME["Q4_K"].id, 0),       # 432 bytes
        raw.tensor("blk.0.attn_norm.weight", (5,), BY_NAME["F32"].id, 448),     # 20 bytes
        raw.tensor("blk.0.ffn_up_exps.weight", (32, 2, 3, 2), BY_NAME["Q8_0"].id, 512),  # 408 bytes
    ]
    return raw.with_data(raw.header(entries, tensors), 920, 64)


EVERY_KIND = every_kind()


# Against the gguf package


def assert_same_as_gguf(path: Path) -> None:
    theirs = gguf.GGUFReader(path)
    data = path.read_bytes()
    ours = parse_header(data, name=path.name)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields), path.name
    for key, field in fields.items():
        assert plain(ours.metadata[key]) == field.contents(), (path.name, key)
        assert isinstance(ours.metadata[key], bool) == (field.types == [gguf.GGUFValueType.BOOL])
    assert list(ours.tensors) == [t.name for t in theirs.tensors]
    for t in theirs.tensors:
        info = ours.tensors[t.name]
        assert (info.type.id, info.shape, info.offset, info.n_bytes, info.n_elements) == (
            t.tensor_type, tuple(t.shape.tolist()), t.data_offset, t.n_bytes, t.n_elements,
        )
    assert (ours.alignment, ours.data_offset) == (theirs.alignment, theirs.data_offset)


@pytest.fixture
def fast_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicing a memmap is what makes gguf.GGUFReader slow: 37 s for all vocabularies, 10 s on plain arrays."""
    monkeypatch.setattr(np, "memmap", lambda path, mode: np.fromfile(path, np.uint8))


@pytest.mark.reference
@pytest.mark.parametrize(("folder", "at_least"), [("logits", 50), ("stories260K", 1), ("vocab", 14)])
def test_reference_files_read_as_with_the_gguf_package(reference_dir: Path, fast_gguf: None, folder: str, at_least: int):
    files = sorted((reference_dir / folder).glob("*.gguf"))
    assert len(files) >= at_least
    for path in files:
        assert_same_as_gguf(path)


def test_a_file_of_the_gguf_writer_reads_as_with_the_gguf_package(tmp_path: Path):
    """Types and alignments that the reference files do not have."""
    path = tmp_path / "written.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(128)
    for kind, value in {"uint8": 255, "int8": -1, "uint16": 1, "int16": -2, "uint32": 3, "int32": -4, "int64": -5}.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_uint64("test.uint64", 1 << 40)
    writer.add_float32("test.float32", 0.1)
    writer.add_float64("test.float64", 0.1)
    writer.add_bool("test.true", True)
    writer.add_bool("test.false", False)
    writer.add_string("test.string", "naïve")
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.floats", [1.0, 0.1])
    writer.add_array("test.booleans", [True, False])
    writer.add_array("test.strings", ["", "ü"])
    rng = np.random.default_rng(0)
    writer.add_tensor("f32", rng.normal(size=(3, 5)).astype(np.float32))
    writer.add_tensor("f16", rng.normal(size=(2, 3, 4, 5)).astype(np.float16))
    writer.add_tensor("q5_k", np.zeros((7, 2 * 176), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q5_K)
    writer.add_tensor("i64", np.arange(3, dtype=np.int64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_same_as_gguf(path)
    header = parse_header(path.read_bytes())
    assert header.alignment == 128
    assert header.tensors["q5_k"].shape == (512, 7)


# What the parts mean


def test_header_of_every_kind():
    header = parse_header(EVERY_KIND)
    assert header.version == 3
    assert header.alignment == 64
    assert header.data_offset == len(EVERY_KIND) - 920
    assert header.data_offset - 64 < header.n_bytes <= header.data_offset
    assert header.metadata["one.10"] == (1 << 64) - 1
    assert header.metadata["one.7"] is True
    assert plain(header.metadata["many.7"]) == [True, False, True]
    assert plain(header.metadata["many.11"]) == [-(1 << 63), 0, 1]
    assert plain(header.metadata["tokens"]) == ["a", "", "ü", "\N{GRINNING FACE}", "x" * 300, "last"]
    assert plain(header.metadata["no strings"]) == plain(header.metadata["no numbers"]) == []
    assert header.metadata["empty"] == ""


def test_arrays_cannot_be_written_to() -> None:
    values: Any = parse_header(EVERY_KIND).metadata["many.4"]
    with pytest.raises(TypeError):
        values[0] = 1


def test_tensor_properties():
    info = parse_header(EVERY_KIND).tensors["blk.0.ffn_up_exps.weight"]
    assert info == TensorInfo("blk.0.ffn_up_exps.weight", BY_NAME["Q8_0"], (32, 2, 3, 2), len(EVERY_KIND) - 408, 408)
    assert (info.end, info.n_elements, info.row_length, info.n_rows, info.row_bytes) == (len(EVERY_KIND), 384, 32, 12, 34)


def test_version_2_is_laid_out_as_version_3():
    second = b"GGUF\x02" + EVERY_KIND[5:]
    assert content(parse_header(second))[1:] == content(parse_header(EVERY_KIND))[1:]
    assert parse_header(second).version == 2


def test_a_file_without_tensors_needs_no_padding():
    data = raw.header([raw.entry("k", raw.U8, b"\x01")])
    header = parse_header(data)
    assert (header.tensors, header.n_bytes, header.data_offset) == ({}, len(data), 64)


@pytest.mark.parametrize("alignment", [1, 2, 16, 32, 4096, 1 << 20])
def test_alignment(alignment: int):
    head = raw.header([raw.number_entry("general.alignment", raw.U32, alignment)], [raw.tensor("t", (3,), 0, alignment)])
    header = parse_header(head, file_size=1 << 22)
    assert header.data_offset % alignment == 0
    assert 0 <= header.data_offset - len(head) < alignment
    assert header.tensors["t"].offset == header.data_offset + alignment


def test_tensors_may_lie_in_any_order_with_gaps_and_keep_the_order_of_the_file():
    head = raw.header([], [raw.tensor("b", (8,), 0, 96), raw.tensor("a", (8,), 0, 0), raw.tensor("c", (8,), 0, 32)])
    assert list(parse_header(raw.with_data(head, 128)).tensors) == ["b", "a", "c"]


def test_invalid_utf8_in_a_value_is_replaced():
    data = raw.header([raw.entry("k", raw.STRING, raw.string(b"a\xffb")), raw.strings_entry("s", [b"\xc3", b"ok"])])
    metadata = parse_header(data).metadata
    assert metadata["k"] == "a\N{REPLACEMENT CHARACTER}b"
    assert plain(metadata["s"]) == ["\N{REPLACEMENT CHARACTER}", "ok"]
    assert metadata.strings("s").raw(0) == b"\xc3"


def test_numbers_are_swapped_on_a_big_endian_host(monkeypatch: pytest.MonkeyPatch):
    """There, a cast reads big-endian: what is stored must be the bytes turned round."""
    monkeypatch.setattr(sys, "byteorder", "big")
    assert bytes(reader.numbers(bytearray(b"\x01\x02\x03\x04"), "H")) == b"\x02\x01\x04\x03"
    assert reader.numbers(bytearray(b"\x01\x00"), "?").tolist() == [True, False]


# Feeding


@given(cuts=st.lists(st.integers(0, len(EVERY_KIND)), max_size=30))
def test_any_chunks_give_the_same_header(cuts: list[int]):
    parser = HeaderParser(len(EVERY_KIND))
    edges = [0, *sorted(cuts), len(EVERY_KIND)]
    for begin, end in pairwise(edges):
        parser.feed(memoryview(EVERY_KIND)[begin:end])
    assert content(parser.finish()) == content(parse_header(EVERY_KIND))


def test_a_byte_at_a_time_completes_with_the_last_byte():
    expected = parse_header(EVERY_KIND)
    parser = HeaderParser(len(EVERY_KIND))
    for i in range(expected.n_bytes):
        assert parser.header is None
        assert parser.wanted >= 1
        parser.feed(EVERY_KIND[i : i + 1])
    assert parser.header is not None
    assert parser.wanted == 0
    assert content(parser.header) == content(expected)


def test_what_is_wanted_is_needed():
    """Feeding just what is wanted leads to the end of the header and not a byte further."""
    parser, at = HeaderParser(len(EVERY_KIND)), 0
    while parser.header is None:
        wanted = parser.wanted
        parser.feed(EVERY_KIND[at : at + wanted])
        at += wanted
    assert at == parser.header.n_bytes


def test_what_is_wanted_of_a_large_array_is_a_large_piece():
    """So that a reader over a network does not ask for eight bytes at a time."""
    strings, words = raw.strings_entry("k", [""] * 1000), raw.array_entry("k", raw.U32, bytes(4000), 1000)
    for entry, n_bytes in ((strings, 8000), (words, 4000)):
        parser = HeaderParser(10_000)
        parser.feed(raw.header([entry])[:-n_bytes])
        assert parser.wanted == n_bytes


def test_bytes_past_the_header_are_ignored():
    parser = HeaderParser(len(EVERY_KIND) + (100 << 20))
    parser.feed(EVERY_KIND)
    header = parser.finish()
    parser.feed(bytes(1000))
    assert parser.finish() is header


def test_more_bytes_than_the_file_has_are_refused():
    with pytest.raises(ValueError, match="file_size of 20"):
        HeaderParser(20).feed(EVERY_KIND)
    with pytest.raises(ValueError, match="at least 0"):
        HeaderParser(-1)


@settings(max_examples=10)
@given(chunk=st.integers(1 << 10, 8 << 20))
def test_values_larger_than_the_pieces_that_are_buffered(chunk: int):
    """Large values keep the buffer that they arrived in; what follows them must still be read from the right place."""
    words = struct.pack("<1500000I", *range(1_500_000))                               # 6 MB
    long = [b"a" * 3_000_000, b"", b"b" * 5_000_000, b"c" * 100]
    text = b"t" * 5_000_000
    head = raw.header([
        raw.array_entry("words", raw.U32, words, 1_500_000), raw.strings_entry("long", long),
        raw.entry("middle", raw.STRING, raw.string(text[:2_000_000])),
        raw.entry("text", raw.STRING, raw.string(text)), raw.number_entry("one", raw.U8, 7),
        raw.strings_entry("short", ["x", "y"]),
    ], [raw.tensor("t", (256,))])
    data = raw.with_data(head, 1024)
    parser = HeaderParser(len(data))
    for at in range(0, len(data), chunk):
        parser.feed(data[at : at + chunk])
    header = parser.finish()
    assert (header.n_bytes, header.tensors["t"].end) == (len(head), len(data))
    metadata = header.metadata
    values: Any = metadata["words"]
    assert values.tobytes() == words
    strings = metadata.strings("long")
    assert [strings.raw(i) for i in range(4)] == long
    assert metadata["middle"] == text[:2_000_000].decode()
    assert metadata["text"] == text.decode()
    assert metadata["one"] == 7
    assert list(metadata.strings("short")) == ["x", "y"]


# Size


def large_vocabulary(n_tokens: int = 128_256, n_merges: int = 280_147) -> bytes:
    entries = [
        raw.strings_entry("tokenizer.ggml.tokens", (f"token{i}" for i in range(n_tokens))),
        raw.array_entry("tokenizer.ggml.token_type", raw.I32, struct.pack("<I", 1) * n_tokens, n_tokens),
        raw.array_entry("tokenizer.ggml.scores", raw.F32, bytes(4 * n_tokens), n_tokens),
        raw.strings_entry("tokenizer.ggml.merges", (f"ab{i} cd" for i in range(n_merges))),
    ]
    tensors = [raw.tensor(f"blk.{i}.attn_q.weight", (256, 4), 1, 2048 * i) for i in range(300)]
    return raw.with_data(raw.header(entries, tensors), 2048 * 300)


def test_a_header_with_a_large_vocabulary_opens_fast():
    """0.06 s on two shared cores. The bound is for machines that are busy."""
    data = large_vocabulary()
    start = time.perf_counter()
    header = parse_header(data)
    seconds = time.perf_counter() - start
    print(f"{header.n_bytes} bytes in {seconds:.3f} s")
    assert seconds < 5
    tokens, merges = header.metadata.strings("tokenizer.ggml.tokens"), header.metadata.strings("tokenizer.ggml.merges")
    assert (len(tokens), tokens[128_255], len(merges), merges[-1]) == (128_256, "token128255", 280_147, "ab280146 cd")


def test_memory_is_little_more_than_the_header():
    """A 44 MB header of small and large values: none is unpacked, none lies in memory twice."""
    data = raw.header([
        raw.strings_entry("strings", [b"x" * 72] * 150_000), raw.entry("text", raw.STRING, raw.string(bytes(12 << 20))),
        *(raw.entry(f"text {i}", raw.STRING, raw.string(bytes(1 << 20))) for i in range(20)),
    ])
    tracemalloc.start()
    header = parse_header(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(header.metadata.strings("strings")) == 150_000
    assert peak < 1.15 * len(data)  # measured: 1.08


@pytest.mark.skipif(sys.platform == "win32", reason="files are not sparse there unless asked: this one has 10 GB")
def test_tensors_past_4_gib(tmp_path: Path):
    """A sparse file of 10 GB: offsets and sizes past 2**32, and the bytes that lie there."""
    wide, rows = 1 << 20, 2048 + 64                     # 4.1 GiB of F16
    size = 2 * wide * rows
    head = raw.header([], [
        raw.tensor("first", (wide, rows), 1, 0), raw.tensor("second", (wide, rows), 1, size),
        raw.tensor("last", (4,), 0, 2 * size),
    ])
    path = tmp_path / "sparse.gguf"
    start = -(-len(head) // 32) * 32
    with path.open("wb") as file:
        file.write(head)
        file.seek(start + size)
        file.write(b"\x01\x02")
        file.seek(start + 2 * size)
        file.write(np.array([1, 2, 3, 4], np.float32).tobytes())
    file_size = path.stat().st_size
    assert file_size > 8 << 30
    with path.open("rb") as file:
        tensors = parse_header(file.read(4096), file_size).tensors
        assert tensors["first"].n_bytes == size > 1 << 32
        assert tensors["last"].offset > 1 << 33
        assert tensors["last"].end == file_size
        file.seek(tensors["second"].offset)
        assert file.read(2) == b"\x01\x02"
        file.seek(tensors["last"].offset)
        assert np.frombuffer(file.read(tensors["last"].n_bytes), np.float32).tolist() == [1, 2, 3, 4]
        file.seek(0)
        with pytest.raises(FormatError, match=r"'last' ends at byte \d+, but the file has \d+: 1 bytes are missing"):
            parse_header(file.read(4096), file_size - 1)

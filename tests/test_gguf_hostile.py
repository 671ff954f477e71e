"""The header parser on hostile files: a typed error that says what and where, soon, in memory that the bytes justify."""

import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import raw_gguf as raw
from tests.test_gguf_reader import EVERY_KIND, content
from wasmrt.errors import FormatError, UnsupportedError, WasmrtError
from wasmrt.gguf import reader
from wasmrt.gguf.reader import Header, HeaderParser, parse_header

U64_MAX = (1 << 64) - 1
HUGE = 1 << 45  # a claimed file size: then no count or length is refused for want of bytes in the file

ALLOWED_BYTES = 64 << 20
ALLOWED_SECONDS = 5  # of this process; the promise is 1 s, but tracing memory costs ten times the parsing


def outcome(data: bytes, file_size: int | None = None) -> Header | WasmrtError:
    """Parses `data`; whatever comes of it, checks time, memory and the form of the message."""
    tracemalloc.start()
    start = time.process_time()
    result: Header | WasmrtError
    try:
        result = parse_header(data, file_size, "evil.gguf")
    except (FormatError, UnsupportedError) as error:
        result = error
    finally:
        seconds = time.process_time() - start
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < ALLOWED_SECONDS
    assert peak < ALLOWED_BYTES + len(data)
    if isinstance(result, WasmrtError):
        message = str(result)
        assert message.startswith("evil.gguf: ")
        assert message.isprintable()  # one line, whatever names the file holds
        assert len(message) < 500
    else:
        assert_sound(result, len(data) if file_size is None else file_size)
    return result


def assert_sound(header: Header, file_size: int) -> None:
    """What a header promises about its tensors."""
    for tensor in header.tensors.values():
        assert header.data_offset <= tensor.offset < tensor.end <= file_size
        assert (tensor.offset - header.data_offset) % header.alignment == 0
        assert tensor.n_bytes == tensor.n_rows * tensor.row_bytes > 0
    placed = sorted(header.tensors.values(), key=lambda tensor: tensor.offset)
    assert all(before.end <= after.offset for before, after in pairwise(placed))


def one_entry(entry: bytes) -> bytes:
    return raw.header([entry])


def one_tensor(tensor: bytes) -> bytes:
    return raw.with_data(raw.header([], [tensor]), 4096)


def two_tensors(second_offset: int, alignment: int = 32) -> bytes:
    """Two tensors of 80 bytes, in a file that has room for 4096."""
    tensors = [raw.tensor("first", (20,), 0, 0), raw.tensor("second", (20,), 0, second_offset)]
    return raw.with_data(raw.header([raw.number_entry("general.alignment", raw.U32, alignment)], tensors), 4096)


def array(kind: int, count: int, elements: bytes = b"") -> bytes:
    return one_entry(raw.array_entry("k", kind, elements, count))


def text(length: int, raw_text: bytes) -> bytes:
    """A string value that claims `length` bytes."""
    return one_entry(raw.entry("k", raw.STRING, struct.pack("<Q", length) + raw_text))


def alignment(value: int) -> bytes:
    return one_entry(raw.number_entry("general.alignment", raw.U32, value))


def nested_arrays(depth: int) -> bytes:
    return one_entry(raw.entry("k", raw.ARRAY, struct.pack("<IQ", raw.ARRAY, 1) * depth + struct.pack("<IQB", raw.U8, 1, 0)))


K = raw.entry("k", raw.U8, b"\x01")
TINY = raw.tensor("t", (4,))
F, U = FormatError, UnsupportedError

# Name, bytes, error class, what its message must say. By kind of damage: 1 magic and version, 2 counts, 3 keys, 4 value types,
# 5 lengths and values, 6 names and numbers of dimensions, 7 shapes, 8 tensor types, 9 alignment, 10 offsets.
REFUSED: list[tuple[str, bytes, type[WasmrtError], str]] = [
    ("1 empty", b"", F, "no bytes"),
    ("1 one byte", b"G", F, "ends at byte 24 or later, but there are 1 bytes"),
    ("1 other byte", b"\x07", F, r"not a GGUF file: starts with b'\\x07', should be b'GGUF'"),
    ("1 magic alone", b"GGUF", F, "byte 0: magic, version and counts ends at byte 24 or later, but there are 4 bytes"),
    ("1 no counts", raw.header()[:23], F, "there are 23 bytes"),
    ("1 reversed magic", raw.header(magic=b"FUGG"), F, "not a GGUF file.*reversed"),
    ("1 ggml", raw.header(magic=b"GGML"), F, "not a GGUF file.*older ggml format"),
    ("1 ggml as a number", raw.header(magic=b"lmgg"), F, "older ggml format"),
    ("1 ggjt", raw.header(magic=b"ggjt"), F, "older ggml format"),
    ("1 ggjt as a number", raw.header(magic=b"tjgg"), F, "older ggml format"),
    ("1 zip", b"PK\x03\x04" + bytes(100), F, "zip archive or PyTorch checkpoint"),
    ("1 pickle", b"\x80\x02}q\x00" + bytes(100), F, "pickle"),
    ("1 safetensors", struct.pack("<Q", 4000) + b'{"__metadata__":{}}' + bytes(100), F, "safetensors"),
    ("1 html", b"<!DOCTYPE html><html>" + bytes(100), F, "web page"),
    ("1 html in lower case", b"<html>", F, "web page"),
    ("1 git lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00", F, "Git LFS pointer"),
    ("1 json", b'{"error":"Repository not found"}', F, "text; the download may"),
    ("1 message", b"Entry not found", F, "text; the download may"),
    ("1 gzip", b"\x1f\x8b\x08" + bytes(100), F, "gzip"),
    ("1 zstd", b"(\xb5/\xfd" + bytes(100), F, "zstd"),
    ("1 zeros", bytes(4096), F, "file of zeros"),
    ("1 version 0", raw.header(version=0), F, "byte 4: GGUF version 0 does not exist"),
    ("1 version 1", raw.header(version=1), U, "byte 4: GGUF version 1; little-endian versions 2 and 3 are supported"),
    ("1 version 4", raw.header(version=4), U, "GGUF version 4"),
    ("1 big-endian 3", raw.header(version=3 << 24), U, "big-endian"),
    ("1 big-endian 2", raw.header(version=2 << 24), U, "big-endian"),
    *(
        (f"2 {n} tensors", raw.header([K], [TINY], n_tensors=n), F, f"byte 8: tensor count {n}, the limit is 1000000")
        for n in (1_000_001, 1 << 62, U64_MAX)
    ),
    *(
        (f"2 {n} entries", raw.header([K], [TINY], n_entries=n), F, f"byte 16: metadata count {n}, the limit is 100000")
        for n in (100_001, 1 << 62, U64_MAX)
    ),
    ("2 tensors do not fit", raw.header([K], [TINY], n_tensors=9), F, "byte 8: tensor count 9 and metadata count 1 need 335"),
    ("2 entries do not fit", raw.header([K], n_entries=1000), F, "metadata count 1000 need 14024 bytes"),
    ("3 key length", one_entry(struct.pack("<Q", U64_MAX) + b"k" * 20), F, "key of 18446744073709551615 bytes"),
    ("3 key length past the end", one_entry(struct.pack("<Q", 60) + b"k" * 20), F, "byte 24: key ends at byte 92 or later"),
    ("3 key of 64 KiB", one_entry(raw.entry("k" * 65536, raw.U8, b"\x00")), F, "key of 65536 bytes, the limit is 65535"),
    ("3 empty key", one_entry(raw.entry("", raw.U64, bytes(8))), F, "metadata entry 1 of 1, byte 24: key is empty"),
    ("3 duplicate key", raw.header([K, K]), F, "metadata entry 2 of 2, byte 38: key 'k' stands twice"),
    ("3 key not UTF-8", one_entry(raw.entry(b"a\xff\nb", raw.U8, b"\x00")), F, "byte 24: key is not valid UTF-8"),
    *((f"4 value type {n}", one_entry(raw.entry("k", n, bytes(8))), F, f"byte 33: key 'k' has value type {n}, known are 0..12")
      for n in (13, 255, (1 << 32) - 1)),
    *((f"4 array of type {n}", array(n, 1, bytes(8)), F, f"byte 37: key 'k' is an array of type {n}, known are 0..12")
      for n in (13, (1 << 32) - 1)),
    *((f"4 arrays {n} deep", nested_arrays(n), U, "byte 37: key 'k' is an array of arrays") for n in (1, 2, 5000)),
    ("4 empty array of arrays", array(raw.ARRAY, 0), U, "array of arrays"),
    *((f"5 array of {n} of type {kind}", array(kind, n, bytes(64)), F, f"byte 37: .*array of {n} elements, the limit")
      for kind in (raw.U8, raw.STRING, raw.U64) for n in (1 << 63, U64_MAX, (16 << 20) + 1)),
    *((f"5 array of type {kind} past the end", array(kind, 1 << 24, bytes(64)), F, "byte 49: array.*there are 113 bytes")
      for kind in (raw.U8, raw.STRING, raw.U64)),
    ("5 string length", text(U64_MAX, b"abc"), F, "byte 37: string value of 18446744073709551615 bytes, the limit is 67108864"),
    ("5 string past the end", text(4, b"abc"), F, "byte 37: string value ends at byte 49 or later, but there are 48"),
    ("5 string of an array", array(raw.STRING, 2, raw.string("a") + b"\xff" * 8), F, "byte 58: string of 18446744073709551615"),
    ("5 string past the end in an array", array(raw.STRING, 1, raw.string("abc")[:-1]), F, "of an array ends at byte 60"),
    ("5 boolean of 2", one_entry(raw.entry("k", raw.BOOL, b"\x02")), F, "byte 37: key 'k' is a boolean of value 2, should be"),
    ("5 boolean of 2 in an array", array(raw.BOOL, 3, b"\x01\x02\x00"), F, "byte 37: .* array of booleans that holds 2"),
    ("6 name of 64 bytes", one_tensor(raw.tensor("t" * 64, (4,))), F, "tensor 1 of 1, byte 24: name of 64 bytes, the limit"),
    ("6 name of 2^63", one_tensor(struct.pack("<Q", 1 << 63) + bytes(30)), F, "byte 24: name of 9223372036854775808 bytes"),
    ("6 empty name", one_tensor(raw.tensor("", (4, 1))), F, "byte 24: name is empty"),
    ("6 name not UTF-8", one_tensor(raw.tensor(b"\xc3\x28", (4,))), F, "byte 24: name is not valid UTF-8"),
    ("6 duplicate name", raw.with_data(raw.header([], [TINY, TINY]), 64), F, "tensor 2 of 2, byte 57: name 't' stands"),
    *((f"6 {n} dimensions", one_tensor(raw.tensor("t", (1, 1), n_dims=n)), F, f"byte 33: 't' has {n} dimensions, should be")
      for n in (0, 5, (1 << 32) - 1)),
    ("7 dimension 0", one_tensor(raw.tensor("t", (32, 0))), F, r"'t' has shape \(32, 0\), dimensions should be 1\.\."),
    ("7 row of 0", one_tensor(raw.tensor("t", (0, 32))), F, r"'t' has shape \(0, 32\)"),
    ("7 dimension 2^63", one_tensor(raw.tensor("t", (1 << 63,))), F, "'t' has shape"),
    ("7 dimension 2^32", one_tensor(raw.tensor("t", (1, 1 << 32))), F, "'t' has shape"),
    ("7 product 2^64", one_tensor(raw.tensor("t", (1 << 33, 1 << 31))), F, "'t' has shape"),
    ("7 product 2^64 of small ones", one_tensor(raw.tensor("t", (1 << 31, 1 << 31, 4))), F, "at byte 73786976294838206560"),
    ("7 2^42 + 1", one_tensor(raw.tensor("t", ((1 << 42) + 1, 1 << 22))), F, "'t' has shape"),
    ("7 bytes of 2^64", one_tensor(raw.tensor("t", (1 << 30, 1 << 30, 4))), F, "tensor 't' ends at byte .* bytes are missing"),
    ("7 row of a part of a block", one_tensor(raw.tensor("t", (48,), 2)), F, "'t' has rows of 48, Q4_0 needs a multiple of 32"),
    ("7 rows that share a block", one_tensor(raw.tensor("t", (128, 2), 12)), F, "has rows of 128, Q4_K needs .* 256"),
    *((f"8 type {n}", one_tensor(raw.tensor("t", (256,), n)), U, f"type {n}, which is unknown; supported are F32, .*MXFP4")
      for n in (40, 99, 1 << 31)),
    *((f"8 removed type {n}", one_tensor(raw.tensor("t", (256,), n)), U, rf"type {n} \({name}\), which ggml has removed; .*F32")
      for n, name in reader.REMOVED_TYPES.items()),
    *((f"9 alignment {n}", alignment(n), F, f"byte 53: general.alignment is {n}, should be a power of two up to 1048576")
      for n in (0, 13, 33, 1 << 21, 1 << 31)),
    *((f"9 alignment of type {kind}", one_entry(raw.entry("general.alignment", kind, struct.pack("<Q", 32) + bytes(32))), F,
       rf"byte 49: general.alignment has value type {kind}, should be 4 \(uint32\)")
      for kind in (raw.U8, raw.I32, raw.F32, raw.BOOL, raw.STRING, raw.ARRAY, raw.U64)),
    ("10 misaligned", two_tensors(84), F, "'second' has data offset 84, should be a multiple of the alignment 32"),
    ("10 misaligned for 64", two_tensors(96, 64), F, "'second' has data offset 96, should be a multiple of the alignment 64"),
    ("10 overlapping", two_tensors(64), F, r"'first' ends at byte \d+, but 'second' starts at \d+: they overlap"),
    ("10 at the same place", two_tensors(0), F, "they overlap"),
    ("10 past the end", two_tensors(4064), F, "tensor 'second' ends at byte .*: 48 bytes are missing; the download may"),
    ("10 far past the end", two_tensors(1 << 50), F, "tensor 'second' .* bytes are missing"),
    ("10 offset and size wrap", two_tensors((1 << 64) - 64), F, "tensor 'second' .* bytes are missing"),
    ("10 no data", raw.header([], [TINY]), F, "tensor 't' ends at byte 80, but the file has 57: 23 bytes are missing"),
]


def parse_bytewise(data: bytes) -> Header:
    parser = HeaderParser(len(data), "evil.gguf")
    for i in range(len(data)):
        parser.feed(data[i : i + 1])
        assert parser.header is None
    return parser.finish()


@pytest.mark.parametrize(("data", "kind", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(data: bytes, kind: type[WasmrtError], says: str):
    """A whole file of these bytes is refused, and so is it when the bytes trickle in."""
    error = outcome(data)
    assert type(error) is kind, error
    assert re.search(says, str(error)), error
    with pytest.raises(kind) as caught:
        parse_bytewise(data)
    assert str(caught.value) == str(error)


# At each limit: the bytes up to the claim, when it is just allowed; the parser must then wait for more, and hold nothing yet.
ALLOWED: list[tuple[str, bytes]] = [
    ("tensors", raw.header(n_tensors=1_000_000)),
    ("entries", raw.header(n_entries=100_000)),
    ("key", raw.header([struct.pack("<Q", 65535)])),
    ("string", raw.header([raw.entry("k", raw.STRING, struct.pack("<Q", 64 << 20))])),
    ("array of bytes", array(raw.U8, 16 << 20)),
    ("array of words", array(raw.U64, 16 << 20)),
    ("array of strings", array(raw.STRING, 16 << 20)),
    ("string of an array", array(raw.STRING, 2, struct.pack("<QQQ", 0, 64 << 20, 0))),
    ("name", raw.header([], [struct.pack("<Q", 63)])),
]


@pytest.mark.parametrize("data", [case[1] for case in ALLOWED], ids=[case[0] for case in ALLOWED])
def test_claims_are_not_allocated(data: bytes):
    """In a file of 2^45 bytes any claim may be true: nothing is set aside before the bytes come. Cut short, it is refused."""
    parser = HeaderParser(HUGE)
    tracemalloc.start()
    parser.feed(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000
    assert parser.header is None
    assert parser.wanted >= 1
    error = outcome(data, HUGE)
    assert isinstance(error, FormatError)
    assert f"there are {len(data)} bytes; the download may have been cut short" in str(error)


@pytest.mark.parametrize("data", [case[1] for case in ALLOWED], ids=[case[0] for case in ALLOWED])
def test_claims_that_the_file_cannot_hold_are_refused_at_once(data: bytes):
    """In a file that ends soon after, a claim is refused when it is read, not when the file has been."""
    parser = HeaderParser(len(data) + 40)
    with pytest.raises(FormatError, match=f"byte {len(data) + 40}|but there are {len(data) + 40} bytes|but the file has"):
        parser.feed(data)


def test_an_array_of_strings_needs_eight_bytes_for_each():
    with pytest.raises(FormatError, match="array of strings ends at byte 134217777 or later, but there are 2097152 bytes"):
        HeaderParser(2 << 20).feed(array(raw.STRING, 16 << 20))


@pytest.mark.parametrize("data", [array(raw.U8, 5000), array(raw.U64, 600), array(raw.STRING, 600), text(5000, b"")])
def test_claims_that_no_header_can_hold_are_refused_at_once(monkeypatch: pytest.MonkeyPatch, data: bytes):
    """The limit is 256 MiB; here it is 4 KiB."""
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 4096)
    with pytest.raises(FormatError, match="or later, the limit of a header is 4096"):
        HeaderParser(HUGE).feed(data)


def test_limits_that_a_small_file_reaches():
    """Just inside the limits of name, key, dimensions and row; just outside is in the table above."""
    head = raw.header([raw.entry("k" * 65535, raw.U8, b"\x01")], [raw.tensor("t" * 63, (1, (1 << 32) - 1, 1, 1), 24)])
    header = outcome(head, len(head) + (1 << 33))
    assert isinstance(header, Header)
    assert header.tensors["t" * 63].n_bytes == (1 << 32) - 1


@pytest.mark.parametrize("entry", [
    raw.array_entry("k", raw.U8, bytes(5000), 5000), raw.strings_entry("k", ["x" * 100] * 50),
    raw.entry("k", raw.STRING, raw.string("x" * 5000)), b"".join(raw.entry(f"{i:03}", raw.U8, b"\x01") for i in range(313)),
], ids=["numbers", "strings", "string", "entries"])
def test_a_header_over_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch, entry: bytes):
    """The limit is 256 MiB; here it is 4 KiB."""
    data = raw.header([entry], n_entries=313 if entry.startswith(raw.string("000")) else 1)
    assert isinstance(outcome(data), Header)
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 4096)
    error = outcome(data)
    assert isinstance(error, FormatError)
    assert "limit" in str(error)
    assert "4096" in str(error)


def test_many_small_values_stay_small():
    """The most metadata that is taken, in the shape that costs most per byte. Measured: 45 MiB for 2.8 MB of file."""
    header = outcome(raw.header(raw.array_entry(str(i), raw.U64, b"", 0) for i in range(100_000)))
    assert isinstance(header, Header)
    assert len(header.metadata) == 100_000


def test_what_stopped_early_is_still_named():
    """Fewer bytes than the first fields take, of a file that should be longer: the magic is wrong all the same."""
    with pytest.raises(FormatError, match=r"not a GGUF file.*web page"):
        parse_header(b"<!DO", 1000)
    with pytest.raises(FormatError, match="there are 3 bytes"):
        parse_header(b"GGU", 1000)


def test_an_error_is_final():
    parser = HeaderParser(1000)
    with pytest.raises(FormatError) as first:
        parser.feed(bytes(100))
    for again in (lambda: parser.feed(b"GGUF"), parser.finish):
        with pytest.raises(FormatError) as second:
            again()
        assert str(second.value) == str(first.value)
    assert parser.header is None


# Truncation


def test_cut_at_every_byte():
    """The header ends early: FormatError, whether the file is known to be that short or its bytes just stop."""
    whole = parse_header(EVERY_KIND)
    for n in range(whole.n_bytes):
        for file_size in (n, len(EVERY_KIND)):
            error = outcome(EVERY_KIND[:n], file_size)
            assert isinstance(error, FormatError), n
            assert "cut short" in str(error) or n == 0
    for n in range(whole.n_bytes, len(EVERY_KIND)):
        error = outcome(EVERY_KIND[: whole.n_bytes], n)
        assert isinstance(error, FormatError), n
        assert f"{len(EVERY_KIND) - n} bytes are missing" in str(error)
        if n % 64 == 0:
            assert content(parse_header(EVERY_KIND[:n], len(EVERY_KIND))) == content(whole)


# Mutation

WORDS = [0, 1, 13, 31, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, U64_MAX]
HEADER_BYTES = parse_header(EVERY_KIND).n_bytes
AT = st.integers(0, HEADER_BYTES - 1)


def set_bytes(at: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + new + data[at + len(new) :]


def insert(at: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + new + data[at:]


def delete(at: int, n: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + data[at + n :]


def copy(at: int, n: int, to: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:to] + data[at : at + n] + data[to + n :]


MUTATION = st.one_of(
    st.builds(set_bytes, AT, st.binary(min_size=1, max_size=4)),
    st.builds(set_bytes, AT, st.sampled_from(WORDS).map(lambda word: struct.pack("<Q", word))),
    st.builds(set_bytes, AT, st.sampled_from(WORDS[:8]).map(lambda word: struct.pack("<I", word))),
    st.builds(insert, AT, st.binary(min_size=1, max_size=16)),
    st.builds(delete, AT, st.integers(1, 64)),
    st.builds(copy, AT, st.integers(1, 200), AT),
)


@settings(max_examples=1500)
@given(mutations=st.lists(MUTATION, min_size=1, max_size=4), known=st.booleans())
@example(mutations=[set_bytes(8, struct.pack("<Q", 0))], known=True)
def test_mutations_end_in_a_typed_error_or_a_sound_header(mutations: list[Callable[[bytes], bytes]], known: bool):
    """`known` False: the file is claimed to be huge, so that only the limits protect."""
    data = EVERY_KIND
    for mutate in mutations:
        data = mutate(data)
    outcome(data, None if known else HUGE)


def test_every_byte_changed_on_its_own():
    """Each byte of the header flipped, zeroed and set, one at a time."""
    random = Random(1)
    for at in range(HEADER_BYTES):
        old = EVERY_KIND[at]
        for new in {old ^ (1 << random.randrange(8)), 0, 255} - {old}:
            outcome(EVERY_KIND[:at] + bytes([new]) + EVERY_KIND[at + 1 :])


# Files of others

WELL_FORMED = {"v3-empty.bin", "valid-small.gguf"}
MALFORMED = {
    "bad-version.bin": (U, "GGUF version 1"),
    "example.FUGG.gguf": (F, "not a GGUF file"),
    "hdr-suppress-eos.gguf": (F, "cut short"),  # the first 8 KiB of a longer file
    "hdr-wrap-first-offset.gguf": (F, "'token_embd.weight' has data offset 18446744073709551600"),
    "hdr-zero-first-dim.gguf": (F, r"'token_embd.weight' has shape \(0, 259\)"),
    "huge-counts.bin": (F, "tensor count 18446744073709551615"),
    "kv-arr-huge-n.bin": (F, "array of 4294967295 elements"),
    "kv-huge-strlen.bin": (F, "metadata count 1 need 38 bytes"),
    "magic-only.bin": (F, "there are 4 bytes"),
    "tensor-huge-dims.bin": (F, "'t' has shape"),
    "trunc-magic.bin": (F, "there are 3 bytes"),
}


@pytest.mark.reference
def test_malformed_files(reference_dir: Path):
    files = sorted(path for path in (reference_dir / "malformed").iterdir() if path.is_file())
    assert {path.name for path in files} == WELL_FORMED | set(MALFORMED)
    for path in files:
        result = outcome(path.read_bytes())
        if path.name in WELL_FORMED:
            assert isinstance(result, Header)
        else:
            kind, says = MALFORMED[path.name]
            assert type(result) is kind, path.name
            assert re.search(says, str(result)), result


@pytest.mark.reference
@pytest.mark.parametrize("file_size", [None, HUGE])
def test_fuzz_inputs(reference_dir: Path, file_size: int | None):
    """Inputs of a parser fuzzer: six are whole files, with neither metadata nor tensors."""
    results = [outcome(path.read_bytes(), file_size) for path in sorted((reference_dir / "malformed" / "fuzz").iterdir())]
    headers = [result for result in results if isinstance(result, Header)]
    assert len(results) >= 200
    assert len(headers) == 6
    assert all(len(header.metadata) == len(header.tensors) == 0 for header in headers)

"""GGUF header parser: fed bytes in any pieces, does no I/O, and trusts nothing that it has not checked.

Layout, all little-endian: magic "GGUF", version u32, tensor count u64, metadata count u64; the metadata: key, value type u32,
value; the tensors: name, number of dimensions u32, dimensions u64, type u32, offset u64; padding to the alignment; the data,
where tensor offsets count from. A string is its length u64 and its bytes, an array its element type u32, its length u64 and its
elements. Versions 2 and 3 are laid out alike. Source: the GGUF specification in ggml's docs.

Memory and time are linear in the bytes fed: a count or length is checked against what the file still holds, and storage grows
with the bytes that arrive, never by a number that the file claims. FormatError: the bytes break the format or a limit below.
UnsupportedError: another version, byte order, tensor type, or arrays of arrays. An error is final; there is no partial header.
"""

import math
import struct
import sys
from array import array
from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from wasmrt.errors import FormatError, UnsupportedError, WasmrtError
from wasmrt.gguf.metadata import Metadata, StringArray, Value, shorten
from wasmrt.gguf.types import TYPES, QuantType

__all__ = ["Header", "HeaderParser", "Metadata", "StringArray", "TensorInfo", "Value", "parse_header"]

T = TypeVar("T")
Steps = Generator[None, None, T]  # a part of the parser: yields while bytes are missing, returns what it has read

# Limits. Real headers stay far below: 300k strings, 3k tensors, 20 MB.
MAX_HEADER_BYTES = 256 << 20
MAX_METADATA = 100_000
MAX_TENSORS = 1_000_000
MAX_STRING_BYTES = 64 << 20
MAX_KEY_BYTES = (1 << 16) - 1  # GGUF specification
MAX_NAME_BYTES = 63            # ggml's GGML_MAX_NAME, less its terminating zero
MAX_ARRAY = 16 << 20
MAX_DIMS = 4                   # ggml's GGML_MAX_DIMS
MAX_DIM = (1 << 32) - 1
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32

# The least that one metadata entry (one-byte key, one-byte value) and one tensor (one-byte name, one dimension) can take.
MIN_METADATA_BYTES = 8 + 1 + 4 + 1
MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8

PIECE = 1 << 20  # bytes buffered at a time; whatever the caller feeds, more than this is never held unread

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
PREFIX = struct.Struct("<4sIQQ")   # magic, version, tensors, metadata entries
ARRAY = struct.Struct("<IQ")       # element type, length
DIMS = tuple(struct.Struct(f"<{n}Q") for n in range(MAX_DIMS + 1))
PLACE = struct.Struct("<IQ")       # tensor type, offset in the data

# Metadata value types by id: struct's letter for numbers and booleans, None for strings and arrays.
BOOL, STRING, ARRAY_TYPE, UINT32 = 7, 8, 9, 4
LETTERS = ("B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d")
SCALARS = tuple(letter and struct.Struct("<" + ("B" if letter == "?" else letter)) for letter in LETTERS)

# Types that files of 2023 and 2024 may carry and ggml has since removed.
REMOVED_TYPES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}

# What a file that is not GGUF starts with, lower case, and what it then is.
OLD = "a model in an older ggml format; convert it to GGUF"
LOOKS_LIKE = (
    (b"fugg", "a GGUF file with its bytes reversed"),
    (b"ggml", OLD), (b"lmgg", OLD), (b"ggmf", OLD), (b"fmgg", OLD), (b"ggjt", OLD), (b"tjgg", OLD),
    (b"<", "a web page; the download probably returned an error or log-in page in place of the file"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself (git lfs pull)"),
    (b"pk\x03\x04", "a zip archive or PyTorch checkpoint; convert it to GGUF"),
    (b"\x80\x02", "a Python pickle or PyTorch checkpoint; convert it to GGUF"),
    (b"\x1f\x8b", "gzip data; decompress it first"),
    (b"(\xb5/\xfd", "zstd data; decompress it first"),
    (b"\x89hdf", "an HDF5 file; convert it to GGUF"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies. Every TensorInfo of a Header has been proven to lie in the file."""

    name: str
    type: QuantType
    shape: tuple[int, ...]  # as in the file: shape[0] is the row length, the fastest axis
    offset: int             # bytes from the start of the file
    n_bytes: int

    @property
    def end(self) -> int:
        """The file offset just past the last byte."""
        return self.offset + self.n_bytes

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def row_length(self) -> int:
        """Weights in a row."""
        return self.shape[0]

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.shape[0])


@dataclass(frozen=True, slots=True)
class Header:
    """All of a GGUF file but the weights. `tensors` is in file order."""

    version: int
    metadata: Metadata
    tensors: dict[str, TensorInfo]
    alignment: int    # of tensors in the data, bytes
    data_offset: int  # where the data starts; past the end of the file only if there are no tensors
    n_bytes: int      # of the header, padding not counted


class HeaderParser:
    """Parses one header as its bytes arrive, each byte once.

    file_size: bytes of the whole file, against which counts, lengths and tensor ends are checked.
    name: what messages call the file.
    """

    def __init__(self, file_size: int, name: str = "GGUF") -> None:
        if file_size < 0:
            raise ValueError(f"file_size should be at least 0, is {file_size}")
        self._file_size = file_size
        self._name = name
        self._buffer = bytearray()  # bytes of the file from _base on
        self._base = 0
        self._cursor = 0            # in _buffer: the first byte that is not parsed yet
        self._needed = min(PREFIX.size, file_size)  # bytes that must lie at the cursor before parsing goes on
        self._item = ("header", 0, 0)               # what is being parsed: its kind, its number and how many there are
        self._field = "magic, version and counts"
        self._header: Header | None = None
        self._error: WasmrtError | None = None
        self._steps = self._parse()

    @property
    def header(self) -> Header | None:
        """The header once all of it has been fed."""
        return self._header

    @property
    def wanted(self) -> int:
        """How many more bytes are certainly needed now: at least 1 while incomplete, 0 after."""
        return 0 if self._header else max(1, self._needed - (len(self._buffer) - self._cursor))

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes of the file, any number of them; bytes past the header are ignored.

        Raises FormatError or UnsupportedError as soon as the bytes show it, and again on every later call.
        """
        if self._error:
            raise self._error
        view = memoryview(data).cast("B")
        for i in range(0, len(view), PIECE):
            if self._header:
                return
            if self._cursor > PIECE:
                del self._buffer[: self._cursor]
                self._base += self._cursor
                self._cursor = 0
            self._buffer += view[i : i + PIECE]
            if self._base + len(self._buffer) > self._file_size:
                raise ValueError(f"{self._name}: fed more bytes than the file_size of {self._file_size}")
            if len(self._buffer) - self._cursor >= self._needed:
                self._resume()

    def finish(self) -> Header:
        """The header. Raises FormatError if bytes are missing, saying what was being read."""
        if self._error:
            raise self._error
        if self._header:
            return self._header
        if self._base == 0 and self._cursor == 0:
            self._check_magic(bytes(self._buffer[: PREFIX.size]))
        raise self._cut_short(self._base + len(self._buffer))

    def _resume(self) -> None:
        """Parses on until bytes are missing or the header is complete."""
        try:
            next(self._steps)
        except StopIteration as end:
            self._header = end.value
        except WasmrtError as error:
            self._error = error
            raise
        finally:
            if self._header or self._error:
                self._buffer = bytearray()

    # Reading. The parser steps are generators; `while not self._has(...): yield` is how they wait.

    def _has(self, n_bytes: int, field: str) -> bool:
        """Whether n_bytes lie at the cursor. If not: notes what is waited for, and raises if the file cannot have it."""
        if len(self._buffer) - self._cursor >= n_bytes:
            return True
        self._check_room(n_bytes, field)
        return False

    def _check_room(self, n_bytes: int, field: str) -> None:
        """Notes that n_bytes are waited for; raises if the rest of the file or the limit of a header has no room for them."""
        self._needed, self._field = n_bytes, field
        end = self._offset + n_bytes
        if end > self._file_size:
            raise self._cut_short(self._file_size)
        if end > MAX_HEADER_BYTES:
            raise self._wrong(f"{field} ends at byte {end} or later, the limit of a header is {MAX_HEADER_BYTES}")

    def _take(self, n_bytes: int) -> bytearray:
        """The next n_bytes, which must be there, for keeping.

        A small value is copied. A large one keeps the buffer that it lies in, so that it is never in memory twice.
        """
        begin, end, buffer = self._cursor, self._cursor + n_bytes, self._buffer
        if n_bytes < 4 * PIECE:
            self._cursor = end
            return buffer[begin:end]
        self._buffer = buffer[end:]
        self._base += end
        self._cursor = 0
        del buffer[end:], buffer[:begin]
        return buffer

    def _string(self, field: str, limit: int) -> Steps[bytearray]:
        """The bytes of a string of at most `limit` bytes."""
        while not self._has(8, field):
            yield
        (length,) = U64.unpack_from(self._buffer, self._cursor)
        if length > limit:
            raise self._wrong(f"{field} of {length} bytes, the limit is {limit}")
        while not self._has(8 + length, field):
            yield
        self._cursor += 8
        return self._take(length)

    def _text(self, field: str, limit: int) -> Steps[str]:
        """A string that identifies something: not empty, valid UTF-8."""
        offset = self._offset
        raw = yield from self._string(field, limit)
        if not raw:
            raise self._wrong(f"{field} is empty", offset)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._wrong(f"{field} is not valid UTF-8 ({error.reason} in {bytes(raw[:32])!r})", offset) from None

    # The format, top down.

    def _parse(self) -> Steps[Header]:
        head = bytes(self._buffer[: PREFIX.size])
        self._check_magic(head)
        if len(head) < PREFIX.size:
            self._needed = PREFIX.size
            raise self._cut_short(self._file_size)
        _, version, n_tensors, n_metadata = PREFIX.unpack(head)
        self._check_version(version)
        self._cursor = PREFIX.size
        self._check_counts(n_tensors, n_metadata)

        values: dict[str, Value | bytearray] = {}
        for i in range(n_metadata):
            self._item = ("metadata entry", i + 1, n_metadata)
            yield from self._metadata_entry(values)
        alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
        assert isinstance(alignment, int)  # _metadata_entry has checked it

        places: dict[str, tuple[QuantType, tuple[int, ...], int, int]] = {}
        for i in range(n_tensors):
            self._item = ("tensor", i + 1, n_tensors)
            yield from self._tensor(places, alignment)

        n_bytes = self._offset
        if n_bytes > MAX_HEADER_BYTES:
            raise self._wrong(f"the header ends here, the limit is {MAX_HEADER_BYTES}")
        data_offset = -(-n_bytes // alignment) * alignment
        tensors = {
            name: TensorInfo(name, type_, shape, data_offset + offset, size)
            for name, (type_, shape, offset, size) in places.items()
        }
        self._check_tensors(list(tensors.values()))
        return Header(version, Metadata(values, self._name), tensors, alignment, data_offset, n_bytes)

    def _metadata_entry(self, values: dict[str, Value | bytearray]) -> Steps[None]:
        offset = self._offset
        key = yield from self._text("key", MAX_KEY_BYTES)
        if key in values:
            raise self._wrong(f"key {shorten(key)} stands twice", offset)
        while not self._has(4, "value type"):
            yield
        offset = self._offset
        (kind,) = U32.unpack_from(self._buffer, self._cursor)
        if kind >= len(LETTERS):
            raise self._wrong(f"key {shorten(key)} has value type {kind}, known are 0..{len(LETTERS) - 1}", offset)
        if key == "general.alignment" and kind != UINT32:
            raise self._wrong(f"general.alignment has value type {kind}, should be {UINT32} (uint32)", offset)
        self._cursor += 4
        scalar = SCALARS[kind]
        if kind == STRING:
            values[key] = yield from self._string("string value", MAX_STRING_BYTES)
        elif scalar is None:
            values[key] = yield from self._array(key)
        else:
            while not self._has(scalar.size, "value"):
                yield
            (value,) = scalar.unpack_from(self._buffer, self._cursor)
            if kind == BOOL:
                if value > 1:
                    raise self._wrong(f"key {shorten(key)} is a boolean of value {value}, should be 0 or 1", offset + 4)
                value = value == 1
            if key == "general.alignment" and (value.bit_count() != 1 or value > MAX_ALIGNMENT):
                raise self._wrong(f"general.alignment is {value}, should be a power of two up to {MAX_ALIGNMENT}", offset + 4)
            self._cursor += scalar.size
            values[key] = value

    def _array(self, key: str) -> Steps[Value]:
        offset = self._offset
        while not self._has(ARRAY.size, "array type and length"):
            yield
        kind, count = ARRAY.unpack_from(self._buffer, self._cursor)
        if kind == ARRAY_TYPE:
            raise self._wrong(f"key {shorten(key)} is an array of arrays, which are not supported", offset, UnsupportedError)
        if kind >= len(LETTERS):
            raise self._wrong(f"key {shorten(key)} is an array of type {kind}, known are 0..{len(LETTERS) - 1}", offset)
        if count > MAX_ARRAY:
            raise self._wrong(f"key {shorten(key)} is an array of {count} elements, the limit is {MAX_ARRAY}", offset)
        self._cursor += ARRAY.size
        if kind == STRING:
            self._check_room(8 * count, "array of strings")
            return (yield from self._string_array(count))
        scalar, letter = SCALARS[kind], LETTERS[kind]
        assert scalar is not None  # only strings and arrays have none
        assert letter is not None
        while not self._has(count * scalar.size, "array"):
            yield
        data = self._take(count * scalar.size)
        if kind == BOOL and data.strip(b"\0\1") and (bad := data.translate(None, b"\0\1")):
            raise self._wrong(f"key {shorten(key)} is an array of booleans that holds {bad[0]}, should be 0 or 1", offset)
        return numbers(data, letter)

    def _string_array(self, count: int) -> Steps[StringArray]:
        """Walks over the lengths only. 4-byte offsets suffice below MAX_HEADER_BYTES."""
        starts = array("I", [8])
        keep, length_at = starts.append, U64.unpack_from
        end = 0  # of the last whole string, relative to the cursor, which stays at the start of the array
        while (missing := count + 1 - len(starts)) > 0:
            # Every string takes 8 bytes or more. Waiting for more than a piece of them would let in a string over the limit.
            while not self._has(end + min(8 * missing, PIECE), "array of strings"):
                yield
            buffer, cursor = self._buffer, self._cursor
            at, limit = cursor + end, len(buffer)
            length = 0
            for _ in range(missing):
                if at + 8 > limit:
                    break
                (length,) = length_at(buffer, at)
                if at + 8 + length > limit:
                    break
                at += 8 + length
                keep(at - cursor + 8)
            end = at - cursor
            if len(starts) <= count and at + 8 <= limit:  # the next string is not all there
                if length > MAX_STRING_BYTES:
                    raise self._wrong(f"string of {length} bytes, the limit is {MAX_STRING_BYTES}", self._base + at)
                while not self._has(end + 8 + length, "string of an array"):
                    yield
        return StringArray(self._take(end), starts)

    def _tensor(self, places: dict[str, tuple[QuantType, tuple[int, ...], int, int]], alignment: int) -> Steps[None]:
        start = self._offset
        name = yield from self._text("name", MAX_NAME_BYTES)
        if name in places:
            raise self._wrong(f"name {name!r} stands twice", start)
        while not self._has(4, "number of dimensions"):
            yield
        (n_dims,) = U32.unpack_from(self._buffer, self._cursor)
        if not 1 <= n_dims <= MAX_DIMS:
            raise self._wrong(f"{name!r} has {n_dims} dimensions, should be 1..{MAX_DIMS}")
        while not self._has(4 + 8 * n_dims + PLACE.size, "dimensions, type and offset"):
            yield
        shape = DIMS[n_dims].unpack_from(self._buffer, self._cursor + 4)
        type_id, offset = PLACE.unpack_from(self._buffer, self._cursor + 4 + 8 * n_dims)
        # A tensor without elements means nothing to any model: it is refused, whether or not something would use it.
        if min(shape) < 1 or max(shape) > MAX_DIM:
            raise self._wrong(f"{name!r} has shape {shape}, dimensions should be 1..{MAX_DIM}")
        type_ = TYPES.get(type_id)
        if type_ is None:
            raise self._unknown_type(name, type_id)
        if shape[0] % type_.block:
            raise self._wrong(f"{name!r} has rows of {shape[0]}, {type_.name} needs a multiple of {type_.block}")
        if offset % alignment:
            raise self._wrong(f"{name!r} has data offset {offset}, should be a multiple of the alignment {alignment}")
        places[name] = type_, shape, offset, type_.row_bytes(shape[0]) * math.prod(shape[1:])
        self._cursor += 4 + 8 * n_dims + PLACE.size

    # Checks and errors.

    def _check_magic(self, head: bytes) -> None:
        if head[:4] == b"GGUF"[: len(head)]:
            return
        what = next((what for prefix, what in LOOKS_LIKE if head.lower().startswith(prefix)), None)
        if what is None:
            if head[8:9] == b"{":
                what = "a safetensors file; convert it to GGUF"
            elif not any(head):
                what = "a file of zeros; the download may not have been completed"
            elif all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
                what = "text; the download may have returned a message in place of the file"
            else:
                what = "nothing that is known here"
        raise FormatError(f"{self._name}: not a GGUF file: starts with {head[:4]!r}, should be b'GGUF'; it looks like {what}")

    def _check_version(self, version: int) -> None:
        if version in (2, 3):
            return
        if version == 0:
            raise self._wrong("GGUF version 0 does not exist", 4)
        # A big-endian file keeps the magic and turns the rest, so a small version lies in the upper half.
        what = "big-endian" if version & 0xFFFF == 0 else f"GGUF version {version}"
        raise self._wrong(f"{what}; little-endian versions 2 and 3 are supported, convert the file anew", 4, UnsupportedError)

    def _check_counts(self, n_tensors: int, n_metadata: int) -> None:
        if n_tensors > MAX_TENSORS:
            raise self._wrong(f"tensor count {n_tensors}, the limit is {MAX_TENSORS}", 8)
        if n_metadata > MAX_METADATA:
            raise self._wrong(f"metadata count {n_metadata}, the limit is {MAX_METADATA}", 16)
        least = PREFIX.size + n_metadata * MIN_METADATA_BYTES + n_tensors * MIN_TENSOR_BYTES
        if least > self._file_size:
            raise self._wrong(
                f"tensor count {n_tensors} and metadata count {n_metadata} need {least} bytes or more, but the file has "
                f"{self._file_size}; the download may have been cut short", 8,
            )

    def _check_tensors(self, tensors: list[TensorInfo]) -> None:
        """Every tensor lies in the file, and no two share a byte. Gaps are allowed."""
        tensors.sort(key=lambda tensor: tensor.offset)
        for before, after in pairwise(tensors):
            if before.end > after.offset:
                raise FormatError(
                    f"{self._name}: tensor {before.name!r} ends at byte {before.end}, but {after.name!r} starts at "
                    f"{after.offset}: they overlap; the file is damaged"
                )
        if tensors and tensors[-1].end > self._file_size:
            last = tensors[-1]
            raise FormatError(
                f"{self._name}: tensor {last.name!r} ends at byte {last.end}, but the file has {self._file_size}: "
                f"{last.end - self._file_size} bytes are missing; the download may have been cut short"
            )

    def _unknown_type(self, name: str, type_id: int) -> WasmrtError:
        if type_id in REMOVED_TYPES:
            what = f"type {type_id} ({REMOVED_TYPES[type_id]}), which ggml has removed; convert the file anew"
        else:
            what = f"type {type_id}, which is unknown"
        known = ", ".join(known.name for known in TYPES.values())
        return self._wrong(f"{name!r} has {what}; supported are {known}", None, UnsupportedError)

    @property
    def _offset(self) -> int:
        """File offset of the cursor."""
        return self._base + self._cursor

    @property
    def _where(self) -> str:
        kind, number, count = self._item
        return f"{kind} {number} of {count}" if number else kind

    def _wrong(self, what: str, offset: int | None = None, kind: type[WasmrtError] = FormatError) -> WasmrtError:
        return kind(f"{self._name}: {self._where}, byte {self._offset if offset is None else offset}: {what}")

    def _cut_short(self, present: int) -> FormatError:
        end = self._offset + max(self._needed, 1)
        if self._base + len(self._buffer) == 0:
            return FormatError(f"{self._name}: no bytes, a GGUF file has {PREFIX.size} or more; the download may have failed")
        return FormatError(
            f"{self._name}: {self._where}, byte {self._offset}: {self._field} ends at byte {end} or later, but there are "
            f"{present} bytes; the download may have been cut short"
        )


def parse_header(data: bytes | bytearray | memoryview, file_size: int | None = None, name: str = "GGUF") -> Header:
    """The header that `data` starts with. file_size: of the whole file; None if `data` is all of it.

    Raises FormatError (also if `data` ends before the header does) or UnsupportedError.
    """
    parser = HeaderParser(memoryview(data).nbytes if file_size is None else file_size, name)
    parser.feed(data)
    return parser.finish()


def numbers(data: bytearray, letter: Any) -> memoryview:
    """Little-endian numbers as a read-only view of struct's type `letter`."""
    if sys.byteorder == "big" and letter != "?":
        swapped = array(letter, bytes(data))
        swapped.byteswap()
        return memoryview(swapped).toreadonly()
    view: memoryview = memoryview(data).toreadonly().cast(letter)
    return view

"""GGUF headers built by hand, byte by byte, so that a test can also build wrong ones."""

import struct
from collections.abc import Iterable

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A metadata entry; `value` is the encoded value."""
    return string(key) + struct.pack("<I", kind) + value


def number_entry(key: str, kind: int, value: float) -> bytes:
    letter = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}[kind]
    return entry(key, kind, struct.pack("<" + letter, value))


def array_entry(key: str, kind: int, elements: bytes, count: int) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", kind, count) + elements)


def strings_entry(key: str, strings: Iterable[str | bytes]) -> bytes:
    encoded = [string(s) for s in strings]
    return array_entry(key, STRING, b"".join(encoded), len(encoded))


def tensor(name: str | bytes, shape: Iterable[int], type_id: int = 0, offset: int = 0, n_dims: int | None = None) -> bytes:
    dims = tuple(shape)
    return string(name) + struct.pack(
        f"<I{len(dims)}QIQ", len(dims) if n_dims is None else n_dims, *dims, type_id, offset
    )


def header(
    entries: Iterable[bytes] = (),
    tensors: Iterable[bytes] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_entries: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    entries, tensors = list(entries), list(tensors)
    counts = (len(tensors) if n_tensors is None else n_tensors, len(entries) if n_entries is None else n_entries)
    return magic + struct.pack("<IQQ", version, *counts) + b"".join(entries + tensors)


def with_data(head: bytes, n_bytes: int, alignment: int = 32) -> bytes:
    """A whole file: the header, padding, n_bytes of data."""
    return head + bytes(-len(head) % alignment + n_bytes)

"""The key-value part of a GGUF header as a typed mapping; its getters name the key, what was expected and what stands there."""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NoReturn, TypeVar, overload

from wasmrt.errors import FormatError

D = TypeVar("D")

# Default of a getter whose key must be there.
REQUIRED: Any = object()

Value = int | float | bool | str | Sequence[int] | Sequence[float] | Sequence[bool] | Sequence[str]

SHOWN = 60  # characters of a key or value that a message repeats: both come from the file and may be long


class StringArray(Sequence[str]):
    """Strings as they lie in the file, decoded on access: a vocabulary of 128k tokens costs no 128k objects.

    data: each string behind its length (uint64, little-endian), without gaps. starts: the offset of each string's first byte
    in data, and one more entry, 8 past the end. Invalid UTF-8 becomes U+FFFD; `raw` has the bytes.
    """

    __slots__ = ("_data", "_starts")

    def __init__(self, data: bytes | bytearray, starts: Sequence[int]) -> None:
        self._data = data
        self._starts = starts

    @classmethod
    def of(cls, strings: Iterable[str | bytes]) -> "StringArray":
        """The same strings, laid out as in a file."""
        data, starts = bytearray(), array("Q", [8])
        for string in strings:
            raw = string.encode() if isinstance(string, str) else string
            data += len(raw).to_bytes(8, "little") + raw
            starts.append(len(data) + 8)
        return cls(data, starts)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def raw(self, index: int) -> bytes:
        """The bytes of one string; a negative index counts from the end, IndexError outside."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"string {index} of {count}")
        index %= count
        return bytes(self._data[self._starts[index] : self._starts[index + 1] - 8])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.raw(index).decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        data, start = self._data, 8
        for following in islice(self._starts, 1, None):
            yield data[start : following - 8].decode("utf-8", "replace")
            start = following

    def __repr__(self) -> str:
        return f"<StringArray of {len(self)}>"


class Metadata(Mapping[str, Value]):
    """Metadata of one file, in file order.

    A string is a str (invalid UTF-8 becomes U+FFFD), an array of strings a StringArray, an array of numbers or booleans a
    read-only memoryview of the file's element type (index, iterate, `tolist()`). `values` may also hold plain lists, and
    strings as bytes: those are decoded on access, because a str can take four times the bytes of the file.

    The getters raise FormatError if the key is missing and no default is given, or if the value is of another type or out
    of range. A default is returned as it is. `name` stands at the front of their messages.
    """

    __slots__ = ("_name", "_values")

    def __init__(self, values: Mapping[str, Value | bytes | bytearray], name: str = "GGUF") -> None:
        self._values = values
        self._name = name

    def __getitem__(self, key: str) -> Value:
        value = self._values[key]
        return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Metadata of {self._name}: {len(self)} keys>"

    def integer(self, key: str, default: D = REQUIRED, minimum: int | None = None, maximum: int | None = None) -> int | D:
        """An integer in minimum..maximum, both inclusive. A boolean or a float is not one."""
        if self._absent(key, default, "an integer"):
            return default
        value = self[key]
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong(key, "an integer", value)
        self._check_range(key, "an integer", value, minimum, maximum)
        return value

    def number(self, key: str, default: D = REQUIRED, minimum: float | None = None, maximum: float | None = None) -> float | D:
        """A finite number in minimum..maximum, both inclusive; an integer becomes a float."""
        if self._absent(key, default, "a number"):
            return default
        value = self[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self._wrong(key, "a finite number", value)
        self._check_range(key, "a number", value, minimum, maximum)
        return float(value)

    def string(self, key: str, default: D = REQUIRED) -> str | D:
        """A string; bytes that are not UTF-8 read as U+FFFD."""
        if self._absent(key, default, "a string"):
            return default
        value = self[key]
        if not isinstance(value, str):
            self._wrong(key, "a string", value)
        return value

    def flag(self, key: str, default: D = REQUIRED) -> bool | D:
        """A boolean; the numbers 0 and 1 are not."""
        if self._absent(key, default, "a boolean"):
            return default
        value = self[key]
        if not isinstance(value, bool):
            self._wrong(key, "a boolean", value)
        return value

    def integers(self, key: str, default: D = REQUIRED) -> Sequence[int] | D:
        """An array of integers of any width; an array of booleans is not one."""
        values: Sequence[int] | D = self._array(key, default, "an array of integers", "bBhHiIqQ", int)
        return values

    def numbers(self, key: str, default: D = REQUIRED) -> Sequence[float] | D:
        """An array of finite numbers: floats, or integers of any width."""
        if self._absent(key, default, "an array of numbers"):
            return default
        values: Sequence[float] = self._array(key, default, "an array of numbers", "bBhHiIqQfd", int | float)
        if not all(map(math.isfinite, values)):
            i = next(i for i, value in enumerate(values) if not math.isfinite(value))
            self._fail(key, "an array of finite numbers", f"{values[i]} at index {i}")
        return values

    def flags(self, key: str, default: D = REQUIRED) -> Sequence[bool] | D:
        """An array of booleans."""
        values: Sequence[bool] | D = self._array(key, default, "an array of booleans", "?", bool)
        return values

    def strings(self, key: str, default: D = REQUIRED) -> StringArray | D:
        """An array of strings."""
        if self._absent(key, default, "an array of strings"):
            return default
        value = self[key]
        if isinstance(value, StringArray):
            return value
        if not isinstance(value, list | tuple) or not all(isinstance(string, str) for string in value):
            self._wrong(key, "an array of strings", value)
        return StringArray.of(value)

    def _array(self, key: str, default: D, expected: str, formats: str, kind: Any) -> Any:
        """The array at `key`: a memoryview of one of `formats`, or a list of `kind`."""
        if self._absent(key, default, expected):
            return default
        value = self[key]
        if isinstance(value, memoryview):
            fits = value.format in formats
        else:
            fits = isinstance(value, list | tuple | array) and all(
                isinstance(item, kind) and isinstance(item, bool) == (kind is bool) for item in value
            )
        if not fits:
            self._wrong(key, expected, value)
        return value

    def _absent(self, key: str, default: object, expected: str) -> bool:
        if key in self._values:
            return False
        if default is REQUIRED:
            self._fail(key, expected, "no such key")
        return True

    def _check_range(self, key: str, what: str, value: float, minimum: float | None, maximum: float | None) -> None:
        if (minimum is None or value >= minimum) and (maximum is None or value <= maximum):
            return
        if minimum is None:
            what = f"{what} of at most {maximum}"
        elif maximum is None:
            what = f"{what} of at least {minimum}"
        else:
            what = f"{what} in {minimum}..{maximum}"
        self._fail(key, what, str(value))

    def _wrong(self, key: str, expected: str, value: object) -> NoReturn:
        self._fail(key, expected, describe(value))

    def _fail(self, key: str, expected: str, found: str) -> NoReturn:
        raise FormatError(f"{self._name}: metadata key {shorten(key)} should be {expected}, found {found}")


def shorten(text: str) -> str:
    """A repr for a message, cut after SHOWN characters."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


def describe(value: object) -> str:
    """A metadata value in a message: its type, and as much of it as fits a line."""
    if isinstance(value, bool):
        return f"the boolean {value}"
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, float):
        return f"the float {value}"
    if isinstance(value, str):
        return f"the string {shorten(value)}"
    if isinstance(value, memoryview):
        kind = "booleans" if value.format == "?" else "floats" if value.format in ("f", "d") else "integers"
        return f"an array of {len(value)} {kind}"
    if isinstance(value, StringArray):
        return f"an array of {len(value)} strings"
    return f"a value of type {type(value).__name__}"

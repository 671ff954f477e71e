"""Typed metadata: what the getters take, and what they say when they refuse."""

import struct
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import raw_gguf as raw
from wasmrt.errors import FormatError
from wasmrt.gguf.metadata import Metadata, StringArray
from wasmrt.gguf.reader import parse_header

NAN, INF = float("nan"), float("inf")

METADATA = parse_header(
    raw.header([
        raw.number_entry("int", raw.U32, 7), raw.number_entry("negative", raw.I64, -7),
        raw.number_entry("float", raw.F64, 0.25),
        raw.number_entry("nan", raw.F32, NAN), raw.number_entry("inf", raw.F64, INF), raw.number_entry("-inf", raw.F32, -INF),
        raw.number_entry("true", raw.BOOL, 1), raw.entry("text", raw.STRING, raw.string("hi")),
        raw.entry("long", raw.STRING, raw.string("x" * 5000)),
        raw.array_entry("ints", raw.I16, struct.pack("<3h", 1, -2, 3), 3),
        raw.array_entry("floats", raw.F32, struct.pack("<2f", 1.5, -2), 2), raw.array_entry("bools", raw.BOOL, b"\1\0", 2),
        raw.array_entry("nans", raw.F32, struct.pack("<3f", 1, NAN, INF), 3), raw.strings_entry("strings", ["a", "ü", ""]),
        raw.array_entry("empty", raw.U32, b"", 0),
    ]),
    name="model.gguf",
).metadata


def test_getters_return_the_value():
    assert (METADATA.integer("int"), METADATA.integer("negative")) == (7, -7)
    assert (METADATA.number("float"), METADATA.number("int")) == (0.25, 7.0)
    assert type(METADATA.number("int")) is float
    assert METADATA.flag("true") is True
    assert METADATA.string("text") == "hi"
    assert list(METADATA.integers("ints")) == list(METADATA.numbers("ints")) == [1, -2, 3]
    assert list(METADATA.numbers("floats")) == [1.5, -2]
    assert list(METADATA.flags("bools")) == [True, False]
    assert list(METADATA.strings("strings")) == ["a", "ü", ""]
    assert len(METADATA.integers("empty")) == 0


GETTERS: dict[str, set[str]] = {  # each getter, and the keys it takes
    "integer": {"int", "negative"}, "number": {"int", "negative", "float"}, "string": {"text", "long"}, "flag": {"true"},
    "integers": {"ints", "empty"}, "numbers": {"ints", "floats", "empty"}, "flags": {"bools"}, "strings": {"strings"},
}


@pytest.mark.parametrize("getter", GETTERS)
def test_a_value_of_another_type_is_refused(getter: str):
    """Every getter on every kind of value: what it does not take is an error of one line that names the key."""
    for key in METADATA:
        if key in GETTERS[getter]:
            getattr(METADATA, getter)(key)
            continue
        with pytest.raises(FormatError, match=rf"^model\.gguf: metadata key '{key}' should be an? .*, found .+") as caught:
            getattr(METADATA, getter)(key)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize("getter", GETTERS)
def test_a_missing_key(getter: str):
    get: Callable[..., Any] = getattr(METADATA, getter)
    default = object()
    assert get("absent", default) is default
    assert get("absent", default=None) is None
    with pytest.raises(FormatError, match=r"model\.gguf: metadata key 'absent' should be .*, found no such key"):
        get("absent")


@pytest.mark.parametrize(("key", "found"), [
    ("int", "the integer 7"), ("float", r"the float 0\.25"), ("true", "the boolean True"), ("ints", "an array of 3 integers"),
    ("floats", "an array of 2 floats"), ("bools", "an array of 2 booleans"), ("strings", "an array of 3 strings"),
])
def test_the_message_says_what_was_found(key: str, found: str):
    with pytest.raises(FormatError, match=f"should be a string, found {found}$"):
        METADATA.string(key)


def test_a_default_does_not_hide_a_wrong_type():
    with pytest.raises(FormatError, match="'text' should be an integer, found the string 'hi'"):
        METADATA.integer("text", 5)


def test_ranges_are_inclusive():
    assert METADATA.integer("int", minimum=7, maximum=7) == 7
    assert METADATA.number("float", minimum=0.25, maximum=0.25) == 0.25
    with pytest.raises(FormatError, match=r"'int' should be an integer in 8\.\.9, found 7"):
        METADATA.integer("int", minimum=8, maximum=9)
    with pytest.raises(FormatError, match="'int' should be an integer of at most 6, found 7"):
        METADATA.integer("int", maximum=6)
    with pytest.raises(FormatError, match=r"'float' should be a number of at least 0\.3, found 0\.25"):
        METADATA.number("float", minimum=0.3)


def test_an_array_of_numbers_must_be_finite():
    with pytest.raises(FormatError, match="'nans' should be an array of finite numbers, found nan at index 1"):
        METADATA.numbers("nans")


def test_long_keys_and_values_are_cut_in_messages():
    metadata = Metadata({"k" * 60_000: "v" * 60_000})
    with pytest.raises(FormatError) as caught:
        metadata.integer("k" * 60_000)
    assert len(str(caught.value)) < 250


def test_it_is_a_mapping():
    assert len(METADATA) == 15
    assert "int" in METADATA
    assert "absent" not in METADATA
    assert METADATA["text"] == METADATA.get("text") == "hi"
    assert METADATA.get("absent", 3) == 3
    with pytest.raises(KeyError):
        METADATA["absent"]


def test_metadata_made_by_hand() -> None:
    mixed: Any = [1, "x"]
    metadata = Metadata({
        "i": [1, 2], "f": [1, 2.5], "a": array("I", [3]), "b": [True], "s": ["x", "y"], "t": b"z", "mixed": mixed,
    })
    assert list(metadata.integers("i")) == [1, 2]
    assert list(metadata.integers("a")) == [3]
    assert list(metadata.numbers("f")) == [1, 2.5]
    assert list(metadata.flags("b")) == [True]
    assert list(metadata.strings("s")) == ["x", "y"]
    assert metadata.string("t") == "z"
    for getter, key in (
        ("integers", "b"), ("integers", "f"), ("numbers", "b"), ("flags", "i"), ("strings", "mixed"), ("numbers", "mixed"),
    ):
        with pytest.raises(FormatError, match=f"'{key}' should be an array"):
            getattr(metadata, getter)(key)


@given(st.lists(st.text() | st.binary(max_size=8), max_size=12))
def test_string_array_is_a_list_of_strings(strings: list[str | bytes]):
    expected = [s if isinstance(s, str) else s.decode("utf-8", "replace") for s in strings]
    made, read = StringArray.of(strings), parse_header(raw.header([raw.strings_entry("k", strings)])).metadata.strings("k")
    for found in (made, read):
        assert len(found) == len(expected)
        assert list(found) == expected == [found[i] for i in range(len(found))] == found[:]
        assert [found.raw(i) for i in range(len(found))] == [s.encode() if isinstance(s, str) else s for s in strings]
        assert found[1:-1] == expected[1:-1]
        assert found[::-2] == expected[::-2]
        assert list(reversed(found)) == expected[::-1]


def test_string_array_indexes_from_both_ends():
    strings = METADATA.strings("strings")
    assert (strings[-1], strings[-3], strings.index("ü"), "b" in strings, "a" in strings) == ("", "a", 1, False, True)
    for index in (3, -4):
        with pytest.raises(IndexError):
            strings[index]
    with pytest.raises(IndexError):
        StringArray.of([])[0]

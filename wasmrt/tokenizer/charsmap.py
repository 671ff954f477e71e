"""The normalization that a Unigram file carries (tokenizer.ggml.precompiled_charsmap): byte sequences and what replaces them.

Layout: uint32 n; a double array of n bytes (uint32 units, little-endian); the replacements, each ended by a zero byte.
A unit has its label in bits 0-7 (with bit 31: it holds a value), "a value belongs to this node" in bit 8 and the offset of its
children in bits 10-30, times 256 if bit 9 is set. The child of unit i by byte b is i XOR offset XOR b, if its label is b; the
child by byte 0 holds where in the replacements the node's one begins. Source: Yata, darts-clone; Kanda et al. 2017.
"""

import re
import sys
from array import array
from functools import cached_property

from wasmrt.errors import FormatError

KEY = "tokenizer.ggml.precompiled_charsmap"
LARGEST = 16 << 20  # bytes of a map; 0.3 MB in published models
LONGEST_MATCH = 64  # characters; the longest of NFKC has 4. Without a bound, a circle of units would be walked for ever
LONGEST_REPLACEMENT = 256  # bytes; the longest of NFKC has 33
IS_VALUE = 1 << 31


class CharsMap:
    """replace(text) -> text, the longest match at each place. Matches that end inside a character do not count."""

    def __init__(self, blob: bytes) -> None:
        """Raises FormatError where the sizes do not fit; a unit or a replacement that lies outside, when it is come across."""
        n_bytes = int.from_bytes(blob[:4], "little")
        if len(blob) < 4 or n_bytes % 4 or n_bytes < 4 or 4 + n_bytes >= len(blob):
            raise FormatError(f"{KEY} has {len(blob)} bytes, of which its table should be {n_bytes}; the file is damaged")
        if blob[-1] != 0:
            raise FormatError(f"{KEY} ends inside a replacement; the file is damaged")
        self._units = array("I", blob[4 : 4 + n_bytes])
        if sys.byteorder == "big":
            self._units.byteswap()
        self._known: dict[str, int | None] = {}
        self._replacements = blob[4 + n_bytes :]

    def replace(self, text: str) -> str:
        made: list[str] = []
        at = 0
        for stop in self._stops.finditer(text):
            if stop.start() < at:  # inside a match
                continue
            made.append(text[at : stop.start()])
            at = stop.start()
            length, replacement = self._match(text, at)
            made.append(replacement if length else text[at])
            at += length or 1
        made.append(text[at:])
        return "".join(made)

    @cached_property
    def _stops(self) -> re.Pattern[str]:
        """Where a match may begin. Most ASCII characters begin none unless one of another script follows."""
        plain = [chr(c) for c in range(1, 128) if self._is_plain(c)]
        if not plain:
            return re.compile(".", re.DOTALL)
        members = "".join(map(re.escape, plain))
        return re.compile(rf"[^{members}]|.(?=[^\0-\x7f])", re.DOTALL)

    def _is_plain(self, c: int) -> bool:
        """No match is this character, or this and another of ASCII."""
        node = self._child(self._offset(0), c)
        if node is None:
            return True
        return not self._has_value(node) and all(self._child(node ^ self._offset(node), byte) is None for byte in range(1, 128))

    def _match(self, text: str, start: int) -> tuple[int, str]:
        """Characters of the longest match at `start`, 0 for none, and what replaces them."""
        length, value, walked = 0, 0, 0
        node = self._first(text[start])
        while node is not None:
            children = node ^ self._offset(node)
            if self._has_value(node):
                length, value = walked + 1, self._unit(children) & (IS_VALUE - 1)
            walked += 1
            if start + walked == len(text) or walked == LONGEST_MATCH:
                break
            node = self._descend(children, text[start + walked])
        return length, self._replacement(value) if length else ""

    def _first(self, character: str) -> int | None:
        """The node of a character that a match begins with."""
        if character not in self._known:
            if len(self._known) >= 1 << 16:
                self._known.clear()
            self._known[character] = self._descend(self._offset(0), character)
        return self._known[character]

    def _descend(self, children: int, character: str) -> int | None:
        node = 0
        for byte in character.encode():
            found = self._child(children, byte) if byte else None
            if found is None:
                return None
            node = found
            children = node ^ self._offset(node)
        return node

    def _unit(self, index: int) -> int:
        if index >= len(self._units):
            raise FormatError(f"{KEY} points at unit {index} of {len(self._units)}; the file is damaged")
        return self._units[index]

    def _offset(self, index: int) -> int:
        unit = self._unit(index)
        return (unit >> 10) << ((unit & 0x200) >> 6)

    def _has_value(self, index: int) -> bool:
        return bool(self._unit(index) >> 8 & 1)

    def _child(self, children: int, byte: int) -> int | None:
        return children ^ byte if self._unit(children ^ byte) & (IS_VALUE | 0xFF) == byte else None

    def _replacement(self, start: int) -> str:
        end = self._replacements.find(0, start, start + LONGEST_REPLACEMENT + 1)
        if end < 0:
            raise FormatError(
                f"{KEY} has no replacement of at most {LONGEST_REPLACEMENT} bytes at byte {start} of {len(self._replacements)};"
                " the file is damaged"
            )
        return self._replacements[start:end].decode("utf-8", "replace")

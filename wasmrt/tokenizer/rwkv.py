"""RWKV's World tokenizer: at each place the longest token there is, in bytes.

Source: Peng et al. 2024, arXiv 2404.05892, and llama.cpp. A token's text in the file has escapes: \\t \\n \\r \\x0A, and a
backslash before any other character that stands for itself.
"""

import re
from functools import cached_property

from wasmrt.errors import FormatError
from wasmrt.gguf.metadata import shorten
from wasmrt.tokenizer.pieces import Pieces
from wasmrt.tokenizer.vocab import UNUSED, Vocab

ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
WHOLE = re.compile(r"(?:[^\\]|\\[^x]|\\x[0-9A-Fa-f]{2})*+")
LETTERS = {"t": b"\t", "n": b"\n", "r": b"\r"}


class LongestTokens:
    """Text without special tokens -> ids. A byte that begins no token is the unknown token, or nothing where there is none."""

    def __init__(self, vocab: Vocab) -> None:
        """Raises FormatError for a token whose text ends inside an escape."""
        self._vocab = vocab
        for id, text in enumerate(vocab.texts):
            if "\\" in text and not WHOLE.fullmatch(text):
                raise FormatError(f"token {id} is {shorten(text)}, which has an escape that is not one; the file is damaged")

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for text, id in self._vocab.plain_ids.items():
            if self._vocab.type_of(id) != UNUSED:  # what fills a vocabulary up
                found.setdefault(unescape(text), id)
        return found

    @cached_property
    def _pieces(self) -> Pieces[bytes]:
        return Pieces(self._ids)

    def encode(self, text: str) -> list[int]:
        raw, ids, pieces, unknown = text.encode(), self._ids, self._pieces, self._vocab.unk_id
        encoded: list[int] = []
        at = 0
        while at < len(raw):
            *_, longest = b"", *pieces.at(raw, at)
            if longest:
                encoded.append(ids[longest])
            elif unknown is not None:
                encoded.append(unknown)
            at += len(longest) or 1
        return encoded

    def decode(self, text: str) -> bytes:
        """The bytes of a token's text."""
        return unescape(text)


def unescape(text: str) -> bytes:
    made: list[bytes] = []
    at = 0
    for found in ESCAPE.finditer(text):
        made.append(text[at : found.start()].encode())
        made.append(bytes((int(found[1], 16),)) if found[1] else LETTERS.get(found[2]) or found[2].encode())
        at = found.end()
    return b"".join((*made, text[at:].encode()))

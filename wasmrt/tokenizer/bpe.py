"""Byte-level BPE (GPT-2 and most models since): words as bytes, each byte a letter, letters merged by the file's list.

Source: Sennrich et al. 2016, arXiv 1508.07909; the byte alphabet: Radford et al. 2019 (GPT-2).
"""

from collections.abc import Sequence
from functools import cached_property

from wasmrt.tokenizer.merge import WordCache, merge
from wasmrt.tokenizer.pretokenize import Pretokenizer, Splitter
from wasmrt.tokenizer.vocab import Vocab


def byte_alphabet() -> list[str]:
    """Byte to letter: printable Latin-1 stands for itself, the other 68 bytes are the letters from U+0100 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x100 + 68))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


LETTER_OF = byte_alphabet()
BYTE_OF = {letter: byte for byte, letter in enumerate(LETTER_OF)}


class BytePairs:
    """Text without special tokens -> ids.

    A merge with a part or result that is no token is ignored. A byte whose letter is no token is dropped, as the `tokenizers`
    library does: such a vocabulary cannot express it.
    """

    def __init__(self, vocab: Vocab, merges: Sequence[str], pretokenizer: Pretokenizer) -> None:
        self._vocab = vocab
        self._merges = merges
        self._pretokenizer = pretokenizer
        self._cache = WordCache(self._encode_word)

    @cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self._pretokenizer)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """The merge as written, "left right", to its line; the first of equal ones counts."""
        lines = list(self._merges)
        return dict(zip(reversed(lines), range(len(lines) - 1, -1, -1), strict=True))

    def encode(self, text: str) -> list[int]:
        return self._cache.encode(self._splitter.split(text))

    def _encode_word(self, word: str) -> list[int]:
        ids = self._vocab.plain_ids
        letters = [LETTER_OF[byte] for byte in word.encode()]
        if self._pretokenizer.ignore_merges:
            whole = ids.get("".join(letters))
            if whole is not None:
                return [whole]
        ranks = self._ranks

        def rank_of(left: str, right: str) -> int | None:
            rank = ranks.get(f"{left} {right}")
            return rank if rank is None or left + right in ids else None

        return [ids[part] for part in merge([letter for letter in letters if letter in ids], rank_of)]

    def decode(self, text: str) -> bytes:
        """The bytes of a token's text; a character outside the byte alphabet stands for itself."""
        try:
            return bytes([BYTE_OF[letter] for letter in text])
        except KeyError:
            return b"".join(bytes((BYTE_OF[c],)) if c in BYTE_OF else c.encode() for c in text)

"""BPE by a list of merges. Byte-level (GPT-2 and most models since): words as bytes, each byte a letter, letters merged.

Gemma 4 and a few others merge characters instead, and spell in bytes, "<0x0A>", what is no token.

Source: Sennrich et al. 2016, arXiv 1508.07909; the byte alphabet: Radford et al. 2019 (GPT-2).
"""

from collections.abc import Sequence
from functools import cached_property

from wasmrt.tokenizer.folding import lower
from wasmrt.tokenizer.merge import WordCache, merge
from wasmrt.tokenizer.pretokenize import Pretokenizer, Splitter, class_of
from wasmrt.tokenizer.spaced import SPACE, SpacedWords
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
    library does: such a vocabulary cannot express it. lowercase: only where merges see "words" (pretokenize.py).
    """

    def __init__(self, vocab: Vocab, merges: Sequence[str], pretokenizer: Pretokenizer, *, lowercase: bool = False) -> None:
        self._vocab = vocab
        self._merges = merges
        self._pretokenizer = pretokenizer
        self._lowercase = lowercase
        self._cache = WordCache(self._encode_word)

    @cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self._pretokenizer)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """The merge as written, "left right", to its line; the first of equal ones counts."""
        lines = list(self._merges)
        return dict(zip(reversed(lines), range(len(lines) - 1, -1, -1), strict=True))

    @cached_property
    def _spaced(self) -> SpacedWords:
        return SpacedWords(self._vocab.plain_ids)

    def encode(self, text: str) -> list[int]:
        match self._pretokenizer.letters:
            case "spaces":
                lines = self._splitter.split(text.replace(" ", SPACE))
                words = [word for line in lines for word in self._spaced.cut(line)]
            case "words":
                text = lower(text) if self._lowercase else text
                words = [word for word in self._splitter.split(text) if class_of(ord(word[0])) != "Z"]
            case _:
                words = self._splitter.split(text)
        return self._cache.encode(words)

    def _encode_word(self, word: str) -> list[int]:
        ids = self._vocab.plain_ids
        in_bytes = self._pretokenizer.letters == "bytes"
        letters = [LETTER_OF[byte] for byte in word.encode()] if in_bytes else list(word)
        may_be_whole = self._pretokenizer.ignore_merges
        if may_be_whole is True or (may_be_whole == "lines" and not word.strip("\n")):
            whole = ids.get("".join(letters))
            if whole is not None:
                return [whole]
        ranks = self._ranks

        def rank_of(left: str, right: str) -> int | None:
            rank = ranks.get(f"{left} {right}")
            return rank if rank is None or left + right in ids else None

        if in_bytes:
            return [ids[part] for part in merge([letter for letter in letters if letter in ids], rank_of)]
        encoded: list[int] = []
        for part in merge(letters, rank_of):
            encoded += [ids[part]] if part in ids else self._vocab.spell(part)
        return encoded

    def decode(self, text: str) -> bytes:
        """The bytes of a token's text; a character outside the byte alphabet stands for itself."""
        if self._pretokenizer.letters != "bytes":
            return text.replace(SPACE, " ").encode() if self._pretokenizer.letters == "spaces" else text.encode()
        try:
            return bytes([BYTE_OF[letter] for letter in text])
        except KeyError:
            return b"".join(bytes((BYTE_OF[c],)) if c in BYTE_OF else c.encode() for c in text)

"""WordPiece (BERT and its kin): text made plain, cut at spaces and signs, each word by its longest known beginnings.

Source: Devlin et al. 2018, arXiv 1810.04805, and its `tokenizers` form. In a GGUF file a token that starts a word has U+2581 in
front; one that goes on, "##ing" where the model was published, stands without a mark. Where llama.cpp's version differs, this
is the published one: Hangul is taken apart into all of its jamo, and a word of more than 100 characters is unknown.
"""

from functools import cached_property

from wasmrt.tokenizer.folding import bare, lower
from wasmrt.tokenizer.merge import WordCache
from wasmrt.tokenizer.pretokenize import class_of
from wasmrt.tokenizer.spaced import SPACE
from wasmrt.tokenizer.vocab import Vocab

LONGEST_WORD = 100  # characters
ASCII_SIGNS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),  # so in the library; the block begins at 2B820
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class _Plain(dict[int, str]):
    """Code point to what it becomes, for str.translate, " " around what is a word by itself. Bounded."""

    def __init__(self, lowercase: bool, strip_accents: bool) -> None:
        super().__init__()
        self._lowercase = lowercase
        self._strip_accents = strip_accents

    def __missing__(self, code_point: int) -> str:
        plain = self._plain(code_point)
        if len(self) < 1 << 16:
            self[code_point] = plain
        return plain

    def _plain(self, c: int) -> str:
        if c in (0x09, 0x0A, 0x0D):
            return " "
        if c in (0, 0xFFFD) or class_of(c) == "c" or c in (0x0B, 0x0C, 0x85):
            return ""
        text = chr(c)
        if self._strip_accents:
            text = "" if class_of(c) == "n" else bare(text)
        if self._lowercase:
            text = lower(text)
        alone = any(first <= c <= last for first, last in IDEOGRAPHS)
        return "".join(f" {part} " if alone or is_sign(part) else " " if class_of(ord(part)) == "Z" else part for part in text)


def is_sign(character: str) -> bool:
    """Punctuation, and everything in ASCII that is neither a letter, a number, a space nor a control."""
    return character in ASCII_SIGNS or class_of(ord(character)) in "pP"


class WordPieces:
    """Text without special tokens -> ids. A word that has no pieces is one unknown token, or nothing where there is none."""

    def __init__(self, vocab: Vocab, *, lowercase: bool, strip_accents: bool) -> None:
        self._vocab = vocab
        self._plain = _Plain(lowercase, strip_accents)
        self._cache = WordCache(self._encode_word)

    @cached_property
    def _longest(self) -> int:
        return min(max(map(len, self._vocab.plain_ids), default=0), LONGEST_WORD + 1)

    def encode(self, text: str) -> list[int]:
        return self._cache.encode(self.words(text))

    def words(self, text: str) -> list[str]:
        return [word for word in text.translate(self._plain).split(" ") if word]

    def _encode_word(self, word: str) -> list[int]:
        unknown = [] if self._vocab.unk_id is None else [self._vocab.unk_id]
        if len(word) > LONGEST_WORD:
            return unknown
        ids = self._vocab.plain_ids
        encoded: list[int] = []
        rest = SPACE + word
        at_least = 2  # the mark by itself begins no word
        while rest:
            for n in range(min(len(rest), self._longest), at_least - 1, -1):
                id = ids.get(rest[:n])
                if id is not None:
                    encoded.append(id)
                    rest = rest[n:]
                    break
            else:
                return unknown
            at_least = 1
        return encoded

    def decode(self, text: str) -> bytes:
        """The bytes of a token's text: words are set apart by a space."""
        return text.replace(SPACE, " ").encode()

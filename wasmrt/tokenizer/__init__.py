"""Text to token ids and back, by the vocabulary that a GGUF file carries. Standard library only; the same ids everywhere."""

import warnings
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, Protocol

from wasmrt.errors import FormatError
from wasmrt.gguf.metadata import Metadata
from wasmrt.tokenizer.bpe import BytePairs
from wasmrt.tokenizer.charsmap import KEY as CHARSMAP
from wasmrt.tokenizer.charsmap import LARGEST as LARGEST_CHARSMAP
from wasmrt.tokenizer.charsmap import CharsMap
from wasmrt.tokenizer.detokenize import Detokenizer
from wasmrt.tokenizer.plamo2 import ScoredTokens
from wasmrt.tokenizer.pretokenize import pretokenizer_named
from wasmrt.tokenizer.rwkv import LongestTokens
from wasmrt.tokenizer.special import Specials
from wasmrt.tokenizer.spm import SentencePieces
from wasmrt.tokenizer.unigram import Unigram
from wasmrt.tokenizer.vocab import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Vocab, byte_of
from wasmrt.tokenizer.wordpiece import WordPieces

__all__ = ["Detokenizer", "Tokenizer", "from_metadata"]

ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"


class Algorithm(Protocol):
    """What turns text between special tokens into ids, and a plain token's text into bytes."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, text: str) -> bytes: ...


def from_metadata(metadata: Mapping[str, Any]) -> "Tokenizer":
    """The tokenizer of a file, by the keys tokenizer.ggml.*.

    Quick for any vocabulary: tables are built when first needed. Raises UnsupportedError, with its name, for a tokenizer or
    pre-tokenizer that is not known (the model still runs by ids) and FormatError for a damaged vocabulary. A BPE vocabulary
    that names no pre-tokenizer gets llama.cpp's default one, and a warning.
    """
    m = metadata if isinstance(metadata, Metadata) else Metadata(metadata)
    vocab = Vocab(m)
    algorithm: Algorithm
    match vocab.kind:
        case "spm":
            spaced = m.flag(ADD_SPACE_PREFIX, True)
            return Tokenizer(m, vocab, SentencePieces(vocab), add_bos=True, prefix=" " if spaced else "", strip_space=spaced)
        case "wordpiece":
            lowercase = m.flag("tokenizer.ggml.normalizer.lowercase", True)
            strip_accents = m.flag("tokenizer.ggml.normalizer.strip_accents", lowercase)
            algorithm = WordPieces(vocab, lowercase=lowercase, strip_accents=strip_accents)
            return Tokenizer(m, vocab, algorithm, add_bos="always", end_id=vocab.sep_id, strip_space=True)
        case "unigram":
            spaced = m.flag(ADD_SPACE_PREFIX, False)
            merge_spaces = m.flag("tokenizer.ggml.remove_extra_whitespaces", False)
            algorithm = Unigram(vocab, charsmap_of(m), add_space_prefix=spaced, merge_spaces=merge_spaces)
            return Tokenizer(m, vocab, algorithm, add_eos=True, strip_space=spaced or merge_spaces)
        case "rwkv":
            return Tokenizer(m, vocab, LongestTokens(vocab), add_bos="never")
        case "plamo2":
            return Tokenizer(m, vocab, ScoredTokens(vocab), add_bos="never")
    name = "gemma4" if m.string("tokenizer.ggml.model") == "gemma4" else m.string("tokenizer.ggml.pre", None)
    if not name:
        warnings.warn("the file has no tokenizer.ggml.pre: words are cut by the default pattern, ids may differ", stacklevel=2)
        name = "default"
    pretokenizer = pretokenizer_named(name)
    lowercase = m.flag("tokenizer.ggml.normalizer.lowercase", False)
    algorithm = BytePairs(vocab, m.strings("tokenizer.ggml.merges"), pretokenizer, lowercase=lowercase)
    return Tokenizer(m, vocab, algorithm, add_bos=pretokenizer.add_bos)


def charsmap_of(m: Metadata) -> CharsMap | None:
    """The normalization of a Unigram file, from an array of bytes, signed or not."""
    values = m.integers(CHARSMAP, None)
    if values is None or not len(values):
        return None
    if len(values) > LARGEST_CHARSMAP:
        raise FormatError(f"{CHARSMAP} has {len(values)} bytes, more than {LARGEST_CHARSMAP}; the file is damaged")
    if isinstance(values, memoryview) and values.itemsize == 1:
        return CharsMap(values.tobytes())
    if not all(-128 <= value < 256 for value in values):
        raise FormatError(f"{CHARSMAP} should be an array of bytes, but has larger numbers; the file is damaged")
    return CharsMap(bytes(value & 0xFF for value in values))


class Tokenizer:
    """kind: "spm", "bpe", "wordpiece", "unigram", "rwkv" or "plamo2".

    Ids of special tokens are None where the vocabulary has no such token. add_bos, add_eos: what the model expects around a
    text; the caller decides. end_ids: the ids that it expects behind one, EOS or SEP, if any. eog_ids: ids at which generation
    ends. control_texts: the texts of control tokens, longest first.
    """

    def __init__(
        self,
        m: Metadata,
        vocab: Vocab,
        algorithm: Algorithm,
        *,
        add_bos: bool | str = False,
        add_eos: bool = False,
        end_id: int | None = None,
        prefix: str = "",
        strip_space: bool = False,
    ) -> None:
        """add_bos, add_eos: unless the file says otherwise; "always" and "never" hold whatever it says. end_id: not EOS.

        prefix: of each text between special tokens. strip_space: drop a space that the tokens' text begins with.
        """
        self._vocab = vocab
        self._algorithm = algorithm
        self._specials = Specials(vocab)
        self._prefix = prefix
        self._strip_space = strip_space
        fixed = {"always": True, "never": False}
        wanted = fixed[add_bos] if isinstance(add_bos, str) else m.flag("tokenizer.ggml.add_bos_token", add_bos)
        self.add_bos: bool = wanted and vocab.bos_id is not None
        wanted = False if add_bos == "never" or end_id is not None else m.flag("tokenizer.ggml.add_eos_token", add_eos)
        self.add_eos: bool = wanted and vocab.eos_id is not None
        ends = (vocab.eos_id if self.add_eos else None, end_id)
        self.end_ids: tuple[int, ...] = tuple(id for id in ends if id is not None)
        self.kind = vocab.kind
        self.n_vocab = vocab.n_vocab
        self.bos_id = vocab.bos_id
        self.eos_id = vocab.eos_id
        self.unk_id = vocab.unk_id
        self.eot_id = vocab.eot_id
        self.eom_id = vocab.eom_id
        self.pad_id = vocab.pad_id
        self.sep_id = vocab.sep_id
        self.mask_id = vocab.mask_id

    @property
    def eog_ids(self) -> frozenset[int]:
        return self._vocab.eog_ids

    @property
    def control_texts(self) -> tuple[str, ...]:
        return self._specials.control_texts

    def tokenize(self, text: str, add_bos: bool = False, parse_special: bool = False, *, marker: str = "") -> list[int]:
        """Ids of a text. add_bos: start with bos_id, where there is one; nothing is ever added behind it (see end_ids).

        parse_special: texts of control tokens become those tokens; otherwise they are spelled out like any text, so that no
        user can forge them. marker: a character that breaks look-alikes of them and is otherwise not there (chat.py).
        Raises ValueError for a lone surrogate, which no UTF-8 text can hold.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"character {error.start} of the text is the lone surrogate U+{ord(text[error.start]):04X};"
                " encode with errors='replace' or fix the text's source"
            ) from None
        ids = [self.bos_id] if add_bos and self.bos_id is not None else []
        for piece in self._specials.partition(text, parse_special, marker):
            if isinstance(piece, int):
                ids.append(piece)
            else:  # at the start or after a special token, and there SentencePiece models expect a space
                ids += self._algorithm.encode(self._prefix + piece)
        return ids

    def detokenize(self, ids: Sequence[int], special: bool = False) -> str:
        """Text of ids. Control and unknown tokens give "" unless `special`; bytes that are no UTF-8 give U+FFFD.

        The space that tokenize puts before a text (SentencePiece) is taken off again. ValueError for an id out of range.
        """
        stream = self.stream(special)
        return "".join([*map(stream.push, ids), stream.flush()])

    def stream(self, special: bool = False, *, continued: bool = False) -> Detokenizer:
        """The same, id by id; continued: more text came before, so a leading space is part of it and stays."""

        def piece(id: int) -> bytes:
            return self.token_bytes(id) if special or self._is_text(id) else b""

        return Detokenizer(piece, self._is_text, strip_space=self._strip_space and not continued)

    def token_text(self, id: int) -> str:
        """The text as the file stores it."""
        return self._vocab.texts[self._checked(id)]

    def token_bytes(self, id: int) -> bytes:
        """The bytes that an id stands for; for control tokens, those of their name."""
        text, kind = self.token_text(id), self._vocab.type_of(id)
        if kind == BYTE:
            return bytes((byte_of(text, id),))
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            return text.encode()
        return self._algorithm.decode(text)

    def _is_text(self, id: int) -> bool:
        return self._vocab.type_of(self._checked(id)) not in (CONTROL, UNKNOWN)

    def _checked(self, id: int) -> int:
        if not 0 <= (number := index(id)) < self.n_vocab:
            raise ValueError(f"token id {id} is outside the vocabulary of {self.n_vocab} tokens")
        return number

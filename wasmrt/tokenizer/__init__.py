"""Text to token ids and back, by the vocabulary that a GGUF file carries. Standard library only; the same ids everywhere."""

import warnings
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from wasmrt.gguf.metadata import Metadata
from wasmrt.tokenizer.bpe import BytePairs
from wasmrt.tokenizer.detokenize import Detokenizer
from wasmrt.tokenizer.pretokenize import pretokenizer_named
from wasmrt.tokenizer.special import Specials
from wasmrt.tokenizer.spm import SentencePieces
from wasmrt.tokenizer.vocab import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Vocab, byte_of

__all__ = ["Detokenizer", "Tokenizer", "from_metadata"]


def from_metadata(metadata: Mapping[str, Any]) -> "Tokenizer":
    """The tokenizer of a file, by the keys tokenizer.ggml.*.

    Quick for any vocabulary: tables are built when first needed. Raises UnsupportedError, with its name, for a tokenizer or
    pre-tokenizer that is not known (the model still runs by ids) and FormatError for a damaged vocabulary. A BPE vocabulary
    that names no pre-tokenizer gets llama.cpp's default one, and a warning.
    """
    m = metadata if isinstance(metadata, Metadata) else Metadata(metadata)
    vocab = Vocab(m)
    if vocab.kind == "spm":
        return Tokenizer(m, vocab, SentencePieces(vocab), add_bos=True, add_space_prefix=True)
    name = m.string("tokenizer.ggml.pre", None)
    if not name:
        warnings.warn("the file has no tokenizer.ggml.pre: words are cut by the default pattern, ids may differ", stacklevel=2)
        name = "default"
    pretokenizer = pretokenizer_named(name)
    algorithm = BytePairs(vocab, m.strings("tokenizer.ggml.merges"), pretokenizer)
    return Tokenizer(m, vocab, algorithm, add_bos=pretokenizer.add_bos, add_space_prefix=False)


class Tokenizer:
    """kind: "spm" or "bpe". Ids of special tokens are None where the vocabulary has no such token.

    add_bos, add_eos: what the model expects around a text; the caller decides. eog_ids: ids at which generation ends.
    control_texts: the texts of control tokens, longest first.
    """

    def __init__(
        self, m: Metadata, vocab: Vocab, algorithm: BytePairs | SentencePieces, *, add_bos: bool, add_space_prefix: bool
    ) -> None:
        self._vocab = vocab
        self._algorithm = algorithm
        self._specials = Specials(vocab)
        self._add_space_prefix = m.flag("tokenizer.ggml.add_space_prefix", add_space_prefix) and vocab.kind == "spm"
        self.add_bos: bool = m.flag("tokenizer.ggml.add_bos_token", add_bos) and vocab.bos_id is not None
        self.add_eos: bool = m.flag("tokenizer.ggml.add_eos_token", False) and vocab.eos_id is not None
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
        """Ids of a text. add_bos: start with bos_id, where there is one; no EOS is ever added.

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
                ids += self._algorithm.encode(" " + piece if self._add_space_prefix else piece)
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

        return Detokenizer(piece, self._is_text, strip_space=self._add_space_prefix and not continued)

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

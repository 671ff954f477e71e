"""The vocabulary of a file: texts, types, scores and special ids, checked once; everything large is built on first use."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.gguf.metadata import Metadata, shorten

# Token types of GGUF (tokenizer.ggml.token_type).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

BYTE_TEXT = re.compile("<0x[0-9A-Fa-f]{2}>")

# Ends of a turn or a text, known by name because files often state only one of them. As in llama.cpp (llama-vocab.cpp), which
# also counts the padding, repository and file separators of code models.
END_NAMES = (
    "</s>", "<eos>", "[EOS]", "<EOT>", "_<EOT>", "[EOT]", "[e~[", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>",
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "<turn|>",
    "<end_of_utterance>", "<|tool_response>", "<｜end▁of▁sentence｜>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
)  # fmt: skip

# Marks of fill-in-the-middle prompts: never text, whatever type the file gives them.
FILL_IN_NAMES = (
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>",
)  # fmt: skip


# tokenizer.ggml.model to what the algorithm is called here.
KINDS = {
    "llama": "spm", "gpt2": "bpe", "gemma4": "bpe", "whitespace": "bpe",
    "bert": "wordpiece", "t5": "unigram", "rwkv": "rwkv", "plamo2": "plamo2",
}  # fmt: skip

# Special ids where the file states none, by kind.
DEFAULT_IDS: dict[str, dict[str, int]] = {
    "spm": {"bos": 1, "eos": 2, "unknown": 0},
    "wordpiece": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
    "unigram": {"eos": 1, "unknown": 2, "padding": 0},
    "plamo2": {"bos": 1, "eos": 2, "unknown": 0, "padding": 3},
}


class Vocab:
    """What a tokenizer knows of its file.

    kind: the algorithm; see KINDS. The first of several equal texts has the id; the others are
    only ever decoded. An end-of-generation or fill-in name counts as CONTROL even where the file calls it a plain token.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Raises FormatError where the lists or ids disagree, UnsupportedError for a tokenizer we do not know."""
        m = metadata if isinstance(metadata, Metadata) else Metadata(metadata)
        self.kind = _kind(m)
        self.texts: Sequence[str] = m.strings("tokenizer.ggml.tokens")
        self.n_vocab = len(self.texts)
        if self.n_vocab == 0:
            raise FormatError("tokenizer.ggml.tokens is empty; a vocabulary needs at least one token")
        self.scores = self._parallel(m.numbers("tokenizer.ggml.scores", None), "scores")
        types = self._parallel(m.integers("tokenizer.ggml.token_type", None), "token_type")
        self.model_name = m.string("general.name", "").lower()
        self.architecture = m.string("general.architecture", "")
        self.pre = m.string("tokenizer.ggml.pre", "")

        self.bos_id = self._id(m, "bos")
        if self.kind == "wordpiece" and "tokenizer.ggml.bos_token_id" not in m:
            self.bos_id = self._id(m, "cls", strict=False, default=self.bos_id)
        self.eos_id = self._id(m, "eos")
        self.unk_id = self._id(m, "unknown")
        self.eot_id = self._id(m, "eot")
        self.eom_id = self._id(m, "eom")
        # Used by no algorithm here; real files carry wrong ones.
        self.pad_id = self._id(m, "padding", strict=False)
        self.sep_id = self._id(m, "seperator", strict=False)  # sic: GGUF's spelling
        self.mask_id = self._id(m, "mask", strict=False)

        self._typed = self._untyped_special() if types is None and self.kind == "spm" else _special_of(types or ())
        # Byte value to id. FormatError for a byte token that names no byte.
        self.byte_ids: dict[int, int] = {}
        for id, type in self._typed.items():
            if type == BYTE:
                self.byte_ids.setdefault(byte_of(self.texts[id], id), id)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Text to id, of every token."""
        texts = list(self.texts)
        return dict(zip(reversed(texts), range(len(texts) - 1, -1, -1), strict=True))

    @cached_property
    def special(self) -> dict[int, int]:
        """Id to type, of the tokens that are not NORMAL."""
        found = dict(self._typed)
        for name in (*END_NAMES, *FILL_IN_NAMES):
            id = self.ids.get(name)
            # Some vocabularies learned "</s>" as a piece of HTML.
            if id is not None and (name != "</s>" or id in found or id == self.eos_id):
                found[id] = CONTROL
        return found

    @cached_property
    def plain_ids(self) -> dict[str, int]:
        """Text to id, of the tokens that text may become: no control, unknown or byte token, so that no text forges one."""
        plain = dict(self.ids)
        for id, type in self.special.items():
            if type in (CONTROL, UNKNOWN, BYTE) and plain.get(self.texts[id]) == id:
                del plain[self.texts[id]]
        return plain

    @cached_property
    def eog_ids(self) -> frozenset[int]:
        """Ids at which generation ends."""
        ends = {id for name in END_NAMES if (id := self.ids.get(name)) is not None and self.type_of(id) == CONTROL}
        ends.update(id for id in (self.eos_id, self.eot_id, self.eom_id) if id is not None)
        names = {self.texts[id] for id in ends}
        # In these families "<|end|>" closes a message inside a turn, and "</s>" is an ordinary tag.
        if "<|end|>" in names and names & {"<|call|>", "<|calls|>"} and names & {"<|return|>", "<|flush|>"}:
            ends.discard(self.ids["<|end|>"])
        if "</s>" in names and "<|tool_response>" in names:
            ends.discard(self.ids["</s>"])
        return frozenset(ends)

    def spell(self, text: str) -> list[int]:
        """Ids of the bytes of a text that is no token. A byte without one is the unknown token, or nothing if there is none."""
        bytes_, unknown = self.byte_ids, self.unk_id
        spelled = [bytes_.get(byte, unknown) for byte in text.encode()]
        return [id for id in spelled if id is not None]

    def type_of(self, id: int) -> int:
        return self.special.get(id, NORMAL)

    def _untyped_special(self) -> dict[int, int]:
        """Types for a SentencePiece vocabulary that states none, as early files do: bytes by their texts, the rest by id."""
        found = {id: BYTE for id, text in enumerate(self.texts) if BYTE_TEXT.fullmatch(text)}
        found |= {id: CONTROL for id in (self.bos_id, self.eos_id) if id is not None}
        return found if self.unk_id is None else found | {self.unk_id: UNKNOWN}

    def _parallel(self, values: Sequence[Any] | None, name: str) -> Sequence[Any] | None:
        if values is not None and len(values) != self.n_vocab:
            raise FormatError(
                f"tokenizer.ggml.{name} has {len(values)} entries, but there are {self.n_vocab} tokens; the file is damaged"
            )
        return values

    def _id(self, m: Metadata, name: str, default: int | None = None, strict: bool = True) -> int | None:
        """A special id; a default outside the vocabulary is none."""
        key = f"tokenizer.ggml.{name}_token_id"
        if default is None:
            default = DEFAULT_IDS.get(self.kind, {}).get(name)
        if key not in m:
            return default if default is not None and default < self.n_vocab else None
        id = m.integer(key)
        if 0 <= id < self.n_vocab:
            return id
        if strict:
            raise FormatError(f"{key} is {id}, outside the vocabulary of {self.n_vocab} tokens; the file's metadata is wrong")
        return None


def _kind(m: Metadata) -> str:
    model = m.string("tokenizer.ggml.model", None)
    if model in KINDS:
        return KINDS[model]
    if model is None or model in ("no_vocab", "none"):
        raise UnsupportedError("the file has no tokenizer; use token ids instead of text")
    known = ", ".join(map(repr, KINDS))
    raise UnsupportedError(
        f"tokenizer.ggml.model is {shorten(model)}, but only {known} are known; use token ids instead of text"
    )


def _special_of(types: Sequence[int]) -> dict[int, int]:
    return {id: type for id, type in enumerate(types) if type in (UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE)}


def byte_of(text: str, id: int) -> int:
    """The value of a byte token: "<0x0A>" is 10."""
    if BYTE_TEXT.fullmatch(text):
        return int(text[3:5], 16)
    raise FormatError(f"token {id} is a byte token, but its text {shorten(text)} is not of the form '<0x0A>'")

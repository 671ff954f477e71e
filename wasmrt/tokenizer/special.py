"""Cuts text at special tokens, before any algorithm sees it."""

import re
from collections import defaultdict
from functools import cached_property

from wasmrt.tokenizer.vocab import CONTROL, UNKNOWN, USER_DEFINED, Vocab

PREFIX = 4  # characters; thousands of reserved tokens share one, which is looked for first
WHITE_SPACE = " \t\n\v\f\r"
MASKING_ARCHITECTURES = ("nomic-bert-moe", "jina-bert-v3")
MASKING_PRETOKENIZERS = ("jina-v2-de", "jina-v2-es", "jina-v2-code")
KEEP_SPACE = ("<unk>", "<s>", "<|endoftext|>")
# Stands for a special token in half-cut text; text itself holds no surrogates.
MARK = re.compile("([\ud800-\udbff])([\udc00-\udfff])")


class Specials:
    """The special tokens of a vocabulary, found in text as llama.cpp finds them.

    Longer tokens go first, over the whole text, so a token inside a longer one is never seen; of equal length, the lower id.
    User-defined tokens are always found, control and unknown ones only when asked for.
    """

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        texts = {self._vocab.texts[id] for id, type in self._vocab.special.items() if type == CONTROL} - {""}
        return tuple(sorted(texts, key=lambda text: (-len(text), text)))

    @cached_property
    def _always(self) -> dict[str, list[str]]:
        return self._by_prefix(USER_DEFINED)

    @cached_property
    def _on_request(self) -> dict[str, list[str]]:
        return self._by_prefix(USER_DEFINED, CONTROL, UNKNOWN)

    @cached_property
    def _eats_space(self) -> frozenset[int]:
        """Phi-3's special tokens swallow the white space behind them; the file does not say so, its name does."""
        name = self._vocab.model_name
        if "phi-3" not in name and "phi3" not in name:
            return frozenset()
        kept = {self._vocab.ids.get(text) for text in KEEP_SPACE}
        return frozenset(id for id, type in self._vocab.special.items() if type in (CONTROL, UNKNOWN, USER_DEFINED)) - kept

    @cached_property
    def _eats_space_before(self) -> frozenset[int]:
        """Masks that swallow the white space before them; the file does not say so, its names do, as in llama.cpp."""
        vocab, text = self._vocab, None
        if vocab.architecture in MASKING_ARCHITECTURES or any(name in vocab.pre for name in MASKING_PRETOKENIZERS):
            text = "<mask>"
        elif "modern-bert" in vocab.model_name:
            text = "[MASK]"
        id = vocab.ids.get(text) if text else None
        return frozenset() if id is None else frozenset({id})

    def _by_prefix(self, *types: int) -> dict[str, list[str]]:
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for id, type in self._vocab.special.items():
            text = self._vocab.texts[id]
            if type in types and text:
                groups[text[:PREFIX]].append(text)
        return groups

    def partition(self, text: str, parse_special: bool, marker: str = "") -> list[str | int]:
        """Ids, and the non-empty texts between them, in order; no two texts in a row. `text` has no surrogates.

        marker: a character that stands inside look-alikes of special tokens (behind one of a single character) so that they
        are not found; it is dropped afterwards.
        """
        groups = self._on_request if parse_special else self._always
        present = {special for prefix, group in groups.items() if prefix in text for special in group if special in text}
        ids = sorted((self._vocab.ids[special] for special in present), key=self._order)
        for i, id in enumerate(ids):
            mark = chr(0xD800 + (i >> 10)) + chr(0xDC00 + (i & 1023))
            special = self._vocab.texts[id]
            broken = f"(?!{re.escape(marker)})" if marker and len(special) == 1 else ""
            space = f"[{WHITE_SPACE}]*" if id in self._eats_space else ""
            if broken or space:
                text = re.sub(re.escape(special) + broken + space, mark, text)
            else:
                text = text.replace(special, mark)
        if marker:
            text = text.replace(marker, "")
        pieces: list[str | int] = []
        start = 0
        for found in MARK.finditer(text):
            id = ids[(ord(found[1]) - 0xD800) << 10 | (ord(found[2]) - 0xDC00)]
            before = text[start : found.start()]
            pieces += [before.rstrip(WHITE_SPACE) if id in self._eats_space_before else before, id]
            start = found.end()
        return [piece for piece in (*pieces, text[start:]) if piece != ""]

    def _order(self, id: int) -> tuple[int, int]:
        return -len(self._vocab.texts[id].encode()), id

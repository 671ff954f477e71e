"""SentencePiece's BPE (Llama 1 and 2, Mistral, Phi-3): characters merged by score, what is left over spelled in bytes.

Source: Kudo and Richardson 2018, arXiv 1808.06226. Space is U+2581 inside.
"""

import re
from functools import cached_property

from wasmrt.tokenizer.merge import WordCache, merge
from wasmrt.tokenizer.vocab import Vocab

SPACE = "\u2581"
WORD = re.compile(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+")


class SentencePieces:
    """Text without special tokens -> ids. A byte without a token becomes the unknown token, or nothing where there is none."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._cache = WordCache(self._encode_word)

    @cached_property
    def _ranks(self) -> dict[str, float]:
        """Text to rank: the higher the score, the earlier it is merged."""
        ids, scores = self._vocab.plain_ids, self._vocab.scores
        return {text: -scores[id] for text, id in ids.items()} if scores else dict.fromkeys(ids, 0.0)

    @cached_property
    def _joints(self) -> set[str]:
        """Characters that some token has before a space. After any other one a space starts a word of its own, exactly."""
        return {found[0] for text in self._ranks for found in re.findall(f"([^{SPACE}]){SPACE}", text)}

    def encode(self, text: str) -> list[int]:
        return self._cache.encode(self._words(text.replace(" ", SPACE)))

    def _words(self, text: str) -> list[str]:
        words = WORD.findall(text)
        if not self._joints:
            return words
        groups: list[list[str]] = []
        for word in words:
            if groups and groups[-1][-1][-1] in self._joints:
                groups[-1].append(word)
            else:
                groups.append([word])
        return ["".join(group) for group in groups]

    def _encode_word(self, word: str) -> list[int]:
        ids, ranks = self._vocab.plain_ids, self._ranks
        encoded: list[int] = []
        for part in merge(list(word), lambda left, right: ranks.get(left + right)):
            if part in ids:
                encoded.append(ids[part])
            else:
                encoded += self._spell(part)
        return encoded

    def _spell(self, character: str) -> list[int]:
        bytes_, unknown = self._vocab.byte_ids, self._vocab.unk_id
        spelled = [bytes_.get(byte, unknown) for byte in character.encode()]
        return [id for id in spelled if id is not None]

    def decode(self, text: str) -> bytes:
        """The bytes of a token's text."""
        return text.replace(SPACE, " ").encode()

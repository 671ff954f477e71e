"""SentencePiece's BPE (Llama 1 and 2, Mistral, Phi-3): characters merged by score, what is left over spelled in bytes.

Source: Kudo and Richardson 2018, arXiv 1808.06226. Space is U+2581 inside.
"""

from functools import cached_property

from wasmrt.tokenizer.merge import WordCache, merge
from wasmrt.tokenizer.spaced import SPACE, SpacedWords
from wasmrt.tokenizer.vocab import Vocab


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
    def _words(self) -> SpacedWords:
        return SpacedWords(self._ranks)

    def encode(self, text: str) -> list[int]:
        return self._cache.encode(self._words.cut(text.replace(" ", SPACE)))

    def _encode_word(self, word: str) -> list[int]:
        ids, ranks = self._vocab.plain_ids, self._ranks
        encoded: list[int] = []
        for part in merge(list(word), lambda left, right: ranks.get(left + right)):
            if part in ids:
                encoded.append(ids[part])
            else:
                encoded += self._vocab.spell(part)
        return encoded

    def decode(self, text: str) -> bytes:
        """The bytes of a token's text."""
        return text.replace(SPACE, " ").encode()

"""SentencePiece's Unigram (T5, XLM-RoBERTa): of all ways to cut a text into tokens, the one whose scores add up to the most.

Source: Kudo 2018, arXiv 1804.10959. Space is U+2581 inside. Where llama.cpp's version differs, this is SentencePiece's: a text
of spaces alone is prefixed as any other, and unused tokens are never chosen.
"""

import re
from functools import cached_property

from wasmrt.tokenizer.charsmap import CharsMap
from wasmrt.tokenizer.merge import WordCache
from wasmrt.tokenizer.pieces import Pieces
from wasmrt.tokenizer.spaced import SPACE, SpacedWords
from wasmrt.tokenizer.vocab import NORMAL, UNUSED, USER_DEFINED, Vocab

PENALTY = 10.0  # that an unknown character scores less than the worst token


class Unigram:
    """Text without special tokens -> ids.

    Neighbouring characters without a token are one unknown token; in a vocabulary with byte tokens, each is spelled in those.
    charsmap: the file's normalization. Scores are added in double precision, as the `tokenizers` library does.
    """

    def __init__(self, vocab: Vocab, charsmap: CharsMap | None, *, add_space_prefix: bool, merge_spaces: bool) -> None:
        self._vocab = vocab
        self._charsmap = charsmap
        self._add_space_prefix = add_space_prefix
        self._merge_spaces = merge_spaces
        self._cache = WordCache(self._encode_word)

    @cached_property
    def _scores(self) -> dict[str, tuple[float, int]]:
        """Text to score and id."""
        scores, vocab = self._vocab.scores, self._vocab
        types = {text: vocab.type_of(id) for text, id in vocab.plain_ids.items()}
        return {
            text: (0.0 if types[text] == USER_DEFINED or not scores else float(scores[id]), id)
            for text, id in vocab.plain_ids.items()
            if types[text] != UNUSED and text
        }

    @cached_property
    def _pieces(self) -> Pieces[str]:
        return Pieces(self._scores)

    @cached_property
    def _words(self) -> SpacedWords:
        return SpacedWords(self._scores)

    @cached_property
    def _unknown_score(self) -> float:
        normal = (score for score, id in self._scores.values() if self._vocab.type_of(id) == NORMAL)
        return min(normal, default=0.0) - PENALTY

    def normalize(self, text: str) -> str:
        prefix = " " if self._add_space_prefix and text else ""
        if self._charsmap is not None:
            text = self._charsmap.replace(text)
        if self._merge_spaces:
            text = re.sub(" +", " ", text.strip(" "))
        text = prefix + text
        text = text.replace(" ", SPACE)
        return text.rstrip(SPACE) if self._merge_spaces else text

    def encode(self, text: str) -> list[int]:
        ids = self._cache.encode(self._words.cut(self.normalize(text)))
        unknown = self._vocab.unk_id
        return [id for i, id in enumerate(ids) if id != unknown or i == 0 or ids[i - 1] != unknown]

    def _encode_word(self, word: str) -> list[int]:
        """Viterbi: best[i] is the best score of the first i characters, came[i] where its last token began."""
        scores, unknown_score = self._scores, self._unknown_score
        n = len(word)
        best = [float("-inf")] * (n + 1)
        best[0] = 0.0
        came = [0] * (n + 1)
        for start in range(n):
            so_far = best[start]
            single = False
            for piece in self._pieces.at(word, start):
                end = start + len(piece)
                single |= end == start + 1
                score = so_far + scores[piece][0]
                if score > best[end]:
                    best[end], came[end] = score, start
            if not single and so_far + unknown_score > best[start + 1]:
                best[start + 1], came[start + 1] = so_far + unknown_score, start
        ends = [n]
        while ends[-1] > 0:
            ends.append(came[ends[-1]])
        encoded: list[int] = []
        for i in range(len(ends) - 1, 0, -1):
            piece = word[ends[i] : ends[i - 1]]
            if piece in scores:
                encoded.append(scores[piece][1])
            elif self._vocab.byte_ids:
                encoded += self._vocab.spell(piece)
            elif self._vocab.unk_id is not None:
                encoded.append(self._vocab.unk_id)
        return encoded

    def decode(self, text: str) -> bytes:
        """The bytes of a token's text."""
        return text.replace(SPACE, " ").encode()

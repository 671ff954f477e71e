"""PLaMo 2's tokenizer: a cut of the text whose scores add up to the most, in whole ten-thousandths, from the end.

Source: llama.cpp (llm_tokenizer_plamo2, 2026), which follows the model's own code. Not compared with that code itself.
"""

from functools import cached_property

from wasmrt.tokenizer.pieces import Pieces
from wasmrt.tokenizer.vocab import Vocab

UNIT = 1e-4
UNKNOWN, INVALID = -10_000_000, -20_000_000  # scores: a character spelled in bytes; at or below it, no token is chosen


class ScoredTokens:
    """Text without special tokens -> ids; what no token covers is spelled in bytes."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab

    @cached_property
    def _scores(self) -> dict[str, int]:
        scores = self._vocab.scores
        found = {text: _rounded(scores[id] / UNIT) if scores else 0 for text, id in self._vocab.plain_ids.items()}
        return {text: score for text, score in found.items() if score > INVALID}

    @cached_property
    def _pieces(self) -> Pieces[str]:
        return Pieces(self._scores)

    def encode(self, text: str) -> list[int]:
        text = text.removeprefix("\ufeff")
        n, scores = len(text), self._scores
        cost = [0] * (n + 1)  # of the text from here on
        taken = [0] * n  # length of the token here; 0: spelled
        for start in range(n - 1, -1, -1):
            best, length = cost[start + 1] - UNKNOWN, 0
            for piece in self._pieces.at(text, start):  # the shortest first, so that of equal cost the longest stays
                found = cost[start + len(piece)] - scores[piece]
                if found <= best:
                    best, length = found, len(piece)
            cost[start], taken[start] = best, length
        ids, encoded, at = self._vocab.plain_ids, [], 0
        while at < n:
            piece = text[at : at + (taken[at] or 1)]
            encoded += [ids[piece]] if taken[at] else self._vocab.spell(piece)
            at += len(piece)
        return encoded

    def decode(self, text: str) -> bytes:
        """The bytes of a token's text."""
        return text.encode()


def _rounded(x: float) -> int:
    """To the nearest whole number, halves away from zero."""
    return int(x + 0.5) if x >= 0 else -int(0.5 - x)

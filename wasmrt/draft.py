"""Prompt lookup: a guess at what follows, from what followed the same tokens before, and how much guessing a pass has room for.

Where a pass takes as long as its weights take to be read, tokens beside the next one cost nothing: they are drafted, all run
in one pass, and those that are what the model chooses anyway are kept. Pure. Source: Saxena 2023, prompt lookup decoding.
"""

from array import array
from collections.abc import Sequence

# Measured by guessing at 72 texts, 140,000 tokens, that go on, quote or edit what precedes them: tokens a pass, room for 15.
# Drafts after matches of one token on give 1.42 for code, 3.4 for quotes; of two on 1.29 and 2.8, of three on 1.19 and 2.3.
LONGEST = 16  # tokens of a match that are compared: 10.2 for edits of a file, where with 8 it is 9.7 and with 4 8.5
# Tokens drafted for each token of the match: a longer one is righter. For code, edits, JSON: 1.42, 10.2, 4.3 from drafts of
# 4.7, 11, 8.5 tokens; without this limit 1.43, 10.2, 5.0 from 11, 14, 11; with 2 it is 1.39, 10.0, 4.0 from 2.6, 10, 7. A limit
# by what the last draft came to (twice that and one) gives 1.34, 9.5, 3.2: after a difference it grows anew from nothing.
PER_MATCH = 4
TRIES = 1000  # earlier places looked at, so that no text makes this slow

# Room. What n tokens of a pass cost on the cpu device, in units of one: measured for five formats, 57 to 202 MB of weights.
ROWWISE = 5  # up to so many they are taken one by one: 1.0, 2.0, 2.9, 3.8, 4.7
TILE_TOKENS, TILE_COST = 8, 3.0  # more by tiles: 4.1 to 5.6 for the first, 2.1 to 2.9 for each further one
SHARE = 0.75  # of the time of reading that kernels may fill: the two do not overlap all the time
WAITED = 0.1  # of the time of reading: a pass whose kernels took more than the rest of it was not bound by reading


class Lookup:
    """Finds what followed the end of a growing list of tokens where it occurred before.

    The index is brought up to date when a draft is asked for, so that who drafts nothing pays nothing.
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # token: its last place so far
        self._before = array("i")  # for each place: where its token was before, or -1

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        """At most n tokens that may follow: those after the longest earlier match of the end of `tokens`, the latest of equals.

        tokens: those of the last call and what came after them. Where the match reaches the end, what lies between repeats.
        """
        if n <= 0 or not tokens:
            return []
        for place in range(len(self._before), len(tokens)):
            self._before.append(self._last.get(tokens[place], -1))
            self._last[tokens[place]] = place
        length, start = self._longest_match(tokens)
        period = len(tokens) - start
        return [tokens[start + i % period] for i in range(min(n, PER_MATCH * length))]

    def _longest_match(self, tokens: Sequence[int]) -> tuple[int, int]:
        """How many tokens match, and where the first after them is; (0, 0) if the last token is new."""
        end = len(tokens) - 1
        best, start = 0, 0
        place = self._before[end]
        for _ in range(TRIES):
            if place < best or best == LONGEST:
                break
            if tokens[place - best] == tokens[end - best]:  # or it cannot be longer than the best
                length = 1
                while length < LONGEST and length <= place and tokens[place - length] == tokens[end - length]:
                    length += 1
                if length > best:
                    best, start = length, place + 1
            place = self._before[place]
        return best, start


def room(reading_seconds: float, compute_seconds: float, n_tokens: int, most: int = 15) -> int:
    """How many drafted tokens the next pass may verify in the time that it takes to read weights anyway.

    reading_seconds, compute_seconds: how long the last pass, of n_tokens tokens, read weights and was in kernels. The most
    tokens whose estimated computing still fits (15, with the pass's own, are two whole tiles); none if reading was not what the
    last pass waited for: a prompt's pass, or one with too long a draft, says little, and the next, without one, tells it anew.
    """
    if n_tokens < 1 or compute_seconds <= 0 or reading_seconds - compute_seconds < WAITED * reading_seconds:
        return 0
    unit = compute_seconds / cost(n_tokens)
    return next((n for n in range(most, 0, -1) if unit * cost(n + 1) <= SHARE * reading_seconds), 0)


def cost(n_tokens: int) -> float:
    """What a pass of so many tokens computes, in units of a pass of one; never less for more."""
    if n_tokens <= ROWWISE:
        return n_tokens
    return TILE_COST * (1 - -n_tokens // TILE_TOKENS)

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

# Room. A pass of 16 tokens is two whole tiles of the cpu device's kernels.
MOST = 15
FIRST = 2
SLOWER = 1.15  # times the seconds of a pass without draft: what a pass with a wrong one may take
SHORTEST_REST, LONGEST_REST = 4, 64  # passes without a draft after drafts did not pay, twice as many each time


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


class Room:
    """How many drafted tokens a pass verifies in the time that reading its weights takes anyway. Found by trying.

    What a further token costs depends on kernels, threads and what else the machine does, and a pass in many small runs has
    costs that more tokens share: so the time of passes tells, not an estimate. Room doubles while drafts that filled it were
    right, or free; it is halved by one that made a pass give fewer tokens a second, and stays below that for some passes; if
    not even one token pays, there is a rest.
    """

    def __init__(self) -> None:
        self.tokens = 0  # that the next pass may verify
        self._alone = 0.0  # seconds of a pass without draft
        self._too_long = MOST + 1
        self._rest, self._next_rest = 0, SHORTEST_REST  # passes until longer drafts are tried, and how many the next time

    def passed(self, drafted: int, accepted: int, seconds: float) -> None:
        """A pass has taken this long, with a draft of so many tokens (0: none), of which the first `accepted` were right."""
        self._rest = max(0, self._rest - 1)
        if not self._rest:
            self._too_long = MOST + 1
        if drafted == 0:
            self._alone = (self._alone + seconds) / 2 if self._alone else seconds
            if not self._rest:
                self.tokens = self.tokens or FIRST
        elif seconds > SLOWER * self._alone * (1 + accepted):
            self.tokens = min(self.tokens, drafted) // 2
            self._too_long = drafted
            self._rest, self._next_rest = self._next_rest, min(LONGEST_REST, 2 * self._next_rest)
        elif accepted == drafted >= self.tokens:
            self.tokens = min(MOST, 2 * drafted + 1)
            self._next_rest = SHORTEST_REST
        elif drafted >= self.tokens and seconds <= SLOWER * self._alone:
            self.tokens = max(drafted, min(MOST, 2 * drafted + 1, self._too_long - 1))

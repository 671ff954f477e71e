"""Candidates -> token id: pure functions of logits, options and a random number.

The order is llama.cpp's: repeat penalty (where the logits are, before candidates are chosen), top-k, top-p, min-p, temperature,
draw. Probabilities of top-p and min-p are those at temperature 1.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from wasmrt.errors import DeviceError


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """How the next token is chosen. Raises ValueError if a number is out of its range."""

    temperature: float = 0.0  # 0: always the likeliest token
    top_k: int = 40  # keep the k likeliest; 0: all
    top_p: float = 0.95  # keep the fewest likeliest tokens that together have this probability; 1: all
    min_p: float = 0.05  # keep tokens at least this probable in relation to the likeliest; 0: all
    repeat_penalty: float = 1.0  # above 1: recent tokens are less likely; 1: off; 0.01 to 100
    seed: int | None = None  # None: from the system's entropy

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repeat_penalty"):
            require(is_finite(getattr(self, name)), name, "a finite number", getattr(self, name))
        for name in ("top_k", "seed"):
            value = getattr(self, name)
            require(is_integer(value) or (name == "seed" and value is None), name, "an integer", value)
        require(self.temperature >= 0, "temperature", "0 or more", self.temperature)
        require(self.top_k >= 0, "top_k", "0 (off) or more", self.top_k)
        require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (off)", self.top_p)
        require(0 <= self.min_p <= 1, "min_p", "from 0 (off) to 1", self.min_p)
        require(0.01 <= self.repeat_penalty <= 100, "repeat_penalty", "from 0.01 to 100 (1 is off)", self.repeat_penalty)
        require(self.seed is None or 0 <= self.seed < 2**64, "seed", "from 0 to 2**64 - 1, or None", self.seed)


def make_rng(options: SamplerOptions) -> random.Random:
    """The random numbers of one generation: a Mersenne Twister, so one seed gives one sequence on every platform."""
    return random.Random(options.seed)


def sample(ids: Sequence[int], logits: Sequence[float], options: SamplerOptions, rng: random.Random) -> int:
    """Choose one of `ids`, given their logits in descending order, ties by lower id first.

    Takes one random number, or none at temperature 0, which chooses the first. -inf is probability zero. Raises DeviceError if
    a logit is NaN or the first is not finite, ValueError if there are no candidates.
    """
    if len(ids) == 0 or len(ids) != len(logits):
        raise ValueError(f"sampling needs as many logits as ids and at least one, got {len(ids)} ids and {len(logits)} logits")
    if not math.isfinite(logits[0]) or any(map(math.isnan, logits)):
        raise DeviceError(
            f"the model gave logits that are not numbers (token {ids[0]}, first of {len(ids)} candidates: {logits[0]}); "
            f"the file may be damaged or the device wrong: check the file's hash, or try another device"
        )
    if options.temperature == 0:
        return ids[0]
    # In relation to the likeliest: no overflow, and its own weight is exactly 1.
    below = [logit - logits[0] for logit in logits[: options.top_k or None]]
    kept = count_kept([math.exp(x) for x in below], options)
    # Running sums by accumulate and not sum(), whose rounding depends on the Python version.
    running = list(accumulate(math.exp(x / options.temperature) for x in below[:kept]))
    return ids[bisect_right(running, rng.random() * running[-1])]


def count_kept(weights: Sequence[float], options: SamplerOptions) -> int:
    """How many of the likeliest pass top-p, then min-p. `weights`: their probabilities in units of the first, descending."""
    kept = len(weights)
    if options.top_p < 1:
        running = list(accumulate(weights))
        kept = bisect_left(running, options.top_p * running[-1]) + 1
    return bisect_right(weights, -options.min_p, hi=kept, key=lambda weight: -weight)


def require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, not {found!r}")


def is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int past the range of float
        return False


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

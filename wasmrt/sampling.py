"""Candidates -> token id: pure functions of logits, options and a random number.

The order is llama.cpp's: repeat penalty (where the logits are, before candidates are chosen), top-k, top-p, min-p, temperature,
draw. Probabilities of top-p and min-p are those at temperature 1.

Candidates may be a few of a large vocabulary: what the others weigh together is known, and mostly that is enough to be sure of
the draw. Where it is not, more candidates are asked for, and the same random number decides.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from wasmrt.device.device import Candidates
from wasmrt.errors import DeviceError
from wasmrt.options import SamplerOptions


def make_rng(options: SamplerOptions) -> random.Random:
    """The random numbers of one generation: a Mersenne Twister, so one seed gives one sequence on every platform."""
    return random.Random(options.seed)


def sample(candidates: Candidates, options: SamplerOptions, u: float) -> int | None:
    """The token that u in [0, 1) draws from the whole vocabulary; None if more candidates are needed to tell.

    Never None if the candidates are all tokens or the top_k likeliest. Temperature 0 takes the first, whatever u. A logit of
    -inf is probability zero. Raises DeviceError if a logit is NaN or the first is not finite, ValueError without candidates.
    """
    ids, logits = candidates.ids, candidates.logits
    if len(ids) == 0 or len(ids) != len(logits):
        raise ValueError(f"sampling needs as many logits as ids and at least one, got {len(ids)} ids and {len(logits)} logits")
    if not math.isfinite(logits[0]) or any(map(math.isnan, logits)) or not candidates.rest < math.inf:
        raise DeviceError(
            f"the model gave logits that are not numbers (token {ids[0]}, first of {len(ids)} candidates: {logits[0]}; "
            f"the others together: {candidates.rest}); the file may be damaged or the device wrong: "
            f"check the file's hash, or try another device"
        )
    if options.temperature == 0:
        return ids[0]
    # In relation to the likeliest: no overflow, and its own weight is exactly 1.
    below = [logit - logits[0] for logit in logits[: options.top_k or None]]
    weights = [math.exp(x) for x in below]
    final = [math.exp(x / options.temperature) for x in below]  # what is drawn from
    rest: float | None = 0.0
    final_rest: float | None = 0.0
    if candidates.rest > -math.inf and not 0 < options.top_k <= len(ids):
        rest = weight_of_rest(candidates.rest, logits[0], weights[-1])
        final_rest = weight_of_rest(candidates.rest_at, logits[0] / options.temperature, final[-1])
    if rest is None or final_rest is None:
        return None
    # Running sums by accumulate and not sum(), whose rounding depends on the Python version.
    running, final_running = list(accumulate(weights)), list(accumulate(final))

    # A top_k beyond what is at hand keeps some of the rest: between nothing and all. Of a larger sum, top_p never keeps fewer;
    # of a larger sum that is kept, u never falls on an earlier token. So what both ends agree on is certain.
    some = options.top_k > 0
    fewest = count_kept(weights, running, running[-1] if some else running[-1] + rest, options)
    most = count_kept(weights, running, running[-1] + rest, options)
    cut = some or options.top_p < 1 or options.min_p > 0
    least_sum = [*final_running, final_running[-1] + (0 if cut else final_rest)][fewest - 1]
    most_sum = [*final_running, final_running[-1] + final_rest][most - 1]
    place, last_place = (bisect_right(final_running, u * total) for total in (least_sum, most_sum))
    return ids[place] if place == last_place < len(below) else None


def weight_of_rest(rest: float, first: float, last_weight: float) -> float | None:
    """exp(rest - first), the weight of all others in units of the first candidate's; None where that has no digits left.

    The others weigh at most as much as the last candidate, each, so nothing if that weighs nothing.
    """
    if last_weight == 0:
        return 0.0
    return math.exp(rest - first) if math.ulp(first) < 1e-10 else None


def count_kept(weights: Sequence[float], running: Sequence[float], total: float, options: SamplerOptions) -> int:
    """How many of the likeliest pass top-p and min-p; len(weights) + 1 if these do not end the count within what is at hand.

    weights: probabilities in units of the first one's, descending; running: their sums; total: what top_p is a share of.
    """
    more = len(weights) + 1
    by_top_p = bisect_left(running, options.top_p * total) + 1 if options.top_p < 1 else more
    by_min_p = bisect_right(weights, -options.min_p, key=lambda weight: -weight)
    return min(by_top_p, by_min_p if by_min_p < len(weights) else more)

"""The token loop: ids in, ids out. Text, files and devices are elsewhere."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from wasmrt.device.device import Candidates
from wasmrt.sampling import SamplerOptions, make_rng, sample

PENALTY_WINDOW = 64  # tokens that repeat_penalty looks back on

# A token is drawn from this many candidates; where they do not decide it, from eight times as many, and so on.
FEW = 64
GROWTH = 8


@dataclass(slots=True)
class GenerationStats:
    """What one generation did. Seconds are wall time of computing: what the caller does between two tokens is not counted."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, found in the cache and not computed again
    generated_tokens: int = 0
    first_token_seconds: float = 0.0  # with the prompt's
    decode_steps: int = 0  # after the first token, with the one that gave an end token
    decode_seconds: float = 0.0
    # "stop": the model or a stop string ended it; "length": max_tokens; "context": no position left; "closed": the caller
    finish: str = ""

    @property
    def prefill_tokens_per_second(self) -> float:
        return _rate(self.prompt_tokens - self.cached_tokens, self.first_token_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        return _rate(self.decode_steps, self.decode_seconds)

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "prefill_tokens_per_second": self.prefill_tokens_per_second,
            "decode_tokens_per_second": self.decode_tokens_per_second,
        }


class Stepper(Protocol):
    """What the loop needs of an engine."""

    turn: asyncio.Lock  # held from a step until its token is chosen

    @property
    def context(self) -> int: ...

    async def step(self, tokens: Sequence[int]) -> int:
        """Bring the cache up to `tokens`; returns how many were cached before."""

    def candidates(self, k: int, recent: Sequence[int], penalty: float, temperature: float) -> Candidates:
        """The k tokens likeliest to follow, and what the others weigh."""


async def generate(
    engine: Stepper,
    prompt: Sequence[int],
    options: SamplerOptions,
    max_tokens: int | None,
    end_ids: Collection[int],
    stats: GenerationStats,
) -> AsyncGenerator[int, None]:
    """Sample token after token until an end token, max_tokens (None: no limit) or the end of the context; fills `stats`.

    An end token is not yielded. Every step brings the engine's cache up to our tokens, so generations may take turns.
    """
    rng = make_rng(options)
    tokens = list(prompt)
    stats.prompt_tokens = len(tokens)
    first = True
    while True:
        if max_tokens is not None and stats.generated_tokens >= max_tokens:
            stats.finish = "length"
            return
        if len(tokens) > engine.context:
            stats.finish = "context"
            return
        async with engine.turn:
            started = time.perf_counter()
            cached = await engine.step(tokens)
            token = choose(engine, tokens[-PENALTY_WINDOW:], options, rng)
        seconds = time.perf_counter() - started
        if first:
            first, stats.cached_tokens, stats.first_token_seconds = False, cached, seconds
        else:
            stats.decode_steps += 1
            stats.decode_seconds += seconds
        if token in end_ids:
            stats.finish = "stop"
            return
        stats.generated_tokens += 1
        tokens.append(token)
        yield token


def choose(engine: Stepper, recent: Sequence[int], options: SamplerOptions, rng: random.Random) -> int:
    """The next token, after a step. Takes one random number, or none at temperature 0."""
    greedy = options.temperature == 0
    u = 0.0 if greedy else rng.random()
    k = 1 if greedy else min(FEW, options.top_k or FEW)
    while True:
        candidates = engine.candidates(k, recent, options.repeat_penalty, options.temperature)
        token = sample(candidates, options, u)
        if token is not None:
            return token
        k = min(GROWTH * k, options.top_k or GROWTH * k)


def _rate(n: int, seconds: float) -> float:
    return n / seconds if n > 0 and seconds > 0 else 0.0

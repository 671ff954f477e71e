"""The token loop: ids in, ids out. Text, files and devices are elsewhere."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from wasmrt.device.device import Candidates
from wasmrt.draft import Lookup
from wasmrt.errors import DeviceError
from wasmrt.options import SamplerOptions
from wasmrt.sampling import make_rng, sample

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
    decode_steps: int = 0  # tokens chosen after the first, with an end token
    decode_passes: int = 0  # in which these were chosen: fewer where drafts were right
    decode_seconds: float = 0.0
    drafted_tokens: int = 0  # guessed and verified beside a pass's own token
    accepted_tokens: int = 0  # of these, right, each of which saved a pass
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

    turn: asyncio.Lock  # held from a step until its tokens are chosen

    @property
    def context(self) -> int: ...

    async def step(self, tokens: Sequence[int], n_out: int = 1) -> int:
        """Bring the cache up to `tokens`; returns how many were cached before. The last n_out rows get logits."""

    async def candidates(
        self, k: int, recent: Sequence[int], penalty: float, temperature: float, row: int = -1
    ) -> Candidates:
        """The k tokens likeliest to follow a row of the last step, and what the others weigh."""

    def chain_room(self, options: SamplerOptions) -> int:
        """How many tokens the next pass may choose one after another on the device, without us; 0 or 1: it does not do so."""

    async def chain(self, tokens: Sequence[int], n: int, options: SamplerOptions, uniforms: Sequence[float]) -> Sequence[int]:
        """Choose at most n tokens that follow `tokens`; fewer, or none, where one can't be chosen without us.

        uniforms: a random number for each, unless the temperature is 0.
        """

    def draft_room(self) -> int:
        """How many drafted tokens the next step may verify: it takes n_out up to one more, whatever the cache holds or lacks.

        Above 0 only where the logits of a row are bit for bit those of a step that ends there, and where a cache that holds
        tokens that were not chosen can be wound back.
        """


    def drafted(self, n: int, accepted: int, seconds: float) -> None:
        """Told of each pass after a prompt's: the length of its draft, how much of that was right, and what it took."""


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
    Where the engine has room, a step also verifies drafted tokens; what is yielded is the same.
    """
    rng = make_rng(options)
    lookup = Lookup()
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
            # The prompt's pass is seldom bound by reading, and its time is looked at by itself: no draft.
            room = 0 if first else min(engine.draft_room(), engine.context - len(tokens))
            if max_tokens is not None:
                room = min(room, max_tokens - stats.generated_tokens - 1)
            draft = lookup.propose(tokens, room)
            left = None if max_tokens is None else max_tokens - stats.generated_tokens
            chosen = [] if first or draft else await chain(engine, tokens, options, rng, left, end_ids)
            chained = len(chosen)
            if not chosen:
                cached = await engine.step(tokens + draft if draft else tokens, len(draft) + 1)
                chosen = await choose_all(engine, tokens, draft, options, rng, end_ids)
        seconds = time.perf_counter() - started
        if first:
            first, stats.cached_tokens, stats.first_token_seconds = False, cached, seconds
        else:
            stats.decode_steps += len(chosen)
            stats.decode_passes += chained or 1
            stats.decode_seconds += seconds
            if not chained:
                stats.drafted_tokens += len(draft)
                stats.accepted_tokens += len(chosen) - 1
            engine.drafted(len(draft), 0 if chained else len(chosen) - 1, seconds)
        for token in chosen:
            if token in end_ids:
                stats.finish = "stop"
                return
            stats.generated_tokens += 1
            tokens.append(token)
            yield token


async def chain(
    engine: Stepper,
    tokens: Sequence[int],
    options: SamplerOptions,
    rng: random.Random,
    most: int | None,
    end_ids: Collection[int],
) -> list[int]:
    """The tokens that follow, as far as the device chooses them by itself: up to an end token. It may be none."""
    n = min(engine.chain_room(options), engine.context - len(tokens) + 1)
    n = n if most is None else min(n, most)
    if n < 2:
        return []
    before = rng.getstate()
    uniforms = [rng.random() for _ in range(n)] if options.temperature else []
    chosen = list(await engine.chain(tokens, n, options, uniforms))
    end = next((i + 1 for i, token in enumerate(chosen) if token in end_ids), len(chosen))
    if uniforms:  # those that no token took are drawn again
        rng.setstate(before)
        for _ in range(end):
            rng.random()
    return chosen[:end]


async def choose_all(
    engine: Stepper,
    tokens: Sequence[int],
    draft: Sequence[int],
    options: SamplerOptions,
    rng: random.Random,
    end_ids: Collection[int],
) -> list[int]:
    """The tokens that follow, after a step over `tokens` and a draft: up to the first that was not drafted, or an end token.

    Each is chosen as after a step that ends before it: by the same logits, the same recent tokens and the next random number.
    """
    recent = list(tokens[-PENALTY_WINDOW:])
    chosen: list[int] = []
    for row, drafted in enumerate([*draft, None], -1 - len(draft)):
        try:
            token = await choose(engine, recent[-PENALTY_WINDOW:], options, rng, row)
        except DeviceError:
            if not chosen:
                raise
            break  # the tokens before this row are good; the next step ends at it and meets the same logits first
        chosen.append(token)
        recent.append(token)
        if token != drafted or token in end_ids:
            break
    return chosen


async def choose(
    engine: Stepper, recent: Sequence[int], options: SamplerOptions, rng: random.Random, row: int = -1
) -> int:
    """The next token, after a row of a step. Takes one random number, or none at temperature 0."""
    greedy = options.temperature == 0
    u = 0.0 if greedy else rng.random()
    k = 1 if greedy else min(FEW, options.top_k or FEW)
    while True:
        candidates = await engine.candidates(k, recent, options.repeat_penalty, options.temperature, row)
        token = sample(candidates, options, u)
        if token is not None:
            return token
        k = min(GROWTH * k, options.top_k or GROWTH * k)


def _rate(n: int, seconds: float) -> float:
    return n / seconds if n > 0 and seconds > 0 else 0.0

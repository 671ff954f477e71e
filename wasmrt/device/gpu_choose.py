"""Choosing tokens from a row of logits on a GPU: the likeliest for the host to draw from, and whole draws in chains of passes.

shaders/choose.wgsl says how the likeliest are found. Penalties are the host's work, in float64 as on every device: a row is
only read, and as many more of the likeliest are fetched as there are tokens to penalise.
"""

import heapq
import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wasmrt.device.device import Candidates
from wasmrt.device.gpu_host import Dispatch, GpuHost, Range, Shader, Shaders, Use
from wasmrt.errors import DeviceError
from wasmrt.options import SamplerOptions

WG = 64  # threads of a workgroup, in all of these shaders
GROUPS = 1024  # of a row, at most
SUMS = 64  # workgroups of survivors.wgsl, at most
RECENT = 256  # tokens to penalise that the GPU looks up, at most
FEW = 64  # of these sample.wgsl draws

# Params of choose.wgsl; Found of found.wgsl: count, threshold, sums, recent, survivors; the head of chain.wgsl's Chain.
PARAMS = struct.Struct("<6IfI2f8x")
SUMS_AT, RECENT_AT, PAIRS_AT = 4, 4 + 2 * SUMS, 4 + 2 * SUMS + RECENT  # in words
CHAIN = struct.Struct("<2I8x")

# Temperatures that float32 divides by.
COLDEST, HOTTEST = 1e-30, 1e30


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of logits bound to the kernels. params: its own, written before a submit that wants others."""

    params: Any
    offset: int  # of its first logit in the binding
    maxima: Dispatch
    threshold: Dispatch
    survivors: Dispatch


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a chain of passes gave. `tokens` are good in any case."""

    tokens: Sequence[int]
    unfit: bool  # the logits of the pass after these held NaN or infinity
    undecided: bool  # the pass after these left its token to the host, which draws it with the same number


class Chooser:
    """Chooses among n_vocab tokens. One call at a time; buffers are its own."""

    def __init__(self, host: GpuHost, shaders: Shaders, n_vocab: int) -> None:
        self._host, self._shaders, self._n = host, shaders, n_vocab
        self._n_groups = -(-n_vocab // -(-n_vocab // GROUPS))
        self._n_sums = min(SUMS, -(-n_vocab // (4 * WG)))
        self._maxima = self._storage(64 * -(-self._n_groups // 8))
        self._recent = self._storage(4 * RECENT)
        self._found = self._storage(4 * PAIRS_AT + 8 * n_vocab)
        self._rows: dict[tuple[int, int], tuple[Any, _Row]] = {}
        self._drawn: _Row | None = None  # the row that chains draw from
        self._staging: Any = None
        self._staging_bytes = 0

    def _storage(self, n_bytes: int) -> Range:
        return self._host.buffer(n_bytes), 0, n_bytes

    @property
    def n_vocab(self) -> int:
        return self._n

    def reserve(self, n_rows: int) -> None:
        """Take, at most, what asking about n_rows rows will take."""
        for _ in range(n_rows):
            self._host.buffer(PARAMS.size, Use.STATE)
        self._host.buffer(4 * PAIRS_AT + 8 * self._n, Use.READ)

    # Candidates

    async def candidates(
        self,
        logits: Range,
        k: int,
        recent: Sequence[int],
        penalty: float,
        temperature: float,
        before: Sequence[Dispatch] = (),
    ) -> Candidates:
        """What Device.candidates promises, of the row of n_vocab logits that lies there. One submit and mostly one wait.

        before: what computes the row, where that was not submitted yet. May be cancelled, and asked again about the same row.
        """
        k = min(k, self._n)
        penalised = sorted(set(recent)) if penalty != 1.0 else []
        n_best = k + 1 + len(penalised)
        many = self._n > GROUPS and 4 * n_best > 3 * self._n_groups
        if many or len(penalised) > RECENT or not (temperature == 0 or COLDEST <= temperature <= HOTTEST):
            self._host.submit(before)
            return candidates_of(await self._whole(logits), k, penalised, penalty, temperature)
        row = self._row(logits)
        self._write_params(row, n_best, len(penalised), temperature or 1.0)
        if penalised:
            self._host.write(self._recent[0], 0, array("I", penalised).tobytes())
        # Seldom are there many more than n_best; what does not fit here is fetched by itself.
        n_pairs = min(self._n, 2 * n_best + 64)
        n_bytes = 4 * PAIRS_AT + 8 * n_pairs
        staging = self._staging_for(n_bytes)
        found = self._found[0]
        self._host.submit((*before, row.maxima, row.threshold, row.survivors), [(found, 0, staging, 0, n_bytes)])
        head = await self._fetch(n_bytes)
        words, floats = head.cast("I"), head.cast("f")
        count = words[0]
        ids = words[PAIRS_AT + 1 : PAIRS_AT + 2 * min(count, n_pairs) : 2].tolist()
        values = floats[PAIRS_AT : PAIRS_AT + 2 * min(count, n_pairs) : 2].tolist()
        if count > n_pairs:
            more = await self._host.read(found, n_bytes, 8 * (count - n_pairs))
            ids += more.cast("I")[1::2].tolist()
            values += more.cast("f")[::2].tolist()
        if not all(map(math.isfinite, values)):  # such come first, so they are among these
            raise not_numbers()
        likely: dict[int, float] = dict(zip(ids, values, strict=True))
        # The threshold is a survivor itself; where all survive there is none, and nothing to weigh.
        largest = likely.get(words[2], 0.0)
        sums: list[float] = [sum(floats[SUMS_AT + i : SUMS_AT + 2 * self._n_sums : 2].tolist()) for i in (0, 1)]
        for token, logit in zip(penalised, floats[RECENT_AT : RECENT_AT + len(penalised)].tolist(), strict=True):
            if token not in likely:
                sums[0] -= math.exp(logit - largest)
                sums[1] -= math.exp((logit - largest) / (temperature or 1.0))
            likely[token] = _penalised(logit, penalty)
        order = sorted(zip(map(float.__neg__, likely.values()), likely, strict=True))
        best, others = order[:k], [-x for x, _ in order[k:]]
        rest = _log_weight(others, 1.0, largest, sums[0])
        rest_at = rest if temperature in (0, 1) else _log_weight(others, temperature, largest, sums[1])
        return Candidates([token for _, token in best], [-x for x, _ in best], rest, rest_at)

    def _row(self, logits: Range) -> _Row:
        buffer, offset, _ = logits
        key = id(buffer), offset
        if key not in self._rows:
            self._rows[key] = buffer, self._bind(logits)  # the buffer is kept, so that its id stays its own
        return self._rows[key][1]

    def _bind(self, logits: Range) -> _Row:
        """Bindings begin at multiples of a number; a row may not."""
        buffer, offset, _ = logits
        past = offset % self._host.limits.alignment
        bound = buffer, offset - past, past + 4 * self._n
        params = self._host.buffer(PARAMS.size, Use.STATE)
        return _Row(
            params,
            past // 4,
            self._dispatch(("group_maxima",), self._n_groups, params, bound, self._maxima),
            self._dispatch(("found", "threshold"), self._n_groups, params, self._maxima, self._found),
            self._dispatch(("found", "survivors"), self._n_sums * WG, params, bound, self._recent, self._found),
        )

    def _dispatch(self, files: tuple[str, ...], n_threads: int, params: Any, *ranges: Range) -> Dispatch:
        shader: Shader = self._shaders.get("choose", *files, WG=WG)
        group = self._host.group(shader.bindings, ((params, 0, PARAMS.size), *ranges))
        return shader.pipeline, group, -(-n_threads // WG), 1, 1

    def _write_params(
        self, row: _Row, n_best: int, n_recent: int, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
    ) -> None:
        shape = (row.offset, self._n, self._n_groups, n_best, self._n_sums, n_recent)
        self._host.write(row.params, 0, PARAMS.pack(*shape, temperature, top_k, top_p, min_p))

    def _staging_for(self, n_bytes: int) -> Any:
        if self._staging_bytes < n_bytes:
            self._drop_staging()
            self._staging, self._staging_bytes = self._host.buffer(n_bytes, Use.READ), n_bytes
        return self._staging

    def _drop_staging(self) -> None:
        if self._staging is not None:
            self._host.free(self._staging)
        self._staging, self._staging_bytes = None, 0

    async def _fetch(self, n_bytes: int) -> memoryview:
        try:
            return await self._host.fetch(self._staging, n_bytes)
        except BaseException:
            self._drop_staging()  # it may be mapped later, or never
            raise

    async def _whole(self, logits: Range) -> "array[float]":
        buffer, offset, _ = logits
        row = array("f")
        row.frombytes(await self._host.read(buffer, offset, 4 * self._n))
        return row

    # Chains of passes

    def greedy(self, logits: Range, state: Range, tokens: Range, chain: Range) -> tuple[Dispatch, ...]:
        """What ends a pass of a chain: its likeliest token becomes the next pass's. Made once, submitted behind each pass.

        Where a pass left its logits, the token goes to `tokens`[0] and to the end of `chain`, and state's pos rises by one.
        chain: 16 bytes and 4 a pass; `begin` it before a submit, and look at a copy with `outcome`. It ends early at logits
        that are not numbers: then later passes compute that row again, and change nothing but a recurrent state.
        """
        row = self._bind(logits)
        self._write_params(row, 1, 0, 1.0)
        last = self._dispatch(("chain", "greedy"), WG, row.params, self._maxima, state, tokens, chain)
        return row.maxima, last

    def sampled(
        self, logits: Range, state: Range, tokens: Range, chain: Range, uniforms: Range, options: SamplerOptions
    ) -> tuple[Dispatch, ...]:
        """The same with a token drawn by `options` and the pass's own of `uniforms`, f32 numbers in [0, 1) that the host wrote.

        Only where `can_draw` says so. It draws what sampling.sample draws from the same logits with the same number; a
        chain ends undecided where float32 or the 64 likeliest do not tell which. The outcome's undecided token is then to be
        drawn from `candidates` of this row.
        """
        check_draw(options)
        row = self._drawn = self._bind(logits)
        self.draw_by(options)
        ranges = self._found, state, tokens, chain, uniforms
        last = self._dispatch(("found", "chain", "sample"), WG, row.params, *ranges)
        return row.maxima, row.threshold, row.survivors, last

    def draw_by(self, options: SamplerOptions) -> None:
        """From the next submit on, what `sampled` gave last draws by these."""
        check_draw(options)
        assert self._drawn is not None
        shape = FEW + 1, 0, options.temperature, options.top_k, options.top_p, options.min_p
        self._write_params(self._drawn, *shape)

    def begin(self, chain: Range) -> None:
        """Nothing chosen yet."""
        self._host.write(chain[0], chain[1], CHAIN.pack(0, 0))

    def close(self) -> None:
        """Free what is its own; nothing that was submitted with it may still be wanted."""
        self._drop_staging()
        for _, row in self._rows.values():
            self._host.free(row.params)
        self._rows.clear()
        for buffer, _, _ in (self._maxima, self._recent, self._found):
            self._host.free(buffer)


def can_draw(options: SamplerOptions) -> bool:
    """Whether `sampled` knows how: no penalty, and a temperature that float32 reckons with."""
    return options.repeat_penalty == 1.0 and 1e-3 <= options.temperature <= 1e3


def check_draw(options: SamplerOptions) -> None:
    if not can_draw(options):
        raise ValueError(f"no chain of passes draws by {options}")


def outcome(chain: memoryview) -> Outcome:
    """What a chain's bytes say."""
    words = chain.cast("I")
    step, ended = words[0], words[1]
    return Outcome(words[4 : 4 + step].tolist(), ended == 1, ended == 2)


def candidates_of(row: "array[float]", k: int, penalised: Sequence[int], penalty: float, temperature: float) -> Candidates:
    """What Device.candidates promises, of a whole row in memory. The row is changed. 1 <= k <= its length."""
    if not math.isfinite(sum(row)):  # sums are float64, which no number of finite float32 overflows
        raise not_numbers()
    for token in penalised:
        row[token] = _penalised(row[token], penalty)
    n = len(row)
    # Both keep the lower of equal ids first.
    if k < n >> 4:
        ids = heapq.nlargest(k, range(n), key=row.__getitem__)
    else:
        ids = sorted(range(n), key=row.__getitem__, reverse=True)[:k]
    logits = [row[token] for token in ids]
    for token in ids:
        row[token] = -math.inf
    others = [x for x in row if x != -math.inf] if k < n else []
    rest = _log_weight(others, 1.0)
    rest_at = rest if temperature in (0, 1) else _log_weight(others, temperature)
    return Candidates(ids, logits, rest, rest_at)


def not_numbers() -> DeviceError:
    return DeviceError("the logits hold NaN or infinity: a weight of this file is damaged, or too large for float32")


def _penalised(logit: float, penalty: float) -> float:
    """As float32; past its range infinity."""
    return array("f", (logit / penalty if logit > 0 else logit * penalty,))[0]


def _log_weight(logits: Sequence[float], temperature: float, largest: float = -math.inf, sum_below: float = 0.0) -> float:
    """log(sum(exp(logits / temperature))), with sum_below * exp(largest / temperature) more."""
    top = max(max(logits, default=-math.inf), largest if sum_below > 0 else -math.inf)
    if top == -math.inf:
        return top
    total = sum([math.exp((x - top) / temperature) for x in logits])
    if sum_below > 0:
        total += sum_below * math.exp((largest - top) / temperature)
    return top / temperature + math.log(total)

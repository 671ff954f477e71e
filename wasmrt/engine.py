"""open(ref) and the Model it gives: the one file that knows every part."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar

from wasmrt.device.choice import Choice, choose, ready
from wasmrt.device.device import Bound, Candidates, Chaining, Device, Following, Uploading
from wasmrt.draft import Room
from wasmrt.errors import BudgetError, ContextFull, DeviceError, UnsupportedError, WasmrtError
from wasmrt.fit import CHUNK, Fitted, fit
from wasmrt.generate import GenerationStats, generate
from wasmrt.gguf.reader import Header
from wasmrt.model.config import ModelConfig
from wasmrt.model.kv_cache import KVCache
from wasmrt.options import EngineOptions, Ref, SamplerOptions, parse_bytes
from wasmrt.resources import demo_model
from wasmrt.speed import Prediction, predict_for
from wasmrt.store.memory import Memory
from wasmrt.store.open import Opened, open_model, read_header
from wasmrt.store.source import Source, fetched_of
from wasmrt.store.store import LayerStore, Progress
from wasmrt.text import Generation, Pieces, PlainIds, check_stops
from wasmrt.tokenizer import Tokenizer, from_metadata

# Tokens that a device chooses without us come in one piece: of this length, and few before it is known how fast they are.
CHAIN_SECONDS = 0.1
MOST_CHAINED, FIRST_CHAIN = 64, 2

if TYPE_CHECKING:
    from wasmrt.tokenizer.chat import ChatTemplate

T = TypeVar("T")

log = logging.getLogger("wasmrt")


async def open(
    ref: Ref | Opened | None = None,
    *,
    device: str = "auto",
    memory: int | str | None = None,
    gpu_memory: int | str | None = None,
    context: int | None = None,
    threads: int | None = None,
    policy: str = "plan",
    prefetch: int | None = None,
    kv_type: str | None = None,
    draft: int | None = None,
    progress: Progress | None = None,
    wait: bool = True,
    cache: bool = True,
) -> "Model":
    """Open a model: read its header, check it, plan, and bring its weights into memory.

    A model that is larger than its budget is opened without its weights: they come while the first token is computed.

    ref: a path, or None for the bundled demo model. device: "auto" (a GPU where there is one, else the CPU, and also the CPU if
    the GPU fails), "gpu" ("gpu:1", "gpu:0,gpu:1"), "cpu", one of its builds ("cpu:wasm32", "cpu:wasm64", "cpu:plain"), or
    "reference". memory: a hard budget for weights, cache and activations, in bytes or as text ("1GiB"); None takes what the
    machine can spare. gpu_memory: the same of each GPU's memory; None: no limit is known. context: positions; None takes the
    model's own, at most 4096, lowered to what the budget holds. threads: None takes what suits both. kv_type, of the cache:
    "f32" (None) or "f16", which takes half the memory and rounds. policy: what stays in memory of a model that is larger,
    "plan" or, to compare, "lru" or "belady". prefetch: pieces of it that are read ahead, at most; None: as many as help. draft:
    tokens guessed from what the text repeats and verified in one pass, at most; None: as many as reading leaves time for.
    progress is called with (bytes read, bytes in all). wait: until the weights that stay are there; False: they go on coming
    while the first tokens are computed, each layer as soon as it is there. cache: keep what comes from a URL on this machine's
    disk, or that of the page's origin.
    Raises FormatError, UnsupportedError, SourceError, BudgetError or DeviceError; cancelling it leaves nothing behind.
    """
    budgets = parse_bytes(memory), parse_bytes(gpu_memory)
    options = EngineOptions(device, *budgets, context, threads, policy, prefetch, kv_type, draft)
    started = time.perf_counter()
    await ready(device)
    choice = choose(options)
    source, header = await open_model(demo_model() if ref is None else ref, cache)
    try:
        try:
            placed = await _place(source, header, choice, options, progress, wait=wait)
        except FAILURES as error:
            placed = await _place_on_cpu(source, header, options, why_cpu(options, choice, error), progress, wait)
    except BaseException:
        await source.close()
        raise
    return Model(source, header, options, placed, time.perf_counter() - started)


# What a GPU may fail with where the CPU does not.
FAILURES = (DeviceError, UnsupportedError, BudgetError)


@dataclass(frozen=True, slots=True)
class Placed:
    """A model on a device: its weights are there, or come with the first pass."""

    fitted: Fitted
    choice: Choice
    memory: Memory
    store: LayerStore
    device: Device
    bounds: Sequence[Bound]

    async def close(self) -> None:
        self.device.close()
        await self.store.close()
        self.memory.close()


async def _place(
    source: Source,
    header: Header,
    choice: Choice,
    options: EngineOptions,
    progress: Progress | None,
    note: str = "",
    wait: bool = True,
) -> Placed:
    """Plan a model for a device, make that, check it if it is a GPU, and load. note: told once there is a plan."""
    fitted = await fit(source, header, choice, options)
    built, plan = fitted.built, fitted.plan
    for text in (note, *plan.notes):
        if text:
            log.warning(text)
    if choice.check is not None:
        await choice.check(built.programs)
    memory, device = choice.make(built.programs, plan.total_bytes)
    try:
        device.compile(built.programs, CHUNK, fitted.max_out, fitted.kept)
        bounds = [device.bind(program, plan.context) for program in built.programs]
        upload = uploaded = None
        if isinstance(device, Uploading):
            device.settle(built.table, fitted.gpus)
            upload, uploaded = device.upload, device.uploaded
        tables = [bound.table for bound in bounds]
        store = LayerStore(
            source, built.table, memory, tables, plan, options.prefetch, upload=upload, uploaded=uploaded
        )
        try:
            stays = fitted.gpus or not plan.streams
            if not stays:  # the first pass reads everything anyway, and computes meanwhile
                store.progress = progress
            elif wait:
                await store.load(progress)
            else:
                store.begin(progress)
        except BaseException:
            await store.close()
            raise
    except BaseException:
        device.close()
        memory.close()
        raise
    return Placed(fitted, choice, memory, store, device, bounds)


def why_cpu(options: EngineOptions, choice: Choice, error: WasmrtError) -> str:
    """Why the CPU computes instead, if "auto" took the device that has failed; else raises the error, with what to do."""
    if choice.gpu is None or isinstance(error, ContextFull):
        raise error
    if options.device == "auto":
        return f"the CPU computes, since the GPU {choice.adapter!r} has failed: {error}"
    if isinstance(error, DeviceError) and "device" not in str(error):
        lower = "a smaller --gpu-memory, or " if "room" in str(error) or "memory" in str(error) else ""
        raise DeviceError(f"{error}; try {lower}--device cpu") from error
    raise error


async def _place_on_cpu(
    source: Source, header: Header, options: EngineOptions, why: str, progress: Progress | None = None, wait: bool = True
) -> Placed:
    on_cpu = replace(options, device="cpu", gpu_memory=None)
    return await _place(source, header, choose(on_cpu), on_cpu, progress, why, wait)


async def open_tokenizer(ref: Ref | None = None) -> Tokenizer:
    """The tokenizer of a file, also of one that holds nothing but a vocabulary."""
    source, header = await open_model(demo_model() if ref is None else ref)
    await source.close()
    return from_metadata(header.metadata)


@dataclass(frozen=True, slots=True)
class ModelStats:
    """What an open model has done so far."""

    device: str
    threads: int
    load_seconds: float
    kernel_seconds: float  # in the device's kernels
    passes: int  # through the layers, each for one or more tokens
    store: Mapping[str, Any]
    adapter: str = ""  # the GPU that computes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Model:
    """An open model. Methods are async; wasmrt.load() gives the same as plain calls. One pass runs at a time."""

    def __init__(self, source: Source, header: Header, options: EngineOptions, placed: Placed, load_seconds: float) -> None:
        self.name = source.name
        self._source = source
        self._header = header
        self._options = options
        self._room = Room()
        self._load_seconds = load_seconds
        self._passes = 0
        self._pass_seconds = 0.0  # of one in a chain, the last time
        self.turn = asyncio.Lock()  # one pass at a time: whoever steps holds it until the result is read
        self._closed = False
        self._failed: WasmrtError | None = None  # of the device, while another is to take its place
        self._last_step: tuple[Sequence[int], int, int] = (), 1, CHUNK
        self._tokenizer: Tokenizer | WasmrtError | None = None
        self._templates: dict[bool, ChatTemplate] = {}
        self._take(placed)

    def _take(self, placed: Placed) -> None:
        """From now on compute there, with an empty cache."""
        fitted = placed.fitted
        self.config: ModelConfig = fitted.built.config
        self.plan = fitted.plan
        self.device = placed.device
        self._placed, self._choice = placed, placed.choice
        self._memory, self._store, self._bounds = placed.memory, placed.store, placed.bounds
        self._built, self._stages, self._max_out = fitted.built, fitted.stages, fitted.max_out
        self._cache = KVCache(self.plan.context, recurrent=any(p.state for p in fitted.built.programs))

    # Text

    @property
    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer, made when it is first wanted. Raises UnsupportedError or FormatError where it cannot be."""
        if self._tokenizer is None:
            try:
                self._tokenizer = from_metadata(self._header.metadata)
            except WasmrtError as error:
                self._tokenizer = error
        if isinstance(self._tokenizer, WasmrtError):
            raise self._tokenizer.with_traceback(None)  # or each raise would add its frames to the one kept here
        return self._tokenizer

    def chat_template(self, tools: bool = False) -> "ChatTemplate":
        """The file's chat template (that for tools, if it has one); the format of its family, told, where it has none."""
        from wasmrt.tokenizer.chat import from_metadata as template_from_metadata  # Jinja2 takes longer to import than a header

        if tools not in self._templates:
            t = self.tokenizer
            self._templates[tools] = template_from_metadata(
                self._header.metadata,
                bos_token="" if t.bos_id is None else t.token_text(t.bos_id),
                eos_token="" if t.eos_id is None else t.token_text(t.eos_id),
                control_texts=t.control_texts,
                tools=tools,
            )
        return self._templates[tools]

    def tokenize(self, text: str, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        """Text to token ids. parse_special lets text such as "<|im_end|>" become control tokens."""
        return self.tokenizer.tokenize(text, add_bos, parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Token ids to text; control tokens give none."""
        return self.tokenizer.detokenize(ids)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = 64,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        parse_special: bool = False,
    ) -> Generation:
        """Continue a text or a list of token ids, piece by piece.

        parse_special lets text such as "<|im_end|>" in the prompt become control tokens. max_tokens None: until the model ends
        or the context is full. temperature 0 is greedy. Raises ContextFull for a prompt longer than the context and ValueError
        for an argument out of range, before anything is computed.
        """
        if isinstance(prompt, str):
            # An empty prompt still needs one token to start from.
            ids = self.tokenize(prompt, self.tokenizer.add_bos or not prompt, parse_special)
        else:
            ids = list(prompt)
        sampler = SamplerOptions(temperature, top_k, top_p, min_p, repeat_penalty, seed)
        return self._generation(ids, sampler, max_tokens, stop, continued=True)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        **variables: Any,
    ) -> Generation:
        """Answer a conversation: [{"role": "user", "content": "Hi"}, ...], through the file's own template.

        Text in messages never becomes a control token. Only what differs from the last call's tokens is computed again. Further
        keywords (tools, documents, ...) go to the template.
        """
        sampler = SamplerOptions(temperature, top_k, top_p, min_p, repeat_penalty, seed)
        return self._generation(self.chat_ids(messages, **variables), sampler, max_tokens, stop)

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """The token ids of a conversation up to where the answer begins."""
        rendered = self.chat_template(bool(variables.get("tools"))).render(messages, **variables)
        ids = self.tokenizer.tokenize(rendered.text, parse_special=True, marker=rendered.marker)
        bos = self.tokenizer.bos_id
        if self.tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)  # templates of some families leave it to the tokenizer
        return ids

    def _generation(
        self,
        ids: list[int],
        sampler: SamplerOptions,
        max_tokens: int | None,
        stop: str | Sequence[str],
        continued: bool = False,
    ) -> Generation:
        """continued: the text goes on where the prompt's ended, if it had any, so a leading space is part of it."""
        if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 0):
            raise ValueError(f"max_tokens must be a whole number from 0 on, or None for no limit, not {max_tokens!r}")
        stops = check_stops(stop)
        ids = self._checked(ids)
        pieces: Pieces = PlainIds()
        end_ids: frozenset[int] = frozenset()
        with contextlib.suppress(UnsupportedError):  # no tokenizer: ids in, ids out
            continued = continued and self.detokenize(ids) != ""
            pieces, end_ids = self.tokenizer.stream(continued=continued), self.tokenizer.eog_ids
        stats = GenerationStats()
        return Generation(generate(self, ids, sampler, max_tokens, end_ids, stats), pieces, stops, ids, stats)

    # Ids

    @property
    def context(self) -> int:
        """Positions that prompt and answer may take together."""
        return self.plan.context

    async def logits(self, ids: Sequence[int]) -> "memoryview[float]":
        """The logits after every position: format "f", shape (len(ids), n_vocab)."""
        ids = self._checked(ids)
        n_vocab = self.config.n_vocab
        out = memoryview(bytearray(4 * len(ids) * n_vocab))
        async with self.turn:
            self._cache.tokens.clear()
            for end in range(0, len(ids), self._max_out):
                chunk = ids[: end + self._max_out]
                n_out = len(chunk) - end
                await self.step(chunk, n_out, self._max_out)
                logits = await self._read(lambda: self.device.logits(self._bounds[-1]))
                out[4 * end * n_vocab : 4 * len(chunk) * n_vocab] = logits.cast("B")
        return out.cast("f", (len(ids), n_vocab))

    async def step(self, tokens: Sequence[int], n_out: int = 1, chunk_size: int = CHUNK) -> int:
        """Run what the cache lacks of `tokens` through all segments; returns how many it held. The last n_out get logits."""
        self._check_open()
        self._last_step = tokens, n_out, chunk_size
        try:
            if self._failed is None:
                return await self._step(tokens, n_out, chunk_size)
            await self._move_to_cpu(self._failed)
        except FAILURES as error:
            await self._move_to_cpu(error)
        return await self._step(tokens, n_out, chunk_size)

    async def _step(self, tokens: Sequence[int], n_out: int, chunk_size: int) -> int:
        cache = self._cache
        kept = cache.reuse(tokens, n_out)
        if kept == 0:
            for bound in self._bounds:
                self.device.clear_state(bound)
        chunks = list(cache.chunks(tokens, chunk_size, n_out))
        # All chunks of a prompt pass over streamed weights together if there is room for what they keep meanwhile.
        groups = [chunks] if self.plan.kept_rows and len(chunks) > 1 else [[chunk] for chunk in chunks]
        try:
            for group in groups:
                await self._pass(group, n_out if group is groups[-1] else 0)
                cache.tokens.extend(token for _, chunk in group for token in chunk)
        except BaseException:
            # The rows past the cache's end are rewritten by the next pass; recurrent state is not, so it starts anew.
            if cache.recurrent:
                cache.tokens.clear()
            raise
        return kept

    async def _pass(self, chunks: Sequence[tuple[int, Sequence[int]]], n_out: int) -> None:
        """One pass over the weights with some chunks of a prompt, (position, ids) each; without the head if n_out is 0."""
        start, current = chunks[0][0], -1

        def begin(number: int, ids: Sequence[int] | None = None) -> None:
            """Rows in kept slots count from the first chunk."""
            nonlocal current
            pos, chunk = chunks[number]
            current = number
            out = n_out if number == len(chunks) - 1 else 0
            self.device.begin(chunk if ids is None else ids, pos, out, pos - start if len(chunks) > 1 else 0)

        def chosen(segment: int, op: int, number: int) -> Collection[int]:
            begin(number)
            return self.device.chosen(self._bounds[segment], op)

        n_segments = len(self._bounds) - (n_out == 0)
        async with contextlib.aclosing(self._store.parts(n_segments, len(chunks), self._stages, chosen)) as parts:
            async for part in parts:
                if part.segments.start == 0:
                    begin(part.chunk, await self._store.rows(chunks[part.chunk][1], CHUNK))
                elif part.chunk != current:
                    begin(part.chunk)
                bounds = self._bounds[part.segments.start : part.segments.stop]
                stop = await self.device.run(bounds, part.ops, part.partial)
                if (stop.segment, stop.next_op) != (len(bounds) - 1, part.ops.stop):
                    where = f"op {stop.next_op} of segment {part.segments[stop.segment]}"
                    raise DeviceError(f"{self.name}: experts that {where} needs are not in memory; open the model again")
        self._passes += 1

    async def candidates(
        self, k: int, recent: Sequence[int], penalty: float, temperature: float, row: int = -1
    ) -> Candidates:
        """The k >= 1 tokens likeliest to follow a row of the last step, and what the others weigh; `recent` are penalised."""
        return await self._read(
            lambda: self.device.candidates(self._bounds[-1], k, recent, penalty, temperature, row),
        )

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read of the last step; after the same step on the CPU, if it takes over."""
        try:
            return await read()
        except FAILURES as error:
            await self._move_to_cpu(error)
        await self._step(*self._last_step)
        return await read()

    async def _move_to_cpu(self, error: WasmrtError) -> None:
        """Go on on the CPU, if "auto" took the GPU that has failed, and else raise the error.

        The next step computes all of its tokens there. Whoever is cancelled here finds the model as it was, and tries again.
        """
        if self._closed:
            raise error
        why = why_cpu(self._options, self._choice, error)
        self._failed = error
        await self._placed.close()  # first, as there may not be room for both
        options = replace(self._options, context=self.context)
        try:
            placed = await _place_on_cpu(self._source, self._header, options, f"{self.name}: {why}")
        except WasmrtError:
            self._check_open()  # or its source was closed, and that is why
            raise
        try:
            self._check_open()
        except DeviceError:
            await placed.close()
            raise
        self._take(placed)
        self._failed = None

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceError(f"{self.name}: the model was closed; open it again")

    def chain_room(self, options: SamplerOptions) -> int:
        """How many tokens the device may choose in a row without us: as many as come in a moment, so that text flows."""
        if self._failed or not isinstance(self.device, Chaining) or not self.device.chains(options):
            return 0
        return max(1, min(MOST_CHAINED, int(CHAIN_SECONDS / self._pass_seconds))) if self._pass_seconds else FIRST_CHAIN

    async def chain(self, tokens: Sequence[int], n: int, options: SamplerOptions, uniforms: Sequence[float]) -> Sequence[int]:
        """Choose at most n tokens that follow, in passes of one token each; none if the cache lacks more than the last."""
        self._check_open()
        assert isinstance(self.device, Chaining)
        cache = self._cache
        if cache.reuse(tokens) < len(tokens) - 1 or cache.recurrent:
            return []
        started = time.perf_counter()
        self._store.running = range(len(self._bounds))
        try:
            chosen = await self.device.chain(self._bounds, tokens[-1], len(tokens) - 1, n, options, uniforms)
        except FAILURES as error:
            await self._move_to_cpu(error)
            return []
        finally:
            self._store.running = range(0)
        self._pass_seconds = (time.perf_counter() - started) / n
        cache.tokens.extend([tokens[-1], *chosen][: max(1, len(chosen))])
        self._passes += n
        return chosen

    def draft_room(self) -> int:
        """How many drafted tokens the next step may verify in the time that reading takes anyway."""
        if self._options.draft == 0 or not self.plan.streams or not self.device.batch_invariant or self._cache.recurrent:
            return 0
        if self.config.n_experts:  # each token may visit others, so that a pass of more of them reads more
            return 0
        room = self._room.tokens
        most = self._options.draft
        return min(room if most is None else min(room, most), self._max_out - 1)

    def drafted(self, n: int, accepted: int, seconds: float) -> None:
        """What a pass with a draft of n tokens (0: none) came to: the room of the next follows from it."""
        self._room.passed(n, accepted, seconds)

    def _checked(self, ids: Sequence[int]) -> list[int]:
        """The ids as plain ints. Raises ValueError for none, or for what is no id; ContextFull for too many."""
        if len(ids) == 0:
            raise ValueError("there are no tokens to go on from; give some text or ids (this model has no token to begin with)")
        if len(ids) > self.context:
            raise ContextFull(
                f"the prompt has {len(ids)} tokens, but the context holds {self.context}; shorten it, or open the model with a "
                f"larger context (this model was made for up to {self.config.n_ctx_train})"
            )
        wrong = next((i for i in ids if not hasattr(i, "__index__") or not 0 <= i < self.config.n_vocab), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is no token id; this model has ids 0 to {self.config.n_vocab - 1}")
        return [index(i) for i in ids]

    # The rest

    @property
    def opened(self) -> Opened:
        """Its file, for another plan; the model is still who closes that."""
        return Opened(self._source, self._header)

    @property
    def stats(self) -> ModelStats:
        device, store = self.device, self._store.metrics.as_dict()
        counted = device.n_threads, self._load_seconds, device.kernel_seconds, self._passes, store
        return ModelStats(device.name, *counted, self._choice.adapter)

    def map(self) -> dict[str, Any]:
        """What of the model is where at this moment, in bytes: plain values for JSON. Cheap: it is looked at while a pass runs.

        segments: of the embedding, each layer and the head their name, bytes in the file, and of these what is in memory
        (resident), on a GPU (gpu) and on its way (arriving); in_use: whether a pass is there. A tensor that segments share
        counts in one of them. tiers: what GPU and memory hold of their budgets (used, of), what of the file lies on this disk
        (present, of; None: no copy is kept), and what came over the network. reading: bytes in flight. passes: so far;
        bytes_per_pass: read anew, on the average; bytes_bound: what each must read. stalled_seconds, read_bytes: so far.
        """
        self._check_open()
        plan, metrics, fetched = self.plan, self._store.metrics, fetched_of(self._source)
        running = self._store.running
        if len(running) > 1 and isinstance(self.device, Following):  # all of them in one call: where in it?
            at = min(running.start + self.device.segment(), running.stop - 1)  # it may not have begun
            running = range(at, at + 1)
        segments = self._store.chart(running)
        uploaded, memory = sum(one["gpu"] for one in segments), self._store.used_bytes
        gpu = {"used": 0, "of": 0}
        if plan.gpu:
            weights = plan.gpu.weight_bytes * uploaded // plan.device_bytes if plan.device_bytes else 0
            others = plan.gpu.total_bytes - plan.gpu.weight_bytes
            gpu = {"used": others + weights, "of": plan.gpu.budget or plan.gpu.total_bytes}
        kept = fetched.disk_bytes if fetched else None
        return {
            "segments": segments,
            "tiers": {
                "gpu": gpu,
                "memory": {"used": plan.total_bytes - plan.weight_bytes + memory, "of": plan.budget},
                "disk": None if kept is None else {"present": kept, "of": self._source.size},
                "network": {"bytes": fetched.network_bytes if fetched else 0},
            },
            "reading": sum(one["arriving"] for one in segments),
            "passes": self._passes,
            "bytes_per_pass": metrics.streamed_bytes // self._passes if self._passes else 0,
            "bytes_bound": plan.bytes_bound,
            "stalled_seconds": metrics.stalled_seconds,
            "read_bytes": metrics.bytes_read,
        }

    async def loaded(self) -> None:
        """Wait until the weights that stay are there, after open(wait=False). Raises what has kept them from coming."""
        await self._store.load()

    async def predict(self) -> Prediction:
        """How fast a token will come, from a measurement of the source and the kernels.

        That takes a moment, and some 30 MiB beside the budget.
        """
        return await predict_for(self._source, self._built, self._choice, self.plan)

    async def lower_memory(self, memory: int | str) -> None:
        """Keep to a smaller budget from now on: fewer weights stay in memory, and the system gets theirs back where it can.

        The cache and all texts stay as they are. ValueError for more than the model has, BudgetError if less does not do.
        """
        budget = parse_bytes(memory)
        if budget is None or budget > self.plan.budget:
            raise ValueError(f"the budget is {self.plan.budget} bytes and can only be lowered, not changed to {memory!r}")
        async with self.turn:
            self.plan = await self._store.lower(budget)
            self._options = replace(self._options, memory=budget)

    async def close(self) -> None:
        """Stop the device and give the memory back. Idempotent; a running pass is cancelled."""
        if self._closed:
            return
        self._closed = True
        await self._placed.close()
        self._placed, self._bounds = replace(self._placed, bounds=()), ()  # their tables would keep the memory
        await self._source.close()

    async def __aenter__(self) -> "Model":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


__all__ = ["CHUNK", "Model", "ModelStats", "open", "open_tokenizer", "read_header"]

"""fit: how a model is recorded for a device and its budgets, from the header alone."""

import contextlib
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wasmrt import browser
from wasmrt.device.choice import Choice, GpuSite
from wasmrt.device.device import KEPT_NONE, Kept
from wasmrt.errors import BudgetError, ContextFull
from wasmrt.gguf.reader import Header
from wasmrt.model import verified
from wasmrt.model.build import Built, build
from wasmrt.model.stages import cut
from wasmrt.options import EngineOptions
from wasmrt.program.fuse import fuse
from wasmrt.program.record import CHUNK_BYTES
from wasmrt.store.layers import Stage
from wasmrt.store.plan import (
    DEFAULT_CONTEXT,
    KV_SHARE,
    RESIDENT_CONTEXT,
    Demand,
    OnGpu,
    Plan,
    Sizes,
    lowered,
    make_plan,
    mib,
)
from wasmrt.store.source import Source

if TYPE_CHECKING:
    from wasmrt.device import gpu_plan

SPARE = 0.8  # of the memory that is free when a model is opened: what it may take unless told otherwise
CONTROL_GROUP = Path("/sys/fs/cgroup")
CHUNK = 256  # tokens of a prompt that pass through the layers together
LOGIT_BYTES = 8 << 20  # at most this much activation memory for logits
# A streamed tensor is read in chunks of this share of what a pass reads, so that a ring of some of them costs little.
CHUNKS_OF_LACK = 128
LEAST_CHUNK = 1 << 20
WIDEST_BLOCK = 4096  # of any source, in bytes: stages are cut for it, so that they do not depend on where a file lies


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model as it is recorded for a budget."""

    built: Built
    plan: Plan
    stages: tuple[Stage, ...]  # through which a prompt of several chunks goes
    kept: Kept  # what its tokens keep between them
    max_out: int  # rows of logits that a pass gives at most
    gpus: tuple[OnGpu, ...] = ()  # what stays on each, of the segments that are its own


async def fit(source: Source, header: Header, choice: Choice, options: EngineOptions, exact: bool = False) -> Fitted:
    """Plan a model for a device and a budget; if it streams, reads pass by the system's cache from then on. BudgetError.

    exact: the plan's minimum_bytes is the smallest budget that works, for which the model is recorded once more; else one that
    does.
    """
    fitted = await _fit(source, header, choice, options, exact)
    notes = verified.notes(fitted.built.config.architecture)
    return replace(fitted, plan=replace(fitted.plan, notes=(*notes, *fitted.plan.notes)))


async def _fit(source: Source, header: Header, choice: Choice, options: EngineOptions, exact: bool) -> Fitted:
    built = build(header, context=options.context)
    n_ctx = built.config.n_ctx_train
    if options.context is not None and options.context > n_ctx:
        raise ContextFull(f"a context of {options.context} is too long: this model was made for {n_ctx}")
    budget = options.memory or spare_memory()
    if choice.gpu:
        return await _fit_gpu(source, header, choice.gpu, options, budget)
    max_out = max(1, min(CHUNK, LOGIT_BYTES // (4 * built.config.n_vocab)))

    def fitted(built: Built, block: int) -> Fitted:
        stages, slots = cut(built.programs, Demand(built.table, WIDEST_BLOCK, CHUNK))

        @functools.cache
        def sizes_of(rows: int) -> Sizes:
            return choice.sizes(built.programs, CHUNK, max_out, Kept(rows, slots) if rows else KEPT_NONE)

        arguments = built.table, sizes_of, budget, options.context, n_ctx
        plan = make_plan(*arguments, policy=options.policy, block=block, chunk=CHUNK)
        return Fitted(built, plan, stages, Kept(plan.kept_rows, slots) if plan.kept_rows else KEPT_NONE, max_out)

    # A budget that holds not even an op's weights in large chunks may hold smaller ones.
    try:
        made = fitted(built, block=1)
    except BudgetError:
        made = fitted(build(header, LEAST_CHUNK, context=options.context), block=1)
    if made.plan.streams:
        await source.bypass_cache()
        least = made.plan.minimum_bytes
        if exact:
            least = fitted(build(header, LEAST_CHUNK, context=options.context), block=1).plan.minimum_bytes
        chunk_bytes = min(CHUNK_BYTES, max(LEAST_CHUNK, made.plan.bytes_bound // CHUNKS_OF_LACK))
        if chunk_bytes < CHUNK_BYTES:
            built = build(header, chunk_bytes, context=options.context)
        with contextlib.suppress(BudgetError):  # no room for wider reads: such a budget takes them through the cache
            made = fitted(built, source.block)
        made = replace(made, plan=replace(made.plan, minimum_bytes=least))
    return made


async def _fit_gpu(source: Source, header: Header, site: GpuSite, options: EngineOptions, budget: int) -> Fitted:
    """The same for GPUs, which have budgets of their own: what does not fit there is copied to them for each pass."""
    from wasmrt.device import gpu_autotune, gpu_plan

    whole = build(header, fused=functools.partial(fuse, whole=True), context=options.context)
    for adapter in site.adapters:  # before the ledger, which counts what the kernels that are chosen take
        await gpu_autotune.prepare(adapter, functools.partial(site.host, adapter), whole.programs)
    config = whole.config
    max_out = max(1, min(CHUNK, LOGIT_BYTES // (4 * config.n_vocab)))
    wanted = options.context or min(config.n_ctx_train, DEFAULT_CONTEXT)

    def models(built: Built, kept: Kept = KEPT_NONE) -> list[gpu_plan.Model]:
        """Of each GPU's segments."""
        return [
            gpu_plan.Model(
                built.programs[part.start : part.stop], built.table.part(part), CHUNK, max_out, kept, adapter, site.f16_cache
            )
            for adapter, part in zip(site.adapters, site.parts(built.table), strict=True)
        ]

    def all_there(context: int) -> bool:
        try:
            takes = [gpu_plan.everything(model, context)[1].total_bytes for model in models(whole)]
        except BudgetError:  # the cache of a layer is more than the GPU binds
            return False
        return site.budget is None or max(takes) <= site.budget

    context = wanted if options.context else lowered(wanted, min(wanted, RESIDENT_CONTEXT), all_there)
    kept, built, stages = KEPT_NONE, whole, tuple[Stage, ...]()
    if all_there(context) or site.budget is None:
        gpus = [gpu_plan.plan_gpu(model, context, site.budget) for model in models(whole)]
    else:
        lack = whole.table.touched_bytes - site.budget * len(site.adapters)
        chunk_bytes = min(CHUNK_BYTES, max(LEAST_CHUNK, lack // CHUNKS_OF_LACK))
        built = build(header, chunk_bytes, functools.partial(fuse, whole=False), options.context)
        stages, slots = cut(built.programs, Demand(built.table, WIDEST_BLOCK, CHUNK))
        if not options.context:
            share = site.budget // KV_SHARE
            least = min(wanted, RESIDENT_CONTEXT)
            context = lowered(wanted, least, lambda n: all(gpu_plan.kv_bytes(m, n) <= share for m in models(built)))
        kept = Kept(context, slots) if context > CHUNK else KEPT_NONE
        try:
            gpus = _streaming(site, built, models(built, kept), context)
        except BudgetError:  # then each chunk of a prompt passes over the weights by itself
            kept = KEPT_NONE
            gpus = _streaming(site, built, models(built), context)
    notes: tuple[str, ...] = ()
    if context < wanted:
        budget_is = f"a GPU memory budget of {mib(site.budget or 0)}"
        notes = (f"the context is {context} positions, not {wanted}: more do not fit {budget_is}",)
    table = replace(built.table, device=site.resident(built.table, gpus))
    arguments = table, lambda _: Sizes((), (), ()), budget, context, config.n_ctx_train
    plan = make_plan(*arguments, policy=options.policy, chunk=CHUNK)
    if plan.streams:
        await source.bypass_cache()
        with contextlib.suppress(BudgetError):  # no room for wider reads: such a budget takes them through the cache
            plan = make_plan(*arguments, policy=options.policy, block=source.block, chunk=CHUNK)
    kept_rows = kept.rows if plan.kept_rows or not plan.streams else 0
    ledger = functools.reduce(operator.add, (one.ledger for one in gpus))
    plan = replace(plan, gpu=ledger, kept_rows=kept_rows, notes=(*notes, *plan.notes))
    kept = kept if kept_rows else KEPT_NONE
    return Fitted(replace(built, table=table), plan, stages, kept, max_out, tuple(gpus))


def _streaming(site: GpuSite, built: Built, models: "Sequence[gpu_plan.Model]", context: int) -> "list[OnGpu]":
    """What stays on each GPU. What two of them share stays on both or on neither: the others' bytes come with each pass."""
    from wasmrt.device.gpu_plan import plan_gpu

    torn: frozenset[int] = frozenset()
    while True:
        gpus = []
        for model in models:
            never = frozenset(i for i, extent in enumerate(model.table.extents) if extent.offset in torn)
            gpus.append(plan_gpu(model, context, site.budget, never))
        more = site.torn(built.table, gpus) - torn
        if not more:
            return gpus
        torn |= more


def spare_memory() -> int:
    """The budget of who names none: a share of what is free, also of what a Linux container may still take."""
    if browser.IN_PAGE:
        from wasmrt.device.cpu_browser import spare_memory as spare_in_page

        return spare_in_page()
    import psutil

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        free = min(free, limit - int((CONTROL_GROUP / "memory.current").read_text()))
    return max(0, int(free * SPARE))

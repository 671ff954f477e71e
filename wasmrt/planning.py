"""What a model would take within a budget and how fast it would be, before its weights are loaded.

`wasmrt plan` reports it; a page asks for it before it opens a model.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from wasmrt.device.choice import Choice, choose, ready
from wasmrt.device.device import check_formats
from wasmrt.engine import FAILURES, why_cpu
from wasmrt.errors import BudgetError, SourceError, WasmrtError
from wasmrt.fit import Fitted, fit
from wasmrt.gguf.types import FILE_TYPES
from wasmrt.model.build import build
from wasmrt.options import EngineOptions, Ref
from wasmrt.speed import Measured, Prediction, duration, gb, predict_for, strip
from wasmrt.store.layers import Kind, LayerTable
from wasmrt.store.open import Opened, open_model
from wasmrt.store.plan import Plan, mib
from wasmrt.store.source import Source, fetched_of
from wasmrt.tokenizer.families import recognise_vocabulary

TITLE = 200  # characters of a file's own words that are passed on

HOMES = {
    "device": "stay on the GPU",
    "memory": "stay in memory",
    "stream": "are read anew for each token",
    "both": "are cut in pieces, some of which stay",
    "experts": "are read when they are chosen, and kept while there is room",
    "rows": "is read row by row, as tokens need them",
}


@dataclass(frozen=True, slots=True)
class Planned:
    """A model as it would be opened: on which device, what is where, and how fast that will be."""

    choice: Choice
    fitted: Fitted
    predicted: Prediction
    notes: tuple[str, ...]

    @property
    def plan(self) -> Plan:
        return self.fitted.plan

    @property
    def table(self) -> LayerTable:
        return self.fitted.built.table


async def planned(
    opened: Opened,
    options: EngineOptions,
    read_rate: float | None = None,
    compute_rate: float | None = None,
    measured: Measured | None = None,
) -> Planned:
    """What opening a model would come to. Rates, in bytes per second, are measured if None. Raises what opening would raise."""
    await ready(options.device)
    choice = choose(options)
    try:
        return await _planned(opened, choice, options, read_rate, compute_rate, measured)
    except FAILURES as error:
        why = why_cpu(options, choice, error)
    on_cpu = replace(options, device="cpu", gpu_memory=None)
    return await _planned(opened, choose(on_cpu), on_cpu, read_rate, compute_rate, measured, why)


async def _planned(
    opened: Opened,
    choice: Choice,
    options: EngineOptions,
    read_rate: float | None,
    compute_rate: float | None,
    measured: Measured | None,
    *notes: str,
) -> Planned:
    fitted = await fit(opened.source, opened.header, choice, options, exact=True)
    check_formats(fitted.built.programs)
    if choice.check is not None:
        await choice.check(fitted.built.programs)
    predicted = await predict_for(opened.source, fitted.built, choice, fitted.plan, read_rate, compute_rate, measured)
    return Planned(choice, fitted, predicted, (*notes, *fitted.plan.notes))


async def examine(ref: Ref, options: EngineOptions, read_rate: float | None, compute_rate: float | None) -> dict[str, Any]:
    """The plan and the prediction for a file, as plain values for JSON. Rates, in bytes per second, are measured if None."""
    opened = Opened(*await open_model(ref))
    try:
        found = await planned(opened, options, read_rate, compute_rate)
    finally:
        await opened.source.close()
    segments = segments_of(found.table, found.plan)
    return {
        **facts(opened),
        "model": opened.source.name,
        "device": found.choice.name,
        "adapter": found.choice.adapter,
        "threads": found.choice.threads(found.fitted.built.programs),
        **found.plan.as_dict(),
        "notes": list(found.notes),
        "weights_total_bytes": found.table.n_bytes,
        "resident_share_of_segments": resident_shares(found.table, found.plan),
        "segments": segments,
        "predicted": found.predicted.as_dict(),
    }


async def outlook(opened: Opened, options: EngineOptions, measured: Measured) -> dict[str, Any]:
    """Whether a model will run, how, and what is to be fetched for it: plain values for JSON, whatever the answer is.

    What keeps it from running is said, and not raised; SourceError, if the file cannot be read any more.
    """
    told: dict[str, Any] = {**facts(opened), "device": options.device, "adapter": "", "threads": options.threads or 1}
    told |= {"runs": True, "why_not": None, "kind": None, "needs_bytes": None, "needs": None}
    told |= {"plan": None, "segments": [], "predicted": None, "notes": []}
    try:
        found = await planned(opened, options, measured=measured)
    except SourceError:
        raise
    except WasmrtError as error:
        told |= {"runs": False, "why_not": str(error), "kind": type(error).__name__, "segments": _bare_segments(opened)}
        if isinstance(error, BudgetError):
            told |= {"needs_bytes": error.needs_bytes, "needs": error.budget if error.needs_bytes else None}
    else:
        told |= {
            "device": found.choice.name,
            "adapter": found.choice.adapter,
            "threads": found.choice.threads(found.fitted.built.programs),
            "plan": {**found.plan.as_dict(), "notes": list(found.notes)},
            "segments": segments_of(found.table, found.plan),
            "predicted": {**found.predicted.as_dict(), "read_from": _read_from(opened.source)},
            "notes": list(found.notes),
        }
    return {**told, "download": await _download(opened.source, measured)}


async def _download(source: Source, measured: Measured) -> dict[str, Any]:
    """What is yet to come over the network, at which rate it does, and how long that takes, if it is kept: it comes once."""
    fetched, rate = fetched_of(source), await measured.arriving(source)
    here = fetched.disk_bytes or 0 if fetched else 0
    missing = max(0, source.size - here) if fetched else 0
    seconds = missing / rate if missing and rate else None if missing else 0.0
    return {"bytes": missing, "cached_bytes": here, "rate": rate, "seconds": seconds}


def _read_from(source: Source) -> str:
    """Where bytes come from that are read anew for each token: "network" as long as there is no whole copy of them."""
    fetched = fetched_of(source)
    return "file" if fetched is None else "disk" if (fetched.disk_bytes or 0) >= source.size else "network"


def facts(opened: Opened) -> dict[str, Any]:
    """What a header says of its model, before anything is decided."""
    m, tensors = opened.header.metadata, opened.header.tensors.values()
    architecture = _text(m.get("general.architecture"))
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.type.name] += tensor.n_bytes
    said = m.get("general.file_type")
    mix = FILE_TYPES.get(said) if isinstance(said, int) else None
    return {
        "name": re.split(r"[/\\]", opened.source.name)[-1],
        "size": opened.source.size,
        "architecture": architecture,
        "title": _text(m.get("general.name")),
        "n_parameters": sum(tensor.n_elements for tensor in tensors),
        "format": mix or (sizes.most_common(1)[0][0] if sizes else ""),
        "n_layers": _number(m.get(f"{architecture}.block_count")),
        "n_ctx_train": _number(m.get(f"{architecture}.context_length")),
        "chat": "tokenizer.chat_template" in m or recognise_vocabulary(m) is not None,
    }


def _text(value: object) -> str | None:
    """A file's own words; it may have many MiB of them."""
    return value[:TITLE] if isinstance(value, str) and value else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def segments_of(table: LayerTable, plan: Plan | None) -> list[dict[str, Any]]:
    """Of each segment its bytes in the file, and what of them stays where: LayerTable.owned says whose a shared tensor is.

    row_bytes: of an embedding that is not resident. The four parts add up to the segment's bytes; without a plan they are 0.
    """
    resident = set(plan.parts.resident) if plan else set()
    parts = {Kind.DEVICE: "gpu_bytes", Kind.ROWS: "row_bytes", Kind.DENSE: "streamed_bytes", Kind.EXPERT: "streamed_bytes"}
    found = []
    for segment, mine in zip(table.segments, table.owned, strict=True):
        one = {"bytes": 0, "resident_bytes": 0, "gpu_bytes": 0, "streamed_bytes": 0, "row_bytes": 0}
        for extent in (table.extents[i] for i in mine):
            one["bytes"] += extent.n_bytes
        for i in mine if plan else ():
            one["resident_bytes" if i in resident else parts[table.extents[i].kind]] += table.extents[i].n_bytes
        found.append({"name": segment.name, **one})
    return found


def _bare_segments(opened: Opened) -> list[dict[str, Any]]:
    """The segments of a model that does not run here; none, if nobody knows what it is made of."""
    try:
        return segments_of(build(opened.header).table, None)
    except WasmrtError:
        return []


def resident_shares(table: LayerTable, plan: Plan) -> dict[str, float]:
    """Of each segment's bytes, the share that stays in memory or on a GPU; what several share counts in each of them."""
    extents, resident = table.extents, {*plan.parts.resident, *table.device}
    shares = {}
    for s, segment in enumerate(table.segments):
        mine = [i for i, extent in enumerate(extents) if any(place[0] == s for place in extent.places)]
        total = sum(extents[i].n_bytes for i in mine)
        shares[segment.name] = sum(extents[i].n_bytes for i in mine if i in resident) / total if total else 1.0
    return shares


def report(found: dict[str, Any]) -> str:
    """The same as lines for a person."""
    predicted, homes = found["predicted"], list(found["homes"].values())
    context = f"{found['context']} positions"
    experts = f", {mib(found['expert_cache_bytes'])} for experts" if found["expert_cache_bytes"] else ""
    lacking = "are read as tokens need them" if experts else "are read anew for each token"
    rows = [
        ("model", f"{found['model']}, {mib(found['weights_total_bytes'])} of weights"),
        ("budget", f"{mib(found['budget'])}; {mib(found['minimum_bytes'])} would do for {context}"),
        ("weights", f"{mib(found['resident_bytes'])} stay, {mib(found['streamed_bytes'])} {lacking}"),
        ("staging", f"{mib(found['staging_bytes'])} for what is read ahead{experts}"),
        ("cache", f"{mib(found['kv_bytes'])} for {context}"),
        ("activations", mib(found["activation_bytes"] + found["state_bytes"])),
        ("in all", mib(found["total_bytes"])),
        *(gpu_rows(found["gpu"]) if found["gpu"] else ()),
        ("layers", f"|{strip(list(found['resident_share_of_segments'].values()))}| what of each stays, embedding to head"),
        ("tensors", "; ".join(f"{homes.count(home)} {text}" for home, text in HOMES.items() if home in homes)),
        ("speed", speed(predicted)),
    ]
    return "".join(f"{name:12} {value}\n" for name, value in rows) + "".join(f"note: {note}\n" for note in found["notes"])


def gpu_rows(gpu: dict[str, int]) -> list[tuple[str, str]]:
    """What is on the GPU, beside the memory."""
    budget = f" of {mib(gpu['budget'])}" if gpu["budget"] else ""
    staging = f", {mib(gpu['staging_bytes'])} for those that pass through" if gpu["staging_bytes"] else ""
    weights, cache, besides = (mib(gpu[f"{name}_bytes"]) for name in ("weight", "kv", "activation"))
    return [("gpu", f"{mib(gpu['total_bytes'])}{budget}: {weights} of weights{staging}, {cache} cache, {besides} besides")]


def speed(predicted: dict[str, Any]) -> str:
    """What takes how long."""
    seconds, computing = predicted["seconds_per_token"], predicted["computing_seconds"]
    rate = f"about {duration(seconds)} a token ({predicted['tokens_per_second']:.3g} tok/s)"
    if not predicted["read_bytes"]:
        return f"{rate}, all of it computing"
    reading = f"{gb(predicted['read_bytes'])} are read in {duration(predicted['reading_seconds'])}"
    source = f"at {gb(predicted['read_bytes_per_second'])}/s"
    return f"{rate}: {reading} {source}, computing takes {duration(computing)} meanwhile; {predicted['limit']} is the limit"

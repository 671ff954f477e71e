"""wasmrt plan: what a model would take within a budget and how fast it would be, before its weights are loaded."""

from typing import Any

from wasmrt.device.choice import choose, ready
from wasmrt.fit import fit
from wasmrt.model.build import Built
from wasmrt.options import EngineOptions, Ref
from wasmrt.speed import duration, gb, predict_for, strip
from wasmrt.store.open import open_model
from wasmrt.store.plan import Plan, mib

HOMES = {
    "device": "stay on the GPU",
    "memory": "stay in memory",
    "stream": "are read anew for each token",
    "both": "are cut in pieces, some of which stay",
    "experts": "are read when they are chosen, and kept while there is room",
    "rows": "is read row by row, as tokens need them",
}


async def examine(ref: Ref, options: EngineOptions, read_rate: float | None, compute_rate: float | None) -> dict[str, Any]:
    """The plan and the prediction for a file, as plain values for JSON. Rates, in bytes per second, are measured if None."""
    await ready(options.device)
    choice = choose(options)
    source, header = await open_model(ref)
    try:
        fitted = await fit(source, header, choice, options, exact=True)
        built, plan = fitted.built, fitted.plan
        predicted = await predict_for(source, built, choice, plan, read_rate, compute_rate)
    finally:
        await source.close()
    return {
        "model": source.name,
        "device": choice.name,
        **plan.as_dict(),
        "weights_total_bytes": built.table.n_bytes,
        "resident_share_of_segments": resident_shares(built, plan),
        "predicted": predicted.as_dict(),
    }


def resident_shares(built: Built, plan: Plan) -> dict[str, float]:
    """Of each segment's bytes, the share that stays in memory or on a GPU."""
    extents, resident = built.table.extents, {*plan.parts.resident, *built.table.device}
    shares = {}
    for s, segment in enumerate(built.table.segments):
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

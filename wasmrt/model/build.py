"""From a header to programs: the table of families, and the segments that a family's pages record."""

from collections.abc import Callable
from dataclasses import dataclass

from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.gguf.reader import Header, TensorInfo
from wasmrt.model import (
    apertus,
    deci,
    deepseek,
    gemma,
    gemma4,
    gpt,
    gpt_oss,
    hunyuan,
    hybrid,
    jamba,
    lfm2,
    llama,
    llama4,
    mamba,
    mixture,
    nemotron_h,
    olmo,
    parallel,
    phi3,
    postnorm,
    qwen,
    qwen_next,
)
from wasmrt.model.config import ModelConfig, read_config
from wasmrt.model.family import Family
from wasmrt.model.weights import Weights
from wasmrt.program.ops import Operand, Program
from wasmrt.program.record import CHUNK_BYTES, Recorder
from wasmrt.store.layers import Entry, LayerTable, Segment

FAMILIES: dict[str, Family] = {
    **llama.FAMILIES,
    **llama4.FAMILIES,
    **qwen.FAMILIES,
    **qwen_next.FAMILIES,
    **gemma.FAMILIES,
    **gemma4.FAMILIES,
    **phi3.FAMILIES,
    **gpt.FAMILIES,
    **gpt_oss.FAMILIES,
    **parallel.FAMILIES,
    **postnorm.FAMILIES,
    **deepseek.FAMILIES,
    **hunyuan.FAMILIES,
    **lfm2.FAMILIES,
    **mixture.FAMILIES,
    **olmo.FAMILIES,
    **deci.FAMILIES,
    **apertus.FAMILIES,
    **mamba.FAMILIES,
    **jamba.FAMILIES,
    **hybrid.FAMILIES,
    **nemotron_h.FAMILIES,
}

# Tensors that a file may carry and a pass does not use: calibration of activations, precomputed rope tables of old converters.
UNUSED = (".input_scale", ".attn_rot_embd.weight", "rope_factors_long.weight", "rope_factors_short.weight", "cls.output.weight")


@dataclass(frozen=True, slots=True)
class Built:
    """A model ready for a store and a device: programs[i] computes table.segments[i]. Equal layers share a program."""

    config: ModelConfig
    programs: tuple[Program, ...]
    table: LayerTable


def build(
    header: Header,
    chunk_bytes: int = CHUNK_BYTES,
    fused: Callable[[Program], Program] | None = None,
    context: int | None = None,
) -> Built:
    """Record a model's segments and check its tensors against its metadata, before any weight is read.

    chunk_bytes: tensors above this size are addressed, and streamed, in row chunks. fused: what a device makes of a program.
    context: positions that are wanted, which the rotation of some models depends on; None: not more than they were made for.
    Raises UnsupportedError for an unknown architecture or tensor, FormatError for a missing or misshapen one.
    """
    architecture = header.metadata.string("general.architecture")
    if architecture not in FAMILIES:
        raise UnsupportedError(f"architecture {architecture!r} is not supported yet; supported: {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[architecture]
    config = family.configure(*read_config(header, family.rope, family.norm, family.activation, context))
    programs: list[Program] = []
    segments: list[Segment] = []
    interned: dict[Program, Program] = {}
    used: set[str] = set()

    def segment(name: str, kind: str, c: ModelConfig, page: Callable[[Recorder, Weights], Operand]) -> None:
        t = Recorder(kind, chunk_bytes)
        prefix = f"{name}." if kind == "layer" else ""
        w = Weights(t, header.tensors, prefix, family.shapes(c), family.unscaled, family.unbiased)
        try:
            recorded = t.finish(page(t, w))
        except ValueError as error:  # what neither a key nor a shape by itself has shown
            raise FormatError(f"{name}: the file's tensors and metadata do not fit together: {error}") from error
        if fused and recorded not in interned:
            interned[recorded] = fused(recorded)
        program = interned.setdefault(recorded, recorded)
        programs.append(program)
        segments.append(_segment(name, program, w.used))
        used.update(info.name for info in w.used.values())
        used.update(w.skipped)

    segment("embedding", "embedding", config, lambda t, w: family.embedding(t, config, w))
    for i in range(config.n_layers):
        c = config.at(i)
        segment(f"blk.{i}", "layer", c, lambda t, w, c=c: family.layer(t, c, w, t.residual(c.n_embd)))  # type: ignore[misc]
    segment("head", "head", config, lambda t, w: family.head(t, config, w, t.residual(config.n_embd)))
    drafts = tuple(f"blk.{config.n_layers + i}." for i in range(config.n_draft_layers))
    left = [name for name in header.tensors if name not in used and not name.endswith(UNUSED) and not name.startswith(drafts)]
    if left:
        raise UnsupportedError(
            f"{len(left)} tensors have no place in a {architecture!r} model of {config.n_layers} layers (first: {left[0]!r}): "
            "the file needs something that is not supported, and without it the text would be wrong"
        )
    embedded = header.tensors["token_embd.weight"]
    row_bytes = embedded.type.row_bytes(embedded.shape[0])
    return Built(config, tuple(programs), LayerTable(tuple(segments), row_bytes, embedded.n_rows))


def _segment(name: str, program: Program, tensors: dict[str, TensorInfo]) -> Segment:
    """The byte ranges behind a program's address table."""
    entries: list[Entry] = []
    for weight in program.weights:
        info = tensors[weight.name]
        entry_bytes = weight.rows_per_entry * weight.type.row_bytes(weight.shape[0])
        for i in range(weight.n_entries):
            start = info.offset + i * entry_bytes
            entries.append(Entry(info.name, start, min(entry_bytes, info.end - start)))
    if any(entry.n_bytes <= 0 for entry in entries):
        raise FormatError(f"segment {name!r} has a tensor without bytes")
    experts = frozenset(e for w in program.weights if w.is_expert for e in range(w.first, w.first + w.n_entries))
    routes = frozenset(i for i, op in enumerate(program.ops) if op.kernel == "route")
    return Segment(name, tuple(entries), tuple(program.entries_of(op) for op in program.ops), experts, routes)

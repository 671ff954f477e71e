"""From a header to programs: the table of families, and the segments that a family's pages record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.gguf.reader import Header, TensorInfo
from wasmrt.model import llama
from wasmrt.model.config import ModelConfig
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand, Program
from wasmrt.program.record import CHUNK_BYTES, Recorder
from wasmrt.store.layers import Entry, LayerTable, Segment


class Family(Protocol):
    """What a model file defines."""

    def shapes(self, c: ModelConfig, /) -> Shapes: ...
    def embedding(self, t: Recorder, c: ModelConfig, w: Weights, /) -> Operand: ...
    def layer(self, t: Recorder, c: ModelConfig, w: Weights, x: Operand, /) -> Operand: ...
    def head(self, t: Recorder, c: ModelConfig, w: Weights, x: Operand, /) -> Operand: ...


FAMILIES: dict[str, Family] = {"llama": llama}

# Tensors that a file may carry and a pass does not use: calibration of activations, precomputed rope tables of old converters.
UNUSED = (".input_scale", ".attn_rot_embd.weight")


@dataclass(frozen=True, slots=True)
class Built:
    """A model ready for a store and a device: programs[i] computes table.segments[i]. Equal layers share a program."""

    config: ModelConfig
    programs: tuple[Program, ...]
    table: LayerTable


def build(header: Header, chunk_bytes: int = CHUNK_BYTES, fused: Callable[[Program], Program] | None = None) -> Built:
    """Record a model's segments and check its tensors against its metadata, before any weight is read.

    chunk_bytes: tensors above this size are addressed, and streamed, in row chunks. fused: what a device makes of a program.
    Raises UnsupportedError for an unknown architecture or tensor, FormatError for a missing or misshapen one.
    """
    architecture = header.metadata.string("general.architecture")
    if architecture not in FAMILIES:
        raise UnsupportedError(f"architecture {architecture!r} is not supported yet; supported: {', '.join(sorted(FAMILIES))}")
    config = ModelConfig.from_header(header)
    family = FAMILIES[architecture]
    known = family.shapes(config)
    programs: list[Program] = []
    segments: list[Segment] = []
    interned: dict[Program, Program] = {}
    used: set[str] = set()

    def segment(name: str, kind: str, page: Callable[[Recorder, Weights], Operand]) -> None:
        t = Recorder(kind, chunk_bytes)
        w = Weights(t, header.tensors, f"{name}." if kind == "layer" else "", known)
        recorded = t.finish(page(t, w))
        if fused and recorded not in interned:
            interned[recorded] = fused(recorded)
        program = interned.setdefault(recorded, recorded)
        programs.append(program)
        segments.append(_segment(name, program, w.used))
        used.update(info.name for info in w.used.values())

    segment("embedding", "embedding", lambda t, w: family.embedding(t, config, w))
    for i in range(config.n_layers):
        segment(f"blk.{i}", "layer", lambda t, w: family.layer(t, config, w, t.residual(config.n_embd)))
    segment("head", "head", lambda t, w: family.head(t, config, w, t.residual(config.n_embd)))
    left = [name for name in header.tensors if name not in used and not name.endswith(UNUSED)]
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

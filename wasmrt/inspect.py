"""What is in a GGUF file, from its header alone, and whether wasmrt will run it."""

from collections import Counter
from typing import Any

from wasmrt.device.device import check_formats
from wasmrt.errors import WasmrtError
from wasmrt.gguf.metadata import Value
from wasmrt.gguf.reader import Header
from wasmrt.model.build import build
from wasmrt.options import Ref
from wasmrt.store.open import open_model
from wasmrt.tokenizer import from_metadata

SHOWN = 70  # characters of a value in the summary


async def describe(ref: Ref) -> dict[str, Any]:
    """Metadata, tensors and verdicts of a file, as plain values for JSON."""
    source, header = await open_model(ref)
    await source.close()
    runs, why_not, config = True, "", None
    try:
        built = build(header)
        config = built.config
        check_formats(built.programs)
    except WasmrtError as error:
        runs, why_not = False, str(error)
    tokenizer, chat = _text(header)
    return {
        "file": source.name,
        "file_bytes": source.size,
        "version": header.version,
        "header_bytes": header.n_bytes,
        "metadata": {key: _plain(value) for key, value in header.metadata.items()},
        "n_tensors": len(header.tensors),
        "n_parameters": sum(t.n_elements for t in header.tensors.values()),
        "formats": dict(Counter(t.type.name for t in header.tensors.values())),
        "tensors": [
            {"name": t.name, "format": t.type.name, "shape": list(t.shape), "offset": t.offset, "n_bytes": t.n_bytes}
            for t in header.tensors.values()
        ],
        "config": config.as_dict() if config else None,
        "tokenizer": tokenizer,
        "chat": chat,
        "runs": runs,
        "why_not": why_not,
    }


def _plain(value: Value) -> Any:
    """A metadata value for JSON; of a long array its length and first items."""
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return {"length": len(value), "first": [_plain(item) for item in value[:8]]}


def _text(header: Header) -> tuple[str, dict[str, Any]]:
    """The file's tokenizer in words, and how a conversation reaches the model: the keys of tokenizer/markers.py."""
    from wasmrt.tokenizer.markers import NO_CHAT, describe_chat  # Jinja2 takes longer to import than a header

    try:
        tokenizer = from_metadata(header.metadata)
    except WasmrtError as error:
        return f"none: {error}", {**NO_CHAT, "why": str(error)}
    shown = f"{tokenizer.kind}, {tokenizer.n_vocab} tokens"
    try:
        return shown, describe_chat(header.metadata, tokenizer)
    except WasmrtError as error:
        return shown, {**NO_CHAT, "why": str(error)}


def summary(found: dict[str, Any], tensors: bool = False) -> str:
    """The description as lines for a person."""
    from wasmrt.tokenizer.markers import chat_lines

    lines = [
        f"{found['file']}: GGUF v{found['version']}, {found['file_bytes'] / 2**20:.1f} MiB, header {found['header_bytes']} B",
        f"{found['n_tensors']} tensors, {found['n_parameters']:,} parameters, "
        + ", ".join(f"{count} {name}" for name, count in found["formats"].items()),
        f"tokenizer: {found['tokenizer']}",
        *chat_lines(found["chat"]),
        "runs: yes" if found["runs"] else f"runs: no, {found['why_not']}",
        "",
    ]
    for key, value in found["metadata"].items():
        shown = f"[{value['length']}] {value['first']}" if isinstance(value, dict) else repr(value)
        lines.append(f"  {key} = {shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + '...'}")
    if tensors:
        lines += ["", *(f"  {t['name']:40} {t['format']:7} {t['shape']} at {t['offset']}" for t in found["tensors"])]
    return "\n".join(lines) + "\n"

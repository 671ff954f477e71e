"""What is in a GGUF file, from its header alone, and whether wasmrt will run it. On request its weights are looked at, too."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from wasmrt.device import gpu_known
from wasmrt.device.binary import serialize
from wasmrt.errors import WasmrtError
from wasmrt.gguf.metadata import Value
from wasmrt.gguf.reader import Header, TensorInfo
from wasmrt.model.build import build
from wasmrt.model.verified import VERIFIED
from wasmrt.options import Ref
from wasmrt.program.ops import Program
from wasmrt.store.open import open_model
from wasmrt.store.store import Progress
from wasmrt.tokenizer import from_metadata

SHOWN = 70  # characters of a value in the summary
DEVICES = ("gpu", "cpu")
CHECKED = 1 << 20  # weights that are looked at together
UNVERIFIED = "unverified: no outside truth was compared"


async def describe(ref: Ref) -> dict[str, Any]:
    """Metadata, tensors and verdicts of a file, as plain values for JSON."""
    source, header = await open_model(ref)
    await source.close()
    config, refused = None, dict[str, str]()
    try:
        built = build(header)
        config, refused = built.config, _refused(built.programs)
    except WasmrtError as error:
        refused = dict.fromkeys(DEVICES, str(error))
    devices = [device for device in DEVICES if device not in refused]
    architecture = header.metadata.get("general.architecture")
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
        "runs": bool(devices),
        "why_not": "" if devices else refused["cpu"],
        "devices": devices,
        "refused": refused,
        "architecture_verified": isinstance(architecture, str) and architecture in VERIFIED,
    }


def _refused(programs: Sequence[Program]) -> dict[str, str]:
    """The devices that do not compute these, and why."""
    refused: dict[str, str] = {}
    for device, check in (("gpu", gpu_known.check), ("cpu", _check_cpu)):
        try:
            check(programs)
        except WasmrtError as error:
            refused[device] = str(error)
    return refused


def _check_cpu(programs: Sequence[Program]) -> None:
    for program in dict.fromkeys(programs):
        serialize(program)


async def check_weights(ref: Ref, progress: Progress | None = None) -> dict[str, Any]:
    """Read all weights of a file, some at a time, and look for what is no number: NaN or infinity, in a block's scale too.

    progress is called with (bytes read, bytes in all). Returns how much was checked, which formats could not be, and the first
    tensor that is damaged: {"checked_bytes", "unchecked", "damaged": None or {"tensor", "row", "column", "offset", "value"}}.
    """
    from wasmrt.gguf.quants import DEQUANTIZE

    source, header = await open_model(ref)
    tensors = sorted(header.tensors.values(), key=lambda tensor: tensor.offset)
    known = [tensor for tensor in tensors if tensor.type.id in DEQUANTIZE]
    done, total, damaged = 0, sum(tensor.n_bytes for tensor in known), None
    try:
        for tensor in known:
            step = max(1, CHECKED // tensor.type.block) * tensor.type.block_bytes
            for at in range(0, tensor.n_bytes, step):
                data = bytearray(min(step, tensor.n_bytes - at))
                await source.read_into(tensor.offset + at, memoryview(data))
                damaged = _damage(tensor, data, at)
                done += len(data)
                if progress:
                    progress(done, total)
                if damaged:
                    break
            if damaged:
                break
    finally:
        await source.close()
    unchecked = sorted({tensor.type.name for tensor in tensors} - {tensor.type.name for tensor in known})
    return {"checked_bytes": done, "unchecked": unchecked, "damaged": damaged}


def _damage(tensor: TensorInfo, data: bytearray, at: int) -> dict[str, Any] | None:
    """The first weight of these blocks, which lie `at` bytes into the tensor, that is no number."""
    from wasmrt.gguf.quants import dequantize

    quant = tensor.type
    values = dequantize(quant, data, len(data) // quant.block_bytes, quant.block).ravel()
    if math.isfinite(float(values.min())) and math.isfinite(float(values.max())):  # NaN is both
        return None
    index = next(i for i, value in enumerate(values.tolist()) if not math.isfinite(value))
    row, column = divmod(at // quant.block_bytes * quant.block + index, tensor.row_length)
    offset = tensor.offset + at + index // quant.block * quant.block_bytes
    return {"tensor": tensor.name, "row": row, "column": column, "offset": offset, "value": str(float(values[index]))}


def weights_line(found: dict[str, Any]) -> str:
    """What was found, for a person."""
    damaged = found["damaged"]
    unchecked = f"; not looked at: {', '.join(found['unchecked'])}" if found["unchecked"] else ""
    if not damaged:
        return f"weights: {found['checked_bytes'] / 2**20:.1f} MiB, all of them numbers{unchecked}\n"
    where = f"row {damaged['row']}, column {damaged['column']} (the block at byte {damaged['offset']})"
    return f"weights: tensor {damaged['tensor']!r} has {damaged['value']} at {where}: fetch the file anew, or convert it anew\n"


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


def verdict(found: dict[str, Any]) -> str:
    """Whether the file will run, where, and how far its architecture was checked; or why it will not. One line."""
    if not found["runs"]:
        return f"runs: no, {found['why_not']}"
    but = "".join(f" ({device}: {why})" for device, why in found["refused"].items())
    checked = "verified against llama.cpp's logits" if found["architecture_verified"] else UNVERIFIED
    architecture = found["metadata"]["general.architecture"]
    return f"runs: yes, on {' and '.join(found['devices'])}{but}; architecture {architecture!r} {checked}"


def summary(found: dict[str, Any], tensors: bool = False) -> str:
    """The description as lines for a person."""
    from wasmrt.tokenizer.markers import chat_lines

    lines = [
        f"{found['file']}: GGUF v{found['version']}, {found['file_bytes'] / 2**20:.1f} MiB, header {found['header_bytes']} B",
        f"{found['n_tensors']} tensors, {found['n_parameters']:,} parameters, "
        + ", ".join(f"{count} {name}" for name, count in found["formats"].items()),
        f"tokenizer: {found['tokenizer']}",
        *chat_lines(found["chat"]),
        verdict(found),
        "",
    ]
    for key, value in found["metadata"].items():
        shown = f"[{value['length']}] {value['first']}" if isinstance(value, dict) else repr(value)
        lines.append(f"  {key} = {shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + '...'}")
    if tensors:
        lines += ["", *(f"  {t['name']:40} {t['format']:7} {t['shape']} at {t['offset']}" for t in found["tensors"])]
    return "\n".join(lines) + "\n"

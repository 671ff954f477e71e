"""Split models: one model in several GGUF files, its shards. What they are called, whether they belong together, and as one.

Shard i of n is called <prefix>-<i>-of-<n>.gguf, both numbers with five digits, i from 1. Each has a header of its own, with
split.no (from 0), split.count, and split.tensors.count (over all shards); the first has the model's metadata, the others need
not repeat it. Source: llama.cpp's gguf-split.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.gguf.metadata import Metadata, StringArray, Value, describe, shorten
from wasmrt.gguf.reader import Header, TensorInfo

SHARD = re.compile(r"(.*?)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE | re.DOTALL)
MAX_SHARDS = 1000  # the names allow 99 999, but each is opened; models have some hundred at most


def n_shards(metadata: Metadata) -> int:
    """1 for a model that is not split."""
    return metadata.integer("split.count", default=1, minimum=1, maximum=MAX_SHARDS)


def shard_names(name: str, metadata: Metadata, source_name: str) -> list[str]:
    """The file names of all shards, from the first one's name and metadata.

    Raises UnsupportedError if it is another shard, saying which file to open, or if its name does not tell the others';
    FormatError if name and metadata differ.
    """
    count = n_shards(metadata)
    number = metadata.integer("split.no", minimum=0, maximum=count - 1) + 1
    match = SHARD.fullmatch(name)
    if match is None:
        raise UnsupportedError(
            f"{source_name}: this is shard {number} of {count}, but it is not called ...-{number:05}-of-{count:05}.gguf, which "
            f"would tell the names of the others; give all shards their names back and open the first"
        )
    if (int(match[2]), int(match[3])) != (number, count):
        raise FormatError(
            f"{source_name}: the name says shard {int(match[2])} of {int(match[3])}, the metadata shard {number} of {count}; "
            f"the file was renamed or belongs to another model, fetch it anew"
        )
    names = [f"{name[: match.start(2)]}{i + 1:05}{name[match.end(2) :]}" for i in range(count)]
    if number != 1:
        raise UnsupportedError(f"{source_name}: this is shard {number} of {count}; open the first, {names[0]!r}")
    return names


def check_shard(first: Header, shard: Header, number: int, name: str) -> None:
    """Shard `number` (from 1) belongs to the first one's model, as far as its header shows. Raises FormatError."""
    count = n_shards(first.metadata)
    found = shard.metadata.integer("split.no", minimum=0, maximum=MAX_SHARDS) + 1, n_shards(shard.metadata)
    if found != (number, count):
        raise FormatError(
            f"{name}: the metadata says shard {found[0]} of {found[1]}, it should be shard {number} of {count}; "
            f"the file was renamed or belongs to another model, fetch it anew"
        )
    for key in shard.metadata:
        if key != "split.no" and key in first.metadata and not same(first.metadata[key], shard.metadata[key]):
            raise FormatError(
                f"{name}: {shorten(key)} differs from shard 1's ({describe(shard.metadata[key])}, there "
                f"{describe(first.metadata[key])}); shard {number} belongs to another model, fetch it anew"
            )


def merge(shards: Sequence[Header], bases: Sequence[int], names: Sequence[str]) -> Header:
    """One header for shards that are laid out one behind the other, shard i from bases[i] on. Its metadata is the first one's.

    Raises FormatError for a tensor that is in two shards, and if not all tensors are there.
    """
    tensors: dict[str, TensorInfo] = {}
    shard_of: dict[str, str] = {}
    for header, base, name in zip(shards, bases, names, strict=True):
        for tensor in header.tensors.values():
            if tensor.name in tensors:
                raise FormatError(
                    f"{name}: tensor {tensor.name!r} is also in {shard_of[tensor.name]}; the shards are of different models, "
                    f"fetch them anew"
                )
            tensors[tensor.name] = replace(tensor, offset=base + tensor.offset)
            shard_of[tensor.name] = name
    first = shards[0]
    wanted = first.metadata.integer("split.tensors.count", minimum=0)
    if len(tensors) != wanted:
        raise FormatError(
            f"{names[0]}: the {len(shards)} shards have {len(tensors)} tensors together, should have {wanted}; "
            f"they are not of one model, fetch them anew"
        )
    data_offset = next(
        (base + header.data_offset for header, base in zip(shards, bases, strict=True) if header.tensors), first.data_offset
    )
    alignment = min(header.alignment for header in shards)
    return Header(first.version, first.metadata, tensors, alignment, data_offset, sum(header.n_bytes for header in shards))


def same(a: Value, b: Value) -> bool:
    """Of metadata: also the type is the same."""
    if isinstance(a, StringArray) and isinstance(b, StringArray):
        return len(a) == len(b) and all(x == y for x, y in zip(a, b, strict=True))
    if isinstance(a, memoryview) and isinstance(b, memoryview):
        return a.format == b.format and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b

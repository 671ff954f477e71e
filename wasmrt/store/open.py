"""open_model: the source and the header of a model, which may be one file or the shards of a split one."""

import os
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from wasmrt.errors import SourceError, UnsupportedError
from wasmrt.gguf.reader import Header, HeaderParser
from wasmrt.gguf.split import check_shard, merge, n_shards, shard_names
from wasmrt.options import Ref
from wasmrt.store.source import Source, open_source, path_of_file_url
from wasmrt.store.split import SplitSource

HEADER_READ = 256 << 10  # bytes of the first read; a large vocabulary needs several MiB, read in doubling steps
MAX_HEADER_READ = 4 << 20

# Up to a file's name, that name, and a URL's query.
REMOTE = re.compile(r"((?:hf:|[a-z][a-z0-9+.-]+://)(?:[^?#]*/)?)([^/?#]*)((?:[?#].*)?)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that was opened and of which the header is known. It can be opened again, without reading that again."""

    source: Source
    header: Header


async def open_model(ref: Ref | Opened, cache: bool = True) -> tuple[Source, Header]:
    """Open a model by its file, or by the first file of a split one: the others lie beside it. An Opened stands for itself.

    cache: keep what comes from a URL on this machine's disk. Raises SourceError if a file cannot be had, FormatError or
    UnsupportedError if one is not what it should be. The caller closes the source; on an error nothing stays open.
    """
    if isinstance(ref, Opened):
        return ref.source, ref.header
    async with AsyncExitStack() as opened:
        first = await open_source(ref, cache)
        opened.push_async_callback(first.close)
        header = await read_header(first)
        count = n_shards(header.metadata)
        source: Source = first
        if count > 1:
            located = locate(ref, first)
            names = shard_names(name_of(located), header.metadata, first.name)
            shards, headers = [first], [header]
            for number, name in enumerate(names[1:], 2):
                try:
                    shard = await open_source(sibling(located, name), cache)
                    opened.push_async_callback(shard.close)
                    headers.append(await read_header(shard))
                except SourceError as error:
                    what = f"{first.name}: shard {number} of {count} cannot be had"
                    raise SourceError(f"{what}: {error}", error.transient) from error
                check_shard(header, headers[-1], number, shard.name)
                shards.append(shard)
            source = split = SplitSource(shards)
            header = merge(headers, split.bases, [shard.name for shard in shards])
        opened.pop_all()
    return source, header


async def read_header(source: Source) -> Header:
    """Feed the parser from the start of the file until it has the header; reads little more than that."""
    parser = HeaderParser(source.size, source.name)
    position, step = 0, HEADER_READ
    while parser.header is None and position < source.size:
        n_bytes = min(max(step, parser.wanted if position else 0), MAX_HEADER_READ, source.size - position)
        data = bytearray(n_bytes)
        await source.read_into(position, memoryview(data))
        parser.feed(data)
        position += n_bytes
        step *= 2
    return parser.finish()


def locate(ref: Ref, source: Source) -> Path | str:
    """A local file's path, or a reference that ends in the file's own name: what is beside it can be named by that."""
    if hasattr(ref, "read_into"):
        ref = source.name
    if not isinstance(ref, str | os.PathLike):
        raise UnsupportedError(
            f"{source.name}: this is one of several shards, and the others cannot be found from memory; give the first's path"
        )
    if isinstance(ref, str) and ref[:3].lower() == "hf:" and not ref.lower().endswith(".gguf"):
        ref = source.name  # the file that was chosen from the repository
    if isinstance(ref, str) and ref[:7].lower() == "file://":
        return Path(path_of_file_url(ref))
    return ref if isinstance(ref, str) and REMOTE.fullmatch(ref) else Path(os.fsdecode(ref))


def name_of(located: Path | str) -> str:
    return located.name if isinstance(located, Path) else _parts(located)[1]


def sibling(located: Path | str, name: str) -> Path | str:
    """What another file in the same folder is referred to by. A URL keeps its query."""
    if isinstance(located, Path):
        return located.with_name(name)
    before, _, after = _parts(located)
    return before + name + after


def _parts(ref: str) -> tuple[str, str, str]:
    """What stands before a file's name, that name, and what stands after it."""
    match = REMOTE.fullmatch(ref)
    assert match
    return match[1], match[2], match[3]

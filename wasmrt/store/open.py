"""read_header: the header of a GGUF file behind a source."""

from wasmrt.gguf.reader import Header, HeaderParser
from wasmrt.store.source import Source

HEADER_READ = 256 << 10  # bytes of the first read; a large vocabulary needs several MiB, read in doubling steps
MAX_HEADER_READ = 4 << 20


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

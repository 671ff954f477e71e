"""Past 2**32 in a page: tensors in a file, and addresses of weights in memory. What is large is empty, so this is quick."""

import struct
import sys

import pytest

import wasmrt
from tests.browser.server import Site
from tests.gguf_files import write_llama
from wasmrt.gguf.reader import parse_header

pytestmark = pytest.mark.usefixtures("cpu")
chromium = pytest.mark.parametrize("browser", ["chromium"], indirect=True)

PROMPT, N_TOKENS = [3, 4, 5, 6, 7], 24
FAR = 1 << 32
FAR_CONTEXT = 12 << 20  # positions whose cache takes 6 GiB, of which a short text touches almost nothing
STRADDLES = "blk.1.attn_q.weight"

OPEN = """
import { open } from "/wasmrt.js";
export default async ({ prompt, n, options }) => {
  const model = await open("/models/far.gguf", { device: "cpu", cache: false, ...options });
  const text = model.generate(prompt, { maxTokens: n });
  for await (const piece of text) { /* its tokens are wanted */ }
  await model.close();
  return { tokens: text.tokens, plan: model.plan };
};
"""

ADDRESSES = """
import js, wasmrt
js.wasmrtScripts = js.location.origin + "/"
model = await wasmrt.open(url, device="cpu", threads=threads, context=context, memory="8GiB")
text = model.generate(prompt, max_tokens=n)
[piece async for piece in text]
least = min(bound.table[i] for bound in model._bounds for i in range(len(bound.table)))
found = [text.tokens, model._memory.build, least]
await model.close()
found
"""

RUN = """
import { runPython } from "/remote/python.js";
export default ({ text, wheels, globals }) => runPython(text, { wheels, globals });
"""


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """A small model, said to be good for a long context."""
    return write_llama(tmp_path_factory.mktemp("models") / "near.gguf", changes={"context_length": FAR_CONTEXT})


@pytest.fixture(scope="module")
def want(near):
    with wasmrt.load(near, device="cpu", context=64) as model:
        text = model.generate(PROMPT, max_tokens=N_TOKENS)
        list(text)
        return text.tokens


def write_far(near, path):
    """The same model with a hole before STRADDLES, which lies across 2**32 then, and other tensors after it."""
    data = bytearray(near.read_bytes())
    tensors = parse_header(bytes(data)).tensors
    first = tensors[STRADDLES]
    hole = FAR - first.offset - first.n_bytes // 2 & -32
    far = [name for name, tensor in tensors.items() if tensor.offset >= first.offset]
    for name in far:
        key = struct.pack("<Q", len(name)) + name.encode()
        info = data.index(key) + len(key)
        dims = int.from_bytes(data[info : info + 4], "little")
        at = info + 4 + 8 * dims + 4  # of the offset: after the number of dimensions, these, and the type
        struct.pack_into("<Q", data, at, int.from_bytes(data[at : at + 8], "little") + hole)
    with path.open("wb") as file:
        file.write(data[: first.offset])
        file.seek(first.offset + hole)
        file.write(data[first.offset :])
    moved = parse_header(bytes(data[: first.offset]), path.stat().st_size).tensors
    assert moved[STRADDLES].offset < FAR < moved[STRADDLES].end
    assert sum(moved[name].offset > FAR for name in far) == len(far) - 1 > 5
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="files are not sparse there unless asked: this one has 4 GiB")
@pytest.mark.parametrize("memory", [None, 750_000], ids=["resident", "streamed"])
def test_tensors_past_4_gib_of_a_file(kept_page, site: Site, near, want, tmp_path, memory):
    site.models["far.gguf"] = write_far(near, tmp_path / "far.gguf")
    options = {"context": 64, **({"memory": memory} if memory else {})}
    found = kept_page.run(OPEN, prompt=PROMPT, n=N_TOKENS, options=options)
    assert found["tokens"] == want
    assert bool(found["plan"]["streamed_bytes"]) == bool(memory)
    ranges = [asked for _, path, asked in site.requests if path == "/models/far.gguf" and asked]
    assert any(int(asked.removeprefix("bytes=").split("-")[0]) > FAR for asked in ranges)


@chromium
@pytest.mark.skipif(sys.platform == "win32", reason="files are not sparse there unless asked: this one has 4 GiB")
def test_what_lies_past_4_gib_is_kept_on_disk(page, site: Site, near, want, tmp_path):
    """The second time no weights are asked for."""
    site.models["far.gguf"] = write_far(near, tmp_path / "far.gguf")
    for times in range(2):
        before = len(site.requests)
        found = page.run(OPEN, prompt=PROMPT, n=N_TOKENS, options={"context": 64, "cache": True})
        assert found["tokens"] == want
        ranges = [asked for _, path, asked in site.requests[before:] if path == "/models/far.gguf"]
        assert len(ranges) <= 1 if times else len(ranges) > 1, ranges


@chromium
@pytest.mark.parametrize("threads", [1, 2])
def test_weights_past_4_gib_of_memory(kept_page, site: Site, near, want, threads):
    """The cache comes before the weights in memory, and takes addresses beyond 32 bits."""
    site.models["near.gguf"] = near
    wheels = [f"/pyodide/{wheel.name}" for wheel in sorted(site.folder.glob("pyodide/*.whl"))]
    given = {"url": site.url("/models/near.gguf"), "threads": threads, "context": FAR_CONTEXT, "prompt": PROMPT, "n": N_TOKENS}
    tokens, build, least = kept_page.run(RUN, text=ADDRESSES, wheels=wheels, globals=given)
    assert tokens == want
    assert build == "wasm64"
    assert least > FAR

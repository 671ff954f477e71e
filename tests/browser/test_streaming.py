"""A model three times larger than its budget in a page, from a server and from a File: the ids of the resident model, in the
memory that was promised, with the reads that it lacks."""

import pytest

import wasmrt
from tests.browser.server import Site
from tools.make_test_model import Shape, write_model

pytestmark = [pytest.mark.usefixtures("cpu"), pytest.mark.parametrize("browser", ["chromium"], indirect=True)]

# Activations and cache take 6 MB whatever there is of weights: so these are 25 MB.
SHAPE = Shape(256, 24, 4, 2, 64, 1024, 512, 512)
CONTEXT, N_TOKENS, PROMPT = 64, 6, [3, 4, 5, 6, 7]
KERNELS = 2 * 65536  # what a memory has besides: the kernels' own data and stack
MOST_READ = 1.05

PYTHON = """
import js, wasmrt
js.wasmrtScripts = js.location.origin + "/"

ref = url
if kind == "File":  # as an <input> gives it
    parts = js.Array.new(await (await js.fetch(url)).blob())
    ref = js.File.new(parts, "chosen.gguf")
model = await wasmrt.open(ref, device="cpu", threads=2, context=context, memory=budget, draft=0, cache=kind == "cached URL")
text = model.generate(prompt, max_tokens=n_tokens)
await anext(text)
first = model.stats
[piece async for piece in text]
last = model.stats
found = {
    "tokens": text.tokens,
    "size": model._source.size,
    "memory": model._memory.js.memory.buffer.byteLength,
    "planned": model.plan.total_bytes,
    "bound": model.plan.bytes_bound,
    "ring": model.plan.staging_bytes,
    "high_water": last.store["high_water_bytes"],
    "bytes_per_pass": (last.store["bytes_read"] - first.store["bytes_read"]) / (last.passes - first.passes),
}
await model.close()
found
"""

RUN = """
import { runPython } from "/remote/python.js";
export default ({ text, wheels, globals }) => runPython(text, { wheels, globals });
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "deep.gguf"
    write_model(path, "deep", "Q8_0", shape=SHAPE)
    return path


@pytest.fixture(scope="module")
def want(model):
    with wasmrt.load(model, device="cpu", context=CONTEXT) as resident:
        text = resident.generate(PROMPT, max_tokens=N_TOKENS)
        list(text)
        return text.tokens


@pytest.mark.parametrize("kind", ["URL", "cached URL", "File"])
def test_a_third_of_the_model_in_memory(kept_page, site: Site, model, want, kind):
    site.models["deep.gguf"] = model
    budget = model.stat().st_size // 3
    wheels = [f"/pyodide/{wheel.name}" for wheel in sorted(site.folder.glob("pyodide/*.whl"))]
    given = {"url": site.url("/models/deep.gguf"), "kind": kind, "budget": budget, "context": CONTEXT, "prompt": PROMPT,
             "n_tokens": N_TOKENS}  # fmt: skip
    found = kept_page.run(RUN, text=PYTHON, wheels=wheels, globals=given)
    assert found["size"] == model.stat().st_size >= 3 * budget
    assert found["tokens"] == want
    assert found["planned"] <= budget
    assert found["memory"] <= budget + KERNELS + 65536  # in whole pages
    assert found["high_water"] < budget
    assert 0 < found["bound"] < found["size"]
    # In so small a budget the room that reading ahead takes counts.
    assert found["bytes_per_pass"] <= MOST_READ * (found["bound"] + found["ring"])

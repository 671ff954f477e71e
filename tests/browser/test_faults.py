"""What goes wrong under a model in a page: the ids of an undisturbed run in the end, or a typed error in bounded time."""

import pytest

import wasmrt
from tests.conftest import ROOT
from tests.range_server import Fault, RangeServer

PROMPT, N_TOKENS = "Once upon a time", 24

both = pytest.mark.parametrize("browser", ["chromium", "firefox"], indirect=True)
every = pytest.mark.parametrize("browser", ["chromium", "firefox", "webkit"], indirect=True)

EXPOSED = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Content-Range, ETag"}

PRELUDE = """
import asyncio, js
js.wasmrtScripts = js.location.origin + "/"
import wasmrt
from wasmrt import browser
from wasmrt.device import choice

async def ids_of(model, prompt=prompt, n=n_tokens, then=None):
    generation = model.generate(prompt, max_tokens=n)
    async for _ in generation:
        if then is not None and len(generation.tokens) >= 4:
            what, then = then, None
            what()
    return list(generation.tokens)

async def told(work):
    try:
        return await work
    except wasmrt.WasmrtError as error:
        return [type(error).__name__, str(error)]
"""

RUN = """
import { runPython } from "/remote/python.js";
export default async ({ text, wheels, where, globals, prepare }) => {
  globalThis.wasmrtImport = (url) => import(url);
  if (prepare === "no GPU") Object.defineProperty(Navigator.prototype, "gpu", { value: undefined, configurable: true });
  return await runPython(text, { where, wheels, globals });
};
"""


@pytest.fixture(scope="module")
def demo():
    return ROOT / "wasmrt" / "data" / "demo.gguf"


@pytest.fixture(scope="module")
def want(demo, request):
    request.getfixturevalue("cpu")
    return natively(demo, "cpu")


def natively(demo, device):
    with wasmrt.load(demo, device=device) as model:
        return tokens_of(model, PROMPT, N_TOKENS)


def tokens_of(model, prompt, n):
    generation = model.generate(prompt, max_tokens=n)
    list(generation)
    return list(generation.tokens)


def switched(demo, on_gpu):
    """What a text may be that the CPU goes on with, four tokens after it began at the soonest."""
    with wasmrt.load(demo, device="cpu") as model:
        ids = tokenized(model)
        return [on_gpu[:n] + tokens_of(model, ids + on_gpu[:n], N_TOKENS - n) for n in range(4, N_TOKENS)]


def tokenized(model):
    """The prompt as generate() takes it."""
    return model.tokenize(PROMPT, model.tokenizer.add_bos)


@pytest.fixture
def python(page, site, demo):
    """Runs Python's text in the page, where `url` is the demo model's."""
    site.models["demo.gguf"] = demo
    folder = ROOT / "build" / "web" / "pyodide"
    wheels = [f"/pyodide/{path.name}" for path in sorted(folder.glob("*.whl"))]

    def run(text, where="worker", prepare="", seconds=90, **names):
        names = {"url": site.url("/models/demo.gguf"), "prompt": PROMPT, "n_tokens": N_TOKENS, **names}
        return page.run(RUN, text=PRELUDE + text, wheels=wheels, where=where, globals=names, prepare=prepare, seconds=seconds)

    return run


@both
def test_a_thread_that_ends_is_noticed(python, want):
    """A run that waits for it becomes an error after some seconds, and the model can be opened again."""
    got = python("""
model = await wasmrt.open(url, device="cpu", threads=2)
model.device._host._js.workers[1].terminate()  # which a browser may let run on for seconds

async def until_it_fails():
    while True:
        await ids_of(model, n=200)

first = await told(asyncio.wait_for(until_it_fails(), 60))
await model.close()
async with await wasmrt.open(url, device="cpu", threads=2) as model:
    again = await ids_of(model)
[first, again]
""")
    assert got[0][0] == "DeviceError"
    assert "thread" in got[0][1]
    assert got[1] == want


LOSE = """
from dataclasses import replace
from wasmrt.device import gpu_browser
there = gpu_browser.adapters
gpu_browser.adapters = lambda: [replace(adapter, software=False) for adapter in there()]
async with await wasmrt.open(url, device=device, context=128) as model:
    used, before = model.device.name, await ids_of(model)
    ids = await told(ids_of(model, prompt=begin, then=lambda: model.device.host._js.device.destroy()))
    result = [used, model.device.name, before, ids]
gpu_browser.adapters = there
result
"""


@pytest.mark.usefixtures("gpu")
@both
def test_a_lost_gpu_is_replaced_by_the_cpu(python, demo):
    """Device "auto" goes on with the text. The devices round differently: ids are those of the GPU up to some token, then the
    CPU's."""
    used, now, before, ids = python(LOSE, device="auto", begin=PROMPT, seconds=240)
    assert (used, now) == ("gpu", "cpu")
    assert before == natively(demo, "gpu")
    assert ids in switched(demo, before)


@pytest.mark.parametrize("browser", ["firefox"], indirect=True)  # where shaders compile sooner
def test_a_lost_gpu_that_was_asked_for_is_an_error(python):
    used, now, _, (kind, message) = python(LOSE, device="gpu", begin=PROMPT, seconds=240)
    assert (used, now, kind) == ("gpu", "gpu", "DeviceError")
    assert "took the GPU away" in message


@both
def test_without_webgpu_the_cpu_computes(python, want):
    got = python("""
refused = await told(wasmrt.open(url, device="gpu"))
model = await wasmrt.open(url)
result = [refused, model.device.name, await ids_of(model)]
await model.close()
result
""", where="main", prepare="no GPU")
    assert got[0][0] == "DeviceError"
    assert "WebGPU" in got[0][1]
    assert got[1:] == ["cpu", want]


class Server(RangeServer):
    def __init__(self, path):
        super().__init__(path)
        self.headers.update(EXPOSED | {"Cross-Origin-Resource-Policy": "cross-origin"})


@every
@pytest.mark.parametrize("faults", [
    [Fault(), Fault(cut=1000, reset=True), Fault(cut=5000), Fault(no_answer=True), Fault(status=503)],
    [Fault()] + [Fault(no_answer=True)] * 5,
], ids=["cut", "away"])
def test_a_link_that_fails_for_a_while_costs_only_time(python, want, demo, faults):
    """Ranges are asked for again from where they broke off, also of a model that streams."""
    with Server(demo) as server:
        server.faults.extend(faults)
        got = python("""
model = await wasmrt.open(url, device="cpu", memory=memory, cache=False)
result = [await ids_of(model), model.plan.streams]
await model.close()
result
""", url=server.url, memory="9MiB")
    assert got == [want, True]


@every
def test_a_file_that_changes_is_an_error(python, demo):
    with Server(demo) as server:
        python("""
model = await wasmrt.open(url, device="cpu", memory=memory, cache=False)
await ids_of(model)
kept = model
None
""", url=server.url, memory="9MiB")
        server.put(demo.read_bytes())  # under another ETag
        got = python("await told(ids_of(kept, prompt='The little dog'))")
        python("await kept.close()")
    assert got[0] == "SourceError"
    assert "changed" in got[1]


@every
def test_cancelling_leaves_nothing_behind(python, want):
    """Opening, prefill and generation are broken off at any moment; what follows is as if they had not been."""
    got = python("""
for seconds in (0, 0.001, 0.01, 0.05):
    task = asyncio.ensure_future(wasmrt.open(url, device="cpu", cache=False))
    await asyncio.sleep(seconds)
    task.cancel()
    try:
        await (await task).close()
    except asyncio.CancelledError:
        pass
model = await wasmrt.open(url, device="cpu", cache=False)
for seconds in (0, 0.005, 0.02, 0.05):
    task = asyncio.ensure_future(ids_of(model, prompt=list(range(3, 200)), n=50))
    await asyncio.sleep(seconds)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
result = await ids_of(model)
await model.close()
result
""")
    assert got == want


@every
def test_errors_are_typed(python):
    got = python("""
[await told(wasmrt.open(url + "-not-there", device="cpu")), await told(wasmrt.open(url, device="cpu", memory="1MiB")),
 await told(wasmrt.open(url, device="reference")), await told(wasmrt.open(url, device="cpu", context=10**9))]
""")
    assert [kind for kind, _ in got] == ["SourceError", "BudgetError", "DeviceError", "ContextFull"]
    assert all("\n" not in message for _, message in got)

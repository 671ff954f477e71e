"""Models opened and closed again and again leave nothing: no workers, memories or GPU buffers, and the browser does not grow.

Workers and memories are counted from outside, as threads and mappings of Chromium's processes: nothing in the page helps.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.browser.conftest import Engine
from tests.browser.server import Site
from tests.conftest import skip_or_fail
from wasmrt.resources import demo_model

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="threads and mappings are read from /proc"),
    pytest.mark.parametrize("browser", ["chromium"], indirect=True),
]

EARLY, LATE = 5, 20  # cycles
MOST_GROWTH = 0.1  # of the browser's memory from then to then
PAGE, KERNELS = 65536, 2 * 65536
SETTLE_SECONDS = 60.0  # a thread that was told to stop is ended a second later, or when a busy browser comes to it

# Another model stays open, or the engine's worker would end with each, and with it whatever was forgotten in it.
OPEN = """
import { open } from "/wasmrt.js";
export default async ({ device, n }) => {
  globalThis.kept ??= await open("/models/demo.gguf", { device: "cpu", threads: 1, context: 96 });
  globalThis.model = await open("/models/demo.gguf", { device, threads: 2 });
  for await (const piece of model.generate("Once", { maxTokens: n })) { /* so that all of it has run */ }
  return model.plan.total_bytes;
};
"""
CLOSE = "await globalThis.model.close()"

# On the page's main thread, where the test can look at what WebGPU is asked for.
GPU = """
import js, wasmrt
js.wasmrtScripts = js.location.origin + "/"

async def opened(context):
    model = await wasmrt.open(url, device="gpu", context=context)
    [piece async for piece in model.generate("Once", max_tokens=2)]
    return model

kept = await opened(96)
found = [js.liveBuffers.size]
for _ in range(cycles):
    model = await opened(64)
    while_open = js.liveBuffers.size
    await model.close()
    found.append(js.liveBuffers.size)
await kept.close()
[found, while_open, js.liveBuffers.size]
"""

RUN_GPU = """
import { runPython } from "/remote/python.js";
globalThis.wasmrtImport = (url) => import(url);
const live = (globalThis.liveBuffers = new Set());
const { createBuffer } = GPUDevice.prototype, { destroy } = GPUBuffer.prototype;
GPUDevice.prototype.createBuffer = function (...given) {
  const buffer = createBuffer.apply(this, given);
  live.add(buffer);
  return buffer;
};
GPUBuffer.prototype.destroy = function () {
  live.delete(this);
  destroy.call(this);
};
export default ({ text, wheels, globals }) => runPython(text, { wheels, globals, where: "main" });
"""

# Whoever has closed a model may go on holding it, as a notebook does.
HELD = """
import js, wasmrt
js.wasmrtScripts = js.location.origin + "/"
closed = globals().get("closed", [])
async with await wasmrt.open(url, device="cpu", threads=1, context=80) as model:
    closed.append(model)
model.plan.total_bytes
"""
RUN_HELD = """
import { runPython } from "/remote/python.js";
globalThis.wasmrtImport = (url) => import(url);
export default ({ text, wheels, globals }) => runPython(text, { wheels, globals, where: "main" });
"""


def workers() -> int:
    return lines("task/*/comm").count("DedicatedWorker")


def memories(n_bytes: int) -> int:
    """WebAssembly memories of exactly this size: what lies around each is not accessible, so each is a mapping of its own."""
    mappings = [line.split()[:2] for line in lines("maps")]
    spans = [[int(end, 16) for end in span.split("-")] for span, rights in mappings if rights.startswith("rw")]
    return sum(end - start == n_bytes for start, end in spans)


def lines(pattern: str) -> list[str]:
    """Of files in /proc, of all processes that we have started: of other browsers nothing here is counted."""
    found = []
    for process in psutil.Process().children(recursive=True):
        for path in Path(f"/proc/{process.pid}").glob(pattern):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends meanwhile
                found += path.read_text().splitlines()
    return found


def settled(count: Callable[[], int], wanted: int) -> int:
    """The count, once it is as wanted, or at last."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := count()) > wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@pytest.mark.usefixtures("cpu")
def test_cycles_leave_no_workers_and_memories(browser: Engine, site: Site):
    site.models["demo.gguf"] = demo_model()
    browser.close_browser()  # a page of other tests may be kept for going back to it, with its workers
    page = browser.open()

    def cycle() -> int:
        """Memories of this size while the model is open. Those of closed ones go when the engine next collects its garbage."""
        n_bytes = KERNELS + -(-page.run(OPEN, device="cpu", n=2) // PAGE) * PAGE
        found = memories(n_bytes)
        page.run(CLOSE)
        return found

    def cycles(n: int) -> tuple[int, list[int], int]:
        found = [cycle() for _ in range(n)]
        while min(found) > 1 and len(found) < n + LATE:
            found.append(cycle())
        return settled(workers, 3), found, browser.rss()

    early, late = cycles(EARLY), cycles(LATE - EARLY)
    # The engine's own worker, and the kept model's: a thread that computes and one that reads.
    assert early[0] == late[0] == 3
    assert min(early[1]) == min(late[1]) == 1, (early, late)
    assert late[2] < (1 + MOST_GROWTH) * early[2]
    page.run("await globalThis.kept.close()")
    assert settled(workers, 0) == 0


def test_cycles_leave_nothing_on_the_gpu(browser: Engine, site: Site):
    site.models["demo.gguf"] = demo_model()
    page = browser.open()
    if not page.run("return navigator.gpu ? Boolean(await navigator.gpu.requestAdapter()) : false"):
        skip_or_fail("gpu", "Chromium has no WebGPU here")
    wheels = [f"/pyodide/{wheel.name}" for wheel in sorted(site.folder.glob("pyodide/*.whl"))]
    given = {"url": site.url("/models/demo.gguf"), "cycles": LATE}
    found, while_open, at_last = page.run(RUN_GPU, text=GPU, wheels=wheels, globals=given, seconds=300)
    assert 0 < found[0] == found[EARLY] == found[LATE] < while_open
    assert at_last == 0


@pytest.mark.usefixtures("cpu")
def test_a_closed_model_that_is_still_held_has_no_memory(browser: Engine, site: Site):
    site.models["demo.gguf"] = demo_model()
    page = browser.open()
    wheels = [f"/pyodide/{wheel.name}" for wheel in sorted(site.folder.glob("pyodide/*.whl"))]
    found = []
    for _ in range(LATE):
        n_bytes = page.run(RUN_HELD, text=HELD, globals={"url": site.url("/models/demo.gguf")}, wheels=wheels)
        found.append(memories(KERNELS + -(-n_bytes // PAGE) * PAGE))
    assert min(found[LATE // 2 :]) <= LATE // 2, found  # if it had: one more each time. Seen: 5, as garbage is collected late

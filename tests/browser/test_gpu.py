"""WebGPU in a page: web/gpu.js by itself, and the GPU device on it in Pyodide.

Models on it are compared with the truth in test_parity.py, shaders with what compilers take in test_shaders.py.
"""

import pytest

from tests.browser.conftest import Page
from tests.conftest import skip_or_fail
from tools.make_test_model import Shape, write_model
from wasmrt.resources import demo_model

both = pytest.mark.parametrize("browser", ["chromium", "firefox"], indirect=True)

# A host, a shader that adds a number to each word, and a way to catch errors.
START = """
const { find, GpuHost, counts, release } = await import("/gpu.js");
const { Memory } = await import("/memory.js");
const caught = async (f) => {
  try { await f(); return null; } catch ({ kind, message }) { return { kind, message }; }
};
const moment = () => new Promise((resolve) => setTimeout(resolve, 20));
const BINDINGS = JSON.stringify([[0, "write"]]);
const code = (body) => `override BY: u32 = 1;
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { ${body} }`;
const ADD = code("y[id.x] += BY;");
const NONE = new Float64Array(), GONE = new Uint32Array();
function adder(host, n, by) {
  const words = host.buffer(4 * n, "storage"), staging = host.buffer(4 * n, "read");
  const group = host.group(BINDINGS, Float64Array.of(words, 0, 4 * n));
  const step = [host.pipeline("add", ADD, BINDINGS, JSON.stringify({ BY: by })), group, n / 64, 1, 1];
  const copies = Float64Array.of(words, 0, staging, 0, 4 * n);
  return { words, staging, step, copies, read: async () => new Uint32Array((await host.fetch(staging, 4 * n)).buffer) };
}
await find();
const host = new GpuHost("high-performance");
"""


@pytest.fixture
def gpu_page(page: Page) -> Page:
    found = page.run("const { find } = await import('/gpu.js'); return await find()")
    if not found["adapters"]:
        skip_or_fail("gpu", f"{page.engine}: {found['why']}")
    return page


@both
def test_dispatches_are_replayed_in_order(gpu_page):
    got = gpu_page.run(START + """
    const a = adder(host, 128, 1), b = adder(host, 128, 1000);
    const both = [...a.step, ...b.step.with(1, a.step[1])]; // b's shader, on a's words
    host.replay(Uint32Array.from([...both, ...both, ...a.step]), a.copies, GONE);
    return [await a.read(), await a.read(), counts()];
    """)
    assert set(got[0]) == set(got[1]) == {2003}
    assert (got[2]["hosts"], got[2]["buffers"], got[2]["bytes"]) == (1, 4, 2048)


@both
def test_numbers_of_what_went_are_given_again(gpu_page):
    got = gpu_page.run(START + """
    const first = [1, 2, 3].map(() => host.buffer(64, "storage"));
    host.free(first[1]);
    const again = host.buffer(128, "storage");
    const groups = [1, 2].map(() => host.group(BINDINGS, Float64Array.of(again, 0, 128)));
    host.replay(new Uint32Array(), NONE, Uint32Array.of(groups[0]));
    const next = host.group(BINDINGS, Float64Array.of(again, 0, 128));
    await host.done();
    return { same: again === first[1], group: next === groups[0], counts: counts() };
    """)
    assert got["same"]
    assert got["group"]
    assert (got["counts"]["buffers"], got["counts"]["bytes"]) == (3, 256)


@both
@pytest.mark.parametrize(
    ("wrong", "message"),  # of write() by a later wait
    [
        ('host.pipeline("wrong", code("y[id.x] = nothing;"), BINDINGS, "{}")', "the shader wrong does not compile"),
        ('host.pipeline("other", ADD, JSON.stringify([[0, "read"]]), "{}")', "the shader other does not compile"),
        ('host.group(BINDINGS, Float64Array.of(a.words, 0, 1 << 20))', "takes no such bindings"),
        ('host.buffer(host.device.limits.maxBufferSize + 4, "storage")', "no room"),
        ("host.write(a.words, 1 << 20, new Uint8Array(4)); await host.done().then(moment)", "refuses what it was given"),
        ("host.replay(GONE, Float64Array.of(a.words, 0, a.staging, 0, 1 << 20), GONE)", "does not compute"),
    ],
)
def test_what_webgpu_refuses_is_told_by_a_wait(gpu_page, wrong, message):
    """Once; then the host goes on."""
    got = gpu_page.run(START + """
    const a = adder(host, 64, 1);
    const told = await caught(async () => { WRONG; await host.done(); });
    host.replay(Uint32Array.from(a.step), a.copies, GONE);
    return [told, await a.read()];
    """.replace("WRONG", wrong))
    assert got[0]["kind"] == "DeviceError"
    assert message in got[0]["message"]
    assert set(got[1]) == {1}


@both
def test_a_shader_that_does_not_compile_is_refused_again(gpu_page):
    """And one that does is compiled once for all hosts."""
    got = gpu_page.run(START + """
    const wrong = () => { host.pipeline("wrong", code("nothing"), BINDINGS, "{}"); return host.done(); };
    const refused = [await caught(wrong), await caught(wrong)];
    const other = new GpuHost("high-performance");
    const kept = [host, other].map((h) => h.pipelines.items[h.pipeline("add", ADD, BINDINGS, "{}")]);
    other.close();
    return { refused, same: kept[0] === kept[1], others: host.shared.pipelines.size };
    """)
    assert all(error and "wrong does not compile" in error["message"] for error in got["refused"])
    assert got["same"]
    assert got["others"] == 1


@both
def test_a_lost_device_fails_all_waits_and_calls_and_is_found_again(gpu_page):
    got = gpu_page.run(START + """
    const a = adder(host, 64, 1), other = new GpuHost("high-performance");
    host.replay(Uint32Array.from(a.step), a.copies, GONE);
    host.device.destroy();
    const told = [await caught(() => host.fetch(a.staging, 256)), await caught(() => other.done())];
    await host.device.lost;
    told.push(await caught(() => host.write(a.words, 0, new Uint8Array(4))), await caught(() => other.buffer(4, "storage")));
    const late = counts();
    host.close();
    await find();
    const third = new GpuHost("high-performance"), c = adder(third, 64, 3);
    third.replay(Uint32Array.from(c.step), c.copies, GONE);
    return { told, late, words: await c.read(), new: third.device !== host.device };
    """)
    assert [error["kind"] for error in got["told"]] == 4 * ["DeviceError"]
    assert all("took the GPU away" in error["message"] for error in got["told"][2:])
    assert got["late"] == {"devices": 0, "hosts": 0, "buffers": 0, "bytes": 0}
    assert set(got["words"]) == {3}
    assert got["new"]


@both
def test_closing_ends_a_wait_and_leaves_the_others(gpu_page):
    got = gpu_page.run(START + """
    const a = adder(host, 64, 1), other = new GpuHost("high-performance"), b = adder(other, 64, 2);
    host.replay(Uint32Array.from(a.step), a.copies, GONE);
    other.replay(Uint32Array.from(b.step), b.copies, GONE);
    const gone = host.buffers.items[a.words];
    const waits = [caught(() => host.fetch(a.staging, 256)), caught(() => host.done())];
    host.close();
    host.close();
    const words = await b.read(), told = await Promise.all(waits), before = counts();
    other.device.pushErrorScope("validation");
    other.queue.writeBuffer(gone, 0, new Uint8Array(4));
    const destroyed = await other.device.popErrorScope() !== null;
    other.close();
    const kept = counts().devices;
    release();
    return { told, words, before, kept, destroyed, after: counts() };
    """)
    assert all(error == {"kind": "DeviceError", "message": "the device was closed"} for error in got["told"])
    assert set(got["words"]) == {2}
    assert (got["before"]["hosts"], got["before"]["buffers"], got["kept"], got["destroyed"]) == (1, 2, 1, True)
    assert got["after"] == {"devices": 0, "hosts": 0, "buffers": 0, "bytes": 0}


@both
@pytest.mark.parametrize(("build", "address"), [("plain", 1 << 20), ("wasm32", 3 << 30), ("wasm64", (5 << 30) + 64)])
def test_weights_go_straight_from_the_store(gpu_page, build, address):
    """Shared memory or not, on either side of what 32 bits reach."""
    got = gpu_page.run(START + """
    const memory = new Memory(args.build, args.address + 4096), a = adder(host, 64, 5);
    new Uint32Array(memory.memory.buffer, args.address, 64).forEach((_, i, words) => (words[i] = 7 * i));
    host.writeFrom(a.words, 0, memory, args.address, 256);
    host.replay(Uint32Array.from(a.step), a.copies, GONE);
    const words = await a.read();
    memory.close();
    return words;
    """, build=build, address=address)
    assert got.tolist() == [7 * i + 5 for i in range(64)]


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)
def test_a_browser_without_webgpu_says_so(page):
    got = page.run("""
    Object.defineProperty(navigator, "gpu", { value: undefined });
    const { find } = await import("/gpu.js");
    return await find();
    """)
    page.close()  # others would keep it
    assert got == {"adapters": [], "why": "this browser has no WebGPU (navigator.gpu is missing)"}


# In Pyodide

PYTHON = """
import { runPython } from "/remote/python.js";
export default ({ text, wheels, globals }) => runPython(text, { wheels, globals });
"""
PRELUDE = """
import js
js.wasmrtScripts = f"{js.location.origin}/"
from wasmrt import browser
from wasmrt.device import gpu_browser
await browser.load("memory", "cpu", "gpu")
await gpu_browser.find()
"""


def python(page: Page, site, text: str, seconds: float = 300, **given):
    """Run Python's text in a worker of the page, with the page's own wheels."""
    wheels = [f"/pyodide/{wheel.name}" for wheel in sorted(site.folder.glob("pyodide/*.whl"))]
    return page.run(PYTHON, text=PRELUDE + text, wheels=wheels, globals=given, seconds=seconds)


@pytest.fixture
def python_page(kept_page, site):
    found = python(kept_page, site, "gpu_browser.why_none() if not gpu_browser.adapters() else ''")
    if found:
        skip_or_fail("gpu", f"{kept_page.engine}: {found}")
    return kept_page


@both
def test_adapters(python_page, site):
    [first, *_] = python(python_page, site, """
[dict(name=a.name, software=a.software, backend=a.backend, binding=a.limits.binding, features=list(a.features))
 for a in gpu_browser.adapters()]
""")
    assert first["name"]
    assert first["backend"] == "WebGPU"
    assert first["binding"] >= 128 << 20
    assert set(first["features"]) <= {"subgroups", "f16", "timestamps"}
    assert first["software"]  # in CI; on a machine with a GPU its own browser would not be told to imitate one


CANARY = """
from wasmrt.device import canary
from wasmrt.device.gpu import GpuDevice
from wasmrt.program.fuse import fuse
from wasmrt.store.memory import HostMemory
[adapter, *_] = gpu_browser.adapters()
cases = [case for name, case in canary.CASES.items() if not names or name in names]
device = GpuDevice(gpu_browser.PageHost(adapter), HostMemory(1), f16_cache)
programs = [*(fuse(case.program(), whole=True) for case in cases), canary._rows_program()]
bounds = canary.bind(device, programs, [*(case.tensors for case in cases), {}])
found = {}
for case, bound in zip(cases, bounds):
    found[case.name] = canary.worst(canary.digest(await canary.result(device, bound)), case.truth())
chosen = await canary._choosing(device, bounds[-1])
device.close()
[found, chosen]
"""
# In Chromium's software adapter a shader takes half a second to compile; all formats are in Firefox.
SOME = ["embed F32", "embed Q4_K", "matmul Q4_K", "matmul Q6_K", "expert_matmul Q8_0", "rms_norm", "rope_kv halves", "qkv",
        "gate_up", "matmul_add", "expert_mul", "causal_conv"]  # fmt: skip
# Worst seen: 5.4e-13, and 3.8e-7 with a cache in f16.
CANARY_BOUNDS = {False: 5.4e-12, True: 3.8e-6}


@both
@pytest.mark.parametrize("f16_cache", [False, True])
def test_all_ops_compute_what_they_should(python_page, site, f16_cache):
    names = SOME if python_page.engine == "chromium" else []
    names = ["attention", "rope_kv halves", "embed F32"] if f16_cache else names
    errors, chosen = python(python_page, site, CANARY, names=names, f16_cache=f16_cache)
    assert chosen == ""
    assert max(errors.values()) < CANARY_BOUNDS[f16_cache], errors



MODEL = """
import wasmrt
url = f"{js.location.origin}/models/{name}"
async def generated(model, **options):
    generation = model.generate("Once upon a time", max_tokens=16, **options)
    async for _ in generation: pass
    return generation.tokens
"""
CHAINS = MODEL + """
found = []
async with await wasmrt.open(url, device="gpu", context=128) as model:
    device = model.device
    model.chain_room = lambda options: 5 * device.chains(options)  # however slow this machine is
    for options in ({}, {"temperature": 0.9, "seed": 11}):
        for alone in ({"repeat_penalty": 1 + 1e-9}, {}):
            before = device.submits
            found.append((await generated(model, **options, **alone), device.submits - before))
    whole = model.plan.gpu.total_bytes
async with await wasmrt.open(url, device="gpu", context=128, gpu_memory=int(0.96 * whole)) as model:
    found.append((await generated(model), model.device.host.high_water / whole))
[found, browser.module("gpu").counts().to_py()]
"""


@both
def test_chains_and_streaming_change_no_id(python_page, site):
    """Tokens that follow one another on the GPU are those that are asked for one by one; weights that pass by give the same."""
    site.models["demo.gguf"] = demo_model()
    found, counts = python(python_page, site, CHAINS, name="demo.gguf")
    (alone, one_by_one), (chained, fewer), (drawn_alone, _), (drawn, _), (streamed, share) = found
    assert alone == chained == streamed
    assert drawn_alone == drawn != alone
    assert fewer < one_by_one / 2
    assert share <= 0.96
    assert (counts["hosts"], counts["buffers"]) == (0, 0)


HOST_TIME = MODEL + """
import time
from wasmrt.options import SamplerOptions
clock, times, chained = time.perf_counter, [], []
async with await wasmrt.open(url, device="gpu", context=64) as model:
    device, bounds = model.device, model._bounds
    before = device.dispatches
    for pos in range(12):
        await device._finish()
        start = clock()
        device.begin([1], pos, 1)
        await device.run(bounds, range(len(bounds[-1].program.ops)))
        device._flush()
        times.append(clock() - start)
    dispatches = (device.dispatches - before) / len(times)
    fetch, waited = device.host.fetch, []

    async def timed(*what):
        waited.append(clock())
        return await fetch(*what)

    device.host.fetch = timed
    for _ in range(3):
        await device._finish()
        start = clock()
        await device.chain(bounds, 1, 0, 8, SamplerOptions(), [])
        chained.append((waited[-1] - start) / 8)
[dispatches, sorted(times), sorted(chained)]
"""


@both
def test_python_and_javascript_take_little_of_a_token(python_page, site, tmp_path):
    """To encode a token of 32 layers, by itself or in chains: what a fast GPU would wait for. The quicker half, as others
    compute on these processors too."""
    write_model(tmp_path / "layers.gguf", "tiny", "Q4_K_M", shape=Shape(256, 32, 4, 4, 64, 256, 512, 512))
    site.models["layers.gguf"] = tmp_path / "layers.gguf"
    dispatches, times, chained = python(python_page, site, HOST_TIME, name="layers.gguf", seconds=500)
    shown = [[round(1e3 * x, 2) for x in some] for some in (times, chained)]
    print(f"{python_page.engine}: {dispatches:.0f} dispatches; ms by itself and in chains: {shown}")
    assert dispatches > 200
    assert times[len(times) // 2 - 1] < 3e-3
    assert chained[0] < 3e-3

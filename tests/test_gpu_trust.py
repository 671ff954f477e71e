"""Which GPU is taken, how it is checked before it is believed, and what happens when one fails in the middle of a text."""

import asyncio
import logging
import re
import subprocess
import sys

import numpy as np
import pytest

import wasmrt
from tests.gguf_files import write_llama
from tests.test_gpu_streaming import smallest
from tools.record_canary import truth_of
from wasmrt import engine
from wasmrt.device import canary, choice
from wasmrt.device.choice import choose
from wasmrt.errors import DeviceError
from wasmrt.options import EngineOptions

PROMPT = [1, 40, 50, 45, 60, 41, 77, 52]
N_NEW = 12
DRAWN = {"max_tokens": N_NEW, "temperature": 1.0, "seed": 3}
GREEDY = {"max_tokens": N_NEW}

native = pytest.mark.usefixtures("gpu", "cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Weights in F32, with which both devices compute so alike that every draw falls the same."""
    return write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def real(monkeypatch, gpu):
    """The software adapter passes for a GPU."""
    from dataclasses import replace

    from wasmrt.device import gpu_native

    there = [replace(adapter, software=False) for adapter in gpu_native.adapters()]
    monkeypatch.setattr(gpu_native, "adapters", lambda: there)
    monkeypatch.setattr(choice, "GPU_NODES", ("/",))
    return there[0]


@pytest.fixture
def unknown(monkeypatch):
    """No GPU has been checked yet."""
    monkeypatch.setattr(canary, "_found", {})


def tokens_of(model, options):
    generation = model.generate(PROMPT, **options)
    list(generation)
    return generation.tokens


@pytest.fixture(scope="module")
def wanted(path, cpu):
    with wasmrt.load(path, device="cpu") as model:
        return {name: tokens_of(model, options) for name, options in (("greedy", GREEDY), ("drawn", DRAWN))}


# Choice


@pytest.mark.usefixtures("cpu")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere wgpu is always asked")
def test_without_a_gpu_auto_does_not_even_import_wgpu():
    """Which takes longer than opening a model."""
    code = (
        "import sys\n"
        "from wasmrt.device import choice\n"
        "choice.GPU_NODES = ('/nowhere/*',)\n"
        "import wasmrt\n"
        "with wasmrt.load() as model:\n"
        "    assert model.stats.device == 'cpu'\n"
        "    assert not model.stats.adapter\n"
        "assert not [name for name in sys.modules if name.startswith('wgpu')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@native
def test_auto_takes_a_gpu_and_no_program_that_imitates_one(real, monkeypatch):
    from dataclasses import replace

    from wasmrt.device import gpu_native

    assert choose(EngineOptions()).adapter == real.name
    monkeypatch.setattr(gpu_native, "adapters", lambda: [replace(real, software=True)])
    assert (choose(EngineOptions()).name, choose(EngineOptions()).adapter) == ("cpu", "")
    assert choose(EngineOptions(device="gpu")).adapter == real.name
    assert choice.real_gpus() == ([], "no GPU is reached by Vulkan, Metal or DX12, only software adapters")


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_a_broken_wgpu_is_no_more_than_a_missing_gpu(monkeypatch, caplog, error):
    """Installed without its native library, importing it is an error of another kind."""

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "wasmrt.device.gpu_native":
                raise error("libwgpu is not there")

    monkeypatch.setattr(choice, "GPU_NODES", ("/",))
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "wasmrt.device.gpu_native", raising=False)
    monkeypatch.delattr("wasmrt.device.gpu_native", raising=False)
    assert choose(EngineOptions()).name == "cpu"
    assert not caplog.records
    assert choice.real_gpus() == ([], "wgpu does not work here (libwgpu is not there)")
    with pytest.raises(DeviceError, match=r"needs wgpu.*libwgpu is not there.*pip install"):
        choose(EngineOptions(device="gpu"))


@native
def test_a_gpu_is_named_by_number_or_by_a_part_of_its_name(real):
    for device in ("gpu", "gpu:0", f"gpu:{real.name[:5].upper()}"):
        assert choose(EngineOptions(device=device)).adapter == real.name
    for device in ("gpu:99", "gpu:no such thing"):
        with pytest.raises(DeviceError, match=re.escape(f"here gpu:0 is {real.name!r}")):
            choose(EngineOptions(device=device))
    for device in ("gpu:0,", "cpu:0", "auto:0"):
        with pytest.raises(DeviceError, match="is unknown or not in this version"):
            choose(EngineOptions(device=device))


# The canary


def test_what_was_recorded_is_what_the_reference_device_computes():
    """All cases, and every one of them says something: no sum that is compared, but one of ternary weights, is near 0."""
    assert list(canary.TRUTH) == list(canary.CASES)
    for case in canary.CASES.values():
        now = np.array(truth_of(case))
        assert canary.worst(case.truth(), now) < 1e-10  # BLAS adds in the order that a machine likes
        small = np.count_nonzero(np.abs(now) <= 1e-5 * np.abs(now).max())
        assert small <= (case.name == "embed TQ1_0"), case.name


@native
@pytest.mark.parametrize("f16_cache", [False, True])
def test_a_whole_gpu_passes_every_case(f16_cache):
    """Worst seen: 3e-13, 6e-7 with an f16 cache. Bound: ten times that; what a GPU may be off by is far more."""
    from wasmrt.device.gpu import GpuDevice
    from wasmrt.device.gpu_native import WgpuHost, adapters
    from wasmrt.program.fuse import fuse
    from wasmrt.store.memory import HostMemory

    async def errors():
        cases = list(canary.CASES.values())
        device = GpuDevice(WgpuHost(adapters()[0]), HostMemory(1), f16_cache)
        programs = [fuse(case.program(), whole=True) for case in cases]
        bounds = canary.bind(device, programs, [case.tensors for case in cases])
        found = {}
        for case, bound in zip(cases, bounds, strict=True):
            found[case.name] = canary.worst(canary.digest(await canary.result(device, bound)), case.truth())
        device.close()
        return found

    kept = [name for name in canary.CASES if name.startswith(("attention", "rope_kv"))]
    for name, error in asyncio.run(errors()).items():
        assert error < (6e-6 if f16_cache and name in kept else 3e-12), name


def breaking(monkeypatch, file, old, new):
    """A driver that takes the shaders with this file for others."""
    from wasmrt.device import gpu_native

    class Wrong(gpu_native.WgpuHost):
        def pipeline(self, name, code, bindings, constants):
            if file in name.split("+"):
                assert old in code
                code = code.replace(old, new)
            return super().pipeline(name, code, bindings, constants)

    monkeypatch.setattr(gpu_native, "WgpuHost", Wrong)


# File, what is changed in it, and what the message says. In the model's own ops, which are fused.
WRONG = {
    "norm": ("rms_norm", "+ params.eps", "+ 2.0 * params.eps", "computes rms_norm wrongly"),
    "product": ("x_plain", "x[i + 3u]", "x[i + 2u]", "computes matmul F32 wrongly"),
    "rotation": ("turn", "select(1.0, -1.0, (quarter & 2u) == 2u)", "1.0", "computes rope_kv pairs wrongly"),
    "attention": ("attention", "exp(x[i] - now)", "exp(0.5 * (x[i] - now))", "computes attention wrongly"),
    "embedding": ("embed", "fn main(", "fn main(( ", "fails at embed F32: .* does not compile"),
    "likeliest": ("threshold", "fn main(", "fn main(( ", "fails at choosing tokens: .* does not compile"),
}


@native
@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gpu_is_not_believed(name, path, real, monkeypatch, caplog, wanted):
    """An error that names it and the op; with "auto" a note, and the text of the CPU."""
    file, old, new, says = WRONG[name]
    breaking(monkeypatch, file, old, new)
    for _ in range(2):  # and again, without computing it again
        with pytest.raises(DeviceError, match=says) as error:
            wasmrt.load(path, device="gpu")
        assert real.name in str(error.value)
        assert "--device cpu" in str(error.value)
        assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING), wasmrt.load(path) as model:
        assert (model.stats.device, model.stats.adapter) == ("cpu", "")
        assert tokens_of(model, GREEDY) == wanted["greedy"]
    (note,) = caplog.messages
    assert re.search(f"the CPU computes, since the GPU {re.escape(repr(real.name))} has failed: .*{says}", note)


@native
@pytest.mark.usefixtures("unknown")
def test_a_gpu_is_checked_once_in_a_process(path, monkeypatch):
    computed = []
    compute = canary._compute

    async def counting(device, cases, key):
        computed.append([case.name for case in cases])
        await compute(device, cases, key)

    monkeypatch.setattr(canary, "_compute", counting)
    for _ in range(2):
        wasmrt.load(path, device="gpu").close()
    assert computed == [["embed F32", "matmul F32", "rms_norm", "attention", "rope_kv pairs", "qkv", "gate_up", "matmul_add"]]
    wasmrt.load(device="gpu").close()  # the demo model has another format
    assert "matmul F32" not in computed[1]
    assert any(name.startswith("matmul ") for name in computed[1])


# Failures


class Faults:
    """What a host does, counted, until one call of a kind fails; then all do, as on a device that is lost."""

    def __init__(self, monkeypatch, kind="", at=0):
        from wasmrt.device import gpu_native

        self.kind, self.at, self.calls = kind, at, 0
        faults = self

        def wrapped(name):
            method = getattr(gpu_native.WgpuHost, name)

            def call(host, *args, **named):
                faults.count(name)
                return method(host, *args, **named)

            return call

        names = ("submit", "write", "buffer", "group", "fetch", "pipeline")
        monkeypatch.setattr(gpu_native, "WgpuHost", type("Faulty", (gpu_native.WgpuHost,), {n: wrapped(n) for n in names}))

    def count(self, name):
        if name == self.kind:
            self.calls += 1
        if self.at and self.calls >= self.at:
            raise DeviceError("the GPU is lost")


SITUATIONS = {
    "greedy": GREEDY,  # chains of passes
    "drawn": DRAWN,
    "penalised": {**GREEDY, "repeat_penalty": 1.2},  # candidates after each pass
}


@native
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("kind", ["submit", "write", "fetch", "buffer", "group"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_text_goes_on_where_the_gpu_left_it(kind, situation, path, monkeypatch, caplog):
    """Lost at any moment, of loading or of the text: the tokens are those of a device that lasts, none lost and none twice."""
    options = SITUATIONS[situation]
    monkeypatch.setattr(engine, "CHAIN_SECONDS", 1e9)  # or how many submits there are would depend on the clock
    monkeypatch.setattr(engine, "MOST_CHAINED", 3)
    with wasmrt.load(path, device="cpu") as model:
        tokens = tokens_of(model, options)
    wasmrt.load(path).close()  # the GPU is known to be right
    with monkeypatch.context() as patch:
        faults = Faults(patch, kind)
        with wasmrt.load(path) as model:
            loaded = faults.calls
            assert tokens_of(model, options) == tokens
            assert model.stats.device == "gpu"
        assert faults.calls > loaded or kind in ("buffer", "group")
    while_loading = range(1, loaded, max(1, loaded // 3))
    later = range(loaded + 1, faults.calls + 1, max(1, (faults.calls - loaded) // 6))
    for at in (*while_loading, *later):
        caplog.clear()
        with monkeypatch.context() as patch:
            Faults(patch, kind, at)
            with wasmrt.load(path) as model:
                assert tokens_of(model, options) == tokens
                assert (model.stats.device, model.stats.adapter, model.plan.gpu) == ("cpu", "", None)
                assert tokens_of(model, options) == tokens
        (note,) = caplog.messages
        assert "the CPU computes, since the GPU" in note
        assert note.endswith("has failed: the GPU is lost") or "this model's GPU has failed (the GPU is lost)" in note


@native
def test_a_weight_that_the_gpu_refuses_is_not_taken_for_loaded(path, monkeypatch):
    """Once, as when memory is short for a moment: loading fails, whichever weight it is."""
    from wasmrt.device.gpu import GpuDevice

    upload, calls = GpuDevice.upload, []
    wasmrt.load(path, device="gpu").close()

    def refusing(device, places, data):
        calls.append(places)
        if len(calls) == at:
            raise DeviceError("no room for a moment")
        upload(device, places, data)

    monkeypatch.setattr(GpuDevice, "upload", refusing)
    for at in (1, 2, 12, 21):  # noqa: B007  read above; the last is the last
        calls.clear()
        with pytest.raises(DeviceError, match="no room for a moment; try a smaller --gpu-memory"):
            wasmrt.load(path, device="gpu")
    at = 0
    calls.clear()
    wasmrt.load(path, device="gpu").close()
    assert len(calls) == 21


@native
@pytest.mark.usefixtures("real")
def test_logits_and_streamed_weights_survive_a_lost_gpu(path, monkeypatch):
    """Of a model that does not fit in the GPU's budget, in the middle of a prompt of which all logits are wanted."""
    options = {"gpu_memory": smallest(path)}
    with wasmrt.load(path, device="cpu") as model:
        wanted = model.logits(PROMPT).copy()
    wasmrt.load(path, **options).close()  # the first checks and measures the GPU
    with monkeypatch.context() as patch:
        faults = Faults(patch, "submit")
        with wasmrt.load(path, **options) as model:
            loaded = faults.calls
            assert np.mean((model.logits(PROMPT) - wanted) ** 2) < 1e-9 * np.mean(wanted**2)
    assert faults.calls > loaded + 1
    for at in range(loaded + 1, faults.calls + 1):
        with monkeypatch.context() as patch:
            Faults(patch, "submit", at)
            with wasmrt.load(path, **options) as model:
                np.testing.assert_array_equal(model.logits(PROMPT), wanted)
                assert model.stats.device == "cpu"


@native
def test_a_gpu_that_was_asked_for_by_name_fails_in_one_line(path, monkeypatch, wanted):
    """It says what to do, the process lives on, and so does another model."""
    with monkeypatch.context() as patch:
        faults = Faults(patch, "submit")
        with wasmrt.load(path, device="gpu") as model:
            list(model.generate(PROMPT, max_tokens=2))
            faults.at = faults.calls + 1
            for _ in range(2):
                with pytest.raises(DeviceError, match=r"^[^\n]*the GPU is lost.*cpu") as error:
                    list(model.generate(PROMPT[:3], max_tokens=4))
                assert "\n" not in str(error.value)
    with wasmrt.load(path, device="gpu") as model:
        assert tokens_of(model, GREEDY) == wanted["greedy"]


@native
def test_no_room_on_the_gpu_says_so(path, monkeypatch):
    """And which option lowers what is taken."""
    from wasmrt.device import gpu_native

    wasmrt.load(path, device="gpu").close()
    create = gpu_native.WgpuHost.buffer

    def full(host, n_bytes, *use):
        if host.allocated > 100_000:
            raise DeviceError(f"the GPU has no room for {n_bytes} bytes more, beside {host.allocated}: Not enough memory left")
        return create(host, n_bytes, *use)

    monkeypatch.setattr(gpu_native.WgpuHost, "buffer", full)
    with pytest.raises(DeviceError, match=r"no room for .* try a smaller --gpu-memory, or --device cpu$"):
        wasmrt.load(path, device="gpu")


@native
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("options", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_device_that_the_driver_takes_away(path, options, caplog, wanted):
    """Not imitated: the WebGPU device is destroyed between two tokens."""
    with wasmrt.load(path) as model:
        generation = model.generate(PROMPT, **options)
        next(generation)
        next(generation)
        model.engine.device.host._device.destroy()
        list(generation)
        assert generation.tokens == wanted["greedy" if options is GREEDY else "drawn"]
        assert model.stats.device == "cpu"
    assert len(caplog.messages) == 1


@native
@pytest.mark.usefixtures("real")
def test_moving_to_the_cpu_can_be_cancelled_and_closed(path, monkeypatch, wanted):
    """Cancelled, the model tries again when it is next used. Closed, the text ends with an error and nothing is left."""
    wasmrt.load(path).close()
    move, entered, gate = engine._place_on_cpu, asyncio.Event(), asyncio.Event()

    async def slowly(*args):
        entered.set()
        await gate.wait()
        return await move(*args)

    async def scenario():
        faults = Faults(monkeypatch, "submit")
        monkeypatch.setattr(engine, "_place_on_cpu", slowly)
        model = await wasmrt.open(path)
        faults.at = 1 + faults.calls
        text = asyncio.create_task(collect(model))
        await entered.wait()
        text.cancel()
        with pytest.raises(asyncio.CancelledError):
            await text
        entered.clear()
        again = asyncio.create_task(collect(model))
        await entered.wait()
        gate.set()
        assert await again == wanted["greedy"]
        assert model.stats.device == "cpu"
        await model.close()

        gate.clear()
        entered.clear()
        faults.at = 0
        model = await wasmrt.open(path)
        faults.at = 1 + faults.calls
        text = asyncio.create_task(collect(model))
        await entered.wait()
        closing = asyncio.create_task(model.close())
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(DeviceError, match="closed"):
            await text
        await closing

    async def collect(model):
        generation = model.generate(PROMPT, **GREEDY)
        async for _ in generation:
            pass
        return generation.tokens

    asyncio.run(scenario())


@native
@pytest.mark.usefixtures("real")
def test_a_budget_that_no_gpu_could_keep_leads_to_the_cpu(path, caplog):
    with wasmrt.load(path, gpu_memory=1) as model:
        assert model.stats.device == "cpu"
    assert "a GPU memory budget of 1 bytes is too small" in caplog.text


@native
@pytest.mark.usefixtures("real")
def test_what_the_file_or_the_caller_has_wrong_is_not_the_gpus_fault(tmp_path, path, caplog):
    """No note about a GPU, and one error."""
    other = write_llama(tmp_path / "other.gguf", architecture="whatever")
    with pytest.raises(wasmrt.UnsupportedError, match="whatever"):
        wasmrt.load(other)
    with pytest.raises(wasmrt.ContextFull):
        wasmrt.load(path, context=1000)
    assert not caplog.messages

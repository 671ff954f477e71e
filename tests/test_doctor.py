"""doctor: what it finds on a whole machine, and what it says when something is missing or computes wrongly."""

import json
import subprocess
import sys

import pytest

from wasmrt import doctor, resources
from wasmrt.cli import main
from wasmrt.device.choice import CPU_BUILDS, WASMTIME, WGPU


@pytest.fixture(scope="module")
def found(cpu):
    return doctor.examine()


def test_a_whole_machine_works(found):
    """Each build computes what the reference device does, and all the same: they differ in no bit."""
    assert found["works"]
    assert found["auto"] == "cpu"
    cpu = found["devices"]["cpu"]
    assert cpu["works"]
    assert cpu["threads"] >= 1
    assert list(cpu["builds"]) == list(CPU_BUILDS)
    assert len({build["nmse"] for build in cpu["builds"].values()}) == 1
    assert 0 < cpu["builds"]["plain"]["nmse"] < doctor.BOUND
    assert found["devices"]["reference"]["works"]
    assert found["detail"] == f"the demo model says {cpu['text']!r}"


def test_the_report_has_a_line_for_each(found):
    report = doctor.report(found)
    for line in ("wasmrt ", "python ", "cores ", "memory ", "device cpu        works: ", "device reference  works: ", "auto "):
        assert f"\n{line}" in f"\n{report}"
    for build in CPU_BUILDS:
        assert f"  cpu:{build}" in report
    assert "unless told otherwise" in report
    assert "check             passed: the demo model says" in report


@pytest.mark.usefixtures("cpu")
def test_missing_kernels_are_told_with_the_command_that_builds_them(tmp_path, monkeypatch, capsys):
    """In the report, in the JSON, and by the exit code; the device that still works is named."""
    from wasmrt.device import cpu_native

    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    cpu_native._compiled.cache_clear()
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "device cpu        FAILS: wasm32: the wasm32 kernels are not in this installation" in said
    assert said.splitlines()[-1].startswith("check             FAILED: ")
    assert said.endswith("python tools/build_kernels.py; meanwhile --device reference works\n")
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["works"]
    assert not any(build["works"] for build in found["devices"]["cpu"]["builds"].values())


@pytest.mark.usefixtures("cpu")
def test_one_wrong_build_is_a_failure(monkeypatch):
    """Logits that are far from the reference device's."""
    try_model = doctor._try_model

    def wrong(device):
        text, logits = try_model(device)
        return text, [-x for x in logits] if device == "cpu:plain" else logits

    monkeypatch.setattr(doctor, "_try_model", wrong)
    found = doctor.examine()
    assert not found["works"]
    assert found["devices"]["cpu"]["builds"]["wasm64"]["works"]
    assert "plain: its logits are off by " in found["devices"]["cpu"]["detail"]
    assert "FAILS: its logits are off by " in doctor.report(found)


@pytest.mark.usefixtures("gpu", "cpu")
def test_adapters_are_examined_one_by_one(found):
    """What each is and allows, how fast it copies, and what it makes of the demo model: the reference device's text."""
    gpu = found["devices"]["gpu"]
    assert gpu["works"]
    for number, adapter in enumerate(gpu["adapters"]):
        assert adapter["device"] == f"gpu:{number}"
        assert adapter["works"]
        assert adapter["nmse"] < doctor.GPU_BOUND
        assert adapter["text"] == found["devices"]["reference"]["text"]
        assert min(adapter["limits"].values()) > 0
        assert adapter["bytes_per_second"] > 1e8
    report = doctor.report(found)
    assert "device gpu        works: " in report
    assert f"  gpu:0           {gpu['adapters'][0]['name']}, Vulkan, " in report
    assert "copies at " in report
    json.dumps(found, allow_nan=False)


@pytest.mark.usefixtures("gpu", "cpu")
def test_auto_is_what_the_gpu_is_good_for(monkeypatch):
    """A real one that works, or else the CPU; and why."""
    from dataclasses import replace

    from wasmrt.device import canary, choice, gpu_native

    adapter = replace(gpu_native.adapters()[0], software=False)
    monkeypatch.setattr(gpu_native, "adapters", lambda: [adapter])
    monkeypatch.setattr(choice, "GPU_NODES", ("/",))
    monkeypatch.setattr(canary, "CASES", {name: canary.CASES[name] for name in ("embed F32", "rms_norm")})
    found = doctor.examine()
    assert (found["works"], found["auto"]) == (True, "gpu")
    assert found["auto_why"] == f"the GPU {adapter.name!r} computes what it should"

    monkeypatch.setattr(canary, "_found", {(adapter, False, "rms_norm"): "it computes rms_norm wrongly"})
    found = doctor.examine()
    assert (found["works"], found["auto"]) == (True, "cpu")
    assert found["auto_why"].startswith(f"the GPU {adapter.name!r} fails")
    assert "computes rms_norm wrongly; update its driver" in doctor.report(found)

    monkeypatch.setattr(gpu_native, "adapters", list)
    found = doctor.examine()
    assert (found["works"], found["auto"]) == (True, "cpu")
    assert "device gpu        not there: no GPU is reached by Vulkan" in doctor.report(found)


# Most of them without wgpu, too: to compile shaders in a new process takes longer than all else.
MISSING = [("wgpu",), ("numpy",), ("wasmtime", "wgpu"), ("psutil", "wgpu"), ("numpy", "psutil", "tqdm", "wasmtime", "wgpu")]


@pytest.mark.parametrize("hidden", MISSING, ids="+".join)
def test_missing_packages_are_told_with_the_command_that_installs_them(hidden):
    """In a process of its own, that cannot import them. Whatever is missing, the examination goes on to its end."""
    code = (
        "import importlib.metadata as metadata, sys\n"
        f"hidden = {hidden!r}\n"
        "sys.modules.update(dict.fromkeys(hidden))\n"
        "version = metadata.version\n"
        "def installed(name):\n"
        "    if name in hidden: raise metadata.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        "metadata.version = installed\n"
        "from wasmrt.cli import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "")
    pinned = {"wasmtime": f'"{WASMTIME}"', "wgpu": f'"{WGPU}"'}
    names = " ".join(pinned.get(name, name) for name in hidden)
    last = done.stdout.splitlines()[-1]
    assert last == f"check             FAILED: missing: {', '.join(hidden)}; install with: python -m pip install {names}"

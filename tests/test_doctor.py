"""doctor: what it finds on a whole machine, and what it says when something is missing or computes wrongly."""

import json
import subprocess
import sys

import pytest

from wasmrt import doctor, resources
from wasmrt.cli import main
from wasmrt.device.choice import CPU_BUILDS, WASMTIME


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


MISSING = [("wasmtime",), ("numpy",), ("psutil",), ("numpy", "psutil", "tqdm", "wasmtime")]


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    names = " ".join(f'"{WASMTIME}"' if name == "wasmtime" else name for name in hidden)
    last = done.stdout.splitlines()[-1]
    assert last == f"check             FAILED: missing: {', '.join(hidden)}; install with: python -m pip install {names}"

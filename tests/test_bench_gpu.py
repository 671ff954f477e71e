"""bench_gpu: that it measures all it names, and calls software by its name. How fast a GPU is, no test asks."""

import json
import math
import sys

import pytest

from tools import bench_gpu
from tools.make_test_model import write_model
from wasmrt.device.gpu_native import adapters

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny.gguf"
    write_model(path, "tiny", "Q4_K_M")
    return path


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(bench_gpu, "SOFTWARE_READ_BYTES", 1 << 20)
    monkeypatch.setattr(bench_gpu, "MEASURED", 0.001)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--prompt", "9", "--new", "4", "--repeat", "1", *map(str, arguments)])
    code = bench_gpu.main()
    return code, *capsys.readouterr()


@pytest.mark.usefixtures("short")
def test_all_is_measured(model, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, model, "--json")
    assert code == 0
    result = json.loads(out)
    adapter = adapters()[0]
    assert (result["adapter"], result["software"]) == (adapter.name, adapter.software)
    for name in ("read_bytes_per_second", "host_seconds_per_token", "host_cpu_seconds_per_token"):
        assert 0 < result[name] < math.inf, name
    assert 32 * 6 <= result["host_dispatches_per_token"] <= 32 * 10
    [one] = result["models"]
    assert (one["model"], one["prompt_tokens"], one["new_tokens"]) == (str(model), 9, 4)
    for name in (
        "prefill_tokens_per_second", "first_token_seconds", "decode_tokens_per_second", "weight_bytes",
        "weight_bytes_per_second", "bandwidth_share", "dispatches_per_token", "submits_per_token",
    ):  # fmt: skip
        assert 0 < one[name] < math.inf, name
    assert one["weight_bytes_per_second"] == one["weight_bytes"] * one["decode_tokens_per_second"]
    calls = {}
    for kernel in one["kernels"]:
        assert kernel["microseconds"] > 0
        op = kernel["kernel"].split("+")[-1]
        calls[op] = calls.get(op, 0) + kernel["calls"]
    assert calls["rope_kv"] == calls["attention"] == 2
    assert calls["embed"] == 1
    assert sum(calls.values()) <= one["dispatches_per_token"] * 4


@pytest.mark.usefixtures("short")
def test_software_is_called_so(model, monkeypatch, capsys):
    adapter = adapters()[0]
    code, out, _ = run(monkeypatch, capsys, model, "--adapter", "0")
    heading, *rest = out.splitlines()
    assert code == 0
    assert ("software, not a GPU" in heading) == adapter.software
    assert any("matmul" in line for line in rest)


def test_what_is_not_there_is_named(model, monkeypatch, capsys, tmp_path):
    code, _, error = run(monkeypatch, capsys, model, "--adapter", "no such thing")
    assert code == 1
    assert "no such thing" in error
    code, _, error = run(monkeypatch, capsys, tmp_path / "missing.gguf")
    assert code == 1
    assert "missing.gguf" in error

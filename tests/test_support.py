"""What is said of support is true: docs/support.md, which architectures are called verified, what `inspect` says."""

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wasmrt
from tests import test_architectures
from tests.gguf_files import write_llama
from tests.hybrid_files import MODELS
from tests.test_architectures import OUTLINES
from tests.test_hybrid_families import RECORDED
from wasmrt.cli import main
from wasmrt.gguf.reader import parse_header
from wasmrt.inspect import check_weights, describe, verdict
from wasmrt.model.build import FAMILIES
from wasmrt.model.verified import VERIFIED

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def a_llama_unverified(tmp_path, monkeypatch):
    """A model that runs, of an architecture with no vector."""
    monkeypatch.setitem(FAMILIES, "plum", FAMILIES["llama"])
    return write_llama(tmp_path / "plum.gguf", architecture="plum")


@pytest.mark.reference
def test_the_page_is_up_to_date(reference_dir):
    """docs/support.md says what `python tools/support_table.py` would write."""
    command = [sys.executable, "tools/support_table.py", "--check", "--reference", str(reference_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.reference
def test_a_page_that_is_not_is_told(reference_dir, tmp_path):
    """With a changed copy of the page: a row that was taken away is in the difference."""
    code = (
        "import sys; from pathlib import Path; from tools import support_table as s\n"
        "text = s.PAGE.read_text(encoding='utf-8')\n"
        "s.PAGE = Path(sys.argv.pop(1)); s.PAGE.write_text(text.replace('| MXFP4 |', '| MXFP5 |'), encoding='utf-8')\n"
        "sys.exit(s.main())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "page.md"), "--check", "--reference", str(reference_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert "-| MXFP5 |" in done.stdout
    assert "+| MXFP4 |" in done.stdout


def test_the_example_is_what_the_file_has():
    """docs/architectures.md shows hunyuan.py as it is, and names files and functions that there are."""
    page = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert example in (ROOT / "wasmrt" / "model" / "hunyuan.py").read_text(encoding="utf-8")


def test_families_that_the_page_and_readme_name_are_there():
    """By the architectures of their files."""
    named = {
        "Llama": "llama4", "Mistral": "mistral3", "Qwen": "qwen35", "Gemma": "gemma3", "Phi": "phi3", "DeepSeek": "deepseek2",
        "gpt-oss": "gpt-oss", "Granite": "granite", "LFM2": "lfm2", "GPT-2": "gpt2",
    }  # fmt: skip
    readme, page = ((ROOT / path).read_text(encoding="utf-8") for path in ("README.md", "web/ui/about.js"))
    (row,) = re.findall(r"\| models \| (.*?), for text", readme)
    (about,) = re.findall(r"without conversion: (.*?) and many other", page, re.DOTALL)
    for name in re.findall(r"[A-Z][\w-]+|gpt-oss", row + about):
        assert named[name] in VERIFIED, name


def test_inspect_says_where_a_file_runs(tmp_path, a_llama_unverified):
    """One line: the devices, and how far the architecture was checked; or why it does not run."""
    found = asyncio.run(describe(write_llama(tmp_path / "m.gguf")))
    assert verdict(found) == "runs: yes, on gpu and cpu; architecture 'llama' verified against llama.cpp's logits"
    assert (found["devices"], found["architecture_verified"]) == (["gpu", "cpu"], True)
    found = asyncio.run(describe(a_llama_unverified))
    assert verdict(found) == "runs: yes, on gpu and cpu; architecture 'plum' unverified: no outside truth was compared"
    assert (found["devices"], found["architecture_verified"]) == (["gpu", "cpu"], False)
    found = asyncio.run(describe(write_llama(tmp_path / "cut.gguf", tensors={"output_norm.weight": None})))
    assert verdict(found).startswith("runs: no, tensor 'output_norm.weight' is missing")
    assert (found["devices"], found["architecture_verified"]) == ([], True)
    assert json.dumps(found)


def test_inspect_knows_what_no_gpu_takes(tmp_path):
    """Heads of 2048 elements: the cpu alone."""
    n, wide = 64, 2048
    rng = np.random.default_rng(0)
    sizes = {"attention.key_length": wide, "attention.value_length": wide, "rope.dimension_count": 64}
    tensors = {}
    for i in range(2):
        for name, rows in (("attn_q", 4 * wide), ("attn_k", 2 * wide), ("attn_v", 2 * wide)):
            tensors[f"blk.{i}.{name}.weight"] = (rng.standard_normal((rows, n)) / 8).astype(np.float32)
        tensors[f"blk.{i}.attn_output.weight"] = (rng.standard_normal((n, 4 * wide)) / 90).astype(np.float32)
    found = asyncio.run(describe(write_llama(tmp_path / "wide.gguf", changes=sizes, tensors=tensors)))
    assert found["devices"] == ["cpu"]
    assert verdict(found).startswith("runs: yes, on cpu (gpu: heads of 2048 elements: a gpu takes at most 1024; open")


def test_an_unverified_architecture_is_told_once(a_llama_unverified, caplog, capsys):
    """A note when it is opened, and in the plan; verified ones have none."""
    with caplog.at_level(logging.WARNING, "wasmrt"), wasmrt.load(a_llama_unverified, device="reference") as model:
        (note,) = [record.getMessage() for record in caplog.records]
        assert note in model.plan.notes
    assert note == "what wasmrt computes for architecture 'plum' has not been compared with another program's logits yet"
    assert main(["plan", str(a_llama_unverified), "--device", "reference", "--bandwidth", "1GB", "--compute", "1GB"]) == 0
    assert capsys.readouterr().out.count(f"note: {note}\n") == 1
    caplog.clear()
    with wasmrt.load(write_llama(a_llama_unverified.with_name("m.gguf")), device="reference") as model:
        assert not model.plan.notes


@pytest.mark.reference
def test_what_is_verified_is_what_has_a_vector(reference_dir):
    """Each name has a recorded model that a test runs, and each recorded model's name is there.

    The tests: test_logits of the reference folder, test_architectures of the outlines, test_hybrid_families of the others.
    """
    recorded = {model.partition(":")[0] for model in MODELS if model in RECORDED}
    recorded |= {outline["architecture"] for name, outline in OUTLINES.items() if name in test_architectures.RECORDED}
    for file in (reference_dir / "logits").glob("*.gguf"):
        assert file.with_suffix(".logits.npy").is_file()
        recorded.add(parse_header(file.read_bytes()).metadata.string("general.architecture"))
    assert recorded == VERIFIED
    assert FAMILIES.keys() >= VERIFIED


# What check_weights finds


def test_weights_that_are_numbers(tmp_path, capsys):
    path = write_llama(tmp_path / "m.gguf")
    told = []
    found = asyncio.run(check_weights(path, lambda done, total: told.append((done, total))))
    total = sum(t.n_bytes for t in parse_header(path.read_bytes()).tensors.values())
    assert found == {"checked_bytes": total, "unchecked": [], "damaged": None}
    assert told[-1] == (total, total)
    assert main(["inspect", str(path), "--check-weights"]) == 0
    assert re.search(r"^weights: \d+\.\d MiB, all of them numbers$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_none_is_found(tmp_path, capsys, monkeypatch, value):
    """Also in a later piece of its tensor: tensor, row and column are named, and the exit code is 1."""
    monkeypatch.setattr("wasmrt.inspect.CHECKED", 1000)
    broken = np.zeros((64, 64), np.float32)
    broken[37, 5] = value
    path = write_llama(tmp_path / "m.gguf", tensors={"blk.1.attn_output.weight": broken})
    assert main(["inspect", str(path), "--check-weights", "--json"]) == 1
    damaged = json.loads(capsys.readouterr().out)["weights"]["damaged"]
    offset = parse_header(path.read_bytes()).tensors["blk.1.attn_output.weight"].offset + 4 * (37 * 64 + 5)
    assert damaged == {"tensor": "blk.1.attn_output.weight", "row": 37, "column": 5, "offset": offset, "value": str(value)}
    assert main(["inspect", str(path), "--check-weights"]) == 1
    assert f"weights: tensor 'blk.1.attn_output.weight' has {value} at row 37, column 5" in capsys.readouterr().out


def test_who_meets_a_damaged_weight_is_told_how_to_find_it(tmp_path, capsys):
    broken = np.full((64, 64), np.nan, np.float32)
    path = write_llama(tmp_path / "m.gguf", tensors={"blk.1.attn_output.weight": broken})
    assert main(["run", str(path), "--device", "reference", "-p", "he", "-n", "1"]) == 1
    assert "note: wasmrt inspect --check-weights names the tensor" in capsys.readouterr().err


@pytest.mark.reference
def test_block_scales_that_are_none_are_found(reference_dir):
    """In every block format of the recorded models: a block of ones in all bits, whose scale then is no number."""
    kinds = set()
    for file in sorted((reference_dir / "logits").glob("llama-dense.*.gguf")):
        data = file.read_bytes()
        assert asyncio.run(check_weights(data))["damaged"] is None
        for tensor in parse_header(data).tensors.values():
            size = tensor.type.block_bytes
            if tensor.type.name in kinds or tensor.n_bytes == size:
                continue
            damaged = bytearray(data)
            damaged[tensor.offset + size : tensor.offset + 2 * size] = b"\xff" * size
            found = asyncio.run(check_weights(bytes(damaged)))["damaged"]
            assert (found["tensor"], found["value"]) == (tensor.name, "nan")
            kinds.add(tensor.type.name)
    assert len(kinds) > 15

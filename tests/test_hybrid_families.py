"""Recurrent and hybrid families, device by device, against llama.cpp's logits of the same files: tests/hybrid_files.py."""

from pathlib import Path

import numpy as np
import pytest

import wasmrt
from tests.hybrid_files import MODELS, tokens, write
from wasmrt.errors import UnsupportedError

IDS = tokens()
ROWS = [11, 29, 47]  # the positions that are recorded
RECORDED = np.load(Path(__file__).with_name("data") / "hybrid_logits.npz")
# Float32 sums in another order. Worst seen of one position: 5.1e-11, 4.3e-11; of all together 7.1e-12. Bound: ten times that.
BOUNDS = {"reference": 5.2e-10, "cpu": 4.3e-10}


def nmse(got, wanted):
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.sum((got - wanted) ** 2) / np.sum(wanted**2))


@pytest.mark.parametrize("model", MODELS)
def test_logits(tmp_path, model, device):
    """As one prompt, and in pieces that go on from the recurrent state; then from anew, after a prompt that is shorter."""
    with wasmrt.load(write(tmp_path / "model.gguf", model), device=device) as opened:
        found = [np.asarray(opened.logits(IDS))[ROWS]]
        for n in (12, 13, 30, 48):  # the first is a fresh start, for what the state has seen cannot be taken back
            last = np.asarray(opened.logits(IDS[:n]))
            found.append(last[-1:] if n - 1 in ROWS else last[ROWS[:1]])
    wanted = RECORDED[model]
    assert nmse(found[0], wanted) < BOUNDS[device]
    for got, row in zip(found[1:], (0, 0, 1, 2), strict=True):
        assert nmse(got, wanted[row : row + 1]) < BOUNDS[device]


def test_what_only_guesses_is_no_part_of_the_model(tmp_path):
    """Layers for further tokens: neither read nor counted."""
    with wasmrt.load(write(tmp_path / "model.gguf", "qwen35:drafts"), device="reference") as opened:
        assert opened.config.n_layers == 4
        plain = wasmrt.load(write(tmp_path / "plain.gguf", "qwen35"), device="reference")
        assert opened.plan.weight_bytes == plain.plan.weight_bytes
        plain.close()


def test_recurrent_layers_have_no_cache(tmp_path):
    """What a model of only such layers keeps does not grow with its context."""
    path = write(tmp_path / "model.gguf", "mamba2")
    sizes = set()
    for context in (64, 256):
        with wasmrt.load(path, device="reference", context=context) as opened:
            assert opened.plan.kv_bytes == 0
            sizes.add(opened.plan.state_bytes)
    assert len(sizes) == 1
    assert sizes.pop() > 0


def test_a_model_that_looks_ahead_is_refused(tmp_path):
    """Embedding models of LFM2 keep the architecture's name; with tokens blind to those after them, they would be wrong."""
    path = write(tmp_path / "model.gguf", "lfm2", {"attention.causal": False})
    with pytest.raises(UnsupportedError, match=r"lfm2\.attention\.causal is false"):
        wasmrt.load(path, device="reference")

"""Every architecture of data/architectures.json, device by device, against llama.cpp's logits."""

import numpy as np
import pytest

import wasmrt
from tests.architecture_files import LOGITS, ROWS, outlines, tokens, write

OUTLINES, RECORDED = outlines(), np.load(LOGITS)
# Worst seen: 3.6e-10, of angles that random rope factors make large (else 1e-12); with GELU 3.1e-7, for llama.cpp looks it up
# in a table of f16. Bounds: ten times that.
BOUND, GELU_BOUND = 3.6e-9, 3.1e-6
GELU = {"bloom", "codeshell", "gemma2", "gemma4", "mpt", "starcoder"}


@pytest.mark.parametrize("name", OUTLINES)
def test_logits(tmp_path, name, device):
    path = write(tmp_path / "model.gguf", OUTLINES[name])
    with wasmrt.load(path, device=device) as model:
        got = np.asarray(model.logits(tokens()), np.float64)[ROWS]
    wanted = RECORDED[name].astype(np.float64)
    bound = GELU_BOUND if OUTLINES[name]["architecture"] in GELU else BOUND
    assert np.sum((got - wanted) ** 2) / np.sum(wanted**2) < bound


@pytest.mark.parametrize("name", OUTLINES)
def test_logits_on_the_gpu_device(tmp_path, name, gpu):
    test_logits(tmp_path, name, "gpu")

"""Record outside truth for architectures: `python tools/record_logits.py FILE.gguf ...` writes tests/data/architectures.*

Each FILE is a small model of the architecture as llama.cpp or a converter writes it. Of it the keys and the tensors' names and
shapes are kept; weights are drawn anew from a seed, in float32, and llama.cpp computes the logits of that. So what is recorded
is small, and tests/architecture_files.py makes the same file again wherever the tests run. What was recorded of other
architectures before stays.

llama.cpp comes as the Python package llama-cpp-python (`pip install --no-binary llama-cpp-python 'wasmrt[peers]'`).
"""

import argparse
import ctypes
import importlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.architecture_files import BARE, LOGITS, MODELS, ROWS, tokens, write  # noqa: E402
from wasmrt.gguf.reader import parse_header  # noqa: E402

NEEDED = ("embedding_length_per_layer_input",)  # which llama.cpp wants to hear of, though they be 0
MOST_ITEMS = 64  # of an array that is kept: token lists and such are left out

F32 = npt.NDArray[np.float32]


def says_something(value: Any) -> bool:
    """Whether a number, or an array of some, is not one of those by which llama.cpp writes that there is none."""
    numbers = value if isinstance(value, list) else [value]
    in_range = all(math.isfinite(n) if isinstance(n, float) else 0 <= n < 1 << 31 for n in numbers)
    return in_range and any(numbers) and len(numbers) <= MOST_ITEMS


def outline(file: Path) -> dict[str, Any]:
    """A file's keys, without those that say nothing and the tokenizer's, and its tensors, shapes as numpy gives them."""
    header = parse_header(file.read_bytes())
    architecture = header.metadata.string("general.architecture")
    keys: dict[str, Any] = {}
    for key, value in header.metadata.items():
        if not key.startswith((f"{architecture}.", BARE)):
            continue
        plain = value if isinstance(value, int | float | str) else list(value)
        if isinstance(plain, str) or key.endswith(NEEDED) or says_something(plain):
            keys[key.removeprefix(f"{architecture}.")] = plain
    tensors = {t.name: list(t.shape[::-1]) for t in header.tensors.values() if not t.name.endswith(".input_scale")}
    return {"architecture": architecture, "keys": keys, "tensors": tensors}


def logits(file: Path) -> F32:
    """Of every position of the prompt, by llama.cpp in float32: (n_tokens, n_vocab)."""
    lib = importlib.import_module("llama_cpp")
    importlib.import_module("llama_cpp._logger").set_verbose(False)
    lib.llama_backend_init()
    options = lib.llama_model_default_params()
    options.n_gpu_layers, options.use_extra_bufts = 0, False
    model = lib.llama_model_load_from_file(str(file).encode(), options)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {file.name}")
    settings = lib.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 256
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = 0  # float32
    settings.flash_attn_type = 0
    context = lib.llama_init_from_model(model, settings)
    ids = tokens()
    batch = lib.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    if code := lib.llama_decode(context, batch):
        raise SystemExit(f"llama_decode of {file.name} returned {code}")
    n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), (n_vocab,)).copy() for i in range(len(ids))]
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    assert ctypes.sizeof(ctypes.c_float) == rows[0].itemsize
    return np.stack(rows)


def main() -> None:
    p = argparse.ArgumentParser(description="Record llama.cpp's logits of small random models, one an architecture.")
    p.add_argument("files", nargs="+", type=Path, metavar="FILE.gguf", help="a small model; its weights are drawn anew")
    arguments = p.parse_args()
    models = json.loads(MODELS.read_text()) if MODELS.exists() else {}
    recorded = dict(np.load(LOGITS)) if LOGITS.exists() else {}
    for file in arguments.files:
        name = file.stem
        models[name] = outline(file)
        with tempfile.TemporaryDirectory() as folder:
            made = logits(write(Path(folder) / file.name, models[name]))
        if not np.isfinite(made).all():
            raise SystemExit(f"llama.cpp's logits of {file.name} hold NaN or infinity")
        recorded[name] = made[ROWS]
        print(f"{name}: {len(models[name]['tensors'])} tensors, logits of {np.std(made):.3f}")
    lines = (f"{json.dumps(name)}: {json.dumps(models[name], separators=(',', ':'))}" for name in sorted(models))
    MODELS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez_compressed(LOGITS, **{name: recorded[name] for name in sorted(recorded)})


if __name__ == "__main__":
    main()

"""Tiny models of many architectures, made from their outlines: the keys and tensors of files that llama.cpp wrote.

data/architectures.json has the outlines, data/architectures.npz llama.cpp's logits of the files that write() makes of them,
with weights from a seed: tools/record_logits.py records both.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np

DATA = Path(__file__).with_name("data")
MODELS, LOGITS = DATA / "architectures.json", DATA / "architectures.npz"
N_TOKENS, N_VOCAB = 48, 128
ROWS = [0, 7, 33, 47]  # the positions whose logits are recorded: the last ones are beyond the windows of 32

BARE = "xielu."  # how keys begin that stand without the architecture's name


def tokens() -> list[int]:
    """The prompt whose logits are recorded."""
    return [int(token) for token in np.random.default_rng(11).integers(0, N_VOCAB, N_TOKENS)]


def outlines() -> dict[str, dict[str, Any]]:
    return dict(json.loads(MODELS.read_text()))


def write(path: Path, outline: dict[str, Any]) -> Path:
    """The file of an outline. Weights depend on their tensor's name alone: normal, of a tenth; what decays is negative."""
    architecture = outline["architecture"]
    writer = gguf.GGUFWriter(path, architecture)
    numbers = {int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool}
    add = {**numbers, str: writer.add_string, list: writer.add_array}
    for key, value in outline["keys"].items():
        add[type(value)](key if key.startswith(BARE) else f"{architecture}.{key}", value)
    writer.add_tokenizer_model("no_vocab")
    for name, shape in outline["tensors"].items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        data = 0.1 * rng.standard_normal(shape)
        writer.add_tensor(name, (-abs(data) if "ssm_a" in name else data).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

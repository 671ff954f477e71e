"""Small models made for a test: random weights, chosen metadata. Written with the `gguf` package, which is not ours."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

Array = np.ndarray[Any, Any]

LLAMA: dict[str, Any] = {
    "context_length": 64,
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": 16,
    "rope.freq_base": 10000.0,
}
N_VOCAB = 96

# A vocabulary in sentencepiece's manner: unknown, begin, end, 32 byte tokens that text below needs, and printable characters.
CHARACTERS = ["▁", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'"]
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(32)), *CHARACTERS, "he", "▁t"]
TYPES = [2, 3, 3, *[6] * 32, *[1] * (len(CHARACTERS) + 2)]


def write_llama(
    path: Path,
    *,
    seed: int = 0,
    architecture: str = "llama",
    changes: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    tensors: dict[str, "Array | None"] | None = None,
    tokenizer: bool = True,
    experts: int = 0,
    extra: dict[str, Any] | None = None,
) -> Path:
    """A llama with random F32 weights. `changes` overrides architecture keys, `drop` leaves keys out, `tensors` replaces or
    removes (None) tensors, `extra` adds metadata keys as they are."""
    settings: dict[str, Any] = dict(LLAMA)
    if experts:
        settings |= {"expert_count": experts, "expert_used_count": min(2, experts)}
    settings |= changes or {}
    writer = gguf.GGUFWriter(path, architecture)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    for key, value in settings.items():
        if key not in drop:
            add[type(value)](f"{architecture}.{key}", value)
    if tokenizer:
        n = min(len(TOKENS), N_VOCAB)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(TOKENS[:n] + [f"[unused{i}]" for i in range(N_VOCAB - n)])
        writer.add_token_scores([-float(i) for i in range(N_VOCAB)])
        writer.add_token_types(TYPES[:n] + [5] * (N_VOCAB - n))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(True)
    else:
        writer.add_tokenizer_model("no_vocab")
    for key, value in (extra or {}).items():
        add[type(value)](key, value)
    for name, data in {**random_tensors(seed, experts), **(tensors or {})}.items():
        if data is not None:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_sparse_llama(path: Path, n_vocab: int) -> Path:
    """A llama whose embedding has n_vocab rows of zeros that take no room on disk; without a tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in LLAMA.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"llama.{key}", value)
    writer.add_tokenizer_model("no_vocab")
    shapes = {name: data.shape for name, data in random_tensors(0).items() if name != "output.weight"}
    shapes["token_embd.weight"] = (n_vocab, LLAMA["embedding_length"])
    for name, shape in shapes.items():
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + sum(4 * int(np.prod(shape)) + 32 for shape in shapes.values()))
    return path


def random_tensors(seed: int, experts: int = 0) -> "dict[str, Array]":
    """Weights of the shapes that LLAMA says (numpy's order: rows first)."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> "Array":
        scaled: Array = rng.standard_normal(shape) / np.sqrt(shape[-1])
        return scaled.astype(np.float32)

    n, ff, kv = LLAMA["embedding_length"], LLAMA["feed_forward_length"], 32
    made = {
        "token_embd.weight": rng.standard_normal((N_VOCAB, n)).astype(np.float32),
        "output_norm.weight": _norm(rng, n),
        "output.weight": matrix(N_VOCAB, n),
    }
    for i in range(LLAMA["block_count"]):
        made |= {
            f"blk.{i}.attn_norm.weight": _norm(rng, n),
            f"blk.{i}.attn_q.weight": matrix(n, n),
            f"blk.{i}.attn_k.weight": matrix(kv, n),
            f"blk.{i}.attn_v.weight": matrix(kv, n),
            f"blk.{i}.attn_output.weight": matrix(n, n),
            f"blk.{i}.ffn_norm.weight": _norm(rng, n),
        }
        stack = (experts,) if experts else ()
        end = "_exps" if experts else ""
        made |= {
            f"blk.{i}.ffn_gate{end}.weight": matrix(*stack, ff, n),
            f"blk.{i}.ffn_up{end}.weight": matrix(*stack, ff, n),
            f"blk.{i}.ffn_down{end}.weight": matrix(*stack, n, ff),
        }
        if experts:
            made[f"blk.{i}.ffn_gate_inp.weight"] = matrix(experts, n)
    return made


def _norm(rng: np.random.Generator, n: int) -> "Array":
    return (1 + 0.1 * rng.standard_normal(n)).astype(np.float32)

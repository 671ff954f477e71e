"""Writes a GGUF of a real model's shape with random weights, to measure speed and memory without a download:

    python tools/make_test_model.py tinyllama-1.1b Q4_K_M model.gguf [--seed N]

Shapes and the mix of formats are those of published files, so sizes and speeds are theirs; what such a model says is noise. Its
packed blocks are valid: weights deviate by 1/sqrt(row length), so activations keep their size and logits spread by a few units.
The vocabulary is letter combinations; text survives it. The same arguments give the same bytes, in about 100 MB of memory.
Exits with 2 for wrong arguments, 1 if the file cannot be written, 130 when interrupted; what was begun is then removed.
"""

import argparse
import math
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from wasmrt.gguf.quants import dequantize  # noqa: E402  run as a script, from any folder
from wasmrt.gguf.types import BY_NAME, QuantType  # noqa: E402
from wasmrt.tokenizer.bpe import LETTER_OF  # noqa: E402
from wasmrt.tokenizer.vocab import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED  # noqa: E402

ALIGNMENT = 32
UNIT = 256            # weights that are written together: a superblock, eight blocks of 32, or 256 numbers
POOL_UNITS = 8192     # distinct units for each format and deviation
EMBEDDING_GAIN = 3.0  # of the embedding and the output matrix: the deviation of the logits


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's metadata says. vocabulary: "spm", or a pre-tokenizer of tokenizer.ggml.pre."""

    n_embd: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    rope_base: float = 10000.0
    eps: float = 1e-5
    architecture: str = "llama"
    vocabulary: str = "spm"
    tied: bool = False        # the embedding is the output matrix too
    qkv_bias: bool = False
    rope_factor: float = 1.0  # llama-3's scaling, as a tensor of factors
    n_experts: int = 0
    n_experts_used: int = 0


# As in each model's published config.json.
SHAPES = {
    "tiny": Shape(256, 2, 4, 2, 64, 256, 512, 512),
    "small-16m": Shape(256, 8, 4, 4, 64, 1024, 32000, 2048, tied=True),
    "tinyllama-1.1b": Shape(2048, 22, 32, 4, 64, 5632, 32000, 2048),
    "llama-2-7b": Shape(4096, 32, 32, 32, 128, 11008, 32000, 4096),
    "llama-2-13b": Shape(5120, 40, 40, 40, 128, 13824, 32000, 4096),
    "llama-3-8b": Shape(4096, 32, 32, 8, 128, 14336, 128256, 8192, 500000.0, vocabulary="llama-bpe"),
    "llama-3.2-1b": Shape(
        2048, 16, 32, 8, 64, 8192, 128256, 131072, 500000.0, vocabulary="llama-bpe", tied=True, rope_factor=32.0
    ),
    "mistral-7b": Shape(4096, 32, 32, 8, 128, 14336, 32000, 32768),
    "mixtral-8x7b": Shape(4096, 32, 32, 8, 128, 14336, 32000, 32768, 1e6, n_experts=8, n_experts_used=2),
    "qwen2.5-0.5b": Shape(
        896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, "qwen2", vocabulary="qwen2", tied=True, qkv_bias=True
    ),
}

# A mix's name to general.file_type (llama.cpp's llama_ftype) and the format of most of its tensors.
QUANTS = {
    "F32": (0, "F32"), "F16": (1, "F16"), "BF16": (32, "BF16"),
    "Q4_0": (2, "Q4_0"), "Q4_1": (3, "Q4_1"), "Q5_0": (8, "Q5_0"), "Q5_1": (9, "Q5_1"), "Q8_0": (7, "Q8_0"),
    "Q2_K": (10, "Q2_K"), "Q3_K_M": (12, "Q3_K"), "Q4_K_S": (14, "Q4_K"), "Q4_K_M": (15, "Q4_K"), "Q5_K_M": (17, "Q5_K"),
    "Q6_K": (18, "Q6_K"),
}  # fmt: skip

# What a row that is no whole number of superblocks gets. Before 2026 llama.cpp took IQ4_NL in place of Q4_0, equally large.
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


class Tensor(NamedTuple):
    """dims: row length first, as in the file."""

    name: str
    dims: tuple[int, ...]
    type: QuantType

    @property
    def n_bytes(self) -> int:
        return self.type.row_bytes(self.dims[0]) * math.prod(self.dims[1:])


# Which tensors there are, and their formats


def tensors(s: Shape, quant: str) -> list[Tensor]:
    """All tensors, in the order of llama.cpp's quantizer: those outside of layers first, each group by name."""
    q, kv = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
    outside: dict[str, tuple[int, ...]] = {"token_embd.weight": (s.n_embd, s.n_vocab), "output_norm.weight": (s.n_embd,)}
    if not s.tied:
        outside["output.weight"] = (s.n_embd, s.n_vocab)
    if s.rope_factor != 1.0:
        outside["rope_freqs.weight"] = (s.head_dim // 2,)
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (s.n_embd,),
        "attn_q.weight": (s.n_embd, q),
        "attn_k.weight": (s.n_embd, kv),
        "attn_v.weight": (s.n_embd, kv),
        "attn_output.weight": (q, s.n_embd),
        "ffn_norm.weight": (s.n_embd,),
    }
    if s.qkv_bias:
        layer |= {"attn_q.bias": (q,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
    end, stack = ("_exps", (s.n_experts,)) if s.n_experts else ("", ())
    layer |= {
        f"ffn_gate{end}.weight": (s.n_embd, s.n_ff, *stack),
        f"ffn_up{end}.weight": (s.n_embd, s.n_ff, *stack),
        f"ffn_down{end}.weight": (s.n_ff, s.n_embd, *stack),
    }
    if s.n_experts:
        layer["ffn_gate_inp.weight"] = (s.n_embd, s.n_experts)
    made = [Tensor(name, dims, type_of(s, quant, name, dims)) for name, dims in sorted(outside.items())]
    for i in range(s.n_layers):
        made += [Tensor(f"blk.{i}.{name}", dims, type_of(s, quant, name, dims, i)) for name, dims in sorted(layer.items())]
    return made


def type_of(s: Shape, quant: str, name: str, dims: tuple[int, ...], layer: int = 0) -> QuantType:
    """The format of a tensor in a mix; vectors and routers are F32. `name` is without its layer."""
    if len(dims) == 1 or name == "ffn_gate_inp.weight":
        return BY_NAME["F32"]
    wanted = BY_NAME[mixed(s, quant, name.removesuffix(".weight").removesuffix("_exps"), layer)]
    return BY_NAME[FALLBACK[wanted.name]] if dims[0] % wanted.block else wanted


def mixed(s: Shape, quant: str, name: str, layer: int) -> str:
    """What the mix `quant` wants for a matrix, whatever its row length. Source: llama.cpp's llama_tensor_get_type."""
    base, n = QUANTS[quant][1], s.n_layers
    if base in ("F32", "F16", "BF16"):
        return base
    if name == "output" or (name == "token_embd" and s.tied):
        return base if base == "Q8_0" else "Q6_K"
    if s.n_experts == 8:  # attention is a small part of such a model, so it gets more bits
        if name in ("attn_k", "attn_v"):
            return "Q8_0"
        if name == "attn_output":
            return "Q5_K" if quant in ("Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M") else base
    more_bits = layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2
    match quant, name:
        case "Q2_K", "attn_v":
            return "Q4_K" if s.n_heads // s.n_kv_heads >= 4 else "Q3_K"
        case "Q2_K", "ffn_down" | "attn_output":
            return "Q3_K"
        case "Q3_K_M", "attn_v":
            return "Q5_K" if layer < 2 else "Q4_K"
        case "Q3_K_M", "ffn_down":
            return "Q5_K" if layer < n // 16 else "Q4_K"
        case "Q3_K_M", "attn_output":
            return "Q4_K"
        case "Q4_K_S", "attn_v":
            return "Q5_K" if layer < 4 else base
        case "Q4_K_S", "ffn_down":
            return "Q5_K" if layer < n // 8 else base
        case "Q4_K_M" | "Q5_K_M", "attn_v" | "ffn_down":
            return "Q6_K" if more_bits else base
    return base


# Random weights


class Field(NamedTuple):
    """Where a block keeps its scale d (f16), and its second number: the byte, and what makes the weights' mean zero, in d."""

    d: int
    second: int | None = None
    ratio: float = 0.0


# A mean apart from zero would make every row respond to the sum of its input, and activations would grow from layer to layer.
FIELDS = {
    "Q4_0": Field(0), "Q4_1": Field(0, 2, -7.5), "Q5_0": Field(0), "Q5_1": Field(0, 2, -15.5), "Q8_0": Field(0),
    "Q2_K": Field(80, 82, 1.5), "Q3_K": Field(108), "Q4_K": Field(0, 2, 7.5), "Q5_K": Field(0, 2, 15.5), "Q6_K": Field(208),
}  # fmt: skip


class Pools:
    """Random units by format and deviation, made when first asked for."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._pools: dict[tuple[str, float], NDArray[np.uint8]] = {}

    def fill(self, quant: QuantType, std: float, n_bytes: int) -> Iterator[memoryview]:
        """n_bytes of a tensor in pieces, each valid until the next is asked for.

        Each piece is all of the pool in a new order. In one order, two rows, and so two logits, would soon be the same.
        """
        pool = self._pools.get((quant.name, std))
        if pool is None:
            pool = self._pools[quant.name, std] = make_pool(quant, std, self.rng)
        piece = np.empty_like(pool)
        while n_bytes > 0:
            np.take(pool, self.rng.permutation(len(pool)), axis=0, out=piece, mode="clip")
            n = min(n_bytes, piece.size)
            yield piece.reshape(-1).data[:n]
            n_bytes -= n


def make_pool(quant: QuantType, std: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 (POOL_UNITS, bytes of UNIT weights): packed weights of mean about 0 and deviation std."""
    if quant.block == 1:
        values = std * rng.standard_normal(POOL_UNITS * UNIT, np.float32)
        if quant.name == "BF16":
            packed: NDArray[Any] = (values.view(np.uint32) >> 16).astype("<u2")
        else:
            packed = values.astype("<f4" if quant.name == "F32" else "<f2")
        return packed.view(np.uint8).reshape(POOL_UNITS, -1)
    blocks = rng.integers(0, 256, (POOL_UNITS * UNIT // quant.block, quant.block_bytes), np.uint8)
    tidy(quant, blocks)
    field = FIELDS[quant.name]
    d = rng.uniform(0.75, 1.25, len(blocks))
    if field.second is None and quant.name != "Q8_0":
        d *= rng.choice([-1.0, 1.0], len(blocks))  # quants are -8 to 7 and the like: their mean is not quite 0

    def set_scale(scale: float) -> None:
        for at, ratio in ((field.d, 1.0), (field.second, field.ratio)):
            if at is not None:
                blocks[:, at : at + 2] = (scale * ratio * d).astype("<f2").view(np.uint8).reshape(-1, 2)

    set_scale(1.0)
    sample = blocks[: 1024 * UNIT // quant.block]
    set_scale(std / float(dequantize(quant, sample, 1024, UNIT).std()))
    return blocks.reshape(POOL_UNITS, -1)


def tidy(quant: QuantType, blocks: NDArray[np.uint8]) -> None:
    """Make random blocks, in place, what quantizers write: Q8_0 has no -128, and a minimum is near its group's scale."""
    if quant.name == "Q8_0":
        quants = blocks[:, 2:]
        quants[quants == 0x80] = 0
    elif quant.name == "Q2_K":  # a byte is a scale (low nibble) and a minimum
        scales = blocks[:, 0:16]
        scales[:] = (scales & 15) | ((scales & 15) << 4) ^ (scales & 0x30)
    elif quant.name in ("Q4_K", "Q5_K"):  # bytes 4-7 and 12-15 low: scales; 8-11 and 12-15 high: the minimums, 6 bits each
        low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
        middle[:] = low ^ (middle & 7)
        high[:] = (high & 15) | ((high & 15) << 4) ^ (high & 0x70)


def weights(s: Shape, pools: Pools, tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, in pieces."""
    n = tensor.dims[0]
    if tensor.name == "rope_freqs.weight":
        vector = rope_factors(s)
    elif len(tensor.dims) == 1:
        vector = 0.1 * pools.rng.standard_normal(n) + (0.0 if tensor.name.endswith(".bias") else 1.0)
    else:
        gain = EMBEDDING_GAIN if tensor.name in ("token_embd.weight", "output.weight") else 1.0
        yield from pools.fill(tensor.type, gain / math.sqrt(n), tensor.n_bytes)
        return
    yield vector.astype("<f4").view(np.uint8).data


def rope_factors(s: Shape, low: float = 1.0, high: float = 4.0, n_ctx: float = 8192.0) -> NDArray[np.float64]:
    """Llama 3.1's divisors of the rotary frequencies, (head_dim / 2,): 1 for short waves, rope_factor for long ones.

    low, high: turns over the n_ctx positions of the first training between which one becomes the other.
    """
    turns = n_ctx / (2 * np.pi) * s.rope_base ** (-np.arange(0, s.head_dim, 2) / s.head_dim)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: NDArray[np.float64] = 1 / ((1 - smooth) / s.rope_factor + smooth)
    return factors


# Vocabulary: every letter combination that fits, common letters first

LETTERS = "etaoinshrdlcumwfgypbvkjxqz"  # English, by frequency

# The special tokens behind a BPE vocabulary: how many, and the names of some by their place.
SPECIALS = {
    "llama-bpe": (256, {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>",
                        8: "<|eom_id|>", 9: "<|eot_id|>"}),
    "qwen2": (293, {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>"}),
}  # fmt: skip


def pieces(space: str) -> Iterator[str]:
    """Words with and without a space, longer and longer. Each is an earlier piece (or one character) and one more letter."""
    yield from (space + letter for letter in LETTERS + LETTERS.upper())
    for length in count(2):
        for start in (space, ""):
            for total in range(length * (len(LETTERS) - 1) + 1):
                yield from (start + "".join(LETTERS[rank] for rank in ranks) for ranks in summing_to(total, length))


def summing_to(total: int, length: int) -> Iterator[tuple[int, ...]]:
    """All tuples of `length` ranks of letters with this sum."""
    last = len(LETTERS) - 1
    if length == 1:
        yield (total,)
        return
    for first in range(max(0, total - last * (length - 1)), min(last, total) + 1):
        yield from ((first, *rest) for rest in summing_to(total - first, length - 1))


def tokenizer(s: Shape) -> dict[str, Any]:
    """The keys tokenizer.ggml.*, without that prefix."""
    if s.vocabulary == "spm":
        fixed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        characters = ["\u2581", *map(chr, range(0x21, 0x7F))]
        n_pieces = s.n_vocab - len(fixed)
        texts = [*fixed, *characters, *islice(pieces("\u2581"), n_pieces - len(characters))]
        return {
            "model": "llama", "tokens": texts,
            "scores": [0.0] * len(fixed) + [-float(i) for i in range(n_pieces)],
            "token_type": [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * n_pieces,
            "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True,
        }  # fmt: skip
    n_special, names = SPECIALS[s.vocabulary]
    first = s.n_vocab - n_special  # the id of the first special token
    words = list(islice(pieces(LETTER_OF[ord(" ")]), first - 256))
    special = [names.get(i, f"<|reserved_{i}|>") for i in range(n_special)]
    llama = s.vocabulary == "llama-bpe"
    return {
        "model": "gpt2", "pre": s.vocabulary, "tokens": [*LETTER_OF, *words, *special],
        "token_type": [NORMAL] * first + [CONTROL if llama or i in names else UNUSED for i in range(n_special)],
        "merges": [f"{word[:-1]} {word[-1]}" for word in words],
        "bos_token_id": first, "eos_token_id": first + (1 if llama else 0), "add_bos_token": llama,
    }  # fmt: skip


# The file


def metadata(s: Shape, name: str, quant: str) -> dict[str, Any]:
    """Every key, as converters write them."""
    entries: dict[str, Any] = {
        "context_length": s.n_ctx,
        "embedding_length": s.n_embd,
        "block_count": s.n_layers,
        "feed_forward_length": s.n_ff,
        "attention.head_count": s.n_heads,
        "attention.head_count_kv": s.n_kv_heads,
        "attention.key_length": s.head_dim,
        "attention.value_length": s.head_dim,
        "attention.layer_norm_rms_epsilon": s.eps,
        "rope.freq_base": s.rope_base,
        "rope.dimension_count": s.head_dim,
        "vocab_size": s.n_vocab,
    }
    if s.n_experts:
        entries |= {"expert_count": s.n_experts, "expert_used_count": s.n_experts_used}
    general = {"architecture": s.architecture, "name": f"{name}, random weights", "file_type": QUANTS[quant][0]}
    return {
        **{f"general.{key}": value for key, value in general.items()},
        "general.quantization_version": 2,
        **{f"{s.architecture}.{key}": value for key, value in entries.items()},
        **{f"tokenizer.ggml.{key}": value for key, value in tokenizer(s).items()},
    }


def header(entries: dict[str, Any], layout: list[Tensor]) -> bytes:
    """GGUF version 3 up to the data, padded."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(layout), len(entries))]
    for key, value in entries.items():
        parts += [string(key), encoded(value)]
    offset = 0
    for tensor in layout:
        parts += [string(tensor.name), struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)]
        parts.append(struct.pack("<IQ", tensor.type.id, offset))
        offset += padded(tensor.n_bytes)
    data = b"".join(parts)
    return data.ljust(padded(len(data)), b"\0")


def encoded(value: Any) -> bytes:
    """A metadata value and the number of its type before it: bool, u32, f32, string, or an array of strings, f32 or i32."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + string(value)
    kind, numbers = {str: (8, ""), float: (6, "f"), int: (5, "i")}[type(value[0])]
    elements = struct.pack(f"<{len(value)}{numbers}", *value) if numbers else b"".join(map(string, value))
    return struct.pack("<IIQ", 9, kind, len(value)) + elements


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def write_model(path: Path, name: str, quant: str, seed: int = 0, shape: Shape | None = None) -> int:
    """Write a model to `path` and return its bytes; shape: in place of SHAPES[name].

    Writes to a file beside it, renamed when complete and removed otherwise. Raises OSError, also, before anything is written,
    where the disk has too little room.
    """
    s = shape or SHAPES[name]
    layout = tensors(s, quant)
    head = header(metadata(s, name, quant), layout)
    n_bytes = len(head) + sum(padded(tensor.n_bytes) for tensor in layout)
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise OSError(f"the file takes {n_bytes:,} bytes, but the disk has {free:,} free; make room or choose a smaller model")
    part = path.with_name(path.name + ".part")
    pools = Pools(seed)
    try:
        with (
            part.open("wb") as file,
            tqdm(total=n_bytes, unit="B", unit_scale=True, unit_divisor=1024, desc=path.name, disable=None, leave=False) as bar,
        ):
            bar.update(file.write(head))
            for tensor in layout:
                for piece in weights(s, pools, tensor):
                    bar.update(file.write(piece))
                bar.update(file.write(bytes(padded(tensor.n_bytes) - tensor.n_bytes)))
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return n_bytes


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def natural(text: str) -> int:
    """ValueError, which argparse reports, for anything but 0, 1, 2..."""
    if (number := int(text)) < 0:
        raise ValueError(text)
    return number


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("quant", choices=QUANTS, metavar="QUANT", help=", ".join(QUANTS))
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="another one gives other weights (default: 0)")
    args = parser.parse_args()
    if args.out.is_dir() or not args.out.parent.is_dir():
        parser.error(f"{args.out} is a folder, or lies in none; name a file in a folder that exists")
    try:
        n_bytes = write_model(args.out, args.shape, args.quant, args.seed)
    except OSError as error:
        print(f"error: {args.out} cannot be written: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {args.out} was not written", file=sys.stderr)
        return 130
    print(f"{args.out}: {n_bytes:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

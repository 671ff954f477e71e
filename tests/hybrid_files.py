"""Tiny models with recurrent layers, as converters write them: random F32 weights, the keys and tensor names of real files.

Each entry of MODELS is an architecture, or "architecture:variant". data/hybrid_logits.npz holds llama.cpp's logits of these
files, which `python -m tests.hybrid_files FOLDER` writes, computed in float32.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Array = np.ndarray[Any, Any]
N_VOCAB, N, N_FF, N_TOKENS = 128, 64, 96, 48  # vocabulary, embedding, feed-forward network, tokens of the recorded prompt
LAYERS = range(4)
HEADS = {"attention.head_count": 4, "attention.head_count_kv": 2}


def tokens() -> list[int]:
    """The prompt whose logits are recorded: longer than any window or convolution here."""
    return [int(token) for token in np.random.default_rng(7).integers(0, N_VOCAB, N_TOKENS)]


class Tiny:
    """The keys and tensors of a model under construction. Shapes are numpy's: rows first."""

    def __init__(self, seed: int, **keys: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, Array] = {}
        self.keys: dict[str, Any] = {
            "context_length": 256,
            "embedding_length": N,
            "block_count": len(LAYERS),
            "feed_forward_length": N_FF,
            "attention.layer_norm_rms_epsilon": 1e-5,
        }
        self.keys |= {key.replace("__", "."): value for key, value in keys.items()}

    def add(self, name: str, *shape: int, size: float = 0.1, mean: float = 0.0) -> None:
        self.tensors[name] = (mean + size * self.rng.standard_normal(shape)).astype(np.float32)

    def norm(self, name: str, *shape: int) -> None:
        self.add(name, *shape, mean=1.0)

    def ends(self, norm: str = "output_norm", tied: bool = False) -> None:
        self.add("token_embd.weight", N_VOCAB, N, size=0.5)
        self.norm(f"{norm}.weight", N)
        if not tied:
            self.add("output.weight", N_VOCAB, N)

    def attention(self, p: str, head_dim: int, bias: bool = False, norms: bool = False, gates: bool = False) -> None:
        """4 heads, 2 of keys."""
        for name, rows in (("q", (8 if gates else 4) * head_dim), ("k", 2 * head_dim), ("v", 2 * head_dim)):
            self.add(f"{p}attn_{name}.weight", rows, N)
            if bias:
                self.add(f"{p}attn_{name}.bias", rows)
        if norms:
            self.norm(f"{p}attn_q_norm.weight", head_dim)
            self.norm(f"{p}attn_k_norm.weight", head_dim)
        self.add(f"{p}attn_output.weight", N, 4 * head_dim)

    def feed_forward(self, p: str, n_ff: int = N_FF, gate: bool = True, suffix: str = "", bias: bool = False) -> None:
        for name, shape in (("gate", (n_ff, N)), ("up", (n_ff, N)), ("down", (N, n_ff))):
            if gate or name != "gate":
                self.add(f"{p}ffn_{name}{suffix}.weight", *shape)
                if bias:
                    self.add(f"{p}ffn_{name}{suffix}.bias", shape[0])

    def experts(self, p: str, n_ff: int, n_used: int, gate: bool = True, width: int = N) -> None:
        self.keys |= {"expert_count": 8, "expert_used_count": n_used}
        self.add(f"{p}ffn_gate_inp.weight", 8, N, size=0.5)
        for name, shape in (("gate", (8, n_ff, width)), ("up", (8, n_ff, width)), ("down", (8, width, n_ff))):
            if gate or name != "gate":
                self.add(f"{p}ffn_{name}_exps.weight", *shape)

    def decays(self, name: str, *shape: int) -> None:
        self.tensors[name] = -np.exp(0.5 * self.rng.standard_normal(shape)).astype(np.float32)

    def sizes(self, inner: int, state: int, rank: int, groups: int | None = None) -> None:
        found = {"conv_kernel": 4, "inner_size": inner, "state_size": state, "time_step_rank": rank, "group_count": groups}
        self.keys |= {f"ssm.{name}": size for name, size in found.items() if size is not None}

    def mamba(self, p: str, rank: int, norms: bool = False) -> None:
        inner, state = 2 * N, 16
        self.sizes(inner, state, rank)
        self.add(f"{p}ssm_in.weight", 2 * inner, N)
        self.add(f"{p}ssm_conv1d.weight", inner, 4, size=0.5)
        self.add(f"{p}ssm_conv1d.bias", inner)
        self.add(f"{p}ssm_x.weight", rank + 2 * state, inner)
        self.add(f"{p}ssm_dt.weight", inner, rank, size=0.5)
        self.add(f"{p}ssm_dt.bias", inner)
        for name, width in (("dt", rank), ("b", state), ("c", state)):
            if norms:
                self.norm(f"{p}ssm_{name}_norm.weight", width)
        self.decays(f"{p}ssm_a", inner, state)
        self.add(f"{p}ssm_d", inner, size=1.0)
        self.add(f"{p}ssm_out.weight", N, inner)

    def mamba2(self, p: str, inner: int, heads: int, groups: int, norm: bool = True) -> None:
        state = 16
        self.sizes(inner, state, heads, groups)
        self.add(f"{p}ssm_in.weight", 2 * inner + 2 * groups * state + heads, N)
        self.add(f"{p}ssm_conv1d.weight", inner + 2 * groups * state, 4, size=0.5)
        self.add(f"{p}ssm_conv1d.bias", inner + 2 * groups * state)
        self.add(f"{p}ssm_dt.bias", heads, size=1.0)
        self.decays(f"{p}ssm_a", heads, 1)
        self.add(f"{p}ssm_d", heads, 1, size=1.0)
        if norm:
            self.norm(f"{p}ssm_norm.weight", groups, inner // groups)
        self.add(f"{p}ssm_out.weight", N, inner)

    def delta_net(self, p: str, names: str) -> None:
        """2 heads of keys, 6 of values, 16 elements each."""
        keys, values = 2 * 16, 6 * 16
        self.sizes(values, 16, 6, 2)
        if names == "old":
            self.add(f"{p}ssm_in.weight", 2 * keys + 2 * values, N)
        else:
            self.add(f"{p}attn_qkv.weight", 2 * keys + values, N)
            self.add(f"{p}attn_gate.weight", values, N)
        for name, rows in (("beta", 6), ("alpha", 6)) if names == "apart" else (("ba", 12),):
            self.add(f"{p}ssm_{name}.weight", rows, N)
        self.add(f"{p}ssm_conv1d.weight", 2 * keys + values, 4, size=0.5)
        self.add(f"{p}ssm_dt.bias", 6)
        self.decays(f"{p}ssm_a", 6)
        self.norm(f"{p}ssm_norm.weight", 16)
        self.add(f"{p}ssm_out.weight", N, values)


def mamba(variant: str) -> Tiny:
    m = Tiny(1, feed_forward_length=0, attention__head_count=0)
    m.ends(tied=variant == "tied")
    if variant == "falcon":
        m.keys["ssm.dt_b_c_rms"] = True
    for i in LAYERS:
        m.norm(f"blk.{i}.attn_norm.weight", N)
        m.mamba(f"blk.{i}.", 5)
    return m


def mamba2(variant: str) -> Tiny:
    m = Tiny(2, feed_forward_length=0, attention__head_count=0)
    m.ends()
    for i in LAYERS:
        m.norm(f"blk.{i}.attn_norm.weight", N)
        m.mamba2(f"blk.{i}.", 128, 8, 1 if variant == "one-group" else 2)
    return m


def falcon_h1(variant: str) -> Tiny:
    m = Tiny(3, attention__key_length=24, attention__value_length=24, rope__freq_base=1e11, **HEADS)
    m.ends()
    for i in LAYERS:
        m.norm(f"blk.{i}.attn_norm.weight", N)
        m.attention(f"blk.{i}.", 24)
        m.mamba2(f"blk.{i}.", 96, 6, 1 if variant == "plain" else 2, norm=variant != "plain")
        m.norm(f"blk.{i}.ffn_norm", N)
        m.feed_forward(f"blk.{i}.")
        if variant == "left-out":  # what such files may have, and llama.cpp computes without
            m.add(f"blk.{i}.attn_output.bias", N, size=1.0)
            m.add(f"blk.{i}.ffn_up.scale", 1, size=1.0)
            m.norm("rope_freqs.weight", 12)
    return m


def granite_hybrid(variant: str) -> Tiny:
    m = Tiny(4, **HEADS | {"attention.head_count_kv": [0, 2, 0, 2]})
    if variant == "bamba":
        m.keys |= {"rope.scaling.finetuned": True, "rope.dimension_count": 8}
    else:
        m.keys |= {"attention.scale": 0.1, "embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 8.0}
        m.keys |= {"rope.scaling.finetuned": False}
    m.ends(tied=True)
    for i in LAYERS:
        p = f"blk.{i}."
        m.norm(f"{p}attn_norm.weight", N)
        if i % 2:
            m.attention(p, 16, bias=variant == "bamba")
        else:
            m.mamba2(p, 2 * N, 8, 1)
        m.norm(f"{p}ffn_norm.weight", N)
        if variant == "experts":
            m.keys["expert_shared_feed_forward_length"] = 48
            m.experts(p, N_FF, 3)
            m.feed_forward(p, 48, suffix="_shexp")
        else:
            m.feed_forward(p, bias=variant == "bamba")
    return m


def jamba(variant: str) -> Tiny:
    m = Tiny(5, **HEADS | {"attention.head_count_kv": [0, 0, 2, 0]})
    m.ends()
    for i in LAYERS:
        p = f"blk.{i}."
        m.norm(f"{p}attn_norm.weight", N)
        if i == 2:
            m.attention(p, 16)
        else:
            m.mamba(p, 4, norms=True)
        m.norm(f"{p}ffn_norm.weight", N)
        if i % 2:
            m.experts(p, N_FF, 2)
        else:
            m.feed_forward(p)
    return m


def plamo2(variant: str) -> Tiny:
    # The first layer attends: of files whose first does not, llama.cpp takes no rotation from the keys and runs for ever.
    m = Tiny(6, attention__key_length=32, attention__value_length=32, rope__freq_base=1e6)
    m.keys |= {"attention.head_count": [4, 0, 4, 0], "attention.head_count_kv": [2, 0, 2, 0]}
    m.sizes(128, 16, 8, 0)
    m.ends(tied=True)
    for i in LAYERS:
        p = f"blk.{i}."
        m.norm(f"{p}attn_norm.weight", N)
        if i % 2 == 0:
            m.add(f"{p}attn_qkv.weight", 8 * 32, N)
            m.norm(f"{p}attn_q_norm.weight", 4, 32)
            m.norm(f"{p}attn_k_norm.weight", 2, 32)
            m.add(f"{p}attn_output.weight", N, 4 * 32)
        else:
            m.add(f"{p}ssm_in.weight", 256, N)
            m.add(f"{p}ssm_conv1d.weight", 128, 4, size=0.5)
            m.add(f"{p}ssm_x.weight", 64 + 32, 128)
            m.add(f"{p}ssm_dt.weight", 8, 64)
            m.add(f"{p}ssm_dt.bias", 8)
            m.decays(f"{p}ssm_a", 8)
            m.add(f"{p}ssm_d", 8, size=1.0)
            m.add(f"{p}ssm_out.weight", N, 128)
            for name, width in (("dt", 64), ("b", 16), ("c", 16)):
                m.norm(f"{p}ssm_{name}_norm", width)
        m.norm(f"{p}post_attention_norm", N)
        m.norm(f"{p}ffn_norm.weight", N)
        m.add(f"{p}ffn_up.weight", 2 * N_FF, N)
        m.add(f"{p}ffn_down.weight", N, N_FF)
        m.norm(f"{p}post_ffw_norm", N)
        if variant == "scales":  # of which llama.cpp computes with that of attn_output alone
            for name in ("attn_qkv", "attn_output") if i % 2 == 0 else ("ssm_in", "ssm_out", "ffn_up"):
                m.norm(f"{p}{name}.scale", 1)
                m.tensors[f"{p}{name}.scale"] *= 2
    return m


def nemotron_h(variant: str) -> Tiny:
    experts, kinds = variant.startswith("experts"), "mfaf"  # Mamba-2, feed-forward network, attention
    m = Tiny(7, attention__key_length=24, attention__value_length=24, attention__layer_norm_epsilon=1e-5, **HEADS)
    m.keys |= {"feed_forward_length": [N_FF if kind == "f" else 0 for kind in kinds]}
    m.keys |= {"attention.head_count_kv": [2 if kind == "a" else 0 for kind in kinds]}
    if variant == "one-epsilon":
        del m.keys["attention.layer_norm_rms_epsilon"]
    m.ends()
    width = 40 if variant == "experts-latent" else N
    if experts:
        groups = 4 if variant == "experts-groups" else 1
        m.keys |= {"expert_shared_count": 1, "expert_feed_forward_length": N_FF, "expert_shared_feed_forward_length": 56}
        m.keys |= {"expert_weights_norm": True, "expert_weights_scale": 2.5}
        m.keys |= {"expert_group_count": groups, "expert_group_used_count": 2 if groups > 1 else 1}
        if width != N:
            m.keys["moe_latent_size"] = width
    for i, kind in enumerate(kinds):
        p = f"blk.{i}."
        m.norm(f"{p}attn_norm.weight", N)
        if kind == "m":
            m.mamba2(p, 96, 6, 2)
        elif kind == "a":
            m.attention(p, 24)
        elif experts:
            m.experts(p, N_FF, 3, gate=False, width=width)
            m.add(f"{p}exp_probs_b.bias", 8, size=0.3)
            m.feed_forward(p, 56, gate=False, suffix="_shexp")
            if width != N:
                m.add(f"{p}ffn_latent_down.weight", width, N)
                m.add(f"{p}ffn_latent_up.weight", N, width)
        else:
            m.feed_forward(p, gate=False, bias=variant == "biases")
    return m


def qwen_next(variant: str, names: str, experts: bool) -> Tiny:
    m = Tiny(8, attention__key_length=32, attention__value_length=32, rope__dimension_count=8, rope__freq_base=1e7, **HEADS)
    m.keys |= {"attention.layer_norm_rms_epsilon": 1e-6, "full_attention_interval": 4}
    if names == "apart":
        m.keys["rope.dimension_sections"] = [2, 1, 1, 0]
    drafts = 1 if variant == "drafts" else 0  # layers that guess further tokens
    if drafts:
        m.keys |= {"block_count": len(LAYERS) + drafts, "nextn_predict_layers": drafts}
    recurrent = [True, True, True, False]
    if variant == "listed":
        m.keys["attention.recurrent_layers"] = recurrent = [False, True, True, False]
    n_ff, n_shared = (N_FF // 3, N_FF) if variant == "sizes-not-said" else (40, 48)
    if experts and variant != "sizes-not-said":
        m.keys |= {"expert_feed_forward_length": n_ff, "expert_shared_feed_forward_length": n_shared}
    m.ends(tied=variant == "listed")
    for i in range(len(LAYERS) + drafts):
        p = f"blk.{i}."
        m.norm(f"{p}attn_norm.weight", N)
        m.norm(f"{p}post_attention_norm.weight", N)
        if i < len(LAYERS) and recurrent[i]:
            m.delta_net(p, "old" if variant == "old-names" else names)
        else:
            m.attention(p, 32, norms=True, gates=True)
        if experts:
            m.experts(p, n_ff, 3)
            m.add(f"{p}ffn_gate_inp_shexp.weight", N, size=0.5)
            m.feed_forward(p, n_shared, suffix="_shexp")
        else:
            m.feed_forward(p)
        if i >= len(LAYERS):
            m.add(f"{p}nextn.eh_proj.weight", N, 2 * N)
            for name in ("enorm", "hnorm", "shared_head_norm"):
                m.norm(f"{p}nextn.{name}.weight", N)
    return m


def lfm2(variant: str) -> Tiny:
    experts = variant.startswith("experts")
    m = Tiny(9, shortconv__l_cache=3, rope__freq_base=1e6, **HEADS | {"attention.head_count_kv": [0, 2, 0, 2]})
    if variant.endswith("window"):
        m.keys["attention.sliding_window"] = 7
    if experts:
        m.keys |= {"expert_feed_forward_length": 40, "leading_dense_block_count": 2, "expert_gating_func": 2}
    m.ends("token_embd_norm", tied=True)
    for i in LAYERS:
        p = f"blk.{i}."
        m.norm(f"{p}attn_norm.weight", N)
        if i % 2:
            m.attention(p, 16, norms=True)
        else:
            m.add(f"{p}shortconv.conv.weight", N, 3, size=0.5)
            m.add(f"{p}shortconv.in_proj.weight", 3 * N, N)
            m.add(f"{p}shortconv.out_proj.weight", N, N)
        m.norm(f"{p}ffn_norm.weight", N)
        if experts and i >= 2:
            m.experts(p, 40, 3)
            m.add(f"{p}exp_probs_b.bias", 8, size=0.3)
        else:
            m.feed_forward(p)
    return m


def qwen3next(variant: str) -> Tiny:
    return qwen_next(variant, "together", experts=True)


def qwen35(variant: str) -> Tiny:
    return qwen_next(variant, "apart", experts=False)


def qwen35moe(variant: str) -> Tiny:
    return qwen_next(variant, "apart", experts=True)


# How a model is made, and the variants that there are of it.
MAKERS: dict[str, tuple[Callable[[str], Tiny], tuple[str, ...]]] = {
    "mamba": (mamba, ("", "tied", "falcon")),
    "mamba2": (mamba2, ("", "one-group")),
    "falcon-h1": (falcon_h1, ("", "plain", "left-out")),
    "granitehybrid": (granite_hybrid, ("", "experts", "bamba")),
    "jamba": (jamba, ("",)),
    "plamo2": (plamo2, ("", "scales")),
    "nemotron_h": (nemotron_h, ("", "biases", "one-epsilon")),
    "nemotron_h_moe": (nemotron_h, ("experts", "experts-latent", "experts-groups")),
    "qwen3next": (qwen3next, ("", "old-names", "drafts", "listed", "sizes-not-said")),
    "qwen35": (qwen35, ("", "drafts", "listed")),
    "qwen35moe": (qwen35moe, ("", "drafts", "sizes-not-said")),
    "lfm2": (lfm2, ("", "window")),
    "lfm2moe": (lfm2, ("experts", "experts-window")),
}
MODELS = tuple(f"{name}:{variant}".rstrip(":") for name, (_, variants) in MAKERS.items() for variant in variants)


def write(path: Path, model: str, changes: dict[str, Any] | None = None) -> Path:
    """A model's file, with keys that `changes` adds or replaces."""
    architecture, _, variant = model.partition(":")
    made = MAKERS[architecture][0](variant)
    writer = gguf.GGUFWriter(path, architecture)
    add = {int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool, list: writer.add_array}
    for key, value in (made.keys | (changes or {})).items():
        add[type(value)](f"{architecture}.{key}", value)
    writer.add_uint32(f"{architecture}.vocab_size", N_VOCAB)
    writer.add_tokenizer_model("no_vocab")
    for name, data in made.tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


if __name__ == "__main__":
    for each in MODELS:
        write(Path(sys.argv[1]) / f"{each.replace(':', '.')}.gguf", each)

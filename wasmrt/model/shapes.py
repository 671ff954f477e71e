"""The shapes that tensors have in most families, from the model's sizes; a family's file says where its own differ."""

from wasmrt.model.config import ModelConfig
from wasmrt.model.weights import Shapes


def shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of one layer, the embedding and the head, as the file gives shapes: row length first."""
    q, k, v = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim, c.n_kv_heads * c.value_dim
    pairs = (c.rope.n_dims // 2,) if c.rope else (0,)
    return {
        "token_embd": (c.n_embd, c.n_vocab),
        "token_embd_norm": (c.n_embd,),
        "position_embd": (c.n_embd, c.n_ctx_train),
        "rope_freqs": pairs,
        "rope_factors_long": pairs,
        "rope_factors_short": pairs,
        "attn_norm": (c.n_embd,),
        "attn_norm_2": (c.n_embd,),
        "attn_q": (c.n_embd, q),
        "attn_k": (c.n_embd, k),
        "attn_v": (c.n_embd, v),
        "attn_qkv": (c.n_embd, q + k + v),
        "attn_q_norm": (c.head_dim,),
        "attn_k_norm": (c.head_dim,),
        "attn_sinks": (c.n_heads,),
        "attn_output": (c.n_heads * c.value_dim, c.n_embd),
        "attn_output_norm": (c.n_embd,),
        "post_attention_norm": (c.n_embd,),
        "ffn_norm": (c.n_embd,),
        "ffn_gate": (c.n_embd, c.n_ff),
        "ffn_up": (c.n_embd, c.n_ff),
        "ffn_down": (c.n_ff, c.n_embd),
        "ffn.act": (c.n_ff,),
        "post_ffw_norm": (c.n_embd,),
        "ffn_gate_inp": (c.n_embd, c.n_experts),
        "exp_probs_b": (c.n_experts,),
        "ffn_gate_exps": (c.n_embd, c.n_ff_experts, c.n_experts),
        "ffn_up_exps": (c.n_embd, c.n_ff_experts, c.n_experts),
        "ffn_gate_up_exps": (c.n_embd, 2 * c.n_ff_experts, c.n_experts),
        "ffn_down_exps": (c.n_ff_experts, c.n_embd, c.n_experts),
        "ffn_gate_inp_shexp": (c.n_embd,),
        "ffn_gate_shexp": (c.n_embd, c.n_ff_shared),
        "ffn_up_shexp": (c.n_embd, c.n_ff_shared),
        "ffn_down_shexp": (c.n_ff_shared, c.n_embd),
        "output_norm": (c.n_embd,),
        "output": (c.n_embd, c.n_vocab),
    }


def per_head_norms(c: ModelConfig) -> Shapes:
    """With norms of queries and keys that have weights of their own for each head."""
    return {**shapes(c), "attn_q_norm": (c.head_dim, c.n_heads), "attn_k_norm": (c.head_dim, c.n_kv_heads)}


def whole_norms(c: ModelConfig) -> Shapes:
    """With norms over all heads' queries or keys together."""
    norms = {"attn_q_norm": (c.n_heads * c.head_dim,), "attn_k_norm": (c.n_kv_heads * c.head_dim,)}
    return {**shapes(c), **norms}


def fused_up(c: ModelConfig) -> Shapes:
    """With gate and up in one matrix."""
    return {**shapes(c), "ffn_up": (c.n_embd, 2 * c.n_ff)}

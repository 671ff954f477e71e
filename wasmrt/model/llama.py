"""Llama and its kin: RMS norms, rotary attention with grouped heads, SwiGLU or experts. Source: arXiv 2307.09288."""

from wasmrt.model.blocks import expert_linear, ffn_linear, linear
from wasmrt.model.config import ModelConfig
from wasmrt.model.weights import Shapes, Weights
from wasmrt.program.ops import Operand
from wasmrt.program.record import Recorder


def shapes(c: ModelConfig) -> Shapes:
    """The shape of every tensor, as the file gives shapes: row length first."""
    q, k, v = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim, c.n_kv_heads * c.value_dim
    return {
        "token_embd": (c.n_embd, c.n_vocab),
        "attn_norm": (c.n_embd,),
        "attn_q": (c.n_embd, q),
        "attn_k": (c.n_embd, k),
        "attn_v": (c.n_embd, v),
        "attn_output": (c.n_heads * c.value_dim, c.n_embd),
        "rope_freqs": (c.rope.n_dims // 2,),
        "ffn_norm": (c.n_embd,),
        "ffn_gate": (c.n_embd, c.n_ff),
        "ffn_up": (c.n_embd, c.n_ff),
        "ffn_down": (c.n_ff, c.n_embd),
        "ffn_gate_inp": (c.n_embd, c.n_experts),
        "ffn_gate_exps": (c.n_embd, c.n_ff, c.n_experts),
        "ffn_up_exps": (c.n_embd, c.n_ff, c.n_experts),
        "ffn_down_exps": (c.n_ff, c.n_embd, c.n_experts),
        "output_norm": (c.n_embd,),
        "output": (c.n_embd, c.n_vocab),
    }


def embedding(t: Recorder, c: ModelConfig, w: Weights) -> Operand:
    """The row of each token: (T, n_embd)."""
    return t.embed(w.token_embd)


def layer(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """One layer: pre-norm attention, then a pre-norm feed-forward network, each added to the residual stream x: (T, n_embd)."""
    h = t.rms_norm(x, w.attn_norm, c.rms_eps)
    factors = w.get("rope_freqs")
    q = t.rope(linear(t, w, "attn_q", h), c.rope, factors)               # (T, n_heads * head_dim)
    k = t.rope(linear(t, w, "attn_k", h), c.rope, factors)               # (T, n_kv_heads * head_dim)
    t.store_kv(k, linear(t, w, "attn_v", h))
    a = t.attention(q, c.n_heads, c.n_kv_heads, c.attention_scale)       # (T, n_heads * value_dim)
    x = t.add(x, linear(t, w, "attn_output", a))                         # (T, n_embd)
    h = t.rms_norm(x, w.ffn_norm, c.rms_eps)
    return t.add(x, experts(t, c, w, h) if c.n_experts else feed_forward(t, w, h))


def feed_forward(t: Recorder, w: Weights, h: Operand) -> Operand:
    """SwiGLU. h: (T, n_embd)."""
    gated = t.swiglu(ffn_linear(t, w, "ffn_gate", h), ffn_linear(t, w, "ffn_up", h))  # (T, n_ff)
    return ffn_linear(t, w, "ffn_down", gated)


def experts(t: Recorder, c: ModelConfig, w: Weights, h: Operand) -> Operand:
    """SwiGLU by the n_experts_used experts that the router likes best, weighted. h: (T, n_embd). Source: arXiv 2401.04088."""
    chosen, weights = t.route(t.matmul(w.ffn_gate_inp, h), c.n_experts_used)   # both (T, n_used)
    gate, up = (expert_linear(t, w, name, h, chosen) for name in ("ffn_gate_exps", "ffn_up_exps"))
    y = expert_linear(t, w, "ffn_down_exps", t.swiglu(gate, up), chosen)       # (T, n_used * n_embd)
    return t.expert_sum(y, weights)


def head(t: Recorder, c: ModelConfig, w: Weights, x: Operand) -> Operand:
    """Logits of the rows that want them: (n_out, n_vocab). Tied models have no output matrix and use the embedding."""
    h = t.rms_norm(t.last_rows(x), w.output_norm, c.rms_eps)
    return linear(t, w, "output" if w.get("output") is not None else "token_embd", h)

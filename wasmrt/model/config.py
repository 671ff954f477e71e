"""ModelConfig: what the file says about its model, checked once when it is read."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.gguf.metadata import Metadata, StringArray
from wasmrt.gguf.reader import Header
from wasmrt.program.record import Rope

MAX_LAYERS = 512  # more than any published model has; a larger count is a damaged or hostile file
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 27
MAX_MAGNITUDE = 1e6  # of what YaRN multiplies queries and keys by; published models stay near 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of a model, named as the field names them."""

    architecture: str
    name: str
    n_ctx_train: int
    n_vocab: int
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int  # of queries and keys
    value_dim: int
    rms_eps: float
    rope: Rope
    attention_scale: float
    n_experts: int = 0
    n_experts_used: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_header(cls, header: Header) -> "ModelConfig":
        """Read and check the metadata of a llama-like model. Raises FormatError naming the key."""
        m = header.metadata
        arch = m.string("general.architecture")

        def integer(key: str, default: int | None = None, minimum: int = 1, maximum: int = MAX_WIDTH) -> int:
            found = m.get(f"{arch}.{key}")
            if found is not None and not isinstance(found, int | float | str | bool):
                return _uniform(m, f"{arch}.{key}", m.integer(f"{arch}.block_count"), minimum, maximum)
            if found is None and default is not None:
                return default
            return m.integer(f"{arch}.{key}", minimum=minimum, maximum=maximum)

        n_embd = integer("embedding_length")
        n_heads = integer("attention.head_count")
        n_kv_heads = integer("attention.head_count_kv", n_heads)
        if f"{arch}.attention.key_length" not in m and n_embd % n_heads:
            raise FormatError(f"{arch}.embedding_length {n_embd} is not a multiple of {arch}.attention.head_count {n_heads}")
        head_dim = integer("attention.key_length", n_embd // n_heads)
        if n_heads % n_kv_heads:
            raise FormatError(f"{arch}.attention.head_count {n_heads} is not a multiple of head_count_kv {n_kv_heads}")
        n_experts = integer("expert_count", 0, minimum=0, maximum=4096)
        n_experts_used = integer("expert_used_count", 0, minimum=0, maximum=4096)
        if n_experts and not 1 <= n_experts_used <= n_experts:
            raise FormatError(f"{arch}.expert_used_count is {n_experts_used}, but there are {n_experts} experts")
        scale = m.number(f"{arch}.attention.scale", default=0.0, minimum=0.0)
        return cls(
            architecture=arch,
            name=m.string("general.name", default=""),
            n_ctx_train=integer("context_length", maximum=MAX_CONTEXT),
            n_vocab=_n_vocab(header, arch),
            n_layers=integer("block_count", maximum=MAX_LAYERS),
            n_embd=n_embd,
            n_ff=integer("feed_forward_length"),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            value_dim=integer("attention.value_length", head_dim),
            rms_eps=_positive(m, f"{arch}.attention.layer_norm_rms_epsilon"),
            rope=_rope(m, arch, head_dim),
            attention_scale=scale or 1 / math.sqrt(head_dim),
            n_experts=n_experts,
            n_experts_used=n_experts_used,
        )


def _uniform(m: Metadata, key: str, n_layers: int, minimum: int, maximum: int) -> int:
    """A per-layer array whose values are all equal."""
    if len(m.integers(key)) != n_layers:
        raise FormatError(f"{key} has {len(m.integers(key))} values, but the model has {n_layers} layers")
    values = set(m.integers(key))
    if len(values) != 1:
        raise UnsupportedError(f"{key} differs from layer to layer ({sorted(values)[:8]}), which is not supported yet")
    value = values.pop()
    if not minimum <= value <= maximum:
        raise FormatError(f"{key} is {value}, expected {minimum} to {maximum}")
    return value


def _positive(m: Metadata, key: str, default: float | None = None) -> float:
    """A finite number above zero."""
    value = m.number(key) if default is None else m.number(key, default=default)
    if value <= 0:
        raise FormatError(f"{key} is {value}, expected a number above 0")
    return value


def _n_vocab(header: Header, arch: str) -> int:
    """The embedding's rows: the file's own count of its vocabulary, held against the metadata and the token list."""
    table = header.tensors.get("token_embd.weight")
    if table is None:
        raise FormatError("tensor 'token_embd.weight' is missing: this is only a vocabulary, or a part of a model")
    n_vocab = table.n_rows
    said = header.metadata.integer(f"{arch}.vocab_size", default=n_vocab)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    listed = len(tokens) if isinstance(tokens, StringArray) else n_vocab
    if said != n_vocab or listed != n_vocab:
        raise FormatError(f"token_embd.weight has {n_vocab} rows, but the file speaks of {said} and lists {listed} tokens")
    return n_vocab


def _rope(m: Metadata, arch: str, head_dim: int) -> Rope:
    """Rotary embedding with no, linear or YaRN scaling; llama-3's factors are a tensor (rope_freqs), not metadata."""
    key = f"{arch}.rope."
    n_dims = m.integer(key + "dimension_count", default=head_dim, minimum=1, maximum=MAX_WIDTH)
    if n_dims > head_dim or n_dims % 2:
        raise FormatError(f"{key}dimension_count is {n_dims}, expected an even number up to the head's {head_dim}")
    base = m.number(key + "freq_base", default=10000.0, minimum=1e-6, maximum=1e30)  # its powers are to be numbers
    scaling = m.string(key + "scaling.type", default="linear")
    factor = _positive(m, key + "scaling.factor", _positive(m, key + "scale_linear", 1.0))
    if scaling in ("none", "") or (scaling == "linear" and factor == 1.0):
        return Rope(n_dims, head_dim, base)
    if scaling == "linear":
        return Rope(n_dims, head_dim, base, scale=1 / factor)
    if scaling != "yarn":
        raise UnsupportedError(f"rope scaling {scaling!r} ({key}scaling.type) is not supported; supported: none, linear, yarn")
    n_ctx = m.integer(key + "scaling.original_context_length", minimum=1, maximum=MAX_CONTEXT)
    attention = _positive(m, key + "scaling.attn_factor", _positive(m, key + "scaling.yarn_attn_factor", 1.0))
    fast = m.number(key + "scaling.yarn_beta_fast", default=32.0, minimum=1e-6, maximum=1e6)
    slow = m.number(key + "scaling.yarn_beta_slow", default=1.0, minimum=1e-6, maximum=1e6)
    magnitude = attention * (1 + 0.1 * math.log(factor))
    if not 0 < magnitude <= MAX_MAGNITUDE:
        what = f"{key}scaling.attn_factor {attention} and {key}scaling.factor {factor}"
        raise FormatError(f"{what} scale queries by {magnitude}, expected a number above 0, up to {MAX_MAGNITUDE:g}")
    if base <= 1:
        raise FormatError(f"{key}freq_base is {base}, expected a number above 1 for YaRN scaling")

    def pair_of(turns: float) -> float:
        """The pair that turns this often over the original context."""
        return n_dims * math.log(n_ctx / (turns * 2 * math.pi)) / (2 * math.log(base))

    return Rope(
        n_dims,
        head_dim,
        base,
        scale=1 / factor,
        magnitude=magnitude,
        extrapolation=m.number(key + "scaling.yarn_ext_factor", default=1.0, minimum=0.0),
        ramp_low=max(0.0, math.floor(pair_of(fast))),
        ramp_high=min(n_dims - 1.0, math.ceil(pair_of(slow))),
    )

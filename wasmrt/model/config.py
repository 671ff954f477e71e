"""ModelConfig: what the file says about its model, checked once when it is read."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.gguf.metadata import Metadata, StringArray
from wasmrt.gguf.reader import Header
from wasmrt.model.positions import MAX_CONTEXT, read_rope
from wasmrt.program.record import Rope
from wasmrt.store.plan import DEFAULT_CONTEXT

MAX_LAYERS = 512  # more than any published model has; a larger count is a damaged or hostile file
MAX_WIDTH = 1 << 20
MAX_NUMBER = 1e30  # devices compute in float32: a number and its inverse are to be well within it


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of a model, named as the field names them.

    Where layers differ, a field holds what the first layer has, and `by_layer` what each has; `at(i)` speaks of layer i alone.
    """

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
    norm_eps: float
    attention_scale: float
    norm: str = "rms"  # or "layer"
    activation: str = "swiglu"  # of the feed-forward network: a gated op, or a function of `unary`
    xielu: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # alpha_n, alpha_p, beta, eps of that activation
    rope: Rope | None = None
    long_rope: bool = False  # whether the context is longer than what the short rope factors are for
    layer: int = 0  # which one this speaks of
    n_draft_layers: int = 0  # that come after the others and only guess further tokens: no part of a pass

    # Attention
    window: int = 0  # positions that a query sees; 0: all before it
    chunked: bool = False
    attention_softcap: float = 0.0
    max_bias: float = 0.0  # of ALiBi
    clamp_qkv: float = 0.0
    temper_length: float = 0.0  # see Recorder.temper; 0: not
    temper_scale: float = 0.0
    temper_offset: float = 0.0

    # The residual stream
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    parallel: bool = False  # attention and the feed-forward network add to the same stream

    # Experts
    n_experts: int = 0
    n_experts_used: int = 0
    n_ff_experts: int = 0
    n_ff_shared: int = 0  # of the experts that all tokens visit, together
    n_latent: int = 0  # width of the stream that experts work on, where it is not n_embd
    expert_score: str = "softmax"
    expert_normalize: bool = True
    expert_scale: float = 1.0
    n_expert_groups: int = 1
    n_expert_groups_used: int = 1
    is_sparse: bool = False  # whether the layer has experts

    # Recurrent layers
    is_recurrent: bool = False
    n_taps: int = 0
    ssm_inner: int = 0
    ssm_state: int = 0
    ssm_heads: int = 0
    ssm_groups: int = 1
    ssm_rank: int = 0  # of Mamba's steps
    ssm_norms: bool = False  # of what Mamba's scan takes

    # Latent attention
    q_rank: int = 0
    kv_rank: int = 0

    by_layer: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def at(self, layer: int) -> "ModelConfig":
        """What holds of one layer."""
        return replace(self, layer=layer, by_layer={}, **{name: values[layer] for name, values in self.by_layer.items()})

    def varied(self, **fields: "tuple[Any, ...]") -> "ModelConfig":
        """With fields that have a value for each layer."""
        by_layer = {name: values for name, values in fields.items() if len(set(values)) > 1}
        kept = {name: values for name, values in self.by_layer.items() if name not in fields}
        return replace(self, **{name: values[0] for name, values in fields.items()}, by_layer=kept | by_layer)


class Keys:
    """The metadata of a model by keys without the architecture's name before them. FormatError names the whole key."""

    def __init__(self, metadata: Metadata, architecture: str, n_layers: int = 0, n_more: int = 0) -> None:
        """n_layers: that a pass goes through; behind them a file may have n_more, which only guess at later tokens."""
        self.metadata, self.architecture, self.n_layers, self.n_more = metadata, architecture, n_layers, n_more

    def __contains__(self, key: str) -> bool:
        return self.name(key) in self.metadata

    def name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def integer(self, key: str, default: int | None = None, minimum: int = 1, maximum: int = MAX_WIDTH) -> int:
        if default is not None and key not in self:
            return default
        return self.metadata.integer(self.name(key), minimum=minimum, maximum=maximum)

    def number(
        self, key: str, default: float | None = None, minimum: float = -MAX_NUMBER, maximum: float = MAX_NUMBER
    ) -> float:
        if default is not None and key not in self:
            return default
        return self.metadata.number(self.name(key), minimum=minimum, maximum=maximum)

    def flag(self, key: str, default: bool) -> bool:
        return self.metadata.flag(self.name(key), default=default)

    def positive(self, key: str, default: float | None = None, maximum: float = MAX_NUMBER) -> float:
        """A number above zero, by which others can be divided."""
        value = self.number(key, default, maximum=maximum)
        if value < 1 / MAX_NUMBER:
            raise FormatError(f"{self.name(key)} is {value}, expected a number above 0")
        return value

    def scale(self, key: str) -> float:
        """A factor that 0, or no such key, leaves out."""
        return self.positive(key) if self.number(key, 0.0) else 1.0

    def is_array(self, key: str) -> bool:
        value = self.metadata.get(self.name(key))
        return value is not None and not isinstance(value, int | float | str | bool)

    def integers(self, key: str, default: int | None = None, minimum: int = 1, maximum: int = MAX_WIDTH) -> tuple[int, ...]:
        """For each layer a count, from an array or from one number for all. Of an array some may be 0."""
        if not self.is_array(key):
            return (self.integer(key, default, minimum, maximum),) * self.n_layers
        values = tuple(self.metadata.integers(self.name(key)))
        if len(values) not in (self.n_layers, self.n_layers + self.n_more):
            raise FormatError(f"{self.name(key)} has {len(values)} values, but the model has {self.n_layers} layers")
        values = values[: self.n_layers]
        wrong = next((value for value in values if value and not minimum <= value <= maximum), None)
        if wrong is not None or not any(values):
            raise FormatError(f"{self.name(key)} is {wrong or 0}, expected {minimum} to {maximum}")
        return values

    def numbers(self, key: str) -> tuple[float, ...]:
        """For each layer a number, from an array or from one for all."""
        if not self.is_array(key):
            return (self.number(key),) * self.n_layers
        values = tuple(self.metadata.numbers(self.name(key)))
        if len(values) < self.n_layers:
            raise FormatError(f"{self.name(key)} has {len(values)} values, but the model has {self.n_layers} layers")
        return values[: self.n_layers]

    def flags(self, key: str, default: tuple[bool, ...]) -> tuple[bool, ...]:
        """For each layer a truth value, from an array of booleans or numbers."""
        if key not in self:
            return default
        value = self.metadata[self.name(key)]
        booleans = isinstance(value, memoryview) and value.format == "?"
        read = self.metadata.flags if booleans else self.metadata.integers
        values = tuple(map(bool, read(self.name(key))))
        if len(values) < self.n_layers:
            raise FormatError(f"{self.name(key)} has {len(values)} values, but the model has {self.n_layers} layers")
        return values[: self.n_layers]

    def windows(self, period: int, default: int = 0) -> tuple[int, ...]:
        """The sliding window of each layer: of `period` layers the last sees everything, unless the file has a pattern."""
        window = self.integer("attention.sliding_window", default, minimum=0, maximum=MAX_CONTEXT)
        key = "attention.sliding_window_pattern"
        if self.is_array(key):
            slides = self.flags(key, ())
        else:
            period = self.integer(key, period, minimum=0)
            slides = tuple(period == 0 or i % period < period - 1 for i in range(self.n_layers))
        return tuple(window if slide else 0 for slide in slides)


def read_config(header: Header, rope_style: str, norm: str, activation: str, context: int | None) -> tuple[ModelConfig, Keys]:
    """Read and check what all architectures share. Raises FormatError naming the key.

    rope_style: "pairs", "halves" or "" for none. context: positions that are wanted, which rope factors may depend on; None: as
    many as the engine gives who names none.
    """
    m = header.metadata
    arch = m.string("general.architecture")
    n_all = Keys(m, arch).integer("block_count", maximum=MAX_LAYERS)
    n_more = Keys(m, arch).integer("nextn_predict_layers", 0, minimum=0, maximum=n_all - 1)
    n_layers = n_all - n_more
    keys = Keys(m, arch, n_layers, n_more)
    if not keys.flag("attention.causal", True):
        raise UnsupportedError(f"{keys.name('attention.causal')} is false: a model that compares texts and writes none")
    n_embd = keys.integer("embedding_length")
    n_ctx = keys.integer("context_length", maximum=MAX_CONTEXT)
    wanted = context or min(n_ctx, DEFAULT_CONTEXT)
    attends = bool(rope_style) or "attention.head_count" in keys
    least = 1 if rope_style else 0  # files of models without attention say 0
    heads = keys.integers("attention.head_count", minimum=least) if attends else (0,) * n_layers
    kv_heads = keys.integers("attention.head_count_kv") if "attention.head_count_kv" in keys else heads
    n_heads = max(heads)
    if n_heads and "attention.key_length" not in keys and n_embd % n_heads:
        raise FormatError(f"{arch}.embedding_length {n_embd} is not a multiple of {arch}.attention.head_count {n_heads}")
    head_dim = keys.integer("attention.key_length", n_embd // n_heads) if n_heads else 0
    for n, n_kv in zip(heads, kv_heads, strict=True):
        if n_kv and n % n_kv:
            raise FormatError(f"{arch}.attention.head_count {n} is not a multiple of head_count_kv {n_kv}")
    n_experts = keys.integer("expert_count", 0, minimum=0, maximum=4096)
    n_experts_used = keys.integer("expert_used_count", 0, minimum=0, maximum=4096)
    if n_experts == 1 and not n_experts_used:
        n_experts = 0  # so files of dense models may say it, whose family also has a mixture
    if n_experts and not 1 <= n_experts_used <= n_experts:
        raise FormatError(f"{arch}.expert_used_count is {n_experts_used}, but there are {n_experts} experts")
    n_groups = keys.integer("expert_group_count", 0, minimum=0, maximum=4096) or 1
    if n_experts % n_groups:
        raise FormatError(f"{arch}.expert_group_count is {n_groups}, but there are {n_experts} experts")
    rms_eps = norm == "rms" and ("attention.layer_norm_rms_epsilon" in keys or "attention.layer_norm_epsilon" not in keys)
    config = ModelConfig(
        architecture=arch,
        name=m.string("general.name", default=""),
        n_ctx_train=n_ctx,
        n_vocab=_n_vocab(header, arch),
        n_layers=n_layers,
        n_draft_layers=n_more,
        n_embd=n_embd,
        n_ff=0,
        n_heads=n_heads,
        n_kv_heads=0,
        head_dim=head_dim,
        value_dim=keys.integer("attention.value_length", head_dim) if n_heads else 0,
        norm_eps=keys.positive(f"attention.layer_norm_{'rms_' if rms_eps else ''}epsilon", maximum=1.0),
        attention_scale=1 / math.sqrt(head_dim) if head_dim else 1.0,
        norm=norm,
        activation=activation,
        rope=read_rope(keys, head_dim, rope_style, n_ctx) if rope_style else None,
        long_rope=wanted > keys.integer("rope.scaling.original_context_length", n_ctx, maximum=MAX_CONTEXT),
        n_experts=n_experts,
        n_experts_used=n_experts_used,
        n_expert_groups=n_groups,
        n_expert_groups_used=keys.integer("expert_group_used_count", 0, minimum=0, maximum=n_groups) or n_groups,
        is_sparse=n_experts > 0,
    )
    has_ff = "feed_forward_length" in keys or (rope_style and not n_experts)
    ff = keys.integers("feed_forward_length", minimum=least) if has_ff else (0,) * n_layers
    config = config.varied(n_heads=heads, n_kv_heads=kv_heads, n_ff=ff)
    n_ff_experts = keys.integer("expert_feed_forward_length", 0, minimum=0)
    return replace(config, n_ff_experts=n_ff_experts or max(ff)), keys


def _n_vocab(header: Header, arch: str) -> int:
    """The embedding's rows: the file's own count of its vocabulary, held against the token list, or else the metadata."""
    table = header.tensors.get("token_embd.weight")
    if table is None:
        raise FormatError("tensor 'token_embd.weight' is missing: this is only a vocabulary, or a part of a model")
    n_vocab = table.n_rows
    said = header.metadata.integer(f"{arch}.vocab_size", default=n_vocab)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    listed = len(tokens) if isinstance(tokens, StringArray) else n_vocab
    if listed != n_vocab or (tokens is None and said != n_vocab):  # of a list's length `said` may be an earlier state
        raise FormatError(f"token_embd.weight has {n_vocab} rows, but the file speaks of {said} and lists {listed} tokens")
    return n_vocab

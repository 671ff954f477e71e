"""From header to programs: metadata and tensors that do not fit together are refused by name, before a weight is read."""

import math
from dataclasses import replace

import gguf
import numpy as np
import pytest

import wasmrt
from tests.architecture_files import outlines, write
from tests.gguf_files import write_llama
from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.gguf.reader import parse_header
from wasmrt.model.build import FAMILIES, build
from wasmrt.model.config import read_config
from wasmrt.model.deepseek import deepseek2
from wasmrt.store.open import HEADER_READ
from wasmrt.store.source import MemorySource


def built(path):
    return build(parse_header(path.read_bytes()))


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"block_count": 0}, r"llama\.block_count"),
        ({"block_count": 513}, r"llama\.block_count.*512"),
        ({"block_count": 2**31}, r"llama\.block_count"),
        ({"block_count": "two"}, r"llama\.block_count"),
        ({"attention.head_count": 0}, r"llama\.attention\.head_count"),
        ({"attention.head_count": 5}, r"embedding_length 64 is not a multiple of llama\.attention\.head_count 5"),
        ({"attention.head_count_kv": 3}, r"head_count 4 is not a multiple of head_count_kv 3"),
        ({"rope.dimension_count": 18}, r"rope\.dimension_count is 18, expected an even number up to the head's 16"),
        ({"rope.dimension_count": 7}, r"rope\.dimension_count is 7"),
        ({"attention.layer_norm_rms_epsilon": math.nan}, r"layer_norm_rms_epsilon"),
        ({"attention.layer_norm_rms_epsilon": math.inf}, r"layer_norm_rms_epsilon"),
        ({"attention.layer_norm_rms_epsilon": -1e-5}, r"layer_norm_rms_epsilon is -9"),
        ({"rope.freq_base": 0.0}, r"rope\.freq_base' should be a number in 1e-06\.\.1e\+30, found 0\.0"),
        ({"rope.freq_base": 1e-30}, r"rope\.freq_base' should be .*e-30"),
        ({"rope.freq_base": math.nan}, r"rope\.freq_base"),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": -2.0}, r"rope\.scaling\.factor is -2"),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.attn_factor": 3e38, "rope.scaling.original_context_length": 9},
            r"scaling\.attn_factor",
        ),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 1e-29, "rope.scaling.original_context_length": 9},
            r"scaling\.factor .* scale queries by -",
        ),
        ({"rope.scaling.type": "plum"}, r"rope scaling 'plum'.*supported: none, linear, yarn, longrope"),
        ({"rope.scaling.type": "yarn", "rope.freq_base": 1.0, "rope.scaling.original_context_length": 9}, r"freq_base is 1\.0"),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.yarn_beta_slow": 1e30, "rope.scaling.original_context_length": 64},
            r"yarn_beta_slow",
        ),
        ({"attention.head_count": [4, 4, 4]}, r"head_count has 3 values, but the model has 2 layers"),
        ({"attention.head_count": []}, r"head_count"),
        ({"context_length": 2**31}, r"llama\.context_length"),
        ({"context_length": 0}, r"llama\.context_length"),
        ({"expert_count": 4, "expert_used_count": 5}, r"expert_used_count is 5, but there are 4 experts"),
        ({"feed_forward_length": [96, 97]}, r"'blk\.1\.ffn_gate\.weight' has shape \[64, 96\].*asks for \[64, 97\]"),
        ({"feed_forward_length": 95}, r"'blk\.0\.ffn_gate\.weight' has shape \[64, 96\].*asks for \[64, 95\]"),
        ({"embedding_length": 32, "rope.dimension_count": 8}, r"'token_embd\.weight' has shape.*asks for \[32, 96\]"),
    ],
)
def test_metadata_that_cannot_be_is_refused(tmp_path, changes, match):
    """Rows of wrong values, each naming its key; nothing of the size that it claims is allocated."""
    path = write_llama(tmp_path / "m.gguf", changes=changes)
    with pytest.raises((FormatError, UnsupportedError), match=match):
        built(path)


def test_a_count_of_tokens_means_nothing_beside_their_list(tmp_path):
    """Files keep the count of the model that they were trained from; llama.cpp goes by the list."""
    assert built(write_llama(tmp_path / "m.gguf", changes={"vocab_size": 95})).config.n_vocab == 96


@pytest.mark.parametrize("used", [{}, {"expert_used_count": 1}])
@pytest.mark.parametrize(("outline", "architecture"), [("ernie4_5-moe", "ernie4_5"), ("maincoder-dense", "hunyuan-dense")])
def test_one_expert_is_none(tmp_path, outline, architecture, used):
    """Files of dense models may count one expert. Maincoder's tensors are those of the dense Hunyuan."""
    model = outlines()[outline]
    keys = {key: value for key, value in model["keys"].items() if not key.startswith("expert_")}
    model |= {"architecture": architecture, "keys": keys | {"expert_count": 1} | used}
    assert not built(write(tmp_path / "m.gguf", model)).config.is_sparse


@pytest.mark.parametrize(
    ("n_layers", "n_vocab", "score"), [(47, 154880, "sigmoid"), (47, 129280, "softmax"), (61, 154880, "softmax")]
)
def test_scores_that_files_of_glm_flash_do_not_state(tmp_path, n_layers, n_vocab, score):
    """As llama.cpp: by the model's sizes. The first of its files have no expert_gating_func."""
    model = outlines()["mistral4-moe"]
    keys = {key: value for key, value in model["keys"].items() if key != "expert_gating_func"}
    header = parse_header(write(tmp_path / "m.gguf", {**model, "keys": keys}).read_bytes())
    config, found = read_config(header, "pairs", "rms", "swiglu", None)
    assert deepseek2(replace(config, n_layers=n_layers, n_vocab=n_vocab), found).expert_score == score


@pytest.mark.parametrize("key", ["embedding_length", "block_count", "attention.head_count", "context_length"])
def test_missing_keys_are_named(tmp_path, key):
    with pytest.raises(FormatError, match=f"llama.{key}"):
        built(write_llama(tmp_path / "m.gguf", drop=(key,)))


def test_per_layer_arrays_of_equal_values_are_one_value(tmp_path):
    """Converters of some models write one count a layer."""
    arrays = {"feed_forward_length": [96, 96], "attention.head_count_kv": [2, 2]}
    model = built(write_llama(tmp_path / "m.gguf", changes=arrays))
    assert (model.config.n_ff, model.config.n_kv_heads) == (96, 2)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"token_embd.weight": None}, "tensor 'token_embd.weight' is missing"),
        ({"output_norm.weight": None}, "tensor 'output_norm.weight' is missing"),
        ({"blk.1.attn_k.weight": None}, "tensor 'blk.1.attn_k.weight' is missing"),
        ({"blk.0.attn_q.weight": zeros(64, 32)}, r"tensor 'blk\.0\.attn_q\.weight' has shape \[32, 64\].*asks for \[64, 64\]"),
        ({"blk.0.attn_norm.weight": zeros(63)}, r"tensor 'blk\.0\.attn_norm\.weight' has shape \[63\]"),
        ({"output.weight": zeros(95, 64)}, r"tensor 'output\.weight' has shape \[64, 95\]"),
        ({"blk.1.attn_k.weight": None, "attn_k.weight": zeros(32, 64)}, "tensor 'blk.1.attn_k.weight' is missing"),
        ({"blk.0.attn_q.bias": zeros(63)}, r"tensor 'blk\.0\.attn_q\.bias' has shape \[63\].*asks for \[64\]"),
        ({"blk.0.attn_q_norm.weight": zeros(16)}, r"1 tensors have no place.*'blk\.0\.attn_q_norm\.weight'"),
        ({"blk.2.attn_norm.weight": zeros(64)}, r"have no place.*'blk\.2\.attn_norm\.weight'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, tensors, match):
    with pytest.raises((FormatError, UnsupportedError), match=match):
        built(write_llama(tmp_path / "m.gguf", tensors=tensors))


def test_unknown_architecture_is_refused_with_the_list(tmp_path):
    """Of the file the header is read, and no weight."""
    source = Counted(write_llama(tmp_path / "m.gguf", architecture="plum").read_bytes() + bytes(4 * HEADER_READ))
    supported = ", ".join(sorted(FAMILIES))
    with pytest.raises(UnsupportedError, match=f"architecture 'plum' is not supported yet; supported: {supported}"):
        wasmrt.load(source, device="reference")
    assert source.read == HEADER_READ


class Counted(MemorySource):
    """A file in memory that counts what is read of it."""

    def __init__(self, data):
        super().__init__(data)
        self.read = 0

    async def read_into(self, offset, view):
        self.read += len(view)
        await super().read_into(offset, view)


def test_a_tied_head_uses_the_embedding(tmp_path, device):
    """Without output.weight, the logits are those of the embedding as the output matrix; it is stored once."""
    tied = write_llama(tmp_path / "tied.gguf", tensors={"output.weight": None})
    embedding = next(t for t in gguf.GGUFReader(tied).tensors if t.name == "token_embd.weight").data
    untied = write_llama(tmp_path / "untied.gguf", tensors={"output.weight": np.array(embedding)})
    ids = [1, 40, 41, 42]
    with wasmrt.load(tied, device=device) as a, wasmrt.load(untied, device=device) as b:
        assert np.array_equal(a.logits(ids), b.logits(ids))
        assert b.plan.weight_bytes - a.plan.weight_bytes == embedding.nbytes


def test_equal_layers_share_a_program(tmp_path):
    """What is compiled does not grow with the depth; a layer in another format is another program."""
    model = built(write_llama(tmp_path / "m.gguf"))
    assert len(model.programs) == 4
    assert model.programs[1] is model.programs[2]
    half = np.zeros((64, 64), np.float16)
    mixed = built(write_llama(tmp_path / "half.gguf", tensors={"blk.1.attn_q.weight": half}))
    assert mixed.programs[1] != mixed.programs[2]


def test_an_expert_model_is_recorded_and_runs(tmp_path, device):
    """Four experts, two used: an entry an expert; generating works."""
    path = write_llama(tmp_path / "moe.gguf", experts=4)
    layer = built(path).programs[1]
    assert {w.name: w.n_entries for w in layer.weights if w.is_expert} == {
        "ffn_gate_exps.weight": 4,
        "ffn_up_exps.weight": 4,
        "ffn_down_exps.weight": 4,
    }
    with wasmrt.load(path, device=device) as model:
        generation = model.generate([1, 40, 41], max_tokens=4)
        list(generation)
        assert generation.stats.generated_tokens > 0


def test_damaged_weights_are_reported_not_spoken(tmp_path, device):
    """NaN in a weight reaches the logits, which are always checked."""
    broken = np.zeros((64, 64), np.float32)
    broken[3, 3] = np.nan
    path = write_llama(tmp_path / "nan.gguf", tensors={"blk.1.attn_output.weight": broken})
    with wasmrt.load(path, device=device) as model:
        with pytest.raises(wasmrt.DeviceError, match="NaN or infinity"):
            list(model.generate([1, 40]))
        with pytest.raises(wasmrt.DeviceError, match="NaN or infinity"):
            model.logits([1, 40])


def test_yarn_parameters(tmp_path):
    """Source: Peng et al., arXiv 2309.00071: attention factor 0.1 ln(s) + 1; a ramp from 32 turns to 1 over the old context."""
    changes = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 4096,
        "rope.dimension_count": 16,
    }
    rope = built(write_llama(tmp_path / "m.gguf", changes=changes)).config.rope
    assert rope.scale == 0.25
    assert rope.extrapolation == 1.0
    assert rope.magnitude == pytest.approx(0.1 * math.log(4) + 1)
    turns = [4096 * 10000 ** (-2 * i / 16) / (2 * math.pi) for i in range(8)]  # of pair i over the original context
    assert turns[int(rope.ramp_low)] >= 32 > turns[int(rope.ramp_low) + 1]
    assert turns[min(7, int(rope.ramp_high))] <= 1 or rope.ramp_high == 15

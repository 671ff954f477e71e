"""Files of any family whose metadata or tensors cannot be are refused by name when they are opened, before a weight is read."""

import contextlib
import math
import random
import re
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import wasmrt
from tests import architecture_files
from tests.hybrid_files import MODELS, write
from wasmrt.device import gpu_known
from wasmrt.device.binary import serialize
from wasmrt.errors import FormatError, UnsupportedError, WasmrtError
from wasmrt.gguf.metadata import Metadata
from wasmrt.gguf.reader import parse_header
from wasmrt.model.build import build
from wasmrt.store.open import Opened
from wasmrt.store.source import MemorySource

pytestmark = pytest.mark.reference

GEMMA3, QWEN3MOE, DEEPSEEK2 = "gemma3-dense.Q5_1", "qwen3moe-moe.Q5_0", "deepseek2-moe.F16"
GPT_OSS, LFM2, QWEN35, GPT2 = "gpt-oss-moe.Q5_1", "lfm2-dense.Q5_0", "qwen35-dense.Q3_K_M", "gpt2-dense.BF16"
SEVERAL = (GEMMA3, QWEN3MOE, DEEPSEEK2, GPT_OSS, LFM2, QWEN35, GPT2)
REFUSED = (FormatError, UnsupportedError)
LONGEST = 1.0  # seconds that saying no may take
DROP = object()


@pytest.fixture(scope="module")
def header_of(reference_dir):
    """The header of a recorded model by its file's name, without ending."""
    headers = {}

    def read(name):
        if name not in headers:
            headers[name] = parse_header((reference_dir / "logits" / f"{name}.gguf").read_bytes())
        return headers[name]

    return read


@pytest.fixture(scope="module")
def headers(reference_dir, header_of, tmp_path_factory):
    """One of each architecture that there is a model of."""
    folder = tmp_path_factory.mktemp("hybrid")
    written = [write(folder / f"{name}.gguf", name) for name in MODELS if ":" not in name]
    written += [architecture_files.write(folder / f"{name}.gguf", made) for name, made in architecture_files.outlines().items()]
    read = [parse_header(path.read_bytes()) for path in written]
    found = {header.metadata.string("general.architecture"): header for header in read}
    for file in sorted((reference_dir / "logits").glob("*.gguf")):
        header = header_of(file.stem)
        found.setdefault(header.metadata.string("general.architecture"), header)
    assert len(found) > 70
    return found


class Watched(Metadata):
    """Metadata that notes which keys are asked for."""

    __slots__ = ("seen",)

    def __init__(self, values):
        super().__init__(values)
        self.seen = set()

    def __contains__(self, key):
        self.seen.add(key)
        return super().__contains__(key)

    def _absent(self, key, default, expected):
        self.seen.add(key)
        return super()._absent(key, default, expected)


def changed(header, changes):
    """The header with keys of its architecture changed, or dropped."""
    values = dict(header.metadata.items())
    for key, value in changes.items():
        whole = f"{header.metadata.string('general.architecture')}.{key}"
        if value is DROP:
            values.pop(whole, None)
        else:
            values[whole] = value
    return replace(header, metadata=Metadata(values))


def opened(header):
    """As far as opening a model goes without a weight, in its time."""
    started = time.perf_counter()
    try:
        programs = build(header).programs
        for program in set(programs):
            serialize(program)
        with contextlib.suppress(UnsupportedError):  # on the CPU it may run
            gpu_known.check(programs)
    finally:
        assert time.perf_counter() - started < LONGEST


# What is wrong in all families alike, and what the message then names.
IN_EVERY_FAMILY = [
    ({"block_count": DROP}, "block_count"),
    ({"block_count": "two"}, "block_count"),
    ({"block_count": 0}, "block_count"),
    ({"block_count": 513}, "block_count"),
    ({"block_count": 2**31}, "block_count"),
    ({"block_count": 3}, "blk.2.|3 layers"),
    ({"block_count": 1}, "blk.1.|1 layers"),
    ({"embedding_length": DROP}, "embedding_length"),
    ({"embedding_length": 2**40}, "embedding_length"),
    ({"embedding_length": 192}, "'token_embd.weight'"),
    ({"context_length": DROP}, "context_length"),
    ({"context_length": 0}, "context_length"),
    ({"context_length": 2**40}, "context_length"),
    ({"attention.head_count": 0}, "head_count|attn_qkv"),
    ({"attention.head_count": 2**40}, "head_count"),
    ({"attention.head_count": []}, "head_count"),
    ({"attention.head_count": [2, 2, 2]}, "head_count has 3 values, but the model has 2 layers"),
    ({"attention.head_count": 5, "attention.key_length": DROP}, "head_count"),
    ({"attention.head_count": 8, "attention.head_count_kv": 3}, "head_count"),
    ({"attention.key_length": 0}, "key_length"),
    ({"attention.value_length": -1}, "value_length"),
    ({"feed_forward_length": "wide"}, "feed_forward_length"),
    ({"feed_forward_length": [1]}, "feed_forward_length has 1 values, but the model has 2 layers"),
    ({"expert_count": 4, "expert_used_count": 5}, "expert_used_count is 5, but there are 4 experts"),
    ({"expert_count": 2**31}, "expert_count"),
    ({"vocab_size": 127}, "the file speaks of 127"),
]  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize(("changes", "named"), IN_EVERY_FAMILY)
def test_what_no_family_takes(header_of, name, changes, named):
    with pytest.raises(REFUSED) as refused:
        opened(changed(header_of(name), changes))
    assert re.search(named, str(refused.value))


NUMBERS = (math.nan, math.inf, -math.inf, -1e-5, 1e300, "x")
OF_A_FAMILY = [
    *((GPT2, {"attention.layer_norm_epsilon": x}, "layer_norm_epsilon") for x in (*NUMBERS, 0.0, DROP)),
    *((GEMMA3, {"attention.layer_norm_rms_epsilon": x}, "layer_norm_rms_epsilon") for x in (*NUMBERS, 0.0, DROP)),
    *((GEMMA3, {"rope.freq_base": x}, "rope.freq_base") for x in (*NUMBERS, 0.0)),
    *((GEMMA3, {"rope.freq_base_swa": x}, "rope.freq_base_swa") for x in (*NUMBERS, 0.0)),
    *((GEMMA3, {"rope.scaling.type": "linear", "rope.scaling.factor": x}, "rope.scaling.factor") for x in NUMBERS),
    *((GEMMA3, {"final_logit_softcapping": x}, "final_logit_softcapping") for x in NUMBERS),
    *((DEEPSEEK2, {"expert_weights_scale": x}, "expert_weights_scale") for x in NUMBERS),
    *((GEMMA3, {"rope.dimension_count": x}, "rope.dimension_count") for x in (0, 7, 130, -2, 2**40)),
    *((GEMMA3, {"attention.sliding_window": x}, "sliding_window") for x in (-1, 2**40, "x", math.nan)),
    *((GPT_OSS, {"attention.sliding_window_pattern": x}, "sliding_window_pattern") for x in (-1, [1], ["x", "y"], 2**40)),
    *((QWEN3MOE, {"expert_used_count": x}, "expert_used_count") for x in (0, 3, -1, DROP)),
    (QWEN3MOE, {"expert_feed_forward_length": 2**40}, "expert_feed_forward_length"),
    (QWEN3MOE, {"expert_feed_forward_length": 96}, "'blk.0.ffn_gate_exps.weight'"),
    (QWEN3MOE, {"attention.head_count_kv": [2]}, "head_count_kv has 1 values, but the model has 2 layers"),
    *((DEEPSEEK2, {"expert_group_count": x}, "expert_group_count") for x in (3, 4, -1, 2**31)),
    *((DEEPSEEK2, {"expert_group_count": 2, "expert_group_used_count": x}, "expert_group_used_count") for x in (3, -1)),
    (DEEPSEEK2, {"expert_group_count": 2, "expert_group_used_count": 1}, "route to 2 of 2 experts in 1 of 2 groups"),
    *((DEEPSEEK2, {"expert_gating_func": x}, "expert_gating_func") for x in (4, -1, "sigmoid")),
    *((DEEPSEEK2, {"attention.kv_lora_rank": x}, "kv_lora_rank") for x in (0, -1, 2**31, DROP)),
    (DEEPSEEK2, {"attention.q_lora_rank": 0}, "'blk.0.attn_q.weight'"),
    (DEEPSEEK2, {"rope.dimension_count": 192}, "rope.dimension_count is 192, expected less than the head's 192"),
    (DEEPSEEK2, {"rope.dimension_count": DROP}, "rope.dimension_count"),
    (DEEPSEEK2, {"attention.value_length_mla": 64}, "'blk.0.attn_v_b.weight'"),
    *((LFM2, {"shortconv.l_cache": x}, "shortconv.l_cache") for x in (0, 1, 2**31, DROP)),
    (LFM2, {"shortconv.l_cache": 4}, "'blk.1.shortconv.conv.weight'"),
    (LFM2, {"attention.head_count_kv": [0, 0]}, "head_count_kv"),
    *((QWEN35, {"ssm.conv_kernel": x}, "ssm.conv_kernel") for x in (0, 1, 2**31, DROP)),
    *((QWEN35, {f"ssm.{x}": 0}, f"{x}|attn_qkv") for x in ("inner_size", "state_size", "time_step_rank", "group_count")),
    (QWEN35, {"ssm.inner_size": 255}, "'blk.0.attn_qkv.weight'"),
    (QWEN35, {"ssm.time_step_rank": 3}, "3"),
    (QWEN35, {"ssm.group_count": 3}, "'blk.0.attn_qkv.weight'"),
    (QWEN35, {"full_attention_interval": 0}, "full_attention_interval"),
    (QWEN35, {"attention.recurrent_layers": [1]}, "recurrent_layers has 1 values, but the model has 2 layers"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "named"), OF_A_FAMILY)
def test_what_one_family_does_not_take(header_of, name, changes, named):
    with pytest.raises(REFUSED) as refused:
        opened(changed(header_of(name), changes))
    assert re.search(named, str(refused.value))


ODD: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 255, 2**20, 2**31, 2**32, 2**40, 2**63 - 1),
    *(math.nan, math.inf, -math.inf, -0.5, 0.0, 5e-324, 1e-30, 1e30, 3e38, 1e300),
    *("x", "", [], [0], [1, 2], [0, 0], [1, 1, 1], [2**40, 1], ["x", "y"], [math.nan, 1.0], True, False, [True, False], DROP),
)  # fmt: skip
MUTANTS = 120  # of each architecture


def mutants(architecture, header, n, chance):
    """Headers with odd values in keys that the family asks for, up to three at a time, and what was changed."""
    watched = Watched(dict(header.metadata.items()))
    opened(replace(header, metadata=watched))
    keys = sorted(key.removeprefix(f"{architecture}.") for key in watched.seen if key.startswith(f"{architecture}."))
    assert len(keys) > 8
    for _ in range(n):
        changes = {key: chance.choice(ODD) for key in chance.sample(keys, chance.choice((1, 1, 2, 3)))}
        yield changes, changed(header, changes)


def test_odd_values_of_any_keys(headers):
    """The model is refused by a typed error, or can be opened."""
    chance = random.Random(0)
    n_refused = 0
    for architecture, header in headers.items():
        for changes, mutant in mutants(architecture, header, MUTANTS, chance):
            try:
                opened(mutant)
            except REFUSED:
                n_refused += 1
            except Exception as error:
                raise AssertionError(f"{architecture}: {changes}") from error
    assert n_refused > len(headers) * MUTANTS / 4


@pytest.mark.parametrize("name", SEVERAL)
def test_odd_values_that_are_computed_with(reference_dir, header_of, device, name):
    """What opens gives numbers, or a typed error where they are none: kernels have no traps and no endless loops."""
    data = (reference_dir / "logits" / f"{name}.gguf").read_bytes()
    header, chance, n_run = header_of(name), random.Random(1), 0
    for _, mutant in mutants(header.metadata.string("general.architecture"), header, 60, chance):
        ref = Opened(MemorySource(data), mutant)
        with contextlib.suppress(WasmrtError), np.errstate(all="ignore"), wasmrt.load(ref, device=device, threads=1) as model:
            n_run += 1
            model.logits([5, 6, 7][: model.plan.context])
    assert n_run


def used(header):
    """The names of the tensors that a pass reads, those of one layer for all that have such; others may be anything."""
    names = {entry.tensor for segment in build(header).table.segments for entry in segment.entries}
    return sorted({re.sub(r"blk\.\d+\.", "", name): name for name in sorted(names)}.values())


def test_each_tensor_of_a_wrong_shape(headers):
    """One at a time, of every architecture: the error names it."""
    n_tried = 0
    for architecture, header in headers.items():
        for name in used(header):
            info = header.tensors[name]
            for shape in ((*info.shape[:-1], info.shape[-1] * 2),):
                tensors = {**header.tensors, name: replace(info, shape=shape)}
                with pytest.raises(FormatError) as refused:
                    opened(replace(header, tensors=tensors))
                assert repr(name) in str(refused.value) or name == "token_embd.weight", (architecture, name, shape)
                n_tried += 1
    assert n_tried > 1000


# What a family can do without: biases that not all sizes have; a head of its own; rope factors; a norm of Mamba 2.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
OPTIONAL = ("bias", "scale", "output.weight", "ssm_norm.weight", *ROPE_FACTORS)
OPTIONAL_OF = {"gemma4": ("attn_v.weight", "layer_output_scale.weight"), "mpt": ("position_embd.weight", "ffn.act.scales")}


def test_each_tensor_missing(headers):
    """One at a time, of every architecture: the error names it, or one of the layer that makes no sense without."""
    for architecture, header in headers.items():
        for name in used(header):
            tensors = {key: info for key, info in header.tensors.items() if key != name}
            why = why_not(replace(header, tensors=tensors))
            if why is None:
                assert name.endswith((*OPTIONAL, *OPTIONAL_OF.get(architecture, ()))), (architecture, name)
            else:
                layer = re.match(r"(blk\.\d+\.)?", name)[0] or name.partition(".")[0]
                assert layer in why, (architecture, name, why)


def why_not(header):
    """Why a model is refused, or None."""
    try:
        opened(header)
    except REFUSED as error:
        return str(error)
    return None

"""Files of tools/make_test_model.py: what readers find in them, how the weights behave, and what a failure leaves behind."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

import wasmrt
from tools.make_test_model import (
    LETTERS,
    QUANTS,
    SHAPES,
    Pools,
    Tensor,
    header,
    main,
    pieces,
    rope_factors,
    tensors,
    write_model,
)
from wasmrt.gguf.quants import dequantize
from wasmrt.gguf.reader import parse_header
from wasmrt.gguf.types import BY_NAME
from wasmrt.model.build import build

TOOL = Path(__file__).resolve().parents[1] / "tools" / "make_test_model.py"
TINY = SHAPES["tiny"]
ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")

# Variants of the tiny shape that reach what only larger models have.
VARIANTS = {
    "tiny": TINY,
    "tied": replace(TINY, n_vocab=1024, tied=True, rope_factor=32.0, rope_base=5e5, vocabulary="llama-bpe"),
    "experts": replace(TINY, n_experts=8, n_experts_used=2),
    "qwen": replace(SHAPES["qwen2.5-0.5b"], n_embd=384, n_heads=6, n_kv_heads=2, n_layers=2, n_ff=256, n_vocab=1024),
}
SAME_NAMES = ["n_embd", "n_layers", "n_heads", "n_kv_heads", "head_dim", "n_ff", "n_vocab", "n_experts", "n_experts_used"]
TEXT = "Once upon a time, there was a little girl.\n\n  It's 42 degrees outside, isn't it? Naïve — 🙂"


def types(shape, quant, ends):
    """The formats of the tensors with these endings, in file order."""
    return [tensor.type.name for tensor in tensors(shape, quant) if tensor.name.endswith(ends)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q3_K_M", "F16"])
def test_readers_find_what_was_planned(tmp_path, variant, quant):
    """Names, shapes, formats and places of all tensors, by another reader and by ours; nothing is missing or left over."""
    shape, path = VARIANTS[variant], tmp_path / "model.gguf"
    assert write_model(path, variant, quant, shape=shape) == path.stat().st_size
    found = gguf.GGUFReader(path)
    planned = [(t.name, list(t.dims), t.type.name) for t in tensors(shape, quant)]
    assert [(t.name, t.shape.tolist(), t.tensor_type.name) for t in found.tensors] == planned
    assert found.tensors[-1].data_offset + found.tensors[-1].n_bytes == path.stat().st_size
    fields = {name: field.contents() for name, field in found.fields.items()}
    assert fields["general.file_type"] == gguf.LlamaFileType["MOSTLY_" + quant]
    header = parse_header(path.read_bytes())
    if shape.architecture == "llama":
        config = build(header).config
        for name in SAME_NAMES:
            assert getattr(config, name) == getattr(shape, name), name
        assert config.rope.base == shape.rope_base
        assert config.norm_eps == pytest.approx(shape.eps)
        assert config.n_ctx_train == shape.n_ctx


@pytest.mark.parametrize("quant", QUANTS)
def test_file_types_are_those_of_the_gguf_package(quant):
    assert QUANTS[quant][0] == gguf.LlamaFileType["ALL_F32" if quant == "F32" else "MOSTLY_" + quant]


@pytest.mark.parametrize(("name", "weights"), [
    ("tinyllama-1.1b", 1_100_048_384), ("llama-2-7b", 6_738_415_616), ("llama-2-13b", 13_015_864_320),
    ("llama-3-8b", 8_030_261_248), ("llama-3.2-1b", 1_235_814_400), ("mistral-7b", 7_241_732_096),
    ("mixtral-8x7b", 46_702_792_704), ("qwen2.5-0.5b", 494_032_768),
])  # fmt: skip
def test_shapes_have_the_published_number_of_weights(name, weights):
    """As the models' cards and safetensors indices state them (without the factors of rope, which are no weights)."""
    made = sum(math.prod(tensor.dims) for tensor in tensors(SHAPES[name], "F16") if tensor.name != "rope_freqs.weight")
    assert made == weights


def test_q4_k_m_of_22_layers_is_llama_cpps_mix():
    """By hand: n/8 is 2 and 7n/8 is 19, so layers 0-1, 19-21, and of the others 4, 7, 10, 13, 16 have more bits."""
    more = [0, 1, 4, 7, 10, 13, 16, 19, 20, 21]
    tinyllama = SHAPES["tinyllama-1.1b"]
    for ends in ("attn_v.weight", "ffn_down.weight"):
        assert types(tinyllama, "Q4_K_M", ends) == ["Q6_K" if i in more else "Q4_K" for i in range(22)]
        assert types(tinyllama, "Q5_K_M", ends) == ["Q6_K" if i in more else "Q5_K" for i in range(22)]
    assert set(types(SHAPES["mixtral-8x7b"], "Q4_K_M", "attn_k.weight")) == {"Q8_0"}
    for ends in ("attn_q.weight", "attn_k.weight", "attn_output.weight", "ffn_gate.weight", "ffn_up.weight"):
        assert set(types(tinyllama, "Q4_K_M", ends)) == {"Q4_K"}
    assert set(types(tinyllama, "Q4_K_M", "_norm.weight")) == {"F32"}
    assert types(tinyllama, "Q4_K_M", ("output.weight", "token_embd.weight"))[:2] == ["Q6_K", "Q4_K"]


# For the first layer, layer 5 and a middle one of 32: attn_v, attn_output, ffn_down. By llama.cpp's rules; its own quantizer
# gave the same formats for every tensor of six small models (22 and 32 layers, grouped heads, experts, tied) in 13 mixes.
@pytest.mark.parametrize(("name", "quant", "attn_v", "attn_output", "ffn_down"), [
    ("llama-2-7b", "Q2_K", "Q3_K Q3_K Q3_K", "Q3_K Q3_K Q3_K", "Q3_K Q3_K Q3_K"),
    ("llama-3-8b", "Q2_K", "Q4_K Q4_K Q4_K", "Q3_K Q3_K Q3_K", "Q3_K Q3_K Q3_K"),
    ("llama-2-7b", "Q3_K_M", "Q5_K Q4_K Q4_K", "Q4_K Q4_K Q4_K", "Q5_K Q4_K Q4_K"),
    ("llama-2-7b", "Q4_K_S", "Q5_K Q4_K Q4_K", "Q4_K Q4_K Q4_K", "Q5_K Q4_K Q4_K"),
    ("llama-2-7b", "Q4_K_M", "Q6_K Q4_K Q4_K", "Q4_K Q4_K Q4_K", "Q6_K Q4_K Q4_K"),
    ("mixtral-8x7b", "Q4_K_M", "Q8_0 Q8_0 Q8_0", "Q5_K Q5_K Q5_K", "Q6_K Q4_K Q4_K"),
    ("mixtral-8x7b", "Q5_K_M", "Q8_0 Q8_0 Q8_0", "Q5_K Q5_K Q5_K", "Q6_K Q5_K Q5_K"),
    ("mixtral-8x7b", "Q2_K", "Q8_0 Q8_0 Q8_0", "Q5_K Q5_K Q5_K", "Q3_K Q3_K Q3_K"),
    ("llama-2-7b", "Q4_0", "Q4_0 Q4_0 Q4_0", "Q4_0 Q4_0 Q4_0", "Q4_0 Q4_0 Q4_0"),
])  # fmt: skip
def test_other_mixes(name, quant, attn_v, attn_output, ffn_down):
    for part, wanted in (("attn_v", attn_v), ("attn_output", attn_output), ("ffn_down", ffn_down)):
        made = types(SHAPES[name], quant, (f"{part}.weight", f"{part}_exps.weight"))
        assert [made[0], made[5], made[17]] == wanted.split(), part


def test_rows_that_are_no_superblocks_fall_back():
    """896 is three and a half superblocks; ffn_down's rows of 4864 are 19. The embedding is also the output matrix."""
    qwen = SHAPES["qwen2.5-0.5b"]
    for quant, other in {"Q2_K": "Q4_0", "Q3_K_M": "Q4_0", "Q4_K_M": "Q5_0", "Q5_K_M": "Q5_1", "Q6_K": "Q8_0"}.items():
        assert set(types(qwen, quant, "ffn_gate.weight")) == {other}
        assert types(qwen, quant, "token_embd.weight") == ["Q8_0"]
    assert types(qwen, "Q4_0", "token_embd.weight") == ["Q8_0"]
    assert types(qwen, "Q4_K_M", "ffn_down.weight")[0] == "Q6_K"
    assert types(SHAPES["llama-3.2-1b"], "Q4_K_M", "token_embd.weight") == ["Q6_K"]


@pytest.mark.parametrize("name", sorted({base for _, base in QUANTS.values()}))
def test_weights_have_their_deviation_and_no_mean(name):
    """Seen over six seeds: deviation within 1.2 %, |mean| below 0.3 % of it."""
    n, std = 4096, 1 / math.sqrt(14336)  # the smallest that a shape asks for: scales are then subnormal in some formats
    quant, n_rows = BY_NAME[name], 1024
    data = b"".join(map(bytes, Pools(1).fill(quant, std, n_rows * quant.row_bytes(n))))
    w = dequantize(quant, data, n_rows, n)
    assert np.isfinite(w).all()
    assert w.std() == pytest.approx(std, rel=0.03)
    assert abs(w.mean()) < 0.01 * std
    assert len(np.unique(w, axis=0)) == n_rows
    # Seen: 0.18 to 0.23, and 0.34 for Q2_K; with minimums that have nothing to do with their scales 0.7 and more.
    group = 16 if name == "Q2_K" else 32
    assert w.reshape(-1, group).mean(axis=1).std() < 0.45 * std
    if name == "Q8_0":
        quants = np.frombuffer(data, np.int8).reshape(-1, quant.block_bytes)[:, 2:]
        assert (quants.min(), quants.max()) == (-127, 127)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "qwen"])
@pytest.mark.parametrize("quant", ["Q2_K", "Q4_K_M", "Q8_0"])
def test_a_forward_pass_stays_sane(tmp_path, variant, quant):
    """Seen: deviations from 2.8 to 3.1. Rows differ, or the model would not see its input."""
    path = tmp_path / "model.gguf"
    write_model(path, variant, quant, shape=VARIANTS[variant])
    with wasmrt.load(path, device="reference") as model:
        logits = np.asarray(model.logits([5, 300, 7, 411, 300]))
        generation = model.generate([1, 2, 3], max_tokens=4)
        assert isinstance("".join(generation), str)
        assert generation.tokens
    assert np.isfinite(logits).all()
    assert 0.3 < logits.std() < 30
    assert np.std(logits, axis=0).min() > 0.1
    assert all(len(set(row)) == len(row) for row in logits.tolist())


def test_many_layers_neither_explode_nor_vanish(tmp_path):
    path = tmp_path / "deep.gguf"
    write_model(path, "deep", "Q4_K_M", shape=replace(TINY, n_layers=40))
    with wasmrt.load(path, device="reference") as model:
        assert 1 < np.std(model.logits([5, 300, 7, 411])) < 10


@pytest.mark.parametrize("variant", VARIANTS)
def test_text_survives_the_tokenizer(tmp_path, variant):
    path = tmp_path / "model.gguf"
    write_model(path, variant, "Q4_0", shape=VARIANTS[variant])
    tokenizer = wasmrt.load_tokenizer(path)
    ids = tokenizer.tokenize(TEXT)
    assert tokenizer.detokenize(ids) == TEXT
    assert len(ids) < len(TEXT.encode())
    texts = [tokenizer.token_text(id) for id in range(tokenizer.n_vocab)]
    assert len(set(texts)) == tokenizer.n_vocab
    fields = gguf.GGUFReader(path).fields
    if "tokenizer.ggml.merges" in fields:
        known = set(texts)
        for line in fields["tokenizer.ggml.merges"].contents():
            left, right = line.split(" ")
            assert {left, right, left + right} <= known
    else:
        scores = fields["tokenizer.ggml.scores"].contents()[259:]
        assert scores == sorted(scores, reverse=True)


def test_special_tokens_stand_where_they_do_in_the_models(tmp_path):
    path = tmp_path / "model.gguf"
    write_model(path, "tied", "Q4_0", shape=VARIANTS["tied"])
    llama = wasmrt.load_tokenizer(path)
    assert (llama.bos_id, llama.eos_id, llama.eot_id, llama.add_bos) == (768, 769, None, True)
    assert llama.eog_ids == {769, 776, 777}
    assert llama.tokenize("<|eot_id|>", parse_special=True) == [777]  # 128009 of 128256
    write_model(path, "qwen", "Q4_0", shape=VARIANTS["qwen"])
    qwen = wasmrt.load_tokenizer(path)
    assert not qwen.add_bos
    assert qwen.eog_ids == {731, 733}
    assert qwen.tokenize("<|im_start|>", parse_special=True) == [732]  # 151644 of 151936


def test_rope_factors_are_llama_3_2s():
    """By wavelengths, as the model's authors state them: up to 8192 / 4 positions nothing changes, from 8192 on 32 times."""
    found = rope_factors(SHAPES["llama-3.2-1b"])
    for i, factor in enumerate(found):
        wave = 2 * math.pi * 500000.0 ** (2 * i / 64)
        smooth = (8192 / wave - 1) / 3
        assert factor == pytest.approx(1 if wave < 2048 else 32 if wave > 8192 else 1 / ((1 - smooth) / 32 + smooth))
    assert len(found) == 32
    assert len(set(found.tolist())) > 4


def test_tensors_of_any_size_are_aligned():
    """The shapes of the table have none that needs padding between tensors."""
    f32 = BY_NAME["F32"]
    head = header({"general.architecture": "x"}, [Tensor("a", (3,), f32), Tensor("b", (9,), f32), Tensor("c", (1,), f32)])
    found = parse_header(head + bytes(32 + 64 + 32))
    assert [tensor.offset - len(head) for tensor in found.tensors.values()] == [0, 32, 96]
    assert len(head) % 32 == 0


def test_pieces_grow_by_a_letter():
    """So that merges and scores can reach each of them."""
    seen = {"_", *LETTERS, *LETTERS.upper()}
    for _, piece in zip(range(60_000), pieces("_"), strict=False):
        assert piece[:-1] in seen
        assert piece not in seen
        seen.add(piece)


def test_arguments_decide_the_bytes(tmp_path, monkeypatch, capsys):
    """The same ones give the same file, another seed another one of the same size; what a killed run left is overwritten."""
    (tmp_path / "b.part").write_bytes(b"left behind")
    made = []
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        path = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["make_test_model.py", "tiny", "Q4_K_M", str(path), "--seed", seed])
        assert main() == 0
        made.append(path.read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert len(made[0]) == len(made[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("arguments", [
    "", "tiny", "tiny Q4_K_M", "huge Q4_K_M OUT", "tiny Q9 OUT", "tiny Q4_K_M OUT --seed -1", "tiny Q4_K_M OUT --seed x",
    "tiny Q4_K_M .", "tiny Q4_K_M missing/OUT", "tiny Q4_K_M OUT more",
])  # fmt: skip
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_test_model.py", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_writing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=666_000))
    monkeypatch.setattr(sys, "argv", ["make_test_model.py", "tiny", "Q4_K_M", str(tmp_path / "out.gguf")])
    assert main() == 1
    message = capsys.readouterr().err
    assert "the file takes 666,944 bytes, but the disk has 666,000 free" in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@ON_POSIX
def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files fails like a full disk does: in the middle of a write."""
    program = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    out = tmp_path / "out.gguf"
    done = subprocess.run(
        [sys.executable, "-c", program, TOOL, "tiny", "F32", out], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {out} cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


@ON_POSIX
def test_an_interrupt_leaves_nothing(tmp_path):
    out = tmp_path / "out.gguf"
    part = tmp_path / "out.gguf.part"
    process = subprocess.Popen(
        [sys.executable, TOOL, "llama-2-7b", "Q4_K_M", out], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 30
        while not part.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, message = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (output, message) == ("", f"interrupted: {out} was not written\n")
    assert list(tmp_path.iterdir()) == []

"""Trains the demo model from scratch on made-up text, on the CPU, and writes it as a GGUF; `--check` examines a finished one.

    python tools/train_demo_model.py --minutes 45                  # wasmrt/data/demo.gguf
    python tools/train_demo_model.py --check                       # 50 stories, sums and chats from the finished file

The text comes from tools/demo_text, document by document from `--seed`. Two processes of one thread each share a step's rows:
they meet once a step instead of once an operation, which a busy machine slows down less. The learning rate follows the share
of `--minutes` that has passed, so a slow machine ends with fewer steps but the same schedule. Needs the extra `train`.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools import demo_text  # noqa: E402
from tools.demo_text import chats, stories  # noqa: E402
from tools.demo_text.grammar import words  # noqa: E402

OUT = ROOT / "wasmrt" / "data" / "demo.gguf"
# Held-out documents are numbered from here; training never reaches them.
HELD_OUT_FIRST = 100_000_000
PROCESSES = 2
BOS_ID = 0  # special tokens come first in the vocabulary


@dataclass(frozen=True)
class Shape:
    """The model's numbers, in the words of docs and code. Row lengths are multiples of 256, so that every quant type fits."""

    n_vocab: int = 4096
    n_ctx: int = 512
    n_embd: int = 256
    n_layers: int = 4
    n_heads: int = 8
    n_kv_heads: int = 4
    n_ff: int = 768
    rms_eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_heads


class Layer(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Pre-norm attention with grouped keys and values, then pre-norm SwiGLU; attributes have the names of the tensors."""

    def __init__(self, c: Shape) -> None:
        super().__init__()
        self.c = c
        n_kv = c.n_kv_heads * c.head_dim
        self.attn_norm, self.ffn_norm = nn.RMSNorm(c.n_embd, c.rms_eps), nn.RMSNorm(c.n_embd, c.rms_eps)
        self.attn_q = nn.Linear(c.n_embd, c.n_embd, bias=False)
        self.attn_k, self.attn_v = nn.Linear(c.n_embd, n_kv, bias=False), nn.Linear(c.n_embd, n_kv, bias=False)
        self.attn_output = nn.Linear(c.n_embd, c.n_embd, bias=False)
        self.ffn_gate, self.ffn_up = nn.Linear(c.n_embd, c.n_ff, bias=False), nn.Linear(c.n_embd, c.n_ff, bias=False)
        self.ffn_down = nn.Linear(c.n_ff, c.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, sees: Tensor | None) -> Tensor:
        c, (n_rows, T, _) = self.c, x.shape
        h = self.attn_norm(x)
        q = rope(self.attn_q(h).view(n_rows, T, c.n_heads, c.head_dim).transpose(1, 2), cos, sin)
        k = rope(self.attn_k(h).view(n_rows, T, c.n_kv_heads, c.head_dim).transpose(1, 2), cos, sin)
        v = self.attn_v(h).view(n_rows, T, c.n_kv_heads, c.head_dim).transpose(1, 2)
        group = c.n_heads // c.n_kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        a = functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=sees, is_causal=sees is None)
        x = x + self.attn_output(a.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (2i, 2i+1), as the GGUF architecture `llama` wants. x: (rows, heads, T, head_dim)."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Model(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Token ids (rows, T) to logits (rows, T, n_vocab); the embedding is the output matrix too.

    `sees`, bool (rows, 1, T, T), says which position looks at which; None is every one at itself and those before it.
    """

    def __init__(self, c: Shape) -> None:
        super().__init__()
        self.c = c
        self.token_embd = nn.Embedding(c.n_vocab, c.n_embd)
        self.blk = nn.ModuleList(Layer(c) for _ in range(c.n_layers))
        self.output_norm = nn.RMSNorm(c.n_embd, c.rms_eps)
        angle = torch.arange(c.n_ctx)[:, None] * c.rope_base ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)
        for layer in self.blk:
            # Attention starts as copying: what a head reads of a token it writes back.
            values = layer.attn_v.weight.detach().view(c.n_kv_heads, 1, c.head_dim, c.n_embd)
            heads = values.expand(-1, c.n_heads // c.n_kv_heads, -1, -1).reshape(c.n_embd, c.n_embd)
            layer.attn_output.weight.data = 1.5 * heads.T.contiguous()
            layer.ffn_down.weight.data /= math.sqrt(2 * c.n_layers)

    def forward(self, ids: Tensor, sees: Tensor | None = None) -> Tensor:
        T = ids.shape[1]
        x = self.token_embd(ids)
        for layer in self.blk:
            x = layer(x, self.cos[:T], self.sin[:T], sees)
        return functional.linear(self.output_norm(x), self.token_embd.weight)

    def loss(self, ids: Tensor) -> Tensor:
        """Mean cross entropy over rows of packed documents, int64 (rows, T + 1). A document sees itself alone: without that
        names are copied from its neighbours, and the model learns to keep a story's names three times as late.
        """
        document = (ids[:, :-1] == BOS_ID).cumsum(1)
        T = document.shape[1]
        sees = (document[:, :, None] == document[:, None, :]) & torch.ones(T, T, dtype=torch.bool).tril()
        logits = self(ids[:, :-1], sees[:, None]).flatten(0, 1).float()
        return functional.cross_entropy(logits, ids[:, 1:].flatten(), ignore_index=BOS_ID)


# --- Text ---------------------------------------------------------------------------------------------------------------------


def batch_of_documents(task: tuple[int, int, int]) -> list[str]:
    seed, first, count = task
    return [demo_text.document(seed, index) for index in range(first, first + count)]


def documents(seed: int, first: int, count: int) -> Iterator[str]:
    """Documents first .. first + count - 1, in order, made by PROCESSES processes."""
    tasks = [(seed, at, min(200, first + count - at)) for at in range(first, first + count, 200)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for batch in pool.imap(batch_of_documents, tasks):
            yield from batch


def train_tokenizer(texts: list[str], n_vocab: int) -> tokenizers.Tokenizer:
    """A byte-level BPE with GPT-2's pre-tokenizer, which a GGUF calls "gpt-2"."""
    tokenizer = bare_tokenizer(tokenizers.models.BPE())
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=n_vocab, special_tokens=demo_text.SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((part for text in texts for part in split_specials(text)), trainer)
    return tokenizer


def split_specials(text: str) -> list[str]:
    """The parts of a document between its special tokens."""
    for special in demo_text.SPECIAL_TOKENS:
        text = text.replace(special, "\0")
    return [part for part in text.split("\0") if part]


def bare_tokenizer(model: Any) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def packed(tokenizer: tokenizers.Tokenizer, texts: list[str], n: int) -> np.ndarray:
    """Whole documents in rows of n tokens, uint16 (rows, n). What is left of a row is BOS, which no loss counts.

    Each document goes into the fullest of 32 open rows that still holds it.
    """
    rows: list[list[int]] = []
    open_rows: list[list[int]] = []
    for encoded in tokenizer.encode_batch(texts, add_special_tokens=False):
        ids = encoded.ids[:n]
        fitting = [row for row in open_rows if len(row) + len(ids) <= n]
        if fitting:
            max(fitting, key=len).extend(ids)
            continue
        open_rows.append(list(ids))
        if len(open_rows) > 32:
            rows.append(open_rows.pop(max(range(len(open_rows)), key=lambda k: len(open_rows[k]))))
    rows += open_rows
    return np.array([row + [BOS_ID] * (n - len(row)) for row in rows], np.uint16)


def prepare(work: Path, seed: int, count: int, shape: Shape) -> None:
    """Makes the text, the tokenizer and the token ids in the work folder, unless they are there."""
    stamp = {"seed": seed, "documents": count, "n_vocab": shape.n_vocab}
    if (work / "text.json").is_file() and json.loads((work / "text.json").read_text()) == stamp:
        return
    started = time.monotonic()
    texts = list(documents(seed, 0, count))
    print(f"{count} documents, {sum(map(len, texts)) / 1e6:.1f} MB of text, {time.monotonic() - started:.0f} s", flush=True)
    tokenizer = train_tokenizer(texts[:20_000], shape.n_vocab)
    tokenizer.save(str(work / "tokenizer.json"))
    rows = packed(tokenizer, texts, shape.n_ctx + 1)
    np.save(work / "train.npy", rows)
    np.save(work / "held_out.npy", packed(tokenizer, list(documents(seed, HELD_OUT_FIRST, 800)), shape.n_ctx + 1))
    n_vocab, seconds = tokenizer.get_vocab_size(), time.monotonic() - started
    print(f"{(rows != BOS_ID).sum() / 1e6:.2f} M tokens, {n_vocab} in the vocabulary, {seconds:.0f} s", flush=True)
    (work / "text.json").write_text(json.dumps(stamp))


# --- Training -----------------------------------------------------------------------------------------------------------------


def learning_rate(share: float, peak: float) -> float:
    """Warm-up over the first 2 % of the time, then half a cosine down to 3 % of the peak."""
    if share < 0.02:
        return peak * share / 0.02 + 1e-6
    return peak * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - 0.02) / 0.98))))


def train(rank: int, args: argparse.Namespace, shape: Shape) -> None:
    """One of PROCESSES workers; rank 0 keeps the clock, prints and saves checkpoints."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{args.work}/rendezvous", rank=rank, world_size=PROCESSES)
    torch.manual_seed(args.seed)
    model = Model(shape)
    parameters = list(model.parameters())
    matrices, norms = [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)
    step, before = 0, 0.0
    checkpoint = Path(args.work) / "checkpoint.pt"
    if args.resume:
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, before = saved["step"], saved["seconds"]
    loss_of = torch.compile(model.loss) if args.compile else model.loss
    rows = np.load(Path(args.work) / "train.npy")
    clock = torch.zeros(2)
    started = saved_at = shown_at = time.monotonic()
    recent: list[float] = []
    first_step = step
    while True:
        # All ranks must agree on the share of time that has passed, so rank 0 tells.
        clock[0] = (before + time.monotonic() - started) / (60 * args.minutes)
        torch.distributed.broadcast(clock, 0)
        share = float(clock[0])
        if share >= 1:
            break
        read = (step * PROCESSES + rank) * args.rows + np.arange(args.rows)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(torch.from_numpy(rows[read % len(rows)].astype(np.int64)))
        optimizer.zero_grad()
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None] + [loss.detach()[None]])
        torch.distributed.all_reduce(flat)
        flat /= PROCESSES
        for p, g in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(share, args.lr)
        optimizer.step()
        step += 1
        recent = [*recent[-49:], float(flat[-1])]
        now = time.monotonic()
        if rank == 0 and now - shown_at > 15:
            rate = (step - first_step) * PROCESSES * args.rows * shape.n_ctx / (now - started)
            mean, left = sum(recent) / len(recent), (1 - share) * args.minutes
            print(f"step {step}  loss {mean:.4f}  {rate:.0f} tok/s  {100 * share:.1f} %  {left:.1f} min left", flush=True)
            shown_at = now
        if rank == 0 and now - saved_at > 120:
            save(checkpoint, model, optimizer, step, before + now - started)
            saved_at = now
    if rank == 0:
        save(checkpoint, model, optimizer, step, before + time.monotonic() - started)
    torch.distributed.destroy_process_group()


def save(path: Path, model: Model, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    """Writes beside the old checkpoint first: a run that is stopped while saving keeps the old one."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    torch.save(state, f"{path}.new")
    os.replace(f"{path}.new", path)


def mean_loss(model: Model, rows: np.ndarray) -> float:
    """Cross entropy per token over rows of packed documents."""
    with torch.no_grad():
        losses = [float(model.loss(torch.from_numpy(row.astype(np.int64))[None])) for row in rows]
    counted = (rows != BOS_ID).sum(1)
    return float(np.average(losses, weights=counted))


# --- The file -----------------------------------------------------------------------------------------------------------------


def quantized(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Matrices as Q8_0 blocks (uint8), norms as float32."""
    arrays = {name: weight.float().numpy() for name, weight in state.items()}
    return {name: gguf.quants.quantize(a, gguf.GGMLQuantizationType.Q8_0) if a.ndim == 2 else a for name, a in arrays.items()}


def dequantized(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    def plain(a: np.ndarray) -> np.ndarray:
        return np.array(a) if a.dtype == np.float32 else gguf.quants.dequantize(a, gguf.GGMLQuantizationType.Q8_0)

    return {name: torch.from_numpy(plain(a)) for name, a in arrays.items()}


def write_gguf(
    path: Path, arrays: dict[str, np.ndarray], shape: Shape, tokenizer: tokenizers.Tokenizer, notes: dict[str, Any]
) -> None:
    """Writes the model with its vocabulary, chat template, licence and how it was made."""
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name("wasmrt demo")
    w.add_author("The wasmrt developers")
    w.add_organization("The wasmrt developers")
    w.add_license("MIT")
    w.add_description(
        "A tiny model for trying wasmrt out, made by tools/train_demo_model.py from scratch on text made up from seed "
        f"{notes['seed']}: {notes['tokens']} tokens read, held-out loss {notes['heldout_loss']:.4f}, "
        f"training loss {notes['train_loss']:.4f}. It knows little."
    )
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(2)
    w.add_vocab_size(shape.n_vocab)
    w.add_context_length(shape.n_ctx)
    w.add_embedding_length(shape.n_embd)
    w.add_block_count(shape.n_layers)
    w.add_feed_forward_length(shape.n_ff)
    w.add_head_count(shape.n_heads)
    w.add_head_count_kv(shape.n_kv_heads)
    w.add_layer_norm_rms_eps(shape.rms_eps)
    w.add_rope_dimension_count(shape.head_dim)
    w.add_rope_freq_base(shape.rope_base)
    for key in ("heldout_loss", "train_loss", "minutes"):
        w.add_float32(f"wasmrt.demo.{key}", notes[key])
    for key in ("seed", "tokens", "documents", "steps"):
        w.add_uint64(f"wasmrt.demo.{key}", notes[key])
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([control if token in demo_text.SPECIAL_TOKENS else normal for token in tokens])
    w.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    w.add_bos_token_id(tokens.index(demo_text.BOS))
    w.add_eos_token_id(tokens.index(demo_text.END))
    w.add_add_bos_token(True)
    w.add_chat_template(demo_text.CHAT_TEMPLATE)
    for name, array in arrays.items():
        w.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType.Q8_0 if array.dtype == np.uint8 else None)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def finish(args: argparse.Namespace, shape: Shape) -> None:
    """From the last checkpoint: rounds to Q8_0, measures both losses on what was rounded, writes the file."""
    work = Path(args.work)
    saved = torch.load(work / "checkpoint.pt")
    arrays = quantized(saved["model"])
    model = Model(shape)
    model.load_state_dict(dequantized(arrays))
    held_out, trained = np.load(work / "held_out.npy"), np.load(work / "train.npy")
    n_read = saved["step"] * PROCESSES * args.rows
    # As many rows as are held out, evenly from all that were read.
    sampled = trained[np.linspace(0, min(n_read, len(trained)) - 1, len(held_out)).astype(int)]
    notes = {
        "seed": args.seed, "documents": args.documents, "steps": saved["step"], "tokens": n_read * shape.n_ctx,
        "minutes": saved["seconds"] / 60, "heldout_loss": mean_loss(model, held_out), "train_loss": mean_loss(model, sampled),
    }  # fmt: skip
    tokenizer = tokenizers.Tokenizer.from_file(str(work / "tokenizer.json"))
    write_gguf(Path(args.out), arrays, shape, tokenizer, notes)
    print(json.dumps(notes | {"shape": asdict(shape), "file": str(args.out), "bytes": Path(args.out).stat().st_size}, indent=1))


# --- Checks of a finished file ------------------------------------------------------------------------------------------------


def load(path: Path) -> tuple[Model, tokenizers.Tokenizer, dict[str, Any]]:
    """A finished file as a model, its tokenizer and its metadata."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    keys = {
        "n_vocab": "vocab_size", "n_ctx": "context_length", "n_embd": "embedding_length", "n_layers": "block_count",
        "n_heads": "attention.head_count", "n_kv_heads": "attention.head_count_kv", "n_ff": "feed_forward_length",
        "rms_eps": "attention.layer_norm_rms_epsilon", "rope_base": "rope.freq_base",
    }  # fmt: skip
    shape = Shape(**{field: fields["llama." + key] for field, key in keys.items()})
    model = Model(shape)
    model.load_state_dict(dequantized({tensor.name: np.array(tensor.data) for tensor in reader.tensors}))
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = bare_tokenizer(tokenizers.models.BPE({token: k for k, token in enumerate(tokens)}, merges))
    tokenizer.add_special_tokens(demo_text.SPECIAL_TOKENS)
    return model.eval(), tokenizer, fields


def sample(
    model: Model, tokenizer: tokenizers.Tokenizer, prompts: list[str], temperature: float, seed: int, n: int
) -> list[str]:
    """Continues every prompt until its <|end|> or by n tokens, all at once; temperature 0 takes the likeliest token."""
    generator = torch.Generator().manual_seed(seed)
    end = tokenizer.token_to_id(demo_text.END)
    rows = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
    starts = [len(row) for row in rows]
    open_rows = set(range(len(rows)))
    while open_rows:
        # Rows of one length go through the model together.
        by_length: dict[int, list[int]] = {}
        for k in open_rows:
            by_length.setdefault(len(rows[k]), []).append(k)
        for members in by_length.values():
            with torch.no_grad():
                logits = model(torch.tensor([rows[k] for k in members]))[:, -1]
            if temperature > 0:
                picked = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
            else:
                picked = logits.argmax(-1)
            for k, token in zip(members, picked.tolist(), strict=True):
                rows[k].append(token)
                if token == end or len(rows[k]) - starts[k] >= n or len(rows[k]) >= model.c.n_ctx:
                    open_rows.discard(k)
    return [tokenizer.decode([t for t in row[start:] if t != end]) for row, start in zip(rows, starts, strict=True)]


def passages(text: str, n: int = stories.PASSAGE_WORDS) -> Iterator[tuple[str, ...]]:
    row = words(text)
    return (tuple(row[at : at + n]) for at in range(len(row) - n + 1))


def ask(question: str) -> str:
    return f"{demo_text.BOS}{demo_text.USER}{question}{demo_text.END}{demo_text.ASSISTANT}"


def check(path: Path, seed: int, temperature: float) -> None:
    """Samples 50 stories and looks for passages of the training text and unknown words; asks every held-out sum; some chats."""
    model, tokenizer, fields = load(path)
    told = sample(model, tokenizer, [demo_text.BOS] * 50, temperature, seed, 480)
    told = [text for text in told if "<|" not in text]
    for k, text in enumerate(told):
        print(f"[{k}] {text}\n")
    lexicon = stories.lexicon()
    unknown = sorted({word for text in told for word in words(text)} - lexicon)
    wanted = {passage: k for k, text in enumerate(told) for passage in passages(text)}
    shared: dict[int, list[str]] = {}
    for text in documents(fields["wasmrt.demo.seed"], 0, fields["wasmrt.demo.documents"]):
        for passage in passages(text):
            if passage in wanted:
                shared.setdefault(wanted[passage], []).append(" ".join(passage))
    for k, found in shared.items():
        print(f"story {k} shares {len(found)} passages, such as: {found[0]}")
    sums = [(f"What is {a} plus {b}?", f" {a + b}.") for a, b in sorted(chats.HELD_OUT)]
    sums += [(f"What is {a + b} minus {a}?", f" {b}.") for a, b in sorted(chats.HELD_OUT) if a + b <= chats.NUMBER_MAX]
    answers = sample(model, tokenizer, [ask(question) for question, _ in sums], 0.0, seed, 24)
    right = sum(answer.endswith(result) for answer, (_, result) in zip(answers, sums, strict=True))
    rng = random.Random(seed)
    known = [chats.pair(rng) for _ in range(100)]
    replies = sample(model, tokenizer, [ask(f"What is {a} plus {b}?") for a, b in known], 0.0, seed, 24)
    known_right = sum(reply.endswith(f" {a + b}.") for reply, (a, b) in zip(replies, known, strict=True))
    questions = ["Hello!", "What is wasmrt?", "What is 3 plus 4?", "Who are you?", "Is my data private?", "I feel sad today."]
    questions += ["What is the opposite of hot?", "How do planes fly?"]
    questions += ["Tell me a story about a dog.", "Tell me a story about a lantern."]
    for question, answer in zip(questions, sample(model, tokenizer, [ask(q) for q in questions], 0.0, seed, 400), strict=True):
        print(f"> {question}\n{answer}\n")
    for start in ("Once upon a time", "One day, a little fox named Pip"):
        print(f"> {start}\n{sample(model, tokenizer, [demo_text.BOS + start], temperature, seed, 400)[0]}\n")
    print(f"stories sampled at {temperature}, ended      {len(told)}")
    print(f"stories that share 12 words             {len(shared)}")
    print(f"words outside the lexicon               {len(unknown)} {unknown}")
    used = [word for text in told for word in words(text)]
    print(f"words a story, kinds of words           {len(used) / len(told):.0f}, {len(set(used))}")
    print(f"held-out sums right                     {right} of {len(sums)}")
    print(f"sums of the training text right         {known_right} of {len(known)}")
    losses = fields["wasmrt.demo.train_loss"], fields["wasmrt.demo.heldout_loss"]
    print(f"training loss, held-out loss            {losses[0]:.4f}, {losses[1]:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45, help="wall clock of the training proper")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=50_000, help="documents to make, read again when all are read")
    parser.add_argument("--rows", type=int, default=2, help="rows of 512 tokens a process reads in a step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="needs a C++ compiler")
    parser.add_argument("--work", default="build/demo-model", help="folder for text, tokenizer and checkpoints")
    parser.add_argument("--out", default=str(OUT))
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the work folder")
    parser.add_argument("--finish", action="store_true", help="only write the file from the checkpoint in the work folder")
    parser.add_argument("--check", action="store_true", help="examine the finished file --out instead of training")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the stories that --check samples")
    args = parser.parse_args()
    if args.check:
        check(Path(args.out), args.seed, args.temperature)
        return
    shape = Shape()
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    args.work = str(work.resolve())
    if not args.finish:
        prepare(work, args.seed, args.documents, shape)
        (work / "rendezvous").unlink(missing_ok=True)
        torch.multiprocessing.spawn(train, (args, shape), nprocs=PROCESSES)
    finish(args, shape)


if __name__ == "__main__":
    main()

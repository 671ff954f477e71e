"""Writes tests/data/tokenizers.json: small vocabularies of ours, and the ids that the published libraries give by them.

    pip install sentencepiece==0.2.3 tokenizers==0.23.3 && pip install --no-deps rwkv==0.8.32
    python tools/record_tokenizers.py

Unigram is trained and asked by sentencepiece, WordPiece by `tokenizers`; RWKV's own class looks tokens up in a list of ours.
Trained on the project's documentation and the lines below, so that users without these libraries can test against them.
"""

import base64
import importlib
import importlib.metadata
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "tests" / "data" / "tokenizers.json"
N_TEXTS = 100
SOURCES = {"unigram": "sentencepiece", "wordpiece": "tokenizers", "rwkv": "rwkv"}

LINES = (
    "Größe, Straße, Übermut und Ärger; señor Muñoz à la crème brûlée, naïve café.",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "Η γρήγορη καφέ αλεπού πηδάει πάνω από το σκυλί.",
    "今日は天気がいいから散歩しましょう。 我们明天去北京。 안녕하세요 여러분",
    "नमस्ते दुनिया, आप कैसे हैं? สวัสดีชาวโลก مرحبا بالعالم שלום עולם",
    "İstanbul'da ılık bir gün; ǆ ǅ Ǆ ﬁn ﬀ K Å ẞ ≠ ½ Ⅷ １２３ ＡＢＣ ① … “quoted” — dash",
)
# Rules of normalization, code points to code points: full width, ligatures, spaces, composed letters, one that is dropped.
RULES = (
    *(f"{0xFF01 + i:X}\t{0x21 + i:X}" for i in range(94)),
    "FB00\t66 66", "FB01\t66 69", "FB03\t66 66 69", "3000\t20", "A0\t20", "9\t20", "A\t20", "D\t20", "D A\t20", "7\t",
    "2026\t2E 2E 2E", "61 301\tE1", "65 301\tE9", "65 300\tE8", "6F 308\tF6", "75 308\tFC", "41 30A\tC5", "65 302 301\t1EBF",
    "1100 1161\tAC00", "1100 1161 11A8\tAC01", "BD\t31 2044 32", "FDFA\t635 20 639",
)  # fmt: skip


def corpus() -> list[str]:
    pages = [line for path in sorted((ROOT / "docs").glob("*.md")) for line in path.read_text("utf-8").splitlines()]
    return [line for line in [*pages, *LINES * 20] if line.strip()]


def texts(lines: list[str]) -> list[str]:
    """Pieces of the corpus, joined with characters of all kinds and runs of white space."""
    r = random.Random(7)
    odd = [
        *"½Ⅷ①ﬁﬀﷺ…１ＡÉéÅẞİıǅ中国가各ｶﾞ😀नथ\u0301\u0302\u0308\u200b\u3000\xa0\x07\t\n\r'-_.,!?$`[]{}▁",
        "e\u0302\u0301",
        "\r\n",
    ]
    found = ["", " ", "   ", *LINES]
    while len(found) < N_TEXTS:
        parts = []
        for _ in range(r.randint(1, 6)):
            line = r.choice(lines)
            at = r.randrange(len(line))
            known = r.choice(LINES)[: r.randint(1, 30)]
            parts.append(r.choice([line[at : at + r.randint(1, 25)], r.choice(odd), " " * r.randint(1, 3), known]))
        found.append("".join(parts))
    return found


def unigram(lines: list[str], **options: Any) -> tuple[dict[str, Any], Callable[[str], list[int]]]:
    """The keys tokenizer.ggml.* of a trained model (charsmap as base64), and sentencepiece's encode."""
    spm = importlib.import_module("sentencepiece")
    made = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("\n".join(RULES) + "\n")
        rules.flush()
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=made, model_type="unigram", vocab_size=500, character_coverage=0.99,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_tsv=rules.name, minloglevel=2, **options,
        )  # fmt: skip
    # Sums of such scores are exact in float32 too, so that the library, which adds in that, breaks no tie by rounding.
    proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(made.getvalue())
    for piece in proto.pieces:
        piece.score = round(piece.score * 1024) / 1024
    spec = proto.normalizer_spec
    keys = {
        "model": "t5",
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "token_type": [piece.type for piece in proto.pieces],
        "precompiled_charsmap": base64.b64encode(spec.precompiled_charsmap).decode(),
        "add_space_prefix": spec.add_dummy_prefix,
        "remove_extra_whitespaces": spec.remove_extra_whitespaces,
        "eos_token_id": 1, "unknown_token_id": 2, "padding_token_id": 0,
    }  # fmt: skip
    return keys, spm.SentencePieceProcessor(model_proto=proto.SerializeToString()).encode


def wordpiece(lines: list[str], lowercase: bool) -> tuple[dict[str, Any], Callable[[str], list[int]]]:
    """The same for WordPiece; in GGUF a token that goes on is without "##", and one that starts a word has U+2581 in front."""
    library = importlib.import_module("tokenizers").BertWordPieceTokenizer(lowercase=lowercase)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    library.train_from_iterator(lines, vocab_size=400, min_frequency=2, special_tokens=special, show_progress=False)
    vocabulary = library.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    keys = {
        "model": "bert",
        "tokens": [t if t in special else t[2:] if t.startswith("##") else "▁" + t for t in tokens],
        "token_type": [3 if t in special else 1 for t in tokens],
        "normalizer.lowercase": lowercase, "normalizer.strip_accents": lowercase,
        "padding_token_id": 0, "unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3, "mask_token_id": 4,
    }  # fmt: skip
    return keys, lambda text: list(library.encode(text, add_special_tokens=False).ids)


def rwkv(lines: list[str]) -> tuple[dict[str, Any], Callable[[str], list[int]]]:
    """The same for RWKV: all bytes, and pieces of the corpus, some of which end inside a character."""
    r = random.Random(3)
    pieces = {bytes((i,)) for i in range(256)}
    while len(pieces) < 450:
        raw = r.choice(lines).encode()
        at = r.randrange(len(raw))
        pieces.add(raw[at : at + r.randint(2, 6)])
    listed = sorted(pieces)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(f"{id} {piece!r} {len(piece)}\n" for id, piece in enumerate(listed, 1)))
        file.flush()
        library = importlib.import_module("rwkv.rwkv_tokenizer").TRIE_TOKENIZER(file.name)
    keys = {"model": "rwkv", "tokens": ["<s>", *(repr(piece)[2:-1] for piece in listed)], "token_type": [3, *[1] * len(listed)]}
    return keys, lambda text: list(library.encode(text)) if text else []


def main() -> int:
    lines = corpus()
    made = {
        "unigram": unigram(lines),
        "unigram-bytes": unigram(lines, byte_fallback=True, remove_extra_whitespaces=False),
        "wordpiece": wordpiece(lines, lowercase=True),
        "wordpiece-cased": wordpiece(lines, lowercase=False),
        "rwkv": rwkv(lines),
    }
    recorded = {}
    for name, (keys, encode) in made.items():
        source = SOURCES[name.partition("-")[0]]
        version = importlib.metadata.version(source)
        recorded[name] = {"source": f"{source} {version}", "keys": keys, "ids": [encode(text) for text in texts(lines)]}
        print(f"{name}: {len(keys['tokens'])} tokens")
    TARGET.write_text(
        json.dumps({"texts": texts(lines), "vocabularies": recorded}, ensure_ascii=True, separators=(",", ":")) + "\n"
    )
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

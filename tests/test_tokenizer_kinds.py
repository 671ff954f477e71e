"""WordPiece, Unigram, RWKV and PLaMo 2: recorded ids, outside libraries, plain definitions, and damaged files."""

import base64
import functools
import json
import math
import random
import struct
import time
import unicodedata
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tests.test_tokenizer import SEPARATOR, SNIPPETS, TEXTS, load, one_line, texts_of, toy_keys
from tools import tokenizer_table
from tools.tokenizer_table import character_tokenizers, rows
from wasmrt.errors import FormatError
from wasmrt.tokenizer import Tokenizer, from_metadata
from wasmrt.tokenizer.bpe import LETTER_OF
from wasmrt.tokenizer.charsmap import LARGEST, LONGEST_REPLACEMENT, CharsMap
from wasmrt.tokenizer.folding import bare, lower
from wasmrt.tokenizer.pieces import LONGEST, Pieces
from wasmrt.tokenizer.pretokenize import PRETOKENIZERS, class_of
from wasmrt.tokenizer.rwkv import unescape
from wasmrt.tokenizer.vocab import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocab
from wasmrt.tokenizer.vocab import KINDS as KIND_OF_MODEL
from wasmrt.tokenizer.wordpiece import LONGEST_WORD, WordPieces

RECORDED = json.loads((Path(__file__).parent / "data" / "tokenizers.json").read_text(encoding="utf-8"))
VOCABULARIES = RECORDED["vocabularies"]
KINDS = ("unigram", "unigram-bytes", "wordpiece", "wordpiece-cased", "rwkv")
CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def recorded_keys(name: str) -> dict[str, Any]:
    keys = dict(VOCABULARIES[name]["keys"])
    if "precompiled_charsmap" in keys:
        keys["precompiled_charsmap"] = list(base64.b64decode(keys["precompiled_charsmap"]))
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def changed(name: str, **replaced: Any) -> Tokenizer:
    """A recorded vocabulary with other keys; None removes one."""
    keys = recorded_keys(name) | {f"tokenizer.ggml.{key}": value for key, value in replaced.items()}
    return from_metadata({key: value for key, value in keys.items() if value is not None})


@functools.cache
def recorded(name: str) -> Tokenizer:
    return from_metadata(recorded_keys(name))


# Recorded ids


@pytest.mark.parametrize("name", KINDS)
def test_ids_of_the_published_libraries(name):
    """sentencepiece, `tokenizers` and RWKV's own class, as tools/record_tokenizers.py asked them."""
    tokenizer = recorded(name)
    ids = VOCABULARIES[name]["ids"]
    assert len(RECORDED["texts"]) == len(ids) == 100
    wrong = [text for text, expected in zip(RECORDED["texts"], ids, strict=True) if tokenizer.tokenize(text) != expected]
    assert wrong == []


@pytest.mark.reference
def test_ids_of_bert(reference_dir):
    folder = reference_dir / "vocab"
    tokenizer = load(folder / "bert-bge.gguf")
    texts = (folder / "bert-bge.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = (folder / "bert-bge.out").read_text().split("\n")
    assert len(texts) == len(lines) == 47
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.tokenize(text) == [int(word) for word in line.split()], text
    assert (tokenizer.add_bos, tokenizer.add_eos) == (True, False)
    around = [*tokenizer.tokenize("", add_bos=True), *tokenizer.end_ids, tokenizer.unk_id, tokenizer.pad_id, tokenizer.mask_id]
    assert texts_of(tokenizer, around) == ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"]
    assert tokenizer.detokenize(tokenizer.tokenize("Hello, World!", add_bos=True)) == "hello , world !"


@pytest.mark.reference
def test_a_sentencepiece_vocabulary_without_the_usual_keys(reference_dir):
    """Baichuan's: no byte for what it has as a character; text comes back."""
    tokenizer = load(reference_dir / "vocab" / "baichuan.gguf")
    assert (tokenizer.kind, tokenizer.add_bos, tokenizer.n_vocab) == ("spm", True, 64000)
    for text in ("Hello, world\n\t3.14", "你好，世界", "नमस्ते 😀"):
        assert tokenizer.detokenize(tokenizer.tokenize(text)) == text


# Folding


def test_lower_case_and_accents_agree_with_this_interpreter():
    """Both on what this interpreter knows; it may be older or newer than the table, and neither changes what is assigned."""
    known = [c for c in CHARACTERS if unicodedata.category(c) != "Cn" and class_of(ord(c)) != "x"]
    known.remove("\U0001171e")  # which was a mark Mn, and is Mc since 16.0
    assert [c for c in known if lower(c) != c.lower()] == []
    decomposed = {c: "".join(d for d in unicodedata.normalize("NFD", c) if unicodedata.category(d) != "Mn") for c in known}
    wrong = [c for c in known if class_of(ord(c)) != "n" and bare(c) != decomposed[c]]
    assert wrong == []
    assert bare("각") == "\u1100\u1161\u11a8"
    assert lower("İ") == "i\u0307"
    assert lower("\u1c89") == "\u1c8a"  # new in Unicode 16.0


# WordPiece


def bert_differences() -> set[str]:
    """Characters that `tokenizers` sees otherwise: its tables for BERT are of Unicode 8.0."""
    plain = WordPieces(Vocab(recorded_keys("wordpiece")), lowercase=False, strip_accents=True)
    library = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=False)
    cut = pre_tokenizers.BertPreTokenizer()

    def agree(some: Sequence[str]) -> bool:
        text = " ".join(f"a{c}b" for c in some)
        theirs = [word for word, _ in cut.pre_tokenize_str(library.normalize_str(text))]
        return plain.words(text) == theirs

    different: set[str] = set()
    known = [c for c in CHARACTERS if class_of(ord(c)) != "x" or ord(c) % 64 == 0]  # few of those that are unassigned
    for i in range(0, len(known), 64):
        some = known[i : i + 64]
        if not agree(some):
            different.update(c for c in some if not agree([c]))
    return different


DIFFERENT = functools.cache(bert_differences)


def test_characters_that_bert_sees_otherwise_are_newer_than_its_tables():
    """Marks, signs and controls that came later, what is composed with such marks, and four that have another class now."""
    assert {c for c in DIFFERENT() if class_of(ord(c)) not in "nPc" and bare(c) == c} <= set("\u166d\u1734\U000111c9\U0001171e")
    assert 500 < len(DIFFERENT()) < 700
    assert not any(c < "\u0600" for c in DIFFERENT())


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_wordpiece_as_the_tokenizers_library(lowercase, strip_accents):
    name = "wordpiece" if lowercase else "wordpiece-cased"
    ours = changed(name, **{"normalizer.strip_accents": strip_accents})
    texts = VOCABULARIES[name]["keys"]["tokens"]
    published = [t[1:] if t[0] == "▁" else t if i < 5 else "##" + t for i, t in enumerate(texts)]
    library = RustTokenizer(models.WordPiece({t: i for i, t in enumerate(published)}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(strip_accents=strip_accents, lowercase=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    snippets = st.sampled_from([*SNIPPETS, *RECORDED["texts"], "a" * 99, "É" * 101, "e\u0301" * 60])

    @settings(max_examples=200)
    @given(text=st.lists(snippets | st.text(max_size=8), max_size=8).map("".join))
    def check(text):
        text = "".join(c for c in text if c not in DIFFERENT())
        assert ours.tokenize(text) == library.encode(text, add_special_tokens=False).ids

    check()


def test_wordpiece_of_a_vocabulary_with_the_mark_of_a_space():
    """A lone mark begins no word, and text with the character is not taken for the beginning of one."""
    entries = [("[UNK]", CONTROL, 0.0), ("▁", NORMAL, 0.0), ("▁a", NORMAL, 0.0), ("b", NORMAL, 0.0), ("", NORMAL, 0.0)]
    tokenizer = from_metadata(toy_keys("bert", entries, {"unknown_token_id": 0, "scores": None}))
    assert tokenizer.tokenize("ab b a") == [2, 3, 0, 2]
    assert tokenizer.tokenize("") == tokenizer.tokenize(" \n") == []
    assert (tokenizer.bos_id, tokenizer.end_ids, tokenizer.add_bos) == (None, (), False)


# Unigram


def toy_unigram(scores: dict[str, float], **keys: Any) -> Tokenizer:
    entries = [("<pad>", CONTROL, 0.0), ("</s>", CONTROL, 0.0), ("<unk>", UNKNOWN, 0.0)]
    entries += [(text, NORMAL, score) for text, score in scores.items()]
    return from_metadata(toy_keys("t5", entries, keys))


def best_sum(text: str, scores: dict[str, float], unknown: float) -> float:
    """The definition: every way to cut the text; a character without a token of its own may be unknown."""
    if not text:
        return 0.0
    found = [scores[text[:n]] + best_sum(text[n:], scores, unknown) for n in range(1, len(text) + 1) if text[:n] in scores]
    if text[0] not in scores:
        found.append(unknown + best_sum(text[1:], scores, unknown))
    return max(found)


PIECES = st.dictionaries(st.text("ab▁", min_size=1, max_size=4), st.integers(-40, -1).map(float), min_size=1, max_size=14)


@settings(max_examples=300)
@given(scores=PIECES, text=st.text("abc ", max_size=9))
@example(scores={"a": -3.0, "aa": -5.0, "▁a": -9.0}, text=" aaaa ca")
@example(scores={"a": -1.0, "aa": -2.0}, text="aaa")  # equal sums
@example(scores={"ab": -9.0, "ca": -9.0, "bca": -1.0}, text="abca")  # an unknown "a" costs 19
def test_unigram_is_the_best_sum(scores, text):
    tokenizer = toy_unigram(scores)
    ids = tokenizer.tokenize(text)
    unknown = min(scores.values()) - 10.0
    escaped = text.replace(" ", "▁")
    assert [t for t in texts_of(tokenizer, ids) if t != "<unk>"] == [
        t for t in cut_once(escaped, scores, unknown) if t in scores
    ]
    if 2 not in ids:
        assert sum(scores[t] for t in texts_of(tokenizer, ids)) == best_sum(escaped, scores, unknown)
    assert all(ids[i : i + 2] != [2, 2] for i in range(len(ids)))


def cut_once(text: str, scores: dict[str, float], unknown: float) -> list[str]:
    """One best cut; among equals, of the last token the one that begins first, and so on forwards."""
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(text) + 1):
        options = []
        for start in range(end):
            piece = text[start:end]
            if piece in scores:
                options.append((best[start][0] + scores[piece], [*best[start][1], piece]))
            elif end == start + 1:
                options.append((best[start][0] + unknown, [*best[start][1], piece]))
        best.append(max(options, key=lambda option: option[0]))
    return best[-1][1]


def test_unigram_as_the_tokenizers_library():
    """Trained on the spot. Sums of double precision on both sides; ties, which the two break in turn, have equal sums."""
    trained = RustTokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    lines = [line for path in sorted(Path(__file__).parent.glob("test_t*.py")) for line in path.read_text("utf-8").splitlines()]
    trainer = trainers.UnigramTrainer(vocab_size=600, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>")
    trained.train_from_iterator(lines, trainer)
    vocabulary = json.loads(trained.to_str())["model"]["vocab"]
    library = RustTokenizer(models.Unigram([(text, score) for text, score in vocabulary], 0, False))
    entries = [("<unk>", UNKNOWN, 0.0), *((text, NORMAL, score) for text, score in vocabulary[1:])]
    ours = from_metadata(toy_keys("t5", entries, {"unknown_token_id": 0, "eos_token_id": None}))
    score_of = dict(enumerate(score for _, score in vocabulary))

    @settings(max_examples=200)
    @given(text=TEXTS | st.text(alphabet="abest _'", max_size=200))
    def check(text):
        text = text.replace("<unk>", "")
        ids, theirs = ours.tokenize(text), library.encode(text.replace(" ", "▁")).ids
        if ids != theirs:
            assert [id for id in ids if id == 0] == [id for id in theirs if id == 0]
            assert math.isclose(sum(map(score_of.__getitem__, ids)), sum(map(score_of.__getitem__, theirs)), rel_tol=1e-12)

    check()


def test_unigram_spaces_and_ends():
    scores = {"▁": -3.0, "▁a": -1.0, "a": -2.0}
    both = {"add_space_prefix": True, "remove_extra_whitespaces": True}
    tokenizer = toy_unigram(scores, **both)
    assert texts_of(tokenizer, tokenizer.tokenize("  a   a ")) == ["▁a", "▁a"]
    assert tokenizer.tokenize("  ") == tokenizer.tokenize("") == []
    assert tokenizer.detokenize(tokenizer.tokenize(" a a")) == "a a"
    assert (tokenizer.add_bos, tokenizer.add_eos, tokenizer.end_ids, tokenizer.bos_id) == (False, True, (1,), None)
    kept = toy_unigram(scores, add_space_prefix=True)
    assert texts_of(kept, kept.tokenize(" a")) == ["▁", "▁a"]
    assert texts_of(kept, kept.tokenize(" ")) == ["▁", "▁"]
    plain = toy_unigram(scores, add_eos_token=False)
    assert texts_of(plain, plain.tokenize("a a")) == ["a", "▁a"]
    assert plain.end_ids == ()
    assert texts_of(plain, plain.tokenize("a</s>a", parse_special=True)) == ["a", "</s>", "a"]
    assert 1 not in plain.tokenize("</s>")


def test_unigram_chooses_no_unused_token():
    entries = [
        ("<unk>", UNKNOWN, 0.0),
        ("ab", UNUSED, 0.0),
        ("a", NORMAL, -1.0),
        ("b", NORMAL, -1.0),
        ("<x>", USER_DEFINED, 0.0),
    ]
    tokenizer = from_metadata(toy_keys("t5", entries, {"unknown_token_id": 0, "eos_token_id": None}))
    assert tokenizer.tokenize("abc<x>c") == [2, 3, 0, 4, 0]


# The normalization that a Unigram file carries


def charsmap_bytes() -> bytes:
    return base64.b64decode(VOCABULARIES["unigram"]["keys"]["precompiled_charsmap"])


def test_charsmap_replaces_the_longest_match():
    replace = CharsMap(charsmap_bytes()).replace
    assert replace("plain ASCII, and e") == "plain ASCII, and e"
    assert replace("e\u0301e\u0302\u0301e\u0302x") == "éếe\u0302x"
    assert replace("１２\r\n\x07\u3000ﬃ½") == "12  ffi1⁄2"
    assert replace("") == ""


def test_charsmap_cut_anywhere_or_changed_is_an_error_or_a_map():
    """Every length, and 400 changed copies: nothing but FormatError ever comes out, and nothing takes long."""
    good = charsmap_bytes()
    texts = ["".join(RECORDED["texts"]), "e\u0302\u0301" * 50]
    began = time.perf_counter()
    refused = 0
    for length in range(0, len(good), 7):
        try:
            CharsMap(good[:length]).replace(texts[0])
        except FormatError:
            refused += 1
    assert refused > 200
    r = random.Random(1)
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(r.choice([1, 20, 300])):
            bad[r.randrange(4, len(bad) - 1)] = r.randrange(256)
        try:
            for text in texts:
                CharsMap(bytes(bad)).replace(text)
        except FormatError:
            refused += 1
    assert time.perf_counter() - began < 120


@pytest.mark.parametrize(
    "blob",
    [b"\0", b"\0\0\0\0", b"\0\0\0\0\0", b"\4\0\0\0abcd", b"\5\0\0\0abcdef\0", b"\xff\xff\xff\xff" + b"\0" * 9, b"\4\0\0\0abcdx",
     struct.pack("<I", 4) + b"\0" * LARGEST],
    ids=["short", "no table", "no unit", "no replacements", "no whole unit", "beyond", "no end", "large"],
)  # fmt: skip
def test_charsmap_sizes_that_do_not_fit(blob):
    with pytest.raises(FormatError, match="precompiled_charsmap") as error:
        toy_unigram({"a": 0.0}, precompiled_charsmap=list(blob) if len(blob) < 100 else array("B", blob))
    one_line(error)


def units(*pairs: tuple[int, int], size: int = 512) -> array:
    """A double array of `size` units, some set."""
    made = array("I", [0] * size)
    for index, unit in pairs:
        made[index] = unit
    return made


def charsmap_of(made: array, replacements: bytes) -> CharsMap:
    return CharsMap(struct.pack("<I", len(made) * 4) + made.tobytes() + replacements)


def test_charsmap_with_a_circle_ends():
    """Unit ord("a") is its own child: a node's children lie at its index XOR its offset."""
    a = ord("a")
    circle = charsmap_of(units((0, 0), (a, a | (a << 10))), b"\0")  # children of unit a: a ^ a = 0, where "a" leads to unit a
    began = time.perf_counter()
    assert circle.replace("a" * 5_000) == "a" * 5_000
    assert time.perf_counter() - began < 20


def test_charsmap_that_points_outside():
    a = ord("a")
    with pytest.raises(FormatError, match="points at unit"):
        charsmap_of(units((0, 0), (a, a | (5000 << 10))), b"\0").replace("ab")
    with pytest.raises(FormatError, match="points at unit"):
        charsmap_of(units((0, 1 << 30)), b"\0").replace("a")
    leaf = a | 1 << 8 | (256 << 10)  # its children at 256 ^ a, where a value is
    for value, replacements in ((1 << 31 | 77, b"\0"), (1 << 31, b"x" * (LONGEST_REPLACEMENT + 1) + b"\0")):
        with pytest.raises(FormatError, match="no replacement"):
            charsmap_of(units((a, leaf), (256 ^ a, value)), replacements).replace("a")
    assert charsmap_of(units((a, leaf), (256 ^ a, 1 << 31)), b"xyz\0").replace("bab") == "bxyzb"


def test_charsmap_of_numbers_that_are_no_bytes():
    for numbers in ([300] * 9, [-200] * 9):
        with pytest.raises(FormatError, match="array of bytes"):
            toy_unigram({"a": 0.0}, precompiled_charsmap=numbers)
    with pytest.raises(FormatError, match="precompiled_charsmap"):
        toy_unigram({"a": 0.0}, precompiled_charsmap="text")
    signed = [byte - 256 if byte > 127 else byte for byte in charsmap_bytes()]
    assert changed("unigram", precompiled_charsmap=signed).tokenize("１２ﬃ") == recorded("unigram").tokenize("12ffi")


# RWKV and PLaMo 2


def test_rwkv_escapes():
    assert unescape(r"a\t\n\r\x0A\xff\\\'é\q") == b"a\t\n\r\n\xff\\'" + "éq".encode()
    for text in ("\\", "a\\", "\\x", "\\x1", "\\x1g", "\\xé0", "\\\\\\", "\\n\\x"):
        with pytest.raises(FormatError, match="escape") as error:
            from_metadata(toy_keys("rwkv", [("<s>", CONTROL, 0.0), (text, NORMAL, 0.0)], {}))
        one_line(error)
    assert from_metadata(toy_keys("rwkv", [("\\\\x", NORMAL, 0.0)], {})).tokenize("\\x") == [0]


@given(
    tokens=st.lists(st.binary(min_size=1, max_size=5) | st.sampled_from([b"ab", b"abc", b"b\n", b"\xe4\xb8"]), max_size=12),
    text=TEXTS,
)
def test_rwkv_takes_the_longest_token(tokens, text):
    listed = [bytes((i,)) for i in range(256)] + tokens
    texts = [repr(token)[2:-1] for token in listed]
    tokenizer = from_metadata(toy_keys("rwkv", [(text, NORMAL, 0.0) for text in texts], {}))
    ids = tokenizer.tokenize(text)
    raw = text.encode()
    assert b"".join(map(tokenizer.token_bytes, ids)) == raw
    at = 0
    for id in ids:
        longest = max((token for token in listed if raw.startswith(token, at)), key=len)
        assert listed[id] == longest
        at += len(longest)
    assert tokenizer.detokenize(ids) == text


def test_rwkv_without_all_bytes():
    keys = toy_keys("rwkv", [("<s>", CONTROL, 0.0), ("a", NORMAL, 0.0), ("[PAD2]", UNUSED, 0.0)], {})
    assert from_metadata(keys).tokenize("aéa[PAD2]") == [1, 1]
    assert from_metadata(keys | {"tokenizer.ggml.unknown_token_id": 0}).tokenize("aéa") == [1, 0, 0, 1]
    tokenizer = from_metadata(keys | {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.add_bos_token": True})
    assert (tokenizer.add_bos, tokenizer.end_ids) == (False, ())


def toy_plamo2(scores: dict[str, float]) -> Tokenizer:
    entries = [("<unk>", UNKNOWN, 0.0), ("<s>", CONTROL, 0.0), ("</s>", CONTROL, 0.0), ("<pad>", CONTROL, 0.0)]
    entries += [(f"<0x{byte:02X}>", BYTE, 0.0) for byte in range(256)]
    return from_metadata(toy_keys("plamo2", [*entries, *((text, NORMAL, score) for text, score in scores.items())], {}))


@settings(max_examples=200)
@given(scores=PIECES, text=st.text("abcé▁", max_size=9))
def test_plamo2_is_the_best_sum(scores, text):
    """The plain definition; a character may be spelled in bytes for 1000."""
    tokenizer = toy_plamo2(scores)
    ids = tokenizer.tokenize(text)
    assert tokenizer.detokenize(ids) == text
    spelled = sum(1 for id in ids if tokenizer.token_text(id).startswith("<0x") and tokenizer.token_bytes(id)[0] & 0xC0 != 0x80)
    total = sum(scores[t] for t in texts_of(tokenizer, ids) if not t.startswith("<0x")) - 1000 * spelled

    best = [0.0] * (len(text) + 1)  # of what begins here
    for start in range(len(text) - 1, -1, -1):
        options = [scores[t] + best[start + len(t)] for t in scores if text.startswith(t, start)]
        best[start] = max([*options, -1000 + best[start + 1]])
    assert total == best[0]


def test_plamo2_takes_the_longer_of_equal_sums():
    tokenizer = toy_plamo2({"a": -1.0, "aa": -2.0, "b": -3000.0})
    assert texts_of(tokenizer, tokenizer.tokenize("aaa")) == ["aa", "a"]
    assert texts_of(tokenizer, tokenizer.tokenize("\ufeffb")) == ["<0x62>"]


# BPE of characters


def characters(model: str, pre: str, **keys: Any) -> Tokenizer:
    ours: Tokenizer = character_tokenizers(tokenizers, model, pre, **keys)[0]
    return ours


@pytest.mark.parametrize(("model", "pre"), [("gemma4", "anything"), ("gpt2", "gemma4"), ("gpt2", "sarvam-moe")])
def test_characters_are_merged_and_bytes_spelled_as_the_tokenizers_library(model, pre):
    """Lines are never joined, as in llama.cpp (the published one would, had it such merges)."""
    ours, library = character_tokenizers(tokenizers, model, pre)

    @settings(max_examples=200)
    @given(text=st.text("abcdé \n中x", max_size=30) | TEXTS)
    def check(text):
        ids = ours.tokenize(text)
        assert ids == library.encode(text).ids
        assert ours.detokenize(ids) == text.replace("▁", " ")

    check()


def test_gemma_4_begins_with_bos_whatever_the_file_says():
    assert characters("gemma4", "x", bos_token_id=5, add_bos_token=False).add_bos is True
    assert characters("gpt2", "sarvam-moe", bos_token_id=5).add_bos is False


def test_lines_of_a_token_are_one_though_no_merge_leads_there():
    ours = characters("gemma4", "x", merges=[])
    assert texts_of(ours, ours.tokenize("\n\nab")) == ["\n\n", "a", "b"]
    assert len(characters("gpt2", "sarvam-moe", merges=[]).tokenize("\n\n")) == 2


@pytest.mark.parametrize("lowercase", [True, False])
def test_words_without_their_white_space_as_the_tokenizers_library(lowercase):
    ours, library = character_tokenizers(tokenizers, "whitespace", "whitespace", **{"normalizer.lowercase": lowercase})
    if lowercase:
        library.normalizer = normalizers.Lowercase()

    @settings(max_examples=150)
    @given(text=st.text("abcdABCéÉ \n\u3000\x85中x", max_size=30) | TEXTS)
    def check(text):
        assert ours.tokenize(text) == library.encode(text).ids

    check()


# Masks


@pytest.mark.parametrize(
    ("keys", "mask"),
    [({"tokenizer.ggml.pre": "jina-v2-de"}, "<mask>"), ({"general.architecture": "nomic-bert-moe"}, "<mask>"),
     ({"general.name": "Some Modern-BERT"}, "[MASK]")],
)  # fmt: skip
def test_masks_swallow_the_white_space_before_them(keys, mask):
    entries = [(letter, NORMAL, 0.0) for letter in LETTER_OF] + [("<mask>", CONTROL, 0.0), ("[MASK]", CONTROL, 0.0)]
    tokenizer = from_metadata(toy_keys("gpt2", entries, {"merges": [], "pre": "gpt-2", "scores": None}) | keys)
    ids = tokenizer.tokenize("a \n<mask> b [MASK]", parse_special=True)
    expected = "a<mask> b [MASK]" if mask == "<mask>" else "a \n<mask> b[MASK]"
    assert tokenizer.detokenize(ids, special=True) == expected
    began = time.perf_counter()
    tokenizer.tokenize(" " * 200_000 + mask + " " * 200_000, parse_special=True)
    assert time.perf_counter() - began < 20


# Damaged vocabularies


def entries_of(kind: str) -> list[tuple[str, int, float]]:
    special = [("<unk>", UNKNOWN, 0.0), ("<s>", CONTROL, 0.0), ("</s>", CONTROL, 0.0)]
    letters = ["▁a", "▁b", "a", "b", "ab", "▁"]
    return special + [(text, NORMAL, -float(i)) for i, text in enumerate(letters)]


MODELS = {"bert": "wordpiece", "t5": "unigram", "rwkv": "rwkv", "plamo2": "plamo2", "gemma4": "bpe", "whitespace": "bpe"}


def toy(model: str, extra: Any = (), **keys: Any) -> Tokenizer:
    """A few tokens, special ones first."""
    known = {"unknown_token_id": 0, "merges": ["a b"], "pre": "whitespace"}
    return from_metadata(toy_keys(model, [*entries_of(model), *extra], known | keys))


@pytest.mark.parametrize("model", MODELS)
def test_kinds(model):
    assert toy(model).kind == MODELS[model]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "unknown_token_id"])
@pytest.mark.parametrize("id", [-1, 9, 0xFFFFFFFF])
def test_special_ids_outside_the_vocabulary(model, key, id):
    with pytest.raises(FormatError, match=key) as error:
        toy(model, **{key: id})
    one_line(error)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("keys", "named"),
    [({"scores": [0.0]}, "scores"), ({"scores": [math.inf] * 9}, "scores"), ({"token_type": [1]}, "token_type"),
     ({"tokens": []}, "tokens"), ({"tokens": None}, "tokens"), ({"tokens": [1]}, "tokens")],
)  # fmt: skip
def test_damaged_lists(model, keys, named):
    with pytest.raises(FormatError, match=rf"tokenizer\.ggml\.{named}") as error:
        toy(model, **keys)
    one_line(error)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("text", ["<0x-1>", "<0xGG>", "<0x100>", ""])
def test_bad_byte_tokens(model, text):
    with pytest.raises(FormatError, match="byte token"):
        toy(model, extra=[(text, BYTE, 0.0)])


@pytest.mark.parametrize("model", MODELS)
def test_equal_tokens_keep_the_first_id(model):
    tokenizer = toy(model, extra=[("▁a", NORMAL, 9.0), ("a", NORMAL, 9.0), ("a", CONTROL, 9.0)])
    ids = tokenizer.tokenize("a")
    assert ids[-1] < 9
    assert tokenizer.detokenize([*ids, 10, 11]).endswith("aa")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("type", [NORMAL, CONTROL, USER_DEFINED, UNUSED])
def test_a_token_of_ten_megabytes(model, type):
    """Never found in text unless it is a special one, and text that begins like it takes no longer."""
    giant = "ab" * 5_000_000
    tokenizer = toy(model, extra=[(giant, type, 0.0)])
    began = time.perf_counter()
    ids = tokenizer.tokenize("ab" * 5000)
    assert 9 not in ids
    assert time.perf_counter() - began < 20
    if type in (CONTROL, USER_DEFINED):
        assert 9 in tokenizer.tokenize("b" + giant + "b", parse_special=True)
    assert tokenizer.token_bytes(9) == giant.encode()


@pytest.mark.parametrize("model", MODELS)
def test_control_tokens_cannot_be_forged(model):
    tokenizer = toy(model, extra=[(c, NORMAL, -50.0) for c in "<s>/"])
    assert not {0, 1, 2} & set(tokenizer.tokenize("a</s><s>")) - {0}
    assert {1, 2} <= set(tokenizer.tokenize("a</s><s>", parse_special=True))


@pytest.mark.parametrize("model", MODELS)
@given(ids=st.lists(st.integers(0, 8), max_size=10), text=TEXTS)
def test_any_ids_and_any_text(model, ids, text):
    """Streamed pieces are the whole text; no text is refused."""
    tokenizer = toy(model)
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.detokenize(ids)
    assert all(0 <= id < 9 for id in tokenizer.tokenize(text, parse_special=True))


# Time


def seconds(tokenizer: Tokenizer, text: str) -> float:
    took = math.inf
    for _ in range(3):
        began = time.perf_counter()
        tokenizer.tokenize(text)
        took = min(took, time.perf_counter() - began)
    return took


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("unit", ["a", "ab ", " ", "é", "ab\u0301", "b▁"])
def test_time_grows_with_the_length_of_the_text(model, unit):
    """Eight times the text: 64 times the time if it were quadratic. Worst seen: 9.6."""
    tokenizer = toy(model, extra=[("ab" * 100, NORMAL, -1.0), ("a" * 512, NORMAL, -1.0), ("b▁b", NORMAL, -1.0)])
    tokenizer.tokenize(unit * 10)
    short, long = (seconds(tokenizer, unit * n) for n in (4_000, 32_000))
    assert long < 30 * short + 0.05


def test_pieces_have_a_longest():
    pieces = Pieces(["a" * n for n in range(1, LONGEST + 100)])
    assert max(map(len, pieces.at("a" * 2 * LONGEST, 0))) == LONGEST
    assert list(pieces.at("ba", 1)) == ["a"]
    assert list(pieces.at("b", 0)) == list(pieces.at("", 0)) == []


def test_a_long_word_is_unknown_to_wordpiece():
    tokenizer = recorded("wordpiece")
    assert tokenizer.tokenize("e" * LONGEST_WORD) != [tokenizer.unk_id]
    assert tokenizer.tokenize("e" * (LONGEST_WORD + 1)) == [tokenizer.unk_id]


# The table of what is checked


def test_table_of_tokenizers(tmp_path):
    """A row for each name, whatever is there to check with; nothing is wrong, and what is not checked does not say so."""
    found = rows(tmp_path)
    assert [row.name for row in found] == [*KIND_OF_MODEL, *PRETOKENIZERS]
    status = {(row.what, row.name): row.status for row in found}
    assert set(status.values()) == {"library", "pattern", "source"}
    assert status["model", "plamo2"] == "source"
    assert status["model", "t5"] == "library"
    assert status["pre", "gemma4"] == "library"
    assert status["pre", "kimi-k2"] == "pattern"


@pytest.mark.reference
def test_table_of_tokenizers_with_published_vocabularies(reference_dir):
    status = {(row.what, row.name): row.status for row in rows(reference_dir)}
    assert "wrong" not in status.values()
    assert status["model", "bert"] == status["pre", "qwen2"] == status["pre", "refact"] == "exact"
    assert status["pre", "megrez"] == "shared"


def test_table_tells_what_is_wrong(monkeypatch, tmp_path):
    data = json.loads(tokenizer_table.RECORDED.read_text(encoding="utf-8"))
    data["vocabularies"]["rwkv"]["ids"][9] = [1]
    (tmp_path / "changed.json").write_text(json.dumps(data))
    monkeypatch.setattr(tokenizer_table, "RECORDED", tmp_path / "changed.json")
    row = next(row for row in rows(tmp_path) if row.name == "rwkv")
    assert (row.status, row.how) == ("wrong", f"1 of 100 texts differ from {data['vocabularies']['rwkv']['source']}")

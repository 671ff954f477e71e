"""Tokenizers against recorded ids, against the `tokenizers` library on random Unicode text, and on damaged vocabularies."""

import functools
import json
import re
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, trainers
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import pre_tokenizers as rust

from wasmrt.errors import FormatError, UnsupportedError
from wasmrt.gguf.metadata import StringArray
from wasmrt.gguf.reader import parse_header
from wasmrt.tokenizer import Tokenizer, from_metadata
from wasmrt.tokenizer.bpe import LETTER_OF
from wasmrt.tokenizer.pretokenize import PRETOKENIZERS, Pretokenizer, Splitter
from wasmrt.tokenizer.vocab import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

RECORDED = (
    "deepseek-coder", "deepseek-llm", "falcon", "gpt-2", "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "refact",
    "starcoder",
)  # fmt: skip
SEPARATOR = "\n__ggml_vocab_test__\n"

# The pre-tokenizers as the models publish them: here the Rust library's own classes and Unicode tables do the cutting.
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
PUBLISHED: dict[str, list[Any]] = {
    "llama-bpe": [ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST],
    "qwen2": [ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST],
    "gpt-2": [rust.ByteLevel(add_prefix_space=False)],
    "mpt": [rust.ByteLevel(add_prefix_space=False)],
    "starcoder": [rust.Digits(individual_digits=True), rust.ByteLevel(add_prefix_space=False)],
    "refact": [rust.Digits(individual_digits=True), rust.ByteLevel(add_prefix_space=False)],
    "falcon": [rust.Punctuation("contiguous"), rust.ByteLevel(add_prefix_space=False), rust.Digits(), "[0-9][0-9][0-9]"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, rust.Digits(individual_digits=True)],
}

# Text as it comes: words, contractions, numbers, white space of all kinds, letters of all classes, unassigned characters.
SNIPPETS = (
    "Hello", " world", "don't", "I'LL", "'ſ", "we'Ve", " 'tis", "12345", " 3.14", "１２", "½", "Ⅷ", "...", "->", "\r\n",
    "\n\n ", "\t", "    ", " \n \n", "\x85", "\u3000", "\u200b", "éa\u0301", "नमस्ते", "中文", "가나", "ǅ", "ʰ", "ﬀ", "😀",
    "👩\u200d👧", "_", "</s>", "<s>", "<|im_end|>", "[INST]", "\U000e0fff", "\U00064e3c", "\x00", "\x0b", "\x1c", "$+<=>^`|~",
    "1234567", "12345a", "٣٤٥٦", "々〇", "⺀", "あ", "\U00016ff0", "<sentinel:12>", "IMGIMGABCDEZ",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=6), max_size=12).map("".join)


@functools.cache
def metadata_of(path: Path) -> Any:
    return parse_header(path.read_bytes()).metadata


@functools.cache
def load(path: Path) -> Tokenizer:
    return from_metadata(metadata_of(path))


def toy_spm(extra: Sequence[tuple[str, int, float]] = (), **keys: Any) -> Tokenizer:
    """A small SentencePiece vocabulary: three control tokens, 256 bytes, letters and a few words; `extra` goes behind."""
    entries = [("<unk>", UNKNOWN, 0.0), ("<s>", CONTROL, 0.0), ("</s>", CONTROL, 0.0)]
    entries += [(f"<0x{byte:02X}>", BYTE, 0.0) for byte in range(256)]
    entries += [(text, NORMAL, -float(i)) for i, text in enumerate(["▁h", "el", "lo", "▁hel", "▁hello", "▁", *"helo<s>/"])]
    entries += extra
    return from_metadata(toy_keys("llama", entries, keys))


def toy_keys(model: str, entries: Sequence[tuple[str, int, float]], keys: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a vocabulary of (text, type, score); `keys` ("bos_token_id=...") replace, and None removes."""
    made: dict[str, Any] = {
        "model": model,
        "tokens": [text for text, _, _ in entries],
        "token_type": [type for _, type, _ in entries],
        "scores": [score for _, _, score in entries],
    } | keys
    return {f"tokenizer.ggml.{key}": value for key, value in made.items() if value is not None}


def toy_bpe(merges: Sequence[str] = (), extra: Sequence[tuple[str, int, float]] = (), **keys: Any) -> Tokenizer:
    """All bytes, what `merges` make of them (in order), and `extra`; pre-tokenizer gpt-2."""
    entries = [(letter, NORMAL, 0.0) for letter in LETTER_OF]
    entries += [(merge.replace(" ", ""), NORMAL, 0.0) for merge in merges]
    entries += extra
    return from_metadata(toy_keys("gpt2", entries, {"merges": list(merges), "pre": "gpt-2", "scores": None} | keys))


def texts_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    return [tokenizer.token_text(id) for id in ids]


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# Recorded ids


@pytest.mark.reference
@pytest.mark.parametrize("name", RECORDED)
def test_ids_of_the_original_tokenizers(reference_dir, name):
    """NAME.inp and NAME.out; the text comes back as well."""
    folder = reference_dir / "vocab"
    tokenizer = load(folder / f"{name}.gguf")
    texts = (folder / f"{name}.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = (folder / f"{name}.out").read_text().split("\n")
    assert len(texts) == len(lines) == 47
    for text, line in zip(texts, lines, strict=True):
        ids = tokenizer.tokenize(text)
        assert ids == [int(word) for word in line.split()], text
        assert tokenizer.detokenize(ids) == text


@pytest.mark.reference
@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "llama-spm", "qwen2"])
def test_ids_of_tiktoken_and_sentencepiece(reference_dir, name):
    folder = reference_dir / "vocab"
    tokenizer = load(folder / f"{name}.gguf")
    cases = json.loads((folder / "token-ids.json").read_text(encoding="utf-8"))["cases"]
    wrong = [case["text"] for case in cases if tokenizer.tokenize(case["text"]) != case[name]]
    assert len(cases) == 1094
    assert wrong == []


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "ends", "bos", "adds_bos"),
    [
        ("llama-bpe", {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}, "<|begin_of_text|>", True),
        ("llama-spm", {"</s>"}, "<s>", True),
        ("phi-3", {"</s>", "<|end|>", "<|endoftext|>"}, "<s>", True),
        ("qwen2", {"<|im_end|>", "<|endoftext|>"}, "<|endoftext|>", False),  # its "</s>" is a plain piece of HTML
        ("gpt-2", {"<|endoftext|>"}, "<|endoftext|>", False),
        ("deepseek-llm", {"<｜end▁of▁sentence｜>"}, "<｜begin▁of▁sentence｜>", True),
    ],
)
def test_special_ids_of_files(reference_dir, name, ends, bos, adds_bos):
    tokenizer = load(reference_dir / "vocab" / f"{name}.gguf")
    assert set(texts_of(tokenizer, list(tokenizer.eog_ids))) == ends
    assert tokenizer.bos_id is not None
    assert tokenizer.token_text(tokenizer.bos_id) == bos
    assert tokenizer.add_bos is adds_bos
    assert tokenizer.kind == ("spm" if name in ("llama-spm", "phi-3") else "bpe")
    assert tokenizer.add_eos is False
    lengths = [len(text) for text in tokenizer.control_texts]
    assert lengths == sorted(lengths, reverse=True)
    assert bos in tokenizer.control_texts


# Random text against the Rust library


def rust_pretokenizer(steps: Sequence[Any]) -> Any:
    """The steps, patterns as "isolated" splits, then the byte alphabet unless a step has applied it."""
    made = [rust.Split(Regex(step), "isolated") if isinstance(step, str) else step for step in steps]
    if not any(isinstance(step, rust.ByteLevel) for step in made):
        made.append(rust.ByteLevel(add_prefix_space=False, use_regex=False))
    return rust.Sequence(made)


@functools.cache
def rust_tokenizer(path: Path) -> Any:
    keys = metadata_of(path)
    texts, types = list(keys["tokenizer.ggml.tokens"]), list(keys["tokenizer.ggml.token_type"])
    merges = [tuple(line.split(" ")) for line in keys["tokenizer.ggml.merges"]]
    vocabulary = {text: id for id, text in enumerate(texts)}
    tokenizer = RustTokenizer(models.BPE(vocabulary, merges, ignore_merges=path.stem == "llama-bpe"))
    tokenizer.pre_tokenizer = rust_pretokenizer(PUBLISHED[path.stem])
    added = [text for text, type in zip(texts, types, strict=True) if type == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return tokenizer


@pytest.mark.reference
@pytest.mark.parametrize("name", PUBLISHED)
def test_random_text_as_the_tokenizers_library(reference_dir, name):
    """Checked once on 120,000 texts more, all vocabularies together: no difference, but for falcon one in 10,000.

    Falcon's published cutting looks for digits once more among the letters that stand for bytes, and "²" is one. That shows
    only next to a byte that has no token, 0xF2, which leads the unassigned planes 8 to 11; those are left out here.
    """
    path = reference_dir / "vocab" / f"{name}.gguf"
    ours, theirs = load(path), rust_tokenizer(path)

    @settings(max_examples=60)
    @given(text=TEXTS)
    def check(text):
        assume(name != "falcon" or not any("\U00080000" <= c < "\U000c0000" for c in text))
        assert ours.tokenize(text) == theirs.encode(text, add_special_tokens=False).ids

    check()


@functools.cache
def trained() -> tuple[Any, Tokenizer]:
    """A BPE vocabulary that the Rust library trains on the spot: no reference data needed."""
    theirs = RustTokenizer(models.BPE())
    theirs.pre_tokenizer = rust.ByteLevel(add_prefix_space=False)
    corpus = [text for path in sorted(Path(__file__).parent.glob("test_*.py")) for text in path.read_text("utf-8").splitlines()]
    alphabet = rust.ByteLevel.alphabet()
    theirs.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(theirs.to_str())["model"]
    texts = sorted(model["vocab"], key=model["vocab"].__getitem__)
    entries = [(text, NORMAL, 0.0) for text in texts]
    merges = [" ".join(pair) for pair in model["merges"]]
    return theirs, from_metadata(toy_keys("gpt2", entries, {"merges": merges, "pre": "gpt-2", "scores": None}))


@given(text=TEXTS | st.text(alphabet="abest _'", max_size=300))
def test_trained_vocabulary_as_the_tokenizers_library(text):
    theirs, ours = trained()
    ids = ours.tokenize(text)
    assert ids == theirs.encode(text).ids
    assert ours.detokenize(ids) == text


FAMILY_NAMES = sorted({pretokenizer: name for name, pretokenizer in reversed(PRETOKENIZERS.items())}.values())


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_patterns_cut_as_a_unicode_regex_does(name):
    """The rewriting for `re`, for every pattern, against the Rust library's engine, which knows \\p{L} and \\s itself."""
    ours = Splitter(PRETOKENIZERS[name])
    escape = re.compile(r"\\(?:x(.{2})|u(.{4})|U(.{8}))")  # Oniguruma knows them otherwise or not at all
    patterns = [pattern.replace(r"\p{s}", "ſ").replace(r"\Z", r"\z") for pattern in PRETOKENIZERS[name].patterns]
    published = [escape.sub(lambda found: chr(int(found[1] or found[2] or found[3], 16)), pattern) for pattern in patterns]
    theirs = rust.Sequence([rust.Split(Regex(pattern), "isolated") for pattern in published])

    @settings(max_examples=60)
    @given(text=TEXTS)
    @example(text="It'ſ don'T ǅungla ʰA 12345 \u2028\x85 a\u0301b\n\n  \U000e0fff中文。")
    def check(text):
        words = ours.split(text)
        assert "".join(words) == text
        assert words == [word for word, _ in theirs.pre_tokenize_str(text)]

    check()


def test_what_no_pattern_matches_stays_a_word():
    for text in ("a1b", "é1é", "1", ""):
        assert Splitter(Pretokenizer((r"\p{L}+",))).split(text) == list(text)
        assert Splitter(Pretokenizer((r"\p{L}+", "é"))).split(text) == list(text)


# Special tokens, spaces, bytes


def test_space_prefix_at_the_start_and_after_special_tokens():
    tokenizer = toy_spm()
    assert texts_of(tokenizer, tokenizer.tokenize("hello")) == ["▁hello"]
    assert texts_of(tokenizer, tokenizer.tokenize("hello</s>hello", parse_special=True)) == ["▁hello", "</s>", "▁hello"]
    assert texts_of(tokenizer, tokenizer.tokenize(" hello")) == ["▁", "▁hello"]
    assert texts_of(tokenizer, tokenizer.tokenize("hello", add_bos=True)) == ["<s>", "▁hello"]
    assert tokenizer.tokenize("") == []
    plain = toy_spm(add_space_prefix=False)
    assert texts_of(plain, plain.tokenize("hello")) == ["h", "el", "lo"]
    assert plain.detokenize(plain.tokenize(" hello")) == " hello"


def test_detokenize_takes_the_space_prefix_off_again():
    tokenizer = toy_spm()
    for text in ("hello", " hello", "  hello ", " ", "", "\n hello"):
        assert tokenizer.detokenize(tokenizer.tokenize(text)) == text
        assert tokenizer.detokenize(tokenizer.tokenize(text, add_bos=True)) == text
    hello = tokenizer.tokenize("hello")
    assert tokenizer.detokenize([1, *hello], special=True) == "<s>hello"
    assert tokenizer.stream(continued=True).push(hello[0]) == " hello"


def test_characters_without_a_token_are_spelled_in_bytes():
    tokenizer = toy_spm()
    assert texts_of(tokenizer, tokenizer.tokenize("é\n")) == ["▁", "<0xC3>", "<0xA9>", "<0x0A>"]
    assert tokenizer.token_bytes(tokenizer.tokenize("\n")[-1]) == b"\n"
    few = from_metadata(toy_keys("llama", [("<unk>", UNKNOWN, 0.0), ("a", NORMAL, 0.0), ("▁", NORMAL, 0.0)], {}))
    assert few.tokenize("aéa") == [2, 1, 0, 0, 1]


def test_control_tokens_cannot_be_forged():
    """ "<", "s>" and "<s>" are in the vocabulary, and its score is the best there is; still the text stays text."""
    tokenizer = toy_spm(extra=[("s>", NORMAL, -50.0), ("<0x41>x", NORMAL, -1.0)])
    assert texts_of(tokenizer, tokenizer.tokenize("<s>")) == ["▁", "<", "s>"]
    assert tokenizer.tokenize("<s>", parse_special=True) == [1]
    assert tokenizer.tokenize("<unk>", parse_special=True) == [0]
    assert tokenizer.control_texts == ("</s>", "<s>")
    named = toy_spm(extra=[(text, NORMAL, 0.0) for text in ("[E", "OT", "OT]", "[EOT]")])
    assert "[EOT]" not in texts_of(named, named.tokenize("[EOT]"))
    bpe = toy_bpe(merges=["< s", "<s >"], extra=[("<|im_end|>", CONTROL, 0.0)], token_type=[NORMAL] * 257 + [CONTROL] * 2)
    assert 257 not in bpe.tokenize("<s><s>")
    assert 257 not in bpe.tokenize("<|im_end|>")


def test_special_tokens_longest_first_and_user_defined_always():
    control = [("<c>", CONTROL, 0.0), ("b><c", CONTROL, 0.0), ("", CONTROL, 0.0)]
    tokenizer = toy_bpe(extra=[("<a>", USER_DEFINED, 0.0), ("<a><b>", USER_DEFINED, 0.0), *control])
    a, ab, c, bc = range(256, 260)
    assert tokenizer.tokenize("<a><b><a>") == [ab, a]
    assert c not in tokenizer.tokenize("<c>")
    assert tokenizer.tokenize("<c>", parse_special=True) == [c]
    # The longer "<a><b>" takes its text away from "b><c", as in llama.cpp.
    assert tokenizer.tokenize("<a><b><c>", parse_special=True) == [ab, c]
    assert tokenizer.tokenize("<b><c>", parse_special=True) == [*tokenizer.tokenize("<"), bc, *tokenizer.tokenize(">")]
    assert tokenizer.control_texts == ("b><c", "<c>")


def test_many_special_tokens_in_a_long_text_are_quick():
    extra = [(f"[PAD{i}]", USER_DEFINED, 0.0) for i in range(3000)]
    tokenizer = toy_bpe(extra=extra)
    began = time.perf_counter()
    ids = tokenizer.tokenize("".join(text for text, _, _ in extra) * 10)
    assert ids == list(range(256, 3256)) * 10
    tokenizer.tokenize("[PAD" * 60_000)
    assert time.perf_counter() - began < 30


@pytest.mark.reference
def test_phi_3_swallows_white_space_behind_special_tokens(reference_dir):
    tokenizer = load(reference_dir / "vocab" / "phi-3.gguf")
    ids = tokenizer.tokenize("<|user|>\n Hi<|end|>\n<|assistant|>\n", parse_special=True)
    assert texts_of(tokenizer, ids) == ["<|user|>", "▁Hi", "<|end|>", "<|assistant|>"]
    assert texts_of(tokenizer, tokenizer.tokenize("<s>\n", parse_special=True)) == ["<s>", "▁", "<0x0A>"]


def test_names_of_end_tokens_count_whatever_their_type():
    names = ["<|im_end|>", "<|eot_id|>", "</s>", "<|file_sep|>", "<|fim_prefix|>"]
    tokenizer = toy_bpe(extra=[(name, NORMAL, 0.0) for name in names], eos_token_id=7)
    assert tokenizer.eog_ids == {7, 256, 257, 259}
    assert set(tokenizer.control_texts) == set(names) - {"</s>"}
    harmony = toy_bpe(extra=[(name, CONTROL, 0.0) for name in ("<|end|>", "<|return|>", "<|call|>")])
    assert texts_of(harmony, sorted(harmony.eog_ids)) == ["<|return|>", "<|call|>"]
    assert harmony.bos_id is harmony.eos_id is None


def test_merges_ignored_for_whole_tokens_only_where_the_family_does():
    extra = [("abc", NORMAL, 0.0)]
    assert toy_bpe(merges=["b c"], extra=extra, pre="llama-bpe").tokenize("abc") == [257]
    assert texts_of(toy_bpe(merges=["b c"], extra=extra), toy_bpe(merges=["b c"], extra=extra).tokenize("abc")) == ["a", "bc"]
    assert toy_bpe(pre="llama-bpe", bos_token_id=5).add_bos is True
    assert toy_bpe(pre="llama-bpe", bos_token_id=5, add_bos_token=False).add_bos is False
    assert toy_bpe(pre="gpt-2", bos_token_id=5).tokenize("a", add_bos=True) == [5, LETTER_OF.index("a")]
    assert toy_bpe(pre="gpt-2").tokenize("a", add_bos=True) == [LETTER_OF.index("a")]
    assert toy_bpe(pre="llama-bpe").add_bos is False  # there is none to add


def test_spaces_inside_tokens_keep_words_together():
    """A vocabulary with "o▁h" cannot be cut at every space; one letter that no token has before a space can."""
    tokenizer = toy_spm(extra=[("o▁h", NORMAL, 5.0)])
    assert texts_of(tokenizer, tokenizer.tokenize("hello hello")) == ["▁hel", "l", "o▁h", "el", "lo"]
    assert texts_of(tokenizer, tokenizer.tokenize("hell hello")) == ["▁hel", "l", "▁hello"]


# Streaming


def pieces(tokenizer: Tokenizer, ids: Sequence[int], special: bool = False) -> list[str]:
    stream = tokenizer.stream(special)
    return [*map(stream.push, ids), stream.flush()]


@given(text=TEXTS)
def test_streamed_text_is_whole_characters(text):
    """No half character ever comes out: nothing is replaced, and nothing is left at the end."""
    for tokenizer in (trained()[1], toy_spm()):
        if "\ufffd" in text or "▁" in text:
            continue
        streamed = pieces(tokenizer, tokenizer.tokenize(text))
        assert "".join(streamed) == text
        assert streamed[-1] == ""


@given(ids=st.lists(st.integers(0, 272), max_size=12), special=st.booleans())
def test_streamed_pieces_are_the_detokenized_text(ids, special):
    """Any ids, so broken UTF-8 too; decoded here in one go."""
    tokenizer = toy_spm()
    assert "".join(pieces(tokenizer, ids, special)) == tokenizer.detokenize(ids, special)
    shown = [id for id in ids if special or id > 2]
    raw = [tokenizer.token_bytes(id) for id in shown]
    first = next((i for i, id in enumerate(shown) if id > 2), None)
    if first is not None:
        raw[first] = raw[first].removeprefix(b" ")
    assert tokenizer.detokenize(ids, special) == b"".join(raw).decode("utf-8", "replace")


def test_a_broken_tail_is_replaced_when_flushed():
    tokenizer = toy_bpe()
    stream = tokenizer.stream()
    assert [stream.push(byte) for byte in "€".encode()] == ["", "", "€"]
    assert [stream.push(byte) for byte in "€".encode()[:2]] == ["", ""]
    assert stream.flush() == "\ufffd"


def test_token_bytes_and_texts():
    tokenizer = toy_bpe(merges=["Ġ a"], extra=[("é", USER_DEFINED, 0.0), ("中", NORMAL, 0.0)])
    assert tokenizer.token_text(256) == "Ġa"
    assert [tokenizer.token_bytes(id) for id in (256, 257, 258)] == [b" a", "é".encode(), "中".encode()]
    for id in (-1, 259, 1 << 40):
        with pytest.raises(ValueError, match="outside the vocabulary of 259"):
            tokenizer.detokenize([id])
        with pytest.raises(ValueError, match="outside the vocabulary of 259"):
            tokenizer.token_bytes(id)


def test_lone_surrogates_are_refused():
    with pytest.raises(ValueError, match=r"character 2 .* U\+D83D") as error:
        toy_bpe().tokenize("ab\ud83d")
    one_line(error)


# Damaged and unknown vocabularies


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id", "eom_token_id"])
@pytest.mark.parametrize("id", [-1, 1 << 31, 0xFFFFFFFF, 10**6, "1", 1.0, True])
def test_special_ids_outside_the_vocabulary(key, id):
    with pytest.raises(FormatError, match=key) as error:
        toy_spm(**{key: id})
    one_line(error)


def test_unused_special_ids_outside_the_vocabulary_are_none():
    assert toy_spm(padding_token_id=10**6).pad_id is None
    assert from_metadata(toy_keys("llama", [("a", NORMAL, 0.0)], {})).bos_id is None


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"scores": [0.0]}, "scores"),
        ({"scores": [0.0] * 10_000}, "scores"),
        ({"scores": [float("nan")] * 273}, "scores"),
        ({"token_type": [1]}, "token_type"),
        ({"token_type": ["x"] * 273}, "token_type"),
        ({"tokens": []}, "tokens"),
        ({"tokens": None}, "tokens"),
        ({"tokens": "abc"}, "tokens"),
        ({"model": 3}, "model"),
        ({"add_bos_token": 1}, "add_bos_token"),
    ],
)
def test_damaged_lists(keys, named):
    with pytest.raises(FormatError, match=rf"tokenizer\.ggml\.{named}") as error:
        toy_spm(**keys)
    one_line(error)


@pytest.mark.parametrize("text", ["<0x-1>", "<0xGG>", "<0x100>", "<0x1>", "<0x١٢>", "", "0x41", "<0x41>\n"])
def test_bad_byte_tokens(text):
    with pytest.raises(FormatError, match="byte token") as error:
        toy_spm(extra=[(text, BYTE, 0.0)])
    one_line(error)


@pytest.mark.parametrize("merges", [None, "a b", [1, 2]])
def test_bad_merges(merges):
    with pytest.raises(FormatError, match="merges"):
        from_metadata(toy_keys("gpt2", [("a", NORMAL, 0.0)], {"merges": merges, "pre": "gpt-2"}))


def test_merges_that_lead_nowhere_are_ignored():
    """Unknown parts or results, no space, too many spaces, empty, doubled, and merges in a circle."""
    odd = ["x yz", "xy z", "b c", "xyz", "", " ", "  ", "a  b", "a b", "b a", "a b", "ab a", "a ba", "b ab"]
    known = [(text, NORMAL, 0.0) for text in ("ab", "ba", "aba", "bab")]
    entries = [(letter, NORMAL, 0.0) for letter in LETTER_OF] + known
    tokenizer = from_metadata(toy_keys("gpt2", entries, {"merges": odd, "pre": "gpt-2", "scores": None}))
    assert texts_of(tokenizer, tokenizer.tokenize("xyzbc")) == list("xyzbc")
    assert texts_of(tokenizer, tokenizer.tokenize("abab")) == ["ab", "ab"]
    assert tokenizer.detokenize(tokenizer.tokenize("abababba" * 1000)) == "abababba" * 1000


def test_equal_tokens_keep_the_first_id():
    tokenizer = toy_bpe(merges=["a b"], extra=[("ab", NORMAL, 0.0), ("ab", CONTROL, 0.0)])
    assert tokenizer.tokenize("ab") == [256]
    assert tokenizer.detokenize([256, 257, 258]) == "abab"


@pytest.mark.parametrize("type", [NORMAL, CONTROL, USER_DEFINED])
def test_a_token_of_ten_megabytes(type):
    giant = "ab" * 5_000_000
    tokenizer = toy_bpe(extra=[(giant, type, 0.0)])
    assert tokenizer.tokenize("ab", parse_special=True) == [LETTER_OF.index("a"), LETTER_OF.index("b")]
    assert tokenizer.token_bytes(256) == giant.encode()
    if type != NORMAL:
        assert tokenizer.tokenize(giant + "b", parse_special=True) == [256, LETTER_OF.index("b")]


def test_a_vocabulary_without_types():
    """Early SentencePiece files state none: bytes and the three special tokens are known by text and id."""
    tokenizer = toy_spm(token_type=None)
    assert tokenizer.detokenize(tokenizer.tokenize("hé <s>", add_bos=True)) == "hé <s>"
    assert tokenizer.tokenize("<s>", parse_special=True) == [1]


def test_bytes_that_are_no_utf8_in_texts():
    tokens = StringArray.of([*LETTER_OF, b"\xff\xfe"])
    tokenizer = from_metadata({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
                               "tokenizer.ggml.merges": []})  # fmt: skip
    assert tokenizer.tokenize("a\ufffd\ufffd") == [LETTER_OF.index("a"), *"\ufffd\ufffd".encode()]


@pytest.mark.parametrize("model", ["hybriddna", "replit", "x" * 1000])
def test_unknown_tokenizers_are_named(model):
    with pytest.raises(UnsupportedError, match=model[:20]) as error:
        from_metadata({"tokenizer.ggml.model": model})
    assert len(one_line(error)) < 300


@pytest.mark.parametrize("model", ["no_vocab", "none", None])
def test_files_without_a_tokenizer(model):
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        from_metadata({} if model is None else {"tokenizer.ggml.model": model})


@pytest.mark.parametrize("name", ["longcat", "nonsense", "\n"])
def test_unknown_pretokenizers_are_named(name):
    with pytest.raises(UnsupportedError) as error:
        toy_bpe(pre=name)
    assert repr(name) in one_line(error)


@pytest.mark.reference
def test_a_missing_pretokenizer_is_the_default_one(reference_dir):
    path = reference_dir / "vocab" / "gpt-neox.gguf"
    with pytest.warns(UserWarning, match=r"tokenizer\.ggml\.pre"):
        tokenizer = from_metadata(metadata_of(path))
    # The default pattern cuts punctuation off first, so that " (" is no word; and long numbers into threes from the left.
    assert texts_of(tokenizer, tokenizer.tokenize("a (12345678")) == ["a", "Ġ", "(", "123", "456", "78"]


# Time


@pytest.mark.reference
@pytest.mark.parametrize("name", ["llama-bpe", "llama-spm"])
@pytest.mark.parametrize("text", ["a" * 10**6, " " * 10**6, "😀" * 250_000], ids=["letter", "spaces", "emoji"])
def test_a_megabyte_of_one_character(reference_dir, name, text):
    """Measured on two cores: 2.4 s at most (llama-bpe, one letter). The promise is 10 s; here a busy machine has room."""
    tokenizer = load(reference_dir / "vocab" / f"{name}.gguf")
    began = time.perf_counter()
    ids = tokenizer.tokenize(text)
    assert time.perf_counter() - began < 30
    assert tokenizer.detokenize(ids) == text


@pytest.mark.reference
@pytest.mark.parametrize("name", ["llama-bpe", "llama-spm", "deepseek-llm"])
def test_a_megabyte_of_text(reference_dir, name):
    """Measured: 0.5 to 1.3 s for English. The promise is 3 s."""
    cases = json.loads((reference_dir / "vocab" / "token-ids.json").read_text(encoding="utf-8"))["cases"]
    prose = " ".join(case["text"] for case in cases if len(case["text"]) > 300)
    text = "\n".join(prose[i:] for i in range(0, 200, 7))[:1_000_000]
    tokenizer = load(reference_dir / "vocab" / f"{name}.gguf")
    began = time.perf_counter()
    ids = tokenizer.tokenize(text)
    assert time.perf_counter() - began < 9
    assert tokenizer.detokenize(ids) == text


@pytest.mark.reference
def test_opening_a_large_vocabulary_is_lazy(reference_dir):
    """128k tokens, 280k merges: 0.02 s; the tables are built by the first text (0.1 s)."""
    keys = metadata_of(reference_dir / "vocab" / "llama-bpe.gguf")
    began = time.perf_counter()
    from_metadata(keys)
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_cutting_takes_linear_time(name):
    """White space that ends nowhere and letters without an end are where patterns backtrack; 100 KB would take minutes."""
    splitter = Splitter(PRETOKENIZERS[name])
    n = 100_000
    spaces = " " * n
    for text in (spaces + "x", spaces + "一", spaces + "\n" + spaces + "x", "A" * n, "ʰ" + "A" * n, "a\u0301" * n, " 1" * n):
        began = time.perf_counter()
        assert "".join(splitter.split(text)) == text
        assert time.perf_counter() - began < 10


def test_names_of_files_are_all_distinct_patterns():
    """Each family has one entry, so that a name is found in one place."""
    assert len(FAMILY_NAMES) == len(set(PRETOKENIZERS.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in (name for name, pretokenizer in PRETOKENIZERS.items() if pretokenizer.letters == "bytes"):
            assert toy_bpe(pre=name).detokenize(toy_bpe(pre=name).tokenize("A 12 b\n")) == "A 12 b\n"

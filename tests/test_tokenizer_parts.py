"""The parts of the tokenizer that stand alone: pair merging against a plain one, character classes against unicodedata."""

import unicodedata

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tools.make_unicode_table import VERSION, classify, runs
from wasmrt.tokenizer.merge import merge
from wasmrt.tokenizer.pretokenize import class_of
from wasmrt.tokenizer.unicode_table import RUNS, UNICODE_VERSION


def merge_plainly(parts, rank_of):
    """The definition: look at all neighbours, join the best and leftmost pair, start again."""
    parts = list(parts)
    while True:
        ranks = [(rank, i) for i in range(len(parts) - 1) if (rank := rank_of(parts[i], parts[i + 1])) is not None]
        if not ranks:
            return parts
        _, i = min(ranks)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def words_of(alphabet: str, longest: int) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=1, max_size=longest)


# Ranks need not grow with length, as they do in trained vocabularies: a merge can make a pair that is better than the last.
RANKS = st.dictionaries(words_of("ab", 5), st.integers(0, 3) | st.floats(-3, 3), max_size=40)


@settings(max_examples=300)
@given(text=st.text("ab", max_size=40), ranks=RANKS)
@example(text="abababab", ranks={"ab": 5, "aba": 1, "abab": 0, "ba": 6})
@example(text="aaaa", ranks={"aa": 2, "aaa": 2})  # the second pair comes late, and before those that wait
@example(text="aaaaaaaaa", ranks={"aa": 1, "aaa": 1, "aaaa": 0})
def test_merge_is_best_pair_first_leftmost_first(text, ranks):
    def by_text(left, right):  # as SentencePiece
        return ranks.get(left + right)

    assert merge(list(text), by_text) == merge_plainly(text, by_text)


PAIRS = st.tuples(words_of("abc", 3), words_of("abc", 3))


@given(text=st.text("abc", max_size=40), lines=st.lists(PAIRS, max_size=60, unique=True))
@example(text="cabcabcab", lines=[("c", "ab"), ("a", "b"), ("b", "c"), ("cab", "cab")])
def test_merge_by_pairs(text, lines):
    ranks = {pair: rank for rank, pair in enumerate(lines)}

    def by_pair(left, right):  # as byte-level BPE
        return ranks.get((left, right))

    assert merge(list(text), by_pair) == merge_plainly(text, by_pair)


def test_classes_agree_with_this_interpreter():
    """Exactly where it has the same Unicode version. Otherwise on what both know: of assigned characters, hardly any ever
    changes its class (none from 14.0 to 16.0, one, U+0295, from 16.0 to 17.0).
    """
    assert UNICODE_VERSION == VERSION == "16.0.0"
    if unicodedata.unidata_version == VERSION:
        assert runs(unicodedata) == RUNS
        return
    known = [c for c in range(0x110000) if unicodedata.category(chr(c)) != "Cn"]
    changed = [c for c in known if classify(unicodedata, c) != class_of(c)]
    newer = unicodedata.unidata_version > VERSION  # then 16.0 knows some of them only as unassigned
    assert len([c for c in changed if not newer or class_of(c) != "x"]) <= 3


def test_classes_of_some_characters():
    """Among them two that were new in Unicode 15.1 and 16.0."""
    letters = {"A": "u", "ſ": "l", "ǅ": "t", "ʰ": "m", "中": "o", "\U0002ebf0": "o", "\u1c89": "u"}
    others = {
        "\u0301": "n",
        "\u0903": "M",
        "½": "N",
        "٣": "d",
        "Ⅷ": "r",
        "_": "p",
        "!": "P",
        "€": "S",
        "\x85": "Z",
        "\u3000": "Z",
        "\x1c": "c",
        "\u200b": "c",
    }
    for character, name in (letters | others).items():
        assert class_of(ord(character)) == name
    assert class_of(0xD800) == "c"
    assert class_of(0x10FFFF) == "x"

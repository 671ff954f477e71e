"""Cuts text into the words that BPE merges within, by the patterns of the model families.

Python's `re` has no \\p{L}, and its \\s follows the interpreter's Unicode version. So text outside ASCII is flattened first:
every character becomes one that stands for its class (unicode_table.py), and patterns are rewritten in terms of those. A
pattern with characters of its own outside ASCII is matched against the text itself.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

from wasmrt.errors import UnsupportedError
from wasmrt.tokenizer.unicode_table import HAN, RUNS

# Patterns, in the syntax of the files that models are published with: \p{..} is a Unicode category, \s White_Space.
# \p{s} is U+017F, the only letter outside ASCII that equals one of a contraction when case is ignored.
ENDINGS = r"'s|'t|'re|'ve|'m|'ll|'d"
ENDINGS_ANY_CASE = r"'[sS\p{s}]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
SPACES = r"\s+(?!\S)|\s+"
LINES_AND_SPACES = r"\s*[\r\n]+|" + SPACES

GPT_2 = ENDINGS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + SPACES
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
LLAMA_3 = rf"{ENDINGS_ANY_CASE}|{WORDS}|\p{{N}}{{1,3}}|{SIGNS}|{LINES_AND_SPACES}"
QWEN_2 = rf"{ENDINGS_ANY_CASE}|{WORDS}|\p{{N}}|{SIGNS}|{LINES_AND_SPACES}"
QWEN_3_5 = (
    rf"{ENDINGS_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{LINES_AND_SPACES}"
)
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s"
PATHS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{LINES_AND_SPACES}"
TEKKEN = CASED_WORDS % ("", "") + r"|\p{N}|" + PATHS
GPT_4O = CASED_WORDS % ((f"(?:{ENDINGS_ANY_CASE})?",) * 2) + r"|\p{N}{1,3}|" + PATHS
DEEPSEEK_3 = r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + LINES_AND_SPACES
SPARK = r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|" + SPACES
NOT_HAN = r"&&[^\p{Han}]]"
KIMI_UPPER, KIMI_LOWER = UPPER[:-1] + NOT_HAN, LOWER[:-1] + NOT_HAN
KIMI_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{KIMI_UPPER}*{KIMI_LOWER}+(?:{ENDINGS_ANY_CASE})?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{KIMI_UPPER}+{KIMI_LOWER}*(?:{ENDINGS_ANY_CASE})?"
)
KIMI_K2 = rf"[\p{{Han}}]+|{KIMI_WORDS}|\p{{N}}{{1,3}}|{SIGNS}|{LINES_AND_SPACES}"
JAIS_2_SPACES = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
JAIS_2 = rf"{ENDINGS_ANY_CASE}|{WORDS}|\p{{N}}{{1,3}}|{SIGNS}|\s*[\r\n]+|{JAIS_2_SPACES}"
LINES = r"[^\n]+|[\n]+"
# Numbers in threes from their end. No `re` does these in linear time: see BY_THREES.
NUMBERS_BY_3 = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
DIGITS_BY_3 = r"\d{1,3}(?=(?:\d{3})*\b)"
BEFORE_DIGITS_BY_3 = r"(?=(\d{3})+(?!\d))"
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
CJK = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
YOUTU_SCRIPTS = (
    r"[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    r"|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
ASIAN_SCRIPTS = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
    r"\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
CHINESE_JAPANESE = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# Cased letters, as of the Unicode version that DeepSeek's authors had.
DEEPSEEK_LLM_LETTERS = (
    r"[A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f"
    r"\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    r"\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    r"\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    r"\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124"
    r"\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    r"\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    r"\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    r"\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
SENTENCES = r"[^\r\n\p{L}\p{N}]?\p{L}[\p{L}\p{M}]*+(?: \p{L}[\p{L}\p{M}]*+)*+"


class Pretokenizer(NamedTuple):
    """One value of tokenizer.ggml.pre.

    patterns: each cuts the pieces that the one before left, into its matches and what lies between them.
    ignore_merges: a whole word that is a token stays one, though no merges lead to it; "lines": only words of line feeds do.
    add_bos: where the file does not say; "always": whatever it says. letters: what merges see: "bytes" of the byte alphabet,
    characters with U+2581 for "spaces", or just the characters, white space dropped ("words").
    """

    patterns: tuple[str, ...]
    ignore_merges: bool | str = False
    add_bos: bool | str = False
    letters: str = "bytes"


# Which names share a pattern, and their flags: llama.cpp, src/llama-vocab.cpp (2026). The patterns are those of the models'
# tokenizer.json: with the full letter classes where llama.cpp approximates them (tekken, gpt-4o).
FAMILIES: tuple[tuple[str, Pretokenizer], ...] = (
    ("default", Pretokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", r"[0-9][0-9][0-9]"))),
    ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     Pretokenizer((LLAMA_3,), ignore_merges=True, add_bos=True)),
    ("dbrx smaug-bpe chatglm-bpe glm4", Pretokenizer((LLAMA_3,))),
    ("gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum modern-bert roberta-bpe"
     " jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code", Pretokenizer((GPT_2,))),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", Pretokenizer((r"\p{N}", GPT_2))),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 llada-moe",
     Pretokenizer((QWEN_2,))),
    ("qwen35", Pretokenizer((QWEN_3_5,))),
    ("ufakzeka", Pretokenizer((QWEN_2.removeprefix(ENDINGS_ANY_CASE + "|"),))),
    ("seed-coder",
     Pretokenizer((rf"{ENDINGS_ANY_CASE}|{WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{LINES_AND_SPACES}",))),
    ("minicpm5",
     Pretokenizer((r"\p{N}{1,3}", rf"{ENDINGS_ANY_CASE}|{WORDS}|\p{{N}}+|{SIGNS}|{LINES_AND_SPACES}"), ignore_merges=True)),
    ("laguna", Pretokenizer((r"[^\n]+|[\n]+", QWEN_2))),
    ("exaone-moe",
     Pretokenizer((rf"{ENDINGS_ANY_CASE}|{SENTENCES}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|{LINES_AND_SPACES}",))),
    ("falcon", Pretokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT_2, r"[0-9][0-9][0-9]"))),
    ("deepseek-llm",
     Pretokenizer((r"[\r\n]", r"\s?" + DEEPSEEK_LLM_LETTERS,
                   r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"(?<!\s)\s++\Z", CJK, r"\p{N}+"))),
    ("deepseek-coder", Pretokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"))),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", Pretokenizer((r"\p{N}{1,3}", CHINESE_JAPANESE, DEEPSEEK_3))),
    ("tekken", Pretokenizer((TEKKEN,), ignore_merges=True, add_bos=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", Pretokenizer((GPT_4O,))),
    ("bloom poro-chat gpt3-finnish", Pretokenizer((BLOOM,))),
    ("viking", Pretokenizer((BLOOM, r"\p{N}"))),
    ("jais-2", Pretokenizer((JAIS_2,))),
    ("spark2_5", Pretokenizer((r"\p{N}{1,3}", CHINESE_JAPANESE, SPARK, r"\p{N}"))),
    ("youtu",
     Pretokenizer((YOUTU_SCRIPTS, CASED_WORDS % ((f"(?:{ENDINGS_ANY_CASE})?",) * 2) + r"|\p{N}|" + PATHS), ignore_merges=True)),
    ("chameleon",
     Pretokenizer((r"<sentinel:[0-9]+>", r"(?:IMGIMG)(?:(?:A|B|C|D|E|F|G|H|I){1,4})Z", r"(?:[\t\n]|    |  )", r"\p{N}",
                   r"[\p{P}!-/:-@\[-`{-~]", GPT_2), add_bos=True)),
    ("granite-embed-multi-97m", Pretokenizer((GPT_4O,), ignore_merges=True)),
    ("tiny_aya cohere2moe", Pretokenizer((DIGITS_BY_3, GPT_4O))),
    ("superbpe", Pretokenizer((r"\p{N}+", BEFORE_DIGITS_BY_3))),
    ("afmoe", Pretokenizer((NUMBERS_BY_3, ASIAN_SCRIPTS, DEEPSEEK_3))),
    ("kimi-k2", Pretokenizer((KIMI_K2,))),
    ("gemma4 granite-embed-multi-311m", Pretokenizer((LINES,), ignore_merges="lines", add_bos="always", letters="spaces")),
    ("sarvam-moe", Pretokenizer((LINES,), letters="spaces")),
    ("whitespace", Pretokenizer((r"\S+",), letters="words")),
)  # fmt: skip
PRETOKENIZERS = {name: pretokenizer for names, pretokenizer in FAMILIES for name in names.split()}

# Classes of unicode_table.py, each of which stands in flattened text as one character from U+0080 on; then two of single
# characters: s, U+017F, and f, the numbers No of Latin-1, which are word characters to the published engine, unlike other No.
# HAN_CLASSES: what a class is called where the character is of the script Han.
CLASSES = "ultmonMdrNpPSZcxsf"
OWN_CLASS = {0x17F: "s"} | dict.fromkeys(map(ord, "\xb2\xb3\xb9\xbc\xbd\xbe"), "f")
HAN_CLASSES = {"o": "h", "m": "i", "r": "j", "N": "k", "S": "q", "P": "v", "M": "w"}
CATEGORIES = {
    "L": "ultmoshi", "Lu": "u", "Ll": "ls", "Lt": "t", "Lm": "mi", "Lo": "oh", "M": "nMw", "N": "drNfjk", "Nd": "d", "Nl": "rj",
    "f": "f", "P": "pPv", "Pc": "p", "S": "Sq", "Han": "".join(HAN_CLASSES.values()), "s": "s",
}  # fmt: skip
OTHER_SCRIPTS = re.compile(r"\[([^\[\]]*)&&\[\^\\p\{Han\}\]\]")
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # of unflattened text
STAND_IN = {name: chr(0x80 + i) for i, name in enumerate(CLASSES + CATEGORIES["Han"])}

RUN_CLASSES: list[str] = re.findall(r"[a-zA-Z]", RUNS)
RUN_STARTS = list(accumulate((int(count or 1) for count in re.findall(r"(\d*)[a-zA-Z]", RUNS)), initial=0))[:-1]
HAN_RANGES = [(int(first, 16), int(last or first, 16)) for first, last in re.findall(r"(\w+)(?:-(\w+))?", HAN)]


def class_of(code_point: int) -> str:
    """The class letter of unicode_table.py."""
    return RUN_CLASSES[bisect_right(RUN_STARTS, code_point) - 1]


class _Flattening(dict[int, str]):
    """Code point to stand-in, for str.translate; ASCII stays. Bounded, for texts with every character there is."""

    def __missing__(self, code_point: int) -> str:
        name = OWN_CLASS.get(code_point) or class_of(code_point)
        if any(first <= code_point <= last for first, last in HAN_RANGES):
            name = HAN_CLASSES[name]
        stand_in = STAND_IN[name]
        if len(self) < 1 << 16:
            self[code_point] = stand_in
        return stand_in


FLATTENING = _Flattening({code_point: chr(code_point) for code_point in range(128)})


def _members(classes: str) -> str:
    """The inside of a [...] that matches these classes in flattened text."""
    ascii_members = "".join(re.escape(chr(c)) for c in range(128) if class_of(c) in classes)
    return ascii_members + "".join(STAND_IN[name] for name in classes)


def _category(name: str) -> str:
    """The classes of \\p{name}, or of \\p{name-Han}: what is of another script."""
    name, _, script = name.partition("-")
    return "".join(c for c in CATEGORIES[name] if not script or c not in CATEGORIES[script])


def compile_pattern(pattern: str) -> tuple[re.Pattern[str], bool]:
    """A pattern of the table above for the standard `re`, and whether it is for flattened text."""
    flattened = "\\u" not in pattern and pattern.isascii()
    pattern = OTHER_SCRIPTS.sub(lambda found: "[" + found[1].replace("}", "-Han}") + "]", pattern)
    inside = False

    def rewrite(found: re.Match[str]) -> str:
        nonlocal inside
        token = found[0]
        if token in "[]":
            inside = token == "["
        elif token in (r"\s", r"\S"):
            space = _members("Z") if flattened else WHITE_SPACE
            return space if inside else f"[{space}]" if token == r"\s" else f"[^{space}]"
        elif found[1]:
            members = _members(_category(found[1]))
            return members if inside else f"[{members}]"
        return token

    return re.compile(re.sub(r"\\p\{([\w-]+)\}|\\.|\[|\]", rewrite, pattern, flags=re.DOTALL)), flattened


# Patterns that would look at the whole rest of a number from each place in it: the run of characters that they are about, from
# flattened text, and whether the run is cut at its ends too. \b is where no letter, mark, Nd, Nl, Pc or f follows, and in the
# published engine no circled letter either.
BY_THREES = {
    NUMBERS_BY_3: (r"\p{N}+", True),
    DIGITS_BY_3: (r"(?<!\p{Nd})\p{Nd}++(?![\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\p{f}])", True),
    BEFORE_DIGITS_BY_3: (r"\p{Nd}+", False),
}


def _cuts_by_threes(run: re.Pattern[str], at_ends: bool, text: str) -> Iterator[int]:
    for found in run.finditer(text):
        start, end = found.span()
        if at_ends:
            yield start
        yield from range(start + ((end - start) % 3 or (3 if at_ends else 0)), end, 3)
        if at_ends:
            yield end


def _cuts_at_matches(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    for found in pattern.finditer(text):
        yield from found.span()


class _Stage(NamedTuple):
    pattern: re.Pattern[str]
    flattened: bool
    cuts: Callable[[str], Iterable[int]]

    @classmethod
    def of(cls, pattern: str) -> "_Stage":
        if pattern in BY_THREES:
            run, at_ends = BY_THREES[pattern]
            compiled, flattened = compile_pattern(run)
            return cls(compiled, flattened, lambda text: _cuts_by_threes(compiled, at_ends, text))
        compiled, flattened = compile_pattern(pattern)
        return cls(compiled, flattened, lambda text: _cuts_at_matches(compiled, text))


class Splitter:
    """The patterns of one name, compiled. split(text) -> words that joined are the text."""

    def __init__(self, pretokenizer: Pretokenizer) -> None:
        self._stages = [_Stage.of(pattern) for pattern in pretokenizer.patterns]

    def split(self, text: str) -> list[str]:
        flat = text if text.isascii() else text.translate(FLATTENING)
        if len(self._stages) == 1 and self._stages[0].flattened:
            words = self._stages[0].pattern.findall(flat)
            ends = list(accumulate(map(len, words), initial=0))
            if ends[-1] == len(flat):  # nothing lies between the matches
                return words if flat is text else [text[a:b] for a, b in pairwise(ends)]
        spans = [(0, len(text))]
        for stage in self._stages:
            subject = flat if stage.flattened else text
            cut = []
            for start, end in spans:
                at = start
                # A slice, not finditer's pos and endpos: a lookbehind would see what is before pos.
                for place in stage.cuts(subject[start:end]):
                    if start + place > at:
                        cut.append((at, start + place))
                        at = start + place
                if at < end:
                    cut.append((at, end))
            spans = cut
        return [text[a:b] for a, b in spans]


def pretokenizer_named(name: str) -> Pretokenizer:
    """UnsupportedError, with the name, for one that is not in the table."""
    found = PRETOKENIZERS.get(name)
    if found is None:
        raise UnsupportedError(f"tokenizer.ggml.pre is {name[:60]!r}, an unknown pre-tokenizer; use token ids instead of text")
    return found

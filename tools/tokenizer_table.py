"""Prints which tokenizers and pre-tokenizers are known and how each was checked, by checking them now.

    python tools/tokenizer_table.py [--reference DIR] [--json]

Every value of tokenizer.ggml.model and tokenizer.ggml.pre that the package knows has a row; no row is written by hand. Checks
that need the folder of outside truth (--reference, else WASMRT_REFERENCE; docs/testing.md) or the package `tokenizers` are left
out where it is not there, and what they would have shown counts as unchecked. Exits 1 if any check found a difference.
"""

import argparse
import base64
import functools
import importlib
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from wasmrt.gguf.reader import parse_header  # noqa: E402
from wasmrt.tokenizer import from_metadata  # noqa: E402
from wasmrt.tokenizer.pretokenize import PRETOKENIZERS, Pretokenizer, Splitter  # noqa: E402
from wasmrt.tokenizer.vocab import BYTE, KINDS, NORMAL  # noqa: E402

RECORDED = ROOT / "tests" / "data" / "tokenizers.json"
REFERENCE = Path(os.environ.get("WASMRT_REFERENCE", ROOT.parent / "shared" / "reference"))
SEPARATOR = "\n__ggml_vocab_test__\n"
N_RANDOM = 200
SNIPPETS = (
    "Hello", " world", "don't", "I'LL", "'ſ", "we'Ve", "12345", "1234567", "12345a", "٣٤٥٦", "１２", "½", "Ⅷ", "...", "->",
    "\r\n", "\n\n ", "\t", "    ", " \n \n", "\x85", "\u3000", "\u200b", "éa\u0301", "नमस्ते", "中文", "々〇", "あ", "가나", "ǅ",
    "ʰ", "😀", "_", "</s>", "<sentinel:12>", "IMGIMGABZ", "\U000e0fff", "$+<=>^`|~",
)  # fmt: skip
RAW = [f"<0x{byte:02X}>" for byte in range(256)]
CHARACTERS = [*RAW, *"abcdeé▁\n中", "▁▁", "▁▁▁▁", "\n\n", "ab", "abc", "▁a", "▁ab", "b▁", "ab▁a", "d\n"]
MERGES = ("a b", "▁ ▁", "▁▁ ▁▁", "\n \n", "ab c", "▁ a", "▁a b", "b ▁", "ab ▁a", "d \n")


@dataclass(frozen=True)
class Row:
    """What is known of one name.

    what: "model" (a value of tokenizer.ggml.model) or "pre" (of tokenizer.ggml.pre). algorithm: what is run for a model; for a
    pre-tokenizer the first name with the same patterns. how: the checks that were run, in words. status:
    - "exact": ids as recorded from the model's own tokenizer, on a published vocabulary of this name.
    - "library": ids as the published library gives, on a vocabulary of ours.
    - "shared": only another name with the same patterns and flags is exact; that they are the same is taken from source.
    - "pattern": cut as the published engine cuts by the same pattern, which is taken from source.
    - "source": not compared with anything from outside.
    - "wrong": some check found a difference.
    """

    what: str
    name: str
    algorithm: str
    status: str
    how: str


@dataclass(frozen=True)
class Check:
    """One comparison: of which model and pre-tokenizer ("" if none is involved), with what, and how it came out."""

    model: str
    pre: str
    level: str
    against: str
    n_texts: int
    n_wrong: int


def rows(reference: Path = REFERENCE) -> list[Row]:
    """A row for each value of tokenizer.ggml.model, then one for each of tokenizer.ggml.pre, in the order of the package.

    Runs the checks: some seconds.
    """
    done = [*vocabularies(reference), *recorded(), *characters()]
    done += patterns()
    first = {pretokenizer: name for name, pretokenizer in reversed(PRETOKENIZERS.items())}
    found = [judged("model", name, kind, [check for check in done if check.model == name]) for name, kind in KINDS.items()]
    for name, pretokenizer in PRETOKENIZERS.items():
        same = [check for check in done if PRETOKENIZERS.get(check.pre) == pretokenizer]
        other = [replace(check, level="shared") for check in same if check.pre != name and check.level == "exact"]
        own = [check for check in same if check.pre == name or check.level != "exact"]
        found.append(judged("pre", name, first[pretokenizer], own + other))
    return found


def judged(what: str, name: str, algorithm: str, checks: list[Check]) -> Row:
    wrong = [check for check in checks if check.n_wrong]
    if wrong:
        told = (f"{check.n_wrong} of {check.n_texts} texts differ from {check.against}" for check in wrong)
        return Row(what, name, algorithm, "wrong", "; ".join(told))
    levels = [level for level in ("exact", "library", "shared", "pattern") if any(check.level == level for check in checks)]
    if not levels:
        return Row(what, name, algorithm, "source", "not compared with anything from outside")
    told = (f"{check.against} ({check.n_texts} texts)" for check in checks if check.level == levels[0])
    return Row(what, name, algorithm, levels[0], "; ".join(dict.fromkeys(told)))


def vocabularies(reference: Path) -> Iterator[Check]:
    """Published vocabularies with recorded ids: NAME.gguf, NAME.inp, NAME.out, and token-ids.json."""
    folder = reference / "vocab"
    more = folder / "token-ids.json"
    cases = json.loads(more.read_text(encoding="utf-8"))["cases"] if more.is_file() else []
    for path in sorted(folder.glob("*.out")):
        metadata = parse_header(path.with_suffix(".gguf").read_bytes()).metadata
        tokenizer = from_metadata(metadata)
        texts = path.with_suffix(".inp").read_text(encoding="utf-8").split(SEPARATOR)
        expected = [[int(word) for word in line.split()] for line in path.read_text(encoding="utf-8").split("\n")]
        texts += [case["text"] for case in cases if path.stem in case]
        expected += [case[path.stem] for case in cases if path.stem in case]
        n_wrong = sum(tokenizer.tokenize(text) != ids for text, ids in zip(texts, expected, strict=True))
        model, pre = metadata.string("tokenizer.ggml.model"), metadata.string("tokenizer.ggml.pre", "")
        yield Check(model, pre if KINDS[model] == "bpe" else "", "exact", f"{path.stem}'s own ids", len(texts), n_wrong)


def recorded() -> Iterator[Check]:
    """Vocabularies of ours with the ids that published libraries gave (tools/record_tokenizers.py)."""
    data = json.loads(RECORDED.read_text(encoding="utf-8"))
    for vocabulary in data["vocabularies"].values():
        keys = dict(vocabulary["keys"])
        if "precompiled_charsmap" in keys:
            keys["precompiled_charsmap"] = list(base64.b64decode(keys["precompiled_charsmap"]))
        tokenizer = from_metadata({f"tokenizer.ggml.{key}": value for key, value in keys.items()})
        pairs = list(zip(data["texts"], vocabulary["ids"], strict=True))
        n_wrong = sum(tokenizer.tokenize(text) != ids for text, ids in pairs)
        yield Check(keys["model"], "", "library", vocabulary["source"], len(pairs), n_wrong)


def characters() -> Iterator[Check]:
    """BPE of characters, as the `tokenizers` library does it with byte fallback, on random texts."""
    library = installed()
    if library is None:
        return
    for name, pretokenizer in PRETOKENIZERS.items():
        if pretokenizer.letters == "bytes":
            continue
        for model in KINDS:
            if KINDS[model] != "bpe" or model not in ("gpt2", name):
                continue
            tokenizer, published = character_tokenizers(library, model, name)
            texts = random_texts("abcde é\n中x", 1)
            n_wrong = sum(tokenizer.tokenize(text) != published.encode(text).ids for text in texts)
            yield Check(model if model == name else "", name, "library", against(library), len(texts), n_wrong)


def character_tokenizers(library: ModuleType, model: str, pre: str, **keys: Any) -> tuple[Any, Any]:
    """Ours and the library's of one small vocabulary; lines are never joined, as in llama.cpp."""
    types = [BYTE if text in RAW else NORMAL for text in CHARACTERS]
    made = {"model": model, "pre": pre, "tokens": CHARACTERS, "token_type": types, "merges": list(MERGES)} | keys
    ours = from_metadata({f"tokenizer.ggml.{key}": value for key, value in made.items()})
    merges = [tuple(line.split(" ")) for line in MERGES]
    published = library.Tokenizer(library.models.BPE({t: i for i, t in enumerate(CHARACTERS)}, merges, byte_fallback=True))
    if PRETOKENIZERS.get(pre, PRETOKENIZERS["gemma4"]).letters == "words":
        published.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    else:
        published.normalizer = library.normalizers.Replace(" ", "▁")
        published.pre_tokenizer = library.pre_tokenizers.Split("\n", "contiguous")
    return ours, published


def patterns() -> Iterator[Check]:
    """What each set of patterns makes of random texts, against the engine and the Unicode classes of the library."""
    library = installed()
    if library is None:
        return
    texts = random_texts("aA1 é\n中", 2)
    for pretokenizer, name in {pretokenizer: name for name, pretokenizer in reversed(PRETOKENIZERS.items())}.items():
        ours, theirs = Splitter(pretokenizer), published_cut(library, pretokenizer)
        n_wrong = sum(ours.split(text) != [word for word, _ in theirs.pre_tokenize_str(text)] for text in texts)
        yield Check("", name, "pattern", f"the same pattern in {against(library)}", len(texts), n_wrong)


def published_cut(library: ModuleType, pretokenizer: Pretokenizer) -> Any:
    """The patterns in the library's syntax: it knows no \\uXXXX, and (?i:'s) as such."""
    escape = re.compile(r"\\(?:x(.{2})|u(.{4})|U(.{8}))")
    steps = []
    for pattern in pretokenizer.patterns:
        pattern = pattern.replace(r"\p{s}", "ſ").replace(r"\Z", r"\z")
        pattern = escape.sub(lambda found: chr(int(found[1] or found[2] or found[3], 16)), pattern)
        steps.append(library.pre_tokenizers.Split(library.Regex(pattern), "isolated"))
    return library.pre_tokenizers.Sequence(steps)


def random_texts(alphabet: str, seed: int) -> list[str]:
    r = random.Random(seed)
    parts = [lambda: r.choice(SNIPPETS), lambda: "".join(r.choices(alphabet, k=r.randint(1, 8)))]
    return ["".join(r.choice(parts)() for _ in range(r.randint(0, 8))) for _ in range(N_RANDOM)]


@functools.cache
def installed() -> ModuleType | None:
    try:
        return importlib.import_module("tokenizers")
    except ImportError:
        return None


def against(library: ModuleType) -> str:
    return f"tokenizers {library.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="the folder of outside truth")
    parser.add_argument("--json", action="store_true", help="one list of objects instead of a Markdown table")
    options = parser.parse_args()
    found = rows(options.reference)
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1, ensure_ascii=False))
    else:
        print("| | name | algorithm | status | checked against |\n|---|---|---|---|---|")
        for row in found:
            print(f"| {row.what} | `{row.name}` | {row.algorithm} | {row.status} | {row.how} |")
    counts = Counter((row.what, row.status) for row in found)
    print("; ".join(f"{what} {status}: {n}" for (what, status), n in counts.items()), file=sys.stderr)
    return 1 if any(row.status == "wrong" for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())

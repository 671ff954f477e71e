"""Writes docs/support.md, what runs and how far it was checked, from the tables that the code itself runs by.

    python tools/support_table.py [--check] [--reference DIR]

--check writes nothing, and exits 1 if the file says something else. How tokenizers fare is measured anew
(tokenizer_table.py) with the folder of outside truth (--reference, else WASMRT_REFERENCE; docs/testing.md) and the package
`tokenizers`; without these that section stays as it is.
"""

import argparse
import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import wasmrt.model  # noqa: E402
from tools import tokenizer_table  # noqa: E402
from wasmrt.device.binary import quantized_bytes  # noqa: E402
from wasmrt.device.device import FORMATS  # noqa: E402
from wasmrt.device.gpu_layout import LAYOUTS, UNIT  # noqa: E402
from wasmrt.gguf.types import BY_NAME, QuantType  # noqa: E402
from wasmrt.model.build import FAMILIES  # noqa: E402
from wasmrt.model.verified import VERIFIED  # noqa: E402
from wasmrt.program.ops import Weight  # noqa: E402
from wasmrt.tokenizer.families import FORMATS as CHAT_FORMATS  # noqa: E402

PAGE = ROOT / "docs" / "support.md"
TOKENIZERS, AFTER = "## Tokenizers\n", "## Chat formats\n"

INTRODUCTION = """# What runs

This page is written by `python tools/support_table.py` from the tables that the code runs by. `wasmrt inspect FILE` says the
same of one file, from its header: whether it will run, on which devices, and if not, why.

What is not listed is refused by name when a file is opened, before a weight is read. `wasmrt inspect --check-weights FILE`
reads the weights, too, and names the first that is NaN or infinite.
"""

ARCHITECTURES = """## Architectures

By `general.architecture` of the file; what a model is sold as says little: Mistral, Mixtral, Yi and many others are `llama`.

**exact**: on a recorded model with this architecture's own layers the logits are llama.cpp's, up to the order of float32 sums
and what llama.cpp itself rounds to f16 (GELU); a test runs it. **unverified**: written from the paper and from source, and not
compared with anything from outside; opening such a file says so in a note.

{n_exact} of {n} are exact. [How to add one](architectures.md).
"""

FORMAT_TEXT = """## Weight formats

Every device computes with every format of this table, on blocks as they lie in the file. The cpu device rounds activations to 8
bits where weights are packed, as llama.cpp does on a CPU; the gpu and reference devices do not.
"""

TOKENIZER_TEXT = """
Measured by `python tools/tokenizer_table.py`, which says for each what it was compared with.

- **exact**: ids as recorded from the model's own tokenizer, on a published vocabulary of this name.
- **library**: ids as the published library gives, on a vocabulary of ours.
- **shared**: another name with the same patterns is exact; that they are the same is taken from llama.cpp's source.
- **pattern**: cut as the published engine cuts by the same pattern, which is taken from source.
- **source**: not compared with anything from outside.
"""

CHAT_TEXT = """
A file's own template is used; where it is missing or fails, one of {n} built-in formats ([chat.md](chat.md)): {names}.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say whether the file is up to date")
    parser.add_argument("--reference", type=Path, default=tokenizer_table.REFERENCE, metavar="DIR")
    args = parser.parse_args()
    there = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    text = page(there, args.reference)
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    changed = list(difflib.unified_diff(there.splitlines(), text.splitlines(), "is", "should be", lineterm=""))
    print("\n".join(changed[:40]) or "docs/support.md is up to date")
    return 1 if changed else 0


def page(there: str, reference: Path) -> str:
    """The whole text. there: as it is now."""
    n_exact = len(VERIFIED & FAMILIES.keys())
    names = ", ".join(f"`{name}`" for name in CHAT_FORMATS)
    return "\n".join(
        (
            INTRODUCTION,
            ARCHITECTURES.format(n_exact=n_exact, n=len(FAMILIES)),
            "| file | | exact | unverified |\n|---|---|---|---|",
            *map(family, families()),
            "",
            FORMAT_TEXT,
            *formats(),
            "",
            TOKENIZERS + tokenizers(there, reference),
            AFTER + CHAT_TEXT.format(n=len(CHAT_FORMATS), names=names),
        )
    )


def families() -> list[ModuleType]:
    """The files that define architectures."""
    found = [importlib.import_module(f"wasmrt.model.{m.name}") for m in pkgutil.iter_modules(wasmrt.model.__path__)]
    modules = [m for m in found if m.__name__ != "wasmrt.model.build" and hasattr(m, "FAMILIES")]
    listed = [name for module in modules for name in module.FAMILIES]
    if sorted(listed) != sorted(FAMILIES):
        raise SystemExit(f"in build.py and in no family's file, or the other way: {sorted({*listed} ^ FAMILIES.keys())}")
    return sorted(modules, key=lambda module: (module.__name__ != "wasmrt.model.llama", module.__name__))


def family(module: ModuleType) -> str:
    """A row: what the file says of itself, and its architectures."""
    file = module.__name__.removeprefix("wasmrt.model.") + ".py"
    said = " ".join((module.__doc__ or "").split("\n\n")[0].split())
    exact = " ".join(f"`{name}`" for name in sorted(module.FAMILIES.keys() & VERIFIED))
    other = " ".join(f"`{name}`" for name in sorted(module.FAMILIES.keys() - VERIFIED))
    return f"| [{file}](../wasmrt/model/{file}) | {said} | {exact} | {other} |"


def formats() -> Iterator[str]:
    yield "| format | bits a weight | on a GPU | activations on the cpu |"
    yield "|---|---|---|---|"
    for name, quant in BY_NAME.items():
        if quant.id in FORMATS:
            layout = LAYOUTS[name]
            on_gpu = 8 * (layout.unit_bytes + 4 * sum(words / units for words, units in layout.words)) / UNIT
            in_file, x = 8 * quant.block_bytes / quant.block, "8 bits" if rounds(quant) else "f32"
            yield f"| {name} | {in_file:.4g} | {on_gpu:.4g} | {x} |"
    others = [name for name, quant in BY_NAME.items() if quant.id not in FORMATS]
    yield ""
    yield f"Known and refused: {', '.join(others)}."


def rounds(quant: QuantType) -> bool:
    """Whether the cpu device rounds what it multiplies with such weights."""
    return quantized_bytes(Weight("", quant, (256, 1), 0, 1, 1), 1, 0) > 0


def tokenizers(there: str, reference: Path) -> str:
    """The section, measured; without what is needed for that the one that there is."""
    if importlib.util.find_spec("tokenizers") is None or not (reference / "vocab").is_dir():
        print(f"tokenizers are not measured: the package `tokenizers` or {reference / 'vocab'} is missing", file=sys.stderr)
        return there.partition(TOKENIZERS)[2].partition(AFTER)[0]
    found = tokenizer_table.rows(reference)
    lines = [TOKENIZER_TEXT, "| `tokenizer.ggml.model` | algorithm | ids |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {one.algorithm} | {one.status} |" for one in found if one.what == "model"]
    lines += ["", "| ids | `tokenizer.ggml.pre` |", "|---|---|"]
    for status in dict.fromkeys(("exact", "library", "shared", "pattern", "source", *(one.status for one in found))):
        names = [f"`{one.name}`" for one in found if one.what == "pre" and one.status == status]
        if names:
            lines.append(f"| {status} | {' '.join(names)} |")
    return "\n".join((*lines, "", ""))


if __name__ == "__main__":
    sys.exit(main())

"""Looks through shaders for what one of the two WGSL compilers refuses, or what goes wrong on some GPU.

    python tools/lint_wgsl.py [FILE ...]        by default all of shaders/

Desktops compile with naga, Chromium with Tint, and tests run on naga alone: what Tint rejects would be noticed in a page. This
knows no types and compiles nothing. It says what can be told from the text, as FILE:LINE: what: why, and no false alarms.
"""

import ast
import functools
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.wgsl_flow import closing, divergent_barriers, module, tokens

SHADERS = Path(__file__).resolve().parents[1] / "shaders"
Found = Iterator[tuple[int, str]]

# What every adapter has; more must not be counted on.
MAX_THREADS = 256
MAX_WORKGROUP_BYTES = 16384
MAX_STORAGE = 8

# Wherever one of these stands in the code, it is wrong.
FORBIDDEN = {
    r"^[ \t]*(?:enable|requires)\b(?!\s*[(=:.,;])": "directive: naga and Tint want different ones; the device adds them",
    r"\bdiagnostic\s*\(": "diagnostic: naga does not know the rules, Tint's must hold as they are",
    r"\bsubgroupElect\b": "subgroupElect: naga has none; compare subgroup_invocation_id with 0",
    r"\bptr\s*<": "pointer type: naga takes no pointers to workgroup or storage memory as parameters; name the variable",
    r"\bbitcast\s*<\s*vec[24]\s*<\s*f16\s*>\s*>": "bitcast to f16: naga refuses it; use unpack2x16float",
    r"\.(?:[xyzw]{2,4}|[rgba]{2,4})\s*(?:[-+*/%&|^]|<<|>>)?=(?!=)": "swizzle assignment: naga refuses it; name one component",
    r"\batomic\s*<\s*f32\s*>": "atomic<f32>: not part of WGSL",
    r"\bvar\s*<\s*(?:immediate|push_constant)\s*>": "immediates: not in every browser; use the uniform params",
}
# What only files that say so in their name may use: it needs a feature that some adapters lack.
FEATURES = {
    "subgroup": r"\b(?:subgroup_\w+|subgroup[A-Z]\w*|quad(?:Broadcast|Swap[XY]|SwapDiagonal)|num_subgroups)\b",
    "f16": r"\bf16\b|\b\d[\d.]*(?:e[-+]?\d+)?h\b",
}
# The form that the device reads bindings in.
BINDING = re.compile(
    r"[ \t]*@group\(0\) @binding\((\d+)\) var<(uniform|storage, read|storage, read_write)> \w+\s*:\s*[^;]+;[^;@]*$"
)
ADDRESSED = re.compile(r"atomic[A-Z]\w*|arrayLength|workgroupUniformLoad")


def main(arguments: list[str]) -> int:
    paths = [Path(a) for a in arguments] or sorted(SHADERS.glob("*.wgsl"))
    if not paths:
        print(f"no shaders in {SHADERS}", file=sys.stderr)
        return 2
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    found = 0
    for path, text in texts.items():
        others = {
            p.stem: p.read_text(encoding="utf-8") for p in sorted(path.resolve().parent.glob("*.wgsl")) if p.stem != path.stem
        }
        for line, what in lint(path.stem, text, others):
            print(f"{path}:{line}: {what}")
            found += 1
    return 1 if found else 0


def lint(name: str, text: str, others: Mapping[str, str] | None = None) -> list[tuple[int, str]]:
    """(line, what is wrong) of a shader. others: the shaders beside it, by name, whose functions and constants it may use."""
    code = without_comments(text)
    beside = {n: without_comments(t) for n, t in (others or {}).items()}
    found = [*head(name, text, code)]
    if any(code.count(a) != code.count(b) for a, b in ("()", "[]", "{}")):
        return [*found, (1, "brackets: they do not match")]
    numbers = {**constants(beside.get("common", "")), **constants(code)}
    found += [*forbidden(code), *features(name, code), *addresses(code), *bindings(code, beside), *loop_arrays(code)]
    found += [*threads(code, numbers), *workgroup_memory(code, numbers)]
    for line, called in divergent_barriers(module(code, beside.values())):
        found.append((line, f"{called} that only some threads may reach: Tint refuses it, naga does not see it"))
    return sorted(set(found))


@functools.cache
def without_comments(text: str) -> str:
    """The same lines, comments blank. Block comments nest."""
    out, depth, i = [], 0, 0
    while i < len(text):
        pair = text[i : i + 2]
        if depth == 0 and pair == "//":
            end = text.find("\n", i)
            i = len(text) if end < 0 else end
        elif pair == "/*" or (depth and pair == "*/"):
            depth += 1 if pair == "/*" else -1
            out.append("  ")
            i += 2
        else:
            out.append(text[i] if depth == 0 or text[i] == "\n" else " ")
            i += 1
    return "".join(out)


def line_of(code: str, offset: int) -> int:
    return code.count("\n", 0, offset) + 1


# Rules


def head(name: str, text: str, code: str) -> Found:
    """A kernel's first line names it and says what it does; a file of helpers says what they are for."""
    wanted = rf"// {re.escape(name)}: \S" if "@compute" in code else r"// \S"
    if not re.match(wanted, text):
        yield 1, f"head: the first line says what the file is for (// {name}: ...)"


def forbidden(code: str) -> Found:
    for pattern, why in FORBIDDEN.items():
        for match in re.finditer(pattern, code, re.MULTILINE):
            yield line_of(code, match.start()), why


def features(name: str, code: str) -> Found:
    for feature, pattern in FEATURES.items():
        if feature not in name.split("_"):
            for match in re.finditer(pattern, code):
                yield line_of(code, match.start()), f"{match.group()}: not every GPU has it; only in files named ..._{feature}"


def addresses(code: str) -> Found:
    """&x as an argument: only of functions that take nothing else."""
    words = tokens(code)
    calls: list[str] = []  # what the brackets around belong to
    for before, word in itertools.pairwise(words):
        if word.text in "([":
            calls.append(before.text if word.text == "(" else "[")
        elif word.text in ")]" and calls:
            calls.pop()
        elif word.text == "&" and before.text in "(,":
            called = next((c for c in reversed(calls) if re.match(r"\w", c)), "")
            if not ADDRESSED.fullmatch(called):
                yield word.line, "address as argument: naga's SPIR-V writer ends the process; name the variable"


def bindings(code: str, beside: Mapping[str, str]) -> Found:
    """One a line, as the device reads them; rising, and without gaps but for what common.wgsl (1) and other helpers declare."""
    helpers = {int(n) for text in beside.values() if "@compute" not in text for n in re.findall(r"@binding\((\d+)\)", text)} | {
        1
    }
    last = None
    storage = 0
    for number, line in enumerate(code.split("\n"), 1):
        if "@binding" not in line and "@group" not in line:
            continue
        match = BINDING.match(line)
        if not match:
            yield (
                number,
                "binding: one line, `@group(0) @binding(N) var<uniform|storage, read|storage, read_write> name: type;`",
            )
            continue
        index = int(match[1])
        if last is not None and (index <= last or not helpers.issuperset(range(last + 1, index))):
            yield number, f"binding {index} after {last}: the host gives buffers in order, without gaps"
        last = index
        storage += match[2] != "uniform"
        if storage == MAX_STORAGE + 1:
            yield number, f"storage buffer {storage}: some GPUs have room for {MAX_STORAGE}"


def loop_arrays(code: str) -> Found:
    """An array declared in a loop without a value: it is zero by the standard, but not on all drivers."""
    words = tokens(code)
    for i, word in enumerate(words):
        if word.text not in ("for", "while", "loop"):
            continue
        start = next(
            (j for j in range(closing(words, i + 1) if word.text == "for" else i, len(words)) if words[j].text == "{"), None
        )
        if start is None:
            continue
        end = closing(words, start)
        for j in range(start, end):
            if words[j].text == "var" and words[j + 2].text == ":" and words[j + 3].text == "array":
                stop = next(k for k in range(j, end + 1) if words[k].text in ("=", ";", "}"))
                if words[stop].text != "=":
                    yield (
                        words[j].line,
                        "array without a value in a loop: some drivers leave the last round's in it; assign zeros",
                    )


def threads(code: str, numbers: Mapping[str, int]) -> Found:
    for match in re.finditer(r"@workgroup_size\s*\(([^)]*)\)", code):
        total = 1
        for part in filter(str.strip, match[1].split(",")):
            total *= evaluate(part, numbers) or 1
        if total > MAX_THREADS:
            yield line_of(code, match.start()), f"{total} threads in a workgroup: some GPUs have {MAX_THREADS}"


def workgroup_memory(code: str, numbers: Mapping[str, int]) -> Found:
    """Counted where sizes can be told; overrides at their defaults."""
    total = 0
    structs = dict(re.findall(r"\bstruct\s+(\w+)\s*\{([^}]*)\}", code))
    for match in re.finditer(r"\bvar\s*<\s*workgroup\s*>\s*\w+\s*:\s*([^;]+);", code):
        total += size(match[1], numbers, structs) or 0
        if total > MAX_WORKGROUP_BYTES:
            yield line_of(code, match.start()), f"{total} bytes of workgroup memory: some GPUs have {MAX_WORKGROUP_BYTES}"
            return


# Constants and sizes


def constants(code: str) -> dict[str, int]:
    """Module constants and overrides that are whole numbers."""
    found: dict[str, int] = {}
    for name, value in re.findall(r"^(?:const|override)\s+(\w+)\s*(?::\s*\w+\s*)?=\s*([^;]+);", code, re.MULTILINE):
        number = evaluate(value, found)
        if number is not None:
            found[name] = number
    return found


OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.LShift: lambda a, b: a << b,
    ast.RShift: lambda a, b: a >> b,
}


def evaluate(text: str, numbers: Mapping[str, int]) -> int | None:
    """A whole number written with names and arithmetic, or None."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name):
            return numbers[node.id]
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise KeyError(node)

    try:
        return value(ast.parse(re.sub(r"\b(0x[\da-fA-F]+|\d+)[ui]\b", r"\1", text.strip()), mode="eval").body)
    except (SyntaxError, KeyError, ZeroDivisionError, ValueError):
        return None


SCALARS = {"f32": 4, "u32": 4, "i32": 4, "bool": 4, "f16": 2}


def size(kind: str, numbers: Mapping[str, int], structs: Mapping[str, str]) -> int | None:
    """Bytes of a type, or None where they cannot be told. Alignment within structs is left out: a little too few."""
    kind = re.sub(r"\s+", "", kind).rstrip(",")
    if kind in SCALARS:
        return SCALARS[kind]
    if match := re.fullmatch(r"vec([234])(?:<(\w+)>|([fuih]))", kind):
        one = SCALARS.get(match[2] or {"f": "f32", "u": "u32", "i": "i32", "h": "f16"}[match[3]])
        return None if one is None else one * int(match[1])
    if match := re.fullmatch(r"atomic<(\w+)>", kind):
        return SCALARS.get(match[1])
    if match := re.fullmatch(r"array<(.+),([^,>]+),?>", kind):
        one, count = size(match[1], numbers, structs), evaluate(match[2], numbers)
        if one is None or count is None:
            return None
        return (16 if re.match(r"vec3<?[fui]", match[1]) else one) * count
    if kind in structs:
        parts = [size(part, numbers, structs) for part in re.findall(r"\w+\s*:\s*((?:[^,<]|<[^;]*?>+)+)", structs[kind])]
        return sum(part or 0 for part in parts)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Finds barriers that not all threads of a workgroup reach: Tint rejects such shaders, naga compiles them.

A small part of WGSL's uniformity analysis, wrong in one direction alone: what it reports, Tint reports; what it lets pass may
still be wrong. A value differs between threads if it is made of the thread's number or of memory that threads write (workgroup
variables, read_write buffers), unless workgroupUniformLoad brings it. The results of a shader's own functions count as the same
in all threads.
"""

import functools
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

TOKEN = re.compile(r"[A-Za-z_]\w*|\d[\w.]*|<<=|>>=|->|&&|\|\||<<|>>|\+\+|--|[-+*/%&|^=!<>]=|\S")
NAME = re.compile(r"[A-Za-z_]\w*\Z")
ASSIGN = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "++", "--"}
BARRIERS = {"workgroupBarrier", "storageBarrier", "textureBarrier", "workgroupUniformLoad"}
SUBGROUP = re.compile(r"(?:subgroup|quad)[A-Z]")
# Their result is the same for all, or says nothing about what is stored where the argument points.
SAME_FOR_ALL = {"workgroupUniformLoad", "arrayLength"}
SHARED = re.compile(r"\bvar\s*<\s*(?:workgroup|storage\s*,\s*read_write)\s*>\s*(\w+)")
UNSHARED = re.compile(r"\bvar\s*<\s*(?:uniform|private|storage(?:\s*,\s*read)?)\s*>\s*(\w+)")
THREAD = {"local_invocation_index", "local_invocation_id", "global_invocation_id", "subgroup_invocation_id"}


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    line: int


@dataclass(slots=True)
class Function:
    name: str
    parameters: list[Token]
    body: list[Token]  # from { to }


@dataclass(slots=True)
class Module:
    """The functions of a file with those of the files it may be joined with."""

    functions: tuple[Function, ...]
    names: set[str]  # of all functions
    collective: set[str]  # what all threads must call together: barriers, and functions that have some
    shared: set[str] = field(default_factory=set)  # variables that threads write


def tokens(code: str) -> list[Token]:
    """Of a text without comments."""
    return [Token(m.group(), n) for n, line in enumerate(code.split("\n"), 1) for m in TOKEN.finditer(line)]


def closing(code: list[Token], start: int) -> int:
    """Where the bracket that opens at `start` closes; the end of the text if nowhere."""
    opens, depth = code[start].text, 0
    closes = {"(": ")", "{": "}", "[": "]"}[opens]
    for i in range(start, len(code)):
        depth += (code[i].text == opens) - (code[i].text == closes)
        if depth == 0:
            return i
    return len(code) - 1


@functools.cache
def functions(text: str) -> tuple[Function, ...]:
    code = tokens(text)
    found = []
    for i, token in enumerate(code[:-3]):
        if token.text == "fn" and code[i + 2].text == "(":
            end = closing(code, i + 2)
            start = next((j for j in range(end, len(code)) if code[j].text == "{"), None)
            if start is not None:
                found.append(Function(code[i + 1].text, code[i + 3 : end], code[start : closing(code, start) + 1]))
    return tuple(found)


def module(code: str, others: Iterable[str]) -> Module:
    others = list(others)
    mine = functions(code)
    known = [*mine, *(f for text in others for f in functions(text))]
    collective = set(BARRIERS)
    calls = [(f.name, {a.text for a, b in itertools.pairwise(f.body) if b.text == "("}) for f in known]
    while more := {name for name, called in calls if called & collective} - collective:
        collective |= more
    names, same = set(SHARED.findall(code)), set(UNSHARED.findall(code))
    beside = [text for text in others if "@compute" not in text]
    # A name that means memory of either kind in two files, of which one is joined, counts as the same for all threads.
    same |= {name for text in beside for name in UNSHARED.findall(text)}
    names |= {name for text in beside for name in SHARED.findall(text)} - same
    return Module(mine, {f.name for f in known}, collective, names)


def divergent_barriers(whole: Module) -> list[tuple[int, str]]:
    """(line, what is called there) of each."""
    return sorted({found for f in whole.functions for found in _Walk(whole, f).run()})


class _Walk:
    """One function, walked until nothing new is found to differ between threads. A variable is known by its declaration."""

    def __init__(self, whole: Module, function: Function) -> None:
        self.whole, self.code = whole, function.body
        given = function.parameters
        # @ builtin ( NAME ) variable
        self.threads = {given[i + 4].text for i, t in enumerate(given) if t.text == "builtin" and given[i + 2].text in THREAD}
        self.differ: set[int] = set()  # declarations
        self.uneven: set[int] = set()  # loops that threads leave at different times
        self.found: set[tuple[int, str]] = set()

    def run(self) -> set[tuple[int, str]]:
        known = -1
        while known != (known := len(self.differ) + len(self.uneven)):
            self.found.clear()
            self.returned = False  # in some threads
            self.scopes: list[dict[str, int]] = [{}]
            self.around: list[int | None] = []  # loops, and None for a switch
            self.block(0, False)
        return self.found

    def block(self, start: int, apart: bool) -> int:
        """The statements from { on; apart: whether only some threads are there. Returns what follows }."""
        self.scopes.append({})
        i = start + 1
        while i < len(self.code) and self.code[i].text != "}":
            i = self.statement(i, apart or self.returned)
        self.scopes.pop()
        return i + 1

    def statement(self, i: int, apart: bool) -> int:
        word = self.code[i].text
        if word == "{":
            return self.block(i, apart)
        if word == "if":
            body = self.find("{", i)
            apart = self.expression(i + 1, body, apart) or apart
            i = self.block(body, apart)
            while i < len(self.code) and self.code[i].text == "else":
                i = self.statement(i + 1, apart)
            return i
        if word in ("for", "while", "loop"):
            return self.loop(i, apart)
        if word == "switch":
            body = self.find("{", i)
            apart = self.expression(i + 1, body, apart) or apart
            self.around.append(None)
            i = self.cases(body, apart)
            self.around.pop()
            return i
        if word == "continuing":
            return self.block(i + 1, apart)
        end = self.find(";", i)
        self.simple(i, end, apart)
        return end + 1

    def cases(self, start: int, apart: bool) -> int:
        i, end = start + 1, closing(self.code, start)
        while (body := self.find("{", i)) < end:
            i = self.block(body, apart)
        return end + 1

    def loop(self, start: int, apart: bool) -> int:
        body = self.find("{", start)
        self.scopes.append({})
        if self.code[start].text == "for":
            first = self.find(";", start)
            second, end = self.find(";", first + 1), closing(self.code, start + 1)
            body = self.find("{", end)
            self.simple(start + 2, first, apart)
            condition = (first + 1, second)
        else:
            condition = (start + 1, body)
        apart = self.expression(*condition, apart) or apart or start in self.uneven
        self.around.append(start)
        after = self.block(body, apart)
        self.around.pop()
        if self.code[start].text == "for":
            self.simple(second + 1, end, apart)
        self.scopes.pop()
        return after

    def simple(self, i: int, end: int, apart: bool) -> None:
        """A statement without blocks, up to its ; or )."""
        if i >= end:
            return
        word = self.code[i].text
        sign = next((j for j in range(i, end) if self.code[j].text in ASSIGN), end)
        declares = word in ("let", "var", "const")
        differs = self.expression(sign if declares else i, end, apart)
        if word == "return":
            self.returned |= apart
            if apart:
                self.uneven.update(at for at in self.around if at is not None)
        elif word in ("break", "continue"):
            if apart or differs:  # break if
                inside = [at for at in self.around if at is not None] if word == "continue" else self.around
                if inside and inside[-1] is not None:
                    self.uneven.add(inside[-1])
        elif declares:
            name = next((j for j in range(i + 1, end) if NAME.match(self.code[j].text) and self.code[j - 1].text != "<"), end)
            if name < end:
                self.scopes[-1][self.code[name].text] = name
                self.differ.update({name} if differs else ())
        elif NAME.match(word) and sign < end:
            self.assign(i, sign, differs, apart)

    def assign(self, i: int, sign: int, differs: bool, apart: bool) -> None:
        name = self.code[i].text
        at = self.declaration(name)
        if at is None:
            return
        if sign == i + 1 and self.code[sign].text == "=":
            differs = self.expression(sign + 1, self.find(";", sign), apart)
            if name in self.scopes[-1] and not apart:  # from here on it is as good as another variable
                self.scopes[-1][name] = at = i
        if differs or apart:
            self.differ.add(at)

    def expression(self, start: int, end: int, apart: bool) -> bool:
        """Whether its value differs between threads. Notes what is called where only some threads are."""
        differs, i = False, start
        while i < end:
            text = self.code[i].text
            if NAME.match(text) and self.code[i - 1].text != ".":
                if i + 1 < end and self.code[i + 1].text == "(":
                    if apart and (text in self.whole.collective or SUBGROUP.match(text)):
                        self.found.add((self.code[i].line, text))
                    if text in SAME_FOR_ALL or text in self.whole.names:
                        close = closing(self.code, i + 1)
                        self.expression(i + 2, close, apart)
                        i = close
                else:
                    at = self.declaration(text)
                    differs |= at in self.differ if at is not None else text in self.threads or text in self.whole.shared
            i += 1
        return differs

    def declaration(self, name: str) -> int | None:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def find(self, text: str, start: int) -> int:
        return next((i for i in range(start, len(self.code)) if self.code[i].text == text), len(self.code) - 1)

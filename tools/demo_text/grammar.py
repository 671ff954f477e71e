"""A small template language: `{a|b}` picks one part, `@list` draws from a list, `$name` is bound for the whole text.

Templates are parsed once. Expanding one gives pieces that remember how many bits of choice led to them, so that a story can
be kept from containing a passage that others are likely to contain too. `finish` settles what depends on neighbours: `a~`
becomes a or an, sentences begin with a capital letter, spaces before punctuation go.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from math import log2
from pathlib import Path
from typing import NamedTuple

Node = str | tuple[str, object]  # text, ("pick", branches), ("list", name) or ("bound", name)
Sequence = tuple[Node, ...]
Row = list[tuple[float, str, float]]  # see surprise

TOKEN = re.compile(r"[{}|]|@\w+|\$\w+|[^{}|@$]+")
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
SENTENCE = re.compile(r"(^\"?|[.!?] +\"?)([a-z])")
ARTICLE = re.compile(r"\b[aA]~ (\w+)")
# Words that begin with a vowel letter, but not with a vowel.
NO_VOWEL = ("use", "uni", "one", "once", "eu", "ukulele")


class Piece(NamedTuple):
    """A run of text, the bits of choice that led to it, the bound name it stands for ("" for none) and its bits by word."""

    text: str
    bits: float
    name: str
    bound_bits: tuple[float, ...]


class Bound(NamedTuple):
    """What a name stands for throughout a text, and how many bits each of its words took."""

    text: str
    bits: tuple[float, ...]


def words(text: str) -> list[str]:
    """The words of a text in lower case: letters and digits, with an apostrophe inside ("don't" is one word)."""
    return WORD.findall(text.lower())


@cache
def word_count(text: str) -> int:
    return len(words(text))


def blocks(path: Path) -> dict[str, list[str]]:
    """The lists of a text file: a name and a colon at the left, then lines indented by two. Blank lines stay as ""."""
    out: dict[str, list[str]] = {}
    name = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("  ") or not line:
            if name:
                out[name].append("" if line == "  (nothing)" else line[2:] or "\n")
        elif not line.startswith("#"):
            name = line.removesuffix(":")
            out[name] = []
    return out


def lists(path: Path) -> dict[str, list[str]]:
    """The lists of a file with one entry a line."""
    return {name: [line for line in lines if line != "\n"] for name, lines in blocks(path).items()}


def word_lists(path: Path) -> dict[str, list[str]]:
    """The lists of a file with entries between commas."""
    return {name: [entry.strip() for entry in " ".join(lines).split(",")] for name, lines in lists(path).items()}


@cache
def parse(template: str) -> Sequence:
    """Parses a template; raises ValueError on braces that do not match."""
    tokens = TOKEN.findall(template)
    position = 0

    def sequence(depth: int) -> Sequence:
        nonlocal position
        nodes: list[Node] = []
        while position < len(tokens):
            token = tokens[position]
            if token in "|}" and depth:
                break
            position += 1
            if token == "{":
                branches = [sequence(depth + 1)]
                while position < len(tokens) and tokens[position] == "|":
                    position += 1
                    branches.append(sequence(depth + 1))
                if position == len(tokens):
                    raise ValueError(f"a brace is not closed in {template!r}")
                position += 1
                nodes.append(("pick", tuple(branches)))
            elif token in "|}":
                raise ValueError(f"{token!r} stands outside braces in {template!r}")
            elif token[0] == "@":
                nodes.append(("list", token[1:]))
            elif token[0] == "$":
                nodes.append(("bound", token[1:]))
            else:
                nodes.append(token)
        return tuple(nodes)

    return sequence(0)


class Grammar:
    """Lists by name; every entry is itself a template."""

    def __init__(self, entries: Mapping[str, Iterable[str]]) -> None:
        self.entries = {name: tuple(templates) for name, templates in entries.items()}
        self.parsed = {name: tuple(parse(template) for template in templates) for name, templates in self.entries.items()}

    def expand(self, rng: random.Random, template: str, bound: Mapping[str, Bound]) -> list[Piece]:
        """Expands a template into pieces. KeyError for an unknown name."""
        out: list[Piece] = []
        self._write(rng, parse(template), bound, 0.0, out)
        return out

    def draw(self, rng: random.Random, name: str, bound: Mapping[str, Bound] | None = None) -> Bound:
        """One expanded entry of a list, with the bits of each of its words."""
        pieces = self.expand(rng, "@" + name, bound or {})
        return Bound("".join(piece.text for piece in pieces), tuple(free + value for free, _, value in surprise(pieces)))

    def _write(
        self, rng: random.Random, nodes: Sequence, bound: Mapping[str, Bound], pending: float, out: list[Piece]
    ) -> float:
        """Appends the pieces of `nodes`; `pending` bits of choices wait for the next text. Returns what still waits."""
        for node in nodes:
            if isinstance(node, str):
                out.append(Piece(node, pending, "", ()))
                pending = 0.0
                continue
            kind, what = node
            if kind == "bound":
                value = bound[str(what)]
                out.append(Piece(value.text, pending, str(what), value.bits))
                pending = 0.0
                continue
            branches = self.parsed[str(what)] if kind == "list" else what
            assert isinstance(branches, tuple)
            pending = self._write(rng, branches[int(rng.random() * len(branches))], bound, pending + log2(len(branches)), out)
        return pending


def template_words(templates: Iterable[str]) -> Iterator[str]:
    """Every word that stands in the templates themselves, whatever is picked."""
    for template in templates:
        for token in TOKEN.findall(template):
            if token[0] not in "@${}|":
                yield from words(token)


def surprise(pieces: Iterable[Piece]) -> Row:
    """For each word: bits of free choice, which word of which bound name it is, and the bits of that.

    A passage is as likely as 2 to the minus of its bits, where a word of a bound name counts once however often it occurs.
    """
    out: Row = []
    free = 0.0
    for piece in pieces:
        free += piece.bits
        for k in range(word_count(piece.text)):
            if piece.name:
                out.append((free, f"{piece.name} {k}", piece.bound_bits[k] if k < len(piece.bound_bits) else 0.0))
            else:
                out.append((free, "", 0.0))
            free = 0.0
    return out


def probable(row: Row, n: int, bits: float) -> bool:
    """Whether some passage of n words takes fewer than `bits`."""
    seen: set[str] = set()
    for start in range(len(row) - n, -1, -1):
        total = 0.0
        seen.clear()
        for free, name, value in row[start : start + n]:
            total += free
            if name and name not in seen:
                seen.add(name)
                total += value
        if total < bits:
            return True
    return False


def article(match: re.Match[str]) -> str:
    following = match.group(1)
    vowel = following[0].lower() in "aeiou" and not following.lower().startswith(NO_VOWEL)
    return ("an " if vowel else "a ") + following


def finish(text: str) -> str:
    """Articles, capitals at the start of sentences and quotations, and spacing."""
    text = re.sub(r" +", " ", text).strip()
    text = re.sub(r" ([.,!?;:])", r"\1", text).replace(",,", ",")
    text = ARTICLE.sub(article, text)
    return SENTENCE.sub(lambda m: m.group(1) + m.group(2).upper(), text)

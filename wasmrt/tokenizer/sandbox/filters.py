"""Every filter and test that templates have, as Jinja calls them: FILTERS and TESTS, by name.

Each filter takes the environment, the value and its arguments, and pays for its result before making it. A filter that is
not in the table does not exist: none of a later Jinja is accepted unseen. Names that begin with "#" are for rewrite.py alone.
Relies on meter.py for the price, on text.py and methods.py for text, and on Jinja's own filters for what the others mean.
"""

import json
import operator
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.runtime import Context, Undefined
from jinja2.tests import TESTS as JINJA_TESTS
from jinja2.utils import pass_context
from markupsafe import escape

from wasmrt.tokenizer.sandbox.limits import MAX_BITS, MAX_NESTING, CapExceeded, counted
from wasmrt.tokenizer.sandbox.meter import CONTAINERS, PIECE_BYTES
from wasmrt.tokenizer.sandbox.methods import Method
from wasmrt.tokenizer.sandbox.text import as_text, printf

if TYPE_CHECKING:
    from wasmrt.tokenizer.sandbox.environment import Sandbox


# -- what the rewriter puts in


def _step(env: "Sandbox", steps: int) -> bool:
    env.meter.spend(steps)
    return True                                         # so that it can stand in a loop's condition


def _sliced(env: "Sandbox", value: Any, *bounds: Any) -> Any:
    if not isinstance(value, (str, list, tuple)):
        return value[slice(*bounds)]                    # an error that says what it was
    n = len(range(*slice(*bounds).indices(len(value))))
    env.meter.spend(n // 16, 64 + n * (4 if isinstance(value, str) else 8))
    return value[slice(*bounds)]


def _weighed(env: "Sandbox", value: Any) -> Any:
    weight = env.meter.weigh(value)
    env.meter.spend(weight // 16)
    return value


# -- filters by name


def _attr(env: "Sandbox", value: Any, name: Any) -> Any:
    return env.attribute(value, as_text(env, name))


def _batch(env: "Sandbox", value: Any, linecount: Any, fill_with: Any = None) -> Any:
    each = counted(linecount)
    rows = JINJA_FILTERS["batch"](env.meter.listed(value), linecount, fill_with)
    env.meter.spend(each // 16, 8 * each)
    return iter(env.meter.made([env.meter.made(row) for row in rows]))


def _slice(env: "Sandbox", value: Any, slices: Any, fill_with: Any = None) -> Any:
    items = _list(env, value)
    slices = counted(slices)
    each, extra = divmod(len(items), max(slices, 1))
    env.meter.spend(slices // 4, 100 * slices)
    rows, start = [], 0
    for n in range(slices):
        stop = start + each + (n < extra)
        fill = [fill_with] if fill_with is not None and n >= extra else []
        rows.append(items[start:stop] + fill)
        start = stop
    return iter(env.meter.made(rows))


def _escape(env: "Sandbox", value: Any) -> str:
    text = as_text(env, value)
    env.meter.spend(len(text) // 8, 5 * text.__sizeof__())
    return str(escape(text))


def _format(env: "Sandbox", value: Any, *args: Any, **kwargs: Any) -> str:
    return printf(env, as_text(env, value), kwargs or args)


def _indent(env: "Sandbox", value: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    text = as_text(env, value)
    lines = len(_method("splitlines")(env, text))
    size = len(width) if isinstance(width, str) else counted(width)
    env.meter.spend(lines, 8 * (len(text) + lines * size) + 2 * PIECE_BYTES * lines)
    return str(JINJA_FILTERS["indent"](text, width, first, blank))


def _int(env: "Sandbox", value: Any, default: Any = 0, base: Any = 10) -> Any:
    if isinstance(value, str) and len(value) > MAX_BITS // 8:
        raise CapExceeded("it makes an integer of a long text")
    return JINJA_FILTERS["int"](value, default, base)


def _items(env: "Sandbox", value: Any) -> Any:
    n = len(value) if isinstance(value, dict) else 0
    env.meter.spend(n, 80 * n)
    return iter(list(JINJA_FILTERS["items"](value)))


def _join(env: "Sandbox", value: Any, d: Any = "", attribute: Any = None) -> str:
    parts = _attributes(env, value, attribute)
    between = as_text(env, d)
    env.meter.spend(2 * len(parts), 4 * len(between) * len(parts) + 8 * len(parts))
    texts = [as_text(env, part) for part in parts]
    env.meter.spend(0, 4 * sum(map(len, texts)))
    return between.join(texts)


def _list(env: "Sandbox", value: Any) -> list[Any]:
    if isinstance(value, str):
        env.meter.spend(len(value), len(value) * (8 if value.isascii() else PIECE_BYTES))
    elif isinstance(value, CONTAINERS):
        env.meter.spend(len(value) // 4, 8 * len(value))
    items = list(value)
    env.meter.made(items)
    return items


def _replace(env: "Sandbox", value: Any, old: Any, new: Any, count: Any = None) -> Any:
    return Method(env, as_text(env, value), "replace")(as_text(env, old), as_text(env, new), -1 if count is None else count)


def _round(env: "Sandbox", value: Any, precision: Any = 0, method: Any = "common") -> Any:
    if not -300 <= operator.index(precision) <= 300:
        raise CapExceeded("it rounds to more than 300 digits")
    return JINJA_FILTERS["round"](value, precision, method)


def _sum(env: "Sandbox", value: Any, attribute: Any = None, start: Any = 0) -> Any:
    for item in _attributes(env, value, attribute):
        env.meter.spend(10)
        start = env.call_binop(_context(env), "+", start, item)
    return start


def _tojson(
    env: "Sandbox", value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as published templates expect it: no HTML escapes, non-ASCII letters as they are."""
    if indent is not None and (len(indent) if isinstance(indent, str) else operator.index(indent)) > 32:
        raise CapExceeded("tojson indents by more than 32")
    before = env.meter.steps_left
    weight = env.meter.weigh(value)
    nodes_seen = before - env.meter.steps_left          # at least one a value
    pad = 0 if indent is None else 32 * MAX_NESTING
    size = sum(len(part) for part in separators) if separators else 4
    env.meter.spend(weight // 8 + 4 * nodes_seen, 6 * weight + nodes_seen * (pad // 8 + 4 * size + PIECE_BYTES))
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if ensure_ascii:                                    # but noncharacters stay, which mark text of the caller
        text = re.sub(r"[^\x00-\x7f\ufdd0-\ufdef]", lambda match: json.dumps(match[0])[1:-1], text)
    return text


def _urlencode(env: "Sandbox", value: Any) -> Any:
    value = env.meter.listed(value) if not isinstance(value, (str, int, float, Undefined)) else value
    weight = env.meter.weigh(value)
    env.meter.spend(weight, 32 * weight)
    return JINJA_FILTERS["urlencode"](value)


# -- filters that differ in a name only


def _words(name: str) -> Callable[..., Any]:
    """title and wordcount make a piece of every word."""

    def run(env: "Sandbox", value: Any) -> Any:
        text = as_text(env, value)
        n_words = sum(1 for _ in re.finditer(r"\w+", text))
        env.meter.spend(len(text), PIECE_BYTES * (1 + n_words) * 2 + 8 * len(text))
        return JINJA_FILTERS[name](text)

    return run


def _method(name: str) -> Callable[..., Any]:
    """A filter that is a method of strings."""
    return lambda env, value, *args, **kwargs: Method(env, as_text(env, value), name)(*args, **kwargs)


def _jinja(name: str, first: str = "") -> Callable[..., Any]:
    """Jinja's own filter, for those that do and make no more than their arguments are; `first` is what it takes first."""

    def run(env: "Sandbox", value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Iterator):
            value = _list(env, value)
        weight = sum(map(env.meter.weigh, (value, *args, *kwargs.values())))
        n = len(value) if hasattr(value, "__len__") else 1
        env.meter.spend(weight // 4 + 12 * n, PIECE_BYTES * n if isinstance(value, str) else 0)
        before = {"": (), "environment": (env,), "context": (_context(env),)}[first]
        result = JINJA_FILTERS[name](*before, value, *args, **kwargs)
        if isinstance(result, Iterator):
            return iter(_list(env, result))             # consumed once, and true when empty, as Jinja's generators are
        return env.meter.made(result)

    return run


# -- the tables


def _attributes(env: "Sandbox", value: Any, attribute: Any) -> Any:
    """The parts of an iterable, or this attribute of each."""
    parts = env.meter.listed(value)
    return parts if attribute is None else list(JINJA_FILTERS["map"](_context(env), parts, attribute=attribute))


def _context(env: "Sandbox") -> Context:
    """An empty context, for what finds the environment through one."""
    return env.context_class(env, {}, None, {})


def _in_sandbox(run: Callable[..., Any]) -> Any:
    """What Jinja calls. Taking the context also tells Jinja never to run it while compiling."""

    @pass_context
    def call(context: Context, *args: Any, **kwargs: Any) -> Any:
        return run(context.environment, *args, **kwargs)

    return call


def _compared(run: Any) -> Callable[..., Any]:
    """A test that compares values, which takes as long as they are large."""
    return lambda env, *values: run(*(_weighed(env, value) for value in values))


_RUNS: dict[str, Callable[..., Any]] = {
    "#step": _step, "#slice": _sliced, "#weigh": _weighed, "#text": as_text,
    "#made": lambda env, value: env.meter.made(value),
    "#concat": lambda env, values: env.concat([as_text(env, value) for value in values]),
    "abs": lambda env, value: abs(value),
    "attr": _attr, "batch": _batch, "slice": _slice, "format": _format, "indent": _indent, "int": _int, "items": _items,
    "join": _join, "list": _list, "replace": _replace, "round": _round, "sum": _sum, "tojson": _tojson,
    "urlencode": _urlencode,
    "title": _words("title"), "wordcount": _words("wordcount"),
    "capitalize": _method("capitalize"), "lower": _method("lower"), "upper": _method("upper"), "trim": _method("strip"),
    "center": lambda env, value, width=80: Method(env, as_text(env, value), "center")(width),
    **dict.fromkeys(("e", "escape", "forceescape"), _escape),
    **dict.fromkeys(("safe", "string"), as_text),           # nothing is escaped, so all text is safe
    **dict.fromkeys(("length", "count"), lambda env, value: len(value)),
    **dict.fromkeys(("d", "default"), lambda env, *args, **kwargs: JINJA_FILTERS["default"](*args, **kwargs)),
    **{name: _jinja(name) for name in ("dictsort", "filesizeformat", "float", "reverse")},
    **{name: _jinja(name, "environment") for name in ("groupby", "max", "min", "sort", "truncate", "unique")},
    **{name: _jinja(name, "context") for name in ("map", "reject", "rejectattr", "select", "selectattr")},
    **{name: JINJA_FILTERS[name] for name in ("first", "last")},    # they look at one item alone, and take the environment
}  # fmt: skip
FILTERS = {name: _in_sandbox(run) for name, run in _RUNS.items()}
_COMPARING = ("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le", "in",
              "lower", "upper")  # fmt: skip
TESTS: dict[str, Any] = {
    name: _in_sandbox(_compared(run)) if name in _COMPARING else run for name, run in JINJA_TESTS.items()
}

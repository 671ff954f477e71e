"""The attributes that templates may use, an allow-list by type; and methods, which pay before they run.

Relies on meter.py for the price and on text.py for str.format. Methods of lists and dicts that change them are not listed.
"""

import re
from typing import TYPE_CHECKING, Any

from jinja2.runtime import LoopContext, Macro

from wasmrt.tokenizer.sandbox.limits import counted
from wasmrt.tokenizer.sandbox.meter import PIECE_BYTES, Meter
from wasmrt.tokenizer.sandbox.text import formatted

if TYPE_CHECKING:
    from wasmrt.tokenizer.sandbox.environment import Sandbox

_STRING_METHODS = """
capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii
isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip
partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines
startswith strip swapcase title upper zfill
"""
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_STRING_METHODS.split()),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset({"changed", "cycle"}),
}
ATTRIBUTES: dict[type, frozenset[str]] = {
    LoopContext: frozenset(
        {"depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0"}
    ),
    Macro: frozenset({"arguments", "caller", "catch_kwargs", "catch_varargs", "name"}),
}
GROUP = frozenset({"grouper", "list"})          # attributes of what `groupby` gives, a named tuple


class Method:
    """A method of a value, which pays before it runs. Which methods there are, METHODS says: this runs whatever it is given."""

    __slots__ = ("env", "name", "value")

    def __init__(self, env: "Sandbox", value: Any, name: str) -> None:
        self.env, self.value, self.name = env, value, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        meter, value, name = self.env.meter, self.value, self.name
        weight = sum(map(meter.weigh, (*args, *kwargs.values())))
        if isinstance(value, str):
            if name == "format":
                return formatted(self.env, value, args, kwargs)
            if name == "format_map":
                return formatted(self.env, value, (), *args)
            if name == "join" and args:
                args = (meter.listed(args[0]),)
                weight = meter.weigh(args[0])
            meter.spend((value.__sizeof__() + weight) // 16, _string_bytes(meter, value, name, args, kwargs))
        elif not isinstance(value, LoopContext):
            own = meter.weigh(value) if name in ("count", "index") else 64
            meter.spend((own + weight) // 16, 16 * len(value) if name == "copy" else 64)
        result = getattr(value, name)(*args, **kwargs)
        return meter.made(result) if isinstance(result, (list, tuple)) else result


def _string_bytes(meter: Meter, value: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """At least the bytes that a string's method makes; pays for those that can take longer than their text is long."""
    n = value.__sizeof__()
    texts = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, str)]
    if name in ("center", "ljust", "rjust", "zfill"):
        return n + 4 * counted(args[0]) if args else n
    if name == "expandtabs":
        return n + 4 * value.count("\t") * counted(args[0] if args else kwargs.get("tabsize", 8))
    if name == "replace" and len(texts) == 2:
        # Both may be of another width than the text: four bytes a character, whatever they are.
        return 4 * (len(value) + value.count(texts[0]) * len(texts[1])) + 64
    if name == "join":
        return 4 * n * len(args[0]) + meter.weigh(args[0]) * 4 if args else 0
    if name.startswith("r") or name in ("strip", "lstrip"):     # these search quadratically
        meter.spend(sum(map(len, texts)) * len(value) // 64)
    if name == "splitlines":
        return 2 * n + PIECE_BYTES * sum(map(value.count, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"))
    if name in ("split", "rsplit"):
        cuts = value.count(texts[0]) if texts and texts[0] else sum(1 for _ in re.finditer(r"\s+", value))
        meter.spend(2 * cuts)
        return 2 * n + PIECE_BYTES * (cuts + 1)
    return 3 * n if not name.startswith(("is", "find", "index", "count", "starts", "ends")) else 0

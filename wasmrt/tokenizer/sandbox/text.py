"""Values as text: what {{ value }}, `template % args` and `template.format(...)` write, paid for before it is made.

Relies on meter.py for the price; str.format reads attributes through the environment, which allows or refuses them. Text of
the caller may hold a noncharacter, a marker that has to be found again in what is rendered: so repr's escapes of these are
undone.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2.sandbox import SandboxedFormatter

from wasmrt.tokenizer.sandbox.limits import CapExceeded
from wasmrt.tokenizer.sandbox.meter import CONTAINERS

if TYPE_CHECKING:
    from wasmrt.tokenizer.sandbox.environment import Sandbox

# A printf conversion: an optional key, flags, width, precision. A key with parentheses inside is refused before this is used.
_PRINTF = re.compile(r"%(?:\([^()]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")
_NUMBER = re.compile(r"\d+")


def as_text(env: "Sandbox", value: Any) -> str:
    """What {{ value }} writes."""
    if isinstance(value, str):
        env.meter.spend(1, 8)
        return value
    weight = env.meter.weigh(value)
    env.meter.spend(weight // 16, 4 * weight)           # "\x00" becomes four characters
    text = str(value)
    if not isinstance(value, CONTAINERS):
        return text
    escapes = text.count("\\ufd")
    env.meter.spend(30 * escapes, 200 * escapes)
    return _unescaped(text)


def printf(env: "Sandbox", template: str, args: Any) -> str:
    """`template % args`; widths and precisions are numbers, and small."""
    if re.search(r"%\([^)]*\(", template):
        raise CapExceeded("a format string has a key with parentheses")
    sizes = _PRINTF.findall(template)
    pad = sum(_width(size) for pair in sizes for size in pair)
    weight = env.meter.weigh(args)
    env.meter.spend(len(template) // 4, 4 * (len(template) + pad + len(sizes) * weight))
    if isinstance(args, tuple):
        shown: Any = tuple(_shown(env, value) for value in args)
    elif isinstance(args, dict) and "%(" in template:
        shown = {name: _shown(env, value) for name, value in args.items()}
    else:
        shown = _shown(env, args)
    return str(template % shown)


def formatted(env: "Sandbox", template: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """`template.format(*args, **kwargs)`; widths and precisions are numbers, and small."""
    env.meter.spend(len(template), 4 * len(template))
    fields = [spec or "" for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
    if any("{" in spec for spec in fields):
        raise CapExceeded("a format string takes its width from a value")
    pad = sum(_width(size) for spec in fields for size in _NUMBER.findall(spec))
    weight = sum(map(env.meter.weigh, (*args, *kwargs.values())))
    env.meter.spend(10 * len(fields), 4 * (pad + len(fields) * weight))
    return str(_Formatter(env).vformat(template, args, kwargs))


class _Formatter(SandboxedFormatter):
    """str.format, with containers printed as `as_text` prints them."""

    _env: "Sandbox"

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return _unescaped(repr(value)) if conversion == "r" else super().convert_field(_shown(self._env, value), conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        return super().format_field(_shown(self._env, value), format_spec)


def _shown(env: "Sandbox", value: Any) -> Any:
    """`value` for a format to print: containers as text already."""
    return as_text(env, value) if isinstance(value, CONTAINERS) else value


def _width(size: str) -> int:
    if size == "*" or len(size) > 4:
        raise CapExceeded("a format string has a width that is not a small number")
    return int(size or 0)


def _unescaped(text: str) -> str:
    """What repr() gave, with noncharacters (U+FDD0 to U+FDEF) as they were."""
    pieces, done, at = [], 0, text.find("\\ufd")
    while at >= 0:
        run = at
        while run and text[run - 1] == "\\":
            run -= 1
        if (at - run) % 2 == 0 and re.match("[de][0-9a-f]", text[at + 4 : at + 6]):     # else it is a backslash, then "ufd"
            pieces += [text[done:at], chr(int(text[at + 2 : at + 6], 16))]
            done = at + 6
        at = text.find("\\ufd", at + 1)
    return "".join([*pieces, text[done:]])

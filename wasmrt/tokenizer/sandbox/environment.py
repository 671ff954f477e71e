"""Sandbox: Jinja's environment, and thereby every operation of a template: operators, attributes, calls and globals.

Relies on rewrite.py for where payments are made, on meter.py to make them, and on the tables of methods.py and filters.py for
what there is. Where Jinja would ask its own sandbox what is safe, the allow-list in `attribute` and `call` answers alone.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from types import CodeType, MethodType
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.ext import LoopControlExtension
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from wasmrt.tokenizer.sandbox.filters import FILTERS, TESTS
from wasmrt.tokenizer.sandbox.limits import MAX_BITS, MAX_CALLS, MAX_PYTHON, CapExceeded, Limits, Refused, counted
from wasmrt.tokenizer.sandbox.meter import Meter
from wasmrt.tokenizer.sandbox.methods import ATTRIBUTES, GROUP, METHODS, Method
from wasmrt.tokenizer.sandbox.rewrite import Rewriter, Tokens
from wasmrt.tokenizer.sandbox.text import as_text, printf


class _Namespace(Namespace):
    """Jinja's namespace(), which may hold itself: its repr must not walk into what it holds."""

    def __repr__(self) -> str:
        return "<namespace>"


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one compilation or one rendering, with the meter of its limits.

    Settings are those that published templates are written for: trim_blocks, lstrip_blocks, break and continue.
    """

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, limits: Limits, now: Callable[[], datetime] = datetime.now) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, cache_size=0, extensions=[Tokens, LoopControlExtension]
        )
        self.meter = Meter(limits)
        self.now = now
        self.calls = 0                                  # within one another, at this moment
        self.filters = FILTERS
        self.tests = TESTS
        self.globals = {
            "range": self.make_range, "dict": self.make_dict, "namespace": self.make_namespace,
            "raise_exception": self.raise_exception, "strftime_now": self.strftime_now,
        }  # fmt: skip

    def compile_checked(self, source: str) -> CodeType:
        tree = self._parse(source, None, None)
        self.meter.look()
        python = self._generate(Rewriter().visit(tree), None, None)
        self.meter.look()
        if len(python) > MAX_PYTHON:
            raise CapExceeded(f"it becomes more than {MAX_PYTHON:,} characters of Python")
        return self._compile(python, "<template>")

    # -- operators

    def concat(self, parts: Sequence[str]) -> str:  # type: ignore[override]
        """The buffer of a macro or a set block as one string."""
        self.meter.spend(len(parts), 64 + sum(map(str.__sizeof__, parts)))
        return "".join(parts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            return printf(self, left, right)
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    n_bytes = _unit(value) * len(value) * max(times, 0)
                    self.meter.spend(n_bytes // 16, n_bytes)
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            weight = left.__sizeof__() + right.__sizeof__()
            self.meter.spend(weight // 16, weight)
        if isinstance(left, int) and isinstance(right, int):
            bits = max(left.bit_length(), right.bit_length())
            if operator == "**" and right > 0:
                bits = left.bit_length() * right
            elif operator == "*":
                bits = left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise CapExceeded(f"it computes an integer of more than {MAX_BITS} bits")
        result = self.binop_table[operator](left, right)
        return self.meter.made(result) if isinstance(result, (list, tuple, set)) else result

    # -- attributes, items, calls

    def getattr(self, obj: Any, attribute: str) -> Any:
        found = self.attribute(obj, attribute)
        if isinstance(found, Undefined) and isinstance(obj, dict) and not hasattr(dict, attribute):
            return obj.get(attribute, found)
        return found

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, (str, dict, list, tuple, range)):
            if isinstance(argument, (tuple, slice)):
                self.meter.weigh(argument)              # hashed
            try:
                return obj[argument]
            except (TypeError, LookupError):
                pass
        if isinstance(argument, str):
            return self.attribute(obj, argument)
        if isinstance(obj, Undefined):
            return obj[argument]                        # raises, and says what is undefined
        return self.undefined(obj=obj, name=argument)

    def attribute(self, obj: Any, name: str) -> Any:
        """An attribute that templates may use, or an Undefined that says why not."""
        kind = next((k for k in METHODS if isinstance(obj, k)), type(obj))
        if name in METHODS.get(kind, ()):
            return Method(self, obj, name)
        if name in ATTRIBUTES.get(kind, ()) or (kind is tuple and name in GROUP and hasattr(obj, "_fields")):
            return getattr(obj, name)
        if isinstance(obj, Undefined):
            return obj._fail_with_undefined_error()
        if kind is _Namespace and not name.startswith("_"):
            return getattr(obj, name, None) if name in obj._Namespace__attrs else self.undefined(obj=obj, name=name)
        return self.unsafe_undefined(obj, name) if hasattr(kind, name) else self.undefined(obj=obj, name=name)

    # The template's own keyword arguments may have any plain name: these cannot be among them.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        ours = isinstance(__obj, MethodType) and __obj.__self__ is __self
        if not ours and not isinstance(__obj, (Method, Macro, LoopContext, Undefined)):
            raise SecurityError(f"a {type(__obj).__name__} cannot be called")
        __self.meter.spend(8 * len(args))
        for value in (*args, *kwargs.values()):
            __self.meter.weigh(value)
        __self.calls += 1
        if __self.calls > MAX_CALLS:
            raise CapExceeded(f"it calls macros within macros more than {MAX_CALLS} deep")
        try:
            return super().call(__context, __obj, *args, **kwargs)
        finally:
            __self.calls -= 1

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A filter that another one calls by name, as `map` does: not one of ours, whose arguments are trusted."""
        self.meter.spend(20)
        if name.startswith("#"):
            raise SecurityError(f"there is no filter {name!r}")
        return super().call_filter(name, *args, **kwargs)

    def call_test(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.meter.spend(20)
        return super().call_test(name, *args, **kwargs)

    # -- globals

    def make_range(self, *args: Any) -> range:
        made = range(*args)
        counted(len(made))
        return made

    def make_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.meter.made(dict(*map(self.meter.listed, args), **kwargs))

    def make_namespace(self, *args: Any, **kwargs: Any) -> _Namespace:
        self.meter.spend(0, 400)
        return _Namespace(self.make_dict(*args, **kwargs))

    def raise_exception(self, message: Any = "") -> None:
        raise Refused(as_text(self, message))

    def strftime_now(self, template: str) -> str:
        if len(template) > 200 or re.search(r"%[-_0^#]*\d", template):
            raise CapExceeded("strftime_now has a long format or one with widths")
        return self.now().strftime(template)


def _unit(value: str | list[Any] | tuple[Any, ...]) -> int:
    """At least the bytes of one character or one place."""
    return 8 if not isinstance(value, str) else 1 if value.isascii() else 4

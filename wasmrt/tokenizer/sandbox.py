"""Jinja2's immutable sandbox, with caps on what a template from a file may cost.

The sandbox alone keeps a template from Python's insides, not from using up time and memory. Here nothing has to be killed:
- The source, its tokens, the depth of its syntax tree and the Python that Jinja makes of it are bounded. Nothing is folded
  while compiling, so `{{ 'a' * 10**9 }}` costs nothing before it runs.
- The syntax tree is rewritten: every loop body, loop filter and macro first pays for its own size in steps (`#step`), so no
  template runs long without paying, however it calls itself. Operators, filters, methods and output pay for their results
  before these are made.
- Bytes are counted when made and never given back, so the count bounds what is alive at any time. Containers are weighed
  as trees, shared parts each time they occur: that bounds what `str`, `==`, `hash` and JSON do with them.
- Attributes are an allow-list by type: the methods below, and nothing else of any object.
A deadline, looked at as steps are paid, is the second line of defence.
"""

import json
import operator
import re
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import CodeType, MethodType
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.tests import TESTS
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer
from markupsafe import escape

from wasmrt.errors import FormatError

# The largest template of 83 published ones: 17 KB, 1,600 tokens, syntax 18 deep, 42 KB of Python.
MAX_SOURCE = 256 * 1024             # characters
MAX_TOKENS = 10_000
MAX_DEPTH = 100                     # nodes from the template down to a constant; also the branches of one `if`
MAX_PYTHON = 768 * 1024             # characters of Python made from the source

# What one rendering may use, and how that grows with its input: long conversations are legitimate.
STEPS, STEPS_PER_BYTE, STEPS_PER_ITEM = 2_000_000, 4, 2_000     # a step: about 0.1 to 0.2 us
BYTES, BYTES_PER_BYTE = 20 << 20, 24
SECONDS, SECONDS_PER_STEP = 0.7, 4e-7
MAX_OUTPUT, OUTPUT_PER_BYTE = 4 << 20, 4                        # characters
MAX_WEIGHT = 4 << 20                # bytes of one container, written out as a tree
MAX_NESTING = 64                    # containers within one another
MAX_CALLS = 40                      # macros and recursive loops within one another
MAX_COUNT = 100_000                 # of range(), batch and slice, padding widths
MAX_BITS = 2_048                    # of an integer

# Steps that a node of the syntax tree pays beyond one, by its type: those that run Python functions of ours.
_NODE_STEPS = {
    "Getattr": 6, "Getitem": 6, "Filter": 10, "Test": 4, "Call": 20, "Concat": 15, "List": 8, "Tuple": 8, "Dict": 8,
    "Compare": 5, "Add": 8, "Sub": 8, "Mul": 8, "Div": 8, "FloorDiv": 8, "Mod": 8, "Pow": 8, "Output": 8, "For": 15,
    "Macro": 15, "CallBlock": 30, "FilterBlock": 15, "AssignBlock": 10,
}  # fmt: skip
_FORBIDDEN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)

_STRING_METHODS = """
capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii
isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip
partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines
startswith strip swapcase title upper zfill
"""
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(re.findall(r"\w+", _STRING_METHODS)),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset({"changed", "cycle"}),
}
_ATTRIBUTES: dict[type, frozenset[str]] = {
    LoopContext: frozenset(
        {"depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0"}
    ),
    Macro: frozenset({"arguments", "caller", "catch_kwargs", "catch_varargs", "name"}),
}
_GROUP = frozenset({"grouper", "list"})        # attributes of what `groupby` gives
_VIEWS: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))
_SEQUENCES: tuple[type[Any], ...] = (list, tuple, set, *_VIEWS)
_CONTAINERS: tuple[Any, ...] = (dict, *_SEQUENCES)

# A printf conversion: an optional key, flags, width, precision. A key with parentheses inside is refused before this is used.
_PRINTF = re.compile(r"%(?:\([^()]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")
_LONG_NUMBER = re.compile(r"(?<![\da-fA-F_])[\da-fA-F_]{1000}")    # Jinja's lexer takes 300 bytes of stack for a digit
_NUMBER = re.compile(r"\d+")
_PIECE_BYTES = 80                   # a short string in a list: 8 of pointer, up to 72 of object


class CapExceeded(Exception):
    """A template asked for more than the caps above."""


class Refused(Exception):
    """The template called raise_exception; the message is its own."""


@dataclass(frozen=True)
class Limits:
    """What one rendering may use: steps, bytes made, seconds, characters of output."""

    steps: int
    n_bytes: int
    seconds: float
    n_output: int

    @classmethod
    def for_input(cls, n_bytes: int, n_items: int) -> "Limits":
        """Limits for an input of so many bytes of text in so many strings, numbers and containers."""
        more = STEPS_PER_BYTE * n_bytes + STEPS_PER_ITEM * n_items
        return cls(
            steps=STEPS + more,
            n_bytes=BYTES + BYTES_PER_BYTE * n_bytes,
            seconds=SECONDS + SECONDS_PER_STEP * more,
            n_output=MAX_OUTPUT + OUTPUT_PER_BYTE * n_bytes,
        )


def compile_template(source: str) -> CodeType:
    """The template's Python code, checked against the caps. Raises FormatError, one line, for anything wrong with it."""
    if len(source) > MAX_SOURCE:
        raise FormatError(f"the chat template has {len(source):,} characters; at most {MAX_SOURCE:,} are accepted")
    if _LONG_NUMBER.search(source):
        raise FormatError("the chat template holds a number of 1,000 digits or more; the file may be hostile")
    problem = ""
    try:
        code = Sandbox(Limits.for_input(0, 0)).compile_checked(source)
    except TemplateSyntaxError as e:
        problem = f", line {e.lineno}: {e.message}"
    except RecursionError:
        problem = ": it is nested too deeply"
    except Exception as e:                              # whatever Jinja or Python make of hostile text is the template's fault
        problem = f": {e or type(e).__name__}"
    if problem:                                         # raised out here: the exception above would keep its frames alive
        raise FormatError(f"the chat template cannot be compiled{one_line(problem)}")
    return code


def render_template(code: CodeType, variables: Mapping[str, Any], limits: Limits, now: Callable[[], datetime]) -> str:
    """The text that the compiled template makes of the variables: str, int, float, bool, None, lists and dicts of these.

    Raises FormatError, one line, when the template fails or exceeds the limits, and with its own message when it refuses
    the messages (`raise_exception`).
    """
    problem = ""
    env = Sandbox(limits, now)
    template = Template.from_code(env, code, env.globals)
    pieces = []
    try:
        env.learn(variables)
        for piece in template.root_render_func(template.new_context(dict(variables))):
            env.spend(0, 8)
            limits_left = limits.n_output - env.n_output - len(piece)
            if limits_left < 0:
                raise CapExceeded(f"it writes more than {limits.n_output:,} characters")
            env.n_output += len(piece)
            pieces.append(piece)
    except Refused as e:
        problem = f"the chat template refuses these messages: {e}"
    except Exception as e:                              # a template's runtime errors have no common base
        problem = f"the chat template fails{_line_of(e, template)}: {_reason(e)}"
    if problem:
        raise FormatError(one_line(problem))
    return "".join(pieces)


def one_line(text: str, limit: int = 400) -> str:
    """`text` with its line breaks made spaces, cut to `limit` characters."""
    text = re.sub(r"\s+", " ", text[: 4 * limit]).rstrip()
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, KeyError):
        return f"there is no {error}"
    return str(error) or type(error).__name__


def _line_of(error: Exception, template: Template) -> str:
    """Where in the template the error was raised, as ", line N", or nothing if that is unknown."""
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(frame.tb_lineno)
        frame = frame.tb_next
    return f", line {line}" if line else ""


class _Tokens(Extension):
    """Counts tokens before the parser sees them, and reads {% generation %}, which marks what an assistant said, as a scope."""

    tags = {"generation"}  # noqa: RUF012

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for n, token in enumerate(stream):
            if n == MAX_TOKENS:
                raise TemplateSyntaxError(f"it has more than {MAX_TOKENS:,} tokens", token.lineno)
            yield token

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _Rewriter(NodeTransformer):
    """Puts the payments into the syntax tree, and refuses what needs other templates."""

    def __init__(self) -> None:
        self.depth = 0
        self.steps = 0                                  # of the innermost loop or macro body, so far

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.depth += 1
        self.steps += 1 + _NODE_STEPS.get(type(node).__name__, 0)
        if self.depth > MAX_DEPTH:
            raise TemplateSyntaxError(f"it is nested more than {MAX_DEPTH} deep", node.lineno)
        if isinstance(node, _FORBIDDEN):
            name = type(node).__name__.lower()
            raise TemplateSyntaxError(f"a chat template stands alone: {name} is not accepted", node.lineno)
        result = super().visit(node, *args, **kwargs)
        self.depth -= 1
        return result

    def body(self, parts: Sequence[nodes.Node]) -> tuple[list[nodes.Node], nodes.Expr]:
        """The rewritten parts of something that runs many times, and the expression that pays for one run of it."""
        outer, self.steps = self.steps, 0
        rewritten = [self.visit(part) for part in parts]
        pay = _filter(nodes.Const(self.steps + 4), "#step")
        self.steps = outer
        return rewritten, pay

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        node.iter = self.visit(node.iter)
        node.body, pay = self.body(node.body)
        node.body.insert(0, nodes.ExprStmt(pay))
        node.else_ = [self.visit(part) for part in node.else_]
        if node.test is not None:
            (test,), pay = self.body([node.test])
            node.test = nodes.And(pay, test)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:  # noqa: N802
        node.defaults = [self.visit(value) for value in node.defaults]
        if isinstance(node, nodes.CallBlock):
            self.generic_visit(node.call)               # in place: it must stay a Call
        node.body, pay = self.body(node.body)
        node.body.insert(0, nodes.ExprStmt(pay))
        return node

    visit_CallBlock = visit_Macro  # noqa: N815

    def visit_If(self, node: nodes.If) -> nodes.Node:  # noqa: N802
        if len(node.elif_) > MAX_DEPTH:                 # Python compiles them as nested ones
            raise TemplateSyntaxError(f"an `if` has more than {MAX_DEPTH} branches", node.lineno)
        return self.generic_visit(node)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [n if isinstance(n, nodes.TemplateData) else _filter(n, "#text") for n in node.nodes]
        return node

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _filter(node, "#made")

    visit_Tuple = visit_List  # noqa: N815
    visit_Dict = visit_List  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.Tuple(node.nodes, "load"), "#concat")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _filter(node.node, "#slice", [bound or nodes.Const(None) for bound in bounds])

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        sides = [node.expr, *(part.expr for part in node.ops)]
        if len(sides) == 2 and node.ops[0].op not in ("in", "notin") and any(isinstance(side, nodes.Const) for side in sides):
            return node                                 # the usual `role == 'user'` costs no more than the constant
        node.expr = _filter(node.expr, "#weigh")
        for part in node.ops:
            part.expr = _filter(part.expr, "#weigh")
        return node


class _Formatter(SandboxedFormatter):
    """str.format, with containers printed as `text` prints them."""

    _env: "Sandbox"

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return _unescaped(repr(value)) if conversion == "r" else super().convert_field(self._env.shown(value), conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        return super().format_field(self._env.shown(value), format_spec)


def _unescaped(text: str) -> str:
    """What repr() gave, with noncharacters as they were: they mark text of the caller, and must be found again."""
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


def _unit(value: str | list[Any] | tuple[Any, ...]) -> int:
    """At least the bytes of one character or one place."""
    return 8 if not isinstance(value, str) else 1 if value.isascii() else 4


def _filter(value: nodes.Expr, name: str, args: Sequence[nodes.Expr] = ()) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


class _Namespace(Namespace):
    """Jinja's namespace(), which may hold itself: its repr must not walk into what it holds."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Method:
    """A method of a value, which pays before it runs."""

    __slots__ = ("env", "name", "value")

    def __init__(self, env: "Sandbox", value: Any, name: str) -> None:
        self.env, self.value, self.name = env, value, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.env.call_method(self.value, self.name, args, kwargs)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one compilation or one rendering: what is left of its limits, and every operation a template has.

    Settings are those that published templates are written for: trim_blocks, lstrip_blocks, break and continue.
    """

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, limits: Limits, now: Callable[[], datetime] = datetime.now) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, cache_size=0, extensions=[_Tokens, LoopControlExtension]
        )
        self.limits = limits
        self.now = now
        self.steps_left = limits.steps
        self.bytes_left = limits.n_bytes
        self.next_look = limits.steps                   # the clock is looked at when steps_left falls below this
        self.deadline = time.perf_counter() + limits.seconds
        self.n_output = 0
        self.calls = 0
        self.known: dict[int, int] = {}                 # weights of the input's containers, by id
        self.learning = False
        self.filters = _FILTERS
        self.tests = _TESTS
        self.globals = {
            "range": self.make_range, "dict": self.make_dict, "namespace": self.make_namespace,
            "raise_exception": self.raise_exception, "strftime_now": self.strftime_now,
        }  # fmt: skip

    def compile_checked(self, source: str) -> CodeType:
        tree = self._parse(source, None, None)
        self.spend(0)
        python = self._generate(_Rewriter().visit(tree), None, None)
        self.spend(0)
        if len(python) > MAX_PYTHON:
            raise CapExceeded(f"it becomes more than {MAX_PYTHON:,} characters of Python")
        return self._compile(python, "<template>")

    # -- paying

    def spend(self, steps: int, n_bytes: int = 0) -> None:
        """Pays for work about to be done and bytes about to be made; raises CapExceeded where too little is left."""
        self.steps_left -= steps
        self.bytes_left -= n_bytes
        if self.steps_left < 0:
            raise CapExceeded(f"it needs more than {self.limits.steps:,} steps")
        if self.bytes_left < 0:
            raise CapExceeded(f"it makes more than {self.limits.n_bytes:,} bytes of values")
        if self.steps_left <= self.next_look:
            self.next_look = self.steps_left - 2000
            if time.perf_counter() > self.deadline:
                raise CapExceeded(f"it takes more than {self.limits.seconds:.1f} s")

    def step(self, steps: int) -> bool:
        self.spend(steps)
        return True                                     # so that it can stand in a loop's condition

    def weigh(self, value: Any, depth: int = 0) -> int:
        """Bytes of a value written out as a tree; pays for the walk and raises CapExceeded above MAX_WEIGHT or MAX_NESTING."""
        if isinstance(value, str):
            return value.__sizeof__()
        if isinstance(value, dict):
            parts: Any = value.items()
        elif isinstance(value, _SEQUENCES):
            parts = value
        else:
            return 64                                   # numbers are bounded; iterators, macros and the like are leaves
        if id(value) in self.known:
            return self.known[id(value)]
        self.spend(4 + 3 * len(parts))
        if depth == MAX_NESTING:
            raise CapExceeded(f"it nests lists more than {MAX_NESTING} deep")
        total = 64
        for part in parts:
            total += 8 + self.weigh(part, depth if isinstance(value, dict) else depth + 1)
            if total > MAX_WEIGHT + self.limits.n_bytes - BYTES:
                raise CapExceeded(f"it makes a list or dict of more than {MAX_WEIGHT:,} bytes")
        if self.learning and not isinstance(value, tuple):     # the pairs of a dict are gone when this returns, their ids free
            self.known[id(value)] = total
        return total

    def learn(self, variables: Mapping[str, Any]) -> None:
        """Weighs the input once: it does not change while it is rendered, and templates copy lists of messages often."""
        self.learning = True
        for value in variables.values():
            self.weigh(value)
        self.learning = False

    def made(self, value: Any) -> Any:
        """`value`, a container that was just made, after paying for it."""
        if isinstance(value, _CONTAINERS):
            self.weigh(value)
            self.spend(0, (200 if isinstance(value, dict) else 64) + 16 * len(value))
        return value

    def counted(self, value: Any) -> int:
        """An integer that says how many of something to make."""
        number = operator.index(value)
        if number > MAX_COUNT:
            raise CapExceeded(f"it asks for {MAX_COUNT:,} or more of something")
        return number

    def listed(self, value: Any) -> Any:
        """An iterable as something with a length that can be weighed, paid for; dicts and strings are kept as they are."""
        if isinstance(value, (str, *_CONTAINERS)):
            return value
        return self.made(list(value))

    # -- output and operators

    def text(self, value: Any) -> str:
        """What {{ value }} writes."""
        if isinstance(value, str):
            self.spend(1, 8)
            return value
        weight = self.weigh(value)
        self.spend(weight // 16, 4 * weight)            # "\x00" becomes four characters
        if not isinstance(value, _CONTAINERS):
            return str(value)
        text = str(value)
        escapes = text.count("\\ufd")
        self.spend(30 * escapes, 200 * escapes)
        return _unescaped(text)

    def concat(self, parts: Sequence[str]) -> str:  # type: ignore[override]
        """The buffer of a macro or a set block as one string."""
        self.spend(len(parts), 64 + sum(map(str.__sizeof__, parts)))
        return "".join(parts)

    def sliced(self, value: Any, *bounds: Any) -> Any:
        if not isinstance(value, (str, list, tuple)):
            return value[slice(*bounds)]                # an error that says what it was
        n = len(range(*slice(*bounds).indices(len(value))))
        self.spend(n // 16, 64 + n * (4 if isinstance(value, str) else 8))
        return value[slice(*bounds)]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            return self.printf(left, right)
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    n_bytes = _unit(value) * len(value) * max(times, 0)
                    self.spend(n_bytes // 16, n_bytes)
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            weight = left.__sizeof__() + right.__sizeof__()
            self.spend(weight // 16, weight)
        if isinstance(left, int) and isinstance(right, int):
            bits = max(left.bit_length(), right.bit_length())
            if operator == "**" and right > 0:
                bits = left.bit_length() * right
            elif operator == "*":
                bits = left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise CapExceeded(f"it computes an integer of more than {MAX_BITS} bits")
        result = self.binop_table[operator](left, right)
        if isinstance(result, (list, tuple, set)):
            self.made(result)
        return result

    def printf(self, template: str, args: Any) -> str:
        """`template % args`; widths and precisions are numbers, and small."""
        if re.search(r"%\([^)]*\(", template):
            raise CapExceeded("a format string has a key with parentheses")
        sizes = _PRINTF.findall(template)
        pad = sum(self.width(size) for pair in sizes for size in pair)
        weight = self.weigh(args)
        self.spend(len(template) // 4, 4 * (len(template) + pad + len(sizes) * weight))
        if isinstance(args, tuple):
            shown: Any = tuple(map(self.shown, args))
        elif isinstance(args, dict) and "%(" in template:
            shown = {name: self.shown(value) for name, value in args.items()}
        else:
            shown = self.shown(args)
        return str(template % shown)

    def shown(self, value: Any) -> Any:
        """`value` for a format to print: containers as text already."""
        return self.text(value) if isinstance(value, _CONTAINERS) else value

    def format(self, template: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """`template.format(*args, **kwargs)`; widths and precisions are numbers, and small."""
        self.spend(len(template), 4 * len(template))
        fields = [spec for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
        if any("{" in (spec or "") for spec in fields):
            raise CapExceeded("a format string takes its width from a value")
        pad = sum(self.width(size) for spec in fields for size in _NUMBER.findall(spec or ""))
        weight = sum(map(self.weigh, (*args, *kwargs.values())))
        self.spend(10 * len(fields), 4 * (pad + len(fields) * weight))
        return str(_Formatter(self).vformat(template, args, kwargs))

    @staticmethod
    def width(size: str) -> int:
        if size == "*" or len(size) > 4:
            raise CapExceeded("a format string has a width that is not a small number")
        return int(size or 0)

    # -- attributes, methods, calls

    def getattr(self, obj: Any, attribute: str) -> Any:
        found = self.attribute(obj, attribute)
        if isinstance(found, Undefined) and isinstance(obj, dict) and not hasattr(dict, attribute):
            return obj.get(attribute, found)
        return found

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, (str, dict, list, tuple, range)):
            if isinstance(argument, (tuple, slice)):
                self.weigh(argument)                    # hashed
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
        kind = next((k for k in _METHODS if isinstance(obj, k)), type(obj))
        if name in _METHODS.get(kind, ()):
            return _Method(self, obj, name)
        if name in _ATTRIBUTES.get(kind, ()) or (kind is tuple and name in _GROUP and hasattr(obj, "_fields")):
            return getattr(obj, name)
        if isinstance(obj, Undefined):
            return obj._fail_with_undefined_error()
        if kind is _Namespace and not name.startswith("_"):
            return getattr(obj, name, None) if name in obj._Namespace__attrs else self.undefined(obj=obj, name=name)
        return self.unsafe_undefined(obj, name) if hasattr(kind, name) else self.undefined(obj=obj, name=name)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        ours = isinstance(__obj, MethodType) and __obj.__self__ is __self
        if not ours and not isinstance(__obj, (_Method, Macro, LoopContext, Undefined)):
            raise SecurityError(f"a {type(__obj).__name__} cannot be called")
        __self.spend(8 * len(args))
        for value in (*args, *kwargs.values()):
            __self.weigh(value)
        __self.calls += 1
        if __self.calls > MAX_CALLS:
            raise CapExceeded(f"it calls macros within macros more than {MAX_CALLS} deep")
        try:
            return super().call(__context, __obj, *args, **kwargs)
        finally:
            __self.calls -= 1

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A filter that another one calls by name, as `map` does: not one of ours, whose arguments are trusted."""
        self.spend(20)
        if name.startswith("#"):
            raise SecurityError(f"there is no filter {name!r}")
        return super().call_filter(name, *args, **kwargs)

    def call_test(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.spend(20)
        return super().call_test(name, *args, **kwargs)

    def call_method(self, value: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`value.name(*args, **kwargs)`, paid for before."""
        weight = sum(map(self.weigh, (*args, *kwargs.values())))
        if isinstance(value, str):
            if name == "format":
                return self.format(value, args, kwargs)
            if name == "format_map":
                return self.format(value, (), *args)
            if name == "join" and args:
                args = (self.listed(args[0]),)
                weight = self.weigh(args[0])
            self.spend((value.__sizeof__() + weight) // 16, self.string_bytes(value, name, args, kwargs))
        elif not isinstance(value, LoopContext):
            own = self.weigh(value) if name in ("count", "index") else 64
            self.spend((own + weight) // 16, 16 * len(value) if name == "copy" else 64)
        result = getattr(value, name)(*args, **kwargs)
        return self.made(result) if isinstance(result, (list, tuple)) else result

    def string_bytes(self, value: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """At least the bytes that a string's method makes; pays for those that can take longer than their text is long."""
        n = value.__sizeof__()
        texts = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, str)]
        if name in ("center", "ljust", "rjust", "zfill"):
            return n + 4 * self.counted(args[0]) if args else n
        if name == "expandtabs":
            return n + 4 * value.count("\t") * self.counted(args[0] if args else kwargs.get("tabsize", 8))
        if name == "replace" and len(texts) == 2:
            # Both may be of another width than the text: four bytes a character, whatever they are.
            return 4 * (len(value) + value.count(texts[0]) * len(texts[1])) + 64
        if name == "join":
            return 4 * n * len(args[0]) + self.weigh(args[0]) * 4 if args else 0
        if name.startswith("r") or name in ("strip", "lstrip"):   # these search quadratically
            self.spend(sum(map(len, texts)) * len(value) // 64)
        if name == "splitlines":
            return 2 * n + _PIECE_BYTES * sum(map(value.count, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"))
        if name in ("split", "rsplit"):
            cuts = value.count(texts[0]) if texts and texts[0] else sum(1 for _ in re.finditer(r"\s+", value))
            self.spend(2 * cuts)
            return 2 * n + _PIECE_BYTES * (cuts + 1)
        return 3 * n if not name.startswith(("is", "find", "index", "count", "starts", "ends")) else 0

    # -- globals

    def make_range(self, *args: Any) -> range:
        made = range(*args)
        self.counted(len(made))
        return made

    def make_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.made(dict(*map(self.listed, args), **kwargs))

    def make_namespace(self, *args: Any, **kwargs: Any) -> _Namespace:
        self.spend(0, 400)
        return _Namespace(self.make_dict(*args, **kwargs))

    def raise_exception(self, message: Any = "") -> None:
        raise Refused(self.text(message))

    def strftime_now(self, template: str) -> str:
        if len(template) > 200 or re.search(r"%[-_0^#]*\d", template):
            raise CapExceeded("strftime_now has a long format or one with widths")
        return self.now().strftime(template)


# -- filters: each takes the sandbox, the value and its arguments


def _attr(env: Sandbox, value: Any, name: Any) -> Any:
    return env.attribute(value, env.text(name))


def _batch(env: Sandbox, value: Any, linecount: Any, fill_with: Any = None) -> Any:
    rows = FILTERS["batch"](env.listed(value), env.counted(linecount), fill_with)
    env.spend(linecount // 16, 8 * linecount)
    return iter(env.made([env.made(row) for row in rows]))


def _slice(env: Sandbox, value: Any, slices: Any, fill_with: Any = None) -> Any:
    items = _list(env, value)
    each, extra = divmod(len(items), max(env.counted(slices), 1))
    env.spend(slices // 4, 100 * slices)
    rows, start = [], 0
    for n in range(slices):
        stop = start + each + (n < extra)
        fill = [fill_with] if fill_with is not None and n >= extra else []
        rows.append(items[start:stop] + fill)
        start = stop
    return iter(env.made(rows))


def _escape(env: Sandbox, value: Any) -> str:
    text = env.text(value)
    env.spend(len(text) // 8, 5 * text.__sizeof__())
    return str(escape(text))


def _format(env: Sandbox, value: Any, *args: Any, **kwargs: Any) -> str:
    return env.printf(env.text(value), kwargs or args)


def _indent(env: Sandbox, value: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    text = env.text(value)
    lines = len(_method("splitlines")(env, text))
    size = len(width) if isinstance(width, str) else env.counted(width)
    env.spend(lines, 8 * (len(text) + lines * size) + 2 * _PIECE_BYTES * lines)
    return str(FILTERS["indent"](text, width, first, blank))


def _int(env: Sandbox, value: Any, default: Any = 0, base: Any = 10) -> Any:
    if isinstance(value, str) and len(value) > MAX_BITS // 8:
        raise CapExceeded("it makes an integer of a long text")
    return FILTERS["int"](value, default, base)


def _items(env: Sandbox, value: Any) -> Any:
    env.spend(len(value) if isinstance(value, dict) else 0, 80 * len(value) if isinstance(value, dict) else 0)
    return iter(list(FILTERS["items"](value)))


def _join(env: Sandbox, value: Any, d: Any = "", attribute: Any = None) -> str:
    parts = env.listed(value)
    if attribute is not None:
        parts = list(FILTERS["map"](_context(env), parts, attribute=attribute))
    between = env.text(d)
    env.spend(2 * len(parts), 4 * len(between) * len(parts) + 8 * len(parts))
    texts = [env.text(part) for part in parts]
    env.spend(0, 4 * sum(map(len, texts)))
    return between.join(texts)


def _list(env: Sandbox, value: Any) -> list[Any]:
    if isinstance(value, str):
        env.spend(len(value), len(value) * (8 if value.isascii() else _PIECE_BYTES))
    elif isinstance(value, _CONTAINERS):
        env.spend(len(value) // 4, 8 * len(value))
    items = list(value)
    env.made(items)
    return items


def _replace(env: Sandbox, value: Any, old: Any, new: Any, count: Any = None) -> Any:
    return env.call_method(env.text(value), "replace", (env.text(old), env.text(new), -1 if count is None else count), {})


def _round(env: Sandbox, value: Any, precision: Any = 0, method: Any = "common") -> Any:
    if not -300 <= operator.index(precision) <= 300:
        raise CapExceeded("it rounds to more than 300 digits")
    return FILTERS["round"](value, precision, method)


def _sum(env: Sandbox, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    items = env.listed(value)
    if attribute is not None:
        items = list(FILTERS["map"](_context(env), items, attribute=attribute))
    for item in items:
        env.spend(10)
        start = env.call_binop(_context(env), "+", start, item)
    return start


def _tojson(
    env: Sandbox, value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as published templates expect it: no HTML escapes, non-ASCII letters as they are."""
    if indent is not None and (len(indent) if isinstance(indent, str) else operator.index(indent)) > 32:
        raise CapExceeded("tojson indents by more than 32")
    before = env.steps_left
    weight = env.weigh(value)
    nodes_seen = before - env.steps_left                # at least one a value
    pad = 0 if indent is None else 32 * MAX_NESTING
    size = sum(len(part) for part in separators) if separators else 4
    env.spend(weight // 8 + 4 * nodes_seen, 6 * weight + nodes_seen * (pad // 8 + 4 * size + _PIECE_BYTES))
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if ensure_ascii:                                    # but noncharacters stay, which mark text of the caller
        text = re.sub(r"[^\x00-\x7f\ufdd0-\ufdef]", lambda match: json.dumps(match[0])[1:-1], text)
    return text


def _urlencode(env: Sandbox, value: Any) -> Any:
    value = env.listed(value) if not isinstance(value, (str, int, float, Undefined)) else value
    weight = env.weigh(value)
    env.spend(weight, 32 * weight)
    return FILTERS["urlencode"](value)


def _words(name: str) -> Callable[..., Any]:
    """title and wordcount make a piece of every word."""

    def run(env: Sandbox, value: Any) -> Any:
        text = env.text(value)
        env.spend(len(text), _PIECE_BYTES * (1 + sum(1 for _ in re.finditer(r"\w+", text))) * 2 + 8 * len(text))
        return FILTERS[name](text)

    return run


def _method(name: str) -> Callable[..., Any]:
    """A filter that is a method of strings."""
    return lambda env, value, *args, **kwargs: env.call_method(env.text(value), name, args, kwargs)


def _jinja(name: str, first: str = "") -> Callable[..., Any]:
    """Jinja's own filter, for those that do and make no more than their arguments are; `first` is what it takes first."""

    def run(env: Sandbox, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Iterator):
            value = _list(env, value)
        weight = sum(map(env.weigh, (value, *args, *kwargs.values())))
        n = len(value) if hasattr(value, "__len__") else 1
        env.spend(weight // 4 + 12 * n, _PIECE_BYTES * n if isinstance(value, str) else 0)
        before = {"": (), "environment": (env,), "context": (_context(env),)}[first]
        result = FILTERS[name](*before, value, *args, **kwargs)
        if isinstance(result, Iterator):
            return iter(_list(env, result))             # consumed once, and true when empty, as Jinja's generators are
        return env.made(result)

    return run


def _context(env: Sandbox) -> Context:
    return env.context_class(env, {}, None, {})


def _in_sandbox(run: Callable[..., Any]) -> Any:
    """What Jinja calls. Taking the context also tells Jinja never to run it while compiling."""

    @pass_context
    def call(context: Context, *args: Any, **kwargs: Any) -> Any:
        return run(context.environment, *args, **kwargs)

    return call


def _weighed(env: Sandbox, value: Any) -> Any:
    weight = env.weigh(value)
    env.spend(weight // 16)
    return value


def _compared(run: Any) -> Callable[..., Any]:
    return lambda env, *values: run(*(_weighed(env, value) for value in values))


_RUNS: dict[str, Callable[..., Any]] = {
    "#step": Sandbox.step, "#text": Sandbox.text, "#made": Sandbox.made, "#slice": Sandbox.sliced, "#weigh": _weighed,
    "#concat": lambda env, values: env.concat([env.text(value) for value in values]),
    "abs": lambda env, value: abs(value),
    "attr": _attr, "batch": _batch, "slice": _slice, "format": _format, "indent": _indent, "int": _int, "items": _items,
    "join": _join, "list": _list, "replace": _replace, "round": _round, "sum": _sum, "tojson": _tojson,
    "urlencode": _urlencode,
    "title": _words("title"), "wordcount": _words("wordcount"),
    "capitalize": _method("capitalize"), "lower": _method("lower"), "upper": _method("upper"), "trim": _method("strip"),
    "center": lambda env, value, width=80: env.call_method(env.text(value), "center", (width,), {}),
    **dict.fromkeys(("e", "escape", "forceescape"), _escape),
    **dict.fromkeys(("safe", "string"), Sandbox.text),      # nothing is escaped, so all text is safe
    **dict.fromkeys(("length", "count"), lambda env, value: len(value)),
    **dict.fromkeys(("d", "default"), lambda env, *args, **kwargs: FILTERS["default"](*args, **kwargs)),
    **{name: _jinja(name) for name in ("dictsort", "filesizeformat", "float", "reverse")},
    **{name: _jinja(name, "environment") for name in ("groupby", "max", "min", "sort", "truncate", "unique")},
    **{name: _jinja(name, "context") for name in ("map", "reject", "rejectattr", "select", "selectattr")},
    "first": lambda env, value: FILTERS["first"](env, value),
    "last": lambda env, value: FILTERS["last"](env, value),
}  # fmt: skip
_FILTERS = {name: _in_sandbox(run) for name, run in _RUNS.items()}
_COMPARING = ("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le", "in",
              "lower", "upper")  # fmt: skip
_TESTS: dict[str, Any] = {name: _in_sandbox(_compared(run)) if name in _COMPARING else run for name, run in TESTS.items()}

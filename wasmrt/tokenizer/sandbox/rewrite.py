"""The template's source, before it is Python: what is refused of it, and where the payments are put into it.

`Tokens` sees the token stream, `Rewriter` then the syntax tree. The payments are filters of filters.py: `#step` pays for one
run of a body, `#text`, `#made`, `#concat` and `#slice` for a value that Jinja would make without asking, `#weigh` for what is
compared. A template cannot use them: Jinja reads no such name, and the environment looks none up. Relies on limits.py alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from wasmrt.tokenizer.sandbox.limits import MAX_DEPTH, MAX_TOKENS

# Steps that a node of the syntax tree pays beyond one, by its type: those that run Python functions of ours.
_NODE_STEPS = {
    "Getattr": 6, "Getitem": 6, "Filter": 10, "Test": 4, "Call": 20, "Concat": 15, "List": 8, "Tuple": 8, "Dict": 8,
    "Compare": 5, "Add": 8, "Sub": 8, "Mul": 8, "Div": 8, "FloorDiv": 8, "Mod": 8, "Pow": 8, "Output": 8, "For": 15,
    "Macro": 15, "CallBlock": 30, "FilterBlock": 15, "AssignBlock": 10,
}  # fmt: skip
# Other templates do not exist, and blocks, which are there to be replaced by them, could call themselves without paying.
_FORBIDDEN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)


class Tokens(Extension):
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


class Rewriter(NodeTransformer):
    """Puts the payments into the syntax tree, and refuses what is nested too deeply or needs other templates."""

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
        if getattr(node, "ctx", "load") != "load":      # a tuple of names to assign to
            return node
        return _filter(node, "#made")

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


def _filter(value: nodes.Expr, name: str, args: Sequence[nodes.Expr] = ()) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)

"""What a file's chat template can do and which markers its model writes: tool calls, reasoning, switches. For `inspect`.

Nothing here changes a text. The markers are families' conventions, looked for in the template's text, and among the tokens of
the vocabulary where the template names none; what stands between them is a family's own (JSON, XML, Python calls).
"""

from collections.abc import Mapping
from typing import Any

from jinja2 import meta, nodes

from wasmrt.errors import WasmrtError
from wasmrt.tokenizer import Tokenizer
from wasmrt.tokenizer.chat import ChatTemplate, from_metadata
from wasmrt.tokenizer.families import tokens_among
from wasmrt.tokenizer.sandbox import Limits, compile_template
from wasmrt.tokenizer.sandbox.environment import Sandbox

# What opens and closes a call, the narrower first. "" where a call ends with the turn. DeepSeek, Kimi and Mistral mark the list
# of all calls, Harmony a message to a function.
TOOL_CALL_MARKERS = (
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ("<|channel|>commentary to=functions.", "<|call|>"),
    ("<seed:tool_call>", "</seed:tool_call>"),
    ("<minimax:tool_call>", "</minimax:tool_call>"),
    ("<|START_ACTION|>", "<|END_ACTION|>"),
    ("[TOOL_CALLS]", ""),
    ("<|tool_call_start|>", "<|tool_call_end|>"),
    ("<|tool_call>", "<tool_call|>"),
    ("<start_function_call>", "<end_function_call>"),
    ("<|action_start|>", "<|action_end|>"),
    ("<|tool_call|>", "<|/tool_call|>"),
    ("<|tool_call|>", ""),
    ("<tool_call>", "</tool_call>"),
    ("<tool_calls>", "</tool_calls>"),
    ("<TOOLCALL>", "</TOOLCALL>"),
    ("<function_call>", "</function_call>"),
    ("<function_calls>", "</function_calls>"),
    ("<|python_tag|>", "<|eom_id|>"),
    ("<|python_tag|>", ""),
    ("Action: ```json", "```"),
)
REASONING_MARKERS = (
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<|channel>thought", "<channel|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)
# Of Harmony's markers only these are tokens; a template may put the rest together from pieces.
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>")
# Of a file that cannot chat.
NO_CHAT = {
    "template": "none", "why": "", "tools": False, "tool_call_markers": None, "reasoning_markers": None, "system": False,
    "variables": [],
}  # fmt: skip
# Variables of the interface, which every template is given.
GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
SYSTEM, QUESTION = "Qsystemq7", "Qquestionq7"           # words that no template writes itself


def describe_chat(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """How conversations reach the model, as plain values (docs/chat.md).

    template: "the file's own", "built in: NAME", or "none" (ChatML then); why: the reason, in one line. tools: whether the
    template writes tools. tool_call_markers, reasoning_markers: what opens and closes them in the model's text, or None; an
    empty second one means the end of the turn. system: whether a system message reaches the model. variables: what else the
    template reads from the caller, such as enable_thinking. The template is rendered twice, within its caps. Raises FormatError
    where the metadata holds something that is no template.
    """
    told: list[str] = []
    t = tokenizer
    template = from_metadata(
        metadata,
        bos_token="" if t.bos_id is None else t.token_text(t.bos_id),
        eos_token="" if t.eos_id is None else t.token_text(t.eos_id),
        control_texts=t.control_texts,
        tell=told.append,
    )
    own = bool(metadata.get("tokenizer.chat_template"))
    with_tools = metadata.get("tokenizer.chat_template.tool_use")
    sources = [source for source in (with_tools, template.source if own else None) if isinstance(source, str)]
    question = {"role": "user", "content": QUESTION}
    kind, problem = _used(template, own, question)
    _, problem_with_system = _used(template, own, {"role": "system", "content": SYSTEM}, question)
    read = set[str]().union(*map(_variables, sources))
    text = "\n".join(sources)
    return {
        "template": kind,
        "why": told[0] if told else problem or problem_with_system,
        "tools": "tools" in read,
        "tool_call_markers": _markers(TOOL_CALL_MARKERS, text, metadata),
        "reasoning_markers": _markers(REASONING_MARKERS, text, metadata),
        "system": not problem_with_system,
        "variables": sorted(read - GIVEN),
    }


def chat_lines(chat: Mapping[str, Any]) -> list[str]:
    """The description as one or two lines for a person."""

    def between(name: str) -> str:
        opens, closes = chat[name]
        return f"between {opens} and {closes}" if closes else f"behind {opens}"

    parts = [f"chat: {chat['template']}" if chat["template"] != "none" else "chat: no template", "tools" * chat["tools"]]
    parts += [f"tool calls {between('tool_call_markers')}"] if chat["tool_call_markers"] else []
    parts += [f"reasoning {between('reasoning_markers')}"] if chat["reasoning_markers"] else []
    parts += [] if chat["system"] or chat["template"] == "none" else ["no system message"]
    parts += [f"reads {', '.join(chat['variables'])}"] if chat["variables"] else []
    return ["; ".join(filter(None, parts)), *([f"      {chat['why']}"] if chat["why"] else [])]


def _used(template: ChatTemplate, own: bool, *messages: Mapping[str, Any]) -> tuple[str, str]:
    """What writes the messages, and what is wrong with it, or ""."""
    try:
        rendered = template.render(messages)
    except WasmrtError as error:
        return "the file's own", str(error)
    written = rendered.plain.casefold()
    missing = [message["role"] for message in messages if message["content"].casefold() not in written]
    problem = f"the chat template leaves out the {missing[0]}'s message" if missing else ""
    if rendered.built_in is not None:
        return f"built in: {rendered.built_in}", problem
    return "the file's own" if own else "none", problem


def _variables(source: str) -> set[str]:
    """The variables that a template reads from its caller; none if it cannot be compiled."""
    try:
        compile_template(source)                        # the caps, before anything walks the syntax tree
    except WasmrtError:
        return set()
    sandbox = Sandbox(Limits.for_input(0, 0))
    tree = sandbox.parse(source)
    read = meta.find_undeclared_variables(tree) - set(sandbox.globals)
    # What it also sets itself is a caller's only where it asks whether the caller did: `{% if x is not defined %}` around
    # `{% set x = ... %}`, or `{% set x = x|default(...) %}`.
    own = {name for assign in tree.find_all(nodes.Assign) for name in _targets(assign)}
    own -= {name for branch in tree.find_all(nodes.If) for name in _asked(branch.test) & _set_in(branch)}
    own -= {name for assign in tree.find_all(nodes.Assign) for name in _asked(assign.node) & _targets(assign)}
    return read - own - {macro.name for macro in tree.find_all(nodes.Macro)}


def _asked(expression: nodes.Node) -> set[str]:
    """Names of which an expression asks whether they are defined."""
    parts: list[nodes.Test | nodes.Filter] = [*expression.find_all(nodes.Test), *expression.find_all(nodes.Filter)]
    parts += [expression] if isinstance(expression, (nodes.Test, nodes.Filter)) else []
    asks = ("defined", "undefined", "default", "d")
    return {part.node.name for part in parts if part.name in asks and isinstance(part.node, nodes.Name)}


def _set_in(branch: nodes.If) -> set[str]:
    statements = [*branch.body, *branch.else_]
    assigns = [s for s in statements if isinstance(s, nodes.Assign)] + [a for s in statements for a in s.find_all(nodes.Assign)]
    return set[str]().union(*map(_targets, assigns))


def _targets(assign: nodes.Assign) -> set[str]:
    return {assign.target.name} if isinstance(assign.target, nodes.Name) else set()


def _markers(known: tuple[tuple[str, str], ...], text: str, metadata: Mapping[str, Any]) -> list[str] | None:
    """The first pair that the template's text holds an end of, else the first whose ends are tokens; None without either."""
    for opens, closes in known:
        if (opens in text and closes in text) or (closes and closes not in HARMONY and closes in text):
            return [opens, closes]
    words = {word for pair in known for word in pair if word}
    tokens = tokens_among(metadata, {*words, *HARMONY})
    if tokens.issuperset(HARMONY):
        return list(next(pair for pair in known if pair[0].startswith("<|channel|>")))
    for opens, closes in known:
        if opens in tokens and (not closes or closes in tokens):
            return [opens, closes]
    return None

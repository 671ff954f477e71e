"""What `inspect` says of a chat template: what writes a conversation, tools, markers, switches."""

import json

import pytest

from wasmrt.errors import FormatError
from wasmrt.tokenizer import from_metadata
from wasmrt.tokenizer.markers import NO_CHAT, chat_lines, describe_chat

PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
# Templates of the ways in which published ones use tools and variables: those that they read, and those that they do not.
READS = {
    "{% if tools %}{{ tools|tojson }}{% endif %}": ["tools"],
    "{%- if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}": ["tools"],
    "{% macro show(tools) %}{{ tools }}{% endmacro %}{{ show(1) }}": [],
    "{% macro show(tools) %}{{ tools }}{% endmacro %}{{ show(tools) }}": ["tools"],
    "{% set tools = [] %}{{ tools }}": [],
    "{% for m in messages %}{% if m.tools %}{% set tools = m.tools %}{{ tools }}{% endif %}{% endfor %}": [],
    "{% if enable_thinking is defined and enable_thinking is false %}x{% endif %}": ["enable_thinking"],
    "{% if not thinking is defined %}{% set thinking = true %}{% endif %}{{ thinking }}": ["thinking"],
    "{% if thinking is undefined %}{% if 1 %}{% set thinking = true %}{% endif %}{% endif %}{{ thinking }}": ["thinking"],
    "{% set effort = effort if effort is not undefined else 'low' %}{{ effort }}": ["effort"],
    "{% set effort = effort|default('low') %}{{ effort }}{{ strftime_now('%d') }}": ["effort"],
    "{% if messages %}{% set system = messages[0] %}{% endif %}{{ system }}": [],
    "{% if messages %}{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{% endif %}{{ ns.a }}": [],
    "{{ late() }}{% macro late() %}{% endmacro %}": [],
}
TOOLS = [
    ("<tool_call>{}</tool_call>", ["<tool_call>", "</tool_call>"]),
    ("{{ '[TOOL_CALLS] [' }}", ["[TOOL_CALLS]", ""]),
    ("<|python_tag|> <|eom_id|>", ["<|python_tag|>", "<|eom_id|>"]),
    ("<|python_tag|>", ["<|python_tag|>", ""]),
    ("<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>", ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"]),
    ("<|START_ACTION|><|END_ACTION|>", ["<|START_ACTION|>", "<|END_ACTION|>"]),
    ("<|tool_call|>", ["<|tool_call|>", ""]),
    ("<|tool_calls_section_begin|><|tool_calls_section_end|>", ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"]),
    ("nothing <tool_response> </tool_response>", None),
]
REASONING = [
    ("{{ m.split('</think>')[-1] }}", ["<think>", "</think>"]),
    ("[THINK][/THINK]", ["[THINK]", "[/THINK]"]),
    ("<seed:think></seed:think>", ["<seed:think>", "</seed:think>"]),
    ("<|START_THINKING|><|END_THINKING|>", ["<|START_THINKING|>", "<|END_THINKING|>"]),
    ("<|start|>assistant<|channel|>analysis<|message|>x<|end|>", ["<|channel|>analysis<|message|>", "<|end|>"]),
    ("<|assistant|><|end|>", None),
]
# What published templates do, by the names under which they are recorded: tools, tool calls, reasoning, variables.
PUBLISHED = {
    "Qwen/Qwen3-0.6B": (True, "<tool_call>", "<think>", ["enable_thinking"]),
    "Qwen/Qwen2.5-7B-Instruct": (True, "<tool_call>", None, []),
    "deepseek-ai/DeepSeek-R1": (False, "<｜tool▁calls▁begin｜>", "<think>", []),
    "meta-llama/Llama-3.1-8B-Instruct": (
        True, "<|python_tag|>", None, ["builtin_tools", "custom_tools", "date_string", "tools_in_user_message"],
    ),
    "mistralai/Mistral-Nemo-Instruct-2407": (True, "[TOOL_CALLS]", None, []),
    "moonshotai/Kimi-K2-Thinking": (True, "<|tool_calls_section_begin|>", "<think>", []),
    "zai-org/GLM-5.1": (True, "<tool_call>", "<think>", ["clear_thinking", "enable_thinking"]),
    "CohereLabs/command-a-reasoning-08-2025": (
        True, "<|START_ACTION|>", "<|START_THINKING|>",
        ["enable_citations", "reasoning", "regen_tool_call_ids", "response_format", "safety_mode", "skip_thinking"],
    ),
    "HuggingFaceH4/zephyr-7b-gemma-v0.1": (False, None, None, []),
}  # fmt: skip


def described(template, *tokens, **more):
    letters = [chr(c) for c in range(33, 127)]
    metadata = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.tokens": [*letters, *tokens], "tokenizer.ggml.token_type": [1] * len(letters) + [3] * len(tokens),
        **more,
    }  # fmt: skip
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    return describe_chat(metadata, from_metadata(metadata))


@pytest.mark.parametrize("source", READS)
def test_what_a_template_reads(source):
    found = described(PLAIN + source)
    assert (["tools"] if found["tools"] else []) + found["variables"] == READS[source]


@pytest.mark.parametrize(("source", "expected"), TOOLS)
def test_markers_of_tool_calls(source, expected):
    assert described(PLAIN + source)["tool_call_markers"] == expected
    assert described(PLAIN, "<tool_call>", "</tool_call>")["tool_call_markers"] == ["<tool_call>", "</tool_call>"]


@pytest.mark.parametrize(("source", "expected"), REASONING)
def test_markers_of_reasoning(source, expected):
    assert described(PLAIN + source)["reasoning_markers"] == expected


def test_markers_among_the_tokens():
    found = described(None, "<|im_start|>", "<|im_end|>", "<think>", "</think>", "[TOOL_CALLS]")
    assert (found["template"], found["tools"], found["variables"]) == ("built in: chatml", False, [])
    assert found["reasoning_markers"] == ["<think>", "</think>"]
    assert found["tool_call_markers"] == ["[TOOL_CALLS]", ""]
    harmony = described(None, "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
    assert harmony["template"] == "built in: gpt-oss"
    assert harmony["tool_call_markers"] == ["<|channel|>commentary to=functions.", "<|call|>"]
    assert harmony["reasoning_markers"] == ["<|channel|>analysis<|message|>", "<|end|>"]


def test_what_writes_a_conversation_and_why():
    own = described(PLAIN)
    assert (own["template"], own["why"], own["system"]) == ("the file's own", "", True)
    refusing = described("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN)
    assert (refusing["template"], refusing["system"]) == ("the file's own", True)
    assert refusing["why"].startswith("the chat template refuses these messages: no; the built-in format chatml")
    broken = described("{% if %}<|im_start|>")
    assert broken["template"] == "built in: chatml"
    assert broken["why"].startswith("the chat template cannot be compiled, line 1: ")
    unknown = described("{{ messages[0].content }}")
    assert (unknown["template"], unknown["system"]) == ("the file's own", False)
    assert unknown["why"] == "the chat template leaves out the user's message"
    failing = described("{{ raise_exception('never') }}")
    assert (failing["template"], failing["system"]) == ("the file's own", False)
    assert failing["why"] == "the chat template refuses these messages: never"
    nothing = described(None)
    assert (nothing["template"], nothing["system"]) == ("none", True)
    assert nothing["why"] == "the model has no chat template; using ChatML, which it may not know"
    with pytest.raises(FormatError, match="int, expected a string"):
        described(5)


def test_the_template_for_tools_counts():
    assert described(PLAIN, **{"tokenizer.chat_template.tool_use": "{{ tools }}[TOOL_CALLS]"})["tools"] is True


def test_a_hostile_template_is_described():
    loops = "{% for i in range(100000) %}" * 3 + "{% endfor %}" * 3
    found = described("<start_of_turn>" + loops)
    assert (found["template"], found["system"]) == ("built in: gemma", True)
    assert "fails" in found["why"]
    assert described("{{ " + "(" * 5000 + "x" + ")" * 5000 + " }}")["variables"] == []


def test_lines_for_a_person():
    found = described(PLAIN + "{{ tools }}<tool_call></tool_call></think>{{ enable_thinking }}")
    assert chat_lines(found) == [
        "chat: the file's own; tools; tool calls between <tool_call> and </tool_call>;"
        " reasoning between <think> and </think>; reads enable_thinking"
    ]
    assert chat_lines(described(PLAIN + "[TOOL_CALLS]"))[0] == "chat: the file's own; tool calls behind [TOOL_CALLS]"
    assert chat_lines({**NO_CHAT, "why": "no tokenizer"}) == ["chat: no template", "      no tokenizer"]


@pytest.mark.reference
def test_published_templates(reference_dir):
    cases = json.loads((reference_dir / "templates/cases.json").read_text("utf-8"))
    found = {}
    for case in cases:
        if case["name"] in PUBLISHED:
            chat = described(case["chat_template"])
            ends = [markers and markers[0] for markers in (chat["tool_call_markers"], chat["reasoning_markers"])]
            found[case["name"]] = (chat["tools"], *ends, chat["variables"])
    assert found == PUBLISHED

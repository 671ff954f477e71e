"""Built-in chat formats: what each writes, how a file's format is recognised, and that messages stay text in all of them."""

import asyncio
import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wasmrt.errors import FormatError
from wasmrt.store.open import open_model
from wasmrt.tokenizer.chat import ChatTemplate, from_metadata
from wasmrt.tokenizer.families import FORMATS, TEMPLATE_SIGNS, VOCABULARY_SIGNS, recognise_template, recognise_vocabulary

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "<think>Hm.</think>Yes?"},
    {"role": "user", "content": "Why?"},
]
# What each format writes of it, read against the published description of the format. Those that a runtime's own test
# renders are also held against that, below.
WRITTEN = {
    "chatml":
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n<think>Hm.</think>Ye"
    "s?<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "phi4":
    "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|> Hi <|im_end|><|im_start|>assistant<|im_sep|>"
    "<think>Hm.</think>Yes?<|im_end|><|im_start|>user<|im_sep|>Why?<|im_end|><|im_start|>assistant<|im_sep|>",
    "smolvlm":
    "<|im_start|>Be brief.\n\nUser:  Hi <end_of_utterance>\nAssistant: <think>Hm.</think>Yes?<end_of_utterance>\nUser: Why?"
    "<end_of_utterance>\nAssistant:",
    "kimi-k2":
    "<|im_system|>system<|im_middle|>Be brief.<|im_end|><|im_user|>user<|im_middle|> Hi <|im_end|><|im_assistant|>assistant"
    "<|im_middle|><think>Hm.</think>Yes?<|im_end|><|im_user|>user<|im_middle|>Why?<|im_end|><|im_assistant|>assistant<|im_m"
    "iddle|>",
    "llama2": "[INST] Be brief.\n Hi  [/INST]<think>Hm.</think>Yes?</s>[INST] Why? [/INST]",
    "llama2-sys": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi  [/INST]<think>Hm.</think>Yes?</s>[INST] Why? [/INST]",
    "llama2-sys-bos": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi  [/INST]<think>Hm.</think>Yes?</s><s>[INST] Why? [/INST]",
    "llama2-sys-strip": "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]<think>Hm.</think>Yes?</s>[INST] Why? [/INST]",
    "mistral-v1": " [INST] Be brief.\n\n Hi  [/INST] <think>Hm.</think>Yes?</s> [INST] Why? [/INST]",
    "mistral-v3": "[INST] Be brief.\n\n Hi [/INST] <think>Hm.</think>Yes?</s>[INST] Why?[/INST]",
    "mistral-v3-tekken": "[INST]Be brief.\n\n Hi [/INST]<think>Hm.</think>Yes?</s>[INST]Why?[/INST]",
    "mistral-v7": "[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST]  Hi [/INST] <think>Hm.</think>Yes?</s>[INST] Why?[/INST]",
    "mistral-v7-tekken": "[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST] Hi [/INST]<think>Hm.</think>Yes?</s>[INST]Why?[/INST]",
    "gpt-oss":
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurre"
    "nt date: 2025-06-28\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included fo"
    "r every message.<|end|><|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|><|start|>user<|message|> Hi "
    "<|end|><|start|>assistant<|channel|>final<|message|><think>Hm.</think>Yes?<|end|><|start|>user<|message|>Why?<|end|><|"
    "start|>assistant",
    "phi3":
    "<|system|>\nBe brief.<|end|>\n<|user|>\n Hi <|end|>\n<|assistant|>\n<think>Hm.</think>Yes?<|end|>\n<|user|>\nWhy?<|end"
    "|>\n<|assistant|>\n",
    "zephyr":
    "<|system|>\nBe brief.</s>\n<|user|>\n Hi </s>\n<|assistant|>\n<think>Hm.</think>Yes?</s>\n<|user|>\nWhy?</s>\n<|assist"
    "ant|>\n",
    "falcon3":
    "<|system|>\nBe brief.\n<|user|>\n Hi \n<|assistant|>\n<think>Hm.</think>Yes?</s>\n<|user|>\nWhy?\n<|assistant|>\n",
    "chatglm3":
    "[gMASK]sop<|system|>\n Be brief.<|user|>\n  Hi <|assistant|>\n <think>Hm.</think>Yes?<|user|>\n Why?<|assistant|>",
    "chatglm4":
    "[gMASK]<sop><|system|>\nBe brief.<|user|>\n Hi <|assistant|>\n<think>Hm.</think>Yes?<|user|>\nWhy?<|assistant|>\n",
    "glmedge": "<|system|>\nBe brief.<|user|>\n Hi <|assistant|>\n<think>Hm.</think>Yes?<|user|>\nWhy?<|assistant|>",
    "monarch":
    "<s>system\nBe brief.</s>\n<s>user\n Hi </s>\n<s>assistant\n<think>Hm.</think>Yes?</s>\n<s>user\nWhy?</s>\n<s>assistant"
    "\n",
    "gemma":
    "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n<think>Hm.</think>Yes?<end_of_turn>\n<start_o"
    "f_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    "gemma4":
    "<|turn>system\nBe brief.<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n<think>Hm.</think>Yes?<turn|>\n<|turn>user\nWhy"
    "?<turn|>\n<|turn>model\n",
    "orion": "Human: Be brief.\n\n Hi \n\nAssistant: </s><think>Hm.</think>Yes?</s>Human: Why?\n\nAssistant: </s>",
    "openchat":
    "Be brief.<|end_of_turn|>GPT4 Correct User:  Hi <|end_of_turn|>GPT4 Correct Assistant: <think>Hm.</think>Yes?<|end_of_t"
    "urn|>GPT4 Correct User: Why?<|end_of_turn|>GPT4 Correct Assistant:",
    "vicuna": "Be brief.\n\nUSER:  Hi \nASSISTANT: <think>Hm.</think>Yes?</s>\nUSER: Why?\nASSISTANT:",
    "vicuna-orca": "SYSTEM: Be brief.\nUSER:  Hi \nASSISTANT: <think>Hm.</think>Yes?</s>\nUSER: Why?\nASSISTANT:",
    "deepseek":
    "Be brief.### Instruction:\n Hi \n### Response:\n<think>Hm.</think>Yes?\n<|EOT|>\n### Instruction:\nWhy?\n### Response:"
    "\n",
    "deepseek2": "Be brief.\n\nUser:  Hi \n\nAssistant: <think>Hm.</think>Yes?<｜end▁of▁sentence｜>User: Why?\n\nAssistant:",
    "deepseek3": "Be brief.<｜User｜> Hi <｜Assistant｜>Yes?<｜end▁of▁sentence｜><｜User｜>Why?<｜Assistant｜>",
    "command-r":
    "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_T"
    "URN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><think>Hm.</think>Yes?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><"
    "|USER_TOKEN|>Why?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "llama3":
    "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_i"
    "d|><|start_header_id|>assistant<|end_header_id|>\n\n<think>Hm.</think>Yes?<|eot_id|><|start_header_id|>user<|end_heade"
    "r_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama4":
    "<|header_start|>system<|header_end|>\n\nBe brief.<|eot|><|header_start|>user<|header_end|>\n\nHi<|eot|><|header_start|"
    ">assistant<|header_end|>\n\n<think>Hm.</think>Yes?<|eot|><|header_start|>user<|header_end|>\n\nWhy?<|eot|><|header_sta"
    "rt|>assistant<|header_end|>\n\n",
    "minicpm": "Be brief.<用户>Hi<AI><think>Hm.</think>Yes?<用户>Why?<AI>",
    "exaone3":
    "[|system|]Be brief.[|endofturn|]\n[|user|] Hi \n[|assistant|]<think>Hm.</think>Yes?[|endofturn|]\n[|user|]Why?\n[|assi"
    "stant|]",
    "exaone4":
    "[|system|]\nBe brief.[|endofturn|]\n[|user|]\n Hi [|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\nYes?[|endofturn|]\n"
    "[|user|]\nWhy?[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n",
    "rwkv-world": "System: Be brief.\n\nUser: Hi\n\nAssistant: <think>Hm.</think>Yes?\n\nUser: Why?\n\nAssistant:",
    "granite":
    "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|> Hi <|end_of_text|"
    ">\n<|start_of_role|>assistant<|end_of_role|><think>Hm.</think>Yes?<|end_of_text|>\n<|start_of_role|>user<|end_of_role|"
    ">Why?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "gigachat":
    "<s>Be brief.<|message_sep|>user<|role_sep|> Hi <|message_sep|>available functions<|role_sep|>[]<|message_sep|>assistan"
    "t<|role_sep|><think>Hm.</think>Yes?<|message_sep|>user<|role_sep|>Why?<|message_sep|>available functions<|role_sep|>[]"
    "<|message_sep|>assistant<|role_sep|>",
    "megrez":
    "<|role_start|>system<|role_end|>Be brief.<|turn_end|><|role_start|>user<|role_end|> Hi <|turn_end|><|role_start|>assis"
    "tant<|role_end|><think>Hm.</think>Yes?<|turn_end|><|role_start|>user<|role_end|>Why?<|turn_end|><|role_start|>assistan"
    "t<|role_end|>",
    "yandex":
    "<s> Пользователь: Be brief.\n Hi \n\n Ассистент: <think>Hm.</think>Yes?\n\n Пользователь: Why?\n\n Ассистент:[SEP]",
    "bailing":
    "<role>SYSTEM</role>Be brief.<role>HUMAN</role> Hi <role>ASSISTANT</role><think>Hm.</think>Yes?<role>HUMAN</role>Why?<r"
    "ole>ASSISTANT</role>",
    "dots1":
    "<|system|>Be brief.<|endofsystem|><|userprompt|> Hi <|endofuserprompt|><|response|><think>Hm.</think>Yes?<|endofrespon"
    "se|><|userprompt|>Why?<|endofuserprompt|><|response|>",
    "hunyuan-dense":
    "Be brief.<｜hy_place▁holder▁no▁3｜><｜hy_User｜> Hi <｜hy_Assistant｜><think>Hm.</think>Yes?<｜hy_place▁holder▁no▁2｜>"
    "<｜hy_User｜>Why?<｜hy_Assistant｜>",
    "seed_oss":
    "<seed:bos>system\nBe brief.<seed:eos><seed:bos>user\n Hi <seed:eos><seed:bos>assistant\n<think>Hm.</think>Yes?<seed:eo"
    "s><seed:bos>user\nWhy?<seed:eos><seed:bos>assistant\n",
}  # fmt: skip
DAY = datetime(2025, 6, 28)
INSTEAD = "the built-in format {}, recognised by its text, is used instead"
# Texts of other runtimes that ours does not give, and why.
DIFFERENT = {
    "mlabonne/AlphaMonarch-7B": "leaves the token that begins the text to the tokenizer",
    "yandex/YandexGPT-5-Lite-8B-instruct": "drops the system message",
}


def write(name, messages=TALK, prompt=True, eos_token="</s>"):
    return FORMATS[name].write(messages, str, add_generation_prompt=prompt, eos_token=eos_token, now=DAY)


def vocabulary(*tokens, architecture="llama", model="gpt2", **more):
    return {
        "general.architecture": architecture, "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": ["a", *tokens, "b"], **more,
    }  # fmt: skip


def made(source, told, **options):
    return ChatTemplate(source, bos_token="", eos_token="</s>", tell=told.append, now=lambda: DAY, **options)


# -- what is written


def test_every_format_has_its_recorded_conversation():
    assert WRITTEN.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_a_conversation_in_every_format(name):
    assert write(name) == WRITTEN[name]


@pytest.mark.parametrize("name", FORMATS)
def test_the_opening_of_the_answer_is_only_written_when_asked_for(name):
    prompt = FORMATS[name].prompt
    assert write(name, prompt=False) + prompt == WRITTEN[name]


@pytest.mark.reference
def test_formats_are_those_of_another_runtime(reference_dir):
    """Its 33 templates are each recognised by their text, and written as it writes them."""
    recorded = json.loads((reference_dir / "templates/llama-cases.json").read_text("utf-8"))
    for case in recorded["cases"]:
        found = recognise_template(case["template"])
        assert found is not None, case["name"]
        text = write(found.name, recorded["conversation"], recorded["add_generation_prompt"], case["eos_token"])
        assert text == case["expected_jinja" if case["name"] in DIFFERENT else "expected_builtin"], case["name"]
    assert len(recorded["cases"]) == 33


@pytest.mark.reference
def test_formats_are_those_of_published_templates(reference_dir):
    """Where a published template adds nothing of its own, the format recognised by its text writes the same."""
    same = set()
    for case in json.loads((reference_dir / "templates/cases.json").read_text("utf-8")):
        found, data = recognise_template(case["chat_template"]), case["data"]
        if found is None:
            continue
        try:
            text = write(found.name, data["messages"], bool(data.get("add_generation_prompt")), data.get("eos_token", ""))
        except FormatError:                             # tool calls, images
            continue
        if case["target"] in (text, data.get("bos_token", "") + text):
            same.add(found.name)
    assert same == {"chatml", "deepseek2", "deepseek3", "llama2", "mistral-v3-tekken", "openchat", "zephyr"}


def test_a_system_message_without_a_user_turn_becomes_one():
    system, answer = TALK[0], {"role": "assistant", "content": "Yes?"}
    alone = "<start_of_turn>user\nBe brief.\n\n<end_of_turn>\n"
    assert write("gemma", [system], prompt=False) == alone
    assert write("gemma", [system, answer], prompt=False) == alone + "<start_of_turn>model\nYes?<end_of_turn>\n"
    assert write("mistral-v1", [system, system, TALK[3]]) == " [INST] Be brief.\n\nBe brief.\n\nWhy? [/INST]"


def test_other_roles_and_contents():
    said = {"role": "ipython", "content": "3"}
    assert write("llama3", [said], False) == "<|start_header_id|>ipython<|end_header_id|>\n\n3<|eot_id|>"
    assert write("llama3", [{**TALK[0], "role": "developer"}]) == write("llama3", [TALK[0]])
    assert write("exaone3", TALK[1:2]).startswith("[|system|][|endofturn|]\n[|user|]")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert write("vicuna", [{"role": "user", "content": parts}, {"role": "assistant", "content": None}], False) == (
        "USER: a\nb\nASSISTANT: </s>\n"
    )
    with pytest.raises(FormatError, match=r"messages\[0\] is of the role 'end'.*phi3"):     # `<|end|>` is no turn
        write("phi3", [{"role": "end", "content": "x"}])
    with pytest.raises(FormatError, match=r"messages\[0\] has parts that are no text"):
        write("phi3", [{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(FormatError, match=r"messages\[0\] calls tools"):
        write("phi3", [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}])


# -- recognised by the template's text


@pytest.mark.parametrize("sign", TEMPLATE_SIGNS, ids=lambda sign: f"{sign.name}:{sign.has[0]}")
def test_every_fingerprint_is_reached(sign):
    """No sign stands behind a wider one."""
    text = " }}\n".join(sign.has) + (" <|user|> eos_token" if sign.pattern else "")
    assert recognise_template(text).name == sign.name


def test_a_template_that_is_a_name_or_nothing_known():
    assert recognise_template("rwkv-world").name == "rwkv-world"
    assert recognise_template(" llama3\n").name == "llama3"
    assert recognise_template("{{ messages }} <|foo|>") is None
    assert recognise_template("x" * (256 * 1024) + "<|im_start|>") is None


def test_a_refused_system_message_is_merged_and_told():
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% for m in messages %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content|trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    told = []
    template = made(source, told)
    assert template.render(TALK).plain == WRITTEN["gemma"]
    assert template.render(TALK).built_in == "gemma"
    told_once = f"the chat template refuses these messages: no system role; {INSTEAD.format('gemma')}"
    assert told == [told_once]
    own = template.render(TALK[1:])
    assert own.built_in is None
    assert own.plain in WRITTEN["gemma"].replace("Be brief.\n\n", "")
    assert told == [told_once]


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        ("{% if %}", "cannot be compiled"), ("{{ nothing.x }}", "fails"), ("{{ raise_exception('no') }}", "refuses"),
        ("{{ 'a' * 10**9 }}", "fails"), ("{% for i in range(100000) %}" * 3 + "{% endfor %}" * 3, "fails"),
        ("{{ nothing|unknown }}", "cannot be compiled"), ("{{ ''.__class__.__mro__[1] }}", "fails"),
        ("x" * 300_000, "has 300,010 characters"),
    ],
)  # fmt: skip
def test_a_failing_or_hostile_template_gives_way_to_its_family(start, problem):
    told = []
    rendered = made("<用户> <AI> " + start, told).render(TALK)
    assert rendered.plain == WRITTEN["minicpm"]
    assert len(told) == 1
    assert re.fullmatch(f"the chat template {problem}.*; {INSTEAD.format('minicpm')}", told[0])
    assert "\n" not in told[0]


@pytest.mark.parametrize(
    ("body", "left_out"),
    [
        ("", "the last question"),
        ("{{ messages[1].content }}", "the last question"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "the system message"),
    ],
)
def test_a_template_that_leaves_out_what_was_said_gives_way_to_its_family(body, left_out):
    told = []
    assert made("<start_of_turn>" + body, told).render(TALK).plain == WRITTEN["gemma"]
    assert told == [f"the chat template leaves out {left_out}; {INSTEAD.format('gemma')}"]


def test_text_that_is_trimmed_or_escaped_is_not_left_out():
    told = []
    parts = [{"type": "text", "text": "e\\f"}]
    messages = [{"role": "system", "content": ' a "b"\n\tc é<d '}, {"role": "user", "content": parts}]
    source = "<start_of_turn>{{ messages[0].content|upper|tojson }}{{ messages[1].content|trim|tojson }}"
    assert made(source, told).render(messages).built_in is None
    assert made(source, told).render([{"role": "system", "content": ""}, {"role": "user", "content": "?!"}]).built_in is None
    assert told == []


def test_with_tools_or_nothing_recognised_the_error_stays():
    told = []
    with pytest.raises(FormatError, match="refuses these messages: no"):
        made("{{ raise_exception('no') }}", told).render(TALK)
    gemma = made("<start_of_turn>{{ raise_exception('no') }}", told)
    with pytest.raises(FormatError, match="refuses these messages: no"):
        gemma.render(TALK, tools=[{"function": {"name": "f"}}])
    with pytest.raises(FormatError, match="refuses these messages: no"):
        gemma.render([*TALK, {"role": "tool", "content": "x"}])
    assert made("<start_of_turn>", told).render(TALK, documents=[{"text": "x"}]).plain == "<start_of_turn>"
    assert made("nothing said", told).render(TALK).plain == "nothing said"
    assert told == []


def test_falling_back_is_a_python_warning_by_default():
    template = ChatTemplate("<start_of_turn>", bos_token="", eos_token="")
    with pytest.warns(UserWarning, match="leaves out the last question; the built-in format gemma"):
        template.render(TALK)


# -- recognised by the vocabulary


@pytest.mark.parametrize("sign", VOCABULARY_SIGNS, ids=lambda sign: sign.name)
def test_a_vocabulary_shows_its_format(sign):
    architecture = sign.architectures[0] if sign.architectures else "llama"
    told = []
    metadata = vocabulary(*sign.has, architecture=architecture)
    assert recognise_vocabulary(metadata)[0].name == sign.name
    rendered = from_metadata(metadata, bos_token="", eos_token="</s>", tell=told.append).render(TALK[:2])
    assert rendered.built_in == sign.name
    shown = f"its vocabulary has {sign.has[0]}, so the built-in format {sign.name} is used"
    assert told == [f"the model has no chat template; {shown}"]
    for missing in sign.has:                            # nothing certain: no other format is taken for it
        rest = recognise_vocabulary(vocabulary(*(set(sign.has) - {missing}), architecture=architecture))
        assert rest is None or (sign.name, rest[0].name) in {("phi4", "chatml"), ("smolvlm", "chatml")}
    if sign.architectures:
        assert recognise_vocabulary(vocabulary(*sign.has, architecture="other")) is None


@pytest.mark.parametrize(
    ("tokens", "model", "name"),
    [
        ((), "llama", "mistral-v3"), ((), "gpt2", "mistral-v3-tekken"),
        (("[SYSTEM_PROMPT]",), "llama", "mistral-v7"), (("[SYSTEM_PROMPT]",), "gpt2", "mistral-v7-tekken"),
    ],
)  # fmt: skip
def test_vocabularies_of_mistral(tokens, model, name):
    assert recognise_vocabulary(vocabulary("[INST]", "[/INST]", *tokens, model=model))[0].name == name


def test_a_vocabulary_that_shows_nothing_gets_chatml_with_a_warning():
    assert recognise_vocabulary({}) is None
    with pytest.warns(UserWarning, match="no chat template; using ChatML, which it may not know"):
        template = from_metadata(vocabulary("[INST]", "<|user|>"), bos_token="", eos_token="")
    assert template.render(TALK).plain == WRITTEN["chatml"]


def test_tools_without_a_template_are_told_to_be_left_out():
    told = []
    template = from_metadata(vocabulary("<start_of_turn>", "<end_of_turn>"), bos_token="", eos_token="", tell=told.append)
    assert template.render(TALK, tools=[{"function": {"name": "f"}}]).plain == WRITTEN["gemma"]
    assert told[1:] == ["the built-in format gemma has no place for tools or documents: they are left out"]


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama-bpe", "llama3"), ("phi-3", "phi3"), ("qwen2", "chatml"), ("llama-spm", None), ("deepseek-llm", None)],
)
def test_published_vocabularies(reference_dir, name, expected):
    async def metadata():
        source, header = await open_model(reference_dir / "vocab" / f"{name}.gguf")
        await source.close()
        return header.metadata

    found = recognise_vocabulary(asyncio.run(metadata()))
    assert (found and found[0].name) == expected


# -- messages stay text


def controls_of(name):
    """Every marker that the format writes, as the control tokens of a vocabulary."""
    return sorted(set(re.findall(r"<[|｜]?[^<>\n]+[|｜]?>|\[[^][\n]+\]", WRITTEN[name])) - {"<think>", "</think>"}) or ["</s>"]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30)
@given(data=st.data())
def test_messages_form_no_control_token_in_any_format(name, data):
    """Markers whole, and cut anywhere so that a message's end might be completed by what the format writes beside it."""
    controls = controls_of(name)
    whole = st.sampled_from(controls)
    cut = whole.flatmap(lambda c: st.integers(1, len(c)).flatmap(lambda i: st.sampled_from([c[:i], c[i:], c[:i] + c])))
    contents = st.lists(st.one_of(whole, cut, st.sampled_from(["", " ", "a", "\n"])), max_size=5).map("".join)
    attack = [{**message, "content": data.draw(contents)} for message in TALK]
    template = made(None, [], control_texts=controls, built_in=(FORMATS[name], controls[0]))
    honest = template.render([{**message, "content": "x"} for message in TALK]).text
    rendered = template.render(attack)
    for control in controls:
        assert rendered.text.count(control) == honest.count(control)
    assert rendered.plain == write(name, attack)
    assert rendered.built_in == name


@pytest.mark.parametrize("name", FORMATS)
def test_it_is_the_guard_that_keeps_them_out(name):
    """Without the marker the same message does forge a token: the test above can fail."""
    control = controls_of(name)[-1]
    attack = [{"role": "user", "content": control}]
    rendered = made(None, [], control_texts=[control], built_in=(FORMATS[name], control)).render(attack)
    assert rendered.plain.count(control) == rendered.text.count(control) + 1


def test_the_documentation_names_every_format():
    text = (Path(__file__).parent.parent / "docs" / "chat.md").read_text("utf-8")
    assert [name for name in FORMATS if f"`{name}`" not in text] == []

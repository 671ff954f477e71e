"""Built-in chat formats, for files whose template is missing or fails, and the signs by which a file's format is known.

A format is data: what stands before and after a message of each role. The markers are those that the families' models were
trained with; names are llama.cpp's, and so are most fingerprints (llama-chat.cpp). No format writes the token that begins a
text where the tokenizer adds it. Markers that are no control tokens of the vocabulary, `[INST]` of llama2 or `USER: ` of
vicuna, are plain text to the model, and can be written by anybody.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from wasmrt.errors import FormatError
from wasmrt.gguf.metadata import Metadata

LONGEST_LOOKED_AT = 256 * 1024                          # characters of a template; the sandbox accepts no more either
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Format:
    """turns: what stands before and after a message, by role; "*" is any other role, whose name stands for {role}.

    prompt: where the answer begins. start: before everything; {date} is today. without_system: follows it where the first
    message is no system message. merged: what stands around a system message inside the next user turn, in formats whose
    models know no system turn. stripped: roles whose messages lose white space at both ends. {eos} is the file's end token.
    answer_after: of an earlier answer only what follows this is written.
    """

    name: str
    turns: Mapping[str, tuple[str, str]]
    prompt: str
    start: str = ""
    without_system: str = ""
    merged: tuple[str, str] | None = None
    stripped: tuple[str, ...] = ()
    answer_after: str = ""

    def write(
        self,
        messages: Sequence[Mapping[str, Any]],
        protect: Callable[[str], str],
        *,
        add_generation_prompt: bool,
        eos_token: str,
        now: datetime,
    ) -> str:
        """The conversation as text. protect: makes a message's text one that forms no control token (ControlGuard).

        Raises FormatError for a message that has no place in the format: of another role, or of more than text.
        """

        def fixed(text: str, role: str = "") -> str:
            return text.replace("{eos}", eos_token or "</s>").replace("{date}", f"{now:%Y-%m-%d}").replace("{role}", role)

        pieces = [fixed(self.start)]
        if messages[0]["role"] not in ("system", "developer"):
            pieces.append(fixed(self.without_system))
        waiting = ""                                    # system messages, until the user turn that they belong to
        for i, message in enumerate(messages):
            role, text = self._read(message, i)
            text = protect(text)
            if role == "system" and self.merged is not None:
                waiting += self.merged[0] + text + self.merged[1]
                continue
            before, after = self.turns["user"]
            if waiting and role != "user":
                pieces += [fixed(before), waiting, fixed(after)]
                waiting = ""
            before, after = self.turns.get(role) or self.turns["*"]
            pieces += [fixed(before, role), waiting, text, fixed(after, role)]
            waiting = ""
        if waiting:
            before, after = self.turns["user"]
            pieces += [fixed(before), waiting, fixed(after)]
        if add_generation_prompt:
            pieces.append(fixed(self.prompt))
        return "".join(pieces)

    def _read(self, message: Mapping[str, Any], i: int) -> tuple[str, str]:
        """A message's role, one of the format's, and its text."""
        role, content = message["role"], message.get("content")
        if role == "developer" and "developer" not in self.turns:
            role = "system"
        if message.get("tool_calls"):
            raise FormatError(f"messages[{i}] calls tools, for which the built-in chat format {self.name} has no place")
        if role not in self.turns and not (role == "system" and self.merged) and "*" not in self.turns:
            known = f"the built-in chat format {self.name} has no place for it; use {', '.join(ROLES)}"
            raise FormatError(f"messages[{i}] is of the role {role[:80]!r}, and {known}")
        if isinstance(content, (list, tuple)):
            if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
                raise FormatError(f"messages[{i}] has parts that are no text; the built-in chat format {self.name} takes text")
            content = "\n".join(part["text"] for part in content)
        text = content or ""
        if role == "assistant" and self.answer_after:
            text = text.split(self.answer_after)[-1]
        return role, text.strip() if role in self.stripped else text


def _three(system: tuple[str, str], user: tuple[str, str], assistant: tuple[str, str]) -> Mapping[str, tuple[str, str]]:
    return MappingProxyType({"system": system, "user": user, "assistant": assistant})


def _two(user: tuple[str, str], assistant: tuple[str, str]) -> Mapping[str, tuple[str, str]]:
    return MappingProxyType({"user": user, "assistant": assistant})


def _any(before: str, after: str, **named: tuple[str, str]) -> Mapping[str, tuple[str, str]]:
    """Every role alike, but for those named."""
    return MappingProxyType({"*": (before, after), **dict.fromkeys(ROLES, (before, after)), **named})


def _words(before: str, after: str) -> Mapping[str, tuple[str, str]]:
    """The three roles alike and no other: between `<|` and `|>` another word could form any control token."""
    return MappingProxyType({role: (before.replace("{role}", role), after) for role in ROLES})


LLAMA2_SYSTEM = ("<<SYS>>\n", "\n<</SYS>>\n\n")


def _llama2(
    name: str, *, between: str = "", system: tuple[str, str] = LLAMA2_SYSTEM, stripped: tuple[str, ...] = ()
) -> Format:
    return Format(name, _two(("[INST] ", " [/INST]"), ("", "</s>" + between)), "", merged=system, stripped=stripped)


def _mistral(name: str, *, before: str, after: str, stripped: tuple[str, ...] = ()) -> Format:
    turns = _two((f"{before}[INST]{after}", f"{before}[/INST]"), (after, "</s>"))
    return Format(name, turns, "", merged=("", "\n\n"), stripped=stripped)


def _mistral7(name: str, space: str) -> Format:
    system = (f"[SYSTEM_PROMPT]{space}", "[/SYSTEM_PROMPT]")
    return Format(name, _three(system, (f"[INST]{space}", "[/INST]"), (space, "</s>")), "")


def _command_r() -> Format:
    turn, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    turns = _three((turn + "<|SYSTEM_TOKEN|>", end), (turn + "<|USER_TOKEN|>", end), (turn + "<|CHATBOT_TOKEN|>", end))
    return Format("command-r", turns, turn + "<|CHATBOT_TOKEN|>", stripped=ROLES)


def _harmony() -> Format:
    """gpt-oss. What others call a system message is the developer's; the system's own states the channels."""
    start = (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
        "Current date: {date}\n\nReasoning: medium\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
    )
    system = ("<|start|>developer<|message|># Instructions\n\n", "\n\n<|end|>")
    assistant = ("<|start|>assistant<|channel|>final<|message|>", "<|end|>")
    turns = _three(system, ("<|start|>user<|message|>", "<|end|>"), assistant)
    return Format("gpt-oss", turns, "<|start|>assistant", start=start)


def _kimi() -> Format:
    end = "<|im_end|>"
    turns = {"system": ("<|im_system|>system<|im_middle|>", end), "tool": ("<|im_system|>tool<|im_middle|>", end)}
    turns |= {role: (f"<|im_{role}|>{role}<|im_middle|>", end) for role in ("user", "assistant")}
    return Format("kimi-k2", MappingProxyType(turns), "<|im_assistant|>assistant<|im_middle|>")


def _exaone4() -> Format:
    """Answers without reasoning, as the published template writes them by default: an empty one goes before each."""
    end, answer = "[|endofturn|]\n", "[|assistant|]\n<think>\n\n</think>\n\n"
    turns = _three(("[|system|]\n", end), ("[|user|]\n", end), (answer, end))
    return Format("exaone4", turns, answer, stripped=("assistant",), answer_after="</think>")


FORMATS: Mapping[str, Format] = MappingProxyType({f.name: f for f in (
    Format("chatml", _any("<|im_start|>{role}\n", "<|im_end|>\n"), "<|im_start|>assistant\n"),
    Format("phi4", _any("<|im_start|>{role}<|im_sep|>", "<|im_end|>"), "<|im_start|>assistant<|im_sep|>"),
    Format("smolvlm", _three(("", "\n\n"), ("User: ", "<end_of_utterance>\n"), ("Assistant: ", "<end_of_utterance>\n")),
           "Assistant:", start="<|im_start|>"),
    _kimi(),
    _llama2("llama2", system=("", "\n")),
    _llama2("llama2-sys"),
    _llama2("llama2-sys-bos", between="<s>"),
    _llama2("llama2-sys-strip", stripped=ROLES),
    _mistral("mistral-v1", before=" ", after=" "),
    _mistral("mistral-v3", before="", after=" ", stripped=("assistant",)),
    _mistral("mistral-v3-tekken", before="", after=""),
    _mistral7("mistral-v7", " "),
    _mistral7("mistral-v7-tekken", ""),
    _harmony(),
    Format("phi3", _words("<|{role}|>\n", "<|end|>\n"), "<|assistant|>\n"),
    Format("zephyr", _words("<|{role}|>\n", "{eos}\n"), "<|assistant|>\n"),
    Format("falcon3", _three(("<|system|>\n", "\n"), ("<|user|>\n", "\n"), ("<|assistant|>\n", "{eos}\n")), "<|assistant|>\n"),
    Format("chatglm3", _words("<|{role}|>\n ", ""), "<|assistant|>", start="[gMASK]sop"),
    Format("chatglm4", _words("<|{role}|>\n", ""), "<|assistant|>\n", start="[gMASK]<sop>"),
    Format("glmedge", _words("<|{role}|>\n", ""), "<|assistant|>"),
    Format("monarch", _any("<s>{role}\n", "</s>\n"), "<s>assistant\n"),
    Format("gemma", _two(("<start_of_turn>user\n", "<end_of_turn>\n"), ("<start_of_turn>model\n", "<end_of_turn>\n")),
           "<start_of_turn>model\n", merged=("", "\n\n"), stripped=ROLES),
    Format("gemma4", _any("<|turn>{role}\n", "<turn|>\n", assistant=("<|turn>model\n", "<turn|>\n")), "<|turn>model\n",
           stripped=ROLES),
    Format("orion", _two(("Human: ", "\n\nAssistant: </s>"), ("", "</s>")), "", merged=("", "\n\n")),
    Format("openchat", _three(("", "<|end_of_turn|>"), ("GPT4 Correct User: ", "<|end_of_turn|>"),
                              ("GPT4 Correct Assistant: ", "<|end_of_turn|>")), "GPT4 Correct Assistant:"),
    Format("vicuna", _three(("", "\n\n"), ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n")), "ASSISTANT:"),
    Format("vicuna-orca", _three(("SYSTEM: ", "\n"), ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n")), "ASSISTANT:"),
    Format("deepseek", _three(("", ""), ("### Instruction:\n", "\n"), ("### Response:\n", "\n<|EOT|>\n")), "### Response:\n"),
    Format("deepseek2", _three(("", "\n\n"), ("User: ", "\n\n"), ("Assistant: ", "<｜end▁of▁sentence｜>")), "Assistant:"),
    Format("deepseek3", _three(("", ""), ("<｜User｜>", ""), ("<｜Assistant｜>", "<｜end▁of▁sentence｜>")), "<｜Assistant｜>",
           answer_after="</think>"),
    _command_r(),
    Format("llama3", _any("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
           "<|start_header_id|>assistant<|end_header_id|>\n\n", stripped=ROLES),
    Format("llama4", _any("<|header_start|>{role}<|header_end|>\n\n", "<|eot|>"),
           "<|header_start|>assistant<|header_end|>\n\n", stripped=ROLES),
    Format("minicpm", _three(("", ""), ("<用户>", "<AI>"), ("", "")), "", stripped=ROLES),
    Format("exaone3", _three(("[|system|]", "[|endofturn|]\n"), ("[|user|]", "\n"), ("[|assistant|]", "[|endofturn|]\n")),
           "[|assistant|]", without_system="[|system|][|endofturn|]\n"),
    _exaone4(),
    Format("rwkv-world", _three(("System: ", "\n\n"), ("User: ", "\n\n"), ("Assistant: ", "\n\n")), "Assistant:",
           stripped=ROLES),
    Format("granite", _any("<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n"),
           "<|start_of_role|>assistant<|end_of_role|>"),
    Format("gigachat", _three(("", "<|message_sep|>"),
                              ("user<|role_sep|>", "<|message_sep|>available functions<|role_sep|>[]<|message_sep|>"),
                              ("assistant<|role_sep|>", "<|message_sep|>")), "assistant<|role_sep|>", start="<s>"),
    Format("megrez", _any("<|role_start|>{role}<|role_end|>", "<|turn_end|>"), "<|role_start|>assistant<|role_end|>"),
    Format("yandex", _two((" Пользователь: ", "\n\n"), (" Ассистент: ", "\n\n")), " Ассистент:[SEP]", start="<s>",
           merged=("", "\n")),
    Format("bailing", _three(("<role>SYSTEM</role>", ""), ("<role>HUMAN</role>", ""), ("<role>ASSISTANT</role>", "")),
           "<role>ASSISTANT</role>"),
    Format("dots1", _three(("<|system|>", "<|endofsystem|>"), ("<|userprompt|>", "<|endofuserprompt|>"),
                           ("<|response|>", "<|endofresponse|>")), "<|response|>"),
    Format("hunyuan-dense", _three(("", "<｜hy_place▁holder▁no▁3｜>"), ("<｜hy_User｜>", "<｜hy_Assistant｜>"),
                                   ("", "<｜hy_place▁holder▁no▁2｜>")), ""),
    Format("seed_oss", _any("<seed:bos>{role}\n", "<seed:eos>"), "<seed:bos>assistant\n", stripped=("assistant",)),
)})  # fmt: skip


@dataclass(frozen=True)
class Sign:
    """A format is meant where all of `has` occur and none of `lacks`; `pattern` too, and an architecture, where there are."""

    name: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    pattern: str = ""
    architectures: tuple[str, ...] = field(default=())


# In a template's text; the first that fits. Formats of the same markers stand from the narrower to the wider.
TEMPLATE_SIGNS = (
    Sign("phi4", ("<|im_start|>", "<|im_sep|>")),
    Sign("smolvlm", ("<|im_start|>", "<end_of_utterance>")),
    Sign("chatml", ("<|im_start|>",)),
    Sign("kimi-k2", ("<|im_assistant|>", "<|im_middle|>")),
    Sign("mistral-v7", ("[INST]", "[SYSTEM_PROMPT] ")),
    Sign("mistral-v7-tekken", ("[INST]", "[SYSTEM_PROMPT]")),
    Sign("mistral-v1", ("' [INST] ' + system_message",)),
    Sign("mistral-v1", ("[AVAILABLE_TOOLS]", " [INST]")),
    Sign("mistral-v3-tekken", ("[AVAILABLE_TOOLS]", '"[INST]"')),
    Sign("mistral-v3", ("[AVAILABLE_TOOLS]", "[INST]")),
    Sign("llama2-sys-strip", ("[INST]", "[/INST]", "content.strip()")),
    Sign("llama2-sys-bos", ("[INST]", "[/INST]", "bos_token + '[INST]")),
    Sign("llama2-sys", ("[INST]", "[/INST]", "<<SYS>>")),
    Sign("llama2", ("[INST]", "[/INST]")),
    Sign("gpt-oss", ("<|start|>", "<|channel|>", "<|message|>")),
    Sign("phi3", ("<|assistant|>", "<|end|>")),
    Sign("chatglm4", ("[gMASK]<sop>",)),
    # The end token stands behind the user's message too: falcon3 has it behind answers only, glmedge nowhere.
    Sign("zephyr", ("<|user|>", "<|assistant|>"), pattern=r"<\|user\|>[^}]{0,80}(eos_token|<\|endoftext\|>|</s>)"),
    Sign("falcon3", ("<|user|>", "<|assistant|>", "eos_token")),
    Sign("falcon3", ("<|user|>", "<|assistant|>", "</s>")),
    Sign("glmedge", ("<|user|>", "<|assistant|>")),
    Sign("zephyr", ("<|user|>", "<|endoftext|>")),
    Sign("monarch", ("bos_token + message['role']",)),
    Sign("gemma4", ("<|turn>", "<turn|>")),
    Sign("gemma", ("<start_of_turn>",)),
    Sign("orion", ("'\\n\\nAssistant: ' + eos_token",)),
    Sign("openchat", ("GPT4 Correct ",)),
    Sign("vicuna-orca", ("USER: ", "ASSISTANT: ", "SYSTEM: ")),
    Sign("vicuna", ("USER: ", "ASSISTANT: ")),
    Sign("deepseek", ("### Instruction:", "<|EOT|>")),
    Sign("command-r", ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>")),
    Sign("llama3", ("<|start_header_id|>", "<|end_header_id|>")),
    Sign("chatglm3", ("[gMASK]sop",)),
    Sign("minicpm", ("<用户>",)),
    Sign("deepseek2", ("'Assistant: ' + message['content'] + eos_token",)),
    Sign("deepseek3", ("<｜User｜>", "<｜Assistant｜>")),
    Sign("exaone4", ("[|system|]", "[|assistant|]", "[|endofturn|]", "[|tool|]")),
    Sign("exaone3", ("[|system|]", "[|assistant|]", "[|endofturn|]")),
    Sign("rwkv-world", ("'User: ' + message['content']|trim + '\\n\\n'",)),
    Sign("granite", ("<|start_of_role|>",)),
    Sign("gigachat", ("additional_special_tokens[0] + message['content'] + additional_special_tokens[1]",)),
    Sign("megrez", ("<|role_start|>",)),
    Sign("yandex", (" Ассистент:",)),
    Sign("bailing", ("<role>ASSISTANT</role>", "'HUMAN'")),
    Sign("llama4", ("<|header_start|>", "<|header_end|>")),
    Sign("dots1", ("<|endofuserprompt|>",)),
    Sign("hunyuan-dense", ("<｜hy_place▁holder▁no▁2｜>", "<｜hy_place▁holder▁no▁3｜>")),
    Sign("seed_oss", ("<seed:bos>",)),
)

# Among a vocabulary's tokens. Models are tuned for ChatML on the vocabularies of Llama 3 and Gemma, never the other way round.
VOCABULARY_SIGNS = (
    Sign("phi4", ("<|im_start|>", "<|im_sep|>", "<|im_end|>")),
    Sign("smolvlm", ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>")),
    Sign("chatml", ("<|im_start|>", "<|im_end|>"), lacks=("<|im_middle|>", "<end_of_utterance>")),
    Sign("kimi-k2", ("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>")),
    Sign("gpt-oss", ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")),
    Sign("llama4", ("<|header_start|>", "<|header_end|>", "<|eot|>")),
    Sign("llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    Sign("gemma", ("<start_of_turn>", "<end_of_turn>")),
    Sign("gemma4", ("<|turn>", "<turn|>")),
    Sign("command-r", ("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
                       "<|END_OF_TURN_TOKEN|>"), lacks=("<|START_RESPONSE|>",)),
    Sign("deepseek3", ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")),
    Sign("granite", ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")),
    Sign("phi3", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), architectures=("phi3", "phimoe")),
    Sign("chatglm4", ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"), architectures=("chatglm", "glm4")),
    Sign("exaone3", ("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"), architectures=("exaone",)),
    Sign("exaone4", ("[|system|]", "[|user|]", "[|assistant|]", "[|tool|]", "[|endofturn|]"), architectures=("exaone4",)),
    Sign("minicpm", ("<用户>", "<AI>"), architectures=("minicpm",)),
    Sign("megrez", ("<|role_start|>", "<|role_end|>", "<|turn_end|>")),
    Sign("dots1", ("<|userprompt|>", "<|endofuserprompt|>", "<|response|>", "<|endofresponse|>")),
    Sign("hunyuan-dense", ("<｜hy_User｜>", "<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁2｜>", "<｜hy_place▁holder▁no▁3｜>")),
    Sign("seed_oss", ("<seed:bos>", "<seed:eos>")),
)  # fmt: skip
# Mistral's: the older vocabularies are SentencePiece, and their format has spaces; those of the newer ones (tekken) are BPE.
MISTRAL_TOKENS = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]")


def recognise_template(source: str) -> Format | None:
    """The format that a template is written for, by its text; a text that is a format's name, as some files have, is it."""
    if source.strip() in FORMATS:
        return FORMATS[source.strip()]
    text = source[:LONGEST_LOOKED_AT]
    for sign in TEMPLATE_SIGNS:
        if (
            all(word in text for word in sign.has)
            and not any(word in text for word in sign.lacks)
            and (not sign.pattern or re.search(sign.pattern, text))
        ):
            return FORMATS[sign.name]
    return None


def recognise_vocabulary(metadata: Mapping[str, Any]) -> tuple[Format, str] | None:
    """The format whose markers are tokens of the vocabulary, and one of these; None where no sign is certain."""
    m = metadata if isinstance(metadata, Metadata) else Metadata(metadata)
    found = tokens_among(m, [*MISTRAL_TOKENS, *(word for sign in VOCABULARY_SIGNS for word in (*sign.has, *sign.lacks))])
    architecture = m.string("general.architecture", "")
    for sign in VOCABULARY_SIGNS:
        named = not sign.architectures or architecture in sign.architectures
        if named and found.issuperset(sign.has) and found.isdisjoint(sign.lacks):
            return FORMATS[sign.name], sign.has[0]
    if found.issuperset(MISTRAL_TOKENS[:2]):
        version = "mistral-v7" if MISTRAL_TOKENS[2] in found else "mistral-v3"
        return FORMATS[version if m.string("tokenizer.ggml.model", "") == "llama" else version + "-tekken"], MISTRAL_TOKENS[0]
    return None


def tokens_among(metadata: Mapping[str, Any], words: Iterable[str]) -> set[str]:
    """Those of the words that are tokens of the vocabulary."""
    m = metadata if isinstance(metadata, Metadata) else Metadata(metadata)
    return set(words).intersection(m.strings("tokenizer.ggml.tokens", ()))

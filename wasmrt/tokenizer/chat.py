"""A file's chat template: messages -> the text that a model was trained to answer.

The template and the messages are both untrusted. What the template may do and cost is bounded in sandbox/. What the messages
say stays text: in every string of the caller that could form a control token's text (`<|im_end|>`), alone or together with
what the template puts beside it, a marker is inserted, a Unicode noncharacter that occurs nowhere else. The tokenizer matches
control tokens first and drops the marker afterwards, so the text is tokenized as if it were not there.
"""

import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from types import CodeType
from typing import Any

from wasmrt.errors import FormatError
from wasmrt.tokenizer.sandbox import MAX_NESTING, Limits, compile_template, render_template

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))        # noncharacters, for a program's own use (Unicode 16, section 23.7)
LONGEST_JOINT = 256                                     # characters of a control text that may be split between two strings


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation. `text` may hold `marker`, which is to be dropped after control tokens have been matched."""

    text: str
    marker: str

    @property
    def plain(self) -> str:
        """The text as it is meant to be read, with no marker; tokenizing this would trust the messages."""
        return self.text.replace(self.marker, "")


class ChatTemplate:
    """A template, compiled when it is first rendered; without a source, ChatML with a warning.

    control_texts: the texts of the vocabulary's control tokens, which messages must not be able to form. now: the clock of
    `strftime_now`. Renderings share nothing, so one template may serve several threads.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str,
        eos_token: str,
        control_texts: Sequence[str] = (),
        now: Callable[[], datetime] = datetime.now,
    ):
        if not source:
            warnings.warn("the model has no chat template; using ChatML, which it may not know", stacklevel=2)
        self.source = source or CHATML
        self.bos_token = bos_token
        self.eos_token = eos_token
        self._guard = ControlGuard(control_texts)
        self._now = now
        self._code: CodeType | None = None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool | None = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> Rendered:
        """The conversation as text for the model to go on from.

        messages: dicts with a str "role"; "content" is a str, None, or a list of parts such as {"type": "text", "text": ...}.
        add_generation_prompt: whether the answer's opening follows; None leaves it undefined, for the template to choose.
        variables: whatever else the template reads, e.g. enable_thinking. Nothing that is passed in is changed.
        Raises ValueError for messages that are not such a list, and FormatError, one line, when the template cannot be
        compiled, fails, costs too much or refuses the messages.
        """
        self._check(messages)
        given = {"messages": self._typed(messages), "tools": tools, "documents": documents, **variables}
        marker = _unused_marker(self.source, self.bos_token, self.eos_token, *_strings(given))
        copier = _Copier(self._guard, marker)
        inputs = {name: copier.copy(value, name) for name, value in given.items()}
        inputs |= {"bos_token": self.bos_token, "eos_token": self.eos_token}
        if add_generation_prompt is not None:
            inputs["add_generation_prompt"] = add_generation_prompt
        if self._code is None:
            self._code = compile_template(self.source)
        problem = ""
        try:
            text = render_template(self._code, inputs, Limits.for_input(copier.n_bytes, copier.n_items), self._now)
        except FormatError as e:
            problem = str(e).replace(marker, "")
        if problem:
            raise FormatError(problem)
        return Rendered(text, marker)

    def _check(self, messages: Sequence[Mapping[str, Any]]) -> None:
        if not isinstance(messages, (list, tuple)) or not messages:
            raise ValueError("messages: expected a non-empty list of dicts with a role")
        for i, message in enumerate(messages):
            role = message.get("role") if isinstance(message, Mapping) else None
            if not isinstance(role, str):
                found = f"{type(message).__name__} with role {role!r}"
                raise ValueError(f"messages[{i}]: expected a dict with a str 'role', found {found[:200]}")
            if self._guard.occurs(role) or any(marker in role for marker in MARKERS):
                raise ValueError(f"messages[{i}]: the role {role[:80]!r} holds a control token; use a plain word")
            if not isinstance(message.get("content"), (str, list, tuple, type(None))):
                found = type(message["content"]).__name__
                raise ValueError(f"messages[{i}]: 'content' is {found}, expected a str, None or a list of parts")

    def _typed(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Messages with lists of text parts joined to one string, for a template that never looks at the text of a part."""
        if re.search(r"""['"]text['"]|\.text\b""", self.source):
            return messages
        return [{**m, "content": _joined(m["content"])} if "content" in m else m for m in messages]


def from_metadata(
    metadata: Mapping[str, Any], *, bos_token: str, eos_token: str, control_texts: Sequence[str] = (), tools: bool = False
) -> ChatTemplate:
    """The template that GGUF metadata holds: with tools the one named tool_use, where the file has it; else the default."""
    source = metadata.get("tokenizer.chat_template")
    if tools:
        source = metadata.get("tokenizer.chat_template.tool_use", source)
    if source is not None and not isinstance(source, str):
        raise FormatError(f"tokenizer.chat_template is {type(source).__name__}, expected a string; the file may be malformed")
    return ChatTemplate(source, bos_token=bos_token, eos_token=eos_token, control_texts=control_texts)


class ControlGuard:
    """Finds and breaks control-token texts in strings.

    Not covered, because only the template's author can mean it: a template that writes a control token around a whole string
    ('<|' + x + '|>'). Roles are used so, and are therefore the caller's to vouch for.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = frozenset(filter(None, texts))
        # Thousands of texts may begin alike (`<unused0>`), so candidates are found by two characters, then looked up by length.
        self.lengths: dict[str, list[int]] = {}
        for start, length in sorted({(text[:2], len(text)) for text in self.texts}):
            self.lengths.setdefault(start, []).append(length)
        self.starts = re.compile("(?=(" + "|".join(map(re.escape, self.lengths)) + "))", re.DOTALL) if self.texts else None
        self.ordered = sorted(self.texts)
        self.reversed = sorted(text[::-1] for text in self.texts)
        self.longest = min(max(map(len, self.texts), default=0), LONGEST_JOINT)

    def occurrences(self, text: str) -> Iterator[int]:
        """Where control texts start in `text`, overlapping ones too."""
        if self.starts is not None:
            for match in self.starts.finditer(text):
                i = match.start()
                if any(text[i : i + n] in self.texts for n in self.lengths[match[1]]):
                    yield i

    def occurs(self, text: str) -> bool:
        return any(True for _ in self.occurrences(text))

    def protect(self, text: str, marker: str) -> str:
        """`text` with markers such that no control text matches in it, nor across either of its ends."""
        cuts = {i + 1 for i in self.occurrences(text)}
        longest = min(self.longest - 1, len(text))
        cuts |= {len(text) - n + 1 for n in range(1, longest + 1) if _begins_one(self.ordered, text[len(text) - n :])}
        if any(_begins_one(self.reversed, text[:n][::-1]) for n in range(1, longest + 1)):
            cuts.add(0)
        if not cuts:
            return text
        edges = [0, *sorted(cuts), len(text)]
        return marker.join(text[a:b] for a, b in pairwise(edges))


def _begins_one(ordered: Sequence[str], text: str) -> bool:
    """Whether one of the sorted texts begins with `text` and goes on."""
    i = bisect_left(ordered, text + "\0")
    return i < len(ordered) and ordered[i].startswith(text)


class _Copier:
    """Copies what the caller passes in, protecting its strings, and counts what there is of it."""

    def __init__(self, guard: ControlGuard, marker: str) -> None:
        self.guard, self.marker = guard, marker
        self.n_bytes = 0                                # of text
        self.n_items = 0

    def copy(self, value: Any, where: str, depth: int = 0) -> Any:
        self.n_items += 1
        if isinstance(value, str):
            self.n_bytes += value.__sizeof__()
            return self.guard.protect(str(value), self.marker)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if depth == MAX_NESTING - 1:
            raise ValueError(f"{where}: nested more than {depth} deep")
        if isinstance(value, Mapping):
            # A role is compared and looked up by templates, and was checked to hold no control text.
            is_message = where.startswith("messages[") and depth == 1
            return {
                self.copy(key, where, depth + 1): (
                    str(item) if is_message and key == "role" else self.copy(item, where, depth + 1)
                )
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.copy(item, f"{where}[{i}]" if depth == 0 else where, depth + 1) for i, item in enumerate(value)]
        raise ValueError(f"{where}: a {type(value).__name__} cannot be passed to a template; use str, numbers, lists and dicts")


def _joined(content: Any) -> Any:
    """Text parts as one string, a line each; anything else as it is."""
    if isinstance(content, (list, tuple)) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        return "\n".join(part["text"] for part in content)
    return content


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)) and depth <= MAX_NESTING:
        for part in value:
            yield from _strings(part, depth + 1)
            if isinstance(value, Mapping):
                yield from _strings(value[part], depth + 1)


def _unused_marker(*texts: str) -> str:
    used = {found for text in texts for found in re.findall(f"[{MARKERS[0]}-{MARKERS[-1]}]", text)}
    for marker in MARKERS:
        if marker not in used:
            return marker
    raise ValueError("messages: they hold all 32 noncharacters from U+FDD0 to U+FDEF; remove one of them")

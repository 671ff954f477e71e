"""A file's chat template: messages -> the text that a model was trained to answer.

Where the file has none, or one that fails, the built-in format of its family stands in (families.py), and this is told. The
template and the messages are both untrusted. What the template may do and cost is bounded in sandbox/. What the messages
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
from wasmrt.tokenizer.families import Format, recognise_template, recognise_vocabulary
from wasmrt.tokenizer.sandbox import MAX_NESTING, Limits, compile_template, render_template

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # noncharacters, for a program's own use (Unicode 16, section 23.7)
LONGEST_JOINT = 256  # characters of a control text that may be split between two strings


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation. `text` may hold `marker`, which is to be dropped after control tokens have been matched.

    built_in: the name of the built-in format that wrote it, None for the template.
    """

    text: str
    marker: str
    built_in: str | None = None

    @property
    def plain(self) -> str:
        """The text as it is meant to be read, with no marker; tokenizing this would trust the messages."""
        return self.text.replace(self.marker, "")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


class ChatTemplate:
    """A template, compiled when it is first rendered; without a source, `built_in`, else ChatML, with a warning.

    control_texts: the texts of the vocabulary's control tokens, which messages must not be able to form. built_in: the format
    that the vocabulary shows, and the token that shows it. now: the clock of `strftime_now`. tell: takes what the user should
    know, one line at a time and each line once; a Python warning by default. Renderings share nothing else, so one template may
    serve several threads.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str,
        eos_token: str,
        control_texts: Sequence[str] = (),
        built_in: tuple[Format, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
        tell: Callable[[str], None] = _warn,
    ):
        self._tell, self._told = tell, set[str]()
        self._format: Format | None = None  # instead of a template
        if not source and built_in is not None:
            self._format, token = built_in
            self._say(f"the model has no chat template; its vocabulary has {token}, so the built-in format"
                      f" {self._format.name} is used")  # fmt: skip
        elif not source:
            self._say("the model has no chat template; using ChatML, which it may not know")
        self.source = source or CHATML
        self._reads_parts = re.search(r"""['"]text['"]|\.text\b""", self.source) is not None
        self.bos_token = bos_token
        self.eos_token = eos_token
        self._guard = ControlGuard(control_texts)
        self._now = now
        self._code: CodeType | None = None
        # What a failing template is replaced by: known by its own text alone, for a model may be tuned for another format than
        # its vocabulary was made for.
        self._family = recognise_template(source) if source else None

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

        A template that cannot be compiled, fails, costs too much, refuses the messages, or leaves out the system message or the
        last question, gives way to the built-in format of its family, which is told. Where its text shows no family, or tools
        or documents are passed, which no built-in format has a place for, it raises FormatError, one line, or what it wrote is
        returned. Raises ValueError for messages that are not such a list.
        """
        self._check(messages)
        if self._format is not None:
            if tools or documents:
                self._say(f"the built-in format {self._format.name} has no place for tools or documents: they are left out")
            return self._written(self._format, messages, add_generation_prompt)
        rendered, problem = None, ""
        for form in self._forms(messages):
            try:
                attempt = self._rendered(form, add_generation_prompt, tools=tools, documents=documents, **variables)
            except FormatError as e:
                problem = problem or str(e)
                break
            left_out = self._left_out(messages, attempt.text) if self._family or self._reads_parts else ""
            if not left_out:
                return attempt
            rendered, problem = rendered or attempt, f"the chat template leaves out {left_out}"
        if self._family is not None and not tools and not documents:
            try:
                written = self._written(self._family, messages, add_generation_prompt)
            except FormatError:  # no place for these messages: the template's own error says more
                written = None
            if written is not None:
                self._say(f"{problem}; the built-in format {self._family.name}, recognised by its text, is used instead")
                return written
        if rendered is None:
            raise FormatError(problem)
        return rendered

    def _rendered(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool | None, **variables: Any
    ) -> Rendered:
        given = {"messages": messages, **variables}
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

    def _written(self, format: Format, messages: Sequence[Mapping[str, Any]], prompt: bool | None) -> Rendered:
        """The conversation in a built-in format; messages are kept from forming control tokens as in a template."""
        marker = _unused_marker(self.eos_token, *_strings(messages))
        text = format.write(
            messages,
            lambda content: self._guard.protect(content, marker),
            add_generation_prompt=bool(prompt),
            eos_token=self.eos_token,
            now=self._now(),
        )
        return Rendered(text, marker, format.name)

    def _left_out(self, messages: Sequence[Mapping[str, Any]], text: str) -> str:
        """Which of the messages that no template should drop is not in the text: "the system message", or ""."""
        last = next((m for m in reversed(messages) if m["role"] == "user"), None)
        wanted = [("the last question", last)] if last else []
        wanted += [("the system message", m) for m in messages[:1] if m["role"] == "system"]
        letters = _letters(text)
        for name, message in wanted:
            content = _joined(message.get("content"))
            if isinstance(content, str) and _letters(max(content.splitlines(), key=len, default="")) not in letters:
                return name
        return ""

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

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

    def _forms(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
        """The messages as the template may expect them: contents as given, and as parts where it knows nothing else.

        Lists of text parts are joined to one string for a template that never looks at the text of a part.
        """
        if not self._reads_parts:
            yield [{**m, "content": _joined(m["content"])} if "content" in m else m for m in messages]
            return
        yield messages
        if any(isinstance(m.get("content"), str) for m in messages):
            yield [{**m, "content": _parts(m["content"])} if "content" in m else m for m in messages]


def from_metadata(
    metadata: Mapping[str, Any],
    *,
    bos_token: str,
    eos_token: str,
    control_texts: Sequence[str] = (),
    tools: bool = False,
    tell: Callable[[str], None] = _warn,
) -> ChatTemplate:
    """The template that GGUF metadata holds: with tools the one named tool_use, where the file has it; else the default.

    A file without one gets the built-in format whose markers are in its vocabulary. tell: as in ChatTemplate.
    """
    source = metadata.get("tokenizer.chat_template")
    if tools:
        source = metadata.get("tokenizer.chat_template.tool_use", source)
    if source is not None and not isinstance(source, str):
        raise FormatError(f"tokenizer.chat_template is {type(source).__name__}, expected a string; the file may be malformed")
    built_in = None if source else recognise_vocabulary(metadata)
    return ChatTemplate(
        source, bos_token=bos_token, eos_token=eos_token, control_texts=control_texts, built_in=built_in, tell=tell
    )


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
        self.n_bytes = 0  # of text
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


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _letters(text: str) -> str:
    """Letters and digits alone, which trimming, escapes and changes of case leave as they are."""
    return re.sub(r"[\W_]+", "", text.casefold())


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

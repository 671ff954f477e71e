"""Text whose spaces are U+2581, and the words in it that no token reaches beyond."""

import re
from collections.abc import Iterable
from functools import cached_property

SPACE = "\u2581"
WORD = re.compile(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+")


class SpacedWords:
    """texts: what text may become. Cutting at spaces is exact: words whose seam some token covers are left in one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts

    @cached_property
    def _joints(self) -> set[str]:
        """Characters that some token has before a space. After any other one a space starts a word of its own."""
        return {found[0] for text in self._texts for found in re.findall(f"([^{SPACE}]){SPACE}", text)}

    def cut(self, text: str) -> list[str]:
        words = WORD.findall(text)
        if not self._joints:
            return words
        groups: list[list[str]] = []
        for word in words:
            if groups and groups[-1][-1][-1] in self._joints:
                groups[-1].append(word)
            else:
                groups.append([word])
        return ["".join(group) for group in groups]

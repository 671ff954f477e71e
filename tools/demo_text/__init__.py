"""The text that the demo model learns from: made up here from a seed, document by document."""

import random

from tools.demo_text.chats import chat
from tools.demo_text.stories import story

BOS, END, USER, ASSISTANT, SYSTEM = "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL_TOKENS = [BOS, END, USER, ASSISTANT, SYSTEM]
STORY_SHARE = 0.5  # the other documents are chats
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(messages: list[dict[str, str]]) -> str:
    """What CHAT_TEMPLATE makes of a finished conversation."""
    return BOS + "".join(f"<|{message['role']}|>{message['content']}{END}" for message in messages)


def document(seed: int, index: int) -> str:
    """Training document number `index`, special tokens included. The same for every run and platform."""
    rng = random.Random(f"wasmrt {seed} {index}")
    if rng.random() < STORY_SHARE:
        return BOS + story(rng) + END
    return render(chat(rng))

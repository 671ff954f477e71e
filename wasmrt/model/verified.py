"""Which architectures were held against outside truth: their logits against llama.cpp's, recorded for small random models.

tests/test_support.py fails if a name stands here without such a model in the tests, or is missing although there is one.
"""

VERIFIED = frozenset((
    "cohere2", "command-r", "deepseek2", "exaone4", "falcon", "falcon-h1", "gemma", "gemma2", "gemma3", "glm4", "gpt-oss",
    "gpt2", "gptneox", "granite", "granitehybrid", "hunyuan-dense", "internlm2", "jamba", "lfm2", "lfm2moe", "llama", "llama4",
    "mamba", "mamba2", "minicpm", "mistral3", "nemotron_h", "nemotron_h_moe", "olmo2", "phi2", "phi3", "plamo2", "qwen2",
    "qwen2moe", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next", "seed_oss", "smollm3", "stablelm", "starcoder2",
))  # fmt: skip


def notes(architecture: str) -> tuple[str, ...]:
    """What whoever opens a model should know of its architecture, if there is something."""
    if architecture in VERIFIED:
        return ()
    return (f"what wasmrt computes for architecture {architecture!r} has not been compared with another program's logits yet",)

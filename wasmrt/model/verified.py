"""Which architectures were held against outside truth: their logits against llama.cpp's, recorded for small random models.

tests/test_support.py fails if a name stands here without such a model in the tests, or is missing although there is one.
"""

VERIFIED = frozenset((
    "apertus", "arcee", "arctic", "baichuan", "bailingmoe", "bailingmoe2", "bloom", "chatglm", "codeshell", "cohere2",
    "command-r", "dbrx", "deci", "deepseek", "deepseek2", "dots1", "ernie4_5", "ernie4_5-moe", "exaone", "exaone-moe",
    "exaone4", "falcon", "falcon-h1", "gemma", "gemma2", "gemma3", "gemma4", "glm4", "glm4moe", "gpt-oss", "gpt2", "gptneox",
    "granite", "granitehybrid", "granitemoe", "hunyuan-dense", "hunyuan-moe", "internlm2", "jais", "jais2", "jamba", "lfm2",
    "lfm2moe", "llama", "llama4", "maincoder", "mamba", "mamba2", "minicpm", "minimax-m2", "mistral3", "mistral4", "mpt",
    "nemotron", "nemotron_h", "nemotron_h_moe", "olmo", "olmo2", "olmoe", "openelm", "orion", "pangu-embedded", "phi2",
    "phi3", "phimoe", "plamo", "plamo2", "qwen", "qwen2", "qwen2moe", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next",
    "qwen3vl", "qwen3vlmoe", "refact", "seed_oss", "smollm3", "stablelm", "starcoder", "starcoder2", "xverse",
))  # fmt: skip


def notes(architecture: str) -> tuple[str, ...]:
    """What whoever opens a model should know of its architecture, if there is something."""
    if architecture in VERIFIED:
        return ()
    return (f"what wasmrt computes for architecture {architecture!r} has not been compared with another program's logits yet",)

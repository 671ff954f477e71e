"""Records rotary frequencies of the `transformers` library as truth for tests: tests/data/rope_yarn.json.

    python -m venv VENV && VENV/bin/pip install transformers torch
    VENV/bin/python tools/record_rope.py

For each case: what the model's config.json says, the inverse frequency of each rotated pair (float32) and the factor on sine
and cosine. "llama3" cases also hold the factors that GGUF files keep as the tensor rope_freqs: unscaled over scaled frequency.
"""

import importlib
import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "tests" / "data" / "rope_yarn.json"

YARN = {"rope_type": "yarn"}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
BETAS = {"beta_fast": 8.0, "beta_slow": 2.0}
CASES: dict[str, dict[str, Any]] = {
    "yarn, ramp inside": {**YARN, "head_dim": 64, "base": 10000.0, "factor": 4.0, "n_ctx": 4096},
    "yarn, large base": {**YARN, "head_dim": 128, "base": 1000000.0, "factor": 4.0, "n_ctx": 32768},
    "yarn, large factor": {**YARN, "head_dim": 64, "base": 150000.0, "factor": 32.0, "n_ctx": 4096},
    "yarn, other betas": {**YARN, "head_dim": 32, "base": 10000.0, "factor": 2.5, "n_ctx": 1024, **BETAS},
    "yarn, ramp from the first pair on": {**YARN, "head_dim": 16, "base": 10000.0, "factor": 8.0, "n_ctx": 100},
    "yarn, ramp of no width": {**YARN, "head_dim": 16, "base": 10000.0, "factor": 8.0, "n_ctx": 6},
    "linear": {"rope_type": "linear", "head_dim": 32, "base": 10000.0, "factor": 3.0},
    "llama3, 8B": {**LLAMA3, "head_dim": 128, "base": 500000.0, "factor": 8.0},
    "llama3, 1B": {**LLAMA3, "head_dim": 64, "base": 500000.0, "factor": 32.0},
}


def record(case: dict[str, Any], transformers: Any, functions: dict[str, Any]) -> dict[str, Any]:
    """One case with what the library computes for it."""
    rope = {k: v for k, v in case.items() if k not in ("head_dim", "base", "n_ctx")}
    rope |= {"rope_theta": case["base"]} | ({"original_max_position_embeddings": case["n_ctx"]} if "n_ctx" in case else {})
    config = transformers.LlamaConfig(
        hidden_size=2 * case["head_dim"], num_attention_heads=2, head_dim=case["head_dim"], rope_parameters=rope,
        max_position_embeddings=int(rope.get("original_max_position_embeddings", 4096) * case["factor"]),
    )  # fmt: skip
    frequencies, magnitude = functions[case["rope_type"]](config, "cpu")
    recorded = {**case, "inv_freq": frequencies.tolist(), "magnitude": float(magnitude)}
    if case["rope_type"] == "llama3":
        plain, _ = functions["linear"](transformers.LlamaConfig(
            hidden_size=2 * case["head_dim"], num_attention_heads=2, head_dim=case["head_dim"],
            rope_parameters={"rope_type": "linear", "rope_theta": case["base"], "factor": 1.0},
        ), "cpu")  # fmt: skip
        recorded["factors"] = (plain / frequencies).tolist()
    return recorded


def main() -> None:
    transformers = importlib.import_module("transformers")
    functions = importlib.import_module("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    cases = {name: record(case, transformers, functions) for name, case in CASES.items()}
    made = {"command": "python tools/record_rope.py", "transformers": transformers.__version__, "cases": cases}
    TARGET.write_text(json.dumps(made, indent=1) + "\n")
    print(f"{TARGET}: {len(cases)} cases")


if __name__ == "__main__":
    main()

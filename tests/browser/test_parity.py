"""The same numbers and text in three browsers as natively: each case of matrix.py, on models with a published truth."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import wasmrt
from tests.browser.conftest import Engine, Page
from tests.browser.matrix import MATRIX, RUNS, Case
from tests.browser.server import PageError
from tests.test_logits import nmse, plain

pytestmark = [pytest.mark.reference, pytest.mark.usefixtures("cpu")]

STORIES = "stories260K.gguf"
# Floats, a few kinds of blocks, a mixture of experts; and what other families need: sinks, windows and biases of experts, the
# delta rule, caps, latent attention.
KINDS = ("dense.BF16", "dense.Q2_K", "dense.Q4_K_M", "dense.Q5_1", "dense.Q8_0", "dense.IQ3_S", "moe.Q4_K_M")
OTHERS = ("gpt-oss-moe.MXFP4_MOE", "qwen35-dense.Q3_K_M", "gemma2-dense.Q4_1", "deepseek2-moe.F16")
MODELS = (*(f"llama-{kind}" for kind in KINDS), *OTHERS)
ON_GPU = (*(f"llama-{kind}" for kind in ("dense.Q4_K_M", "dense.Q8_0", "dense.IQ3_S", "moe.Q4_K_M")), *OTHERS[:2], OTHERS[3])

LOGITS = """
import { open } from "/wasmrt.js";

export default async function ({ files, device, threads }, { note }) {
  const found = {};
  for (const [name, ids] of Object.entries(files)) {
    note(name);
    const model = await open(`/models/${name}.gguf`, { device, threads });
    found[name] = await model.logits(ids);
    await model.close();
  }
  return found;
}
"""

TEXT = """
import { open } from "/wasmrt.js";

export default async function ({ device, threads, maxTokens }, { note }) {
  const model = await open("/models/stories260K.gguf", { device, threads });
  note("opened");
  const text = model.generate("", { maxTokens });
  for await (const piece of text) { /* text.text has it */ }
  const stats = await model.stats();
  await model.close();
  return { text: text.text, tokens: text.tokens, finish: text.stats.finish, stats };
}
"""

# A model that stays open keeps the worker, and with it Pyodide, for the cases that follow in the same page.
KEEP = """
import { open } from "/wasmrt.js";

export default async function () {
  globalThis.kept ??= await open("/models/stories260K.gguf", { device: "cpu:plain" });
}
"""


def by_engine(cases: list[Case]) -> pytest.MarkDecorator:
    """The cases, each with its browser. Those of one page follow one another."""
    return pytest.mark.parametrize(
        ("browser", "case"), [pytest.param(case.engine, case, id=str(case)) for case in cases], indirect=["browser"]
    )


@pytest.fixture
def page(browser: Engine, case: Case, site, reference_dir) -> Page:
    site.models[STORIES] = reference_dir / "stories260K" / STORIES
    for name in MODELS:
        site.models[f"{name}.gguf"] = reference_dir / "logits" / f"{name}.gguf"
    page = browser.reuse(case.page)
    if case.outcome == RUNS:
        page.run(KEEP)
    return page


@pytest.fixture(scope="module")
def golden(reference_dir):
    return json.loads((reference_dir / "stories260K" / "golden.json").read_text())


def recorded(folder: Path, name: str) -> tuple[list[int], np.ndarray]:
    ids: list[int] = json.loads((folder / "logits" / f"{name}.json").read_text())["tokens"]
    return ids, np.load(folder / "logits" / f"{name}.logits.npy")


@functools.cache
def native_logits(path: Path, device: str, ids: tuple[int, ...]) -> np.ndarray:
    with wasmrt.load(path, device=device) as model:
        return np.asarray(model.logits(ids))


@by_engine([case for case in MATRIX if case.outcome == RUNS])
def test_stories260k_gives_its_published_text(page, case, golden):
    got = page.run(TEXT, device=case.device, threads=case.threads, maxTokens=golden["n_generated"])
    assert got["tokens"] == golden["greedy_ids"][1:]
    assert plain(got["text"]).startswith(plain(golden["text_karpathy_doc"]))
    assert got["stats"]["threads"] == case.used
    assert got["stats"]["device"] == case.device.partition(":")[0]


@by_engine([case for case in MATRIX if case.outcome == RUNS and case.device != "gpu"])
def test_the_cpu_device_gives_the_bits_that_it_gives_natively(page, case, reference_dir):
    """Of the same build; "cpu" takes one that the page can have."""
    files = {name: recorded(reference_dir, name)[0] for name in MODELS}
    got = page.run(LOGITS, files=files, device=case.device, threads=case.threads)
    for name, ids in files.items():
        wanted = native_logits(reference_dir / "logits" / f"{name}.gguf", case.device, tuple(ids))
        assert got[name].tobytes() == wanted.tobytes(), name


# Worst seen: 2.3e-14 in Chromium (SwiftShader), 2.5e-14 in Firefox (llvmpipe).
GPU_BOUND = 2.5e-13


# In isolated pages: a GPU's numbers do not depend on how the page's memory is shared.
@by_engine([case for case in MATRIX if case.outcome == RUNS and case.device == "gpu" and case.page == "isolated"])
def test_the_gpu_device_is_as_near_to_the_truth_as_natively(page, case, reference_dir):
    files = {name: recorded(reference_dir, name)[0] for name in ON_GPU}
    got = page.run(LOGITS, files=files, device=case.device, threads=case.threads, seconds=300)
    errors = {name: nmse(got[name].reshape(len(ids), -1), recorded(reference_dir, name)[1]) for name, ids in files.items()}
    assert max(errors.values()) < GPU_BOUND, errors


@by_engine([case for case in MATRIX if case.outcome != RUNS])
def test_what_a_page_cannot_do_is_refused_by_name(page, case):
    with pytest.raises(PageError) as refused:
        page.run(TEXT, device=case.device, threads=case.threads, maxTokens=1)
    assert refused.value.kind == "DeviceError"
    assert case.outcome in refused.value.message

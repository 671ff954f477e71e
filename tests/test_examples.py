"""examples/: docs/embedding.md shows the files as they are, and what can be seen of them without a browser.
tests/browser/test_embedding.py runs them."""

import ast
import json
import re
from pathlib import Path

import pytest

import wasmrt

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DOC = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
LANGUAGES = {".html": "html", ".js": "js", ".py": "python"}


def text(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["page.html", "page.js", "python.html", "python.js", "story.py", "pyscript.html"])
def test_the_doc_shows_the_file(name):
    """Byte for byte."""
    assert f"\n```{LANGUAGES[Path(name).suffix]}\n{text(name)}```\n" in DOC


def test_every_example_is_shown_or_linked():
    for path in EXAMPLES.iterdir():
        assert text(path.name) in DOC or f"](../examples/{path.name})" in DOC, path.name


def test_a_page_of_ones_own_is_short():
    """The page and its script, which is what the doc promises."""
    assert len(text("page.js").splitlines()) < 25


def test_wheels_are_of_this_version():
    texts = [DOC, *(text(path.name) for path in EXAMPLES.iterdir())]
    found = [version for content in texts for version in re.findall(r"wasmrt-(.*?)-py3-none-any\.whl", content)]
    assert len(found) > 4
    assert set(found) == {wasmrt.__version__}


def test_the_notebook_is_one():
    """As nbformat 4.5 has it: cells with ids of their own, code with outputs that are text, and a kernel for Pyodide."""
    notebook = json.loads(text("notebook.ipynb"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            compile("".join(cell["source"]), cell["id"], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            assert all(output["output_type"] == "stream" and output["name"] == "stdout" for output in cell["outputs"])
        assert set(cell) == keys

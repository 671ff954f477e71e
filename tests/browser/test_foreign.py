"""A page of somebody else, with Pyodide and our wheel: another origin, no COOP and COEP, no files of ours beside the page."""

from typing import Any

import pytest

import wasmrt
from tests.browser.conftest import Engine
from tests.browser.server import CORS, Site
from tests.range_server import RangeServer
from wasmrt.resources import demo_model

pytestmark = pytest.mark.usefixtures("cpu")

PROMPT = "Once upon a time"
N = 16

SNIPPET = """
import { runPython } from "/remote/python.js";

export default ({ where, wheel, globals }) => runPython(`
import wasmrt

async with await wasmrt.open(url, device=device) as model:
    text = model.generate(prompt, max_tokens=n)
    pieces = [piece async for piece in text]
    assert "".join(pieces) == text.text
    chosen = (await model.logits(text.prompt_tokens + text.tokens)).shape
    found = {"tokens": text.tokens, "device": model.stats.device, "logits": chosen}
try:
    wasmrt.load(url)
    found["load"] = "given"
except wasmrt.UnsupportedError as error:
    found["load"] = str(error)
found
`, { where, wheels: [wheel], globals });
"""


@pytest.fixture
def wheel(site: Site) -> str:
    """The URL of the wheel, on our server."""
    [path] = (site.folder / "pyodide").glob("wasmrt-*.whl")
    return site.url(f"/pyodide/{path.name}")


def generated(engine: Engine, site: Site, wheel: str, where: str, device: str) -> dict[str, Any]:
    """Of the demo model, behind a server that lets other origins read, and knows no requests but simple ones."""
    page = engine.reuse("foreign")
    with RangeServer(demo_model()) as server:
        server.headers.update(CORS)
        given = {"url": server.url, "device": device, "prompt": PROMPT, "n": N}
        got: dict[str, Any] = page.run(SNIPPET, where=where, wheel=wheel, globals=given, seconds=300)
        assert all(set(request.headers).isdisjoint({"if-range", "if-match"}) for request in server.requests)
        assert {request.method for request in server.requests} == {"GET"}
    return got


@pytest.mark.parametrize("where", ["worker", "main"])
def test_python_in_any_page_opens_a_model(browser, site, wheel, where):
    got = generated(browser, site, wheel, where, "auto")
    with wasmrt.load(device="cpu") as model:
        text = model.generate(PROMPT, max_tokens=N)
        assert "".join(text)
        assert got["tokens"] == text.tokens
        assert got["logits"] == [len(text.prompt_tokens) + N, model.config.n_vocab]
    assert got["device"] == "cpu"
    assert "await wasmrt.open" in got["load"]


@pytest.mark.parametrize("browser", ["chromium", "firefox"], indirect=True)
def test_python_in_any_page_reaches_the_gpu(browser, site, wheel, gpu):
    got = generated(browser, site, wheel, "main", "gpu")
    with wasmrt.load(device="gpu") as model:
        text = model.generate(PROMPT, max_tokens=N)
        assert "".join(text)
        assert got["tokens"] == text.tokens
    assert got["device"] == "gpu"

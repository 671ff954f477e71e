"""The pages, the notebook and the PyScript page of examples/, as docs/embedding.md shows them, in browsers: they give the text
that the same prompt gives on a desktop."""

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

import wasmrt
from tests.browser.conftest import Engine, Page
from tests.browser.server import CORS, Site
from tests.range_server import RangeServer
from wasmrt.resources import demo_model

pytestmark = pytest.mark.usefixtures("cpu")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DOC = (EXAMPLES.parent / "docs" / "embedding.md").read_text("utf-8")
PROMPT = "Once upon a time"
ELSEWHERE = "https://example.org/wasmrt/"  # where the notebook and the PyScript page have wasmrt's files
START_SECONDS = 240.0

# Open an example in a frame, do something there, wait until an element's text is as wanted; gives the texts of its paragraphs.
FRAME = """
export default async function ({ path, values, clicks, id, wanted, patience }) {
  let frame = document.querySelector("iframe");
  if (frame?.src !== new URL(path, location.href).href) {
    frame?.remove();
    frame = document.createElement("iframe");
    frame.src = path;
    const loaded = new Promise((resolve) => (frame.onload = resolve));
    document.body.append(frame);
    await loaded;
  }
  const inside = frame.contentDocument;
  for (const [name, value] of Object.entries(values)) inside.getElementById(name).value = value;
  for (const selector of clicks) inside.querySelector(selector).click();
  const end = performance.now() + patience * 1000;
  while (!new RegExp(wanted).test(inside.getElementById(id).textContent) && performance.now() < end)
    await new Promise((resolve) => setTimeout(resolve, 20));
  return Object.fromEntries(Array.from(inside.querySelectorAll("p, pre"), (element) => [element.id, element.textContent]));
}
"""

# Cells one after the other, each with top-level await, as a notebook's kernel runs them; what each of them printed.
CELLS = """
import { runPython } from "/remote/python.js";

export default ({ where, cells }) => runPython(`
import contextlib, io
from pyodide.code import eval_code_async

kernel, printed = {"__name__": "__main__"}, []
for cell in cells:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        await eval_code_async(cell, kernel)
    printed.append(output.getvalue())
printed
`, { where, globals: { cells } });
"""

# What PyScript does: the packages that the tag's config names, then its text.
SCRIPT = """
import { runPython } from "/remote/python.js";

export default async ({ packages, script }) => {
  const text = document.createElement("pre");
  text.id = "text";
  document.body.append(text);
  const install = "import pyodide_js\\nawait pyodide_js.loadPackage(packages)\\nNone";
  await runPython(install, { where: "main", globals: { packages } });
  await runPython(`${script}\\nNone`, { where: "main" });
  return text.textContent;
};
"""


@pytest.fixture(autouse=True)
def _served(site: Site) -> None:
    site.models["demo.gguf"] = demo_model()
    site.files |= {f"/{path.name}": path.read_bytes() for path in EXAMPLES.iterdir()}


@pytest.fixture(scope="module")
def written() -> str:
    with wasmrt.load(device="cpu") as model:
        return "".join(model.generate(PROMPT, max_tokens=64))


def act(page: Page, path: str, id: str, wanted: str, clicks: tuple[str, ...] = (), **values: str) -> dict[str, str]:
    given = {"path": path, "values": values, "clicks": clicks, "id": id, "wanted": wanted, "patience": START_SECONDS - 60}
    found: dict[str, str] = page.run(FRAME, **given, seconds=START_SECONDS)
    return found


def here(text: str, site: Site) -> str:
    return text.replace(ELSEWHERE, site.url("/"))


@pytest.mark.parametrize("origin", ["isolated", "plain"])
def test_a_page_of_ones_own_writes(browser: Engine, written, origin):
    """Under the strict policy, with and without isolation."""
    page = browser.open(origin)
    seen = act(page, "/page.html", "state", "second|:", ("button",))
    assert seen["text"] == written, seen
    assert seen["state"].startswith("64 tokens, "), seen
    assert seen["plan"] == "12 MiB of memory, 0 MiB read for each token"
    assert not [event for event in page.events if event.kind == "csp"]


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)
def test_it_stops_and_says_what_is_wrong(browser: Engine, site, written):
    """A load is broken off, a model that is not there named; then a text is written after all."""
    page = browser.open()
    with RangeServer(demo_model()) as slow:
        slow.headers.update(CORS | {"Cross-Origin-Resource-Policy": "cross-origin"})
        slow.bytes_per_second = 1000.0  # its header takes minutes
        act(page, "/page.html", "state", "", ("button",), model=slow.url)
        stopped = act(page, "/page.html", "state", "[.]", ("#stop",))
    assert stopped["state"] == "Stopped."
    missing = act(page, "/page.html", "state", ":", ("button",), model="models/none.gguf")
    assert missing["state"].startswith("SourceError: ")
    assert "none.gguf" in missing["state"]
    seen = act(page, "/page.html", "state", "second", ("button",), model="models/demo.gguf")
    assert seen["text"] == written


def test_a_page_with_python_writes(browser: Engine, written):
    """Pyodide on the page's own thread, under the strict policy."""
    page = browser.open()
    seen = act(page, "/python.html", "text", "a second|Error")
    text, speed = seen["text"].rsplit("\n\n", 1)
    assert text == written
    assert speed.startswith("64 tokens, ")
    assert not [event for event in page.events if event.kind == "csp"]


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)
def test_what_the_doc_says_of_examine(browser: Engine):
    """Its lines, for a model that runs and, with less memory, for one that does not."""
    (block,) = (block for block in re.findall(r"```js\n(.*?)```", DOC, re.DOTALL) if " examine(" in block)
    lines = block.replace("hf:owner/repo:Q4_K_M", "/models/demo.gguf").replace('"./wasmrt.js"', '"/wasmrt.js"')
    head, body = lines.split("\n", 1)
    page = browser.open()

    def shown(body: str) -> list[str]:
        source = f"const said = [];\nconst show = (text) => said.push(text);\n{body}\nreturn said;"
        said: list[str] = page.run(f"{head}\nexport default async () => {{\n{source}\n}}", seconds=START_SECONDS)
        return said

    assert re.fullmatch(r"[\d.]+ tokens a second, \d+ bytes to fetch", "".join(shown(body)))
    assert "memory" in "".join(shown(body.replace("1GiB", "1MiB")))


@pytest.mark.parametrize("where", ["worker", "main"])
def test_the_notebook_prints_what_it_shows(browser: Engine, site, where):
    """Cell after cell in a Pyodide page of another origin; the outputs in the file are the real ones."""
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    page = browser.reuse("foreign")
    sources = [here("".join(cell["source"]), site) for cell in cells]
    printed = page.run(CELLS, where=where, cells=sources, seconds=START_SECONDS)
    shown = ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in cells]
    assert printed == shown


def test_the_pyscript_page_writes(browser: Engine, site, written):
    """Its script, with the packages that it names, in a Pyodide page of another origin: PyScript itself is not here."""
    tag = PythonTag()
    tag.feed(here((EXAMPLES / "pyscript.html").read_text("utf-8"), site))
    config = json.loads(tag.attributes["config"])
    page = browser.open("foreign")
    # PyScript installs them with micropip, which finds what they need by itself.
    assert page.run(SCRIPT, packages=["jinja2", *config["packages"]], script=tag.text, seconds=START_SECONDS) == written


class PythonTag(html.parser.HTMLParser):
    """The text and the attributes of a page's <script type="py">."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.attributes: dict[str, Any] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("type", "py") in attrs
        if self._inside:
            self.attributes = dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text += data

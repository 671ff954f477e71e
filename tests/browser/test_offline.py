"""An exported page on a server of files that sends no header of ours and does no ranges: it works, becomes isolated, and starts
without a network. And what its service worker does when there is a new version, or a broken one."""

import contextlib
import email.utils
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import wasmrt
from tests.browser.engines import Browser
from tests.browser.server import TYPES, PageError, PageHung, Site, _Handler, _inside
from wasmrt.export import export
from wasmrt.resources import demo_model
from wasmrt.serve.offline import SERVICE_WORKER, list_files

pytestmark = pytest.mark.usefixtures("cpu")

PROMPT, TOKENS = "Once upon a time", 12
START_SECONDS, RUN_SECONDS, ASK_SECONDS = 90.0, 120.0, 5.0
# As in test_source.py: what each engine has.
DISK = {"chromium": True, "firefox": True, "webkit": False}
SHARED = {"chromium": True, "firefox": True, "webkit": False}

WRITE = """
import { open } from "/wasmrt.js";
export default async function ({ prompt, n, model: bytes }) {
  const model = await open(bytes ? new File([bytes], "demo.gguf") : "/models/demo.gguf", { device: "cpu" });
  await model.loaded();
  const text = model.generate(prompt, { maxTokens: n });
  for await (const piece of text);
  const { threads } = await model.stats();
  await model.close();
  return { text: text.text, threads, isolated: crossOriginIsolated, controlled: Boolean(navigator.serviceWorker?.controller) };
}
"""
KEEP = """
const { keepOffline, offline } = await import("/ui/offline.js");
await keepOffline();
return offline.value;
"""
# For a new version, without loading the page again, at which one may take over.
LOOK = "await (await navigator.serviceWorker.getRegistration()).update()"


class FileHandler(_Handler):
    """Like `python -m http.server`, but for the remote control: 200 and the whole file, its type and its time."""

    def _send_file(self, path, extra):
        site = self.server.site
        if path.startswith("/remote/"):
            super()._send_file(path, {})
            return
        if site.down:
            self.close_connection = True
            return
        content = site.files.get(path) or site.file(path, "plain")
        if path == "/models":
            self._answer(301, b"", {"Location": "/models/"})
        elif path.endswith("/models/"):
            self._answer(200, b"<title>Directory listing</title>", {"Content-Type": "text/html; charset=utf-8"})
        elif content is None:
            self._answer(404, b"<title>Not found</title>", {"Content-Type": "text/html"})
        elif isinstance(content, bytes):
            self._answer(200, content, {"Content-Type": TYPES.guess_type(path)[0]})
        else:
            modified = email.utils.formatdate(content.stat().st_mtime, usegmt=True)
            status = 304 if self.headers.get("If-Modified-Since") == modified else 200
            kind = TYPES.guess_type(content)[0] or "application/octet-stream"
            self._answer(status, content.read_bytes(), {"Content-Type": kind, "Last-Modified": modified})

    def _answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 304 and self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # who asks for a range may leave when more comes
                self.wfile.write(body)


class Files(Site):
    """A folder of files. down: it does not answer, but for the remote control."""

    down = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._servers["plain"].RequestHandlerClass = FileHandler

    def file(self, path, origin):
        if path.startswith("/remote/") or origin != "plain":
            return super().file(path, origin)
        return _inside(self.folder, path.removeprefix("/") or "index.html")

    def asked(self):
        """How often for what."""
        return Counter(path for origin, path, _ in self.requests if origin == "plain" and not path.startswith("/remote/"))


class Tab:
    """A browser of its own, with nothing kept, at a page of the site."""

    def __init__(self, engine: str, site: Files, path: str = "/index.html") -> None:
        self.engine, self.site = engine, site
        self.state = site.page("plain", csp=False)
        self.state.url = site.url(f"{path}?page={self.state.name}", "plain")
        self.browser = Browser(engine, self.state.url)
        assert site.wait_for(self.state, 1, START_SECONDS), self.browser.log()

    def run(self, body, seconds=RUN_SECONDS, **args):
        return self.site.call(self.state, body, args, seconds)

    def until(self, body, wanted, seconds=60.0):
        """Ask until the page says so. It may load itself again meanwhile, and whoever was asked is gone."""
        deadline, got = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            with contextlib.suppress(PageHung, PageError):  # Firefox breaks off imports
                if (got := self.run(body, ASK_SECONDS)) == wanted:
                    return
            time.sleep(0.1)
        raise AssertionError(f"it is {got}, not {wanted}\n{self.browser.log()}")

    def reload(self):
        documents = self.state.documents
        assert self.site.send(self.state, "reload", START_SECONDS)
        assert self.site.wait_for(self.state, documents + 1, START_SECONDS), self.browser.log()

    def write(self, model=None):
        return self.run(WRITE, prompt=PROMPT, n=TOKENS, model=model)


@pytest.fixture(scope="module")
def golden():
    with wasmrt.load(device="cpu") as model:
        return "".join(model.generate(PROMPT, max_tokens=TOKENS))


@pytest.fixture
def files(site, tmp_path) -> Iterator[Files]:
    """The export, with the remote control in its page."""
    export(tmp_path / "site", page=site.folder)
    index = tmp_path / "site" / "index.html"
    index.write_text(index.read_text().replace("</head>", '<script type="module" src="/remote/remote.js"></script></head>'))
    publish(tmp_path / "site")
    files = Files(tmp_path / "site")
    with files:
        yield files


def publish(folder: Path, **texts: str) -> None:
    """A new version, where ui/NAME.js is this text, and the list that goes with it."""
    later = max(path.stat().st_mtime for path in folder.rglob("*.js")) + 2  # the server tells versions by the second
    for name, text in texts.items():
        (folder / "ui" / f"{name}.js").write_text(text)
    (line,) = (line for line in (folder / SERVICE_WORKER).read_text().splitlines() if line.startswith("const LIST = "))
    list_files(folder, list(json.loads(line.removeprefix("const LIST = ").removesuffix(";"))["files"]))
    for path in (folder / SERVICE_WORKER, *(folder / "ui" / f"{name}.js" for name in texts)):
        os.utime(path, (later, later))


@pytest.fixture
def tab(browser, files):
    """Of each engine in turn."""
    browser.close_browser()
    with contextlib.ExitStack() as open_ones:

        def start(path="/index.html"):
            tab = Tab(browser.name, files, path)
            open_ones.callback(tab.browser.close)
            return tab

        yield start


def test_from_a_server_of_files_it_writes(tab, golden):
    """A page that no service worker is for: without threads, from a server without ranges."""
    got = tab("/remote/remote.html").write()
    assert got == {"text": golden, "threads": 1, "isolated": False, "controlled": False}


def test_it_becomes_isolated_and_starts_without_a_network(tab, files, golden):
    page = tab()
    page.until("return crossOriginIsolated", True)
    got = page.write()
    assert got["text"] == golden
    assert got["isolated"]
    assert got["controlled"]
    assert (got["threads"] > 1) == SHARED[page.engine] or got["threads"] == 1
    assert page.run("return typeof SharedArrayBuffer === 'function'") == SHARED[page.engine]
    assert page.run(KEEP) == {"state": "ready"}
    asked = files.asked()
    assert max(asked[f"/{name}"] for name in ("pyodide/pyodide.asm.wasm", "pyodide/python_stdlib.zip")) == 1
    files.down = True
    files.requests.clear()
    page.reload()
    assert page.run("return [crossOriginIsolated, document.title !== '']") == [True, True]
    if DISK[page.engine]:
        assert page.write() == got
    else:  # a file of the person's own
        assert page.write(demo_model().read_bytes())["text"] == golden
    assert page.run(KEEP) == {"state": "ready"}
    assert page.run("const { servedModels } = await import('/ui/served.js'); return servedModels()") == []


def test_it_leaves_everything_else_alone(tab, files):
    page = tab()
    page.until("return crossOriginIsolated", True)
    assert page.run(KEEP) == {"state": "ready"}
    files.down = True
    got = page.run(
        """const tell = async (url, init) => {
          try { return (await fetch(url, { cache: "no-store", ...init })).status; } catch (error) { return error.name; }
        };
        return {
          page: await tell("/"), script: await tell("/main.js?x=1"),
          range: await tell("/main.js", { headers: { Range: "bytes=0-9" } }), head: await tell("/main.js", { method: "HEAD" }),
          post: await tell("/main.js", { method: "POST" }), elsewhere: await tell(args.elsewhere),
          model: await tell("/models/demo.gguf"), list: await tell("/models.json"),
        };""",
        elsewhere=files.url("/pyodide/pyodide.mjs", "foreign"),
    )
    assert got == {"page": 200, "script": 200, "range": "TypeError", "head": "TypeError", "post": 404,
                   "model": "TypeError", "list": "TypeError", "elsewhere": 200}  # fmt: skip
    assert ("foreign", "/pyodide/pyodide.mjs", None) in files.requests


def test_a_new_version_takes_over_as_a_whole(tab, files):
    page = tab()
    page.until("return crossOriginIsolated", True)
    assert page.run(KEEP) == {"state": "ready"}
    state = "return (await import('/ui/offline.js')).offline.value.state"
    publish(files.folder)  # the same again
    page.reload()
    assert page.run(KEEP) == {"state": "ready"}

    format_js = (files.folder / "ui" / "format.js").read_text()
    publish(files.folder, format=f"{format_js}\nexport const two = 2;\n")
    files.requests.clear()
    page.run(LOOK)
    page.until(state, "update")
    assert page.run("return (await import('/ui/format.js')).two ?? null") is None  # still the old one
    asked = {path for path in files.asked() if not path.startswith("/models")}
    assert asked == {f"/{SERVICE_WORKER}", "/ui/format.js"}
    documents = page.state.documents
    with contextlib.suppress(PageHung):
        page.run("const { useUpdate } = await import('/ui/offline.js'); await useUpdate()", ASK_SECONDS)
    assert files.wait_for(page.state, documents + 1, START_SECONDS)
    assert page.run("return (await import('/ui/format.js')).two") == 2
    page.until("""const [name] = await caches.keys();
        return (await (await caches.open(name)).keys()).filter(({ url }) => url.includes("format.js")).length;""", 1)

    # One whose files are not what it says is not taken, and the one that works goes on.
    files.down = True
    publish(files.folder, format="export const three = 3;\n")
    (files.folder / "ui" / "format.js").write_text("export const broken = 3;\n")
    files.down = False
    files.requests.clear()
    page.run(LOOK)
    page.until("return Boolean((await navigator.serviceWorker.getRegistration()).installing)", False)
    assert files.asked()["/ui/format.js"] >= 1
    files.down = True
    page.reload()
    assert page.run("return (await import('/ui/format.js')).two") == 2
    assert page.run(KEEP) == {"state": "ready"}


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)
def test_a_second_window_is_not_changed_under_its_feet(tab, files):
    page = tab()
    page.until("return crossOriginIsolated", True)
    assert page.run(KEEP) == {"state": "ready"}
    page.run("window.open('/index.html')")
    format_js = (files.folder / "ui" / "format.js").read_text()
    publish(files.folder, format=f"{format_js}\nexport const two = 2;\n")
    page.run(LOOK)
    state = "const { offline, useUpdate } = await import('/ui/offline.js'); await useUpdate(); return offline.value"
    page.until("return (await import('/ui/offline.js')).offline.value.state", "update")
    assert page.run(state) == {"state": "update", "others": 1}


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)
def test_a_page_that_cannot_be_isolated_is_not_loaded_again_and_again(tab, files, golden):
    files.files[f"/{SERVICE_WORKER}"] = b"self.addEventListener('fetch', (event) => event.respondWith(fetch(event.request)));"
    page = tab()
    page.until("return Boolean(navigator.serviceWorker.controller)", True)
    time.sleep(2)
    assert page.run("return crossOriginIsolated") is False
    assert files.asked()["/index.html"] <= 2
    assert page.write()["text"] == golden


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)
def test_where_another_page_lies_now_ours_goes(tab, files):
    page = tab()
    page.until("return crossOriginIsolated", True)
    assert page.run(KEEP) == {"state": "ready"}
    (files.folder / SERVICE_WORKER).unlink()
    assert page.run(KEEP)["state"] == "off"
    assert page.run("return [await caches.keys(), (await navigator.serviceWorker.getRegistrations()).length]") == [[], 0]

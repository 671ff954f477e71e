"""An engine that cannot start, or cannot go on, is told in words that say why; what computes in silence is left alone."""

import pytest

from tests.browser import server as server_module
from tests.browser.test_facade import run
from tests.range_server import RangeServer
from wasmrt.resources import demo_model

chromium = pytest.mark.parametrize("browser", ["chromium"], indirect=True)


@pytest.fixture(autouse=True)
def _files(site):
    """The demo model; and what a test puts in the place of a file goes with it."""
    site.models["demo.gguf"] = demo_model()
    before = dict(site.files)
    yield
    site.files.clear()
    site.files.update(before)


def text_of(site, name):
    return (site.folder / name).read_text(encoding="utf-8")


def told(page):
    return run(page, "await left(); return [await refused(open(DEMO)), workers.size]", seconds=60)


def test_a_policy_that_forbids_webassembly_is_named(browser, monkeypatch):
    monkeypatch.setattr(server_module, "CSP", server_module.CSP.replace(" 'wasm-unsafe-eval'", ""))
    error, alive = told(browser.open())
    assert error[1] == "EngineStopped"
    assert "wasm-unsafe-eval" in error[2]
    assert alive == 0


@chromium
def test_a_python_that_never_starts_is_told(kept_page, site):
    site.files["/pyodide/pyodide.mjs"] = b"export const loadPyodide = () => new Promise(() => {});"
    worker = text_of(site, "engine-worker.js").replace("START_SECONDS = 300", "START_SECONDS = 1")
    site.files["/engine-worker.js"] = worker.encode()
    error, alive = told(kept_page)
    assert error[1] == "EngineStopped"
    assert "Python did not start in 1 s" in error[2]
    assert alive == 0


@pytest.mark.parametrize("package", ["wasmrt", "jinja2", "markupsafe"])
@pytest.mark.parametrize("how", ["another", "missing"])
@chromium
def test_a_package_of_another_version_is_told(kept_page, site, package, how):
    """Pyodide itself would go on without it."""
    [wheel] = (site.folder / "pyodide").glob(f"{package}-*.whl")
    site.files[f"/pyodide/{wheel.name}"] = wheel.read_bytes() + b" " if how == "another" else None
    error, alive = told(kept_page)
    assert error[1] == "EngineStopped"
    assert package in error[2]
    assert "\n" not in error[2]
    assert alive == 0


@chromium
def test_silence_is_expected_where_there_are_no_threads(page, site):
    """Also of an isolated page, whose browser lacks what the kernels for threads use."""
    memory = text_of(site, "memory.js").replace("WebAssembly.validate(new Uint8Array(RELAXED))", "false")
    facade = text_of(site, "wasmrt.js").replace("PING_SECONDS = 5;", "PING_SECONDS = 0.2;")
    facade = facade.replace("PATIENCE_SECONDS = 60;", "PATIENCE_SECONDS = 5;")  # to start takes seconds, too
    worker = text_of(site, "engine-worker.js") + """
      self.addEventListener("message", ({ data }) => {
        for (const end = Date.now() + 9000; data.do === "stats" && Date.now() < end; );
      });
    """
    site.files.update({"/memory.js": memory.encode(), "/wasmrt.js": facade.encode(), "/engine-worker.js": worker.encode()})
    got = run(page, """
        const model = await open(DEMO, { device: "cpu" });
        const stats = await model.stats();
        await model.close();
        return stats.threads;
    """)
    assert got == 1


def test_what_is_secret_of_a_url_is_in_no_message(kept_page):
    """Nor before the worker has said what it opened."""
    got = kept_page.run("""
        const { Source } = await import("/source.js");
        const url = "http://name:secret@127.0.0.1:9/a.gguf?token=secret#secret";
        const told = (promise) => promise.then(() => null, ({ message }) => message);
        const abort = new AbortController();
        const opening = told(Source.open(url, { signal: abort.signal }, "/prefetch-worker.js"));
        abort.abort();
        const others = ["/nothing.js", "/prefetch-worker.js"].map((script) => told(Source.open(url, {}, script)));
        return Promise.all([opening, ...others]);
    """)
    assert all("//127.0.0.1:9/a.gguf'" in message for message in got), got
    assert not any("secret" in message or "name:" in message for message in got)


@pytest.mark.parametrize("device", ["cpu", "cpu:plain"])
def test_a_text_that_is_stopped_at_once_ends(kept_page, device):
    """The stop is sent right behind the request, before the engine has begun with it."""
    got = run(kept_page, """
        const model = await open(DEMO, { device: args.device });
        const text = model.generate(PROMPT.repeat(20), { maxTokens: null });
        const first = text.next();
        for (let i = 0; i < 4; i++) await null;
        const ended = await Promise.race([text.stop().then(() => true), sleep(20000)]);
        const finish = text.stats?.finish;
        await model.close();
        return { ended, finish, n: text.tokens.length };
    """, device=device)  # fmt: skip
    assert got["ended"] is True
    assert got["finish"] == "closed"
    assert got["n"] < 64  # as many as would be computed ahead of a page that takes none


@chromium
def test_a_server_that_hides_headers_is_told(kept_page):
    with RangeServer(demo_model()) as server:
        server.headers.update({"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"})
        notes = run(kept_page, """
            const notes = [];
            const model = await open(args.url, { device: "cpu", cache: false, onnote: (text) => notes.push(text) });
            await model.close();
            return notes;
        """, url=f"{server.url}?token=secret")
    assert len(notes) == 1
    assert "Access-Control-Expose-Headers: Content-Range, ETag" in notes[0]
    assert "secret" not in notes[0]


@chromium
def test_notes_that_come_up_in_a_request_reach_who_opened_the_model(page, site):
    worker = text_of(site, "engine-worker.js") + """
      self.addEventListener("message", ({ data }) => {
        if (data.do === "stats" || data.do === "generate") self.postMessage({ note: `of ${data.do}`, id: data.id });
      });
    """
    site.files["/engine-worker.js"] = worker.encode()
    notes = run(page, """
        const notes = [];
        const model = await open(DEMO, { device: "cpu", onnote: (text) => notes.push(text) });
        await model.stats();
        await write(model, { maxTokens: 2 });
        await model.close();
        return notes;
    """)
    assert notes == ["of stats", "of generate"]

"""The page as a person meets it: Playwright drives the system's Chromium by roles, labels and texts, never by ids.

    def test_something(visit):
        visit.go()
        visit.button("Load").click()
        visit.sees("Ready")

A visit is a context of its own: nothing kept, no cache. It writes down every request, the console's errors, what scripts threw
and what the policy refused, and ends with all of that as it has to be: `check()`. conftest.py has the fixtures for all tests.
"""

import contextlib
import re
import shutil
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

from tests.browser.engines import CHROMIUM, missing
from tests.browser.server import CORS
from tests.conftest import skip_or_fail
from tests.range_server import RangeServer
from tests.serve_running import Running, running
from tools.build_web import build, files_of
from wasmrt.serve.app import make_app
from wasmrt.serve.offline import SERVICE_WORKER, list_files

DESKTOP, PHONE = (1440, 900), (390, 844)
SECONDS = 90.0  # for what a person waits for, on a machine that is busy: a plan for a GPU compiles on it
ONLY_CHROMIUM = pytest.mark.parametrize("browser", ["chromium"], indirect=True)  # and so in one worker with its other tests
NETWORK = "Failed to load resource"  # what the console says of each request that fails; some tests want just that
expect.set_options(timeout=SECONDS * 1000)

# Of Chromium, off: pages that were left stay; and what it does by itself, such as asking how forms are to be filled in.
FEATURES = ("BackForwardCache", "AutofillServerCommunication", "OptimizationHints", "Translate", "MediaRouter", "HttpsUpgrades",
            "PaintHolding", "DestroyProfileOnBrowserClose")

RECORD = """
window.seen = { violations: [], workers: [], tasks: [] };
addEventListener("securitypolicyviolation", (event) =>
  seen.violations.push(`${event.effectiveDirective} refused ${event.blockedURI} (${event.sourceFile}:${event.lineNumber})`));
window.Worker = class extends Worker {
  constructor(url, ...more) { super(url, ...more); seen.workers.push({ url: `${url}`, worker: this }); }
};
new PerformanceObserver((list) => {
  for (const { startTime, duration } of list.getEntries()) seen.tasks.push([startTime, duration]);
}).observe({ type: "longtask", buffered: true });
"""


class Outside:
    """Stands for all of the world but this machine: a proxy that refuses, and knows who was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outside = self

        class Refuse(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outside.asked.append(self.rfile.readline(2000).decode("latin-1").strip())
                self.wfile.write(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="outside", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Visit:
    """A person's visit to the page at `url`."""

    def __init__(self, browser: Browser, url: str, *, size: tuple[int, int] = DESKTOP,
                 scheme: Literal["light", "dark"] = "light", motion: Literal["no-preference", "reduce"] = "no-preference",
                 script: str = "") -> None:
        self.url = url
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.expected: list[str] = []  # patterns of errors that are no failure
        self.origins = {_origin(url)}  # that may be asked: the page's own, and those of models that the visit opens
        self._outside = Outside()
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion=motion,
            proxy={"server": self._outside.url, "bypass": "127.0.0.1"},
        )
        self.context.set_default_timeout(SECONDS * 1000)
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("console", self._hear)
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.context.add_init_script(RECORD + script)
        self.page: Page = self.context.new_page()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def go(self, query: str = "") -> "Visit":
        self.page.goto(self.url + query)
        return self

    def reload(self) -> None:
        self.page.reload()

    def again(self) -> None:
        """Leave, and come back in another tab with what this one kept."""
        self.page.close()
        self.page = self.context.new_page()

    def offline(self, yes: bool = True) -> None:
        self.context.set_offline(yes)

    # By what a person sees or hears. `name`: a text (all of it, in any case) or a pattern.

    def role(self, role: Any, name: str | re.Pattern[str] | None = None, within: Locator | None = None) -> Locator:
        return (within or self.page).get_by_role(role, name=name, exact=isinstance(name, str))

    def button(self, name: str | re.Pattern[str]) -> Locator:
        return self.role("button", name)

    def labelled(self, text: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_label(text)

    def text(self, text: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_text(text)

    def sees(self, text: str | re.Pattern[str], seconds: float = SECONDS) -> Locator:
        """Somewhere on the page, in sight, within so many seconds."""
        found = self.text(text).filter(visible=True).first
        expect(found).to_be_visible(timeout=seconds * 1000)
        return found

    def sees_no(self, text: str | re.Pattern[str]) -> None:
        expect(self.text(text).filter(visible=True)).to_have_count(0)

    def until(self, holds: Callable[[], Any], what: str = "", seconds: float = SECONDS) -> Any:
        """Its value, once that is true. (Playwright's own wait_for_function needs eval, which the policy forbids.)"""
        deadline = time.monotonic() + seconds
        while not (value := holds()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what or holds}\n{self.shown()}")
            self.page.wait_for_timeout(50)
        return value

    def shown(self) -> str:
        """All text of the page, for a failure's message."""
        return self.page.locator("body").inner_text()

    def focused(self) -> str:
        """What has the focus: its role or tag, and its name."""
        return str(self.page.evaluate(
            """() => {
              const at = document.activeElement;
              const name = at.getAttribute("aria-label") ?? at.labels?.[0]?.innerText ?? at.innerText ?? "";
              return `${at.getAttribute("role") ?? at.type ?? at.localName} ${name.trim().split("\\n")[0]}`;
            }"""
        ))

    def tab_to(self, holds: Callable[[str], bool], what: str, most: int = 120, back: bool = False) -> None:
        """Press Tab until what has the focus is what is wanted."""
        passed = []
        for _ in range(most):
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
            passed.append(self.focused())
            if holds(passed[-1]):
                return
        raise AssertionError(f"{most} times Tab did not reach {what}: {passed}")

    def long_tasks(self, since: float = 0.0) -> list[tuple[float, float]]:
        """Start and length in milliseconds of what held up the page's thread for 50 ms or more."""
        return [(start, length) for start, length in self.page.evaluate("() => seen.tasks") if start >= since]

    def now(self) -> float:
        """The page's clock, in milliseconds."""
        return float(self.page.evaluate("() => performance.now()"))

    def end_workers(self, name: str) -> int:
        """Kill the page's own workers of this kind, as a browser short of memory would; how many."""
        return int(self.page.evaluate(
            """(name) => {
              const ending = seen.workers.filter(({ url }) => url.includes(name));
              for (const { worker } of ending) worker.terminate();
              return ending.length;
            }""", name))

    def check(self) -> None:
        """Nothing failed that was not expected to, and nobody was asked but who may be."""
        said = [error for error in self.errors if not any(re.search(pattern, error) for pattern in self.expected)]
        assert not said, f"the console has errors: {said}"
        strangers = [url for url in self.requests if url.startswith("http") and _origin(url) not in self.origins]
        assert not strangers, f"the page asked others: {strangers}"
        assert not self._outside.asked, f"the browser asked for the page: {self._outside.asked}"
        if not self.page.is_closed() and self.page.url.startswith(self.url):
            violations = self.page.evaluate("() => seen.violations")
            assert not violations, f"the policy refused: {violations}"

    def close(self) -> None:
        self.context.close()
        self._outside.close()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@contextlib.contextmanager
def launched(**more: Any) -> Iterator[Browser]:
    """The system's Chromium, with the flags that the other tests give it."""
    flags = [flag for flag in CHROMIUM if not flag.startswith(("--headless", "--enable-logging", "--disable-features"))]
    flags.append(f"--disable-features={','.join(FEATURES)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags, **more)
        try:
            yield browser
        finally:
            browser.close()


def page_folder(folder: Path, before: Mapping[str, str] | None = None, instead: Sequence[tuple[str, str, str]] = ()) -> Path:
    """A copy of the page as it is built now, whole also for its service worker.

    before: text that scripts, by name, begin with; instead: (name, old, new) text.
    """
    shutil.copytree(build(), folder)
    for name, text in (before or {}).items():
        path = folder / name
        path.write_text(text + path.read_text(encoding="utf-8"), encoding="utf-8")
    for name, old, new in instead:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r} any more"
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")
    list_files(folder, [name for path in files_of(folder) if (name := path.relative_to(folder).as_posix()) != SERVICE_WORKER])
    return folder


class Elsewhere(RangeServer):
    """Another origin's models, which any page may read by range."""

    def __init__(self, data: bytes | Path | Mapping[str, bytes | Path], **how: Any) -> None:
        super().__init__(data, **how)
        self.headers.update(CORS)


# Of a module, not of the session: while Playwright runs, no other test of this process can run an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if why := missing("chromium"):
        skip_or_fail("chromium", why)
    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def page_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_folder(tmp_path_factory.mktemp("page") / "web")


@pytest.fixture(scope="module")
def page_server(page_files: Path) -> Iterator[Running]:
    """The page and the demo model, as `wasmrt serve` serves them."""
    with running(make_app(page=page_files)) as server:
        yield server


@pytest.fixture
def visits(browser: Any, chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Makes visits, of any address; all are checked and closed in the end. `browser`: for its place among tests of Chromium."""
    made: list[Visit] = []

    def visit(url: str, **how: Any) -> Visit:
        made.append(Visit(chromium, url, **how))
        return made[-1]

    try:
        yield visit
        for one in made:
            one.check()
    finally:
        for one in made:
            one.close()


@pytest.fixture
def visit(visits: Callable[..., Visit], page_server: Running) -> Visit:
    """Of the page, with nothing opened yet."""
    return visits(page_server.url)

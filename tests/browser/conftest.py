"""Browsers for tests: `browser` (each engine in turn), `page` (a fresh page in it) and what both are served by, `site`.

    def test_sum(page):
        assert page.run("return args.a + args.b", a=1, b=2) == 3
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.engines import ENGINES, Browser, missing
from tests.browser.pages import chromium, page_files, page_server, visit, visits  # noqa: F401  fixtures, of a person's visits
from tests.browser.server import PageHung, PageState, Site
from tests.conftest import skip_or_fail
from tools.build_web import build

START_SECONDS = 90.0  # until a browser that was just started asks for work, on a machine that is busy
GO_SECONDS = 20.0
RUN_SECONDS = 120.0
STARTS = 3  # tries; a browser is seldom slow to start, and says why in its log


class Page:
    """A page of a running browser. Of each browser one page is open: the next one that opens takes its place."""

    def __init__(self, engine: "Engine", state: PageState, key: tuple[str, bool]) -> None:
        self._engine, self._state, self.key = engine, state, key
        self.hung = False

    @property
    def engine(self) -> str:
        return self._engine.name

    @property
    def events(self) -> list[Any]:
        """What its console, its errors and its policy had to say so far (server.PageEvent)."""
        return self._state.events

    def run(self, source: str, /, *, seconds: float = RUN_SECONDS, **args: Any) -> Any:
        """Call `source` in the page: the body of an async function (args, {note}), or a module with a default export.

        args: JSON, bytes and numpy arrays, which become typed arrays. Gives what it returns, typed arrays as numpy arrays, or
        raises server.PageError, with the error's .kind, .name and .message; PageHung after so many seconds.
        """
        self._check()
        try:
            return self._engine.site.call(self._state, source, args, seconds)
        except PageHung as hung:
            self.hung = True
            raise PageHung(f"{self.engine}: {hung}\n{self._engine.log()}") from None

    def reload(self, seconds: float = GO_SECONDS) -> None:
        self._check()
        documents = self._state.documents
        if not (self._engine.site.send(self._state, "reload", seconds)
                and self._engine.site.wait_for(self._state, documents + 1, seconds)):
            self.hung = True
            raise PageHung(f"{self.engine}: the page did not load again within {seconds:.0f} s\n{self._engine.log()}")

    def close(self) -> None:
        """Leave it, for an empty page."""
        if self._engine.page is self:
            self._engine.open(csp=True)

    def _check(self) -> None:
        assert self._engine.page is self, "another page was opened in this browser since"


class Engine:
    """One browser, started when it is first wanted, and again when it hangs or has gone."""

    def __init__(self, name: str, site: Site) -> None:
        self.name, self.site = name, site
        self.page: Page | None = None
        self._browser: Browser | None = None

    def open(self, origin: str = "isolated", *, csp: bool = True) -> Page:
        """A fresh page. origin: "isolated", "plain" (no COOP and COEP), "foreign". csp: the page's own strict policy."""
        state = self.site.page(origin, csp and origin != "foreign")
        old, self.page = self.page, Page(self, state, (origin, csp))
        answers = old is not None and not old.hung and self.alive and self.site.send(old._state, state.url, GO_SECONDS)
        if answers and self.site.wait_for(state, 1, GO_SECONDS):
            return self.page
        logs = ""
        for _ in range(STARTS):
            self.close_browser()
            self._browser = Browser(self.name, state.url)
            if self.site.wait_for(state, 1, START_SECONDS):
                return self.page
            logs += self.log()
        self.page = None
        raise PageHung(f"{self.name} did not open {state.url}\n{logs}")

    def reuse(self, origin: str = "isolated", *, csp: bool = True) -> Page:
        """The page that is open, with what earlier tests left in it, if it is of this kind; otherwise a fresh one."""
        page = self.page
        return page if page and page.key == (origin, csp) and not page.hung and self.alive else self.open(origin, csp=csp)

    @property
    def alive(self) -> bool:
        return self._browser is not None and self._browser.alive

    def rss(self) -> int:
        """Bytes of memory of all the browser's processes together."""
        assert self._browser is not None
        return self._browser.rss()

    def log(self) -> str:
        return self._browser.log() if self._browser else ""

    def close_browser(self) -> None:
        if self._browser is not None:
            self._browser.close()
            self._browser = None


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page as tools/build_web.py makes it of the checkout, served. A copy: another process may build it anew meanwhile."""
    folder = tmp_path_factory.mktemp("site") / "web"
    shutil.copytree(build(), folder)
    with Site(folder) as site:
        yield site


@pytest.fixture(scope="session")
def engines(site: Site) -> Iterator[dict[str, Engine]]:
    """All three, by name; none runs before it is wanted."""
    engines = {name: Engine(name, site) for name in ENGINES}
    try:
        yield engines
    finally:
        for engine in engines.values():
            engine.close_browser()


# Not of the session: pytest would end a browser wherever the parameter's index changes, also between tests of one engine.
@pytest.fixture(params=ENGINES)
def browser(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    """Each engine in turn, one running at a time; one that is not installed is a visible skip. Tests of some engines only name
    them: @pytest.mark.parametrize("browser", ["chromium"], indirect=True)."""
    if why := missing(request.param):
        skip_or_fail(request.param, why)
    for name, engine in engines.items():
        if name != request.param:
            engine.close_browser()
    return engines[request.param]


@pytest.fixture
def page(browser: Engine) -> Page:
    """A fresh page, cross-origin isolated, with a strict policy."""
    return browser.open()


@pytest.fixture
def kept_page(browser: Engine) -> Page:
    """The same, with what earlier tests left in it, such as a running Pyodide: for tests that do not mind."""
    return browser.reuse()

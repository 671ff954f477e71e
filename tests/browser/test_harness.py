"""The remote control of the browser tests itself."""

import numpy as np
import pytest

from tests.browser.server import PageError, PageHung


def test_values_travel_both_ways(kept_page):
    floats = np.float32([1.5, -0.0, np.inf])
    source = "return {floats: args.floats, more: [1n, NaN, null, undefined], text: args.text}"
    got = kept_page.run(source, floats=floats, text="ä")
    assert got["floats"].dtype == np.float32
    assert got["floats"].tobytes() == floats.tobytes()
    assert got["more"][0] == 1
    assert np.isnan(got["more"][1])
    assert got["text"] == "ä"


def test_errors_and_events_are_told(kept_page):
    with pytest.raises(PageError, match="gone") as caught:
        kept_page.run("console.error('said'); throw Object.assign(new TypeError('gone'), {kind: 'SourceError'})")
    assert (caught.value.name, caught.value.kind, caught.value.message) == ("TypeError", "SourceError", "gone")
    assert "console.error: said" in str(caught.value)


def test_a_strict_policy_holds(kept_page):
    with pytest.raises(PageError):
        kept_page.run("return eval('1')")
    assert any(event.kind == "csp" for event in kept_page.events)


def test_isolation_is_as_asked(browser):
    isolated = {}
    for origin in ("isolated", "plain", "foreign"):
        page = browser.open(origin)
        isolated[origin] = page.run("return self.crossOriginIsolated")
    assert isolated == {"isolated": True, "plain": False, "foreign": False}


def test_a_reload_is_a_new_document(page):
    page.run("globalThis.kept = 1")
    page.reload()
    assert page.run("return globalThis.kept") is None


def test_a_hung_page_is_told_and_replaced(browser):
    page = browser.open()
    with pytest.raises(PageHung, match="note: started"):
        page.run("note('started'); await new Promise(() => {})", seconds=2)
    assert browser.open().run("return 1") == 1
    assert browser.rss() > 10**7


@pytest.mark.parametrize("where", ["main", "worker"])
@pytest.mark.parametrize("origin", ["isolated", "foreign"])
def test_pyodide_starts(browser, origin, where):
    page = browser.reuse(origin)
    got = page.run(
        """import { runPython } from "/remote/python.js";
        export default async (args) => runPython("import sys; [sys.platform, given]", { ...args, globals: { given: 7 } });""",
        where=where,
    )
    assert got == ["emscripten", 7]

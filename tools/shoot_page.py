"""Pictures of the page's main states: `python tools/shoot_page.py [STATE ...]` writes them to build/screens/, to be looked at.

Each state on a wide and a narrow screen, light and dark: NAME-1440-light.png. A person's steps lead to it, as in the page's
tests; the system's Chromium draws it.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from any folder

from playwright.sync_api import Browser, expect  # noqa: E402

from tests.browser.engines import missing  # noqa: E402
from tests.browser.pages import DESKTOP, PHONE, Elsewhere, Visit, launched  # noqa: E402
from tests.browser.steps import answers, check_link, complete, field, load, planned, ready, say  # noqa: E402
from tests.range_server import RangeServer  # noqa: E402
from tests.serve_running import running  # noqa: E402
from tools.build_web import build  # noqa: E402
from wasmrt.resources import demo_model  # noqa: E402
from wasmrt.serve.app import make_app  # noqa: E402

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SLOW = 1.5e6  # bytes/s: the demo model takes three seconds


def plan(visit: Visit, _: RangeServer) -> None:
    """The first screen."""
    planned(visit)
    expect(visit.page.get_by_text("Ready to work offline", exact=True)).to_be_visible()


def streams(visit: Visit, elsewhere: RangeServer) -> None:
    """A plan in which weights are read for each token."""
    check_link(visit, elsewhere.url)
    visit.sees("Yes, it runs here")
    visit.role("textbox", "Memory").fill("9.5MiB")
    visit.sees("Yes, by streaming")
    planned(visit)


def refused(visit: Visit, _: RangeServer) -> None:
    check_link(visit, "models/none.gguf")
    visit.sees("no such file")


def arriving(visit: Visit, elsewhere: RangeServer) -> None:
    """A model whose weights are on their way."""
    elsewhere.bytes_per_second = SLOW
    check_link(visit, elsewhere.url)
    planned(visit)
    load(visit)
    expect(field(visit)).to_be_visible()
    elsewhere.bytes_per_second = SLOW / 4
    visit.until(lambda: re.search(r"\b[3-7]\d %", visit.shown()), "half of it to be there")


def empty(visit: Visit, _: RangeServer) -> None:
    planned(visit)
    load(visit)
    ready(visit)


def chat(visit: Visit, elsewhere: RangeServer) -> None:
    """After a text."""
    empty(visit, elsewhere)
    visit.role("radio", "Story").check()
    say(visit, "Once upon a time")
    complete(visit)


def writing(visit: Visit, elsewhere: RangeServer) -> None:
    """While it writes, and streams."""
    streams(visit, elsewhere)
    visit.role("switch", re.compile("Keep a copy")).uncheck()
    planned(visit)
    load(visit)
    ready(visit)
    elsewhere.bytes_per_second = 20e6
    visit.role("radio", "Story").check()
    say(visit, "Once upon a time")
    visit.until(lambda: answers(visit) and len(answers(visit)[-1]) > 60, "some of the text")


def stopped(visit: Visit, elsewhere: RangeServer) -> None:
    """An engine that has ended."""
    chat(visit, elsewhere)
    visit.end_workers("engine-worker")
    visit.sees("The engine has stopped")


def storage(visit: Visit, elsewhere: RangeServer) -> None:
    check_link(visit, elsewhere.url)
    planned(visit)
    empty(visit, elsewhere)
    visit.button("Storage").click()
    visit.sees("open now")
    visit.sees("whole")


STATES: dict[str, Callable[[Visit, RangeServer], None]] = {
    state.__name__: state for state in (plan, streams, refused, arriving, empty, chat, writing, stopped, storage)
}


def shoot(browser: Browser, url: str, out: Path, name: str, size: tuple[int, int], scheme: Literal["light", "dark"]) -> Path:
    path = out / f"{name}-{size[0]}-{scheme}.png"
    with Elsewhere(demo_model()) as elsewhere:
        visit = Visit(browser, url, size=size, scheme=scheme)
        try:
            visit.go()
            STATES[name](visit, elsewhere)
            visit.page.wait_for_timeout(400)  # for what comes in smoothly
            visit.page.screenshot(path=path)
        finally:
            visit.close()
    return path


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Take pictures of the page's main states.")
    parser.add_argument("states", nargs="*", metavar="STATE", help=f"of {', '.join(STATES)}; without one, all")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "screens", metavar="DIR")
    given = parser.parse_args(arguments)
    if unknown := set(given.states) - STATES.keys():
        parser.error(f"there is no state {', '.join(sorted(unknown))}")
    if why := missing("chromium"):
        print(f"error: {why}", file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    with launched() as browser, running(make_app(page=build())) as server:
        for name in given.states or STATES:
            for size in (DESKTOP, PHONE):
                for scheme in SCHEMES:
                    print(shoot(browser, server.url, given.out, name, size, scheme))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

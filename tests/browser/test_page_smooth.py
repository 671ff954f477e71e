"""The page is there at once and stays smooth: its first paint, and its thread while a model loads and writes; in Chromium.

Here are bounds that hold on a busy machine of two cores, for the best of some tries: what a page does itself it does each time,
what others do to it in some tries only.
"""

import pytest

from tests.browser.pages import ONLY_CHROMIUM
from tests.browser.steps import complete, field, load, planned, ready, say

pytestmark = [ONLY_CHROMIUM, pytest.mark.usefixtures("cpu")]

FIRST_PAINT_MS = 1000.0
LONGEST_TASK_MS = 100.0
TRIES = 5


def test_something_is_seen_within_a_second(visits, page_server):
    """Nothing is cached: each visit is a new person's. Seen: 0.3 to 0.4 s, with six programs for each core."""
    seen = []
    while not seen or (min(seen) >= FIRST_PAINT_MS and len(seen) < TRIES):
        visit = visits(page_server.url)
        visit.page.goto(visit.url, wait_until="commit")
        visit.until(lambda: visit.page.evaluate(PAINT), "a paint")  # noqa: B023  called here
        seen.append(visit.page.evaluate(PAINT))
    assert min(seen) < FIRST_PAINT_MS, seen


PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"


def test_the_page_answers_while_python_starts(visit):
    """Who clicks at once gets an answer at once."""
    visit.go()
    visit.button("Storage").click()
    visit.sees("Kept on this device", seconds=2)
    assert visit.page.evaluate("() => seen.workers.length") > 0
    visit.page.keyboard.press("Escape")


def test_nothing_holds_the_page_up_while_a_model_loads_and_writes(visits, page_server):
    """While somebody types and scrolls. Seen: 55 to 61 ms at best, with six programs for each core."""
    longest = []
    while not longest or (min(longest) >= LONGEST_TASK_MS and len(longest) < TRIES):
        visit = visits(page_server.url)
        visit.go()
        planned(visit)
        since = visit.now()
        load(visit)
        ready(visit)
        say(visit)
        field(visit).press_sequentially("and what I type meanwhile", delay=20)
        visit.page.mouse.wheel(0, 300)
        complete(visit)
        longest.append(max((length for _, length in visit.long_tasks(since)), default=0.0))
    assert min(longest) < LONGEST_TASK_MS, longest

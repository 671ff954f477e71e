"""The page for people who use no mouse, who hear it, who see little, or whom things that move make ill: in Chromium."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.axe import grave_issues
from tests.browser.pages import DESKTOP, NETWORK, ONLY_CHROMIUM, PHONE
from tests.browser.steps import PROMPT, answers, check_link, complete, field, load, planned, ready, say

pytestmark = [ONLY_CHROMIUM, pytest.mark.usefixtures("cpu")]


def test_the_whole_way_by_keyboard(visit):
    """From the address bar to a second text, with Tab, Enter, Escape and keys that write."""
    visit.go()
    keys = visit.page.keyboard
    planned(visit)
    visit.tab_to(lambda at: at.endswith("Skip to the content"), "the way past the header", most=1)
    keys.press("Enter")
    visit.tab_to(lambda at: "Link to a GGUF file" in at, "the link", most=3)
    keys.type("models/demo.gguf")
    keys.press("Enter")
    planned(visit)
    visit.tab_to(lambda at: at.startswith("button Demo model"), "the demo model")
    keys.press("Enter")
    planned(visit)
    visit.tab_to(lambda at: at.startswith("range"), "the memory's slider")
    keys.press("Home")
    visit.sees("Yes, by streaming")
    keys.press("End")
    visit.sees("Yes, it runs here")
    visit.tab_to(lambda at: at.startswith("radio"), "the devices")
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    expect(visit.role("radio", "CPU")).to_be_checked()
    planned(visit)
    visit.tab_to(lambda at: "Load and chat" in at, "the button that loads")
    keys.press("Enter")
    ready(visit)
    visit.until(lambda: "Your " in visit.focused() or visit.tab_to(lambda at: "Your " in at, "the field to write in") is None)
    keys.type(PROMPT)
    keys.press("Enter")
    complete(visit)
    visit.tab_to(lambda at: re.search("Regenerate|Write anew", at) is not None, "writing it anew", back=True)
    keys.press("Enter")
    complete(visit)
    visit.tab_to(lambda at: at.endswith("Storage"), "the storage", back=True)
    keys.press("Enter")
    expect(visit.role("dialog", "Storage")).to_be_visible()
    keys.press("Escape")
    expect(visit.role("dialog", "Storage")).to_have_count(0)
    assert visit.focused().endswith("Storage")


def test_what_has_the_focus_is_seen(visit):
    """Each stop of Tab looks otherwise than without the focus: an outline or a border of a colour that it did not have."""
    visit.go()
    planned(visit)
    unseen, first = [], None
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        at = visit.focused()
        if at == first or at.startswith("body"):
            break
        first = first or at
        if not visit.page.evaluate(
            """() => {
              const at = document.activeElement;
              // The ring of a radio button that is drawn as a segment is its label's.
              const shown = [at, at.nextElementSibling, at.closest("label"), at.parentElement].filter(Boolean);
              return shown.some((one) => {
                const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(one);
                return (outlineStyle !== "none" && parseFloat(outlineWidth) >= 1) || boxShadow !== "none";
              });
            }"""
        ):
            unseen.append(at)
    assert first
    assert not unseen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_grave_is_in_the_way(visits, page_server, size, scheme):
    """In the main states axe-core finds nothing that is serious or critical."""
    visit = visits(page_server.url, size=size, scheme=scheme, motion="reduce")  # or it would measure colours on their way
    visit.expected.append(NETWORK)
    visit.go()
    found = {}

    def look(state: str) -> None:
        found[state] = grave_issues(visit.page)

    planned(visit)
    look("a plan")
    visit.button("About and help").click()
    look("about")
    visit.page.keyboard.press("Escape")
    check_link(visit, "models/none.gguf")
    visit.sees("no such file")
    look("a problem")
    visit.button(re.compile("^Demo model")).click()
    planned(visit)
    load(visit)
    ready(visit)
    look("an empty chat")
    say(visit)
    complete(visit)
    look("a chat")
    visit.button("Storage").click()
    visit.sees("Kept on this device")
    visit.sees("demo.gguf")
    look("the storage")
    visit.page.keyboard.press("Escape")
    if size == PHONE:
        for name in ("Conversations", re.compile("^Engine")):
            visit.button(name).click()
            expect(visit.role("dialog")).to_be_visible()
            look(str(name))
            visit.page.keyboard.press("Escape")
    assert {state: issues for state, issues in found.items() if issues} == {}


def test_nothing_moves_for_those_who_do_not_want_it(visits, page_server):
    visit = visits(page_server.url, motion="reduce")
    visit.go()
    moving = "() => document.getAnimations().map((one) => one.animationName ?? one.transitionProperty)"
    visit.sees("Reading its header")
    assert visit.page.evaluate(moving) == []
    planned(visit)
    load(visit)
    ready(visit)
    assert visit.page.evaluate(moving) == []
    say(visit)
    assert visit.page.evaluate(moving) == []
    complete(visit)
    assert visit.page.evaluate(moving) == []


def test_a_phone_shows_all_of_it(visits, page_server):
    """Nothing is wider than the window, whatever is opened, and a text can be written."""
    visit = visits(page_server.url, size=PHONE)
    visit.go()
    too_wide = "() => document.documentElement.scrollWidth - innerWidth"
    planned(visit)
    assert visit.page.evaluate(too_wide) <= 0
    load(visit)
    ready(visit)
    assert visit.page.evaluate(too_wide) <= 0
    say(visit)
    complete(visit)
    assert visit.page.evaluate(too_wide) <= 0
    for name in ("Conversations", re.compile("^Engine"), "Storage"):
        visit.button(name).click()
        dialog = visit.role("dialog").filter(visible=True)
        expect(dialog).to_be_visible()
        assert visit.page.evaluate(too_wide) <= 0
        visit.page.keyboard.press("Escape")
    assert answers(visit)
    expect(field(visit)).to_be_in_viewport()


def test_what_happens_is_told(visit):
    """To who hears the page: what is read, that a model is ready, that a text begins and ends. In few words."""
    visit.go()
    told = visit.role("status")
    expect(told.filter(has_text=re.compile("can run here"))).to_have_count(1)
    load(visit)
    expect(told.filter(has_text=re.compile("is ready"))).to_have_count(1)
    say(visit)
    complete(visit)
    expect(told.filter(has_text="The text is complete")).to_have_count(1)

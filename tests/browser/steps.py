"""Steps of a visit to the page, as a person would say them; the page's words stand here, once for all flows."""

import re

from playwright.sync_api import Locator, expect

from tests.browser.pages import Visit

LOAD = "Load and chat"
LINK = re.compile("Link to a GGUF file")
PROMPT = "Once upon a time"
ENOUGH = 20  # characters of a text


def planned(visit: Visit) -> None:
    """Until the model that was chosen can be loaded."""
    expect(visit.button(LOAD)).to_be_enabled()


def ready(visit: Visit) -> None:
    """Until a message can be sent and all weights are there."""
    expect(visit.page.get_by_text("Ready", exact=True)).to_be_visible()
    expect(field(visit)).to_be_visible()


def load(visit: Visit) -> None:
    visit.button(LOAD).click()


def check_link(visit: Visit, link: str) -> None:
    visit.labelled(LINK).fill(link)
    visit.labelled(LINK).press("Enter")


def field(visit: Visit) -> Locator:
    return visit.role("textbox", re.compile("Your (message|text)"))


def say(visit: Visit, text: str = PROMPT) -> None:
    field(visit).fill(text)
    field(visit).press("Enter")


def answers(visit: Visit) -> list[str]:
    """What the model wrote, message by message."""
    return visit.role("article", re.compile("wasmrt demo|Written by the model")).all_inner_texts()


def complete(visit: Visit) -> str:
    """The last answer, once it is whole."""
    visit.until(lambda: visit.role("button", "Send").count() + visit.role("button", "Continue").count(), "the text to end")
    visit.until(lambda: answers(visit) and len(answers(visit)[-1]) > ENOUGH, "a text")
    return answers(visit)[-1]


def works_offline(visit: Visit) -> None:
    """Until all that the page consists of is kept."""
    expect(visit.page.get_by_text("Ready to work offline", exact=True)).to_be_visible()

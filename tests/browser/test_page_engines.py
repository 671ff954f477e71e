"""The main flows of the page in engines that nobody drives from outside: Firefox and WebKitGTK, in a frame, by person.js."""

import pytest

from tests.browser.server import CORS, Site
from tests.range_server import RangeServer
from wasmrt.resources import demo_model

pytestmark = [
    pytest.mark.usefixtures("cpu"),
    pytest.mark.parametrize("browser", ["firefox", "webkit"], indirect=True),
]

SIZE = demo_model().stat().st_size

STEPS = """
import { visit } from "/remote/person.js";

const LOAD = "Load and chat", LINK = /^Link to a GGUF file/, FIELD = /^Your (message|text)$/;
const ready = async (person) => {
  await person.until(() => /^Ready$/m.test(person.text()), "ready");
  return person.find("textbox", FIELD);
};
const articles = (person) => [...person.document.querySelectorAll("article")].map((one) => one.innerText);
const complete = (person) => person.until(() => {
  const last = articles(person).at(-1) ?? "";
  return person.all("button", /^(Send|Continue)$/).length && last.length > 20 && last;
}, "a text");
const say = async (person, text) => {
  await person.write(FIELD, text);
  await person.press(/^(Send|Continue)$/);
};
const check = async (person, link) => {
  await person.write(LINK, link);
  await person.press("Plan it");
};
"""

VISIT = """
const person = await visit("/index.html");
"""


@pytest.fixture
def person(page, site: Site):
    """Runs the body of a function (args) that has `person` at the page."""
    site.models["demo.gguf"] = demo_model()

    def run(body: str, **args):
        return page.run(f"{STEPS}\nexport default async function (args) {{\n{VISIT}{body}\n}}", **args)

    return run


@pytest.fixture
def elsewhere():
    with RangeServer(demo_model()) as server:
        server.headers.update(CORS | {"Cross-Origin-Resource-Policy": "cross-origin"})
        yield server


def test_from_the_first_look_to_a_text_and_another(person):
    got = person("""
        await person.sees(/Yes, it runs here/);
        const plan = person.text();
        await person.press(LOAD);
        await ready(person);
        await say(person, "Once upon a time");
        const first = await complete(person);
        await say(person, "And then?");
        await person.until(() => articles(person).length === 4, "the second answer");
        return { plan, first, second: await complete(person) };
    """)
    assert "4.39 MiB" in got["plan"]
    assert len(got["first"]) > 20
    assert len(got["second"]) > 20


def test_a_text_is_stopped(person, elsewhere):
    """Its layers are read for each token, over a slow link."""
    elsewhere.bytes_per_second = 8e6
    got = person("""
        await check(person, args.url);
        await person.sees(/Yes, it runs here/);
        await person.press(/^Keep a copy/, "switch");
        await person.write("Memory", "9MiB");
        await person.sees(/Yes, by streaming/);
        await person.press(LOAD);
        await ready(person);
        await say(person, "Once upon a time");
        await person.until(() => articles(person)[1]?.length > 25, "some of the text");
        await person.press("Stop");
        await person.sees(/Stopped\\./);
        return articles(person)[1];
    """, url=elsewhere.url)  # fmt: skip
    assert "Stopped." in got


def test_a_load_is_cancelled_and_begun_again(person, elsewhere):
    elsewhere.bytes_per_second = SIZE / 5
    got = person("""
        await check(person, args.url);
        await person.sees(/Yes, it runs here/);
        await person.find("button", LOAD);
        await person.press(LOAD);
        await person.sees(/^[1-9]\\d? %/m);
        await person.press("Cancel");
        await person.find("button", LOAD);
        await person.press(LOAD);
        await ready(person);
        await say(person, "Once upon a time");
        return complete(person);
    """, url=elsewhere.url)  # fmt: skip
    assert len(got) > 20


def test_links_that_lead_nowhere(person):
    got = person("""
        await check(person, "models/none.gguf");
        const missing = await person.sees(/no such file/);
        await check(person, "my model");
        const wrong = await person.sees(/neither a link/);
        await check(person, "remote/remote.html");
        const other = await person.sees(/neither a link|damaged, or no GGUF model/);
        await person.press(/^Demo model/);
        await person.sees(/Yes, it runs here/);
        return [missing, wrong, other];
    """)
    assert got[:2] == ["no such file", "neither a link"]


def test_a_file_of_ones_own_disk(person):
    got = person("""
        const bytes = await (await person.window.fetch("/models/demo.gguf")).blob();
        await person.pick(/GGUF file/, new person.window.File([bytes], "mine.gguf"));
        await person.sees(/nothing is uploaded or copied/);
        await person.press(LOAD);
        await ready(person);
        await say(person, "Once upon a time");
        return complete(person);
    """)
    assert len(got) > 20

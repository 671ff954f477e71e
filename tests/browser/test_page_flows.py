"""What a person does with the page, from the first look to the last word, and what goes wrong on the way: in Chromium.

Each flow is driven by what can be seen or heard, and ends in the right state and text. Every visit is checked for errors, for
what the policy refuses and for whom it asks: see pages.py.
"""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.pages import NETWORK, ONLY_CHROMIUM, Elsewhere, Visit, page_folder
from tests.browser.steps import (
    LINK,
    LOAD,
    PROMPT,
    answers,
    check_link,
    complete,
    field,
    load,
    planned,
    ready,
    say,
    works_offline,
)
from tests.range_server import RangeServer
from tests.serve_running import running
from wasmrt.resources import demo_model
from wasmrt.serve.app import make_app

pytestmark = [ONLY_CHROMIUM, pytest.mark.usefixtures("cpu")]

SIZE = demo_model().stat().st_size


@pytest.fixture
def elsewhere(visit: Visit) -> Iterator[RangeServer]:
    """The demo model, on another origin."""
    with Elsewhere(demo_model()) as server:
        visit.origins.add(f"http://127.0.0.1:{server.port}")
        yield server


def test_from_the_first_look_to_a_text_and_another(visit):
    visit.go()
    visit.sees("Yes, it runs here")
    visit.sees(re.compile(r"(about|over)\s+[\d.]+\s+tokens/s"))
    visit.sees(re.compile("4.* MiB"))
    planned(visit)
    load(visit)
    ready(visit)
    say(visit)
    first = complete(visit)
    say(visit, "And then?")
    visit.until(lambda: len(answers(visit)) == 2)
    assert complete(visit)
    assert answers(visit)[0] == first


def streaming(visit: Visit, elsewhere: RangeServer) -> None:
    """Open the demo model so that it writes slowly: its layers are read for each token, over a slow link."""
    visit.go()
    check_link(visit, elsewhere.url)
    visit.sees("Yes, it runs here")
    visit.role("switch", re.compile("Keep a copy")).uncheck()
    visit.role("textbox", "Memory").fill("9MiB")
    visit.sees("Yes, by streaming")
    planned(visit)
    load(visit)
    ready(visit)
    elsewhere.bytes_per_second = 8e6


def test_a_text_is_stopped_and_written_anew(visit, elsewhere):
    streaming(visit, elsewhere)
    say(visit)
    visit.until(lambda: answers(visit) and len(answers(visit)[-1]) > 10)
    visit.button("Stop").click()
    visit.sees("Stopped.")
    stopped = answers(visit)[-1]
    elsewhere.bytes_per_second = None
    visit.role("article").last.hover()
    visit.button(re.compile("Regenerate|Write anew")).click()
    visit.until(lambda: "Stopped." not in answers(visit)[-1] and len(answers(visit)[-1]) > len(stopped), "another text")
    visit.button("Stop").click()
    assert len(answers(visit)) == 1


def test_a_load_is_cancelled_and_begun_again(visit, elsewhere):
    visit.go()
    check_link(visit, elsewhere.url)
    planned(visit)
    elsewhere.bytes_per_second = SIZE / 60
    load(visit)
    progress = visit.role("progressbar", re.compile("Opening|Loading")).first
    expect(progress).to_be_visible()
    visit.sees(re.compile(r"\d+ %"))
    visit.button("Cancel").click()
    planned(visit)
    sent = elsewhere.sent
    visit.page.wait_for_timeout(700)
    assert elsewhere.sent - sent < SIZE / 20, "it went on reading"  # seen: 0
    elsewhere.bytes_per_second = None
    load(visit)
    ready(visit)
    say(visit)
    complete(visit)


def test_a_file_of_ones_own_disk(visit):
    visit.go()
    with visit.page.expect_file_chooser() as chosen:
        visit.button(re.compile("a file…")).click()
    chosen.value.set_files(demo_model())
    visit.sees("nothing is uploaded or copied")
    planned(visit)
    load(visit)
    ready(visit)
    say(visit)
    complete(visit)


def test_a_file_is_dropped_on_the_page(visit):
    visit.go()
    planned(visit)
    visit.page.evaluate(
        """async () => {
          const bytes = await (await fetch("models/demo.gguf")).blob();
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "dropped.gguf"));
          window.drag = (kind) => document.body.dispatchEvent(
            new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
          drag("dragenter");
          drag("dragover");
        }"""
    )
    visit.sees("Drop a GGUF file")
    visit.page.evaluate("() => drag('drop')")
    visit.sees_no("Drop a GGUF file")
    visit.sees("dropped.gguf")
    visit.sees("nothing is uploaded or copied")
    planned(visit)


@pytest.mark.parametrize(("link", "text"), [
    ("models/none.gguf", "no such file"),
    ("http://127.0.0.1:9/model.gguf", re.compile("cannot be read|cannot be reached")),
])
def test_a_link_that_leads_nowhere(visit, link, text):
    visit.expected.append(NETWORK)
    visit.origins.add("http://127.0.0.1:9")
    visit.go()
    planned(visit)
    check_link(visit, link)
    visit.sees(text)
    expect(visit.button(LOAD)).to_be_disabled()
    visit.button("Try again").click()
    visit.sees(text)
    visit.button(re.compile("^Demo model")).click()
    planned(visit)
    visit.sees_no(text)


def test_the_second_time_needs_no_network(visits, page_files):
    """Page, engine and model come from this device: the server is gone."""
    with running(make_app(page=page_files)) as server:
        visit = visits(server.url)
        visit.go()
        planned(visit)
        works_offline(visit)
        load(visit)
        ready(visit)
        visit.until(lambda: kept(visit) == [("demo.gguf", True)], "the model to be kept")
    visit.expected.append(NETWORK)
    visit.offline()
    visit.reload()
    visit.sees("Nothing to fetch")
    planned(visit)
    load(visit)
    ready(visit)
    say(visit)
    complete(visit)


def kept(visit: Visit) -> list[tuple[str, bool]]:
    """Names of the models on the page's disk, and whether they are whole."""
    return [(model["name"], model["whole"]) for model in visit.page.evaluate(
        """async () => (await import("/storage.js")).list("/prefetch-worker.js")""")]


def test_what_is_kept_is_shown_and_deleted(visit, elsewhere):
    elsewhere.put(demo_model(), "/other.gguf")
    visit.go()
    for link in (elsewhere.url_of("/other.gguf"), elsewhere.url):
        check_link(visit, link)
        planned(visit)
        load(visit)
        ready(visit)
        visit.until(lambda: (link.split("/")[-1], True) in kept(visit), "the model to be kept")  # noqa: B023  called here
        if link != elsewhere.url:
            visit.button("Choose another model").click()
    visit.button("Storage").click()
    storage = visit.role("dialog", "Storage")
    panel = visit.role("region", "Kept on this device")
    for name, words in {"model.gguf": ["whole", "open now", "close it first"], "other.gguf": ["whole"]}.items():
        item = storage.get_by_role("listitem").filter(has_text=name)
        for word in [*words, f"127.0.0.1:{elsewhere.port}", "4.39 MiB"]:
            expect(item).to_contain_text(word)
    expect(storage.get_by_role("meter", name="Room for this site")).to_be_visible()
    expect(storage.get_by_role("button", name="Delete model.gguf")).to_have_count(0)

    storage.get_by_role("button", name="Keep them").click()
    said = panel.get_by_role("status")
    expect(said).to_contain_text(re.compile("The browser (will keep|did not agree)"))

    delete = storage.get_by_role("button", name="Delete other.gguf")
    delete.click()
    expect(storage.get_by_role("button", name="Keep", exact=True)).to_be_focused()
    visit.page.keyboard.press("Escape")
    expect(delete).to_be_focused()
    assert ("other.gguf", True) in kept(visit)
    delete.click()
    storage.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    expect(said).to_have_text("other.gguf: deleted, 4.39 MiB freed.")
    assert ("other.gguf", True) not in kept(visit)

    visit.page.keyboard.press("Escape")
    visit.button("Choose another model").click()
    visit.button("Storage").click()
    delete = storage.get_by_role("button", name="Delete model.gguf")
    delete.click()
    storage.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    visit.until(lambda: ("model.gguf", True) not in kept(visit), "it to be deleted")


def test_what_is_no_link_is_said_at_once(visit):
    visit.go()
    check_link(visit, "my model")
    visit.sees("neither a link")
    expect(visit.labelled(LINK)).to_be_focused()


def test_what_is_no_model(visit, elsewhere):
    elsewhere.put(b"<!doctype html><title>Not a model</title>" * 100, "/page.gguf")
    visit.go()
    check_link(visit, elsewhere.url_of("/page.gguf"))
    visit.sees(re.compile("damaged, or no GGUF model"))
    expect(visit.button(LOAD)).to_be_disabled()
    check_link(visit, elsewhere.url)
    planned(visit)


def test_a_server_dies_while_a_model_loads_and_comes_back(visit, elsewhere):
    visit.expected.append(NETWORK)
    visit.go()
    check_link(visit, elsewhere.url)
    planned(visit)
    elsewhere.bytes_per_second = SIZE / 8
    load(visit)
    visit.sees(re.compile(r"[1-9]\d? %"))
    elsewhere.stop()
    visit.page.wait_for_timeout(2000)
    visit.sees(re.compile(r"\d+ %"))
    elsewhere.bytes_per_second = None
    elsewhere.start()
    ready(visit)
    say(visit)
    complete(visit)


def test_a_server_dies_and_stays_away_until_one_tries_again(visits, elsewhere, tmp_path):
    """The page waits for two minutes, which are six seconds here: after five it is not tried anew by the engine."""
    hasty = page_folder(tmp_path / "web", instead=[
        ("prefetch-worker.js", "totalSeconds: 120", "totalSeconds: 6"),
        ("prefetch-worker.js", "stallSeconds: 60", "stallSeconds: 6"),
    ])
    with running(make_app(page=hasty)) as server:
        visit = visits(server.url)
        visit.expected.append(NETWORK)
        visit.origins.add(f"http://127.0.0.1:{elsewhere.port}")
        visit.go()
        check_link(visit, elsewhere.url)
        planned(visit)
        elsewhere.bytes_per_second = SIZE / 8
        load(visit)
        visit.sees(re.compile(r"[1-9]\d? %"))
        field(visit).fill("My own words")
        elsewhere.stop()
        visit.sees("The model cannot be read")
        elsewhere.bytes_per_second = None
        elsewhere.start()
        visit.button(re.compile("Try again|Restart and load it again")).first.click()
        ready(visit)
        expect(field(visit)).to_have_value("My own words")
        field(visit).press("Enter")
        complete(visit)


def test_the_disk_is_full(visit, elsewhere):
    """The model works, the person is told, and what to do is a choice."""
    visit.go()
    planned(visit)
    works_offline(visit)  # the page's own parts are kept already
    session = visit.context.new_cdp_session(visit.page)
    origin = {"origin": visit.url.rstrip("/")}
    usage = session.send("Storage.getUsageAndQuota", origin)["usage"]
    session.send("Storage.overrideQuotaForOrigin", {**origin, "quotaSize": usage + 2_000_000})
    check_link(visit, elsewhere.url)
    visit.sees("no room for a copy")
    planned(visit)
    visit.button("Make room…").click()
    storage = visit.role("dialog", "Storage")
    storage.get_by_role("button", name="Delete demo.gguf").click()
    storage.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
    visit.sees("demo.gguf: deleted")
    storage.get_by_role("button", name="Close").click()
    visit.sees_no("no room for a copy")
    load(visit)
    ready(visit)
    visit.sees("may keep no more on the disk")
    say(visit)
    complete(visit)


def test_without_webgpu_the_cpu_computes(visits, tmp_path):
    gone = 'Object.defineProperty(Object.getPrototypeOf(navigator), "gpu", { get: () => undefined });\n'
    with running(make_app(page=page_folder(tmp_path / "web", before={"engine-worker.js": gone}))) as server:
        visit = visits(server.url, script=gone)
        visit.go()
        visit.sees("no WebGPU")
        visit.role("radio", "GPU").check()
        visit.sees("navigator.gpu is missing")
        expect(visit.button(LOAD)).to_be_disabled()
        visit.role("radio", "CPU").check()
        planned(visit)
        load(visit)
        ready(visit)
        say(visit)
        complete(visit)


def test_a_lost_gpu_does_not_lose_the_text(visits, tmp_path):
    remember = """self.devices = [];
const { requestDevice } = GPUAdapter.prototype;
GPUAdapter.prototype.requestDevice = async function (...how) {
  const device = await requestDevice.apply(this, how);
  self.devices.push(device);
  return device;
};
"""
    with running(make_app(page=page_folder(tmp_path / "web", before={"engine-worker.js": remember}))) as server:
        visit = visits(server.url)
        visit.go()
        planned(visit)
        visit.role("radio", "GPU").check()
        visit.sees("WebGPU: ")
        planned(visit)
        load(visit)
        ready(visit)
        say(visit)
        visit.until(lambda: answers(visit) and len(answers(visit)[-1]) > 10)
        (engine,) = [worker for worker in visit.page.workers if "engine-worker" in worker.url]
        assert engine.evaluate("() => devices.map((device) => device.destroy()).length") >= 1
        visit.sees(re.compile("The device cannot be used|The answer broke off"))
        visit.sees(PROMPT)
        visit.button("Use the CPU").click()
        ready(visit)
        visit.sees(PROMPT)
        say(visit, "And then?")
        complete(visit)


def test_an_engine_that_ends_is_started_again_with_the_conversation(visit):
    visit.go()
    planned(visit)
    load(visit)
    ready(visit)
    say(visit)
    said = complete(visit)
    field(visit).fill("Half a sent")
    assert visit.end_workers("engine-worker") == 1
    visit.sees("The engine has stopped")
    visit.button("Restart and load it again").click()
    ready(visit)
    visit.sees_no("The engine has stopped")
    assert answers(visit)[-1] == said
    expect(field(visit)).to_have_value("Half a sent")
    say(visit, "And then?")
    visit.until(lambda: len(answers(visit)) == 2)
    complete(visit)

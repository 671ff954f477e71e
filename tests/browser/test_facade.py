"""web/wasmrt.js as a page uses it: everything that it can be asked, broken off at every place, and nothing left behind."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

import wasmrt
from tests.browser.conftest import Page
from tests.browser.server import CORS, PageError, Site
from tests.range_server import RangeServer
from wasmrt.resources import demo_model
from wasmrt.sync import SyncModel

pytestmark = pytest.mark.usefixtures("cpu")

PROMPT = "Once upon a time"
LONG = {"Cross-Origin-Resource-Policy": "cross-origin"}

# What every snippet begins with. `workers` are those of the page itself that were started and not ended; `left` counts them
# when the engine, which waits a moment for the next model, has had time to end.
HEAD = """
import { examine, forget, open, WasmrtError } from "/wasmrt.js";

if (!globalThis.workers) {
  globalThis.workers = new Set();
  const Plain = globalThis.Worker;
  globalThis.Worker = class extends Plain {
    constructor(...how) { super(...how); globalThis.workers.add(this); }
    terminate() { globalThis.workers.delete(this); super.terminate(); }
  };
}
const DEMO = "/models/demo.gguf";
const PROMPT = "Once upon a time";
async function refused(promise) {
  try { await promise; } catch (error) { return [error.name, error.kind ?? null, error.message]; }
  return null;
}
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function left() {
  for (let i = 0; i < 300 && workers.size; i++) await sleep(100);
  return workers.size;
}
async function write(model, options) {
  const text = model.generate(PROMPT, options);
  const pieces = [];
  for await (const piece of text) pieces.push(piece);
  return { pieces, text: text.text, tokens: text.tokens, stats: text.stats };
}
"""


def run(page: Page, body: str, **args):
    return page.run(f"{HEAD}\nexport default async function (args, {{ note }}) {{\n{body}\n}}", **args)


@pytest.fixture(autouse=True)
def _demo(site: Site) -> None:
    site.models["demo.gguf"] = demo_model()


@pytest.fixture(scope="module")
def native() -> Iterator[SyncModel]:
    with wasmrt.load(device="cpu") as model:
        yield model


@pytest.fixture
def slow() -> Iterator[RangeServer]:
    """The demo model, which takes half a minute to arrive."""
    with RangeServer(demo_model()) as server:
        server.headers.update(CORS | LONG)
        server.bytes_per_second = demo_model().stat().st_size / 30
        yield server


def test_everything_that_a_model_can_be_asked(kept_page, native):
    got = run(kept_page, """
        const progress = [];
        const model = await open(DEMO, { device: "cpu", threads: 1, context: 300, onprogress: (...n) => progress.push(n) });
        await model.loaded();
        const ids = await model.tokenize(PROMPT, { addBos: true });
        const written = await write(model, { maxTokens: 30 });
        const drawn = await write(model, { maxTokens: 20, temperature: 0.9, topK: 50, topP: 0.9, minP: 0.01, seed: 7 });
        const chat = model.chat([{ role: "user", content: "Hi" }], { maxTokens: 8 });
        for await (const piece of chat);
        const logits = await model.logits(ids);
        const stats = await model.stats();
        const { config, plan, name } = model;
        await model.lowerMemory(plan.budget - 1);
        const later = { budget: model.plan.budget, written: (await write(model, { maxTokens: 30 })).text };
        await Promise.all([model.close(), model.close()]);
        const closed = await refused(model.tokenize("x"));
        const back = await refused(model.generate(PROMPT).next());
        return { progress, ids, written, drawn, chat: chat.text, logits, stats, config, plan, name, closed, back, later,
                 alive: await left() };
    """)  # fmt: skip
    ids = native.tokenize(PROMPT, add_bos=True)
    greedy = native.generate(PROMPT, max_tokens=30)
    drawn = native.generate(PROMPT, max_tokens=20, temperature=0.9, top_k=50, top_p=0.9, min_p=0.01, seed=7)
    pieces = list(greedy)
    assert got["ids"] == ids
    assert got["written"]["pieces"] == pieces
    assert got["written"]["text"] == greedy.text
    assert got["written"]["tokens"] == greedy.tokens
    assert got["written"]["stats"]["finish"] == "length"
    assert got["drawn"]["text"] == "".join(drawn)
    assert got["chat"] == "".join(native.chat([{"role": "user", "content": "Hi"}], max_tokens=8))
    assert got["logits"].tobytes() == np.asarray(native.logits(ids)).tobytes()
    assert got["config"] == json.loads(json.dumps(native.config.as_dict()))
    assert got["plan"]["context"] == 300
    assert got["later"] == {"budget": got["plan"]["budget"] - 1, "written": greedy.text}
    assert got["stats"]["threads"] == 1
    assert got["name"].endswith("/models/demo.gguf")
    assert got["progress"][-1] == [got["plan"]["weight_bytes"]] * 2
    assert got["closed"][1] == got["back"][1] == "DeviceError"
    assert got["alive"] == 0


def test_models_of_a_page_share_a_worker_that_ends_after_the_last(kept_page, native):
    got = run(kept_page, """
        const models = await Promise.all([open(DEMO, { device: "cpu" }), open(DEMO, { device: "cpu:plain" })]);
        const during = workers.size;
        const texts = await Promise.all(models.map((model) => write(model, { maxTokens: 12 })));
        await models[0].close();
        const one = workers.size;
        const again = await write(models[1], { maxTokens: 12 });
        await models[1].close();
        const soon = workers.size;
        return { during, one, soon, after: await left(), texts: [...texts, again].map(({ text }) => text) };
    """)
    text = "".join(native.generate(PROMPT, max_tokens=12))
    assert got == {"during": 1, "one": 1, "soon": 1, "after": 0, "texts": [text] * 3}


def test_a_file_a_blob_and_bytes_are_models(kept_page, native):
    got = run(kept_page, """
        const kept = await open(DEMO, { device: "cpu" }); // and with it the worker: Pyodide need not start for each
        const blob = await (await fetch(DEMO)).blob();
        const texts = [], names = [];
        for (const ref of [new File([blob], "story.gguf"), blob, await blob.arrayBuffer(), new URL(DEMO, location.href)]) {
          const model = await open(ref, { device: "cpu" });
          texts.push((await write(model, { maxTokens: 5 })).text);
          names.push(model.name);
          await model.close();
        }
        await kept.close();
        return { texts, names };
    """)
    assert got["texts"] == ["".join(native.generate(PROMPT, max_tokens=5))] * 4
    assert got["names"][0] == "story.gguf"


def test_a_text_can_be_left_stopped_and_broken_off(kept_page, native):
    got = run(kept_page, """
        const model = await open(DEMO, { device: "cpu" });
        const left = model.generate(PROMPT, { maxTokens: null });
        for await (const piece of left) if (left.text.length > 20) break;

        const stopped = model.generate(PROMPT, { maxTokens: null });
        for await (const piece of stopped) if (stopped.text.length > 20) stopped.stop();

        const abort = new AbortController();
        const broken = model.generate(PROMPT, { maxTokens: null, signal: abort.signal });
        const error = await refused((async () => {
          for await (const piece of broken) if (broken.text.length > 20) abort.abort();
        })());
        const before = await refused(model.generate(PROMPT, { signal: abort.signal }).next());
        const asked = await refused(model.logits([1, 2], { signal: abort.signal }));
        const unread = model.generate(PROMPT);
        await unread.stop();
        const end = await unread.next();
        const text = (await write(model, { maxTokens: 12 })).text;
        await model.close();
        return { left: left.stats.finish, stopped: stopped.stats.finish, error, before, asked, end, text };
    """)
    assert got["left"] == got["stopped"] == "closed"
    assert got["error"][0] == got["before"][0] == got["asked"][0] == "AbortError"
    assert got["end"]["done"] is True
    assert got["text"] == "".join(native.generate(PROMPT, max_tokens=12))


def test_a_reader_that_is_slow_gets_all_of_it(kept_page, native):
    got = run(kept_page, """
        const model = await open(DEMO, { device: "cpu" });
        const text = model.generate(PROMPT, { maxTokens: 60 });
        let n = 0;
        for await (const piece of text) if (n++ % 10 === 0) await sleep(100);
        await model.close();
        return { text: text.text, tokens: text.tokens };
    """)
    wanted = native.generate(PROMPT, max_tokens=60)
    assert got == {"text": "".join(wanted), "tokens": wanted.tokens}


@pytest.mark.parametrize("when", ["at once", "while it starts", "while weights come"])
def test_opening_can_be_broken_off(kept_page, slow, when):
    """At once for the page; and then nothing of it is left."""
    got = run(kept_page, """
        const abort = new AbortController();
        let opening;
        if (args.when === "at once") abort.abort();
        if (args.when === "while weights come") {
          // One that is open keeps the worker: what is broken off has to go by itself.
          const other = await open(DEMO, { device: "cpu" });
          const model = await open(args.url, { device: "cpu", cache: false });
          const text = refused(model.generate(PROMPT).next());
          await sleep(500);
          const started = performance.now();
          await model.close();
          const seconds = (performance.now() - started) / 1000;
          const ended = await text;
          const fine = (await write(other, { maxTokens: 3 })).tokens.length;
          await other.close();
          return { ended, seconds, fine, alive: await left() };
        }
        const started = performance.now();
        setTimeout(() => abort.abort(), 50);
        const ended = await refused(open(args.url, { device: "cpu", cache: false, signal: abort.signal }));
        const seconds = (performance.now() - started) / 1000;
        return { ended, seconds, fine: 3, alive: await left() };
    """, when=when, url=slow.url)  # fmt: skip
    assert got["ended"][0] == "AbortError" or got["ended"][1] == "AbortError"
    assert got["seconds"] < 15  # seen: 0.1; the model takes 30
    assert got["fine"] == 3
    assert got["alive"] == 0


@pytest.mark.parametrize(
    ("ref", "options", "kind"),
    [
        ("/models/none.gguf", {}, "SourceError"),
        ("/remote/remote.html", {}, "FormatError"),
        ("/models/demo.gguf", {"memory": "1MiB"}, "BudgetError"),
        ("/models/demo.gguf", {"memory": "lots"}, "ValueError"),
        ("/models/demo.gguf", {"device": "tpu"}, "DeviceError"),
        ("/models/demo.gguf", {"speed": 11}, "TypeError"),
        (7, {}, "TypeError"),
    ],
)
def test_what_cannot_be_opened_is_told_by_kind(kept_page, ref, options, kind):
    got = run(kept_page, "return [await refused(open(args.ref, args.options)), workers.size]", ref=ref, options=options)
    assert got[0][:2] == ["WasmrtError", kind]
    assert "\n" not in got[0][2]
    assert got[1] <= 1


def test_what_was_refused_keeps_no_worker(kept_page):
    assert run(kept_page, "return [await refused(open(\"/models/none.gguf\")), workers.size, await left()]")[1:] == [1, 0]


def test_arguments_out_of_range_are_told_by_kind(kept_page, native):
    got = run(kept_page, """
        const model = await open(DEMO, { device: "cpu", context: 32 });
        const kinds = [];
        for (const attempt of [
          () => model.generate(PROMPT.repeat(100)).next(),
          () => model.generate(PROMPT, { topP: 7 }).next(),
          () => model.generate(PROMPT, { seed: 2n ** 64n }).next(),
          () => model.generate(PROMPT, { topK: () => 7 }).next(),
          () => model.chat([{ role: "user", content: 7n }]).next(),
          () => model.detokenize([1e9]),
          () => model.logits([]),
          () => model.lowerMemory("1PiB"),
        ]) kinds.push((await refused(attempt()))[1]);
        const seeded = (await write(model, { temperature: 1, seed: 2n ** 64n - 1n, maxTokens: 4 })).tokens;
        await model.close();
        return { kinds, seeded };
    """)
    kinds = ["ContextFull", "ValueError", "ValueError", "TypeError", "TypeError", "ValueError", "ValueError", "ValueError"]
    assert got["kinds"] == kinds
    wanted = native.generate(PROMPT, temperature=1.0, seed=2**64 - 1, max_tokens=4)
    assert "".join(wanted)
    assert got["seeded"] == wanted.tokens


def test_an_engine_that_ends_is_told_and_can_be_started_again(page, native):
    """Whoever waits gets the error within a moment, whatever it waits for."""
    got = run(page, """
        const model = await open(DEMO, { device: "cpu" });
        const text = model.generate(PROMPT, { maxTokens: null });
        await text.next();
        const reading = (async () => { for await (const piece of text); })();
        const asking = model.logits(Array(200).fill(1));
        for (const worker of workers) Object.getPrototypeOf(Object.getPrototypeOf(worker)).terminate.call(worker);
        workers.clear();
        const started = performance.now();
        const errors = [await refused(reading), await refused(asking), await refused(model.stats())];
        const seconds = (performance.now() - started) / 1000;
        await model.close();
        const other = await open(DEMO, { device: "cpu" });
        const written = await write(other, { maxTokens: 4 });
        await other.close();
        return { errors, seconds, text: written.text };
    """)
    assert [kind for _, kind, _ in got["errors"]] == ["EngineStopped"] * 3
    assert got["seconds"] < 10  # seen: 0.1
    assert got["text"] == "".join(native.generate(PROMPT, max_tokens=4))


@pytest.mark.parametrize("path", ["/engine-worker.js", "/pyodide/pyodide.mjs"])
def test_an_engine_that_does_not_start_is_told(kept_page, site, path):
    site.files[path] = b"throw new Error('broken');"
    try:
        got = run(kept_page, "await left(); return [await refused(open(DEMO)), workers.size]")
    finally:
        del site.files[path]
    assert got[0][1] == "EngineStopped"
    assert got[1] == 0


def test_where_a_model_is_can_be_seen_while_it_comes_and_writes(kept_page, slow):
    """Polled as a page does. Where memory is shared the answer comes while a pass runs."""
    got = run(kept_page, """
        const model = await open(args.url, { device: "cpu", cache: false });
        const arriving = await model.map();
        await model.close();
        const other = await open(DEMO, { device: "cpu", memory: "9MiB" });
        const text = other.generate(PROMPT, { maxTokens: 60 });
        let done = false;
        const reading = (async () => { for await (const piece of text); done = true; })();
        const seen = [], times = [];
        while (!done) {
          const started = performance.now();
          seen.push(await other.map());
          times.push(performance.now() - started);
          await sleep(5);
        }
        await reading;
        const last = await other.map(), stats = await other.stats();
        await other.close();
        const closed = await refused(other.map());
        times.sort((a, b) => a - b);
        return { arriving, seen, last, stats, plan: other.plan, closed, ms: times[times.length >> 1] };
    """, url=slow.url)  # fmt: skip
    first, last = got["arriving"], got["last"]
    assert sum(segment["resident"] for segment in first["segments"]) < sum(segment["bytes"] for segment in first["segments"])
    assert first["reading"] == sum(segment["arriving"] for segment in first["segments"]) > 0
    assert first["tiers"]["network"]["bytes"] > 0
    assert first["tiers"]["disk"] is None
    assert [segment["name"] for segment in last["segments"]] == ["embedding", "blk.0", "blk.1", "blk.2", "blk.3", "head"]
    assert 0 < last["read_bytes"] <= got["stats"]["store"]["bytes_read"]  # the next pass's weights are on their way
    assert last["bytes_per_pass"] > 0
    assert last["bytes_bound"] == got["plan"]["bytes_bound"]
    assert last["tiers"]["memory"]["used"] <= got["plan"]["total_bytes"] <= last["tiers"]["memory"]["of"]
    assert {0, 1} <= {segment["in_use"] for found in got["seen"] for segment in found["segments"]}
    assert got["closed"][1] == "DeviceError"


def test_a_model_is_examined_before_it_is_opened(kept_page, site, native):
    """In one worker, the header from the network once; the plan is that of the model which is opened then."""
    got = run(kept_page, """
        const notes = [], times = [];
        const ask = async (options) => {
          const started = performance.now();
          const found = await examine(DEMO, { device: "cpu", threads: 1, onnote: (text) => notes.push(text), ...options });
          times.push(performance.now() - started);
          return found;
        };
        const whole = await ask({}), small = await ask({ memory: "9MiB" }), none = await ask({ memory: "1MiB" });
        const enough = await ask({ memory: none.needs_bytes });
        const workersThen = workers.size;
        const model = await open(DEMO, { device: "cpu", threads: 1, memory: "9MiB" });
        await model.loaded();
        const during = await ask({ memory: "9MiB" });
        const text = (await write(model, { maxTokens: 6 })).text;
        await model.close();
        return { whole, small, none, enough, during, plan: model.plan, text, workersThen, notes, times };
    """)
    whole, small, none = got["whole"], got["small"], got["none"]
    size = demo_model().stat().st_size
    assert (whole["name"], whole["size"], whole["n_layers"]) == ("demo.gguf", size, native.config.n_layers)
    assert (whole["runs"], whole["why_not"], whole["kind"], whole["chat"]) == (True, None, None, True)
    assert whole["plan"]["streamed_bytes"] == 0 < small["plan"]["streamed_bytes"]
    assert small["plan"].pop("minimum_bytes") <= got["plan"].pop("minimum_bytes")  # the plan says the smallest that works
    assert small["plan"] == got["plan"]
    assert small["predicted"]["read_bytes"] == small["plan"]["streamed_bytes"]
    assert (none["runs"], none["kind"], none["needs"], none["plan"]) == (False, "BudgetError", "memory", None)
    assert got["enough"]["plan"]["budget"] == none["needs_bytes"]
    assert whole["predicted"]["tokens_per_second"] > 0
    assert whole["download"]["bytes"] + whole["download"]["cached_bytes"] == size
    assert whole["download"]["quota"] is None or whole["download"]["quota"] > whole["download"]["usage"]
    assert got["during"]["download"]["cached_bytes"] in (0, size)  # 0 where the browser has no such disk
    assert got["text"] == "".join(native.generate(PROMPT, max_tokens=6))
    assert got["workersThen"] == 1
    assert max(got["times"][1:]) < 2000  # seen: 60 ms


@pytest.mark.parametrize(
    ("ref", "options", "kind"),
    [
        ("/models/none.gguf", {}, "SourceError"),
        ("/remote/remote.html", {}, "FormatError"),
        ("/models/demo.gguf", {"memory": "lots"}, "ValueError"),
        ("/models/demo.gguf", {"speed": 11}, "TypeError"),
    ],
)
def test_what_cannot_be_examined_is_told_by_kind(kept_page, ref, options, kind):
    got = run(kept_page, "return refused(examine(args.ref, args.options))", ref=ref, options=options)
    assert got[:2] == ["WasmrtError", kind]


def test_a_file_is_known_again_and_an_examination_can_be_broken_off(kept_page, slow):
    """A file keeps its name from one call to the next; what is slow is broken off at once."""
    got = run(kept_page, """
        const file = new File([await (await fetch(DEMO)).blob()], "story.gguf");
        const found = await examine(file, { device: "cpu" });
        const again = await examine(file, { device: "cpu", memory: "9MiB" });
        const model = await open(file, { device: "cpu" });
        const text = (await write(model, { maxTokens: 3 })).text;
        await model.close();
        const abort = new AbortController();
        setTimeout(() => abort.abort(), 100);
        const started = performance.now();
        const ended = await refused(examine(args.url, { device: "cpu", cache: false, signal: abort.signal }));
        const ms = performance.now() - started;
        await forget();
        return { found, again, text, ended, ms };
    """, url=slow.url)  # fmt: skip
    assert (got["found"]["name"], got["found"]["download"]["bytes"]) == ("story.gguf", 0)
    assert got["again"]["plan"]["streamed_bytes"] > 0
    assert got["again"]["predicted"]["read_from"] == "file"
    assert got["text"]
    assert got["ended"][0] == "AbortError" or got["ended"][1] == "AbortError"
    assert got["ms"] < 2000


def test_errors_reach_who_does_not_expect_them(kept_page):
    with pytest.raises(PageError) as caught:
        run(kept_page, """await open("/models/none.gguf");""")
    assert caught.value.kind == "SourceError"

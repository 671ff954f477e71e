"""The page's state under node: what is chosen, planned, loaded and written, and what becomes of errors."""

import json
import shutil
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node import node, run_beside
from tools.build_web import build
from wasmrt.options import parse_bytes

# In place of wasmrt.js. Each call waits in `calls` until the test answers it, also one that was broken off: its answer may be
# on its way already.
ENGINE = """
export const calls = [];
function call(what, ref, { signal, ...options }) {
  return new Promise((resolve, reject) => calls.push({ what, ref, options, signal, resolve, reject }));
}
export const examine = (ref, options) => call("examine", ref, options);
export const open = (ref, options) => call("open", ref, options);
"""

HEAD = """
import { calls } from "../wasmrt.js";
import * as session from "./session.js";

const { choice, options, phase, examined, problem, notes, progress, model, map, writing, speeds, entered, arriving } = session;
const soon = () => new Promise((resolve) => setTimeout(resolve, 5));
const failed = (kind, message) => Object.assign(new Error(message), { kind });
const plan = { minimum_bytes: 8 * 2 ** 20, total_bytes: 64 * 2 ** 20, resident_bytes: 50, device_bytes: 50, context: 512 };
const found = { name: "m.gguf", runs: true, kind: null, n_ctx_train: 4096, plan };
const MAP = { segments: [], tiers: { network: { bytes: 0 } }, stalled_seconds: 0 };

/** A model of which the test says when its weights are there. */
class Model {
  plan = plan;
  closed = 0;
  dead = null;
  there = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
  loaded() { return this.there; }
  map() { return this.dead ? Promise.reject(this.dead) : Promise.resolve(MAP); }
  async close() { this.closed += 1; }
}
const URL_CHOICE = { kind: "url", name: "m.gguf", ref: "https://models.example/m.gguf" };
async function planned(answer = found) {
  session.examine(URL_CHOICE);
  await soon();
  calls.at(-1).resolve(answer);
  await soon();
}
async function opened() {
  await planned();
  session.load();
  await soon();
  const made = new Model();
  calls.at(-1).resolve(made);
  await soon();
  return made;
}
const told = () => problem.value && { ...problem.value, moves: problem.value.moves.map(({ label }) => label) };
const move = (label) => problem.value.moves.find((one) => one.label === label).run();
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a body of JavaScript beside the page's modules; gives what it returns."""
    node()
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(build() / "ui", folder / "ui")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "wasmrt.js").write_text(ENGINE)
    return partial(run_beside, folder / "ui", HEAD)


def test_a_model_is_examined_with_what_was_chosen(run):
    got = run("""
      session.choose({ device: "cpu", context: "256", cache: false });
      session.examine(URL_CHOICE);
      await soon();
      const during = phase.value;
      calls[0].options.onnote("a note");
      calls[0].resolve(found);
      await soon();
      session.choose({ cache: true });
      session.choose({ memory: "9MiB" });
      const again = [calls.length, phase.value, examined.value.name];
      const { onnote, ...asked } = calls[0].options;
      return { during, after: [calls[0].ref, notes.value], asked, again, next: calls[1].options.memory };
    """)
    assert got["during"] == "examining"
    assert got["asked"] == {"device": "cpu", "context": 256, "cache": False}
    assert got["after"] == ["https://models.example/m.gguf", ["a note"]]
    assert got["again"] == [2, "examining", "m.gguf"]  # keeping a copy changes no plan, which is seen until there is another
    assert got["next"] == "9MiB"


def test_an_answer_that_comes_too_late_counts_no_more(run):
    got = run("""
      session.examine(URL_CHOICE);
      await soon();
      session.examine(session.DEMO);
      await soon();
      calls[1].resolve({ ...found, name: "second" });
      await soon();
      calls[0].resolve({ ...found, name: "first" });
      await soon();
      return [calls[0].signal.aborted, examined.value.name, choice.value.kind, phase.value, told()];
    """)
    assert got == [True, "second", "demo", "planned", None]


def test_options_of_another_model_are_lifted_where_they_forbid_this_one(run):
    got = run("""
      session.choose({ memory: "9MiB", device: "cpu" });
      const none = { ...found, runs: false, kind: "BudgetError", why_not: "too small", plan: null };
      await planned(none);
      const lifted = [calls.length, options.value.memory, options.value.device, "memory" in calls[1].options];
      calls[1].resolve(found);
      await soon();
      session.choose({ memory: "1MiB" });
      calls[2].resolve(none);
      await soon();
      return { lifted, own: [calls.length, options.value.memory, examined.value.runs] };
    """)
    assert got["lifted"] == [2, "", "cpu", False]
    assert got["own"] == [3, "1MiB", False]  # chosen for this very model: it is told that this does not do


def test_a_model_writes_while_its_weights_arrive(run):
    got = run("""
      await planned();
      session.load();
      const opening = phase.value;
      await soon();
      const made = new Model();
      calls[1].resolve(made);
      await soon();
      const ready = [phase.value, entered.value, model.value === made, arriving.value];
      calls[1].options.onprogress(25, 100);
      const part = progress.value;
      made.resolve();
      await soon();
      const { bytes, of, done } = part;
      const settled = arriving.value;
      session.startText(() => ({ next: () => new Promise(() => {}), tokens: [], stats: null }));
      calls[1].options.onprogress(50, 100); // of what streams
      const during = arriving.value;
      calls[1].options.onprogress(100, 100);
      const then = [settled, during, arriving.value];
      return { opening, cache: calls[1].options.cache, ready, part: { bytes, of, done }, then };
    """)
    assert (got["opening"], got["cache"]) == ("opening", True)
    assert got["ready"] == ["ready", True, True, "weights"]
    assert got["part"] == {"bytes": 25, "of": 100, "done": False}
    assert got["then"] == [None, "pass", None]


def test_a_load_that_is_cancelled_closes_what_comes_after_all(run):
    got = run("""
      await planned();
      session.load();
      await soon();
      session.cancel();
      const late = new Model();
      calls[1].resolve(late);
      await soon();
      const first = [phase.value, model.value, late.closed, told()];
      const made = await opened();
      session.cancel();
      await soon();
      return { first, then: [phase.value, model.value, entered.value, made.closed] };
    """)
    assert got == {"first": ["planned", None, 1, None], "then": ["planned", None, False, 1]}


@pytest.mark.parametrize(
    ("kind", "doing", "title", "moves"),
    [
        ("SourceError", "examine", "The model cannot be read", ["Try again", "Choose another model"]),
        ("FormatError", "examine", "This file is damaged, or no GGUF model", ["Choose another model"]),
        ("SourceError", "open", "The model cannot be read", ["Try again", "Choose another model"]),
        ("DeviceError", "open", "The device cannot be used", ["Use the CPU", "Try again", "Choose another model"]),
        ("BudgetError", "open", "It does not fit in this memory",
         ["Use the memory it needs", "Use a shorter context", "Choose another model"]),
        ("RangeError", "open", "Something unexpected went wrong", ["Try again", "Choose another model"]),
    ],
)  # fmt: skip
def test_an_error_says_the_next_move(run, kind, doing, title, moves):
    got = run(f"""
      const doing = {json.dumps(doing)};
      if (doing === "open") {{
        await planned();
        session.load();
      }} else session.examine(URL_CHOICE);
      await soon();
      calls.at(-1).reject(failed({json.dumps(kind)}, "the server says no"));
      await soon();
      return {{ problem: told(), phase: phase.value }};
    """)
    assert got["problem"]["title"] == title
    assert got["problem"]["text"] == "The server says no."
    assert got["problem"]["moves"] == moves
    assert bool(got["problem"]["trace"]) == (kind == "RangeError")
    assert got["phase"] == ("planned" if doing == "open" else "idle")


def test_an_engine_that_ends_unseen_is_noticed_and_restarted(run):
    got = run("""
      const made = await opened();
      made.resolve();
      await soon();
      made.dead = failed("EngineStopped", "the engine has stopped (its worker has ended); open the model again");
      session.startText(() => ({ next: () => new Promise(() => {}), tokens: [], stats: null })); // whoever writes looks at once
      await soon();
      const stopped = [told(), model.value, writing.value, phase.value, entered.value];
      move("Restart and load it again");
      await soon();
      const again = new Model();
      calls.at(-1).resolve(again);
      await soon();
      return { stopped, then: [model.value === again, phase.value, told(), calls.at(-1).ref] };
    """)
    problem, *state = got["stopped"]
    assert problem["title"] == "The engine has stopped"
    assert problem["text"] == "Its worker has ended. What was written is kept; the model has to be loaded again."
    assert state == [None, None, "planned", True]
    assert got["then"] == [True, "ready", None, "https://models.example/m.gguf"]


def test_a_text_is_measured_while_somebody_reads_it(run):
    got = run("""
      await opened();
      const text = { tokens: [], stats: null, n: 0, async next() {
        if (this.n === 3) { this.stats = { prefill_tokens_per_second: 9, decode_tokens_per_second: 4, generated_tokens: 3 };
          return { done: true }; }
        this.tokens.push(this.n++);
        await soon();
        return { done: false, value: "x" };
      } };
      const watched = session.startText(() => text);
      const during = writing.value === watched;
      let read = "";
      for await (const piece of watched) read += piece;
      const { prefill, decode, firstToken, tokens } = speeds.value;
      const next = async () => { throw failed("ContextFull", "full"); };
      const failing = session.startText(() => ({ tokens: [], stats: null, next }));
      const error = await failing.next().catch((one) => one.kind);
      const after = [error, writing.value];
      return { during, read, speeds: [prefill, decode, tokens], firstToken, after, moves: told().moves };
    """)
    assert got["during"]
    assert got["read"] == "xxx"
    assert got["speeds"] == [9, 4, 3]
    assert 0 < got["firstToken"] < 1
    assert got["after"] == ["ContextFull", None]
    assert got["moves"] == ["Load it with a longer context", "Dismiss"]


def test_a_text_that_waited_until_its_model_was_closed_is_broken_off(run):
    got = run("""
      await opened();
      await session.close();
      try { session.startText((model) => model.chat([])); } catch (error) { return [error.name, writing.value, problem.value]; }
    """)
    assert got == ["AbortError", None, None]


def test_a_full_disk_is_a_choice(run):
    got = run("""
      await opened();
      calls[1].options.onnote("no more of 'm.gguf' is kept: this origin may keep no more on the disk");
      const told_ = told();
      move("Make room…");
      return { told: told_, panel: session.panel.value, after: told(), phase: phase.value };
    """)
    assert got["told"]["moves"] == ["Go on without a copy", "Make room…"]
    assert (got["panel"], got["after"], got["phase"]) == ("storage", None, "ready")


def test_what_was_stored_is_taken_only_where_it_makes_sense(run):
    got = run("""
      const { soundOptions } = await import("./given.js");
      return [null, "x", [1], { device: "cpu", memory: 5, cache: "yes", other: 1 }].map(soundOptions);
    """)
    first = {"device": "auto", "memory": "", "gpuMemory": "", "context": "", "threads": "", "kvType": "", "cache": True}
    assert got == [first, first, first, {**first, "device": "cpu"}]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(alphabet="0123456789. kKmMgGtTiIbBx", max_size=8), min_size=40, max_size=40))
def test_amounts_are_those_that_python_takes(run, texts):
    texts += ["700MiB", "1.5 GB", "123", "0", "2ki", "1i", " 4 mib ", "5 k", "1.kB", ".5k"]
    got = run(f'const {{ parseBytes }} = await import("./given.js"); return {json.dumps(texts)}.map(parseBytes);')

    def meant(text):
        try:
            return parse_bytes(text)
        except ValueError:
            return None

    assert got == [meant(text) for text in texts]

"""Conversations of the page under node: the store of messages, the settings, what is exported and imported."""

import json
import shutil
from functools import partial

import pytest

from tests.node import node, run_beside
from tools.build_web import build
from wasmrt.options import SamplerOptions

# A model that gives pieces as they are told, and says what it was asked. `frames` are those that wait to be drawn.
HEAD = """
import { Conversation } from "./conversation.js";
import { asked, gap, joinStory, titleOf } from "./conversation-text.js";
import { SETTINGS, checkSetting, firstSettings, forEngine, soundSettings } from "./settings.js";
import { fileName, fromJson, soundRecord, toJson, toMarkdown } from "./records.js";

const soon = () => new Promise((resolve) => setTimeout(resolve));
const frames = [];
const draw = () => frames.splice(0).forEach((one) => one());

class Text {
  stats = null;
  stopped = false;
  #pieces = [];
  #ended = null;
  #wake = () => {};
  say(...pieces) { this.#pieces.push(...pieces); this.#wake(); return soon(); }
  end(finish = "stop", error) { this.#ended = { finish, error }; this.#wake(); return soon(); }
  async stop() { this.stopped = true; await this.end("closed"); }
  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#pieces.length) yield this.#pieces.shift();
      if (this.#ended?.error) throw this.#ended.error;
      if (this.#ended) { this.stats = { finish: this.#ended.finish, generated_tokens: 3 }; return; }
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}
const texts = [];
const requests = [];
const model = {
  chat: (messages, options) => (requests.push({ messages, options }), texts.push(new Text()), texts.at(-1)),
  generate: (prompt, options) => (requests.push({ prompt, options }), texts.push(new Text()), texts.at(-1)),
};
const talk = new Conversation({ startText: (run) => run(model), frame: (one) => frames.push(one) });
const shown = () => talk.messages.value.map(({ role, content, state }) => [role, content, state]);
async function answered(question, answer) {
  talk.send(question);
  await soon();
  await texts.at(-1).say(answer);
  await texts.at(-1).end();
}
function refused(work) { try { work(); } catch (error) { return error.message; } return null; }
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a body of JavaScript beside the page's modules; gives what it returns."""
    node()
    ui = tmp_path_factory.mktemp("page") / "ui"
    shutil.copytree(build() / "ui", ui)
    (ui / "package.json").write_text('{"type": "module"}')  # for those node versions that do not look into a file
    return partial(run_beside, ui, HEAD)


def test_a_message_is_answered_with_the_settings(run):
    got = run("""
      talk.system.value = " Be brief. ";
      talk.settings.value = { ...firstSettings(), temperature: 0.2, maxTokens: 9, seed: "18446744073709551615" };
      talk.draft.value = "Hello ";
      talk.send("Hello ");
      const during = [shown(), talk.writing.value, talk.draft.value];
      await soon();
      await texts[0].say("Hi", " there");
      await texts[0].end();
      return { during, after: shown(), writing: talk.writing.value, request: requests[0], stats: talk.messages.value[1].stats };
    """)
    assert got["during"] == [[["user", "Hello", "done"], ["assistant", "", "writing"]], True, ""]
    assert got["after"] == [["user", "Hello", "done"], ["assistant", "Hi there", "done"]]
    assert not got["writing"]
    assert got["stats"] == {"finish": "stop", "generated_tokens": 3}
    assert got["request"]["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert got["request"]["options"] == {
        "temperature": 0.2, "topK": 40, "topP": 0.95, "minP": 0.05, "repeatPenalty": 1, "maxTokens": 9,
        "seed": "18446744073709551615n",
    }


def test_pieces_are_shown_once_a_frame(run):
    assert run("""
      let changes = 0;
      talk.live.subscribe(() => (changes += 1));
      talk.send("Hello");
      await soon();
      for (let i = 0; i < 1000; i++) texts[0].say("a");
      await soon();
      const before = [changes, frames.length];
      draw();
      await texts[0].say("b");
      draw();
      return [before, changes, talk.live.value.length];
    """) == [[1, 1], 3, 1001]


def test_stopping_keeps_what_is_there_also_before_the_first_piece(run):
    got = run("""
      talk.send("Hello");
      await soon();
      await texts[0].say("Hi");
      await talk.stop();
      const one = shown();
      talk.send("Again");
      await talk.stop();
      return { one, two: shown(), started: texts.length, record: talk.record.messages.length };
    """)
    assert got["one"][1] == ["assistant", "Hi", "stopped"]
    assert got["two"][3] == ["assistant", "", "stopped"]
    assert got["started"] == 1, "what was stopped before its turn is never begun"


def test_regenerating_replaces_the_answer_and_can_be_undone(run):
    got = run("""
      await answered("One", "1");
      await answered("Two", "2");
      talk.regenerate();
      await soon();
      await texts[2].say("II");
      await texts[2].end();
      const anew = shown();
      talk.undo();
      return { anew, undone: shown(), request: requests[2].messages.map(({ content }) => content), again: talk.undoable.value };
    """)
    assert [content for _, content, _ in got["anew"]] == ["One", "1", "Two", "II"]
    assert [content for _, content, _ in got["undone"]] == ["One", "1", "Two", "2"]
    assert got["request"] == ["One", "1", "Two"]
    assert got["again"] is None


def test_an_edited_message_replaces_what_follows(run):
    got = run("""
      await answered("One", "1");
      await answered("Two", "2");
      talk.edit(talk.messages.value[0].id, "Uno");
      await soon();
      await texts[2].say("I");
      await texts[2].end();
      const edited = shown();
      talk.undo();
      return [edited, shown().length];
    """)
    assert got == [[["user", "Uno", "done"], ["assistant", "I", "done"]], 4]


def test_a_text_that_was_cut_off_goes_on_in_its_own_message(run):
    got = run("""
      talk.send("Count");
      await soon();
      await texts[0].say("one, two");
      await texts[0].end("length");
      talk.proceed();
      const during = [shown(), talk.live.value];
      await soon();
      await texts[1].say(", three");
      await texts[1].end();
      return { during, after: shown(), request: requests[1].messages };
    """)
    assert got["during"] == [[["user", "Count", "done"], ["assistant", "one, two", "writing"]], "one, two"]
    assert got["after"] == [["user", "Count", "done"], ["assistant", "one, two, three", "done"]]
    assert [message["role"] for message in got["request"]] == ["user", "assistant", "user"]
    assert got["request"][1]["content"] == "one, two"


def test_a_failure_keeps_the_text_and_says_why(run):
    got = run("""
      talk.send("Hello");
      await soon();
      await texts[0].say("Hi");
      await texts[0].end("", Object.assign(new Error("the server is gone"), { kind: "SourceError" }));
      const failed = talk.messages.value[1];
      const broken = new Conversation({ startText: () => { throw new TypeError("no model"); }, frame: () => {} });
      broken.send("Hello");
      await soon();
      return [failed, broken.messages.value[1]];
    """)
    assert (got[0]["content"], got[0]["state"]) == ("Hi", "failed")
    assert got[0]["reason"] == {"kind": "SourceError", "text": "the server is gone"}
    assert got[1]["reason"] == {"kind": "TypeError", "text": "no model"}


def test_what_was_left_does_not_write_into_the_next_conversation(run):
    got = run("""
      talk.send("One");
      await soon();
      await texts[0].say("1");
      const before = talk.id.value;
      talk.begin();
      talk.send("Two");
      await soon();
      await soon();
      await texts[0].say("late");
      draw();
      const during = shown();
      await texts[1].say("2");
      await texts[1].end();
      return { stopped: texts[0].stopped, during, after: shown(), live: talk.live.value, other: talk.id.value !== before };
    """)
    assert got["stopped"]
    assert got["during"] == [["user", "Two", "done"], ["assistant", "", "writing"]]
    assert got["after"] == [["user", "Two", "done"], ["assistant", "2", "done"]]
    assert got["live"] == ""
    assert got["other"]


def test_the_next_text_waits_until_the_one_before_has_ended(run):
    got = run("""
      talk.send("One");
      await soon();
      let release;
      texts[0].stop = () => new Promise((resolve) => (release = resolve)).then(() => texts[0].end("closed"));
      talk.begin();
      talk.send("Two");
      await soon();
      await soon();
      const before = texts.length;
      release();
      await soon();
      await soon();
      return [before, texts.length];
    """)
    assert got == [1, 2]


def test_deleting_and_clearing_can_be_undone(run):
    got = run("""
      await answered("One", "1");
      await answered("Two", "2");
      const ids = talk.messages.value.map(({ id }) => id);
      talk.remove(ids[0]);
      const pair = shown().length;
      talk.undo();
      talk.remove(ids[3]);
      const answer = shown().length;
      talk.clear();
      const none = shown().length;
      talk.undo();
      return [pair, answer, none, shown().length];
    """)
    assert got == [2, 3, 0, 3]


def test_a_story_is_one_text(run):
    got = run("""
      talk.mode.value = "story";
      talk.send("Once upon a time");
      await soon();
      await texts[0].say(", there was a mole.");
      await texts[0].end("length");
      talk.send("It dug");
      await soon();
      await texts[1].say(" a hole");
      await texts[1].end();
      talk.proceed();
      await soon();
      await texts[2].say(".");
      await texts[2].end();
      return [requests.map(({ prompt }) => prompt), joinStory(talk.messages.value)];
    """)
    assert got[0] == [
        "Once upon a time",
        "Once upon a time, there was a mole. It dug",
        "Once upon a time, there was a mole. It dug a hole",
    ]
    assert got[1] == "Once upon a time, there was a mole. It dug a hole."


@pytest.mark.parametrize(("text", "role", "added", "expected"), [
    ("", "user", "A", ""), ("end", "user", "A", " "), ("end ", "user", "A", ""), ("end", "user", ", and", ""),
    ("end", "user", "\n\nA", ""), ("end", "assistant", "ing", ""), ("end", "user", "", ""),
])
def test_the_gap_before_an_added_part(run, text, role, added, expected):
    assert run(f"return gap({json.dumps(text)}, {json.dumps(role)}, {json.dumps(added)})") == expected


def test_the_oldest_are_forgotten_when_the_context_is_full(run):
    got = run("""
      for (const n of [1, 2, 3]) await answered(`Q${n}`, `A${n}`);
      talk.send("Q4");
      await soon();
      await texts[3].end("", Object.assign(new Error("too long"), { kind: "ContextFull" }));
      const can = talk.canForget;
      talk.forgetOldest();
      await soon();
      await texts[4].say("A4");
      await texts[4].end();
      const request = requests[4].messages.map(({ content }) => content);
      const all = shown().length;
      talk.clear();
      await answered("Only", "one");
      return [can, request, all, talk.forgotten.value, talk.canForget];
    """)
    assert got == [True, ["Q3", "A3", "Q4"], 8, 0, False]


def test_a_record_comes_back_as_it_was(run):
    got = run("""
      talk.name.value = "Mine";
      talk.system.value = "Be brief.";
      await answered("One", "1");
      talk.draft.value = "half a";
      const record = talk.record;
      const other = new Conversation({ startText: null });
      other.load(soundRecord({ ...record, changed: 5 }));
      const strip = (one) => JSON.stringify({ ...one, changed: 0, messages: one.messages.map(({ id, ...rest }) => rest) });
      return strip(other.record) === strip(record);
    """)
    assert got


def test_what_is_being_written_is_kept_as_stopped(run):
    got = run("""
      talk.send("One");
      await soon();
      await texts[0].say("half an ans");
      draw();
      return talk.record.messages.map(({ content, state }) => [content, state]);
    """)
    assert got == [["One", "done"], ["half an ans", "stopped"]]


def test_export_and_import(run):
    got = run("""
      await answered("What is 1 + 1?", "**2**, of course");
      talk.system.value = "Be\\nbrief.";
      talk.draft.value = "secret";
      const record = { ...soundRecord(talk.record), draft: "secret" };
      const json = toJson(record);
      const back = fromJson(json);
      return { markdown: toMarkdown(record, "Tiny"), name: fileName(record, "md"), draft: json.includes("secret"),
        same: JSON.stringify(back.messages.map(({ content }) => content)), other: back.id !== record.id };
    """)
    assert got["markdown"] == (
        "# What is 1 + 1?\n\n> Be\n> brief.\n\n## You\n\nWhat is 1 + 1?\n\n## Tiny\n\n**2**, of course\n"
    )
    assert got["name"] == "what-is-1-1.md"
    assert got["same"] == '["What is 1 + 1?","**2**, of course"]'
    assert got["other"]
    assert not got["draft"]


@pytest.mark.parametrize(("text", "why"), [
    ("", "not JSON"), ("{", "not JSON"), ("null", "not a conversation"), ("[]", "not a conversation"), ("3",
      "not a conversation"),
    ('{"kind": "wasmrt-conversation", "version": 2, "messages": []}', "newer version"),
    ('{"kind": "wasmrt-conversation", "version": 1}', "no list of messages"),
    ('{"kind": "wasmrt-conversation", "version": 1, "messages": {"length": 5}}', "no list of messages"),
    ('{"kind": "wasmrt-conversation", "version": 1, "messages": [null]}', "message 1"),
    ('{"kind": "wasmrt-conversation", "version": 1, "messages": [{"role": "system", "content": ""}]}', "message 1"),
    ('{"kind": "wasmrt-conversation", "version": 1, "messages": [{"role": "user", "content": ["a"]}]}', "message 1"),
    (json.dumps({"kind": "wasmrt-conversation", "version": 1, "messages": [{"role": "user", "content": "a"}] * 10_001}),
    "10000"),
])
def test_a_hostile_file_is_refused(run, tmp_path, text, why):
    path = tmp_path / "hostile.json"
    path.write_text(text)
    read = f'import("node:fs").then((fs) => fs.readFileSync({json.dumps(str(path))}, "utf8"))'
    assert why in run(f"const text = await {read}; return refused(() => fromJson(text));")


def test_of_an_imported_file_only_what_is_known_is_taken(run):
    got = run("""
      const record = fromJson(JSON.stringify({ kind: "wasmrt-conversation", version: 1, id: "../..", name: "x".repeat(999),
        mode: "shell",
        system: {}, settings: { temperature: -1, topK: 1e9, topP: "0.5", seed: "12x", __proto__: 1, more: 1 }, forgotten: 99,
        extra: "<script>",
        messages: [{ role: "assistant", content: "a", state: "writing", stats: { finish: 1, generated_tokens: "many",
        more: 2 }, onclick: "x" }] }));
      return { ...record, id: /^[a-z0-9]+$/.test(record.id), changed: 0, messages: record.messages.map(({ id,
        ...rest }) => rest) };
    """)
    assert len(got["name"]) == 200
    assert got["id"]
    assert got["messages"] == [{"role": "assistant", "content": "a", "state": "stopped", "stats": {}}]
    assert (got["mode"], got["system"], got["forgotten"]) == ("chat", "", 0)
    assert got["settings"] == {
        "temperature": 0.7, "topP": 0.5, "topK": 1e9, "minP": 0.05, "repeatPenalty": 1, "maxTokens": None, "seed": "",
    }
    assert set(got) == {"id", "name", "mode", "system", "settings", "messages", "forgotten", "draft", "changed"}


def test_what_another_tab_forgets_is_kept_by_this_one_no_more(run):
    got = run("""
      const there = { "wasmrt.keep": "true" };
      const heard = {};
      Object.assign(globalThis, {
        localStorage: { getItem: (name) => there[name] ?? null },
        addEventListener: (name, listener) => (heard[name] = listener),
        document: { addEventListener() {} },
        indexedDB: { open() { throw new Error("forbidden"); } },
      });
      const { Keeper } = await import("./keeping.js");
      const keeper = new Keeper(talk);
      await keeper.start();
      const tell = (key) => (heard.storage({ key }), keeper.wanted.value);
      const before = tell("wasmrt.keep");
      delete there["wasmrt.keep"];
      const found = [before, tell("wasmrt.theme"), tell("wasmrt.keep")];
      there["wasmrt.keep"] = "true";
      return [...found, tell("wasmrt.keep")];
    """)
    assert got == [True, True, False, False]  # nor does it begin to keep what somebody said in a tab that kept nothing


@pytest.mark.parametrize(("name", "good", "bad"), [
    ("temperature", ["0", "0.7", "1,5", "100"], ["", "-0.1", "x", "Infinity", "NaN"]),
    ("topK", ["0", "40", "100000"], ["", "-1", "1.5"]),
    ("topP", ["0.001", "1"], ["0", "1.01", "-1"]),
    ("minP", ["0", "1"], ["-0.01", "1.01"]),
    ("repeatPenalty", ["0.01", "1", "100"], ["0", "100.1"]),
    ("maxTokens", ["", "1", "4096"], ["0", "-1", "1.5"]),
    ("seed", ["", "0", "18446744073709551615"], ["-1", "18446744073709551616", "1.5", "0x10", "1e3"]),
])
def test_settings_have_the_ranges_of_the_engine(run, name, good, bad):
    """What a field takes SamplerOptions takes, and the other way round."""
    got = run(f"""
      const setting = SETTINGS.find(({{ name }}) => name === {json.dumps(name)});
      return [{json.dumps(good)}, {json.dumps(bad)}].map((texts) => texts.map((text) => checkSetting(setting, text)));
    """)
    assert not any(one.get("error") for one in got[0]), got
    option = {"topK": "top_k", "topP": "top_p", "minP": "min_p", "repeatPenalty": "repeat_penalty"}.get(name, name)
    if name != "maxTokens":  # no option of the sampler
        whole = name in ("topK", "seed")
        for value in [one["value"] for one in got[0] if one["value"] != ""]:
            SamplerOptions(**{option: int(value) if whole else value})
        for text in [text for text in bad if text.lstrip("-").replace(".", "").isdigit()]:
            with pytest.raises(ValueError, match=option):
                SamplerOptions(**{option: int(text) if whole and "." not in text else float(text)})
    assert all(one.get("error", "").startswith(("Temp", "Top", "Min", "Repeat", "Longest", "Seed")) for one in got[1]), got


def test_a_story_of_very_many_parts_is_joined_at_once(run):
    """An imported file may have as many, and is drawn by it each time: looked through for each part, this took 16 s."""
    took, length, same = run("""
      const part = (at) => ({ role: at % 2 ? "assistant" : "user", content: `${at} and so on. `.repeat(60).trimEnd() });
      const parts = Array.from({ length: 10000 }, (_, at) => part(at));
      const begun = performance.now();
      const { length } = joinStory(parts);
      titleOf({ messages: [{ role: "user", content: " ".repeat(2 ** 23) + "x " .repeat(2 ** 22) }] });
      const took = performance.now() - begun;
      const slowly = (all) => all.reduce((text, { role, content }) => text + gap(text, role, content) + content, "");
      const few = [part(0), { role: "user", content: "" }, part(2), part(3), { role: "assistant", content: "" }, part(4)];
      return [took, length, joinStory(few) === slowly(few)];
    """)
    assert same
    assert length > 8_000_000
    assert took < 1000  # ms; 32 to 90 on a busy machine


def test_titles_are_short_and_whole(run):
    got = run("""
      const title = (content) => titleOf({ name: "", messages: [{ role: "user", content }] });
      return [title("  a \\n b "), title("😀".repeat(100)), title("x".repeat(60)), titleOf({ name: "Mine", messages: [] })];
    """)
    assert got == ["a b", "😀" * 59 + "…", "x" * 60, "Mine"]

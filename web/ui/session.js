// The page's state: which model was chosen, what is known of it, how far it is, what it writes. No DOM; a component that reads
// a signal's `value` is drawn anew when that changes.

import * as engine from "../wasmrt.js";
import { MOVES, isFull, kindOf, problemOf, sentence } from "./errors.js";
import { memoryText } from "./format.js";
import { forEngine, soundOptions } from "./given.js";
import { batch, computed, signal } from "./html.js";
import { store, stored } from "./local.js";
import { Progress } from "./rates.js";
import { NOTHING_YET, Watched } from "./watched.js";

const SHORT_CONTEXT = 1024;
const [POLL_MS, IDLE_POLL_MS] = [125, 2000]; // while something is read or written, and else

/** @type {{value: {kind: "demo" | "served" | "url" | "file", name: string, ref: string | File} | null}} */
export const choice = signal(null);
export const options = signal(soundOptions(stored("options", null)));
/** @type {{value: "idle" | "examining" | "planned" | "opening" | "ready"}} */
export const phase = signal("idle");
/** What the engine found in the model's header, as `examine` of wasmrt.js gives it; local: it is a file of the person's. */
export const examined = signal(null);
/** @type {{value: null | {title: string, text: string, kind: string, trace?: string, moves: {label: string, run: () => void}[]}}} */
export const problem = signal(null);
/** @type {{value: string[]}} what the engine had to say, the last last */
export const notes = signal([]);
/** @type {{value: null | {bytes: number, of: number, rate: number | null, eta: number | null, done: boolean}}} bytes/s, s */
export const progress = signal(null);
/** @type {{value: engine.Model | null}} */
export const model = signal(null);
export const map = signal(null);
/** @type {{value: Watched | null}} */
export const writing = signal(null);
export const speeds = signal(NOTHING_YET);
const settled = signal(false); // the weights that stay are there
/** What is being read for the first time, if anything: "weights" that stay, or in a first "pass" those that stream. */
export const arriving = computed(() => {
  if (!settled.value) return ["opening", "ready"].includes(phase.value) ? "weights" : null;
  return writing.value && progress.value?.done === false ? "pass" : null;
});
/** @type {{value: null | string}} which dialog is open: "storage", "about", "engine", "conversations" */
export const panel = signal(null);
/** Whether the chat is shown: from when a model first could write until another is chosen, through restarts. */
export const entered = signal(false);

/** Whether the person was sent back to choose a model: the field for it then takes the focus. */
export const sentBack = signal(false);

export const DEMO = { kind: "demo", name: "Demo model", ref: "models/demo.gguf" };

let attempt = null; // an AbortController: of what is being examined or opened
let wake = () => {}; // the map is asked for at once
let carried = false; // memory and context were chosen with another model in mind

/** Read the header of a model and plan for it. Nothing large is read. */
export async function examine(chosen) {
  leave();
  carried = true;
  batch(() => {
    choice.value = chosen;
    examined.value = null;
    [notes.value, speeds.value] = [[], NOTHING_YET];
  });
  await plan();
}

/** Choose options; what was examined is planned anew. @param {Partial<typeof options.value>} changes */
export function choose(changes) {
  options.value = { ...options.value, ...changes };
  store("options", options.value);
  carried = false;
  const matters = Object.keys(changes).some((name) => name !== "cache");
  if (matters && choice.value && ["planned", "examining", "idle"].includes(phase.value)) plan();
}

async function plan() {
  const mine = begin("examining");
  try {
    const found = await engine.examine(choice.value.ref, { ...forEngine(options.value), signal: mine.signal, onnote: note });
    if (attempt !== mine) return;
    const { memory, gpuMemory, context } = options.value;
    const mayLift = carried && (memory || gpuMemory || context) && ["BudgetError", "ContextFull"].includes(found.kind);
    carried = false;
    if (mayLift) {
      options.value = { ...options.value, memory: "", gpuMemory: "", context: "" };
      return void plan();
    }
    batch(() => ((examined.value = { ...found, local: choice.value.kind === "file" }), (phase.value = "planned")));
    if (found.kind === "DeviceError") fail({ kind: found.kind, message: found.why_not }, "examine");
  } catch (error) {
    if (attempt !== mine) return;
    phase.value = "idle";
    fail(error, "examine");
  }
}

/** Open the chosen model: it can write when its weights are still on their way. */
export async function load() {
  const before = model.value;
  const mine = begin("opening");
  model.value = map.value = progress.value = writing.value = null;
  settled.value = false;
  const { resident_bytes: resident = 0, device_bytes: onGpu = 0 } = examined.value?.plan ?? {};
  const far = new Progress(resident + onGpu, (now) => attempt === mine && (progress.value = now));
  try {
    await before?.close();
    const opened = await engine.open(choice.value.ref, {
      ...forEngine(options.value),
      signal: mine.signal,
      onnote: note,
      onprogress: (bytes, of) => far.there(bytes, of),
    });
    if (attempt !== mine) return void opened.close();
    batch(() => ((model.value = opened), (phase.value = "ready"), (entered.value = true)));
    watchMap(opened, far);
    await opened.loaded();
    if (attempt === mine) settled.value = true;
  } catch (error) {
    if (attempt !== mine) return;
    if (!model.value) phase.value = unopened();
    fail(error, "open");
  }
}

/** Break off what is being examined or loaded, give the model's memory back, and show the plan again. Conversations stay. */
export const [close, cancel] = [() => leave(), () => leave()];

/** Keep to a smaller budget from now on. @param {string} memory such as "700MiB" */
export async function lowerMemory(memory) {
  const mine = model.value;
  try {
    await mine.lowerMemory(memory);
    if (model.value !== mine) return;
    options.value = { ...options.value, memory };
    examined.value = { ...examined.value, plan: mine.plan };
  } catch (error) {
    if (model.value === mine) fail(error, "write");
  }
}

/**
 * Let the model write: the one way to. The text is measured while it is read.
 * @param {(model: engine.Model) => engine.Generation} run
 * @returns {Watched} to be read like the Generation: `for await`, stop(), text, tokens, stats
 */
export function startText(run) {
  if (!model.value) throw new DOMException("the model was closed before the text could begin", "AbortError"); // texts wait in line
  const text = new Watched(
    run(model.value),
    (now) => (speeds.value = now),
    (error) => {
      if (writing.value === text) writing.value = null;
      if (error && model.value) fail(error, "write");
    },
  );
  batch(() => ((writing.value = text), (problem.value = null)));
  wake();
  return text;
}

/** What nobody caught: the page goes on, but says so. */
export const unexpected = (error) => problem.value || fail(error, "page");

function begin(which) {
  attempt?.abort();
  attempt = new AbortController();
  batch(() => ((phase.value = which), (problem.value = null)));
  return attempt;
}

const unopened = () => (examined.value ? "planned" : "idle");

/** The model is closed, nothing more is waited for. */
async function leave() {
  attempt?.abort();
  attempt = null;
  const before = model.value;
  batch(() => {
    model.value = map.value = progress.value = problem.value = writing.value = null;
    entered.value = false;
    phase.value = unopened();
  });
  await before?.close();
}

function fail(error, doing) {
  if (kindOf(error) === "AbortError") return;
  if (kindOf(error) === "EngineStopped") {
    attempt = null;
    model.value = map.value = writing.value = progress.value = null;
    phase.value = unopened();
  }
  const needs = examined.value?.needs_bytes ?? examined.value?.plan?.minimum_bytes;
  const found = problemOf(error, doing, { ...options.value, needs });
  problem.value = { ...found, moves: found.moves.map(moveOf) };
}

const moveOf = (move) => ({ label: MOVES[move], run: () => runMove(move) });

function runMove(move) {
  const found = examined.value;
  const changes = {
    cpu: { device: "cpu" },
    enough: found && { memory: memoryText(found.needs_bytes ?? found.plan?.minimum_bytes) },
    automatic: { memory: "" },
    automaticContext: { context: "" },
    shorter: { context: String(SHORT_CONTEXT) },
    longer: found && { context: String(Math.min(found.n_ctx_train, 2 * (model.value?.plan.context ?? SHORT_CONTEXT))) },
    less: { memory: memoryText(Math.max((found?.plan?.total_bytes ?? 0) / 2, found?.plan?.minimum_bytes ?? 2 ** 28)) },
  }[move];
  problem.value = null;
  if (move === "room") panel.value = "storage";
  else if (move === "other") {
    leave();
    sentBack.value = true;
  }
  else if (move === "examine") plan();
  else if (move === "load" || move === "restart") load();
  else if (changes) {
    const reopen = entered.value;
    choose(changes);
    if (reopen) load();
  }
}

function note(text) {
  notes.value = [...notes.value.filter((one) => one !== text), text];
  if (!isFull(text)) return;
  const title = "There is no room for a copy";
  problem.value = { title, text: sentence(text), kind: "DiskFull", moves: ["goOn", "room"].map(moveOf) };
}

/** Follow where the model's bytes are, and see whether the engine still lives. */
async function watchMap(opened, far) {
  try {
    while (model.value === opened) {
      const now = await opened.map();
      if (model.value !== opened) return;
      map.value = now;
      if (!settled.value) far.fetched(now.tiers.network.bytes);
      writing.value?.stalled(now.stalled_seconds);
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, writing.value || !settled.value ? POLL_MS : IDLE_POLL_MS);
      });
    }
  } catch (error) {
    if (model.value === opened) fail(error, "write");
  }
}

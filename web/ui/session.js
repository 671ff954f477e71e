/**
 * The page's state: which model was chosen, what is known of it, how far it is, what it writes. No DOM; whoever reads a signal's
 * `value` in a component is drawn anew when it changes.
 */

import * as engine from "../wasmrt.js";
import { batch, signal } from "./html.js";
import { stored, store } from "./local.js";
import { kindOf, problemOf } from "./errors.js";
import { Progress } from "./rates.js";
import { NOTHING_YET, Watched } from "./watched.js";

const OPTIONS = { device: "auto", memory: "", gpuMemory: "", context: "", threads: "", kvType: "", cache: true };
const POLL_MS = 125;

/** @type {{value: {kind: "demo" | "served" | "url" | "file", name: string, ref: string | File} | null}} */
export const choice = signal(null);
export const options = signal({ ...OPTIONS, ...stored("options", {}) });
/** @type {{value: "idle" | "examining" | "planned" | "opening" | "ready"}} */
export const phase = signal("idle");
/** What the engine found in the model's header, as `examine` of wasmrt.js gives it. */
export const examined = signal(null);
/** @type {{value: null | {title: string, text: string, kind: string, moves: {label: string, run: () => void}[]}}} */
export const problem = signal(null);
/** @type {{value: string[]}} what the engine had to say, the last last */
export const notes = signal([]);
/** @type {{value: null | {bytes: number, of: number, rate: number, eta: number, done: boolean}}} bytes/s, s */
export const progress = signal(null);
/** @type {{value: engine.Model | null}} */
export const model = signal(null);
export const map = signal(null);
/** @type {{value: Watched | null}} */
export const writing = signal(null);
export const speeds = signal(NOTHING_YET);
/** @type {{value: null | string}} which dialog is open: "storage", "about", ... */
export const panel = signal(null);

let attempt = null; // an AbortController: what is being examined or opened

export const DEMO = { kind: "demo", name: "Demo model", ref: "models/demo.gguf" };

/** Read the header of a model and plan for it. Nothing large is read. */
export async function examine(chosen) {
  await close();
  batch(() => {
    choice.value = chosen;
    examined.value = null;
    notes.value = [];
  });
  await plan();
}

/** Choose an option; what was examined is planned anew. */
export function choose(changes) {
  options.value = { ...options.value, ...changes };
  store("options", options.value);
  if (phase.value === "planned" || phase.value === "examining") plan();
}

async function plan() {
  const mine = begin("examining");
  try {
    const found = await engine.examine(choice.value.ref, { ...forEngine(), signal: mine.signal, onnote: note });
    if (attempt === mine) batch(() => ((examined.value = found), (phase.value = "planned")));
  } catch (error) {
    if (attempt === mine) fail(error, "examine");
  }
}

/** Open the chosen model: it can write when its weights are still on their way. */
export async function load() {
  const mine = begin("opening");
  const far = new Progress((now) => attempt === mine && (progress.value = now));
  try {
    const opened = await engine.open(choice.value.ref, {
      ...forEngine(),
      cache: options.value.cache,
      signal: mine.signal,
      onnote: note,
      onprogress: (bytes, of) => far.tell(bytes, of),
    });
    if (attempt !== mine) return void opened.close();
    batch(() => ((model.value = opened), (phase.value = "ready")));
    watchMap(opened);
    await opened.loaded();
  } catch (error) {
    if (attempt === mine) fail(error, "open");
  }
}

/** Break off what is being examined or loaded. */
export async function cancel() {
  await close();
  if (examined.value) phase.value = "planned";
}

/** Give the model's memory back. What was written stays. */
export async function close() {
  attempt?.abort();
  attempt = null;
  const closing = model.value?.close();
  batch(() => {
    model.value = map.value = progress.value = problem.value = writing.value = null;
    phase.value = "idle";
  });
  await closing;
}

/** Keep to a smaller budget from now on. */
export async function lowerMemory(text) {
  await model.value.lowerMemory(text);
}

/**
 * Let the model write: the one way to. The text is measured while it is read.
 * @param {(model: engine.Model) => engine.Generation} run
 * @returns {Watched} to be read like the Generation: `for await`, stop(), text, tokens, stats
 */
export function startText(run) {
  const text = new Watched(run(model.value), (now) => (speeds.value = now), (error) => {
    if (writing.value === text) writing.value = null;
    if (error) fail(error, "write");
  });
  writing.value = text;
  return text;
}

function begin(which) {
  attempt?.abort();
  attempt = new AbortController();
  batch(() => ((phase.value = which), (problem.value = null)));
  return attempt;
}

function fail(error, doing) {
  if (kindOf(error) === "AbortError") return;
  problem.value = problemOf(error, doing);
}

function note(text) {
  notes.value = [...notes.value, text];
}

function forEngine() {
  const { cache, ...given } = options.value;
  const used = Object.entries(given).filter(([, value]) => value !== "");
  return Object.fromEntries(used.map(([name, value]) => [name, ["context", "threads"].includes(name) ? Number(value) : value]));
}

async function watchMap(opened) {
  while (model.value === opened && opened.map) {
    if (!progress.value?.done || writing.value || !map.value) map.value = await opened.map();
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

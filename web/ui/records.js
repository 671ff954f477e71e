// A conversation as plain data: its shape checked wherever it comes from, and how it leaves as Markdown or JSON. Pure.

import { joinStory, newId, titleOf } from "./conversation-text.js";
import { soundSettings } from "./settings.js";

/**
 * @typedef {object} Record
 * @property {string} id
 * @property {string} name @property {"chat" | "story"} mode @property {string} system
 * @property {import("./settings.js").Settings} settings
 * @property {import("./conversation.js").Message[]} messages
 * @property {number} forgotten @property {string} draft
 * @property {number} changed ms since 1970
 */

export const MOST_BYTES = 8 * 2 ** 20; // of a file to import
const MOST_MESSAGES = 10_000;
const MOST_NAME = 200;
const KIND = "wasmrt-conversation";
const STATES = ["done", "stopped", "failed"];
const STATS = [
  "finish", "prompt_tokens", "cached_tokens", "generated_tokens", "first_token_seconds", "decode_tokens_per_second",
  "prefill_tokens_per_second",
];

/** What is sound of something that claims to be a conversation. Throws an Error that says why not. @returns {Record} */
export function soundRecord(given) {
  if (typeof given !== "object" || given === null || Array.isArray(given)) throw new Error("it holds no conversation");
  if (!Array.isArray(given.messages)) throw new Error("it has no list of messages");
  if (given.messages.length > MOST_MESSAGES) throw new Error(`it has more than ${MOST_MESSAGES} messages`);
  const messages = given.messages.map(soundMessage);
  const { mode, forgotten, changed } = given;
  return {
    id: typeof given.id === "string" && /^[a-z0-9]{1,40}$/.test(given.id) ? given.id : newId(),
    name: text(given.name).slice(0, MOST_NAME),
    mode: mode === "story" ? "story" : "chat",
    system: text(given.system),
    settings: soundSettings(given.settings),
    messages,
    forgotten: Number.isInteger(forgotten) && forgotten >= 0 && forgotten < messages.length ? forgotten : 0,
    draft: text(given.draft),
    changed: Number.isFinite(changed) ? changed : Date.now(),
  };
}

function soundMessage(given, at) {
  const wrong = (what) => new Error(`message ${at + 1} ${what}`);
  if (typeof given !== "object" || given === null) throw wrong("is none");
  if (given.role !== "user" && given.role !== "assistant") throw wrong('has a role other than "user" and "assistant"');
  if (typeof given.content !== "string") throw wrong("has no text");
  const message = { id: newId(), role: given.role, content: given.content, state: "stopped" };
  if (given.role === "user") message.state = "done";
  else if (STATES.includes(given.state)) message.state = given.state;
  const stats = soundStats(given.stats);
  if (stats) message.stats = stats;
  if (message.state === "failed") message.reason = { kind: text(given.reason?.kind), text: text(given.reason?.text) };
  return message;
}

function soundStats(given) {
  if (typeof given !== "object" || given === null) return null;
  const fits = (name) => (name === "finish" ? typeof given[name] === "string" : Number.isFinite(given[name]));
  return Object.fromEntries(STATS.filter(fits).map((name) => [name, given[name]]));
}

const text = (value) => (typeof value === "string" ? value : "");

/** @param {Record} record */
export function toJson({ draft, ...record }) {
  return `${JSON.stringify({ kind: KIND, version: 1, ...record }, null, 2)}\n`;
}

/** Throws an Error that says what is wrong with it. @returns {Record} under an id of its own */
export function fromJson(json) {
  let given;
  try {
    given = JSON.parse(json);
  } catch {
    throw new Error("it is not JSON");
  }
  if (given?.kind !== KIND) throw new Error("it is JSON, but not a conversation of this page");
  if (given.version !== 1) throw new Error("it was written by a newer version of this page");
  return { ...soundRecord(given), id: newId(), changed: Date.now() };
}

/** @param {Record} record @param {string} [model] who has answered */
export function toMarkdown(record, model = "Model") {
  const parts = [`# ${titleOf(record) || "Conversation"}`];
  if (record.mode === "story") return `${parts[0]}\n\n${joinStory(record.messages)}\n`;
  if (record.system) parts.push(`> ${record.system.replace(/\n/g, "\n> ")}`);
  for (const { role, content } of record.messages) parts.push(`## ${role === "user" ? "You" : model}`, content.trim());
  return `${parts.join("\n\n")}\n`;
}

/** A name that every file system takes. */
export function fileName(record, suffix) {
  const words = titleOf(record).normalize("NFKD").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["conversation"];
  return `${words.join("-").slice(0, 60).replace(/-$/, "")}.${suffix}`;
}

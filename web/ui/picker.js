// Choosing a model: the demo, one of this server's, a link, a file.

import { bytes, count } from "./format.js";
import { lastName } from "./given.js";
import { Icon } from "./icons.js";
import { html, signal, useEffect, useId, useRef, useState } from "./html.js";
import { servedModels } from "./served.js";
import { DEMO, choice, examine, sentBack } from "./session.js";

const EXAMPLES = [
  ["SmolLM2 360M", "hf:bartowski/SmolLM2-360M-Instruct-GGUF/SmolLM2-360M-Instruct-Q8_0.gguf"],
  ["Qwen3 0.6B", "hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf"],
  ["Llama 3.2 1B", "hf:bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf"],
  ["Llama 3.1 8B", "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"],
];

/** Those of this page's own host. */
const served = signal([]);

export async function lookForServed() {
  const demo = hrefOf(DEMO.ref);
  served.value = (await servedModels()).filter(({ url, shard }) => url !== demo && !(shard?.number > 1));
}

/** By which two choices are the same. */
const hrefOf = (ref) => (typeof ref !== "string" ? ref : /^hf:/i.test(ref) ? ref : new URL(ref, document.baseURI).href);

export function Picker() {
  const chosen = choice.value;
  const known = chosen && [DEMO.ref, ...served.value.map(({ url }) => url)].some((ref) => hrefOf(ref) === hrefOf(chosen.ref));
  const list = useRef(null);
  useEffect(() => show(list.current, list.current.querySelector("[aria-pressed=true]")), [chosen, served.value]);
  return html`
    <div class="pick">
      <${LinkField} />
      <div class="pick-head"><h2 class="pick-label">Or choose here<span class="wide-only">, or drop a file anywhere</span></h2><${FileButton} /></div>
      <ul class="pick-list pick-more" aria-label="Models" ref=${list}>
        ${chosen?.kind === "url" && !known && html`
          <${Item} sign="link" name=${chosen.name} facts=${chosen.ref} choice=${chosen} />`}
        ${chosen?.kind === "file" && html`
          <${Item} sign="file" name=${chosen.name} facts="From your disk; it is not uploaded" size=${chosen.ref.size} choice=${chosen} />`}
        <${Item} sign="spark" name="Demo model" facts="A small storyteller that comes with this page" choice=${DEMO} />
        ${served.value.map((one) => html`
          <${Item} key=${one.url} sign="server" name=${one.title ?? one.name} facts=${factsOf(one)} size=${one.size}
            choice=${{ kind: "served", name: one.name, ref: one.url }} />`)}
      </ul>
    </div>`;
}

/** Scroll the list, and nothing else, until the item is in sight. */
function show(list, item) {
  if (!item) return;
  const { top, bottom } = list.getBoundingClientRect();
  const at = item.getBoundingClientRect();
  if (at.top < top || at.bottom > bottom) list.scrollTop += at.bottom - bottom + 16;
}

function factsOf({ architecture, n_parameters: n, runs, why_not: whyNot, error, title, name }) {
  if (error || runs === false) return `Does not run: ${error ?? whyNot}`;
  return [title && name, architecture, n && `${count(n)} parameters`].filter(Boolean).join(" · ");
}

function Item({ sign, name, facts, size, choice: of }) {
  const pressed = choice.value && hrefOf(choice.value.ref) === hrefOf(of.ref);
  return html`
    <li>
      <button type="button" class="pick-item" aria-pressed=${pressed ? "true" : "false"} onClick=${() => examine(of)}>
        <span class="pick-sign"><${Icon} name=${sign} /></span>
        <span>
          <span class="pick-name">${name}</span>
          <span class="pick-facts">${facts}</span>
        </span>
        ${size > 0 && html`<span class="pick-size">${bytes(size)}</span>`}
      </button>
    </li>`;
}

function LinkField() {
  const [text, setText] = useState("");
  const [wrong, setWrong] = useState("");
  const field = useRef(null);
  const id = useId();
  useEffect(() => setWrong(""), [choice.value]);
  useEffect(() => {
    if (!sentBack.value) return;
    sentBack.value = false;
    field.current.focus();
  }, [sentBack.value]);
  const submit = (event) => {
    event.preventDefault();
    const chosen = chosenByText(text.trim());
    setWrong(chosen ? "" : "That is neither a link (https://…) nor hf:owner/repository/file.gguf.");
    if (chosen) examine(chosen);
    else field.current.focus();
  };
  const example = (ref) => {
    setText(ref);
    setWrong("");
    examine(chosenByText(ref));
  };
  return html`
    <form onSubmit=${submit} novalidate>
      <label class="pick-label" for=${id}>Link to a GGUF file, or Hugging Face reference</label>
      <div class="pick-line">
        <input id=${id} ref=${field} class="field" type="text" inputmode="url" autocomplete="off" autocapitalize="off" spellcheck="false"
          placeholder="https://….gguf or hf:owner/repository" value=${text} aria-invalid=${wrong ? "true" : undefined}
          aria-describedby=${`${id}-hint`} onInput=${(event) => setText(event.target.value)} />
        <button type="submit" class="button">Plan it</button>
      </div>
      <p id=${`${id}-hint`} class=${`pick-hint ${wrong && "pick-wrong"}`}>
        ${wrong || html`For example ${EXAMPLES.map(([name, ref], i) => html`
          ${i > 0 && ", "}<button type="button" class="button-link" onClick=${() => example(ref)}>${name}</button>`)}.`}
      </p>
    </form>`;
}

/** What somebody typed or a link names, as a choice; null if it names nothing. */
export function chosenByText(text) {
  if (!text) return null;
  if (/^hf:[^/]+\/[^/]+/i.test(text)) return { kind: "url", name: text.slice(text.lastIndexOf("/") + 1), ref: text };
  const url = URL.canParse(text) ? new URL(text) : /^[^\s]+\.gguf$/i.test(text) ? new URL(text, document.baseURI) : null;
  if (!url || !/^https?:$/.test(url.protocol)) return null;
  if (url.href === hrefOf(DEMO.ref)) return DEMO;
  return { kind: "url", name: lastName(url.pathname) || url.host, ref: text };
}

export const chosenByFile = (file) => ({ kind: "file", name: file.name, ref: file });

function FileButton() {
  const input = useRef(null);
  const pick = (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // so that the same file can be picked again
    if (file) examine(chosenByFile(file));
  };
  return html`
    <button type="button" class="button button-small" onClick=${() => input.current.click()}><${Icon} name="file" />Open a file…</button>
    <input ref=${input} type="file" accept=".gguf" hidden aria-label="A GGUF file from your disk" onChange=${pick} />`;
}

// What the engine had to say besides.

import { isFull, sentence } from "./errors.js";
import { Icon } from "./icons.js";
import { html, useState } from "./html.js";
import { examined, notes, problem } from "./session.js";

/** @param {{more?: string[]}} props more: of the plan */
export function Notes({ more = [] }) {
  const told = problem.value?.kind === "DiskFull"; // with its moves
  const all = [...new Set([...more, ...notes.value])].filter((text) => !told || !isFull(text));
  if (!all.length) return null;
  return html`<ul class="notes">${all.map((text, i) => html`<li key=${i}>${sentence(text)}</li>`)}</ul>`;
}

/** The latest one, above the chat until it was read; not those that the plan had already. */
export function Notice() {
  const [read, setRead] = useState(0);
  const all = notes.value.filter((text) => !examined.value?.notes?.includes(text));
  if (all.length <= read) return null;
  return html`
    <div class="notice" role="status">
      <p>${sentence(all.at(-1))}</p>
      <button type="button" class="button button-icon" aria-label="Dismiss" onClick=${() => setRead(all.length)}><${Icon} name="close" /></button>
    </div>`;
}

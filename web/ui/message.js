// One message: what it says, what can be done with it, and the engine's figures.

import { Icon } from "./chat-icons.js";
import { isFree, modelName } from "./chat-state.js";
import { gap, joinStory } from "./conversation-text.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";
import { MarkdownView, grow } from "./markdown.js";
import { CutOff, Failure } from "./message-end.js";
import * as session from "./session.js";

const DRAW_MS = 90; // between two drawings of a text that grows
const COPIED_MS = 1600;
const LIVE_MS = 300;

/**
 * @param {object} props
 * @param {import("./conversation.js").Conversation} props.conversation
 * @param {import("./conversation.js").Message} props.message
 * @param {boolean} props.last
 * @param {string} [props.before] of a story: what stands before this part
 */
export function Message({ conversation, message, last, before = "" }) {
  const [editing, setEditing] = useState(false);
  const story = conversation.mode.value === "story";
  const mine = message.role === "user";
  const writing = message.state === "writing";
  const kind = `chat-message chat-message-${message.role} ${story ? "chat-part" : ""}`;
  const text = () => (writing ? conversation.live.peek() : message.content);
  const speaker = mine ? "You" : modelName.value;
  const lead = gap(before, message.role, message.content);
  const edited = (changed) => {
    setEditing(false);
    if (changed) conversation.edit(message.id, changed);
    document.querySelector(".chat-composer textarea").focus();
  };
  return html`<article class=${kind} aria-label=${story ? (mine ? "Written by you" : "Written by the model") : speaker}>
    ${!mine && !story && html`<p class="chat-speaker" aria-hidden="true">${speaker}</p>`}
    ${editing && mine
      ? html`<${Editor} text=${message.content} onend=${edited} />`
      : html`<${Body} conversation=${conversation} message=${message} plain=${mine || story} lead=${lead} />`}
    ${!writing && !editing && html`<${Ending} conversation=${conversation} message=${message} last=${last} />`}
    ${!editing && html`<${Actions} ...${{ conversation, message, last, writing, text }} onedit=${() => setEditing(true)} />`}
  </article>`;
}

function Body({ conversation, message, plain, lead }) {
  const writing = message.state === "writing";
  if (writing && plain) return html`<${LiveText} live=${conversation.live} />`;
  if (plain) return html`<p class="chat-text">${lead}${message.content}</p>`;
  return html`<${Formatted} text=${message.content} live=${writing ? conversation.live : null} />`;
}

/** A growing text as it is. Its node is changed and not its element: a thousand tokens a second are no work. */
function LiveText({ live }) {
  const place = useRef(null);
  useLayoutEffect(() => {
    const node = place.current.firstChild;
    return live.subscribe((text) => grow(node, text));
  }, [live]);
  return html`<p class="chat-text" ref=${(element) => {
    if (element && !element.firstChild) element.append("");
    place.current = element;
  }}></p><${Caret} live=${live} />`;
}

/** Markdown; of a growing text some times a second. */
function Formatted({ text, live }) {
  const place = useRef(null);
  const view = useRef(null);
  useLayoutEffect(() => {
    view.current ??= new MarkdownView(place.current);
    if (!live) return void view.current.draw(text);
    let timer = 0;
    let spent = 0;
    const draw = () => {
      timer = 0;
      const begun = performance.now();
      view.current.draw(live.peek());
      spent = performance.now() - begun;
    };
    const end = live.subscribe(() => (timer ||= setTimeout(draw, Math.max(DRAW_MS, 8 * spent))));
    return () => (end(), clearTimeout(timer));
  }, [text, live]);
  useEffect(() => () => view.current.end(), []);
  return html`<div class="chat-formatted" ref=${place} onClick=${copyListing}></div>${live && html`<${Caret} live=${live} />`}`;
}

/** Before the first piece: it reads the prompt. */
function Caret({ live }) {
  const [begun, setBegun] = useState(Boolean(live.peek()));
  useEffect(() => live.subscribe((text) => text && setBegun(true)), [live]);
  if (begun) return null;
  return html`<p class="chat-thinking"><span class="chat-dots" aria-hidden="true"><i></i><i></i><i></i></span> Reading what was said</p>`;
}

function Ending({ conversation, message, last }) {
  if (message.role === "user") return null;
  if (message.state === "failed") return html`<${Failure} conversation=${conversation} message=${message} last=${last} />`;
  return html`<${CutOff} conversation=${conversation} message=${message} last=${last} />`;
}

function Actions({ conversation, message, last, writing, text, onedit }) {
  const mine = message.role === "user";
  const busy = !isFree.value;
  const story = conversation.mode.value === "story";
  const cutOff = message.state === "stopped" || message.stats?.finish !== "stop";
  if (writing) return html`<${LiveFigures} />`;
  if (story && !last) return mine && html`<${Action} icon="edit" label="Edit this part" disabled=${busy} onClick=${onedit} />`;
  const all = () => joinStory(conversation.messages.peek());
  const copies = story ? "Copy the text" : mine ? "Copy" : "Copy answer";
  const deletes = story ? "Delete this part" : mine ? "Delete with its answer" : "Delete answer";
  const again = () => conversation.regenerate(message.id);
  const proceed = () => conversation.proceed();
  const goesOn = !mine && last && message.content && (story || cutOff);
  return html`<div class="chat-actions ${last ? "chat-actions-last" : ""}">
    ${message.content && html`<${Copy} text=${story ? all : text} label=${copies} />`}
    ${mine && html`<${Action} icon="edit" label="Edit" disabled=${busy} onClick=${onedit} />`}
    ${!mine && html`<${Action} icon="redo" label=${story ? "Write anew" : "Regenerate"} disabled=${busy} onClick=${again} />`}
    ${goesOn && html`<${Action} icon="next" label="Continue" disabled=${busy} onClick=${proceed} />`}
    <${Action} icon="trash" label=${deletes} disabled=${conversation.writing.value}
      onClick=${() => conversation.remove(message.id)} />
    ${!mine && message.stats && html`<${Figures} stats=${message.stats} />`}
  </div>`;
}

export function Action({ icon, label, ...rest }) {
  return html`<button type="button" class="chat-action" title=${label} aria-label=${label} ...${rest}>
    <${Icon} name=${icon} /></button>`;
}

function Copy({ text, label }) {
  const [told, setTold] = useState("");
  const timer = useRef(0);
  const copy = async () => {
    const worked = await toClipboard(text());
    setTold(worked ? "Copied" : "Copying was refused");
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setTold(""), COPIED_MS);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  return html`<button type="button" class="chat-action" title=${label} aria-label=${label} onClick=${copy}>
    <${Icon} name=${told === "Copied" ? "check" : "copy"} /><span class="chat-told" role="status">${told}</span>
  </button>`;
}

/** The buttons of listings: they are no components, so one handler serves all. */
async function copyListing({ target }) {
  const button = target.closest?.(".chat-code-copy");
  if (!button) return;
  const worked = await toClipboard(button.closest(".chat-code").querySelector("code").textContent);
  button.textContent = worked ? "Copied" : "Refused";
  setTimeout(() => (button.textContent = "Copy"), COPIED_MS);
}

/** Whether it was allowed. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text); // undefined where the page is not a secure context
    return true;
  } catch {
    return false;
  }
}

/** What the engine measured, shortest first. */
function Figures({ stats }) {
  const { decode_tokens_per_second: speed, generated_tokens: tokens, first_token_seconds: first, cached_tokens: cached } = stats;
  const figures = [];
  if (speed > 0) figures.push([`${digits(speed)} tok/s`, "tokens a second, after the first"]);
  if (tokens >= 0) figures.push([`${tokens} ${tokens === 1 ? "token" : "tokens"}`, "written"]);
  if (first > 0) figures.push([`first after ${duration(first)}`, "time to the first token"]);
  if (cached > 0) figures.push([`${cached} of ${stats.prompt_tokens} remembered`, "tokens of the prompt that were not read again"]);
  return html`<ul class="chat-figures" aria-label="Figures">
    ${figures.map(([text, what]) => html`<li key=${what} title=${what}>${text}</li>`)}</ul>`;
}

/** While it is written; looked at a few times a second, since at a thousand tokens a second each would be a drawing. */
function LiveFigures() {
  const [{ decode, tokens }, setSpeeds] = useState(session.speeds.peek());
  useEffect(() => {
    const timer = setInterval(() => setSpeeds(session.speeds.peek()), LIVE_MS);
    return () => clearInterval(timer);
  }, []);
  if (!tokens || !decode) return null;
  return html`<div class="chat-actions chat-actions-last" aria-hidden="true">
    <ul class="chat-figures"><li>${digits(decode)} tok/s</li><li>${tokens} tokens</li></ul></div>`;
}

const duration = (seconds) => (seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${digits(seconds)} s`);
const digits = (number) => (number >= 100 ? String(Math.round(number)) : number.toPrecision(number < 1 ? 2 : 3));

function Editor({ text, onend }) {
  const field = useRef(null);
  useEffect(() => {
    field.current.focus();
    field.current.setSelectionRange(text.length, text.length);
    fit(field.current);
  }, []);
  const save = (event) => (event.preventDefault(), onend(field.current.value.trim() ? field.current.value : null));
  const keys = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) save(event);
    if (event.key === "Escape") (event.stopPropagation(), onend(null));
  };
  return html`<form class="chat-editor" onSubmit=${save}>
    <textarea ref=${field} aria-label="Edit the message" rows="2" onInput=${() => fit(field.current)} onKeyDown=${keys}
      defaultValue=${text}></textarea>
    <p><span class="chat-hint">What follows is written anew.</span>
      <button type="button" class="button button-small" onClick=${() => onend(null)}>Cancel</button>
      <button class="button button-small button-primary">Save and send</button></p>
  </form>`;
}

/** As high as its text, within what the style allows. */
export function fit(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

// The conversations on this device: whether any are kept, which there are, and how they come and go.

import { Action } from "./message.js";
import { canChat, conversation, keeper, modelName, turnTo } from "./chat-state.js";
import { titleOf } from "./conversation-text.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { Icon } from "./chat-icons.js";
import { MOST_BYTES, fileName, fromJson, toJson, toMarkdown } from "./records.js";

/** @param {{onopen?: () => void}} props onopen: told when a person has chosen what to read or write */
export function Conversations({ onopen = () => {} }) {
  const [said, setSaid] = useState("");
  const kept = keeper.wanted.value;
  const mode = canChat.value ? conversation.mode.value : "story";
  const begin = async () => {
    await turnTo(null);
    onopen();
  };
  return html`<section class="chat-conversations" aria-label="Conversations">
    <div class="chat-row">
      <button type="button" class="button button-small button-primary" onClick=${begin}><${Icon} name="plus" /> New ${mode}</button>
      <${Import} onend=${(text, worked) => (setSaid(text), worked && onopen())} />
    </div>
    <${KeepSwitch} />
    <p class="chat-hint" role="status">${said}</p>
    ${kept && !keeper.trouble.value && html`<${List} onopen=${onopen} />`}
    ${!kept && conversation.messages.value.length > 0 && html`<${Export} record=${conversation.record} label="Export" />`}
  </section>`;
}

function KeepSwitch() {
  const kept = keeper.wanted.value;
  const [asked, setAsked] = useState(false);
  const change = (event) => {
    const wanted = event.target.checked;
    if (!wanted && keeper.records.value.length) {
      event.target.checked = true;
      setAsked(true);
    } else keeper.want(wanted);
  };
  const n = keeper.records.value.length;
  const forget = (sure) => {
    setAsked(false);
    if (sure) keeper.want(false);
  };
  return html`<div class="chat-keep">
    <label class="switch"><input type="checkbox" role="switch" checked=${kept} onChange=${change} />
      <span>Keep conversations</span></label>
    <p class="chat-hint">${kept ? "On this device only: they never leave it." : "Off: what is said is gone with this page."}</p>
    ${keeper.trouble.value && html`<p class="chat-error" role="alert">${keeper.trouble.value}</p>`}
    ${asked && html`<${Confirm} text="Forget ${counted(n)} for good?" yes="Forget all" onend=${forget} />`}
  </div>`;
}

function List({ onopen }) {
  const [asked, setAsked] = useState(false);
  const records = keeper.records.value;
  const current = conversation.id.value;
  if (!records.length) return html`<p class="chat-hint">None yet: the first appears here when something is said.</p>`;
  return html`
    <ul class="chat-list">${records.map((record) => {
      return html`<${Entry} key=${record.id} record=${record} current=${record.id === current} onopen=${onopen} />`;
    })}</ul>
    ${asked
      ? html`<${Confirm} text="Delete ${counted(records.length)} for good?" yes="Delete all" onend=${async (sure) => {
          setAsked(false);
          if (!sure) return;
          conversation.begin();
          await keeper.removeAll();
        }} />`
      : html`<p><button type="button" class="button button-small" onClick=${() => setAsked(true)}>Delete all</button></p>`}`;
}

function Entry({ record, current, onopen }) {
  const [doing, setDoing] = useState("");
  const opener = useRef(null);
  const title = titleOf(record) || "Untitled";
  const open = async () => {
    if (!current) await turnTo(record);
    onopen();
  };
  const end = () => {
    setDoing("");
    opener.current?.focus();
  };
  const rename = async (name) => {
    end();
    if (name === null) return;
    if (current) conversation.name.value = name;
    await keeper.put({ ...(current ? conversation.record : record), name, changed: Date.now() });
  };
  const remove = async (sure) => {
    end();
    if (!sure) return;
    if (current) conversation.begin();
    await keeper.remove(record.id);
  };
  return html`<li class="chat-entry ${current ? "chat-entry-current" : ""}">
    ${doing === "rename"
      ? html`<${Rename} title=${title} onend=${rename} />`
      : html`<button type="button" class="chat-open" ref=${opener} aria-current=${current ? "true" : undefined} onClick=${open}>
          <span class="chat-open-title">${title}</span>
          <span class="chat-hint">${record.mode === "story" ? "Story" : "Chat"} · ${when(record.changed)}</span></button>`}
    ${doing === "delete" && html`<${Confirm} text="Delete it for good?" yes="Delete" onend=${remove} />`}
    ${doing === "export" && html`<${Export} record=${current ? conversation.record : record} label="Export" />`}
    ${!["rename", "delete"].includes(doing) && html`<div class="chat-entry-actions">
      <${Action} icon="edit" label="Rename ${title}" onClick=${() => setDoing("rename")} />
      <${Action} icon="export" label="Export ${title}" aria-expanded=${doing === "export" ? "true" : "false"}
        onClick=${() => setDoing(doing ? "" : "export")} />
      <${Action} icon="trash" label="Delete ${title}" onClick=${() => setDoing("delete")} />
    </div>`}
  </li>`;
}

function Rename({ title, onend }) {
  const field = useRef(null);
  useEffect(() => field.current.select(), []);
  const save = (event) => (event.preventDefault(), onend(field.current.value.trim().slice(0, 200)));
  return html`<form class="chat-rename" onSubmit=${save}>
    <input ref=${field} aria-label="Name of the conversation" value=${title} maxlength="200"
      onKeyDown=${(event) => event.key === "Escape" && (event.stopPropagation(), event.preventDefault(), onend(null))} />
    <button class="button button-small">Save</button>
  </form>`;
}

function Export({ record, label }) {
  const save = (text, suffix, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = fileName(record, suffix);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // the browser has begun to read it by then
  };
  const markdown = () => save(toMarkdown(record, modelName.value), "md", "text/markdown");
  const json = () => save(toJson(record), "json", "application/json");
  return html`<p class="chat-moves" role="group" aria-label=${label}><span class="chat-hint">As</span>
    <button type="button" class="button button-small" onClick=${markdown}>Markdown</button>
    <button type="button" class="button button-small" onClick=${json}>JSON</button></p>`;
}

function Import({ onend }) {
  const field = useRef(null);
  const read = async () => {
    const file = field.current.files[0];
    field.current.value = "";
    if (!file) return;
    try {
      if (file.size > MOST_BYTES) throw new Error(`it is larger than ${MOST_BYTES / 2 ** 20} MiB`);
      const record = fromJson(await file.text());
      await turnTo(record);
      await keeper.save();
      onend(`${titleOf(record) || "The conversation"} was imported.`, true);
    } catch (error) {
      onend(`${file.name} was not imported: ${error.message}.`, false);
    }
  };
  const choose = () => field.current.click();
  return html`<button type="button" class="button button-small" onClick=${choose}><${Icon} name="import" /> Import</button>
    <input ref=${field} type="file" accept=".json,application/json" hidden aria-label="A conversation" onChange=${read} />`;
}

function Confirm({ text, yes, onend }) {
  const safe = useRef(null);
  useEffect(() => safe.current.focus(), []);
  return html`<div class="chat-confirm" role="group" aria-label=${text}><p>${text}</p><p class="chat-moves">
    <button type="button" class="button button-small" ref=${safe} onClick=${() => onend(false)}>Keep</button>
    <button type="button" class="button button-small chat-danger" onClick=${() => onend(true)}>${yes}</button></p></div>`;
}

const counted = (n) => (n === 1 ? "the conversation" : `all ${n} conversations`);

function when(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  if (today) return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return date.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
}

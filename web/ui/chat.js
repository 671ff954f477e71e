// The conversation on the page: its messages as they are written, and around them what begins and steers it.

import { Icon } from "./chat-icons.js";
import { canChat, conversation, modelName } from "./chat-state.js";
import { Composer } from "./composer.js";
import { titleOf } from "./conversation-text.js";
import { Conversations } from "./conversations.js";
import { Greeting } from "./greeting.js";
import { html, useEffect, useLayoutEffect, useRef, useSignal } from "./html.js";
import { Action, Message } from "./message.js";
import { SamplerSettings } from "./sampler.js";

export { Conversations, SamplerSettings };

const NEAR = 32; // px from the end that still count as being there

/** @param {{panels?: boolean}} props panels: false if conversations and settings have a place of their own on the page */
export function Chat({ panels = true }) {
  const root = useRef(null);
  useLayoutEffect(() => {
    // What has no template is no partner in a conversation: it goes on with a text.
    return canChat.subscribe((can) => {
      if (!conversation.messages.peek().length) conversation.mode.value = can ? "chat" : "story";
    });
  }, []);
  const keys = (event) => {
    if (event.key !== "Escape" || event.isComposing || !conversation.writing.value || event.target.closest("dialog")) return;
    event.preventDefault();
    conversation.stop();
    root.current.querySelector(".chat-composer textarea").focus();
  };
  return html`<section class="chat" aria-label="Conversation" ref=${root} onKeyDown=${keys}>
    <${Bar} panels=${panels} />
    <${Log} />
    <${Undo} />
    <${Composer} conversation=${conversation} />
    <${Announcer} />
  </section>`;
}

function Bar({ panels }) {
  const { messages, mode } = conversation;
  const title = titleOf({ name: conversation.name.value, messages: messages.value });
  const empty = !messages.value.length;
  const clear = (event) => {
    conversation.clear();
    event.target.closest(".chat").querySelector(".chat-composer textarea").focus(); // the button is gone
  };
  return html`<header class="chat-bar">
    ${panels && html`<${Sheet} icon="list" label="Conversations" side="left">
      ${(close) => html`<${Conversations} onopen=${close} />`}
    <//>`}
    ${empty ? html`<${ModeSwitch} />` : html`<h2 class="chat-title">${title || (mode.value === "story" ? "Story" : "Chat")}</h2>`}
    ${!empty && html`<button type="button" class="button button-icon" title="Clear" aria-label="Clear the conversation" onClick=${clear}>
      <${Icon} name="trash" /></button>`}
    ${panels && html`<${Sheet} icon="settings" label="Settings" side="right">${() => html`<${SamplerSettings} />`}<//>`}
  </header>`;
}

function ModeSwitch() {
  const { mode } = conversation;
  const choices = [
    ["chat", "Chat", "Say something and get an answer"],
    ["story", "Story", "Begin a text, and the model goes on with it"],
  ];
  return html`<fieldset class="segments chat-modes"><legend class="hidden-text">What the model is to do</legend>
    ${choices.map(([value, label, what]) => html`<label key=${value} title=${what}>
      <input type="radio" name="chat-mode" value=${value} checked=${mode.value === value} onChange=${() => (mode.value = value)} />
      <span>${label}</span></label>`)}
  </fieldset>`;
}

/** A button with a sheet that comes in from a side. */
function Sheet({ icon, label, side, children }) {
  const sheet = useRef(null);
  const open = useSignal(false);
  const show = () => {
    open.value = true;
    sheet.current.showModal();
  };
  const close = () => sheet.current.close();
  // A click on the dialog itself is one on what lies around its content.
  return html`<button type="button" class="button button-icon" title=${label} aria-label=${label} aria-haspopup="dialog" onClick=${show}>
      <${Icon} name=${icon} /></button>
    <dialog ref=${sheet} class="chat-sheet chat-sheet-${side}" aria-label=${label} onClose=${() => (open.value = false)}
      onClick=${(event) => event.target === sheet.current && close()}>
      <div class="chat-sheet-inside">
        <header><h2>${label}</h2>
          <button type="button" class="button button-icon" aria-label="Close" onClick=${close}><${Icon} name="close" /></button></header>
        ${open.value && children(close)}
      </div>
    </dialog>`;
}

function Log() {
  const scroller = useRef(null);
  const content = useRef(null);
  const follows = useSignal(true); // the reader is at the end, and stays there
  const { messages, mode, forgotten, writing } = conversation;
  const story = mode.value === "story";
  const toEnd = () => (scroller.current.scrollTop = scroller.current.scrollHeight);

  useLayoutEffect(() => {
    const watcher = new ResizeObserver(() => follows.peek() && toEnd());
    watcher.observe(content.current);
    watcher.observe(scroller.current);
    return () => watcher.disconnect();
  }, []);
  useEffect(() => {
    follows.value = true; // whoever says something wants to see what comes of it
    toEnd();
  }, [conversation.id.value, writing.value && messages.value.at(-1)?.id, messages.value.length === 0]);

  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = scroller.current;
    follows.value = scrollHeight - scrollTop - clientHeight < NEAR;
  };
  const wheel = (event) => event.deltaY < 0 && scroller.current.scrollTop > 0 && (follows.value = false);
  const jump = () => {
    follows.value = true;
    toEnd();
    scroller.current.focus({ preventScroll: true });
  };
  let before = "";
  const shown = messages.value.map((message, at) => {
    const one = html`<${Message} key=${message.id} conversation=${conversation} message=${message} before=${story ? before : ""}
      last=${at === messages.value.length - 1} />`;
    if (story) before = message.content || before;
    if (!at || at !== forgotten.value) return one;
    return [html`<p class="chat-forgotten" key="forgotten">The model no longer sees what is above</p>`, one];
  });
  return html`<div class="chat-log-place">
    <div class="chat-log" ref=${scroller} tabindex="0" role="log" aria-label="Messages" aria-busy=${writing.value ? "true" : "false"}
      onScroll=${scrolled} onWheel=${wheel}>
      <div class="chat-log-inside ${story ? "chat-story" : ""}" ref=${content}>${shown.length ? shown : html`<${Greeting} />`}</div>
    </div>
    ${!follows.value && shown.length > 0 && html`<button type="button" class="chat-jump" onClick=${jump}>
      <${Icon} name="down" /> ${writing.value ? "Follow the text" : "Jump to latest"}</button>`}
  </div>`;
}

function Undo() {
  const undoable = conversation.undoable.value;
  const end = (act) => (event) => {
    act();
    event.target.closest(".chat").querySelector(".chat-composer textarea").focus();
  };
  return html`<div class="chat-undo-place" role="status">${undoable && html`<p class="chat-undo"><span>${undoable.what}</span>
    <button type="button" class="button button-small" onClick=${end(() => conversation.undo())}><${Icon} name="undo" /> Undo</button>
    <${Action} icon="close" label="Dismiss" onClick=${end(() => (conversation.undoable.value = null))} /></p>`}</div>`;
}

/** Says to who does not see it that a text begins and ends; the log, while busy, says nothing. */
function Announcer() {
  const { writing, messages } = conversation;
  const last = messages.value.at(-1);
  let said = "";
  if (writing.value) said = `${modelName.value} is writing`;
  else if (last?.role === "assistant" && last.state === "stopped") said = "Stopped";
  else if (last?.role === "assistant" && last.state === "done") said = "The text is complete";
  return html`<p class="hidden-text" role="status">${said}</p>`;
}

// The conversation on the page: its messages as they are written, and around them what begins and steers it.

import { Icon } from "./chat-icons.js";
import { canChat, conversation, modelName } from "./chat-state.js";
import { Composer } from "./composer.js";
import { titleOf } from "./conversation-text.js";
import { Conversations } from "./conversations.js";
import { html, useEffect, useLayoutEffect, useRef } from "./html.js";
import { Log } from "./chat-log.js";
import { Action } from "./message.js";
import { SamplerSettings } from "./sampler.js";
import { Sheet } from "./sheet.js";

export { Conversations, SamplerSettings };

/** @param {{panels?: boolean}} props panels: false if conversations and settings have a place of their own on the page */
export function Chat({ panels = true }) {
  const root = useRef(null);
  useLayoutEffect(() => {
    // What has no template is no partner in a conversation: it goes on with a text.
    return canChat.subscribe((can) => {
      if (!conversation.messages.peek().length) conversation.mode.value = can ? "chat" : "story";
    });
  }, []);
  useEffect(() => {
    // Wherever the focus is, unless a dialog has it.
    const keys = (event) => {
      if (event.key !== "Escape" || event.isComposing || !conversation.writing.value || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      conversation.stop();
      root.current.querySelector(".chat-composer textarea").focus();
    };
    document.addEventListener("keydown", keys);
    return () => document.removeEventListener("keydown", keys);
  }, []);
  return html`<section class="chat" aria-label="Conversation" ref=${root}>
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

// Where one writes: grows with its text, sends with Enter, stops with Escape, and says why it waits.

import { Icon } from "./chat-icons.js";
import { html, useEffect, useLayoutEffect, useRef } from "./html.js";
import { fit } from "./message.js";
import * as session from "./session.js";

/** @param {{conversation: import("./conversation.js").Conversation}} props */
export function Composer({ conversation }) {
  const field = useRef(null);
  const draft = conversation.draft.value;
  const writing = conversation.writing.value;
  const story = conversation.mode.value === "story";
  const waits = whyWaiting(conversation);
  const canGoOn = story && !draft.trim() && conversation.messages.value.length > 0;
  useLayoutEffect(() => fit(field.current), [draft]);
  useEffect(() => conversation.id.subscribe(() => focusUnlessElsewhere(field.current)), [conversation]);

  const send = (event) => {
    event?.preventDefault();
    if (waits || writing) return;
    if (canGoOn) conversation.proceed();
    else conversation.send(field.current.value);
    field.current.focus();
  };
  const touch = matchMedia("(hover: none) and (pointer: coarse)").matches; // its keyboard has no Shift and Enter
  const keys = (event) => {
    // While characters are composed (IME), Enter chooses one of them; Safari says so by 229 only.
    if (event.key !== "Enter" || event.shiftKey || touch || event.isComposing || event.keyCode === 229) return;
    send(event);
  };
  const stop = async () => {
    field.current.focus();
    await conversation.stop();
  };
  const hint = story ? "Begin a text, and the model goes on" : "Say something";
  return html`<form class="chat-composer" onSubmit=${send}>
    <div class="chat-field">
      <textarea ref=${field} rows="1" value=${draft} aria-label=${story ? "Your text" : "Your message"} enterkeyhint=${touch ? "enter" : "send"}
        placeholder=${canGoOn ? "Add to the text, or just let it go on" : hint} aria-describedby="chat-waits"
        onInput=${(event) => (conversation.draft.value = event.target.value)} onKeyDown=${keys}></textarea>
      ${writing
        ? html`<button type="button" class="chat-send chat-stop" onClick=${stop} title="Stop (Escape)">
            <${Icon} name="stop" /><span>Stop</span></button>`
        : html`<button class="chat-send" disabled=${Boolean(waits) || (!draft.trim() && !canGoOn)}>
            <${Icon} name=${canGoOn ? "next" : "send"} /><span>${canGoOn ? "Continue" : story ? "Write" : "Send"}</span></button>`}
    </div>
    <p class="chat-waits" id="chat-waits">${waits || html`<kbd>Enter</kbd> sends, <kbd>Shift</kbd> <kbd>Enter</kbd> begins a line${
      writing && html`, <kbd>Esc</kbd> stops`
    }`}</p>
  </form>`;
}

/** Why nothing can be sent; "" if it can. */
function whyWaiting(conversation) {
  if (conversation.writing.value) return "";
  if (session.model.value) return session.writing.value ? "The model is finishing another text." : "";
  switch (session.phase.value) {
    case "opening": return "The model is being opened. You can write already; sending waits for it.";
    case "examining": return "The model's header is being read.";
    case "planned": return "Load the model to talk to it.";
    default: return "Choose a model to talk to.";
  }
}

/** Not where a keyboard would come up on the screen. */
function focusUnlessElsewhere(field) {
  const { activeElement } = document;
  if (!matchMedia("(hover: hover)").matches) return;
  if (!activeElement || activeElement === document.body) field?.focus({ preventScroll: true });
}

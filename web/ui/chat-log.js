// The messages: drawn from the end, and followed there as long as the reader does not look further up.

import { Icon } from "./chat-icons.js";
import { conversation } from "./chat-state.js";
import { joinStory } from "./conversation-text.js";
import { Greeting } from "./greeting.js";
import { html, useEffect, useLayoutEffect, useRef, useSignal } from "./html.js";
import { Message } from "./message.js";

const NEAR = 32; // px from the end that still count as being there
const MOST = 60; // messages that are drawn at once

export function Log() {
  const scroller = useRef(null);
  const content = useRef(null);
  const follows = useSignal(true); // the reader is at the end, and stays there
  const { messages, mode, forgotten, writing } = conversation;
  const story = mode.value === "story";
  const most = useSignal(MOST);
  const toEnd = () => (scroller.current.scrollTop = scroller.current.scrollHeight);

  useLayoutEffect(() => {
    const watcher = new ResizeObserver(() => follows.peek() && toEnd());
    watcher.observe(content.current);
    watcher.observe(scroller.current);
    return () => watcher.disconnect();
  }, []);
  useEffect(() => {
    most.value = MOST;
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
  // A long conversation is drawn from its end.
  const first = Math.max(0, messages.value.length - most.value);
  const earlier = () => {
    const { scrollHeight, scrollTop } = scroller.current;
    follows.value = false;
    most.value += MOST;
    requestAnimationFrame(() => (scroller.current.scrollTop = scrollTop + scroller.current.scrollHeight - scrollHeight));
  };
  let before = story ? joinStory(messages.value.slice(0, first)) : "";
  const shown = messages.value.slice(first).map((message, n) => {
    const at = first + n;
    const one = html`<${Message} key=${message.id} conversation=${conversation} message=${message} before=${story ? before : ""}
      last=${at === messages.value.length - 1} />`;
    if (story) before = message.content || before;
    if (!at || at !== forgotten.value) return one;
    return [html`<p class="chat-forgotten" key="forgotten">The model no longer sees what is above</p>`, one];
  });
  return html`<div class="chat-log-place">
    <div class="chat-log" ref=${scroller} tabindex="0" role="log" aria-label="Messages" aria-busy=${writing.value ? "true" : "false"}
      onScroll=${scrolled} onWheel=${wheel}>
      <div class="chat-log-inside ${story ? "chat-story" : ""}" ref=${content}>
        ${first > 0 && html`<p class="chat-earlier"><button type="button" class="button button-small" onClick=${earlier}>
          Show earlier messages (${first})</button></p>`}
        ${shown.length ? shown : html`<${Greeting} />`}
      </div>
    </div>
    ${!follows.value && shown.length > 0 && html`<button type="button" class="chat-jump" onClick=${jump}>
      <${Icon} name="down" /> ${writing.value ? "Follow the text" : "Jump to latest"}</button>`}
  </div>`;
}

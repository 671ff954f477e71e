// An empty conversation: what can be done here, and some ways to begin.

import { canChat, conversation, isFree, modelName } from "./chat-state.js";
import { html } from "./html.js";
import * as session from "./session.js";

const CHAT = [
  ["Explain", "Explain to a ten-year-old why the sky is blue."],
  ["Write", "Write a short, friendly note that moves tomorrow's meeting to Friday."],
  ["Code", "Write a Python function that tells whether a word is a palindrome, with two tests."],
  ["Think", "Give me three arguments for and three against working from home, as a table."],
];
const DEMO = [ // a model of a few MB
  ["Story", "Tell me a story about a mole."],
  ["Who", "Who are you?"],
  ["Sum", "What is 3 plus 4?"],
  ["Joke", "Tell me a joke."],
];
const STORY = [
  ["Once upon a time", "Once upon a time"],
  ["A small mystery", "Lena opened the old door, and there"],
  ["Two friends", "The mole and the duckling wanted to build"],
  ["A rainy day", "It rained all day, so Winston"],
];

export function Greeting() {
  const story = conversation.mode.value === "story";
  const examples = story ? STORY : session.choice.value?.kind === "demo" ? DEMO : CHAT;
  const take = (text) => {
    if (isFree.value) conversation.send(text);
    else conversation.draft.value = text;
    document.querySelector(".chat-composer textarea")?.focus();
  };
  return html`<div class="chat-greeting">
    <h2>${story ? "Begin a story" : "What is on your mind?"}</h2>
    <p>${story
      ? html`Write a first sentence, and <strong>${modelName.value}</strong> goes on from there. What it writes is made up.`
      : html`<strong>${modelName.value}</strong> answers on this device. What you write never leaves it.`}</p>
    ${!story && !canChat.value && html`<p class="chat-warned">This model's file has no chat template, so it may not know how to
      answer. It goes on with texts: try Story.</p>`}
    <ul class="chat-examples">${examples.map(([label, text]) => html`<li key=${text}>
      <button type="button" onClick=${() => take(text)}><strong>${label}</strong><span>${text}${story && "…"}</span></button>
    </li>`)}</ul>
  </div>`;
}

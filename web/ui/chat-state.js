// The page's one conversation, and what keeps conversations on this device.

import { Conversation } from "./conversation.js";
import { computed, effect } from "./html.js";
import { Keeper } from "./keeping.js";
import * as session from "./session.js";

const HIDDEN_MS = 500; // a page that is not seen has no frames

function nextFrame(draw) {
  const once = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    draw();
  };
  const frame = requestAnimationFrame(once);
  const timer = setTimeout(once, HIDDEN_MS);
}

export const conversation = new Conversation({ startText: (run) => session.startText(run), frame: nextFrame });
export const keeper = new Keeper(conversation);
export const keeping = keeper.start();

/** Who answers, in a word or two. */
export const modelName = computed(() => {
  return session.examined.value?.title || session.model.value?.name.replace(/\.gguf$/i, "") || "Model";
});

/** Whether the model's file says how it is talked to; true as long as no model is known. */
export const canChat = computed(() => session.examined.value?.chat ?? true);

/** Whether there is a model, and it writes nothing. */
export const isFree = computed(() => Boolean(session.model.value) && !session.writing.value && !conversation.writing.value);

const isKept = () => keeper.wanted.value && !keeper.trouble.value;

/** Leave the conversation for another one that is empty, or for this one. Nothing is lost: what is not kept can be had back. */
export async function turnTo(record) {
  await keeper.save();
  if (record) conversation.load(record, !isKept());
  else conversation.begin(canChat.value ? conversation.mode.value : "story", !isKept());
}

// The message says so itself, and what can be done.
effect(() => {
  const full = conversation.messages.value.at(-1)?.reason?.kind === "ContextFull";
  if (full && session.model.value && session.problem.value?.kind === "ContextFull") session.problem.value = null;
});

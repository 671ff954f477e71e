// The page's one conversation, and what keeps conversations on this device.

import { Conversation } from "./conversation.js";
import { computed } from "./html.js";
import { Keeper } from "./keeping.js";
import * as session from "./session.js";

export const conversation = new Conversation({ startText: (run) => session.startText(run) });
export const keeper = new Keeper(conversation);
export const keeping = keeper.start();

/** Who answers, in a word or two. */
export const modelName = computed(() => {
  return session.examined.value?.title || session.model.value?.name.replace(/\.gguf$/i, "") || "Model";
});

/** Whether the model's file says how it is talked to; true as long as no model is known. */
export const canChat = computed(() => session.examined.value?.chat ?? true);

// Why a text has ended before its end, and what a person can do then.

import { isFree, turnTo } from "./chat-state.js";
import { sentence } from "./errors.js";
import { html } from "./html.js";
import * as session from "./session.js";

/** An answer that failed. */
export function Failure({ conversation, message, last }) {
  const { kind, text } = message.reason ?? { kind: "", text: "" };
  const full = kind === "ContextFull";
  const again = () => conversation.regenerate(message.id);
  return html`<div class="chat-end chat-end-bad" role=${last ? "alert" : undefined}>
    <p><strong>${full ? "This is more than the model can hold." : "The answer broke off."}</strong> ${text && sentence(text)}</p>
    ${last && html`<p class="chat-moves">
      ${full ? html`<${FullMoves} conversation=${conversation} />` : html`<${Move} first label="Try again" run=${again} />`}
    </p>`}
  </div>`;
}

/** An answer that ended because of a limit, or was stopped. */
export function CutOff({ conversation, message, last }) {
  const { state, stats } = message;
  const story = conversation.mode.value === "story";
  if (state === "stopped") return html`<p class="chat-end">Stopped.${last && !story && message.content && " Continue goes on from here."}</p>`;
  if (stats?.finish === "length") return html`<p class="chat-end">Ended after ${stats.generated_tokens} tokens, as you have set.</p>`;
  if (stats?.finish !== "context") return null;
  return html`<div class="chat-end chat-end-warn" role=${last ? "status" : undefined}>
    <p><strong>The context is full.</strong> The model holds ${contextOf() ?? "no more"} tokens at once, and all are used.</p>
    ${last && html`<p class="chat-moves"><${FullMoves} conversation=${conversation} /></p>`}
  </div>`;
}

function FullMoves({ conversation }) {
  const larger = largerContext();
  const story = conversation.mode.value === "story";
  const forget = () => conversation.forgetOldest();
  return html`
    ${conversation.canForget && html`<${Move} first label="Go on without the ${story ? "beginning" : "oldest messages"}" run=${forget} />`}
    ${larger && html`<${Move} label=${`Open it with a context of ${larger}`} run=${() => openLarger(larger)} />`}
    <${Move} first=${!conversation.canForget} needs=${false} label=${story ? "New story" : "New chat"} run=${() => turnTo(null)} />`;
}

function Move({ first = false, label, run, needs = true }) {
  return html`<button type="button" class="button button-small ${first ? "button-primary" : ""}" disabled=${needs && !isFree.value} onClick=${run}>${label}</button>`;
}

const contextOf = () => session.model.value?.plan?.context ?? null;

/** Twice the context, as far as the model was made for it; null if it has all of that. */
function largerContext() {
  const now = contextOf();
  const most = session.model.value?.config?.n_ctx_train ?? 0;
  return now && most > now ? Math.min(2 * now, most) : null;
}

function openLarger(context) {
  session.choose({ context: String(context) });
  session.load();
}

// What a screen reader is told: how far things are, seldom and in few words.

import { html, useEffect, useRef, useState } from "./html.js";
import { arriving, choice, entered, examined, phase, writing } from "./session.js";

function state() {
  const name = choice.value?.name ?? "";
  if (phase.value === "examining") return examined.value ? "" : `Reading the header of ${name}`;
  if (phase.value === "planned") return examined.value?.runs ? `${name} can run here; the plan is shown` : "";
  if (phase.value === "opening") return `Opening ${name}`;
  if (phase.value !== "ready" || writing.value) return "";
  return arriving.value ? `${name} can write; its weights are still arriving` : `${name} is ready`;
}

export function Live() {
  const now = state();
  const [said, say] = useState("");
  const before = useRef("");
  useEffect(() => {
    if (!now || now === before.current) return;
    before.current = now;
    say(now);
  }, [now, entered.value]);
  return html`<p class="hidden-text" role="status">${said}</p>`;
}

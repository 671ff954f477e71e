// The layers in a strip of the header, where there is no room for the engine beside the chat; it opens the engine's panel.

import { html } from "./html.js";
import { examined, map, panel } from "./session.js";

const MOST = 24; // bars; of more layers some stand together

export function MiniMap() {
  const segments = map.value?.segments ?? examined.value?.segments ?? [];
  const step = Math.max(1, Math.ceil(segments.length / MOST));
  const bars = segments.filter((_, i) => i % step === 0).map((_, i) => look(segments.slice(i * step, (i + 1) * step)));
  return html`
    <button type="button" class="mini" aria-label="Engine: layers, memory, speed" onClick=${() => (panel.value = "engine")}>
      ${bars.map((of, i) => html`<i key=${i} class=${of}></i>`)}
    </button>`;
}

/** One of the states of layer-map.js, for some segments together. */
function look(segments) {
  const sum = (name) => segments.reduce((all, one) => all + (one[name] || 0), 0);
  if (segments.some((one) => one.in_use)) return "mini-use";
  if (sum("arriving") > 0) return "mini-arriving";
  if (sum("gpu") > 0) return "mini-gpu";
  return sum("resident") > 0 ? "mini-resident" : "";
}

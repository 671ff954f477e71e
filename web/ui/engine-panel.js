// Beside the chat: where the model's layers are, what it takes, how fast it is.

import { memoryText } from "./format.js";
import { LayerMap } from "./layer-map.js";
import { Meters } from "./meters.js";
import { Notes } from "./notes.js";
import { LoadProgress } from "./progress.js";
import { Tiers } from "./tiers.js";
import { html } from "./html.js";
import { arriving, cancel, close, examined, lowerMemory, map, model, notes, phase, progress, speeds } from "./session.js";

export function EnginePanel() {
  return html`
    <div class="engine">
      ${arriving.value === "weights" && html`<${LoadProgress} what=${phase.value === "opening" ? "Opening" : "Loading"} onCancel=${cancel} />`}
      ${arriving.value === "pass" && html`<${LoadProgress} what="First pass" />`}
      <${LayerMap} map=${map.value} examined=${examined.value} progress=${arriving.value && progress.value} />
      <${Tiers} map=${map.value} />
      <${Meters} speeds=${speeds.value} map=${map.value} />
      ${model.value && html`<${Less} plan=${model.value.plan} />`}
      ${notes.value.length > 0 && html`<section class="engine-part"><h3>Notes</h3><${Notes} /></section>`}
    </div>`;
}

/** Memory can be given back while the model is open. */
function Less({ plan }) {
  const half = Math.max(plan.minimum_bytes ?? 0, plan.total_bytes / 2);
  return html`
    <div class="engine-moves">
      <button type="button" class="button button-small" disabled=${half >= plan.total_bytes} onClick=${() => lowerMemory(memoryText(half))}>
        Halve its memory
      </button>
      <button type="button" class="button button-small" onClick=${close}>Close the model</button>
    </div>`;
}

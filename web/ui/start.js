// The first screen: what this is, which model, and what its plan is before anything large is read.

import { DiskFull } from "./disk-full.js";
import { bytes } from "./format.js";
import { Notes } from "./notes.js";
import { Options } from "./options.js";
import { Picker } from "./picker.js";
import { PlanView } from "./plan-view.js";
import { Problem } from "./problem.js";
import { Bar, LoadProgress } from "./progress.js";
import { html, useState } from "./html.js";
import { Icon } from "./icons.js";
import { cancel, choice, choose, examined, load, options, panel, phase, problem } from "./session.js";

export function Start() {
  return html`
    <div class="start">
      <div class="start-pick">
        <div class="hero">
          <h1>GGUF models, in this tab.</h1>
          <p>Private: what you write never leaves it. Models larger than your memory run too, streamed in layer by layer.</p>
        </div>
        <${Picker} />
      </div>
      <div class="start-side">
        <${Plan} />
        <${Go} found=${examined.value} />
      </div>
      <div class="start-options" role="group" aria-label="Choices"><${Options} /></div>
    </div>`;
}

function Plan() {
  const busy = phase.value === "examining";
  const found = examined.value;
  return html`
    <section class=${`card start-plan ${busy && found ? "card-busy" : ""}`} aria-label="What will happen" aria-busy=${busy ? "true" : "false"}>
      <${Problem} />
      ${found && (found.runs || !problem.value) && html`<${PlanView} examined=${found} options=${options.value} busy=${busy} onmemory=${(text) => choose({ [found.needs === "gpu_memory" ? "gpuMemory" : "memory"]: text })} />`}
      ${!found && busy && html`<${Reading} />`}
      ${!found && !busy && !problem.value && html`<${Nothing} />`}
      <${Notes} more=${found?.notes} />
    </section>`;
}

/** The one thing to do next. */
function Go({ found }) {
  const [partly, setPartly] = useState(null); // the model of which only a part is to be kept
  if (phase.value === "opening") return html`<div class="go"><${LoadProgress} what="Opening" onCancel=${cancel} /></div>`;
  const { bytes: needed = 0, quota, usage } = found?.download ?? {};
  const room = Math.max(0, (quota ?? Infinity) - (usage ?? 0));
  if (found?.runs && options.value.cache && choice.value.kind !== "file" && needed > room && partly !== found.name) {
    return html`
      <${DiskFull} needs=${bytes(needed)} room=${bytes(room)} onRoom=${() => (panel.value = "storage")}
        onWithout=${() => (choose({ cache: false }), load())} onPart=${() => (setPartly(found.name), load())} />`;
  }
  return html`
    <div class="go">
      <button type="button" class="button button-primary button-large" disabled=${!found?.runs || phase.value === "examining"} onClick=${load}>
        Load and chat<${Icon} name="arrow" />
      </button>
    </div>`;
}

function Reading() {
  return html`
    <div class="wait">
      <${Bar} share=${null} label="Planning" />
      <p><strong>${choice.value?.name}</strong></p>
      <p>Reading its header, and planning for this device.</p>
      <button type="button" class="button button-small" onClick=${cancel}>Cancel</button>
    </div>`;
}

const Nothing = () => html`<div class="wait"><p>Choose a model to see whether it runs here, and how fast.</p></div>`;

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
      <div>
        <div class="hero">
          <h1>Any GGUF model, in this tab.</h1>
          <p>Private: nothing you write leaves it, nothing is installed. Models larger than your memory run too; they stream in, layer by layer.</p>
        </div>
        <${Picker} />
      </div>
      <div class="start-side"><${Planned} /></div>
    </div>`;
}

function Planned() {
  const busy = phase.value === "examining";
  const found = examined.value;
  return html`
    <section class=${`card ${busy && found ? "card-busy" : ""}`} aria-label="Plan" aria-busy=${busy ? "true" : "false"}>
      <${Problem} />
      ${found ? html`<${Card} found=${found} />` : busy ? html`<${Reading} />` : !problem.value && html`<${Nothing} />`}
    </section>`;
}

function Card({ found }) {
  return html`
    <div class="plan"><${PlanView} examined=${found} options=${options.value} /></div>
    <${Options} />
    <${Go} found=${found} />
    <${Notes} />`;
}

/** The one thing to do next. */
function Go({ found }) {
  const [partly, setPartly] = useState(null); // the model of which only a part is to be kept
  if (phase.value === "opening") return html`<${LoadProgress} what="Opening" />`;
  const { bytes: needed = 0, quota, usage } = found.download ?? {};
  const room = Math.max(0, (quota ?? Infinity) - (usage ?? 0));
  const { kind } = choice.value;
  if (found.runs && options.value.cache && kind !== "file" && needed > room && partly !== found.name) {
    return html`
      <${DiskFull} needs=${bytes(needed)} room=${bytes(room)} onRoom=${() => (panel.value = "storage")}
        onWithout=${() => (choose({ cache: false }), load())} onPart=${() => (setPartly(found.name), load())} />`;
  }
  return html`
    <div class="card-go">
      <button type="button" class="button button-primary button-large" disabled=${!found.runs || phase.value === "examining"} onClick=${load}>
        Load and chat<${Icon} name="arrow" />
      </button>
    </div>`;
}

function Reading() {
  return html`
    <div class="wait">
      <${Bar} share=${null} label="Planning" />
      <p><strong>${choice.value?.name}</strong></p>
      <p>Reading its header, and planning for this device</p>
      <button type="button" class="button button-small" onClick=${cancel}>Cancel</button>
    </div>`;
}

const Nothing = () => html`<div class="wait"><p>Choose a model to see whether it runs here, and how fast.</p></div>`;

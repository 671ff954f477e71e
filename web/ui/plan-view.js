// The plan of a model, before anything large is read: whether it runs, how fast, where its bytes will be, what is to be fetched.

import { bytes, duration, feel, percent, tokenRate } from "./format.js";
import { gpuMemoryOf, memoryOf, weightsOf } from "./geometry.js";
import { html } from "./html.js";
import { LayerMap } from "./layer-map.js";
import { downloadOf, factsOf, limitOf, verdictOf } from "./plan-text.js";
import { valueOf } from "./value.js";

const ROOM = 2.2; // what of a budget far larger than the model is drawn, as a multiple of what is used
const SIGNS = { yes: "m6 12.5 4 4 8-9", stream: "M4 9c3-3 5 3 8 0s5 3 8 0M4 15c3-3 5 3 8 0s5 3 8 0", no: "m7 7 10 10M17 7 7 17" };
const NAMES = {
  gpu: "On the GPU",
  resident: "In memory",
  stream: "Read for each token",
  rows: "Read row by row",
  experts: "Experts kept",
  kv: "Conversation (KV cache)",
  staging: "Read ahead",
  work: "Working space",
};

/**
 * examined, options: values or signals of session.js. busy: a plan with other options is being made.
 * onmemory: called with the text of a memory budget that the person chose here.
 */
export function PlanView({ examined, options, busy = false, onmemory }) {
  const found = valueOf(examined);
  if (!found) return null;
  const chosen = valueOf(options);
  const { plan, predicted } = found;
  const keep = chosen?.cache !== false;
  return html`<section class="plan" aria-busy=${busy} aria-label="Plan">
    <${Title} found=${found} />
    <${Verdict} found=${found} chosen=${chosen} onmemory=${onmemory} />
    ${predicted && html`<${Speed} predicted=${predicted} keep=${keep} />`}
    ${plan && html`<${Weights} found=${found} />`}
    ${plan && html`<${Budgets} plan=${plan} />`}
    <${Download} found=${found} keep=${keep} />
  </section>`;
}

function Title({ found }) {
  const { title, name } = found;
  return html`<header class="plan-head">
    <h2 class="plan-name" title=${name}>${title || name}</h2>
    ${factsOf(found).map((facts, i) => html`<ul class="plan-facts" key=${i}>${facts.map((fact) => html`<li key=${fact}>${fact}</li>`)}</ul>`)}
  </header>`;
}

function Verdict({ found, chosen, onmemory }) {
  const { tone, title, text, moves } = verdictOf(found, chosen);
  return html`<div class=${`plan-verdict plan-${tone}`}>
    <svg class="plan-sign" viewBox="0 0 24 24" aria-hidden="true"><path d=${SIGNS[tone]} /></svg>
    <div>
      <h3>${title}</h3>
      <p>${text}</p>
      ${onmemory && moves.map(({ label, memory }) => html`
        <button type="button" class="button button-small" key=${memory} onClick=${() => onmemory(memory)}>${label}</button>`)}
    </div>
  </div>`;
}

// What is predicted are kernels and bytes. Past so many tokens/s what else a token takes is no longer small beside them.
const SURE = 100;

function Speed({ predicted, keep }) {
  const { tokens_per_second: rate, read_bytes: read, reading_seconds: reading, computing_seconds: computing } = predicted;
  const { number, unit } = tokenRate(Math.min(rate, SURE));
  const longest = Math.max(reading, computing);
  return html`<div class="plan-speed">
    <p class="plan-rate"><span class="plan-about">${rate > SURE ? "over" : "about"}</span> <b>${number}</b> ${unit}<span class="plan-feel">${feel(rate)}</span></p>
    ${read > 0 && html`<div class="plan-duo">
      <${Race} name="Reading" seconds=${reading} of=${longest} kind="stream" />
      <${Race} name="Computing" seconds=${computing} of=${longest} kind="use" />
    </div>`}
    <p class="plan-limit">${limitOf(predicted, keep)}</p>
  </div>`;
}

function Race({ name, seconds, of, kind }) {
  return html`<span>${name}</span>
    <span class="plan-lane"><i class=${`plan-part-${kind}`} style=${{ width: `${(100 * seconds) / of}%` }}></i></span>
    <span>${duration(seconds)}</span>`;
}

function Weights({ found }) {
  const parts = weightsOf(found);
  const all = parts.reduce((sum, { n }) => sum + n, 0);
  return html`<div class="plan-part">
    <h3>Where its ${bytes(all)} will be</h3>
    <${LayerMap} examined=${found} compact />
    <${Legend} parts=${parts} share=${all} />
  </div>`;
}

function Budgets({ plan }) {
  const { gpu } = plan;
  return html`<div class="plan-part plan-budgets">
    ${gpu && html`<${Budget} name="GPU memory" parts=${gpuMemoryOf(gpu)} used=${gpu.total_bytes} budget=${gpu.budget} />`}
    <${Budget} name="Memory" parts=${memoryOf(plan)} used=${plan.total_bytes} budget=${plan.budget} />
  </div>`;
}

/** A vessel as wide as the budget; of one far larger than what is used only the beginning is drawn. budget 0: none is known. */
function Budget({ name, parts, used, budget }) {
  const end = budget ? Math.min(budget, ROOM * used) : ROOM * used;
  const open = end !== budget;
  return html`<div class="plan-budget">
    <h3>${name} <span>${budget ? `${bytes(used)} of a budget of ${bytes(budget)}` : bytes(used)}</span></h3>
    <div class=${`plan-vessel${open ? " plan-open" : " plan-closed"}`} aria-hidden="true">
      ${parts.map(({ kind, n }) => html`<i key=${kind} class=${`plan-part-${kind}`} style=${{ width: `${(100 * n) / end}%` }}></i>`)}
    </div>
    <${Legend} parts=${parts} />
  </div>`;
}

function Legend({ parts, share = 0 }) {
  return html`<ul class="plan-legend">
    ${parts.map(({ kind, n }) => html`<li key=${kind}>
      <i class=${`plan-swatch plan-part-${kind}`}></i><span>${NAMES[kind]}</span>
      <b>${bytes(n)}</b>${share > n && html`<em>${percent(n / share)}</em>`}
    </li>`)}
  </ul>`;
}

function Download({ found, keep }) {
  const said = downloadOf(found, keep);
  if (!said) return null;
  const { tone, title, lines, here } = said;
  return html`<div class=${`plan-part plan-download plan-download-${tone}`}>
    <h3>${title}</h3>
    ${here < 1 && html`<div class="plan-vessel plan-vessel-slim" aria-hidden="true"><i class="plan-part-good" style=${{ width: `${100 * here}%` }}></i></div>`}
    <p>${lines.join(" ")}</p>
  </div>`;
}

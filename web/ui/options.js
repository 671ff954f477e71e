// What the person decides: how much memory, which device, whether a copy is kept.

import { bytes, memoryText } from "./format.js";
import { parseBytes } from "./given.js";
import { html, useEffect, useId, useRef, useState } from "./html.js";
import { choose, choice, examined, options, phase } from "./session.js";

const STEPS = 200; // of the slider, from the least that works to all of it

export function Options() {
  return html`
    <div class="opts" inert=${phase.value === "opening"}>
      <${Memory} />
      <${Device} />
      <${KeepCopy} />
      <${More} />
    </div>`;
}

/** The least budget that works, and the least that streams nothing. */
function range({ plan, needs, needs_bytes: enough, size }) {
  const least = plan?.minimum_bytes || (needs !== "gpu_memory" && enough);
  if (!least) return null;
  const fixed = plan ? plan.kv_bytes + plan.state_bytes + plan.activation_bytes : least;
  return { least, most: Math.max(least * 1.05, fixed + size * 1.02) };
}

function Memory() {
  const given = options.value.memory;
  const found = examined.value;
  const ends = found && range(found);
  const [text, setText] = useState(given);
  const [wrong, setWrong] = useState(false);
  const late = useRef(null); // {memory, timer}: what will be chosen
  const id = useId();
  useEffect(() => setText(given), [given]);

  // Who goes on to another field, or to the button, means what is there.
  const take = () => {
    if (!late.current) return;
    const { memory, timer } = late.current;
    clearTimeout(timer);
    late.current = null;
    choose({ memory: memory.trim() });
  };
  const set = (memory, wait = 0) => {
    clearTimeout(late.current?.timer);
    setText(memory);
    const bad = memory.trim() !== "" && parseBytes(memory) === null;
    setWrong(bad);
    late.current = bad ? null : { memory, timer: setTimeout(take, wait) };
  };
  const budget = parseBytes(text) ?? found?.plan?.budget ?? 0;
  const position = ends ? Math.round((STEPS * (Math.min(Math.max(budget, ends.least), ends.most) - ends.least)) / (ends.most - ends.least)) : STEPS;
  const slide = ({ target }) => {
    const at = Number(target.value);
    set(at === STEPS ? memoryText(ends.most) : memoryText(ends.least + ((ends.most - ends.least) * at) / STEPS), 80);
  };
  const unit = found?.device === "gpu" ? "Memory beside the GPU" : "Memory";
  return html`
    <div class="opts-row">
      <div class="opts-head">
        <label for=${id}>${unit}</label>
        ${text ? html`<button type="button" class="button-link" onClick=${() => set("")}>Use what this device can spare</button>`
               : html`<span class="opts-hint">what this device can spare</span>`}
      </div>
      <div class="opts-memory">
        <input class="slider" type="range" min="0" max=${STEPS} value=${position} disabled=${!ends} aria-label=${`${unit}, slider`}
          aria-valuetext=${bytes(budget)} style=${{ "--filled": `${(100 * position) / STEPS}%` }} onInput=${slide} onBlur=${take} />
        <input id=${id} class="field" type="text" autocomplete="off" spellcheck="false" value=${text} aria-invalid=${wrong ? "true" : undefined}
          placeholder=${found?.plan ? bytes(found.plan.budget) : "as fits"} onInput=${({ target }) => set(target.value, 400)}
          onBlur=${take} />
      </div>
      ${ends && html`<p class="opts-ends"><span>${bytes(ends.least)} at least</span><span>${bytes(ends.most)} for all of it</span></p>`}
      ${wrong && html`<p class="opts-hint pick-wrong" role="alert">Write an amount such as 700MiB or 1.5GB.</p>`}
    </div>`;
}

const DEVICES = [["auto", "Automatic"], ["gpu", "GPU"], ["cpu", "CPU"]];

function Device() {
  const name = useId();
  const hint = navigator.gpu ? deviceText(examined.value) : "This browser offers no WebGPU, so the CPU computes.";
  return html`
    <fieldset class="opts-row opts-device" aria-describedby=${`${name}-hint`}>
      <legend class="hidden-text">Device</legend>
      <div class="opts-head"><span class="opts-name" aria-hidden="true">Device</span><span id=${`${name}-hint`} class="opts-hint">${hint}</span></div>
      <div class="segments">
        ${DEVICES.map(([value, label]) => html`
          <label key=${value}>
            <input type="radio" name=${name} value=${value} checked=${options.value.device === value} onChange=${() => choose({ device: value })} />
            <span>${label}</span>
          </label>`)}
      </div>
    </fieldset>`;
}

function deviceText(found) {
  if (!found) return "";
  if (found.device === "gpu") return `WebGPU: ${found.adapter || "a GPU"}`;
  return `WebAssembly, ${found.threads === 1 ? "one thread" : `${found.threads} threads`}`;
}

function KeepCopy() {
  if (choice.value?.kind === "file") return html`<p class="opts-hint">The file stays where it is: it is read from your disk, nothing is uploaded or copied.</p>`;
  const download = examined.value?.download;
  return html`
    <label class="switch">
      <input type="checkbox" role="switch" checked=${options.value.cache} onChange=${({ target }) => choose({ cache: target.checked })} />
      <span>
        <span class="opts-name">Keep a copy on this device</span>
        <span class="opts-hint">${copyText(download)}</span>
      </span>
    </label>`;
}

function copyText(download) {
  if (!download) return "";
  if (download.bytes === 0) return "It is here already: opens without a network.";
  const kept = download.cached_bytes > 0 ? `${bytes(download.cached_bytes)} of it are here. ` : "";
  const { quota, usage } = download;
  return quota ? `${kept}${bytes(Math.max(0, quota - (usage ?? 0)))} are free for this site.` : `${kept}The next visit then needs no network.`;
}

function More() {
  return html`
    <details class="opts-more">
      <summary>More choices</summary>
      <div class="opts-grid">
        <${Text} name="context" label="Context, in tokens" numeric placeholder=${examined.value?.plan?.context ?? "automatic"} />
        <${Text} name="gpuMemory" label="GPU memory" placeholder="as fits" valid=${(text) => parseBytes(text) !== null} />
        <${Text} name="threads" label="Threads" numeric placeholder=${examined.value?.threads ?? "automatic"} />
        <label>Key/value cache
          <select class="field" value=${options.value.kvType} onChange=${({ target }) => choose({ kvType: target.value })}>
            <option value="">automatic</option>
            <option value="f32">32 bit</option>
            <option value="f16">16 bit, half as large</option>
          </select>
        </label>
      </div>
    </details>`;
}

/** A field that counts when the person has finished with it. */
function Text({ name, label, placeholder, numeric = false, valid = (text) => /^[1-9]\d*$/.test(text) }) {
  const [wrong, setWrong] = useState(false);
  const change = ({ target }) => {
    const text = target.value.trim();
    setWrong(text !== "" && !valid(text));
    if (text === "" || valid(text)) choose({ [name]: text });
  };
  return html`
    <label>${label}
      <input class="field" type="text" inputmode=${numeric ? "numeric" : "text"} autocomplete="off" value=${options.value[name]}
        placeholder=${placeholder} aria-invalid=${wrong ? "true" : undefined} onChange=${change} />
    </label>`;
}

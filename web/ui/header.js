// The top of the page: whose it is; in the chat also which model it is and how it is doing.

import { Icon, Mark } from "./icons.js";
import { MiniMap } from "./mini-map.js";
import { Bar, loadState } from "./progress.js";
import { html, useState } from "./html.js";
import { arriving, choice, close, entered, examined, panel, phase, problem, progress, writing } from "./session.js";
import { THEMES, setTheme, theme } from "./theme.js";

export function Header() {
  const work = entered.value;
  return html`
    <header class=${`top ${work ? "top-work" : ""}`}>
      <span class="top-brand"><${Mark} /><span>wasmrt</span></span>
      ${work ? html`<span class="top-rule"></span><${ModelState} />` : html`<span class="top-space"></span>`}
      <div class="top-actions">
        ${work && html`
          <${MiniMap} />
          <${Action} sign="swap" label="Choose another model" onClick=${close} />`}
        <${Action} sign="disk" label="Storage" onClick=${() => (panel.value = "storage")} />
        <${Action} className=${work ? "wide-only" : ""} sign="help" label="About and help" onClick=${() => (panel.value = "about")} />
        <${ThemeButton} className=${work ? "wide-only" : ""} />
      </div>
      ${work && arriving.value && progress.value && html`
        <${Bar} className="top-line" label="Weights" share=${progress.value.bytes / progress.value.of} />`}
    </header>`;
}

function Action({ sign, label, onClick, className = "" }) {
  return html`
    <button type="button" class=${`button button-icon ${className}`} aria-label=${label} title=${label} onClick=${onClick}>
      <${Icon} name=${sign} />
    </button>`;
}

const THEME_NAMES = { auto: "as the system", light: "light", dark: "dark" };

function ThemeButton({ className }) {
  const [now, setNow] = useState(theme());
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  const change = () => {
    setTheme(next);
    setNow(next);
  };
  return html`<${Action} className=${className} sign=${now} label=${`Theme: ${THEME_NAMES[now]}. Change to ${THEME_NAMES[next]}`} onClick=${change} />`;
}

function ModelState() {
  const [text, dot] = state();
  return html`
    <div class="top-model">
      <h1 class="top-name">${examined.value?.title ?? choice.value?.name}</h1>
      <span class="top-state"><span class=${`top-dot ${dot}`}></span>${text}</span>
    </div>`;
}

function state() {
  if (phase.value === "opening") return ["Opening", "top-dot-busy"];
  if (phase.value !== "ready") return [problem.value ? "Stopped" : "Closed", "top-dot-bad"];
  if (arriving.value === "weights") return [loadState(progress.value), "top-dot-busy"];
  if (arriving.value === "pass") return [`Writing, first pass · ${loadState(progress.value)}`, "top-dot-busy"];
  return writing.value ? ["Writing", "top-dot-busy"] : ["Ready", ""];
}

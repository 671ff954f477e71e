// Whether the page starts without a network, and that there is a new version of it.

import { html } from "./html.js";
import { offline, useUpdate } from "./offline.js";

export function OfflineStatus() {
  const { state, why, bytes, of, others } = offline.value;
  if (state === "unknown") return null;
  return html`
    <p class=${`offline offline-${state}`} role="status">
      <span class="offline-dot" aria-hidden="true"></span>
      ${state === "off" && html`<span title=${why}>Needs a network to start: ${why}</span>`}
      ${state === "fetching" && html`<span>Getting ready to work offline<span aria-hidden="true">${of ? `: ${Math.floor((100 * bytes) / of)} %` : ""}</span></span>`}
      ${state === "ready" && html`<span>Ready to work offline</span>`}
      ${state === "update" && html`
        <span>A new version is there${others ? `; close this page's other ${others > 1 ? `${others} windows` : "window"} first` : ""}</span>
        <button type="button" class="button button-small" onClick=${useUpdate}>Reload</button>`}
    </p>`;
}

// How far a load is: bytes, rate, and how long it will take.

import { byteRate, bytesOf, percent, wait } from "./format.js";
import { html } from "./html.js";
import { progress } from "./session.js";

const WAITING = "waiting for data"; // nothing has come for some seconds; the engine goes on trying

/** "312 of 1024 MiB", "12.4 MiB/s", "about 1 min left" */
function parts({ bytes, of, rate, eta }) {
  if (rate === 0) return [bytesOf(bytes, of), WAITING];
  return [bytesOf(bytes, of), rate > 0 && byteRate(rate), rate > 0 && `${wait(eta)} left`].filter(Boolean);
}

/** In a word, for the header. */
export function loadState(now) {
  if (!now) return "Loading";
  const share = percent(now.bytes / now.of);
  if (now.rate === 0) return `${share} · ${WAITING}`;
  return now.rate > 0 ? `${share} · ${byteRate(now.rate)}` : share;
}

/** @param {{what: string, onCancel?: () => void}} props what: what is done, "Loading" */
export function LoadProgress({ what, onCancel }) {
  const now = progress.value;
  const share = now ? now.bytes / now.of : 0;
  return html`
    <div class="load">
      <${Bar} share=${now && share} label=${what} text=${now ? parts(now).join(", ") : "starting"} />
      <p class="load-text">
        <strong>${what}${now && ` · ${percent(share)}`}</strong>
        <span>${now && parts(now).join(" · ")}</span>
      </p>
      ${onCancel && html`<div><button type="button" class="button button-small" onClick=${onCancel}>Cancel</button></div>`}
    </div>`;
}

/** @param {{share: number | null, label: string, text?: string}} props share: null while nobody knows */
export function Bar({ share, label, text, className = "" }) {
  const known = share !== null && share !== undefined;
  const value = known ? { "aria-valuenow": Math.floor(100 * share), "aria-valuemin": 0, "aria-valuemax": 100 } : {};
  return html`
    <div class=${`bar ${known ? "" : "bar-unknown"} ${className}`} role="progressbar" aria-label=${label} aria-valuetext=${text} ...${value}>
      <span style=${known ? { width: `${100 * share}%` } : {}}></span>
    </div>`;
}

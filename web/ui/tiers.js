// The way of the bytes: network, disk, memory, GPU. What each holds, what goes from one to the next now, and what a pass reads.

import { byteRate, bytes, bytesOf, duration } from "./format.js";
import { follow } from "./geometry.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { valueOf } from "./value.js";

const DASH = 12; // pixels, of css/map.css. Dashes move at updates: an animation that runs by itself costs more than all the rest.
const OLD_MS = 1500; // a map is asked for while something goes on; a rate of before that is none
const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const ICONS = {
  network: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18ZM3 12h18M12 3c3 3 3 15 0 18M12 3c-3 3-3 15 0 18",
  disk: "M4 6c0-1.7 3.6-3 8-3s8 1.3 8 3-3.6 3-8 3-8-1.3-8-3Zm0 0v12c0 1.7 3.6 3 8 3s8-1.3 8-3V6M4 12c0 1.7 3.6 3 8 3s8-1.3 8-3",
  memory: "M3 7h18v9H3zM6 16v3M10 16v3M14 16v3M18 16v3M7 10v3M12 10v3M17 10v3",
  gpu: "M6 6h12v12H6zM10 10h4v4h-4zM9 3v3M15 3v3M9 18v3M15 18v3M3 9h3M3 15h3M18 9h3M18 15h3",
};

/** map: a ModelMap, or a signal of one. */
export function Tiers({ map }) {
  const now = valueOf(map);
  const seen = useRef(null);
  const phase = useRef(0);
  const [old, setOld] = useState(null);
  useEffect(() => {
    const timer = setTimeout(() => setOld(now), OLD_MS);
    return () => clearTimeout(timer);
  }, [now]);
  if (!now) return null;
  const rates = (seen.current = follow(seen.current, now, performance.now() / 1000)).rates;
  if (!STILL.matches) phase.current = (phase.current + 3) % DASH;
  const { network, disk, memory, gpu } = now.tiers;
  const reading = now.reading > 0;
  const tiers = [
    network && { kind: "network", name: "Network", text: network.bytes ? `${bytes(network.bytes)} fetched` : "nothing fetched" },
    disk && { kind: "disk", name: "Disk", text: `${bytesOf(disk.present, disk.of)} kept`, share: disk.present / disk.of },
    { kind: "memory", name: "Memory", text: bytesOf(memory.used, memory.of), share: memory.used / memory.of },
    gpu?.of > 0 && { kind: "gpu", name: "GPU", text: bytesOf(gpu.used, gpu.of), share: gpu.used / gpu.of },
  ].filter(Boolean);
  const flows = old === now && !reading ? {} : { network: rates.network, disk: rates.read, memory: rates.gpu };
  return html`<section class="map-way" aria-label="Where bytes are">
    <h3 class="map-title">Where bytes are</h3>
    <ol class="map-tiers" style=${{ "--map-phase": `${phase.current}px` }}>
      ${tiers.map((tier, i) => html`<${Tier} key=${tier.kind} ...${tier} flow=${i < tiers.length - 1 ? (flows[tier.kind] ?? 0) : null} />`)}
    </ol>
    <p class="map-reading">${readingOf(now)}</p>
    ${now.bytes_per_pass > 0 && now.bytes_bound > 0 && html`<${Bound} read=${now.bytes_per_pass} bound=${now.bytes_bound} />`}
  </section>`;
}

/** flow: bytes/s from here to the next; null: there is no next. */
function Tier({ kind, name, text, share, flow }) {
  return html`<li class="map-tier map-tier-${kind}">
    <div class="map-tier-box">
      <svg class="map-icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${ICONS[kind]} /></svg>
      <div class="map-tier-name">${name}</div>
      <div class="map-tier-text">${text}</div>
      ${share !== undefined && html`<div class="map-level" aria-hidden="true">
        <i style=${{ transform: `scaleX(${Math.min(1, share || 0)})` }}></i>
      </div>`}
    </div>
    ${flow !== null && html`<div class=${`map-flow${flow > 0 ? " map-flowing" : ""}`}>
      <i aria-hidden="true"></i><span>${flow > 0 ? byteRate(flow) : ""}</span>
    </div>`}
  </li>`;
}

function Bound({ read, bound }) {
  const most = Math.max(read, bound);
  return html`<div class="map-bound">
    <p>Each token reads <b>${bytes(read)}</b>. With this memory it can't be less than <b>${bytes(bound)}</b>.</p>
    <div class="map-bound-bar" aria-hidden="true">
      <i style=${{ transform: `scaleX(${read / most})` }}></i>
      <b style=${{ left: `${(100 * bound) / most}%` }}></b>
    </div>
  </div>`;
}

function readingOf({ reading, passes, stalled_seconds: stalled, read_bytes: read }) {
  const now = reading > 0 ? `${bytes(reading)} on their way now` : "Nothing is being read now";
  const soFar = read > 0 ? `; ${bytes(read)} read so far` : "";
  const waited = passes > 0 && stalled > 0 ? `, ${duration(stalled)} waited for them` : "";
  return `${now}${soFar}${waited}.`;
}

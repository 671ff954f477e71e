/**
 * The live map of a model: a cell for each segment of a pass (embedding, layers, head), filled by what is there, with what the plan
 * says behind it. `compact`: a slim strip.
 */

import { bytes, bytesOf } from "./format.js";
import { moved, totalsOf } from "./geometry.js";
import { html, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { LayerCanvas } from "./layer-canvas.js";
import { detailsOf, hintOf, summaryOf } from "./plan-text.js";
import { valueOf } from "./value.js";

/** map, examined, progress: values or signals of session.js. */
export function LayerMap({ map, examined, progress, compact = false }) {
  const planned = valueOf(examined)?.segments ?? null;
  const live = valueOf(map)?.segments ?? null;
  if (!(live ?? planned)?.length) return null;
  const totals = totalsOf(live ?? planned.map(({ name, bytes }) => ({ name, bytes })), planned);
  const props = { planned, live, totals, loading: valueOf(progress)?.done === false };
  return compact ? html`<${Strip} ...${props} />` : html`<${Whole} ...${props} />`;
}

function Strip({ planned, live, totals }) {
  const { canvas } = useCanvas(planned, live, { compact: true, ghost: live ? 0.3 : 1 });
  return html`<div class="map-strip" role="img" aria-label=${summaryOf(totals)}><canvas ref=${canvas} aria-hidden="true"></canvas></div>`;
}

function Whole({ planned, live, totals, loading }) {
  const { canvas, drawn } = useCanvas(planned, live, { compact: false, ghost: 0.22 });
  const [at, setAt] = useState(null);
  const segments = live ?? planned;
  const text = at !== null && at < segments.length ? detailsOf(segments[at], planned?.[at], Boolean(live)) : null;
  const tenth = Math.floor((10 * totals.here) / totals.bytes); // not each byte is said to whoever listens
  const spoken = useMemo(() => text ?? summaryOf(totals), [at, tenth]);
  useLayoutEffect(() => drawn.current.select(at), [at]);

  const onkeydown = (event) => {
    const next = moved(event.key, at, segments.length, drawn.current.columns);
    if (next === undefined) return;
    event.preventDefault();
    setAt(next);
  };
  const onpoint = ({ offsetX, offsetY }) => setAt(drawn.current.at(offsetX, offsetY));
  return html`<section class="map" aria-label="Layers">
    <header class="map-head">
      <h3 class="map-title">Layers</h3>
      <p class="map-sum">${live ? html`<b>${bytesOf(totals.here, totals.bytes)}</b> here` : html`<b>${bytes(totals.bytes)}</b> to place`}</p>
    </header>
    <div class="map-grid" role="slider" tabindex="0" aria-label="Layers of the model, one by one" aria-valuemin="1" aria-valuemax=${segments.length}
      aria-valuenow=${(at ?? 0) + 1} aria-valuetext=${spoken} onKeyDown=${onkeydown}
      onFocus=${(event) => at === null && event.target.matches(":focus-visible") && setAt(0)} onBlur=${() => setAt(null)}>
      <canvas ref=${canvas} aria-hidden="true" onPointerMove=${onpoint} onPointerDown=${onpoint} onPointerLeave=${() => setAt(null)}></canvas>
    </div>
    <${Legend} planned=${planned} totals=${totals} live=${Boolean(live)} />
    <p class="map-details">${text ?? hintOf(totals, segments.length, Boolean(live), loading)}</p>
  </section>`;
}

/** What is drawn on a canvas: kept as wide as what it is in, and ended with the component. */
function useCanvas(planned, live, look) {
  const canvas = useRef(null);
  const drawn = useRef(null);
  useLayoutEffect(() => {
    drawn.current = new LayerCanvas(canvas.current, look);
    return () => drawn.current.close();
  }, [look.ghost]);
  useLayoutEffect(() => drawn.current.show(planned, live), [planned, live, look.ghost]);
  return { canvas, drawn };
}

function Legend({ planned, totals, live }) {
  const sum = (name) => planned?.reduce((all, segment) => all + segment[name], 0) ?? 0;
  const [gpu, resident, streamed] = ["gpu_bytes", "resident_bytes", "streamed_bytes"].map(sum);
  const items = [
    (gpu > 0 || totals.gpu > 0) && ["gpu", "GPU", live ? totals.gpu : gpu],
    ["resident", "Memory", live ? totals.resident : resident],
    streamed > 0 && ["stream", "Streamed", streamed],
    live && (streamed > 0 || totals.placed < totals.stay) && ["arriving", "Arriving", totals.arriving],
    live && totals.placed < totals.stay && ["absent", "To come", totals.stay - totals.placed],
  ].filter(Boolean);
  return html`<ul class="map-legend">
    ${items.map(([kind, label, n]) => html`<li key=${kind}><i class="map-swatch map-swatch-${kind}"></i><span>${label}</span><b>${n ? bytes(n) : "none"}</b></li>`)}
    ${live && html`<li key="use"><i class="map-swatch map-swatch-use"></i><span>In use</span></li>`}
  </ul>`;
}

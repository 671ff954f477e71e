/**
 * The live map of a model: a cell for each segment of a pass (embedding, layers, head), filled by what is there, with what the plan
 * says behind it. `compact`: a slim strip.
 */

import { bytes, bytesOf, listed, percent, segmentName } from "./format.js";
import { totalsOf } from "./geometry.js";
import { html, useId, useLayoutEffect, useRef, useState } from "./html.js";
import { LayerCells } from "./layer-cells.js";
import { valueOf } from "./value.js";

/** map, examined, progress: values or signals of session.js. */
export function LayerMap({ map, examined, progress, compact = false }) {
  const planned = valueOf(examined)?.segments ?? null;
  const live = valueOf(map)?.segments ?? null;
  if (!(live ?? planned)?.length) return null;
  const totals = totalsOf(live ?? planned.map(({ name, bytes }) => ({ name, bytes, gpu: 0, resident: 0, arriving: 0 })));
  const props = { planned, live, totals, loading: valueOf(progress)?.done === false };
  return compact ? html`<${Strip} ...${props} />` : html`<${Whole} ...${props} />`;
}

function Strip({ planned, live, totals }) {
  const { root } = useCells(planned, live, true);
  return html`<div class="map-strip" ref=${root} role="img" aria-label=${summaryOf(totals)}></div>`;
}

function Whole({ planned, live, totals, loading }) {
  const { root, cells, id } = useCells(planned, live, false);
  const [at, setAt] = useState(null);
  const segments = live ?? planned;
  const text = at === null ? null : detailsOf(segments[at], planned?.[at], Boolean(live));
  useLayoutEffect(() => {
    if (at === null) return undefined;
    const cell = root.current.children[at];
    cell?.setAttribute("aria-selected", "true");
    return () => cell?.setAttribute("aria-selected", "false");
  }, [at]);
  useLayoutEffect(() => {
    if (at !== null) root.current.children[at]?.setAttribute("aria-label", text);
  }, [text]);

  const onkeydown = (event) => {
    const next = moved(event.key, at, segments.length, cells.current.columns);
    if (next === undefined) return;
    event.preventDefault();
    setAt(next);
  };
  return html`<section class="map" aria-label="Layers">
    <header class="map-head">
      <h3 class="map-title">Layers</h3>
      <p class="map-sum">${live ? html`<b>${bytesOf(totals.here, totals.bytes)}</b> here` : html`<b>${bytes(totals.bytes)}</b> to place`}</p>
    </header>
    <div class="map-grid" ref=${root} role="listbox" tabindex="0" aria-label=${summaryOf(totals)}
      aria-activedescendant=${at === null ? undefined : `${id}-${at}`} onKeyDown=${onkeydown}
      onFocus=${(event) => at === null && event.target.matches(":focus-visible") && setAt(0)} onBlur=${() => setAt(null)}
      onPointerOver=${(event) => setAt(indexOf(event))}
      onPointerLeave=${() => setAt(null)}></div>
    <p class="map-details">${text ?? hintOf(totals, segments.length, Boolean(live), loading)}</p>
    <${Legend} planned=${planned} totals=${totals} live=${Boolean(live)} />
  </section>`;
}

function indexOf(event) {
  const cell = event.target.closest(".map-cell");
  return cell ? Number(cell.dataset.i) : null;
}

/** The cells in an element, which this keeps at its width. */
function useCells(planned, live, compact) {
  const id = useId();
  const root = useRef(null);
  const cells = useRef(null);
  useLayoutEffect(() => {
    cells.current = new LayerCells(root.current, { compact, id });
    const observer = new ResizeObserver(([entry]) => cells.current.resize(entry.contentRect.width));
    observer.observe(root.current);
    return () => observer.disconnect();
  }, [compact]);
  useLayoutEffect(() => cells.current.show(planned, live), [planned, live]);
  return { root, cells, id };
}

function Legend({ planned, totals, live }) {
  const sum = (name) => planned?.reduce((all, segment) => all + segment[name], 0) ?? 0;
  const [gpu, resident, streamed] = ["gpu_bytes", "resident_bytes", "streamed_bytes"].map(sum);
  const items = [
    (gpu > 0 || totals.gpu > 0) && ["gpu", "On the GPU", live ? totals.gpu : gpu],
    ["resident", "In memory", live ? totals.resident : resident],
    live && ["arriving", "Arriving", totals.arriving],
    streamed > 0 && ["stream", "Read for each token", streamed],
    live && ["absent", "Not here", Math.max(0, totals.bytes - totals.here - totals.arriving)],
  ].filter(Boolean);
  return html`<ul class="map-legend">
    ${items.map(([kind, label, n]) => html`<li key=${kind}><i class="map-swatch map-swatch-${kind}"></i>${label} <b>${bytes(n)}</b></li>`)}
    ${live && html`<li key="use"><i class="map-swatch map-swatch-use"></i>In use</li>`}
  </ul>`;
}

/** Where an arrow leads from a cell; undefined: the key is none of ours. @param {number | null} at */
export function moved(key, at, n, columns = n) {
  const from = at ?? -1;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  if (key in steps) {
    const to = from + steps[key];
    return to >= 0 && to < n ? to : Math.max(0, Math.min(from, n - 1));
  }
  return { Home: 0, End: n - 1, Escape: null }[key];
}

/** The map in a sentence, for whoever doesn't see it. */
export function summaryOf({ bytes: all, here, arriving }) {
  const coming = arriving > 0 ? `, ${bytes(arriving)} arriving` : "";
  return `Layers of the model: ${percent(all && here / all)} of ${bytes(all)} are here${coming}`;
}

/** One cell in a sentence. @param {any} segment of the map, or of the plan if not `live` @param {any} planned the same of the plan */
export function detailsOf(segment, planned, live) {
  const { name, bytes: all, gpu = 0, resident = 0, arriving = 0, in_use: used } = segment;
  const parts = live
    ? [gpu && `${bytes(gpu)} on the GPU`, resident && `${bytes(resident)} in memory`, arriving && `${bytes(arriving)} arriving`]
    : [planned.gpu_bytes && `${bytes(planned.gpu_bytes)} for the GPU`, planned.resident_bytes && `${bytes(planned.resident_bytes)} for memory`];
  const streamed = planned?.streamed_bytes ?? 0;
  if (streamed) parts.push(`${bytes(streamed)} read for each token`);
  const rows = !streamed && planned && planned.gpu_bytes + planned.resident_bytes === 0;
  if (rows) parts.push("read row by row, as tokens need them");
  const said = listed(parts.filter(Boolean));
  return `${segmentName(name)}, ${bytes(all)}: ${said || "not here yet"}${used ? "; in use" : ""}`;
}

function hintOf({ bytes: all, here, n_here: whole, used }, n, live, loading) {
  if (!live) return "What will stay where, before anything is read. Point at a layer for its numbers.";
  if (used.length) return `${segmentName(used[0])} is computing`;
  if (loading || here < all) return `${whole} of ${n} are whole`;
  return "Everything is here. Point at a layer for its numbers.";
}

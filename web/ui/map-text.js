// The live map in words, and by keyboard. Pure.

import { bytes, listed, percent, segmentName } from "./format.js";

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

/** What is said while no cell is looked at. @param {any} totals of geometry.js @param {number} n segments */
export function hintOf({ placed, stay, n_placed: done }, n, live, loading) {
  if (!live) return "What will stay where. Point at a layer for its numbers.";
  if (loading || placed < stay) return `${done} of ${n} are in place.`;
  return "Everything is in place. Point at a layer for its numbers.";
}

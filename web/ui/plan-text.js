// What a plan says in words, and what the live map does. Pure.

import { sentence } from "./errors.js";
import { byteRate, bytes, count, listed, memoryText, percent, segmentName, wait, whole } from "./format.js";

const REFUSED = {
  BudgetError: "Not within this memory",
  UnsupportedError: "Not supported yet",
  FormatError: "This file cannot be read",
  SourceError: "The model cannot be reached",
  DeviceError: "Not on this device",
};

/**
 * Whether it will run: {tone: "yes" | "stream" | "no", title, text, moves: [{label, memory}]}. memory: the text that the option for
 * memory would have.
 */
export function verdictOf(examined, options) {
  const { runs, why_not: why, kind, needs_bytes: needs, plan } = examined;
  if (!runs || !plan) {
    const moves = needs ? [{ label: `Use ${bytes(needs)} of memory`, memory: memoryText(needs) }] : [];
    return { tone: "no", title: `No: ${lower(REFUSED[kind] ?? "not here")}`, text: sentence(why ?? "The engine did not say why"), moves };
  }
  const where = whereOf(plan);
  if (!plan.streamed_bytes) {
    return { tone: "yes", title: "Yes, it runs here", text: `${where} Nothing is read while it writes.`, moves: [] };
  }
  const chosen = options?.memory;
  const enough = plan.total_bytes - plan.staging_bytes + plan.streamed_bytes;
  const moves = chosen ? [{ label: `Use ${bytes(enough)}: no streaming`, memory: memoryText(enough) }] : [];
  const text = `${bytes(plan.streamed_bytes)} of its weights do not fit and are read again for each token, just ahead of use.`;
  return { tone: "stream", title: "Yes, by streaming", text, moves };
}

function whereOf({ gpu, device_bytes: onGpu, resident_bytes: resident }) {
  if (!gpu) return "Everything fits in memory.";
  return resident > onGpu / 50 ? "The GPU and memory hold all of it." : "Everything fits on the GPU.";
}

const FROM = { network: " from the network", disk: " from this device's disk", file: " from the file" };

/** What a token's time goes to. keep: whether what the network gives is kept. */
export function limitOf({ limit, read_bytes: read, read_bytes_per_second: rate, read_from: from }, keep = true) {
  if (!read) return "Limited by computing: nothing is read.";
  const speed = rate ? ` at ${byteRate(rate)}` : "";
  const later = from === "network" && keep && limit === "reading" ? " Faster once it is kept on this device." : "";
  return `Limited by ${limit}: each token reads ${bytes(read)}${FROM[from] ?? ""}${speed}.${later}`;
}

/** What is still to be fetched: {tone: "good" | "plain" | "warn", title, lines, here: share that is here}. */
export function downloadOf({ download, size }, keep = true) {
  if (!download) return null;
  const { bytes: missing, cached_bytes: kept, rate, seconds, quota, usage } = download;
  if (!missing && !kept) return { tone: "good", title: "Nothing to fetch", lines: ["It is read from the file where it lies, and not uploaded."], here: 1 };
  if (!missing) return { tone: "good", title: "Nothing to fetch", lines: [`All ${bytes(size)} are kept on this device.`], here: 1 };
  const time = seconds ?? (rate ? missing / rate : null);
  const title = `${bytes(missing)} to fetch${time === null ? "" : time < 1 ? ", in a moment" : `, about ${wait(time)}`}`;
  const lines = [];
  if (rate) lines.push(`The source gives ${byteRate(rate)}.`);
  if (kept) lines.push(`${bytes(kept)} are kept on this device already.`);
  const free = quota === null || quota === undefined ? null : Math.max(0, quota - (usage ?? 0));
  if (keep && free !== null && free < missing) {
    lines.push(`Only ${bytes(free)} are free to keep it in: what does not fit is fetched again the next time.`);
    return { tone: "warn", title, lines, here: kept / size };
  }
  if (keep && free !== null) lines.push(`${bytes(free)} are free to keep it for the next time.`);
  if (!keep) lines.push("It is not kept: the next time all is fetched again.");
  return { tone: "plain", title, lines, here: kept / size };
}

/** What is known of the model: two lines of short facts. @returns {[string[], string[]]} */
export function factsOf({ architecture, n_parameters: n, format, size, n_layers: layers, n_ctx_train: trained, plan, chat }) {
  const context = plan?.context && plan.context !== trained ? `${whole(plan.context)} of ${whole(trained)}` : whole(trained);
  return [
    [n && `${count(n)} parameters`, format, size && bytes(size)],
    [architecture, layers && `${layers} layers`, trained && `context ${context}`, chat ? "chat" : "no chat template"],
  ].map((facts) => facts.filter(Boolean));
}

/** The map in a sentence, for whoever doesn't see it. */
export function summaryOf({ bytes: all, here, arriving }) {
  const coming = arriving > 0 ? `, ${bytes(arriving)} arriving` : "";
  return `Layers of the model: ${percent(all && here / all)} of ${bytes(all)} are here${coming}`;
}

/** One cell in a sentence. @param {any} segment of the map, or of the plan if not `live` @param {any} planned the same of the plan */
export function detailsOf(segment, planned, live) {
  const { name, bytes: all, gpu = 0, resident = 0, arriving = 0, in_use: used } = segment;
  if (!all) return `${segmentName(name)}: its weights are the head's`;
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

function lower(text) {
  return text[0].toLowerCase() + text.slice(1);
}

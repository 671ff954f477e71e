// What a plan says, in words. Pure.

import { byteRate, bytes, count, memoryText, wait, whole } from "./format.js";

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
  const moves = chosen ? [{ label: `Use ${bytes(enough)}, to read nothing again`, memory: memoryText(enough) }] : [];
  const text = `${bytes(plan.streamed_bytes)} of its weights do not fit and are read again for each token, just ahead of use.`;
  return { tone: "stream", title: "Yes, by streaming", text, moves };
}

function whereOf({ gpu, device_bytes: onGpu, resident_bytes: resident }) {
  if (!gpu) return "Everything fits in memory.";
  return resident > onGpu / 50 ? "The GPU and memory hold all of it." : "Everything fits on the GPU.";
}

/** What a token's time goes to. */
export function limitOf({ limit, read_bytes: read, read_bytes_per_second: rate }) {
  if (!read) return "Limited by computing: nothing is read";
  return `Limited by ${limit}: each token reads ${bytes(read)}${rate ? ` at ${byteRate(rate)}` : ""}`;
}

/** What is still to be fetched: {tone: "good" | "plain" | "warn", title, lines, here: share that is here}. */
export function downloadOf({ download, size }, { local = false, keep = true } = {}) {
  if (local) return { tone: "good", title: "Read from your file", lines: ["Nothing is fetched, and nothing leaves this device."], here: 1 };
  if (!download) return null;
  const { bytes: missing, cached_bytes: kept, rate, seconds, quota, usage } = download;
  if (!missing) return { tone: "good", title: "Nothing to fetch", lines: [`All ${bytes(size)} are kept on this device.`], here: 1 };
  const time = seconds ?? (rate ? missing / rate : null);
  const title = `${bytes(missing)} to fetch${time === null ? "" : `, about ${wait(time)}`}`;
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
    [architecture, layers && `${layers} layers`, trained && `context of ${context} tokens`, chat ? "chat" : "no chat template"],
  ].map((facts) => facts.filter(Boolean));
}

function lower(text) {
  return text[0].toLowerCase() + text.slice(1);
}

/** With a capital and an end, as errors have neither. */
function sentence(text) {
  const whole = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

// Where things are on the live map and in the plan's bars, and how fast bytes go: shares, places and rates, computed from amounts. Pure.

const SMOOTH_SECONDS = 1.5;
const LEAST = 1024; // bytes/s: what remains of a flow that has ended is none

/**
 * Cells in rows: as many rows as cells of `least` pixels need, all as full as they can be.
 * @param {number} n cells @param {number} width pixels @returns {{columns: number, rows: number}}
 */
export function gridOf(n, width, least = 9) {
  const most = Math.max(1, Math.floor(width / least));
  const rows = Math.max(1, Math.ceil(n / most));
  return { columns: Math.ceil(n / rows), rows };
}

/**
 * Which cells have a number beneath them: of layers 1, 5, 10, ... those that leave `apart` pixels between, and are clear of the
 * names of the first and the last segment, embedding and head, which are so many pixels wide. Indices of segments.
 * @param {number} n segments @param {number} columns @param {number} width pixels @returns {number[]}
 */
export function labelled(n, columns, width, { apart = 36, first = 70, last = 42 } = {}) {
  const cell = width / columns;
  const step = [1, 2, 5, 10, 20, 50, 100].find((step) => step * cell >= apart) ?? 100;
  const isClear = (i) => (i + 0.5) * cell > first && (Math.floor(i / columns) !== Math.floor((n - 1) / columns) || (n - i - 0.5) * cell > last);
  return Array.from({ length: Math.max(0, n - 2) }, (_, i) => i + 1).filter((i) => i % step === 0 && isClear(i));
}

const GAP = 2;
const LABEL = 17; // pixels beneath a row for numbers

/**
 * Where cells and their labels lie: rects [{x, y, width, height}], labels [{text, x, y, align}], all in pixels; `at(x, y)`: the cell
 * at a place, or null.
 * @param {number} n segments @param {number} width pixels @param {number} strip the height of a single row without labels; 0: a map
 */
export function layoutOf(n, width, strip = 0) {
  const { columns, rows } = strip ? { columns: n, rows: 1 } : gridOf(n, width);
  const gap = Math.min(strip ? (n > 90 ? 0 : n > 48 ? 1 : GAP) : GAP, width / columns / 4);
  const edge = strip ? 0 : 3; // for the frame around a cell
  const tall = strip || [80, 52, 40][Math.min(rows, 3) - 1];
  const step = (width - 2 * edge + gap) / columns;
  const rowHeight = tall + 2 * edge + (strip ? 0 : LABEL);
  const rects = Array.from({ length: n }, (_, i) => {
    const x = edge + step * (i % columns);
    return { x, y: edge + rowHeight * Math.floor(i / columns), width: step - gap, height: tall };
  });
  const label = (i, text, align, x) => ({ text, align, x, y: rects[i].y + tall + 5 });
  const middle = (i) => rects[i].x + rects[i].width / 2;
  const end = (i) => rects[i].x + rects[i].width;
  const numbers = strip || n < 3 ? [] : labelled(n, columns, width).map((i) => label(i, `${i}`, "center", middle(i)));
  const names = strip || n < 3 ? [] : [label(0, "embedding", "left", rects[0].x), label(n - 1, "head", "right", end(n - 1))];
  const at = (x, y) => {
    const i = columns * Math.floor(y / rowHeight) + Math.floor((x - edge) / step);
    return x >= edge && x < width - edge && i >= 0 && i < n && y % rowHeight < tall + 2 * edge ? i : null;
  };
  return { columns, rects, labels: [...names, ...numbers], height: rows * rowHeight, radius: Math.min(4, (step - gap) / 4), at };
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

/** Shares of a cell, bottom to top, each from 0 to 1 and 1 at most in all: what is there now. */
export function fillOf({ bytes, gpu = 0, resident = 0, arriving = 0 }) {
  return stack(bytes, [gpu, resident, arriving]);
}

/** The same of what the plan says: on a GPU, in memory, read anew for each token. */
export function planOf({ bytes, gpu_bytes: gpu = 0, resident_bytes: resident = 0, streamed_bytes: streamed = 0 }) {
  return stack(bytes, [gpu, resident, streamed]);
}

/**
 * Segments as they are drawn: one that has no bytes of its own shares the last one's, as an embedding does the head's.
 * @param {any[] | null} segments of the plan or the map
 */
export function drawable(segments) {
  const last = segments?.at(-1);
  return segments?.map((segment) => (segment.bytes > 0 ? segment : { ...last, name: segment.name, in_use: segment.in_use })) ?? null;
}

function stack(all, amounts) {
  let room = 1;
  return amounts.map((n) => {
    const share = all > 0 ? Math.min(room, Math.max(0, n / all)) : 0;
    room -= share;
    return share;
  });
}

/**
 * Sums over segments. stay: what the plan keeps of them, all where there is no plan; placed: what of that is here; n_placed: the
 * segments of which all of it is.
 * @param {any[]} segments of the map @param {any[] | null} planned of the plan
 */
export function totalsOf(segments, planned) {
  const sums = { bytes: 0, gpu: 0, resident: 0, arriving: 0, here: 0, stay: 0, placed: 0, n_placed: 0 };
  segments.forEach(({ bytes, gpu = 0, resident = 0, arriving = 0 }, i) => {
    const here = Math.min(bytes, gpu + resident);
    const stay = planned ? planned[i].gpu_bytes + planned[i].resident_bytes : bytes;
    sums.bytes += bytes;
    sums.gpu += gpu;
    sums.resident += resident;
    sums.arriving += arriving;
    sums.here += here;
    sums.stay += stay;
    sums.placed += Math.min(here, stay);
    if (here >= stay) sums.n_placed += 1;
  });
  return sums;
}

/** What a plan does with the model's weights: [{kind, n}], in bytes, those that are none left out. */
export function weightsOf({ plan, size, segments }) {
  const all = segments?.length ? segments.reduce((sum, segment) => sum + segment.bytes, 0) : size;
  const gpu = plan.device_bytes;
  const streamed = plan.streamed_bytes;
  const resident = Math.max(0, Math.min(plan.resident_bytes, all - gpu - streamed));
  const rows = Math.max(0, all - gpu - resident - streamed); // of the embedding: read one by one where it does not stay
  return some({ gpu, resident, stream: streamed, rows: rows > all / 1000 ? rows : 0 });
}

/** What takes the memory. */
export function memoryOf(plan) {
  const { resident_bytes: resident, expert_cache_bytes: experts, kv_bytes: kv, staging_bytes: staging } = plan;
  const rest = Math.max(0, plan.total_bytes - resident - experts - kv - staging);
  return some({ resident, experts, kv, staging, work: rest });
}

/** What takes the GPU's memory. */
export function gpuMemoryOf(gpu) {
  return some({ gpu: gpu.weight_bytes, kv: gpu.kv_bytes, staging: gpu.staging_bytes, work: gpu.state_bytes + gpu.activation_bytes });
}

function some(amounts) {
  return Object.entries(amounts).flatMap(([kind, n]) => (n > 0 ? [{ kind, n }] : []));
}

/**
 * What flows, bytes/s, smoothed: from two maps and the time between.
 * @param {null | {at: number, map: any, rates: any}} before @param {any} map @param {number} at seconds
 */
export function follow(before, map, at) {
  if (!before || before.map.read_bytes > map.read_bytes) return { at, map, rates: { network: 0, read: 0, gpu: 0 } };
  if (before.map === map || at <= before.at) return before;
  const seconds = at - before.at;
  const weight = 1 - Math.exp(-seconds / SMOOTH_SECONDS);
  const smooth = (old, grown) => {
    const rate = old + weight * (Math.max(0, grown) / seconds - old);
    return rate < LEAST ? 0 : rate;
  };
  const gpu = ({ tiers }) => tiers.gpu?.used ?? 0;
  const network = ({ tiers }) => tiers.network?.bytes ?? 0;
  const rates = {
    network: smooth(before.rates.network, network(map) - network(before.map)),
    read: smooth(before.rates.read, map.read_bytes - before.map.read_bytes),
    gpu: smooth(before.rates.gpu, gpu(map) - gpu(before.map)),
  };
  return { at, map, rates };
}

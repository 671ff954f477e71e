// Where things are on the live map and in the plan's bars: shares and places, computed from amounts. Pure.

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
 * Which cells have a number beneath them: of layers 1, 5, 10, ... those that leave `apart` pixels between; indices of segments.
 * The first and the last segment, embedding and head, always have their name.
 * @param {number} n segments @param {number} columns @param {number} width pixels @returns {number[]}
 */
export function labelled(n, columns, width, apart = 44) {
  const step = [1, 2, 5, 10, 20, 50, 100].find((step) => (step * width) / columns >= apart) ?? 100;
  const rows = Math.ceil(n / columns);
  const clear = Math.ceil((1.4 * apart * columns) / width); // cells that the names at both ends lie over
  const lies = (i) => (i > clear || i % columns > clear || i >= columns) && (n - 1 - i > clear || Math.floor(i / columns) < rows - 1);
  return Array.from({ length: Math.max(0, n - 2) }, (_, i) => i + 1).filter((i) => i % step === 0 && lies(i));
}

/** Shares of a cell, bottom to top, each from 0 to 1 and 1 at most in all: what is there now. */
export function fillOf({ bytes, gpu = 0, resident = 0, arriving = 0 }) {
  return stack(bytes, [gpu, resident, arriving]);
}

/** The same of what the plan says: on a GPU, in memory, read anew for each token. */
export function planOf({ bytes, gpu_bytes: gpu = 0, resident_bytes: resident = 0, streamed_bytes: streamed = 0 }) {
  return stack(bytes, [gpu, resident, streamed]);
}

function stack(all, amounts) {
  let room = 1;
  return amounts.map((n) => {
    const share = all > 0 ? Math.min(room, Math.max(0, n / all)) : 0;
    room -= share;
    return share;
  });
}

/** Sums over segments. @returns {{bytes: number, gpu: number, resident: number, arriving: number, here: number, n_here: number, used: string[]}} */
export function totalsOf(segments) {
  const sums = { bytes: 0, gpu: 0, resident: 0, arriving: 0, here: 0, n_here: 0, used: [] };
  for (const { name, bytes, gpu, resident, arriving, in_use } of segments) {
    const here = Math.min(bytes, gpu + resident);
    sums.bytes += bytes;
    sums.gpu += gpu;
    sums.resident += resident;
    sums.arriving += arriving;
    sums.here += here;
    if (here >= bytes) sums.n_here += 1;
    if (in_use) sums.used.push(name);
  }
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

// How fast bytes go from one place to the next. Pure.

const SMOOTH_SECONDS = 1.5;
const LEAST = 1024; // bytes/s: what remains of a flow that has ended is none

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

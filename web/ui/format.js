// Numbers as people read them, with their units. Amounts of memory are powers of two everywhere on the page, as budgets are.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** 4.07 GiB, 18.2 GiB, 412 MiB, 640 KiB, 12 B: three digits. @param {number} n @returns {string} */
export function bytes(n) {
  const [amount, unit] = scaled(n);
  return `${unit === "B" ? Math.round(amount) : digits(amount)} ${unit}`;
}

/** "1.20 of 4.07 GiB", both in the unit of the second, where the first is not too small for it: "12.0 MiB of 4.07 GiB". @param {number} n @param {number} all @returns {string} */
export function bytesOf(n, all) {
  const [amount, unit] = scaled(all);
  const part = (n * amount) / all || 0;
  if (part > 0 && part < 0.095) return `${bytes(n)} of ${bytes(all)}`;
  return unit === "B" ? `${Math.round(part)} of ${amount} B` : `${digits(part, amount)} of ${digits(amount)} ${unit}`;
}

/** 11.2 MiB/s. @param {number} perSecond @returns {string} */
export const byteRate = (perSecond) => `${bytes(perSecond)}/s`;

/** 8.20 ms, 0.45 s, 38 s, 2 min 5 s, 1 h 12 min, 3 days. @param {number | null} seconds @returns {string} */
export function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "–";
  if (seconds < 0.1) return `${digits(1000 * seconds)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return pair(Math.floor(whole / 60), "min", whole % 60, "s");
  const minutes = Math.round(whole / 60);
  if (minutes < 48 * 60) return pair(Math.floor(minutes / 60), "h", minutes % 60, "min");
  return `${Math.round(minutes / 1440)} days`;
}

/** A wait that is only guessed: no more exact than it is known. @param {number} seconds @returns {string} */
export function wait(seconds) {
  if (seconds < 1) return "a moment";
  if (seconds < 10) return `${Math.round(seconds)} s`;
  if (seconds < 57.5) return `${5 * Math.round(seconds / 5)} s`;
  if (seconds < 3570) return `${Math.round(seconds / 60)} min`;
  return duration(300 * Math.round(seconds / 300));
}

/** What tokens come in: {number, unit}, tokens/s, or if they are slow, seconds a token. @param {number | null} perSecond */
export function tokenRate(perSecond) {
  if (perSecond === null || perSecond === undefined || !(perSecond > 0)) return { number: "–", unit: "tokens/s" };
  if (perSecond >= 0.95) return { number: digits(perSecond, Math.max(10, perSecond)), unit: "tokens/s" };
  const seconds = 1 / perSecond;
  return seconds < 99.5 ? { number: digits(seconds, 10), unit: "s a token" } : { number: digits(seconds / 60, 10), unit: "min a token" };
}

/** How such a speed feels to whoever reads along; people read about four words, or five tokens, in a second. */
export function feel(perSecond) {
  if (perSecond >= 12) return "faster than you read";
  if (perSecond >= 4) return "about as fast as you read";
  if (perSecond >= 1) return "slower than you read";
  return perSecond >= 0.2 ? "a word every few seconds" : "for patient people";
}

/** 7.24 billion, 135 million, 15 200. @param {number} n @returns {string} */
export function count(n) {
  if (n >= 999.5e9) return `${digits(n / 1e12)} trillion`;
  if (n >= 999.5e6) return `${digits(n / 1e9)} billion`;
  if (n >= 999.5e3) return `${digits(n / 1e6)} million`;
  return whole(n);
}

/** 131 072, grouped by narrow spaces that do not break. @param {number} n @returns {string} */
export const whole = (n) => `${Math.round(n)}`.replace(/(?<=\d)(?=(\d{3})+$)/g, n >= 10000 ? "\u202f" : "");

/** A share from 0 to 1, never 0 % or 100 % unless it is exactly that. @param {number} share @returns {string} */
export function percent(share) {
  if (share <= 0) return "0 %";
  if (share >= 1) return "100 %";
  return share < 0.01 ? "< 1 %" : share > 0.99 ? "99 %" : `${Math.round(100 * share)} %`;
}

/** As the option for memory takes it, rounded up so that it is enough: "640MiB". @param {number} n @returns {string} */
export const memoryText = (n) => `${Math.ceil(n / 2 ** 20)}MiB`;

/** The name of a segment: "blk.3" is the fourth layer. @param {string} name @returns {string} */
export function segmentName(name) {
  const layer = /^blk\.(\d+)$/.exec(name);
  return layer ? `Layer ${Number(layer[1]) + 1}` : name[0].toUpperCase() + name.slice(1);
}

/** "a, b and c". @param {string[]} parts @returns {string} */
export function listed(parts) {
  return parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

function scaled(n) {
  let amount = n;
  let unit = 0;
  while (amount >= 999.5 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return [amount, UNITS[unit]];
}

/** Three digits, as many after the point as `like` would have. */
function digits(n, like = n) {
  return n.toFixed(like >= 99.95 ? 0 : like >= 9.995 ? 1 : 2);
}

function pair(large, largeUnit, small, smallUnit) {
  return small ? `${large} ${largeUnit} ${small} ${smallUnit}` : `${large} ${largeUnit}`;
}

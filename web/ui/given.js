// What the person may decide, as its fields have it, and as wasmrt.js takes it. Pure.

/** "": the engine's choice */
export const FIRST_OPTIONS = { device: "auto", memory: "", gpuMemory: "", context: "", threads: "", kvType: "", cache: true };

/** The same of what was stored, whoever stored it. */
export function soundOptions(stored) {
  const sound = (name, first) => (typeof stored?.[name] === typeof first ? stored[name] : first);
  return Object.fromEntries(Object.entries(FIRST_OPTIONS).map(([name, first]) => [name, sound(name, first)]));
}

/** @param {typeof FIRST_OPTIONS} options @returns {import("../wasmrt.js").OpenOptions} without those that are left to the engine */
export function forEngine(options) {
  const { context, threads } = options;
  const given = { ...options, context: context && Number(context), threads: threads && Number(threads) };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ""));
}

/** What people call the file at an address: the end of its path. An address may have what is no encoding of a text. */
export function lastName(pathname) {
  const name = pathname.slice(pathname.lastIndexOf("/") + 1);
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

/** Bytes of "700MiB", "1.5 GB", "123"; null for what is no amount. The same rule as the engine's, options.py. */
export function parseBytes(text) {
  const [, whole, fraction, unit] = /^\s*(\d{1,18})(\.\d{1,9})?\s*([kmgt]?i?)b?\s*$/i.exec(text) ?? [];
  const power = ["", "k", "m", "g", "t", "ki", "mi", "gi", "ti"].indexOf(unit?.toLowerCase());
  if (power < 0) return null;
  const scale = power > 4 ? 1024 ** (power - 4) : 1000 ** power;
  return Number(whole) * scale + Math.trunc(Number(fraction ?? 0) * scale) || null;
}

// What the person may decide, as its fields have it, and as wasmrt.js takes it. Pure.

/** "": the engine's choice */
export const FIRST_OPTIONS = { device: "auto", memory: "", gpuMemory: "", context: "", threads: "", kvType: "", cache: true };

/** @param {typeof FIRST_OPTIONS} options @returns {import("../wasmrt.js").OpenOptions} without those that are left to the engine */
export function forEngine({ device, memory, gpuMemory, context, threads, kvType }) {
  const given = { device, memory, gpuMemory, context: context && Number(context), threads: threads && Number(threads), kvType };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ""));
}

// What this browser remembers of the person's choices. Where storage is forbidden or full, nothing is remembered, and all works.

const PREFIX = "wasmrt.";

/** @template T @param {string} name @param {T} otherwise @returns {T} */
export function stored(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Whether it was kept. @param {string} name @param {any} value undefined: forget it */
export function store(name, value) {
  try {
    if (value === undefined) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** Call back when another tab has stored or forgotten something under this name. @param {string} name @param {() => void} callback */
export function onStoredElsewhere(name, callback) {
  addEventListener("storage", ({ key }) => key === PREFIX + name && callback());
}

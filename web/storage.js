// storage.js: the models that lie on this origin's own disk (OPFS). prefetch-worker.js, which writes them, lists and deletes them.

const SECONDS = 10;

/** Start a worker for one question. @param {object} message @param {string | URL} workerUrl */
function ask(message, workerUrl) {
  const worker = new Worker(workerUrl, { type: "module", name: "wasmrt storage" });
  const answer = new Promise((resolve, reject) => {
    const fail = (why) => reject(Object.assign(new Error(`this page's disk cannot be used: ${why}`), { kind: "SourceError" }));
    worker.onmessage = ({ data }) => (data.error ? fail(data.error.message) : resolve(data));
    worker.onerror = (event) => {
      event.preventDefault();
      fail(event.message || "the prefetch worker could not be loaded");
    };
    setTimeout(fail, SECONDS * 1000, `no answer in ${SECONDS} s`);
    worker.postMessage(message);
  });
  return answer.finally(() => worker.terminate());
}

/**
 * @param {string | URL} workerUrl of prefetch-worker.js
 * @returns {Promise<{key: string, name: string, url: string, size: number, present: number, whole: boolean}[]>} present: bytes
 *   of it that are there; whole: it can be used without a network
 */
export async function list(workerUrl) {
  return (await ask({ type: "list" }, workerUrl)).models;
}

/** Delete a model, by its `key` of `list`. Rejects if it is open, here or in another tab. */
export async function remove(key, workerUrl) {
  await ask({ type: "remove", key }, workerUrl);
}

/**
 * Where a person lets sites keep nothing, browsers may refuse to say: as if nothing is kept, and nobody knows how much may be.
 * @returns {Promise<{usage: number, quota: number, persisted: boolean}>} bytes; all that this origin keeps, and may keep
 */
export async function estimate() {
  const refused = () => undefined;
  const { usage = 0, quota = 0 } = (await navigator.storage?.estimate?.().catch(refused)) ?? {};
  return { usage, quota, persisted: (await navigator.storage?.persisted?.().catch(refused)) ?? false };
}

/** Ask that the browser does not delete what is kept when the disk fills up. Only a page may ask, and some ask the user. */
export async function persist() {
  return (await navigator.storage?.persist?.()) ?? false;
}

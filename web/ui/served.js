/**
 * The models that this page's own host has: the list of `wasmrt serve`, or the file that `wasmrt export` wrote. Hosts of files
 * answer the first with anything: a folder's listing, the page itself, nothing.
 */

const LISTS = ["models", "models.json"]; // relative to the page, which may lie below a key

/** @returns {Promise<object[]>} as docs/serve.md has them, their `url` absolute; none if the host has no list, or is not there */
export async function servedModels() {
  for (const path of LISTS) {
    const models = await listAt(new URL(path, document.baseURI));
    if (models) return withAddresses(models, document.baseURI);
  }
  return [];
}

/** Those of a list that have an address, with all of it: a list may be anybody's file. @param {any[]} models @param {string} base */
export function withAddresses(models, base) {
  const sound = models.filter((model) => typeof model?.url === "string" && URL.canParse(model.url, base));
  return sound.map((model) => ({ ...model, url: new URL(model.url, base).href }));
}

/** @param {URL} url @returns {Promise<object[] | null>} null: there is no list */
async function listAt(url) {
  try {
    const answer = await fetch(url, { cache: "no-cache", headers: { Accept: "application/json" } });
    if (!answer.ok || !/^application\/json\b/i.test(answer.headers.get("content-type") ?? "")) return null;
    const { models } = await answer.json();
    return Array.isArray(models) ? models : null;
  } catch {
    return null; // without a network there is none, and what is no JSON is none
  }
}

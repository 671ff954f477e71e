// service-worker.js: the page without a network, and cross-origin isolated on hosts that cannot send headers.
//
// It answers for the files that the page is made of, which the build lists below with their SHA-256, and touches nothing else:
// not other origins, not models or ranges, not what is no GET. Its answers have COOP and COEP, which make the page isolated;
// workers' scripts need COEP, too. The list is one version of the page, and this script changes with it. A file is kept under its
// name and digest, so that two versions lie side by side and share what is the same in both:
//   install    a first version is there at once and passes on what the network gives; a later one fetches what has changed, and
//              is installed when all of it is there. If not, the one that works goes on working.
//   "fill"     the page asks a first version to fetch its files when nothing more urgent is on its way. From then on they come
//              from here alone.
//   activate   a later version takes over when no window shows an earlier one, or when the only one asks ("take over"): no
//              window sees files of two. What only the earlier one had is deleted.
//
// Asked by the page with a port, which gets: {bytes, of} now and then, and at last {names}, {error} or {others: n}.
//   {do: "fill"}     names: of all files
//   {do: "take over"}

// Written by the build. files: name -> [SHA-256, bytes]; headers: of all answers, types: by suffix, form: a digest of these two.
const LIST = { form: "", headers: {}, types: {}, files: {} };

const SCOPE = self.registration.scope;
const CACHE = `wasmrt ${SCOPE}`; // several pages may share an origin
const AT_ONCE = 3; // a page has six connections to an HTTP/1.1 server, and others want some

const names = Object.keys(LIST.files);
const typeOf = (name) => LIST.types[name.split(".").pop()] ?? "application/octet-stream";

/** Where a file of this version is kept. */
const keyOf = (name) => `${SCOPE}${name}?${LIST.files[name][0]}.${LIST.form}`;

/** The file of the page that a request is for; null: none of our business. */
function nameOf({ method, url, headers }) {
  if (method !== "GET" || headers.has("range") || !url.startsWith(SCOPE)) return null;
  const name = url.slice(SCOPE.length).replace(/[?#].*$/s, "") || "index.html";
  return Object.hasOwn(LIST.files, name) ? name : null;
}

self.addEventListener("fetch", (event) => {
  const name = nameOf(event.request);
  if (name) event.respondWith(answer(event.request, name));
});

let whole = null; // a promise: whether all files of this version are kept

async function answer(request, name) {
  const kept = await keptAnswer(name).catch(() => (whole = null)); // a disk that fails leaves the network, and is asked again
  if (kept) return kept;
  const response = await fetch(request);
  if (response.status !== 200 || response.type !== "basic" || response.headers.has("cross-origin-embedder-policy")) return response;
  const headers = new Headers(response.headers);
  for (const [header, value] of Object.entries(LIST.headers)) headers.set(header, value);
  return new Response(response.body, { headers });
}

async function keptAnswer(name) {
  const cache = await caches.open(CACHE);
  whole ??= missing(cache).then(({ length }) => length === 0);
  if (!(await whole)) return null;
  const kept = await cache.match(keyOf(name));
  if (!kept) whole = Promise.resolve(false); // somebody has deleted it; the others alone could be of another version than the host's
  return kept;
}

// Fetching

async function missing(cache) {
  const kept = new Set((await cache.keys()).map(({ url }) => url));
  return names.filter((name) => !kept.has(keyOf(name)));
}

let filling = null;
const listeners = new Set(); // told(message): of those who wait for it

/** Fetch what is not there yet. Throws an Error for people. */
async function fill(told) {
  if (told) listeners.add(told);
  filling ??= fetchMissing().finally(() => (filling = whole = null));
  await filling.finally(() => listeners.delete(told));
}

async function fetchMissing() {
  const cache = await caches.open(CACHE);
  const wanted = await missing(cache);
  const of = wanted.reduce((sum, name) => sum + LIST.files[name][1], 0);
  let bytes = 0;
  const inTurn = async () => {
    for (let name = wanted.shift(); name; name = wanted.shift()) {
      const body = await verified(name);
      await cache.put(keyOf(name), new Response(body, { headers: { ...LIST.headers, "Content-Type": typeOf(name) } }));
      bytes += LIST.files[name][1];
      for (const told of listeners) told({ bytes, of });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, inTurn));
}

/** A file's bytes: first those that the browser still has from showing the page, whatever their age, then the host's. */
async function verified(name) {
  for (const cache of ["force-cache", "reload"]) {
    const response = await fetch(SCOPE + name, { cache, credentials: "same-origin" });
    if (!response.ok) throw new Error(`the host answers ${response.status} for ${name}`);
    const body = await response.arrayBuffer();
    if ((await sha256(body)) === LIST.files[name][0]) return body;
  }
  throw new Error(`${name} is of another version than the rest of the page`);
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Versions

self.addEventListener("install", (event) => {
  if (self.registration.active) event.waitUntil(fill());
});

self.addEventListener("activate", (event) => event.waitUntil(deleteOthers()));

async function deleteOthers() {
  const cache = await caches.open(CACHE);
  const ours = new Set(names.map(keyOf));
  const old = (await cache.keys()).filter(({ url }) => !ours.has(url));
  await Promise.all(old.map((request) => cache.delete(request)));
}

async function takeOver() {
  const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const others = windows.filter(({ url }) => url.startsWith(SCOPE)).length - 1;
  if (others > 0) return { others };
  await self.skipWaiting();
  return { names };
}

self.addEventListener("message", (event) => {
  const [port] = event.ports;
  const tell = (message) => port.postMessage(message);
  const work = { fill: () => fill(tell).then(() => ({ names })), "take over": takeOver }[event.data.do];
  event.waitUntil(work().then(tell, (error) => tell({ error: error.message })));
});

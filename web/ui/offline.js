/**
 * The page without a network, and isolated on hosts that cannot send headers: what the page does about ../service-worker.js.
 *
 *     if (await isolate()) return;   // first of all: true means that the page is about to load again, isolated
 *     ...
 *     keepOffline();                 // once a model is ready, or nothing is going on: it fetches what is not kept yet
 */

import { signal } from "./html.js";

const SCRIPT = new URL("../service-worker.js", import.meta.url);
const ISOLATE_MS = 5000; // longer nobody waits for threads
const SILENT_MS = 330_000; // browsers end what a service worker has done for five minutes
const TRIED = "wasmrt: loaded again to be isolated";

/**
 * state: "off" (why: this page cannot be kept, or failed to be), "unknown", "fetching" (bytes, of), "ready" (it starts without a
 * network), "update" (and a new version is there; others: how many more windows show this one, and have to be closed first)
 * @type {{value: {state: string, why?: string, bytes?: number, of?: number, others?: number}}}
 */
export const offline = signal({ state: "unknown" });

/** Why there is no service worker for this page; empty if there can be one. */
function whyNot() {
  if (!isSecureContext) return "browsers keep pages that come over https, or from this machine";
  if (!navigator.serviceWorker) return "this browser keeps no pages, or not in a private window";
  return window === window.top ? "" : "it is part of another page";
}

async function register() {
  try {
    return await navigator.serviceWorker.register(SCRIPT, { updateViaCache: "none" });
  } catch (error) {
    throw new Error("its host gives it no service worker, or this browser takes none here", { cause: error });
  }
}

/**
 * Become cross-origin isolated, which memory that threads share needs: through a service worker, with one more load of the page.
 * @returns {Promise<boolean>} whether the page is loading again, so that nothing else should begin
 */
export async function isolate() {
  // One that came through the service worker and is not isolated never will be.
  if (crossOriginIsolated || whyNot() || navigator.serviceWorker.controller || !firstTry()) return false;
  let late;
  const inTime = new Promise((resolve) => (late = setTimeout(resolve, ISOLATE_MS, false)));
  const active = register().then(activated).catch(() => false); // keepOffline says why
  const isActive = await Promise.race([active, inTime]);
  clearTimeout(late);
  if (isActive) location.reload();
  return isActive;
}

/** Whether this tab has not yet tried. Where a tab may note nothing, a page that was loaded again may have been so by us. */
function firstTry() {
  try {
    if (sessionStorage.getItem(TRIED)) return false;
    sessionStorage.setItem(TRIED, "1");
    return true;
  } catch {
    return performance.getEntriesByType("navigation")[0]?.type === "navigate";
  }
}

/** Resolves to whether it has a worker that answers. @param {ServiceWorkerRegistration} registration */
function activated({ installing, waiting, active }) {
  const worker = active ?? waiting ?? installing;
  return new Promise((resolve) => {
    const look = () => {
      if (worker.state === "activated") resolve(true);
      if (worker.state === "redundant") resolve(false);
    };
    worker.addEventListener("statechange", look);
    look();
  });
}

/** Fetch what the page needs to start without a network, and watch for new versions. It goes on for as long as the page is open. */
export async function keepOffline() {
  const why = whyNot();
  if (why) {
    offline.value = { state: "off", why };
    return;
  }
  await idle();
  try {
    const registration = await register();
    watch(registration);
    if (!(await activated(registration))) throw new Error("its service worker did not start");
    if (!registration.waiting) offline.value = { state: "fetching", bytes: 0, of: 0 };
    await ask(registration.active, "fill", ({ bytes, of }) => {
      if (offline.value.state === "fetching") offline.value = { state: "fetching", bytes, of };
    });
    if (offline.value.state !== "update") offline.value = { state: "ready" };
    await registration.update().catch(() => leaveIfGone(registration)); // it rejects also where there is no network
  } catch (error) {
    if (offline.value.state !== "update") offline.value = { state: "off", why: error.message };
  }
}

const idle = () => new Promise((resolve) => (globalThis.requestIdleCallback ?? setTimeout)(resolve));

/** @param {ServiceWorkerRegistration} registration */
function watch(registration) {
  const look = () => {
    if (registration.waiting && registration.active) offline.value = { state: "update" };
  };
  registration.addEventListener("updatefound", () => registration.installing?.addEventListener("statechange", look));
  registration.installing?.addEventListener("statechange", look);
  look();
}

/** Ask a service worker; told: of what comes before its answer. @param {ServiceWorker} worker @param {string} what */
function ask(worker, what, told = () => {}) {
  return new Promise((resolve, reject) => {
    const { port1, port2 } = new MessageChannel();
    const silent = setTimeout(reject, SILENT_MS, new Error("it took too long; the next visit goes on with it"));
    port1.onmessage = ({ data }) => {
      if (data.bytes === undefined) clearTimeout(silent);
      if (data.error) reject(new Error(data.error));
      else if (data.bytes === undefined) resolve(data);
      else told(data);
    };
    worker.postMessage({ do: what }, [port2]);
  });
}

/** Where somebody else's pages lie now, as they may on a port of one's own machine, ours goes, with what it kept. */
async function leaveIfGone(registration) {
  const answer = await fetch(SCRIPT, { cache: "no-store" }).catch(() => null); // no network tells nothing
  const isOther = answer?.ok && !answer.redirected && !/javascript/.test(answer.headers.get("content-type") ?? "");
  if (!isOther && ![404, 410].includes(answer?.status)) return;
  await caches.delete(`wasmrt ${registration.scope}`);
  await registration.unregister();
  offline.value = { state: "off", why: "this page is no longer at its address" };
}

/** Go to the new version: the page loads again, unless other windows show the one that is running. */
export async function useUpdate() {
  const registration = await navigator.serviceWorker.getRegistration();
  const worker = registration?.waiting;
  if (!worker) {
    location.reload();
    return;
  }
  const active = activated({ waiting: worker });
  const { others, names } = await ask(worker, "take over");
  if (others) {
    offline.value = { state: "update", others };
    return;
  }
  await active;
  // WebKit takes modules that others import from the memory of the page before this one, unless they were fetched meanwhile.
  await Promise.all(names.filter((name) => name.endsWith(".js")).map((name) => fetch(new URL(name, registration.scope))));
  location.reload();
}

// source.js: the file that a model is read from, as the engine's thread sees it. prefetch-worker.js does the reading.

const PING_SECONDS = 2;
// A ping counts as missed at the next one, and the engine's thread may compute for seconds: only several in a row mean that the
// worker is gone.
const MISSED_PINGS = 5;
const CLOSE_SECONDS = 10;

/** @param {{kind: string, message: string, transient: boolean}} error */
function thrown(error) {
  return Object.assign(new Error(error.message), { kind: error.kind, transient: error.transient });
}

/** As the worker's nameOf(): no user and password, nor what follows a ?, a signature or key. @param {string} url */
function withoutSecrets(url) {
  return url.replace(/[?#].*$/s, "").replace(/\/\/[^/]*@/, "//");
}

/**
 * Facts of an open source: `name`, `size` (bytes), `etag`, `lastModified`; `ranges`: whether the server does them, or all was
 * taken at once; `exposed`: whether the server lets the page check each part's place in the file; `cache`: {state, why};
 * `network`, `present`: bytes that came, and that are kept.
 */
export class Source {
  /**
   * @param {string | URL | Blob} ref an http or https URL, a File or a Blob
   * @param {{cache?: boolean, name?: string, signal?: AbortSignal, limits?: object, pingSeconds?: number}} options cache: keep
   *   what a URL gives on this origin's disk; name: of a Blob, for messages; signal: gives up opening; limits: see the worker
   * @param {string | URL} workerUrl of prefetch-worker.js
   * @returns {Promise<Source>} rejects with an Error that has `kind` and `transient`
   */
  static async open(ref, options = {}, workerUrl = "./prefetch-worker.js") {
    const { name, limits } = options;
    const message =
      ref instanceof Blob
        ? { type: "open", file: ref, name, limits }
        : { type: "open", url: String(ref), cache: Boolean(options.cache), limits };
    const source = new Source(message, workerUrl, options.pingSeconds ?? PING_SECONDS);
    const giveUp = () => source.#end(thrown({ kind: "Cancelled", message: `opening '${source.name}' was cancelled`, transient: true }));
    options.signal?.addEventListener("abort", giveUp);
    try {
      await source.#begin();
      options.signal?.throwIfAborted();
    } catch (error) {
      source.#end();
      throw error;
    } finally {
      options.signal?.removeEventListener("abort", giveUp);
    }
    return source;
  }

  #message;
  #workerUrl;
  #worker = null;
  #ready = false; // the worker has the file open
  #opening = null; // {resolve, reject} until the worker has said what it opened
  #reads = new Map(); // id -> what was asked for, and who waits
  #lastId = 0;
  #restarts = 0;
  #mayRestart = true; // not again before a read has succeeded
  #missed = 0;
  #pinger = 0;
  #pingSeconds;
  #closing = null;
  #closed = null; // resolves when the worker has let go of everything
  #stats = [];
  #earlier = 0; // bytes that workers before this one had from the network

  /** Use `open`. */
  constructor(message, workerUrl, pingSeconds) {
    this.#message = message;
    this.#pingSeconds = pingSeconds;
    this.#workerUrl = workerUrl;
    this.name = message.name ?? message.file?.name ?? withoutSecrets(message.url ?? "<blob>");
    this.size = 0;
    this.etag = null;
    this.lastModified = null;
    this.ranges = true;
    this.exposed = true;
    this.cache = { state: "off", why: "" };
    this.remote = message.url !== undefined;
    this.network = 0; // bytes that came over it, as of the last read that has ended
    /** @type {number | null} bytes of the file that lie on this origin's disk; null: none are kept */
    this.present = null;
    /** Called when `cache` has changed. @type {null | ((cache: {state: string, why: string}) => void)} */
    this.oncache = null;
  }

  /**
   * Begin to read n bytes from `offset` on.
   *
   * @param {number} offset
   * @param {number} n
   * @param {null | {memory: WebAssembly.Memory, shared: boolean, window: (address: number, n: number) => Uint8Array}} memory
   * @param {number} address in `memory`, where the bytes go
   * @param {boolean} demand somebody waits for it, so it goes before what is read ahead
   * @returns {{id: number, done: Promise<Uint8Array | null>}} done: the bytes if `memory` is null. Once it is settled nothing
   *   writes to the memory any more. Rejects with an Error of kind "SourceError", or "Cancelled" after `cancel`.
   */
  start(offset, n, memory = null, address = 0, demand = true) {
    const id = ++this.#lastId;
    if (!(offset >= 0 && n >= 0 && offset + n <= this.size)) {
      throw new RangeError(`bytes ${offset} to ${offset + n} are not all in '${this.name}', which has ${this.size}`);
    }
    const done = new Promise((resolve, reject) => {
      if (this.#closing || !this.#worker) return reject(this.#closedError());
      const read = { offset, n, demand, address, memory, cancelled: false, resolve, reject };
      this.#reads.set(id, read);
      if (this.#ready) this.#ask(id, read);
      return this.#watch();
    });
    return { id, done };
  }

  /** As `start`; the promise alone. */
  read(offset, n, memory = null, address = 0, demand = true) {
    return this.start(offset, n, memory, address, demand).done;
  }

  /** Nobody waits for this read any more: its promise is settled soon. */
  cancel(id) {
    const read = this.#reads.get(id);
    if (!read) return;
    read.cancelled = true;
    if (this.#ready) this.#worker.postMessage({ type: "cancel", id });
  }

  /** Somebody waits for this read now. */
  hurry(id) {
    const read = this.#reads.get(id);
    if (!read) return;
    read.demand = true;
    if (this.#ready) this.#worker.postMessage({ type: "hurry", id });
  }

  /** @returns {Promise<object>} bytes from network, file and disk so far, requests, retries, what keeping cost */
  stats() {
    if (!this.#worker) return Promise.reject(this.#closedError());
    return new Promise((resolve, reject) => {
      this.#stats.push({ resolve, reject });
      this.#worker.postMessage({ type: "stats" });
    });
  }

  /** All reads end, and the worker is gone. Closing again does nothing. */
  close() {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close() {
    if (!this.#worker) return;
    const closed = new Promise((resolve) => {
      this.#closed = resolve;
      setTimeout(resolve, CLOSE_SECONDS * 1000); // a worker that hangs
    });
    this.#worker.postMessage({ type: "close" });
    await closed;
    this.#end();
  }

  #ask(id, { offset, n, demand, address, memory, cancelled }) {
    const buffer = memory?.shared ? memory.memory.buffer : null;
    this.#worker.postMessage({ type: "read", id, offset, n, demand, buffer, address });
    if (cancelled) this.#worker.postMessage({ type: "cancel", id });
  }

  /** Start a worker and let it open the file. */
  #begin() {
    this.#ready = false;
    return new Promise((resolve, reject) => {
      this.#opening = { resolve, reject };
      const worker = new Worker(this.#workerUrl, { type: "module", name: "wasmrt prefetch" });
      this.#worker = worker;
      worker.onmessage = ({ data }) => worker === this.#worker && this.#handle(data);
      worker.onmessageerror = () => worker === this.#worker && this.#lost("a message was lost");
      worker.onerror = (event) => {
        event.preventDefault();
        if (worker === this.#worker) this.#lost(event.message || "its script could not be loaded");
      };
      worker.postMessage(this.#message);
      this.#watch();
    });
  }

  /** Forget the worker; whoever still waits is told. */
  #end(error = this.#closedError()) {
    this.#worker?.terminate();
    this.#worker = null;
    this.#ready = false;
    clearTimeout(this.#pinger);
    this.#pinger = 0;
    const waiting = [...this.#reads.values(), ...this.#stats, ...(this.#opening ? [this.#opening] : [])];
    this.#reads.clear();
    this.#stats = [];
    this.#opening = null;
    for (const { reject } of waiting) reject(error);
    this.#closed?.();
  }

  #handle(data) {
    this.#missed = 0;
    if (data.network !== undefined) [this.network, this.present] = [this.#earlier + data.network, data.present];
    switch (data.type) {
      case "opened":
        return this.#opened(data);
      case "error":
        return this.#opening?.reject(thrown(data.error));
      case "end":
        return this.#ended(data);
      case "cache":
        this.cache = { state: data.state, why: data.why };
        return this.oncache?.(this.cache);
      case "stats":
        return this.#stats.shift()?.resolve({ ...data, cache: this.cache, restarts: this.#restarts });
      case "closed":
        return this.#closed?.();
      default:
        return undefined; // a pong
    }
  }

  #opened({ name, size, etag, lastModified, ranges, exposed, cache }) {
    const { resolve, reject } = this.#opening;
    this.#opening = null;
    const same = size === this.size && etag === this.etag && (etag || lastModified === this.lastModified);
    if (this.#restarts && !same) {
      const message = `'${this.name}' changed while it was in use; open it again`;
      return reject(thrown({ kind: "SourceError", message, transient: false }));
    }
    Object.assign(this, { name, size, etag, lastModified, ranges, exposed, cache });
    this.#ready = true;
    return resolve();
  }

  #ended({ id, buffer, error }) {
    const read = this.#reads.get(id);
    this.#reads.delete(id);
    if (!read) return;
    if (error) return read.reject(thrown(error));
    this.#mayRestart = true;
    if (!buffer) return read.resolve(null);
    const bytes = new Uint8Array(buffer);
    if (!read.memory) return read.resolve(bytes);
    read.memory.window(read.address, bytes.length).set(bytes);
    return read.resolve(null);
  }

  /** While reads are open, ask now and then whether the worker lives: that it was killed is told by no event. */
  #watch() {
    this.#pinger ||= setTimeout(() => {
      this.#pinger = 0;
      if (!this.#worker || (this.#reads.size === 0 && !this.#opening)) return;
      this.#missed += 1;
      if (this.#missed > MISSED_PINGS) return void this.#lost(`it did not answer for ${this.#pingSeconds * MISSED_PINGS} s`);
      this.#worker.postMessage({ type: "ping" });
      this.#watch();
    }, this.#pingSeconds * 1000);
  }

  /** The worker is gone. A new one is tried; what it reads again goes to the same places. */
  async #lost(why) {
    const opening = this.#opening;
    const error = thrown({
      kind: "SourceError",
      message: `reading '${this.name}' failed: the prefetch worker stopped (${why}); open the model again`,
      transient: true,
    });
    if (opening || this.#closing || !this.#mayRestart) return this.#end(error);
    this.#restarts += 1;
    this.#earlier = this.network;
    this.#mayRestart = false;
    this.#worker.terminate();
    clearTimeout(this.#pinger);
    [this.#pinger, this.#missed] = [0, 0];
    for (const { reject } of this.#stats.splice(0)) reject(error);
    try {
      await this.#begin();
    } catch (failure) {
      return this.#end(failure);
    }
    for (const [id, read] of this.#reads) this.#ask(id, read);
    return this.#watch();
  }

  #closedError() {
    return thrown({ kind: "SourceError", message: `'${this.name}' is closed; open it again to read from it`, transient: false });
  }
}

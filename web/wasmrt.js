/**
 * wasmrt in a page: open a GGUF model by URL or File, and let it write.
 *
 *     import { open } from "./wasmrt.js";
 *     const model = await open("https://example.org/model.gguf", { memory: "1GiB" });
 *     for await (const piece of model.generate("Once upon a time", { maxTokens: 64 })) show(piece);
 *     await model.close();
 *
 * `examine` says before whether it will run, and how. All models of a page share one worker (engine-worker.js), which ends some
 * seconds after the last of them was closed.
 */

const PING_SECONDS = 5;
// A worker that computes on its own thread answers between two of its passes only; elsewhere at once.
const PATIENCE_SECONDS = 60;
const PATIENCE_ALONE_SECONDS = 900;
// After its last model was closed the worker stays for so long: whoever opens another need not wait for Python again. And Chromium
// never ends the threads of a worker that is ended while workers of its own, the model's, are still on their way out.
const LINGER_SECONDS = 5;
// Whoever has examined a model thinks about it for a while, and is not to wait for Python when they open it.
const LINGER_EXAMINED_SECONDS = 600;

/** What went wrong: `kind` is the name of Python's class (SourceError, BudgetError, ...), or "EngineStopped". */
export class WasmrtError extends Error {
  /** @param {string} kind @param {string} message @param {string} [trace] Python's */
  constructor(kind, message, trace) {
    super(message);
    this.name = "WasmrtError";
    this.kind = kind;
    if (trace) this.trace = trace;
  }
}

/**
 * @typedef {object} OpenOptions
 * @property {string} [device] "auto" (a GPU where there is one, else the CPU), "gpu", "cpu"
 * @property {number | string} [memory] a hard budget for weights, cache and activations: bytes, or text such as "1GiB"
 * @property {number | string} [gpuMemory] the same of the GPU's memory
 * @property {number} [context] positions
 * @property {number} [threads]
 * @property {"f32" | "f16"} [kvType] of the key/value cache
 * @property {boolean} [cache] keep what a URL gives on this origin's disk (true)
 * @property {(bytes: number, of: number) => void} [onprogress] of the load, which goes on after open() has given the model
 * @property {(text: string) => void} [onnote] what a user should know, in a line; otherwise the console has it
 * @property {AbortSignal} [signal] breaks off opening
 */

/**
 * @typedef {object} TextOptions
 * @property {number | null} [maxTokens] null: until the model ends or the context is full
 * @property {number} [temperature] 0: always the likeliest token
 * @property {number} [topK]
 * @property {number} [topP]
 * @property {number} [minP]
 * @property {number} [repeatPenalty]
 * @property {number | bigint} [seed]
 * @property {string | string[]} [stop] texts that end it
 * @property {boolean} [parseSpecial] let text such as "<|im_end|>" in the prompt become control tokens
 * @property {AbortSignal} [signal]
 */

const PYTHON_NAMES = {
  gpuMemory: "gpu_memory", kvType: "kv_type", maxTokens: "max_tokens", topK: "top_k", topP: "top_p", minP: "min_p",
  repeatPenalty: "repeat_penalty", parseSpecial: "parse_special", addBos: "add_bos",
};

/** Options by Python's names, without those that were not given. */
function forPython(options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given.map(([name, value]) => [PYTHON_NAMES[name] ?? name, value]));
}

/** The worker, and who waits for what it answers. */
class Engine {
  static #running = null;

  /** The page's engine, started if there is none; whoever took it releases it. */
  static take() {
    Engine.#running ??= new Engine();
    clearTimeout(Engine.#running.#lingering);
    Engine.#running.#users += 1;
    return Engine.#running;
  }

  /** Ask the engine that there is; what would start one is not worth it. */
  static async askIfRunning(message) {
    await Engine.#running?.ask(message).answer;
  }

  #users = 0;
  #lingering = 0;
  #wanted = 0; // until when, whoever has it or not
  #lastId = 0;
  #requests = new Map(); // id -> {resolve, reject, heard, model}
  #listeners = new Map(); // id of a request that opened a model, or examined one, -> (message), as long as it is open
  #examined = 0; // the id of the last examination
  #stopped = null; // the error, once it has
  #unlock = new AbortController();
  #heard = performance.now();
  #patience = (globalThis.crossOriginIsolated ? PATIENCE_SECONDS : PATIENCE_ALONE_SECONDS) * 1000;

  constructor() {
    const name = `wasmrt-${Math.random().toString(36).slice(2)}`;
    this.#worker = new Worker(new URL("./engine-worker.js", import.meta.url), { type: "module", name });
    this.#worker.onmessage = ({ data }) => this.#hear(data);
    this.#worker.onerror = (event) => this.#stop(event.message || "its script does not load");
    this.#pinger = setInterval(() => this.#ping(), PING_SECONDS * 1000);
  }

  #worker;
  #pinger;

  release(linger = LINGER_SECONDS) {
    this.#users -= 1;
    this.#wanted = Math.max(this.#wanted, performance.now() + linger * 1000);
    if (!this.#users) this.#lingering = setTimeout(() => this.#stop("the page has closed it"), this.#wanted - performance.now());
  }

  get stopped() {
    return this.#stopped;
  }

  /** Computing takes place on the worker's own thread, so it may be silent for long. */
  expectSilence() {
    this.#patience = PATIENCE_ALONE_SECONDS * 1000;
  }

  /**
   * Send a request. heard: told of what comes before its answer.
   * @returns {{id: number, answer: Promise<any>}}
   */
  ask(message, heard = () => {}) {
    const id = ++this.#lastId;
    if (this.#stopped) return { id, answer: Promise.reject(this.#stopped) };
    try {
      this.tell({ id, ...message });
    } catch (error) {
      return { id, answer: Promise.reject(new WasmrtError("TypeError", error.message)) }; // what cannot be sent
    }
    const { model } = message;
    return { id, answer: new Promise((resolve, reject) => this.#requests.set(id, { resolve, reject, heard, model })) };
  }

  /** The same, but broken off when the signal says so: then at once, whatever the engine is doing. */
  async askUntil(signal, message) {
    signal?.throwIfAborted();
    const { id, answer } = this.ask(message);
    if (!signal) return answer;
    return this.orAborted(signal, id, answer);
  }

  async orAborted(signal, id, answer) {
    let abort;
    const aborted = new Promise((_, reject) => {
      abort = () => {
        this.tell({ cancel: id });
        reject(signal.reason);
      };
      signal.addEventListener("abort", abort, { once: true });
    });
    try {
      return await Promise.race([answer, aborted]);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  tell(message) {
    if (!this.#stopped) this.#worker.postMessage(message);
  }

  /** From now on hear what comes up about the model of this request; null: no more. */
  listen(id, listener) {
    if (listener) this.#listeners.set(id, listener);
    else this.#listeners.delete(id);
  }

  /** The same about what this request examines, until another does: its file stays open for a while. */
  listenToExamined(id, listener) {
    this.listen(this.#examined, null);
    this.listen(id, listener);
    this.#examined = id;
  }

  #hear(message) {
    this.#heard = performance.now();
    if (message.alive) this.#watch(message.alive);
    if (message.ready && !message.shared) this.expectSilence();
    if (message.fatal) this.#stop(message.fatal.message);
    if (message.note !== undefined && message.id === undefined) console.warn(`wasmrt: ${message.note}`);
    if (message.id === undefined) return;
    const request = this.#requests.get(message.id);
    if (message.error || message.done !== undefined) {
      this.#requests.delete(message.id);
      if (message.error) request?.reject(new WasmrtError(message.error.kind, message.error.message, message.error.trace));
      else request?.resolve(message.numbers ?? message.done);
    } else if (request && message.note !== undefined && request.model !== undefined) {
      this.#listeners.get(request.model)?.(message); // whoever opened the model has said where notes go
    } else if (request) {
      request.heard(message);
    } else {
      this.#listeners.get(message.id)?.(message);
    }
  }

  /** A lock that is free again means that its holder is gone, at once and without a doubt. */
  #watch(lock) {
    navigator.locks
      .request(lock, { signal: this.#unlock.signal }, () => this.#stop("its worker has ended"))
      .catch((error) => {
        if (error.name !== "AbortError") throw error;
      });
  }

  #ping() {
    if (performance.now() - this.#heard > this.#patience) this.#stop("its worker does not answer any more");
    else this.tell({ ping: 0 });
  }

  #stop(why) {
    if (this.#stopped) return;
    this.#stopped = new WasmrtError("EngineStopped", `the engine has stopped (${why}); open the model again`);
    if (Engine.#running === this) Engine.#running = null;
    clearInterval(this.#pinger);
    clearTimeout(this.#lingering);
    this.#unlock.abort();
    this.#worker.terminate();
    for (const { reject } of this.#requests.values()) reject(this.#stopped);
    this.#requests.clear();
    this.#listeners.clear();
  }
}

/**
 * Open a model: when this resolves, its header was read and its memory planned, and weights are on their way; a text may begin.
 * @param {string | URL | Blob | ArrayBuffer | Uint8Array} ref a URL (also relative), "hf:owner/repo/file.gguf", a File or Blob, or
 *   a file's bytes
 * @param {OpenOptions} [options]
 * @returns {Promise<Model>}
 */
export async function open(ref, { onprogress, onnote, signal, ...options } = {}) {
  signal?.throwIfAborted();
  const model = located(ref);
  const engine = Engine.take();
  if (options.device === "cpu:plain") engine.expectSilence();
  const heard = (message) => {
    if (message.progress) onprogress?.(...message.progress);
    if (message.note !== undefined) (onnote ?? ((text) => console.warn(`wasmrt: ${text}`)))(message.note);
  };
  const { id, answer } = engine.ask({ do: "open", ref: model, key: keyOf(ref, model), options: forPython(options) }, heard);
  const opened = answer.then((facts) => {
    engine.listen(id, heard);
    return new Model(engine, id, facts);
  });
  try {
    return await (signal ? engine.orAborted(signal, id, opened) : opened);
  } catch (error) {
    // It may come after all, if it was broken off too late.
    opened.then((model) => model.close(), () => engine.release());
    throw error;
  }
}

/**
 * @typedef {object} Examined
 * @property {string} name the file's
 * @property {number} size bytes of the whole model, all its files together
 * @property {string | null} architecture
 * @property {string | null} title the model's own name
 * @property {number} n_parameters
 * @property {string} format "Q4_K_M", or that of most of its bytes
 * @property {number | null} n_layers
 * @property {number | null} n_ctx_train positions that it was made for
 * @property {boolean} chat whether the file has a chat template
 * @property {string} device "cpu" or "gpu"; if it does not run, what was asked for
 * @property {string} adapter the GPU's name
 * @property {number} threads
 * @property {boolean} runs
 * @property {string | null} why_not in a line
 * @property {string | null} kind of the error that opening it would be: "UnsupportedError", "BudgetError", "DeviceError", ...
 * @property {number | null} needs_bytes of a budget that is too small: the least that would do
 * @property {"memory" | "gpu_memory" | null} needs which budget that is
 * @property {Record<string, any> | null} plan as a model's
 * @property {{name: string, bytes: number, resident_bytes: number, gpu_bytes: number, streamed_bytes: number, row_bytes: number}[]}
 *   segments embedding, layers, head; row_bytes: of an embedding that is read row by row. What two of them share counts once
 * @property {Record<string, any> | null} predicted tokens_per_second, seconds_per_token, limit ("reading" or "computing"),
 *   read_bytes (a token), read_from ("file", "disk" or "network"), ...
 * @property {{bytes: number, cached_bytes: number, rate: number | null, seconds: number | null, quota: number | null,
 *   usage: number | null}} download bytes: still to fetch; rate: bytes a second, as seen in a moment; seconds: bytes at that rate;
 *   quota, usage: of this origin's disk
 * @property {string[]} notes
 */

/**
 * Say what would come of opening a model: whether it runs here, what stays where, how fast it will be. Of the file the header is
 * read, and where it comes over a network a small part more, to see how fast that is. Of the same model nothing is read again for
 * a minute, so that other options are answered at once; `open` goes on from there.
 * @param {string | URL | Blob | ArrayBuffer | Uint8Array} ref as for `open`
 * @param {OpenOptions} [options] the same, without onprogress
 * @returns {Promise<Examined>} also of a model that does not run; rejects with a SourceError or FormatError if it cannot be read
 */
export async function examine(ref, { onnote, signal, ...options } = {}) {
  signal?.throwIfAborted();
  const model = located(ref);
  const engine = Engine.take();
  const heard = ({ note }) => {
    if (note !== undefined) (onnote ?? ((text) => console.warn(`wasmrt: ${text}`)))(note);
  };
  const { id, answer } = engine.ask({ do: "examine", ref: model, key: keyOf(ref, model), options: forPython(options) }, heard);
  engine.listenToExamined(id, heard);
  try {
    return await (signal ? engine.orAborted(signal, id, answer) : answer);
  } finally {
    engine.release(LINGER_EXAMINED_SECONDS);
  }
}

/** Let go of what was examined, so that its copy on this origin's disk can be deleted. @returns {Promise<void>} */
export async function forget() {
  try {
    await Engine.askIfRunning({ do: "forget" });
  } catch (error) {
    if (error.kind !== "EngineStopped") throw error; // then it is closed too
  }
}

const keys = new WeakMap(); // File, Blob or bytes -> how the engine knows it again
let lastKey = 0;

function keyOf(ref, model) {
  if (typeof model === "string") return model;
  if (!keys.has(ref)) keys.set(ref, `file:${++lastKey}`);
  return keys.get(ref);
}

function located(ref) {
  if (ref instanceof Blob) return ref;
  if (ref instanceof ArrayBuffer || ArrayBuffer.isView(ref)) return new Blob([ref]);
  if (ref instanceof URL) return ref.href;
  if (typeof ref !== "string") throw new WasmrtError("TypeError", "a model is named by a URL, a File, a Blob or its bytes");
  return /^hf:/i.test(ref) ? ref : new URL(ref, globalThis.document?.baseURI ?? location.href).href;
}

/** An open model. What its methods refuse comes as an Error with `kind`. */
export class Model {
  #engine;
  #id;
  #closing = null;

  /** Use `open`. */
  constructor(engine, id, { name, config, plan }) {
    this.#engine = engine;
    this.#id = id;
    /** @type {string} the file's */
    this.name = name;
    /** @type {Record<string, any>} what the file says of the model: n_ctx_train, n_vocab, n_layers, ... */
    this.config = config;
    /** @type {Record<string, any>} what is where, and how much: context, total_bytes, streamed_bytes, bytes_bound, ... */
    this.plan = plan;
  }

  /**
   * Continue a text, or token ids.
   * @param {string | number[]} prompt
   * @param {TextOptions} [options]
   */
  generate(prompt, options = {}) {
    return this.#text({ do: "generate", prompt: typeof prompt === "string" ? prompt : Array.from(prompt) }, options);
  }

  /**
   * Answer a conversation, through the file's own template, which gets all further options.
   * @param {{role: string, content: string}[]} messages
   * @param {TextOptions & Record<string, any>} [options]
   */
  chat(messages, options = {}) {
    return this.#text({ do: "chat", messages }, options);
  }

  #text(message, { signal, seed, ...options }) {
    if (seed !== undefined && seed !== null) options.seed = typeof seed === "bigint" ? String(seed) : seed;
    return new Generation(this.#engine, () => this.#request(message, forPython(options)), signal);
  }

  /**
   * @param {string} text
   * @param {{addBos?: boolean, parseSpecial?: boolean, signal?: AbortSignal}} [options]
   * @returns {Promise<number[]>}
   */
  tokenize(text, { signal, ...options } = {}) {
    return this.#ask({ do: "tokenize", text }, signal, forPython(options));
  }

  /** @param {number[]} ids @param {{signal?: AbortSignal}} [options] @returns {Promise<string>} */
  detokenize(ids, { signal } = {}) {
    return this.#ask({ do: "detokenize", ids: Array.from(ids) }, signal);
  }

  /**
   * The logits after every position: ids.length rows of config.n_vocab.
   * @param {number[]} ids @param {{signal?: AbortSignal}} [options] @returns {Promise<Float32Array>}
   */
  logits(ids, { signal } = {}) {
    return this.#ask({ do: "logits", ids: Array.from(ids) }, signal);
  }

  /** What was done so far: passes, seconds, bytes read. @returns {Promise<Record<string, any>>} */
  stats({ signal } = {}) {
    return this.#ask({ do: "stats" }, signal);
  }

  /**
   * What of the model is where at this moment, in bytes; cheap, so that it may be asked several times a second. Where memory is
   * shared it is answered while the model computes. Tensors that segments share count in one of them.
   * @returns {Promise<{
   *   segments: {name: string, bytes: number, resident: number, gpu: number, arriving: number, in_use: boolean}[],
   *   tiers: {gpu: {used: number, of: number}, memory: {used: number, of: number}, disk: {present: number, of: number} | null,
   *     network: {bytes: number}},
   *   reading: number, passes: number, bytes_per_pass: number, bytes_bound: number, stalled_seconds: number, read_bytes: number}>}
   */
  map({ signal } = {}) {
    return this.#ask({ do: "map" }, signal);
  }

  /** Wait until the weights that stay are there. @param {{signal?: AbortSignal}} [options] @returns {Promise<void>} */
  async loaded({ signal } = {}) {
    await this.#ask({ do: "loaded" }, signal);
  }

  /** Keep to a smaller budget from now on. @param {number | string} memory @param {{signal?: AbortSignal}} [options] */
  async lowerMemory(memory, { signal } = {}) {
    this.plan = await this.#ask({ do: "lower_memory", memory }, signal);
  }

  /** Break off what it does, and give its memory back. Calling it again waits for the same. @returns {Promise<void>} */
  close() {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close() {
    this.#engine.listen(this.#id, null);
    try {
      await this.#engine.ask({ do: "close", model: this.#id }).answer;
    } catch (error) {
      if (error.kind !== "EngineStopped") throw error; // then it is closed too
    } finally {
      this.#engine.release();
    }
  }

  async [Symbol.asyncDispose ?? Symbol("asyncDispose")]() {
    await this.close();
  }

  #request(message, options) {
    if (this.#closing) throw new WasmrtError("DeviceError", `${this.name}: the model was closed; open it again`);
    return { ...message, model: this.#id, ...(options && { options }) };
  }

  async #ask(message, signal, options) {
    return this.#engine.askUntil(signal, this.#request(message, options));
  }
}

/**
 * A text as it is written: an async iterable of its pieces, which starts when the first is asked for. Leaving the loop stops it.
 * @implements {AsyncIterator<string>}
 */
export class Generation {
  /** All pieces so far. */
  text = "";
  /** @type {number[]} the ids of what was written */
  tokens = [];
  /** @type {Record<string, any> | null} at the end: finish, generated_tokens, decode_tokens_per_second, ... */
  stats = null;

  #engine;
  #message;
  #signal;
  #id = 0;
  #pieces = [];
  #untaken = false; // a message whose pieces the engine does not yet know to be used
  #answer = null; // settles when the engine has ended it
  #ended = null; // {error}, or {} for a good end
  #wake = () => {};
  #turn = Promise.resolve(); // calls of next() follow one another

  /** Use `Model.generate` or `Model.chat`. */
  constructor(engine, message, signal) {
    this.#engine = engine;
    this.#message = message;
    this.#signal = signal;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @returns {Promise<IteratorResult<string, undefined>>} */
  next() {
    const result = this.#turn.then(() => this.#next());
    this.#turn = result.catch(() => {});
    return result;
  }

  /** Called when a loop is left: stops, and waits until the engine has. */
  async return() {
    await this.stop();
    this.#pieces.length = 0;
    return { done: true, value: undefined };
  }

  /** End the text here; the loop that reads it ends, and `stats` are there. @returns {Promise<void>} */
  async stop() {
    if (!this.#answer) {
      this.#end({});
      return;
    }
    this.#engine.tell({ stop: this.#id });
    await this.#answer;
  }

  async #next() {
    if (!this.#answer && !this.#ended) this.#start();
    for (;;) {
      if (this.#signal?.aborted) throw this.#signal.reason;
      if (this.#pieces.length) {
        const value = this.#pieces.shift();
        this.text += value;
        return { done: false, value };
      }
      if (this.#ended?.error) throw this.#ended.error;
      if (this.#ended) return { done: true, value: undefined };
      if (this.#untaken) this.#engine.tell({ taken: this.#id });
      this.#untaken = false;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }

  #start() {
    this.#signal?.throwIfAborted();
    const { id, answer } = this.#engine.ask(this.#message(), (message) => this.#hear(message));
    this.#id = id;
    const abort = () => {
      this.#engine.tell({ cancel: id });
      this.#end({ error: this.#signal.reason });
    };
    this.#signal?.addEventListener("abort", abort, { once: true });
    this.#answer = answer
      .then(
        ({ stats, tokens }) => {
          this.stats = stats;
          this.tokens.push(...tokens);
          this.#end({});
        },
        (error) => this.#end({ error }),
      )
      .finally(() => this.#signal?.removeEventListener("abort", abort));
  }

  #hear({ pieces, tokens }) {
    if (!pieces || this.#ended) return;
    this.#pieces.push(...pieces);
    this.tokens.push(...tokens);
    this.#untaken = true;
    this.#wake();
  }

  #end(how) {
    this.#ended ??= how;
    this.#wake();
  }
}

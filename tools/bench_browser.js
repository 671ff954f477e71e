// The runtimes that tools/bench_browser.py compares, in a page: `await ask("wasmrt", "load", {...})`. Each keeps its model between
// calls. Times are by the page's clock, so what a runtime says to its page and back is part of them.

import { examine, open } from "/wasmrt.js";

const ERRORS = 4; // the level of wllama's log

const seconds = (since) => (performance.now() - since) / 1000;

/** When the first piece of a text came, and when the text ended. */
class Clock {
  #started = performance.now();
  #first = 0;
  #text = "";

  tick(piece) {
    this.#first ||= performance.now();
    this.#text += piece;
  }

  end() {
    return { first_token_seconds: (this.#first - this.#started) / 1000, decode_seconds: seconds(this.#first), text: this.#text };
  }
}

const wasmrt = {
  async load({ url, threads, context, device }) {
    const started = performance.now();
    this.model = await open(url, { threads, context, device, draft: 0, cache: false });
    await this.model.loaded();
    const load_seconds = seconds(started);
    const stats = await this.model.stats();
    const adapter = stats.adapter ? `, ${stats.adapter}` : "";
    return { load_seconds, about: `wasmrt, device ${stats.device}, threads ${stats.threads}${adapter}` };
  },

  async run({ ids, n }) {
    const generation = this.model.generate(ids, { maxTokens: n });
    const clock = new Clock();
    for await (const piece of generation) clock.tick(piece);
    const { tokens, stats } = generation;
    return { ...clock.end(), tokens, n_prompt: stats.prompt_tokens - stats.cached_tokens, n: tokens.length };
  },
};

const wllama = {
  async load({ url, threads, context, never }) {
    const started = performance.now();
    this.never = never.map((id) => [id, false]);
    const { Wllama } = await import("/wllama/index.js");
    const blob = await (await fetch(url)).blob();
    this.model = new Wllama({ default: "/wllama/wllama.wasm" });
    const options = { n_gpu_layers: 0, n_threads: threads, n_ctx: context, n_parallel: 1, log_level: ERRORS };
    await this.model.loadModel([blob], options);
    const load_seconds = seconds(started);
    return { load_seconds, about: `wllama, ${Wllama.getLibllamaVersion()}, CPU, threads ${this.model.getNumThreads()}` };
  },

  async run({ text, n }) {
    const clock = new Clock();
    let timings = null;
    const chunks = await this.model.createCompletion({
      prompt: text, max_tokens: n, temperature: 0, top_k: 1, ignore_eos: true, logit_bias: this.never, cache_prompt: false,
      stream: true, timings_per_token: true,
    });
    for await (const chunk of chunks) {
      timings = chunk.timings ?? timings;
      if (chunk.choices[0]?.finish_reason === null) clock.tick(chunk.choices[0].text);
    }
    return { ...clock.end(), n_prompt: timings.prompt_n, n: timings.predicted_n };
  },
};

// From nothing to what a person waits for. `again` is the same once more, with what the browser keeps of the first time.
const starts = {
  /** Pyodide alone, in a worker as the engine's. */
  async bare() {
    const worker = new Worker("/bare.js", { type: "module" });
    await new Promise((resolve, reject) => Object.assign(worker, { onmessage: resolve, onerror: reject }));
    return () => worker.terminate();
  },

  /** Until it is known whether a model will run, and how. */
  async plan({ url, device }) {
    await examine(url, { device });
    return () => {};
  },

  /** Until its first token. */
  async text({ url, device }) {
    const model = await open(url, { device });
    const text = model.generate("Once upon a time");
    await text.next();
    return async () => {
      await text.stop();
      await model.close();
    };
  },
};

const start = {
  async run({ what, ...args }) {
    const started = performance.now();
    const end = await starts[what](args);
    const found = { seconds: seconds(started) };
    await end();
    return found;
  },
};

const runtimes = { wasmrt, wllama, start };

/** @param {"wasmrt" | "wllama" | "start"} name @param {"load" | "run"} what */
export function ask(name, what, args) {
  return runtimes[name][what](args);
}

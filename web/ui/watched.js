// A text that is measured while somebody reads it.

import { Pace } from "./rates.js";

export const NOTHING_YET = { prefill: null, decode: null, firstToken: null, stalled: null, tokens: 0, series: [] };

/** Reads like the Generation inside it. */
export class Watched {
  #text;
  #tell;
  #end;
  #begun = performance.now();
  #pace = new Pace();
  #now = NOTHING_YET;
  #stalledBefore = null;
  #ended = false;

  /**
   * @param {import("../wasmrt.js").Generation} text
   * @param {(speeds: typeof NOTHING_YET) => void} tell
   * @param {(error?: Error) => void} end called once, when it is over
   */
  constructor(text, tell, end) {
    this.#text = text;
    this.#tell = tell;
    this.#end = end;
    tell(this.#now);
  }

  get text() {
    return this.#text.text;
  }

  get tokens() {
    return this.#text.tokens;
  }

  get stats() {
    return this.#text.stats;
  }

  get running() {
    return !this.#ended;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    try {
      const result = await this.#text.next();
      if (result.done) this.#over();
      else this.#measure();
      return result;
    } catch (error) {
      this.#over(error);
      throw error;
    }
  }

  async return() {
    await this.stop();
    return { done: true, value: undefined };
  }

  async stop() {
    await this.#text.stop();
    this.#over();
  }

  /** Told how long the model has waited for bytes, all its life: what it has since this text began is the text's. */
  stalled(seconds) {
    if (this.#ended) return;
    const passed = (performance.now() - this.#begun) / 1000;
    this.#stalledBefore ??= seconds;
    this.#now = { ...this.#now, stalled: Math.min(1, (seconds - this.#stalledBefore) / passed) };
    this.#tell(this.#now);
  }

  #measure() {
    const seconds = (performance.now() - this.#begun) / 1000;
    const { length: tokens } = this.#text.tokens;
    const firstToken = this.#now.firstToken ?? seconds;
    const decode = this.#pace.tell(tokens, seconds) ?? this.#now.decode;
    this.#now = { ...this.#now, firstToken, decode, tokens, series: this.#pace.series };
    this.#tell(this.#now);
  }

  #over(error) {
    if (this.#ended) return;
    this.#ended = true;
    const { stats } = this;
    if (stats) {
      const { prefill_tokens_per_second: prefill, decode_tokens_per_second: decode, generated_tokens: tokens } = stats;
      this.#now = { ...this.#now, prefill, decode, tokens };
      this.#tell(this.#now);
    }
    this.#end(error);
  }
}

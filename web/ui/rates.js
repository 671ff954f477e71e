// How fast something grows, smoothed over some seconds, and when it will be done.

const WINDOW_SECONDS = 4;

/**
 * Of a load. It tells {bytes, of, rate, eta, done}: bytes/s and seconds, or null while they cannot be said. A tensor counts when
 * all of it is there; what was fetched of those that are still coming counts too, but never makes the load seem done.
 */
export class Progress {
  #tell;
  #of;
  #bytes = 0;
  #fetched = 0;
  #fetchedBefore = null;
  #seen = []; // [seconds, bytes], of the last WINDOW_SECONDS and one before

  /** @param {number} of bytes that will come, as the plan says */
  constructor(of, tell) {
    this.#of = of;
    this.#tell = tell;
  }

  /** @param {number} bytes of tensors that are there @param {number} of in all */
  there(bytes, of) {
    [this.#bytes, this.#of] = [bytes, of];
    this.#say();
  }

  /** @param {number} bytes that came over the network since whenever */
  fetched(bytes) {
    this.#fetchedBefore ??= bytes;
    this.#fetched = bytes - this.#fetchedBefore;
    this.#say();
  }

  #say(now = performance.now() / 1000) {
    const seen = this.#seen;
    const of = this.#of;
    if (!of) return;
    const bytes = Math.max(this.#bytes, Math.min(this.#fetched, 0.99 * of));
    seen.push([now, bytes]);
    while (seen.length > 2 && seen[1][0] < now - WINDOW_SECONDS) seen.shift();
    const seconds = now - seen[0][0];
    const rate = seconds > 0.2 ? Math.max(0, bytes - seen[0][1]) / seconds : null;
    this.#tell({ bytes, of, rate, eta: rate ? (of - bytes) / rate : null, done: this.#bytes >= of });
  }
}

/** Of a text: [seconds since it began, tokens/s] from counts of tokens, at most one pair every `step` seconds. */
export class Pace {
  series = [];
  #step;
  #seen = [];

  constructor(step = 0.25) {
    this.#step = step;
  }

  /** The tokens/s of late, or null. */
  tell(tokens, now) {
    const seen = this.#seen;
    seen.push([now, tokens]);
    while (seen.length > 2 && seen[1][0] < now - WINDOW_SECONDS / 2) seen.shift();
    const seconds = now - seen[0][0];
    if (seconds <= 0 || tokens === seen[0][1]) return null;
    const pace = (tokens - seen[0][1]) / seconds;
    // A pace of less than a step is one of luck: the first tokens come together.
    if (seconds >= this.#step && now - (this.series.at(-1)?.[0] ?? -1) >= this.#step) this.series = [...this.series, [now, pace]];
    return pace;
  }
}

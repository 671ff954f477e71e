// How fast something grows, smoothed over some seconds, and when it will be done.

const WINDOW_SECONDS = 4;

/** Of a load: told how far it is, it tells {bytes, of, rate, eta, done}: bytes/s and seconds, or null when it can't be said. */
export class Progress {
  #tell;
  #seen = []; // [seconds, bytes], of the last WINDOW_SECONDS and one before

  constructor(tell) {
    this.#tell = tell;
  }

  tell(bytes, of, now = performance.now() / 1000) {
    const seen = this.#seen;
    if (seen.length && bytes < seen.at(-1)[1]) seen.length = 0; // begun anew
    seen.push([now, bytes]);
    while (seen.length > 2 && seen[1][0] < now - WINDOW_SECONDS) seen.shift();
    const seconds = now - seen[0][0];
    const rate = seconds > 0.2 ? (bytes - seen[0][1]) / seconds : null;
    this.#tell({ bytes, of, rate, eta: rate ? (of - bytes) / rate : null, done: bytes >= of });
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
    if (now - (this.series.at(-1)?.[0] ?? -1) >= this.#step) this.series = [...this.series, [now, pace]];
    return pace;
  }
}

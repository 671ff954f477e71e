// prefetch-worker.js: reads ranges of one file, from the web, from a File or Blob, and from this origin's own disk (OPFS).
//
// Runs without Python as a module worker of its own, so that bytes go on arriving while the engine computes.
//
// To it:
//   {type: "open", url, cache, limits}     first, and once. cache: whether to keep what is read (OPFS); limits: see LIMITS
//   {type: "open", file, name, limits}     ... or a File or Blob
//   {type: "read", id, offset, n, demand, buffer, address}    bytes offset to offset + n go to `address` in `buffer`, which is
//                                          shared; buffer null: they come back
//   {type: "hurry", id}                    somebody waits for this read now
//   {type: "cancel", id}                   nobody does any more
//   {type: "ping"}, {type: "stats"}, {type: "close"}
//   {type: "list"}, {type: "remove", key}  what lies on the disk: instead of "open"
// From it:
//   {type: "opened", name, size, etag, lastModified, ranges, exposed, cache, network, present}    ranges: whether the server does
//                                          them; else the whole file was taken. exposed: whether each part's place in
//                                          the file can be checked (else only its length); cache: {state, why}, see STATES;
//                                          network: bytes that came over it so far; present: bytes of the file on the disk, or null
//   {type: "error", error}                 instead of "opened". error: {kind, message, transient}
//   {type: "end", id, buffer, error, network, present}    exactly one for each read; nothing writes for it any more. buffer: where it had
//                                          none; error: if it failed, of kind "Cancelled" if it was cancelled
//   {type: "cache", state, why, network, present}    has changed
//   {type: "pong"}, {type: "stats", ...}, {type: "closed"}
//   {type: "list", models: [{key, name, url, size, present, whole}]}, {type: "removed", error}    present: bytes of it

const MIB = 1 << 20;
const HEAD_BYTES = 256 << 10; // of the first request: the file's header is read from it
const WHOLE_BYTES = 64 * MIB; // of a file whose server does no ranges: it is taken whole, and held in memory
const PART_BYTES = 8 * MIB; // of one request; a larger read is several, side by side
const AT_ONCE = 8;
// A page has six connections to an HTTP/1.1 server. What is read ahead leaves one, so that what is waited for finds it.
const AHEAD_AT_ONCE = 5;

// How long a read waits and how often it tries. A server that is away for half a minute is waited for.
const LIMITS = {
  idleSeconds: 20, // without a single byte
  stallSeconds: 60, // of attempts that bring less than progressBytes
  progressBytes: 256 << 10,
  openAttempts: 5,
  backoffSeconds: 0.25, // doubles with each attempt; what is waited is a random part of it
  backoffCap: 4,
  retryAfterCap: 30,
  totalSeconds: 120, // of one part, and ...
  bytesPerSecond: 16384, // ... the time that its bytes take at this speed
  probeAttempts: 2, // how patiently a server is asked whether its file is still the one that lies here; without it that one is used
  probeSeconds: 5,
  saveSeconds: 2, // after a write to the disk, the map of what is there is written; ...
  saveBytes: 64 * MIB, // ... or after so much: that is what a killed worker loses
  backlogBytes: 32 * MIB, // that may wait to be written to the disk
};
const RENEW_AFTER = 2; // failures in a row after which the file is looked up anew where it was redirected
const EXPIRED = new Set([401, 403, 404, 410]); // what object stores answer when a signed URL's time is over
const BUSY = new Set([408, 425, 429]); // and 500 to 599

let limits = LIMITS;
let source = null; // a WebFile or a LocalFile
let cache = null; // a Cache of what `source` gives
let others = null; // bytes of it that lie on the disk, where they are another's to read
// Bytes by where they came from, and what the disk cost.
const counts = { network: 0, file: 0, disk: 0, requests: 0, retries: 0, reads: 0, kept: 0, writeMs: 0, flushMs: 0, slowestMs: 0 };

// Errors

/** What a reader is told. */
class SourceError extends Error {
  constructor(message, transient = false) {
    super(message);
    this.kind = "SourceError";
    this.transient = transient;
  }
}

/** One attempt gave nothing, or not all. then: "again" | "renew" (find out anew where the file is) | "changed" | "never". */
class Trouble extends Error {
  constructor(reason, then = "again", retryAfter = 0) {
    super(reason);
    this.then = then;
    this.retryAfter = retryAfter;
  }
}

/** An answer that is not the range that it says it is: none of its bytes are taken for right. */
class TooLong extends Trouble {}

const soFar = () => ({ network: counts.network, present: cache ? cache.present.bytes : others });

const sendable = (error) => ({
  kind: error.kind ?? "SourceError",
  message: error.kind ? error.message : `the prefetch worker failed: ${error.message ?? error}`,
  transient: error.transient ?? false,
});

// What an answer means. A byte is taken only from one that is exactly the range that was asked for, of the file as it was when
// it was opened, as far as the server lets a page see that.

/** First byte, the one after the last, and the file's size; null for what is not said. */
function contentRange(headers) {
  const match = /^bytes (?:(\d{1,15})-(\d{1,15})|\*)\/(\d{1,15}|\*)$/i.exec((headers.get("content-range") ?? "").trim());
  if (!match) return { start: null, end: null, total: null };
  const span = match[1] === undefined ? { start: null, end: null } : { start: Number(match[1]), end: Number(match[2]) + 1 };
  return { ...span, total: match[3] === "*" ? null : Number(match[3]) };
}

/** Null unless the header is there and a number. */
function contentLength(headers) {
  const value = (headers.get("content-length") ?? "").trim();
  return /^\d{1,15}$/.test(value) ? Number(value) : null;
}

/** A weak one (W/"...") allows other bytes under the same tag. */
function strongEtag(headers) {
  const etag = (headers.get("etag") ?? "").trim();
  return /^"[^"]*"$/.test(etag) ? etag : null;
}

function retryAfter(headers) {
  const value = (headers.get("retry-after") ?? "").trim();
  const seconds = /^\d{1,9}$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : 0;
}

function checkBusy(answer) {
  if (BUSY.has(answer.status) || (answer.status >= 500 && answer.status < 600)) {
    throw new Trouble(`it answered with status ${answer.status}`, "again", retryAfter(answer.headers));
  }
}

function checkEncoding(headers) {
  if ((headers.get("content-type") ?? "").toLowerCase().startsWith("multipart/")) {
    throw new Trouble("it answered one range with several parts (multipart)");
  }
  const encoding = (headers.get("content-encoding") ?? "identity").trim().toLowerCase();
  if (encoding !== "identity") throw new Trouble(`it answered with compressed bytes (Content-Encoding ${encoding.slice(0, 20)})`);
}

/** In words, or empty if both are the same file as far as the server says. */
function difference(was, now) {
  if (was.size !== now.size) return `it had ${was.size} bytes when it was opened and has ${now.size} now`;
  const [what, a, b] = was.etag ? ["ETag", was.etag, now.etag] : ["time of modification", was.lastModified, now.lastModified];
  return a && a !== b ? `its ${what} was ${a.slice(0, 80)} when it was opened and is ${(b ?? "none").slice(0, 80)} now` : "";
}

function checkSame(was, now) {
  if (was.etag ? !now.etag : was.lastModified && !now.lastModified) {
    throw new Trouble(`the answer has no ${was.etag ? "ETag" : "Last-Modified"}, so its bytes may be another file's`);
  }
  const why = difference(was, now);
  if (why) throw new Trouble(why, "changed");
}

/** Whether this answer's body is bytes `start` to `end` of the file. Throws Trouble if not. */
function checkPart(answer, was, exposed, start, end) {
  const { headers, status } = answer;
  checkBusy(answer);
  if (EXPIRED.has(status)) throw new Trouble(`it answered with status ${status}`, "renew");
  const range = contentRange(headers);
  if (status === 416) {
    if (range.total === was.size) throw new Trouble(`it answered that bytes ${start} to ${end} are not in the file (status 416)`);
    throw new Trouble(`it had ${was.size} bytes when it was opened and has ${range.total ?? "fewer"} now`, "changed");
  }
  if (status !== 206 && status !== 200) throw new Trouble(`it answered with status ${status}; check the URL`, "never");
  const length = contentLength(headers);
  const size = (status === 200 ? length : range.total) ?? was.size;
  checkSame(was, { size, etag: strongEtag(headers), lastModified: headers.get("last-modified") });
  if (status === 200) throw new Trouble("the server no longer does ranges: it answered with the whole file");
  checkEncoding(headers);
  if (exposed && (range.start !== start || range.end !== end || range.total === null)) {
    const shown = headers.get("content-range")?.slice(0, 80) ?? "missing";
    throw new Trouble(`asked for bytes ${start}-${end - 1}, it answered with Content-Range ${shown}`);
  }
  if (length !== null && length !== end - start) throw new Trouble(`asked for ${end - start} bytes, it answered with ${length}`);
}

// Requests

/** Those under way. One timer looks after all: a timer for each chunk of each body would cost more than the copy. */
const asking = new Set();
let watcher = 0;

function watch() {
  const now = performance.now();
  for (const request of asking) {
    if (now > request.last + request.idle * 1000) request.stop(`no byte came for ${request.idle} s`);
    else if (now > request.deadline) request.stop("it took too long");
  }
}

/** One GET or HEAD. `stop(reason)` ends it; whoever waits for it gets a Trouble with that reason. */
class Request {
  constructor(deadline, idle = limits.idleSeconds) {
    this.idle = idle;
    this.controller = new AbortController();
    this.last = performance.now(); // when something last came
    this.deadline = deadline;
    this.reason = "";
  }

  stop(reason) {
    this.reason ||= reason;
    this.controller.abort();
  }

  /** Ask, give the answer to `use`, and let go of the connection in any case: a body that is not read is aborted. */
  async run(url, init, use) {
    asking.add(this);
    watcher ||= setInterval(watch, Math.min(1000, this.idle * 250));
    counts.requests += 1;
    try {
      const answer = await fetch(url, {
        ...init,
        cache: "no-store",
        credentials: "omit",
        redirect: "follow",
        referrerPolicy: "no-referrer",
        signal: this.controller.signal,
      });
      this.last = performance.now();
      return await use(answer);
    } catch (error) {
      if (error instanceof Trouble || error instanceof SourceError) throw error;
      throw new Trouble(this.reason || oneLine(error));
    } finally {
      this.stop("done");
      asking.delete(this);
      if (asking.size === 0) {
        clearInterval(watcher);
        watcher = 0;
      }
    }
  }

  /** See `drain`. */
  body(answer, n, take) {
    return drain(readerOf(answer.body), n, (chunk, lent) => {
      this.last = performance.now();
      take(chunk, lent);
    });
  }
}

// Buffers that streams are read into, to be used again: in Chromium that is twice as fast as a new one for each chunk.
const CHUNK_BYTES = 512 << 10;
const spare = [];

/** A stream's reader, and whether it fills our buffers: not every browser's does. */
function readerOf(stream) {
  try {
    return [stream.getReader({ mode: "byob" }), true];
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return [stream.getReader(), false];
  }
}

/**
 * Hand on what a reader gives chunk by chunk; take(chunk, lent): a lent one is overwritten by the next. Throws Trouble unless it
 * has n bytes.
 */
async function drain([reader, lent], n, take) {
  let left = n;
  let buffer = lent ? (spare.pop() ?? new ArrayBuffer(CHUNK_BYTES)) : null;
  for (;;) {
    const { done, value } = await (lent ? reader.read(new Uint8Array(buffer)) : reader.read());
    buffer = lent ? value?.buffer : null;
    if (done) break;
    left -= value.length;
    if (left < 0) throw new TooLong(`the answer has more than the ${n} bytes that were asked for`);
    take(value, lent);
  }
  if (buffer) spare.push(buffer);
  if (left > 0) throw new Trouble(`the answer ended ${left} bytes early`);
}

const rangeHeader = (start, end) => ({ headers: { Range: `bytes=${start}-${end - 1}` } });
const oneLine = (error) => String(error?.message ?? error).replace(/\s+/g, " ").trim();
const { port1, port2 } = new MessageChannel();
const turns = [];
port1.onmessage = () => turns.shift()();
/** Let other messages in. Timers would take 4 ms each. */
const turn = () =>
  new Promise((resolve) => {
    turns.push(resolve);
    port2.postMessage(null);
  });
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

function pause(failed, asked) {
  const longest = Math.min(limits.backoffCap, limits.backoffSeconds * 2 ** Math.min(failed - 1, 30));
  return Math.max(Math.random() * longest, Math.min(asked, limits.retryAfterCap));
}

// Where bytes come from

/**
 * A file behind a URL. identity: {size, etag, lastModified} of the file that was opened. place: where the redirects led, whose
 * signature may expire; null until the server is first asked, if the file was opened from the disk.
 */
class WebFile {
  constructor(url) {
    this.url = url;
    this.name = nameOf(url);
    this.identity = null;
    this.ranges = true;
    this.exposed = true;
    this.place = null;
    this.head = new Uint8Array(0);
    this.renewing = null;
  }

  async open() {
    this.settle(await this.find(HEAD_BYTES, limits.openAttempts));
  }

  settle({ identity, ranges, exposed, url, head }) {
    this.place = { url, exposed };
    this.identity = identity;
    this.ranges = ranges;
    this.exposed = exposed;
    this.head = head;
  }

  /** `resolve` with patience. Throws SourceError. */
  async find(n, attempts, seconds = limits.totalSeconds, idle = limits.idleSeconds) {
    for (let failed = 1; ; failed++) {
      try {
        return await this.resolve(n, seconds, idle);
      } catch (trouble) {
        if (!(trouble instanceof Trouble)) throw trouble;
        if (trouble.then !== "again") throw new SourceError(`cannot open '${this.name}': ${trouble.message}`);
        if (failed >= attempts) {
          throw new SourceError(
            `cannot open '${this.name}': ${failed} attempts failed, at last because ${trouble.message}; check the URL and the ` +
              `connection, and that the server lets this page read it (Access-Control-Allow-Origin)`,
            true,
          );
        }
        counts.retries += 1;
        await sleep(pause(failed, Math.min(trouble.retryAfter, idle)));
      }
    }
  }

  /** Follow the redirects from the URL that the user gave, and read the first n bytes. Throws Trouble. */
  async resolve(n, seconds = limits.totalSeconds, idle = limits.idleSeconds) {
    const deadline = performance.now() + seconds * 1000;
    const request = new Request(deadline, idle);
    const found = await request.run(this.url, rangeHeader(0, n), async (answer) => {
      if (this.url.startsWith("https:") && answer.url.startsWith("http:")) {
        throw new Trouble(`a redirect from https to '${nameOf(answer.url)}' was not followed; give the file's own URL`, "never");
      }
      return { url: answer.url || this.url, ...(await readHead(request, answer, n)) };
    });
    found.identity.size ??= await sizeByHead(found.url, deadline, idle);
    return found;
  }

  /** Look the file up again, once for all parts that read from `stale`, and make sure that it is the same. */
  async renew(stale) {
    if (this.place !== stale) return;
    this.renewing ??= this.resolve(1)
      .then(({ identity, url, exposed }) => {
        checkSame(this.identity, identity);
        this.place = { url, exposed };
      })
      .finally(() => {
        this.renewing = null;
      });
    await this.renewing;
  }

  /**
   * Hand bytes `start` to `end` to `part` as they come. Goes on where an answer broke off; ends early if the part is over.
   * Throws SourceError.
   */
  async readInto(part, start, end) {
    let failed = 0;
    let renewed = false;
    let stale = this.place;
    let [at, mark, since] = [start, start, performance.now()]; // mark: how far it had come when it last made progress
    const deadline = since + (limits.totalSeconds + (end - start) / limits.bytesPerSecond) * 1000;
    let renew = stale === null;
    while (at < end && !part.over) {
      const begun = at;
      const chunks = []; // to be kept on the disk once the answer has proved to be what it says
      try {
        if (renew) await this.renew(stale);
        renew = false;
        const place = (stale = this.place);
        if (part.over) return;
        const request = (part.request = new Request(deadline));
        const init = { ...rangeHeader(begun, end), priority: part.demand ? "high" : "low" };
        await request.run(place.url, init, (answer) => {
          checkPart(answer, this.identity, place.exposed, begun, end);
          return request.body(answer, end - begun, (chunk, lent) => {
            if (part.over) return;
            part.put(at, chunk);
            if (cache?.writable) chunks.push(lent ? chunk.slice() : chunk);
            at += chunk.length;
          });
        });
      } catch (trouble) {
        if (part.over) return;
        if (!(trouble instanceof Trouble)) throw trouble;
        if (trouble instanceof TooLong) [at, chunks.length] = [begun, 0];
        const now = performance.now();
        if (at - mark >= limits.progressBytes) [mark, since, failed, renewed] = [at, now, 0, false];
        if (trouble.then === "renew" && !renewed) {
          renew = renewed = true;
          continue;
        }
        failed += 1;
        const late = now > since + limits.stallSeconds * 1000 || now > deadline;
        if (trouble.then !== "again" || late) throw this.failure(start, end, trouble, failed);
        // The host that the redirects led to may be gone.
        renew = stale === null || (failed >= RENEW_AFTER && stale.url !== this.url);
        counts.retries += 1;
        await part.sleep(pause(failed, trouble.retryAfter));
      } finally {
        part.request = null;
        counts.network += at - begun;
        cache?.keep(begun, chunks);
      }
      await cache?.room();
    }
  }

  failure(start, end, trouble, failed) {
    const what = `reading bytes ${start} to ${end} of '${this.name}'`;
    if (trouble.then === "changed") {
      return new SourceError(`'${this.name}' changed while it was in use, seen at byte ${start}: ${trouble.message}; open it again`);
    }
    if (trouble.then === "never") return new SourceError(`${what} failed: ${trouble.message}`);
    if (trouble.then === "renew") {
      return new SourceError(`${what} failed: ${trouble.message}, also when looked up again; open it again`);
    }
    return new SourceError(
      `${what} failed ${failed} times, at last because ${trouble.message}; check the connection and try again`,
      true,
    );
  }
}

/**
 * Which file it is, and its first n bytes; of a server that does no ranges all bytes, or none if hardly any are wanted. Throws
 * Trouble. A size of null is yet to be asked for.
 */
async function readHead(request, answer, n) {
  const { headers, status } = answer;
  checkBusy(answer);
  if (status === 401 || status === 403) {
    throw new Trouble(`access was denied (status ${status}); it may need a token, or the link may have expired`, "never");
  }
  if (status === 404 || status === 410) throw new Trouble(`there is no such file (status ${status}); check the URL`, "never");
  const { start, end, total } = contentRange(headers);
  const length = contentLength(headers);
  const identity = { size: total, etag: strongEtag(headers), lastModified: headers.get("last-modified") };
  if ((status === 416 && total === 0) || (status === 200 && length === 0)) {
    return { identity: { ...identity, size: 0 }, ranges: true, exposed: true, head: new Uint8Array(0) };
  }
  if (status !== 206 && status !== 200) throw new Trouble(`it answered with status ${status}; check the URL`, "never");
  checkEncoding(headers);
  if (status === 200) {
    if (length === null || length > WHOLE_BYTES) {
      const size = length === null ? "does not say how large it is" : `this one has ${length} bytes`;
      throw new Trouble(
        `the server does not do ranges: it answered with the whole file, which is taken up to ${WHOLE_BYTES} bytes, and ${size}; ` +
          "download the file and choose it here, or serve it with `wasmrt serve`",
        "never",
      );
    }
    request.deadline += (length / limits.bytesPerSecond) * 1000;
    const head = n < HEAD_BYTES ? new Uint8Array(0) : await readBody(request, answer, length);
    return { identity: { ...identity, size: length }, ranges: false, exposed: true, head };
  }
  const exposed = headers.has("content-range");
  let wanted = n;
  if (exposed) {
    if (start !== 0 || end !== Math.min(n, total ?? n)) {
      throw new Trouble(`asked for ${n} bytes from 0 on, it answered with Content-Range ${headers.get("content-range").slice(0, 80)}`);
    }
    wanted = end;
  } else if (length !== null) {
    if (length > n) throw new Trouble(`asked for ${n} bytes, it answered with ${length}`);
    wanted = length;
  }
  const head = await readBody(request, answer, wanted);
  return { identity, ranges: true, exposed: exposed && total !== null, head };
}

/** All n bytes of an answer. Throws Trouble. */
async function readBody(request, answer, n) {
  const bytes = new Uint8Array(n);
  let at = 0;
  await request.body(answer, n, (chunk) => {
    bytes.set(chunk, at);
    at += chunk.length;
    counts.network += chunk.length;
  });
  return bytes;
}

/**
 * Where Content-Range cannot be read: the length that HEAD says, which may be that of compressed bytes. So it is tried: of the
 * last byte and the one after it, exactly one must be there. Throws Trouble.
 */
async function sizeByHead(url, deadline, idle) {
  const size = await new Request(deadline, idle).run(url, { method: "HEAD" }, (answer) => {
    checkBusy(answer);
    return answer.ok ? contentLength(answer.headers) : null;
  });
  const right =
    size &&
    (await new Request(deadline, idle).run(url, rangeHeader(size - 1, size + 1), async (answer) => {
      checkBusy(answer);
      if (answer.status !== 206) return false;
      let n = 0;
      for (const reader = answer.body.getReader(); n < 2; ) {
        const { done, value } = await reader.read();
        if (done) break;
        n += value.length;
      }
      return n === 1;
    }));
  if (right) return size;
  throw new Trouble(
    "the server does not tell this page how large the file is; let it send Access-Control-Expose-Headers: Content-Range, ETag, " +
      "or download the file and choose it here",
    "never",
  );
}

/** Of what need not be a good URL: no user and password, nor what follows a ?, a signature or key. */
const nameOf = (url) => url.replace(/[?#].*$/s, "").replace(/\/\/[^/]*@/, "//");

/** A File that the user chose, or a Blob. */
class LocalFile {
  constructor(file, name) {
    this.file = file;
    this.name = name || file.name || "<blob>";
    this.identity = { size: file.size, etag: null, lastModified: null };
    this.ranges = true;
    this.exposed = true;
    this.head = new Uint8Array(0);
  }

  async open() {}

  async readInto(part, start, end) {
    const reading = readerOf(this.file.slice(start, end).stream());
    part.request = { stop: () => reading[0].cancel().catch(() => {}) }; // it is over: that it failed, too, tells nothing
    let at = start;
    try {
      await drain(reading, end - start, (chunk) => {
        if (part.over) return;
        part.put(at, chunk);
        at += chunk.length;
      });
    } catch (error) {
      if (part.over) return;
      const why = error instanceof Trouble ? `it had ${this.file.size} bytes when it was chosen and has fewer now` : oneLine(error);
      throw new SourceError(`cannot read '${this.name}': ${why}; it may have changed: choose it again`);
    } finally {
      part.request = null;
      counts.file += at - start;
    }
  }
}

// The disk

// What `cache` says in "opened" and later on: "off" (not asked for), "none" (cannot be had), "on" (what is read is kept), "whole"
// (all is there, the server is not needed), "busy" (another tab has it), "full" (no more is kept), "lost" (it was deleted).
const FOLDER = "wasmrt-models";
const MAP_FORMAT = 1;
const SLOT_BYTES = 256 << 10; // of a map
const MAX_RANGES = 8000; // that fit into a slot: up to 30 bytes each; the smallest beyond are forgotten
const LOCK_ATTEMPTS = 10; // a worker that was just ended may hold its files for a moment
const LOCK_SECONDS = 0.1;
const WRITE_MS = 4; // in one turn, then others come in

/** A set of byte positions: sorted half-open ranges that neither overlap nor touch. */
class Intervals {
  constructor(ranges = []) {
    this.ranges = [];
    for (const [start, end] of ranges) this.add(start, end);
  }

  /** Index of the first range that ends at or after a position. */
  at(position) {
    let [low, high] = [0, this.ranges.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ranges[middle][1] < position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  add(start, end) {
    if (start >= end) return;
    const first = this.at(start);
    let last = first;
    for (; last < this.ranges.length && this.ranges[last][0] <= end; last++) {
      start = Math.min(start, this.ranges[last][0]);
      end = Math.max(end, this.ranges[last][1]);
    }
    this.ranges.splice(first, last - first, [start, end]);
  }

  /** Where the range that holds `position` ends; `position` itself if none does. */
  runEnd(position) {
    const range = this.ranges[this.at(position + 1)];
    return range && range[0] <= position ? range[1] : position;
  }

  /** The first start of a range at or after `position`. */
  nextStart(position) {
    let i = this.at(position);
    while (i < this.ranges.length && this.ranges[i][0] < position) i++;
    return this.ranges[i]?.[0] ?? Infinity;
  }

  get bytes() {
    return this.ranges.reduce((sum, [start, end]) => sum + end - start, 0);
  }
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/**
 * A slot's bytes: eight hex digits of a CRC-32, JSON, a newline. A map has two slots, which are written in turn: one that is torn
 * leaves the other.
 */
function encodeMap(map) {
  const json = new TextEncoder().encode(JSON.stringify(map));
  const sum = new TextEncoder().encode(crc32(json).toString(16).padStart(8, "0"));
  const slot = new Uint8Array(json.length + 9);
  slot.set(sum);
  slot.set(json, 8);
  slot[slot.length - 1] = 10;
  return slot;
}

/** Null for what makes no sense. */
function decodeSlot(bytes) {
  const end = bytes.indexOf(10);
  if (end < 9) return null;
  const text = new TextDecoder().decode(bytes.subarray(0, end));
  if (parseInt(text.slice(0, 8), 16) !== crc32(bytes.subarray(8, end))) return null;
  const map = JSON.parse(text.slice(8));
  return map.format === MAP_FORMAT ? map : null; // what our own CRC-32 is on has the form that we gave it
}

/** The newest slot that is whole. */
function decodeMap(bytes) {
  const maps = [0, SLOT_BYTES].map((at) => decodeSlot(bytes.subarray(at, at + SLOT_BYTES))).filter(Boolean);
  return maps.sort((a, b) => b.sequence - a.sequence)[0] ?? null;
}

/** The URL without what changes or is secret: credentials, and the query, which is a signature that expires. */
async function keyOf(url) {
  const { origin, pathname, search } = new URL(url);
  const known = origin + pathname + (pathname.toLowerCase().endsWith(".gguf") ? "" : search);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(known)));
  return Array.from(digest.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Throws where there is no such disk: in a private window, or over plain http. */
async function openFolder() {
  if (!navigator.storage?.getDirectory) throw new Error("this page has no disk of its own (that needs https)");
  const root = await navigator.storage.getDirectory();
  return root.getDirectoryHandle(FOLDER, { create: true });
}

async function fileOf(folder, name, create = false) {
  try {
    return await folder.getFileHandle(name, { create });
  } catch (error) {
    if (error.name === "NotFoundError") return null;
    throw error;
  }
}

/** What lies under a key: the map, once it was made sure that the data is there; null if nothing does. Locks nothing. */
async function look(folder, key) {
  const [data, map] = await Promise.all([fileOf(folder, `${key}.gguf`), fileOf(folder, `${key}.map`)]);
  if (!data || !map) return null;
  const found = decodeMap(new Uint8Array(await (await map.getFile()).arrayBuffer()));
  if (!found) return null;
  const present = new Intervals(found.present);
  const end = Math.max(0, ...found.present.map((range) => range[1]));
  if ((await data.getFile()).size < end || end > found.size) return null;
  return { ...found, present, whole: present.runEnd(0) === found.size && found.size > 0 };
}

/**
 * Both files go. Throws NoModificationAllowedError if someone has them open: then both stay. The data is first, as who reads what is
 * whole has no map open; a map alone is not believed.
 */
async function remove(folder, key) {
  for (const name of [`${key}.gguf`, `${key}.map`]) {
    await folder.removeEntry(name).catch((error) => {
      if (error.name !== "NotFoundError") throw error;
    });
  }
}

/** The only reader and writer of a file at a time; many, where the browser knows that they only read. */
async function lock(handle, mode) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await handle.createSyncAccessHandle({ mode });
    } catch (error) {
      if (error.name !== "NoModificationAllowedError" || attempt === LOCK_ATTEMPTS) throw error;
      await sleep(LOCK_SECONDS);
    }
  }
}

/**
 * What of a file lies on this origin's disk: KEY.gguf has the bytes at their places, KEY.map says which are there and of which
 * file. The map never says more than the disk has: it is written after the bytes were flushed.
 */
class Cache {
  constructor(folder, key, data, map, found, writable) {
    this.folder = folder;
    this.key = key;
    this.data = data;
    this.map = map; // null if all is there
    this.found = found; // the map's other fields
    this.present = found.present;
    this.writable = writable;
    this.backlog = []; // {at, chunk}: to be written
    this.backlogBytes = 0;
    this.waiting = []; // for room in it
    this.unsaved = 0;
    this.saver = 0;
    this.buffer = null;
    this.lost = false;
  }

  has(at) {
    return this.present.runEnd(at) > at;
  }

  /** Whether the bytes could be read. If not, none is there any more. */
  read(at, view) {
    try {
      if (this.readAt(at, view) === view.length) {
        counts.disk += view.length;
        return true;
      }
      this.lose(`it was cut short, seen at byte ${at}`);
    } catch (error) {
      this.lose(oneLine(error));
    }
    return false;
  }

  readAt(at, view) {
    if (!this.buffer) {
      try {
        return this.data.read(view, { at });
      } catch (error) {
        if (!(error instanceof TypeError)) throw error;
        this.buffer = new Uint8Array(MIB); // this browser reads into no memory that is shared
      }
    }
    let done = 0;
    while (done < view.length) {
      const part = this.buffer.subarray(0, Math.min(MIB, view.length - done));
      const n = this.data.read(part, { at: at + done });
      view.set(part.subarray(0, n), done);
      done += n;
      if (n < part.length) break;
    }
    return done;
  }

  /** Write these to the disk, soon. They are nobody else's. */
  keep(at, chunks) {
    if (!this.writable || chunks.length === 0) return;
    const idle = this.backlog.length === 0;
    for (const chunk of chunks) {
      this.backlog.push({ at, chunk });
      this.backlogBytes += chunk.length;
      at += chunk.length;
    }
    if (idle) this.writeSoon();
  }

  /** The same of what opening has read, from byte 0 on, as far as it is not there. */
  keepHead(head) {
    for (let at = 0; at < head.length; ) {
      const stop = this.has(at) ? this.present.runEnd(at) : Math.min(head.length, at + MIB, this.present.nextStart(at));
      if (!this.has(at)) this.keep(at, [head.subarray(at, stop)]);
      at = stop;
    }
  }

  /** Wait until the backlog has room: a disk that is slower than the network would pile it up. */
  room() {
    if (this.backlogBytes <= limits.backlogBytes) return undefined;
    return new Promise((resolve) => {
      this.waiting.push(resolve);
    });
  }

  async writeSoon() {
    while (this.backlog.length) {
      await turn();
      this.write(WRITE_MS);
    }
  }

  /** Write what waits, for so long. */
  write(ms) {
    const begun = performance.now();
    let n = 0;
    for (; this.writable && n < this.backlog.length && performance.now() < begun + ms; n++) {
      const { at, chunk } = this.backlog[n];
      this.backlogBytes -= chunk.length;
      if (!this.writeAt(at, chunk)) break;
    }
    const took = performance.now() - begun;
    counts.writeMs += took;
    counts.slowestMs = Math.max(counts.slowestMs, took);
    this.backlog.splice(0, n);
    if (!this.writable) this.backlog.length = this.backlogBytes = 0;
    if (this.backlogBytes <= limits.backlogBytes) for (const resolve of this.waiting.splice(0)) resolve();
  }

  writeAt(at, chunk) {
    try {
      if (this.data.write(chunk, { at }) !== chunk.length) throw new DOMException("not all was written", "QuotaExceededError");
    } catch (error) {
      this.writable = false;
      this.tell("full", error.name === "QuotaExceededError" ? "this origin may keep no more on the disk" : oneLine(error));
      return false;
    }
    counts.kept += chunk.length;
    this.present.add(at, at + chunk.length);
    this.unsaved += chunk.length;
    this.saver ||= setTimeout(() => this.saveSoon(), limits.saveSeconds * 1000);
    if (this.unsaved >= limits.saveBytes) this.saveSoon();
    return true;
  }

  saveSoon() {
    clearTimeout(this.saver);
    this.saver = 0;
    if (!this.unsaved) return;
    try {
      this.save();
    } catch (error) {
      this.writable = false;
      this.tell("full", oneLine(error));
      return;
    }
    if (this.present.runEnd(0) === this.found.size) this.tell("whole", "");
  }

  /** Flush what was written, then say that it is there. */
  save() {
    const begun = performance.now();
    this.unsaved = 0;
    this.data.flush();
    this.found.sequence += 1;
    let { ranges } = this.present;
    if (ranges.length > MAX_RANGES) ranges = [...ranges].sort((a, b) => b[1] - b[0] - a[1] + a[0]).slice(0, MAX_RANGES);
    this.map.write(encodeMap({ ...this.found, present: ranges }), { at: (this.found.sequence & 1) * SLOT_BYTES });
    this.map.flush();
    counts.flushMs += performance.now() - begun;
  }

  lose(why) {
    this.present = new Intervals();
    this.writable = false;
    this.lost = true;
    this.tell("lost", `what was kept cannot be read: ${why}`);
  }

  tell(state, why) {
    postMessage({ type: "cache", state, why, ...soFar() });
  }

  async close() {
    try {
      if (this.writable) this.write(Infinity);
      if (this.unsaved) this.save();
      this.data.close();
      this.map?.close();
      if (this.lost) await remove(this.folder, this.key); // or the next one would believe its map
    } catch {
      // What is not saved is fetched again: nobody is left to tell.
    }
  }
}

/**
 * Open a URL with what lies on the disk. Gives {state, why} and sets `cache`. All there: the server is asked, with little
 * patience, whether it still has that file; without an answer the one on the disk is used. Throws SourceError.
 */
async function openCached(file) {
  let folder;
  let key;
  let found;
  try {
    folder = await openFolder();
    key = await keyOf(file.url);
    found = await look(folder, key);
  } catch (error) {
    await file.open();
    return { state: "none", why: oneLine(error) };
  }
  if (found?.whole) {
    const now = await stillThere(file);
    if (!now || !difference(found, now.identity)) {
      if (now) file.settle({ ...now, head: file.head });
      else [file.identity, file.exposed] = [pick(found), found.exposed];
      try {
        cache = new Cache(folder, key, await lock(await fileOf(folder, `${key}.gguf`), "read-only"), null, found, false);
        return { state: "whole", why: now ? "" : "its server cannot be reached" };
      } catch (error) {
        if (!now) throw new SourceError(`the copy of '${file.name}' cannot be read: ${oneLine(error)}; close other tabs`, true);
      }
    }
  }
  await file.open();
  if (!file.identity.etag && !file.identity.lastModified) {
    return { state: "none", why: "no ETag and no Last-Modified of its server would show a change" };
  }
  try {
    cache = await openForWriting(folder, key, file);
  } catch (error) {
    if (error.name === "NoModificationAllowedError") {
      others = found?.present.bytes ?? 0;
      return { state: "busy", why: "it is in use, perhaps by another tab" };
    }
    await remove(folder, key).catch(() => {}); // of what cannot be used nothing needs to stay; that it does not go is no worse
    return { state: "none", why: oneLine(error) };
  }
  cache.keepHead(file.head);
  return { state: "on", why: "" };
}

const pick = ({ size, etag, lastModified }) => ({ size, etag, lastModified });

/** What the server says of its file; null if it cannot be reached. Throws SourceError if it refuses. */
async function stillThere(file) {
  if (navigator.onLine === false) return null;
  try {
    return await file.find(1, limits.probeAttempts, limits.probeSeconds, limits.probeSeconds);
  } catch (error) {
    if (!error.transient) throw error;
    return null;
  }
}

/** Go on with what is there if it is of this version of the file; else begin anew. */
async function openForWriting(folder, key, file) {
  const data = await lock(await fileOf(folder, `${key}.gguf`, true), "readwrite");
  let map;
  try {
    map = await lock(await fileOf(folder, `${key}.map`, true), "readwrite");
    const bytes = new Uint8Array(map.getSize());
    map.read(bytes, { at: 0 });
    const found = decodeMap(bytes);
    const identity = pick(file.identity);
    const ends = found?.present.map((range) => range[1]) ?? [];
    if (found && !difference(found, identity) && Math.max(0, ...ends) <= data.getSize()) {
      return new Cache(folder, key, data, map, { ...found, present: new Intervals(found.present) }, true);
    }
    map.truncate(0); // first: a map must not speak of what is no longer there
    map.truncate(2 * SLOT_BYTES);
    map.flush();
    data.truncate(0);
    const fields = { format: MAP_FORMAT, sequence: 0, url: file.name, ...identity, exposed: file.exposed };
    return new Cache(folder, key, data, map, { ...fields, present: new Intervals() }, true);
  } catch (error) {
    data.close();
    map?.close();
    throw error;
  }
}

async function sizeOf(folder, name) {
  try {
    return (await (await folder.getFileHandle(name)).getFile()).size;
  } catch (error) {
    if (error.name === "NotFoundError") return null;
    throw error;
  }
}

async function list() {
  const models = [];
  const folder = await openFolder();
  for await (const name of folder.keys()) {
    if (!name.endsWith(".gguf")) continue;
    const key = name.slice(0, -5);
    const found = await look(folder, key).catch(() => null);
    const url = found?.url ?? "";
    const size = found?.size ?? (await sizeOf(folder, name));
    if (size === null) continue; // it was deleted meanwhile, here or in another tab
    models.push({ key, url, name: url.split("/").pop(), size, present: found?.present.bytes ?? 0, whole: found?.whole ?? false });
  }
  return models;
}

// Reads

const reads = new Map();
const queue = { demand: [], ahead: [] };
const running = { all: 0, ahead: 0 };

/** What one slot works on: at most PART_BYTES of a read, which go to `view`. */
class Part {
  constructor(read, offset, view) {
    this.read = read;
    this.offset = offset;
    this.view = view;
    this.started = false;
    this.request = null;
    this.wake = null;
  }

  get over() {
    return this.read.over;
  }

  get demand() {
    return this.read.demand;
  }

  /** Ends early if the read is over. */
  sleep(seconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  stop() {
    this.request?.stop("cancelled");
    this.wake?.();
  }

  /** Bytes of the file from `at` on, to their place. */
  put(at, bytes) {
    this.view.set(bytes, at - this.offset);
  }

  async run() {
    const { head } = source;
    const end = this.offset + this.view.length;
    let at = this.offset;
    while (at < end && !this.over) {
      if (at < head.length) {
        const stop = Math.min(end, head.length);
        this.put(at, head.subarray(at, stop));
        at = stop;
      } else if (cache?.has(at)) {
        await turn(); // a read from the disk blocks: who wants to cancel, or is in a hurry, is heard before
        const stop = Math.min(end, cache.present.runEnd(at));
        if (!this.over && cache.read(at, this.view.subarray(at - this.offset, stop - this.offset))) at = stop;
      } else {
        const stop = cache ? Math.min(end, cache.present.nextStart(at)) : end;
        await source.readInto(this, at, stop);
        at = stop;
      }
    }
  }
}

function begin(message) {
  const { id, offset, n, demand, address } = message;
  const read = { id, demand, over: false, parts: [], left: 0, buffer: message.buffer ? null : new ArrayBuffer(n) };
  reads.set(id, read);
  counts.reads += 1;
  const [buffer, base] = message.buffer ? [message.buffer, address] : [read.buffer, 0];
  for (let at = 0; at < n; at += PART_BYTES) {
    const view = new Uint8Array(buffer, base + at, Math.min(PART_BYTES, n - at));
    read.parts.push(new Part(read, offset + at, view));
  }
  read.left = read.parts.length;
  if (!read.left) return end(read);
  queue[demand ? "demand" : "ahead"].push(...read.parts);
  return pump();
}

/** The one end of a read. Whoever still works for it sees `over` before it would write. */
function end(read, error = null) {
  if (read.over) return;
  read.over = true;
  reads.delete(read.id);
  for (const part of read.parts) part.stop();
  const buffer = error ? null : read.buffer;
  postMessage({ type: "end", id: read.id, buffer, error: error && sendable(error), ...soFar() }, buffer ? [buffer] : []);
}

function next() {
  for (const [parts, free] of [
    [queue.demand, running.all < AT_ONCE],
    [queue.ahead, running.all < AT_ONCE && running.ahead < AHEAD_AT_ONCE],
  ]) {
    while (free && parts.length) {
      const part = parts.shift();
      if (!part.over && !part.started) return part; // a hurried one is in both
    }
  }
  return null;
}

function pump() {
  for (let part = next(); part; part = next()) {
    part.started = true;
    const ahead = part.demand ? 0 : 1;
    running.all += 1;
    running.ahead += ahead;
    part
      .run()
      .then(() => {
        part.read.left -= 1;
        if (part.read.left === 0) end(part.read);
      })
      .catch((error) => end(part.read, error))
      .finally(() => {
        running.all -= 1;
        running.ahead -= ahead;
        pump();
      });
  }
}

function hurry(read) {
  if (read.demand) return;
  read.demand = true;
  queue.demand.push(...read.parts.filter((part) => !part.started));
  pump();
}

// Messages

async function open(message) {
  limits = { ...LIMITS, ...message.limits };
  try {
    const opening = message.file ? new LocalFile(message.file, message.name) : new WebFile(checkedUrl(message.url));
    let state = { state: "off", why: "" };
    if (message.cache) state = await openCached(opening);
    else await opening.open();
    source = opening;
    const { name, identity, ranges, exposed } = source;
    postMessage({ type: "opened", name, ...identity, ranges, exposed, cache: state, ...soFar() });
  } catch (error) {
    postMessage({ type: "error", error: sendable(error) });
  }
}

function checkedUrl(text) {
  const url = URL.parse ? URL.parse(text) : new URL(text);
  if (!url || !["http:", "https:"].includes(url.protocol)) {
    throw new SourceError(`'${nameOf(text)}' names no file on a web server; a URL is like https://example.org/model.gguf`);
  }
  if (url.username || url.password) {
    throw new SourceError(`'${nameOf(text)}' has a user and password, which a page cannot send; download the file and choose it here`);
  }
  url.hash = "";
  return url.href;
}

async function close() {
  for (const read of [...reads.values()]) end(read, new SourceError(`'${source?.name}' was closed; open it again`));
  await cache?.close();
  postMessage({ type: "closed" });
  self.close();
}

async function reply(type, work) {
  try {
    postMessage({ type, error: null, ...(await work()) });
  } catch (error) {
    const inUse = error.name === "NoModificationAllowedError";
    const message = inUse ? "the model is in use; close it first, also in other tabs" : oneLine(error);
    postMessage({ type, error: sendable(new SourceError(message, inUse)) });
  }
}

const handlers = {
  open,
  close,
  read: begin,
  hurry: ({ id }) => reads.has(id) && hurry(reads.get(id)),
  cancel: ({ id }) => {
    if (!reads.has(id)) return; // it has ended, and said so
    const error = new SourceError("the read was cancelled", true);
    error.kind = "Cancelled";
    end(reads.get(id), error);
  },
  list: () => reply("list", async () => ({ models: await list() })),
  remove: ({ key }) => reply("removed", async () => remove(await openFolder(), key)),
  ping: () => postMessage({ type: "pong" }),
  stats: () => postMessage({ type: "stats", ...counts, inFlight: running.all, waiting: reads.size }),
};

self.onmessage = ({ data }) => handlers[data.type](data);

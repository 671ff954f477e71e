// prefetch-worker.js: reads ranges of one file, from the web, from a File or Blob, and from this origin's own disk (OPFS).
//
// Runs without Python as a module worker of its own, so that bytes go on arriving while the engine computes.
//
// To it:
//   {type: "open", url, cache, limits}     first, and once. cache: whether to keep what is read (OPFS); limits: see LIMITS
//   {type: "open", file, name, limits}     ... or a File or Blob
//   {type: "memory", key, memory}          a shared WebAssembly.Memory, which later reads name by its key
//   {type: "read", id, offset, n, demand, key, address}    bytes offset to offset + n go to address; key null: they come back
//   {type: "hurry", id}                    somebody waits for this read now
//   {type: "cancel", id}                   nobody does any more
//   {type: "ping"}, {type: "stats"}, {type: "close"}
// From it:
//   {type: "opened", name, size, etag, lastModified, exposed, cache}    exposed: whether each part's place in the file can be
//                                          checked (else only its length); cache: {state, why}, see Cache
//   {type: "error", error}                 instead of "opened". error: {kind, message, transient}
//   {type: "end", id, buffer, error}       exactly one for each read; nothing writes for it any more. buffer: where it had no
//                                          key; error: if it failed, of kind "Cancelled" if it was cancelled
//   {type: "cache", state, why}            has changed
//   {type: "pong"}, {type: "stats", ...}, {type: "closed"}

const MIB = 1 << 20;
const HEAD_BYTES = 256 << 10; // of the first request: the file's header is read from it
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
};
const RENEW_AFTER = 2; // failures in a row after which the file is looked up anew where it was redirected
const EXPIRED = new Set([401, 403, 404, 410]); // what object stores answer when a signed URL's time is over
const BUSY = new Set([408, 425, 429]); // and 500 to 599

let limits = LIMITS;
let source = null; // a WebFile or a LocalFile
let closed = false;
const memories = new Map();
const counts = { network: 0, file: 0, cache: 0, requests: 0, retries: 0, reads: 0 };

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
function checkPart(answer, place, start, end) {
  const { headers, status } = answer;
  const was = place.identity;
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
  if (place.exposed && (range.start !== start || range.end !== end || range.total === null)) {
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
    if (now > request.last + limits.idleSeconds * 1000) request.stop(`no byte came for ${limits.idleSeconds} s`);
    else if (now > request.deadline) request.stop("it took too long");
  }
}

/** One GET or HEAD. `stop(reason)` ends it; whoever waits for it gets a Trouble with that reason. */
class Request {
  constructor(deadline = Infinity) {
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
    watcher ||= setInterval(watch, Math.min(1000, limits.idleSeconds * 250));
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
      throw new Trouble(this.reason || `${oneLine(error)}`);
    } finally {
      this.stop("done");
      asking.delete(this);
      if (asking.size === 0) {
        clearInterval(watcher);
        watcher = 0;
      }
    }
  }

  /** Hand the body on chunk by chunk: take(chunk) before the next is asked for. Throws Trouble unless it has n bytes. */
  async body(answer, n, take) {
    let left = n;
    const reader = answer.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      this.last = performance.now();
      left -= value.length;
      if (left < 0) throw new Trouble(`the answer has more than the ${n} bytes that were asked for`);
      take(value);
    }
    if (left > 0) throw new Trouble(`the answer ended ${left} bytes early`);
  }
}

const rangeHeader = (start, end) => ({ headers: { Range: `bytes=${start}-${end - 1}` } });
const oneLine = (error) => String(error?.message ?? error).replace(/\s+/g, " ").trim();
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

function pause(failed, asked) {
  const longest = Math.min(limits.backoffCap, limits.backoffSeconds * 2 ** Math.min(failed - 1, 30));
  return Math.max(Math.random() * longest, Math.min(asked, limits.retryAfterCap));
}

// Where bytes come from

/** A file behind a URL. `place`: where the redirects led, whose signature may expire, and what identified the file there. */
class WebFile {
  constructor(url) {
    this.url = url;
    this.name = nameOf(url);
    this.place = null;
    this.head = new Uint8Array(0);
    this.renewing = null;
  }

  async open() {
    this.place = await this.find(HEAD_BYTES, limits.openAttempts);
    this.head = this.place.head;
    const { identity, exposed } = this.place;
    return { ...identity, exposed };
  }

  /** `resolve` with patience. Throws SourceError. */
  async find(n, attempts) {
    for (let failed = 1; ; failed++) {
      try {
        return await this.resolve(n);
      } catch (trouble) {
        if (!(trouble instanceof Trouble)) throw trouble;
        if (trouble.then !== "again") throw new SourceError(`cannot open ${this.name}: ${trouble.message}`);
        if (failed >= attempts) {
          throw new SourceError(
            `cannot open ${this.name}: ${failed} attempts failed, at last because ${trouble.message}; check the URL and the ` +
              `connection, and that the server lets this page read it (Access-Control-Allow-Origin)`,
            true,
          );
        }
        counts.retries += 1;
        await sleep(pause(failed, trouble.retryAfter));
      }
    }
  }

  /** Follow the redirects from the URL that the user gave, and read the first n bytes. Throws Trouble. */
  async resolve(n) {
    const deadline = performance.now() + limits.totalSeconds * 1000;
    const request = new Request(deadline);
    const found = await request.run(this.url, rangeHeader(0, n), async (answer) => {
      if (this.url.startsWith("https:") && answer.url.startsWith("http:")) {
        throw new Trouble(`a redirect from https to ${nameOf(answer.url)} was not followed; give the file's own URL`, "never");
      }
      return { url: answer.url || this.url, ...(await readHead(request, answer, n)) };
    });
    if (found.identity.size === null) found.identity.size = await sizeByHead(found.url, deadline);
    return found;
  }

  /** Once for all parts that read from `stale`. */
  async renew(stale) {
    if (this.place !== stale) return;
    this.renewing ??= this.resolve(1)
      .then((place) => {
        checkSame(stale.identity, place.identity);
        this.place = place;
      })
      .finally(() => {
        this.renewing = null;
      });
    await this.renewing;
  }

  /** Bytes `start` to `end`, where `part` wants them. Goes on where an answer broke off. Throws SourceError. */
  async readInto(part, start, end, take) {
    let failed = 0;
    let renewed = false;
    let stale = null;
    let at = start;
    let mark = start; // how far it had come, and when, as it last made progress
    let since = performance.now();
    const deadline = since + (limits.totalSeconds + (end - start) / limits.bytesPerSecond) * 1000;
    while (at < end) {
      const begun = at;
      let place = this.place;
      try {
        if (stale) {
          await this.renew(stale);
          stale = null;
          place = this.place;
        }
        if (part.over) return;
        const request = new Request(deadline);
        part.request = request;
        const init = { ...rangeHeader(at, end), priority: part.demand ? "high" : "low" };
        await request.run(place.url, init, (answer) => {
          checkPart(answer, place, begun, end);
          return request.body(answer, end - begun, (chunk) => {
            if (part.over) return;
            take(at, chunk);
            at += chunk.length;
          });
        });
      } catch (trouble) {
        if (part.over) return;
        if (!(trouble instanceof Trouble)) throw trouble;
        if (trouble.message.includes("has more than")) at = begun; // it is not the range that it says it is
        const now = performance.now();
        if (at - mark >= limits.progressBytes) {
          [mark, since, failed, renewed] = [at, now, 0, false];
        }
        if (trouble.then === "renew" && !renewed) {
          [stale, renewed] = [place, true];
          continue;
        }
        failed += 1;
        const late = now > since + limits.stallSeconds * 1000 || now > deadline;
        if (trouble.then !== "again" || late) throw this.failure(start, end, trouble, failed);
        if (failed >= RENEW_AFTER && place.url !== this.url) stale = place;
        counts.retries += 1;
        await part.sleep(pause(failed, trouble.retryAfter));
        if (part.over) return;
      } finally {
        part.request = null;
        counts.network += at - begun;
      }
    }
  }

  failure(start, end, trouble, failed) {
    const what = `reading bytes ${start} to ${end} of ${this.name}`;
    if (trouble.then === "changed") {
      return new SourceError(`${this.name} changed while it was in use, seen at byte ${start}: ${trouble.message}; open it again`);
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

  close() {}
}

/** Which file it is, and its first n bytes. Throws Trouble. A size of null is yet to be asked for. */
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
    return { identity: { ...identity, size: 0 }, exposed: true, head: new Uint8Array(0) };
  }
  if (status === 200) {
    throw new Trouble(
      "the server does not do ranges: it answered with the whole file; download the file and choose it here, or serve it with " +
        "`wasmrt serve`",
      "never",
    );
  }
  if (status !== 206) throw new Trouble(`it answered with status ${status}; check the URL`, "never");
  checkEncoding(headers);
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
  const head = new Uint8Array(wanted);
  let at = 0;
  await request.body(answer, wanted, (chunk) => {
    head.set(chunk, at);
    at += chunk.length;
  });
  return { identity, exposed: exposed && total !== null, head };
}

/**
 * Where Content-Range cannot be read: the length that HEAD says, which may be that of compressed bytes. So it is tried: of the
 * last byte and the one after it, exactly one must be there. Throws Trouble.
 */
async function sizeByHead(url, deadline) {
  const size = await new Request(deadline).run(url, { method: "HEAD" }, (answer) => {
    checkBusy(answer);
    return answer.ok ? contentLength(answer.headers) : null;
  });
  const right =
    size &&
    (await new Request(deadline).run(url, rangeHeader(size - 1, size + 1), async (answer) => {
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
    this.head = new Uint8Array(0);
  }

  async open() {
    return { size: this.file.size, etag: null, lastModified: null, exposed: true };
  }

  async readInto(part, start, end, take) {
    let bytes;
    try {
      bytes = new Uint8Array(await this.file.slice(start, end).arrayBuffer());
    } catch (error) {
      throw new SourceError(`cannot read ${this.name}: ${oneLine(error)} (${error.name}); it may have changed; choose it again`);
    }
    if (bytes.length !== end - start) {
      throw new SourceError(`${this.name} had ${this.file.size} bytes when it was chosen and has fewer now; choose it again`);
    }
    if (part.over) return;
    counts.file += bytes.length;
    take(start, bytes);
  }

  close() {}
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

  async run() {
    const end = this.offset + this.view.length;
    const { head } = source;
    let at = this.offset;
    if (at < head.length) {
      const stop = Math.min(end, head.length);
      this.view.set(head.subarray(at, stop));
      at = stop;
    }
    if (at < end) {
      await source.readInto(this, at, end, (position, chunk) => this.view.set(chunk, position - this.offset));
    }
  }
}

function begin(message) {
  const { id, offset, n, demand, key, address } = message;
  const read = { id, demand, over: false, parts: [], left: 0, buffer: null };
  reads.set(id, read);
  counts.reads += 1;
  if (!source || closed) return end(read, new SourceError("the file is closed; open it again to read from it"));
  const memory = memories.get(key);
  if (key !== null && !memory) return end(read, new SourceError("the memory to read into is unknown to the prefetch worker"));
  if (!memory) read.buffer = new ArrayBuffer(n);
  // The memory may have grown since it was posted: its buffer is looked up for each read.
  const [buffer, base] = memory ? [memory.buffer, address] : [read.buffer, 0];
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
  postMessage({ type: "end", id: read.id, buffer, error: error && sendable(error) }, buffer ? [buffer] : []);
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
    const facts = await opening.open();
    source = opening;
    postMessage({ type: "opened", name: opening.name, ...facts, cache: { state: "off", why: "" } });
  } catch (error) {
    postMessage({ type: "error", error: sendable(error) });
  }
}

function checkedUrl(text) {
  const url = URL.parse ? URL.parse(text) : new URL(text);
  if (!url || !["http:", "https:"].includes(url.protocol)) {
    throw new SourceError(`${nameOf(text)} names no file on a web server; a URL is like https://example.org/model.gguf`);
  }
  if (url.username || url.password) {
    throw new SourceError(`${nameOf(text)} has a user and password, which a page cannot send; download the file and choose it here`);
  }
  url.hash = "";
  return url.href;
}

function close() {
  closed = true;
  for (const read of [...reads.values()]) end(read, new SourceError(`${source?.name ?? "the file"} was closed; open it again`));
  source?.close();
  memories.clear();
  postMessage({ type: "closed" });
  self.close();
}

const handlers = {
  open,
  close,
  read: begin,
  memory: ({ key, memory }) => memories.set(key, memory),
  hurry: ({ id }) => reads.has(id) && hurry(reads.get(id)),
  cancel: ({ id }) => {
    if (!reads.has(id)) return; // it has ended, and said so
    const error = new SourceError("the read was cancelled", true);
    error.kind = "Cancelled";
    end(reads.get(id), error);
  },
  ping: () => postMessage({ type: "pong" }),
  stats: () => postMessage({ type: "stats", ...counts, inFlight: running.all, waiting: reads.size }),
};

self.onmessage = ({ data }) => handlers[data.type](data);

/**
 * The kernels of the CPU device on a page's memory: on threads of their own where it is shared, else on this one.
 *
 * No thread that has events to handle ever waits in WebAssembly: thread 0, which runs a program, is a worker too. Only calls that
 * take a moment (choosing candidates) are made here.
 */

const STOP_MS = 1000; // a thread that has not left by then is ended
// A browser may end a worker without a word. Threads take work in pieces of milliseconds, so when nothing was taken at so many
// looks in a row one of them is gone, and the others wait for it.
const LOOK_MS = 2000;
const LOOKS = 5;
// Words of the team that move while threads work (kernels.h): phase, next, and of each thread a cursor.
const PHASE_AT = 192;
const NEXT_AT = 256;
const CURSORS_AT = 392; // where their address is
const CURSOR_BYTES = 64;

/** @param {string} message @returns {Error & {kind: string}} */
function failure(message) {
  return Object.assign(new Error(message), { kind: "DeviceError" });
}

export class CpuHost {
  /**
   * @param {Uint8Array} bytes the module
   * @param {import("./memory.js").Memory} memory
   * @param {number} nThreads
   * @param {string} workerUrl of cpu-worker.js
   */
  constructor(bytes, memory, nThreads, workerUrl) {
    this.wide = memory.build === "wasm64";
    this.memory = memory.memory;
    this.shared = memory.shared;
    this.nThreads = nThreads;
    this.workerUrl = workerUrl;
    this.workers = [];
    this.seconds = 0;
    this.failed = "";
    this.pending = null; // the run under way
    this.timer = null;
    try {
      this.module = new WebAssembly.Module(bytes);
      this.instance = new WebAssembly.Instance(this.module, { env: { memory: this.memory } });
    } catch (error) {
      throw failure(`the ${memory.build} kernels do not start in this browser (${error.message})`);
    }
    if (Number(this.instance.exports.__heap_base.value) > memory.start) {
      throw failure("the kernels and this version of wasmrt do not fit together; install wasmrt again");
    }
  }

  /**
   * Set the threads going. Their failures reach whoever runs.
   * @param {number} team address of the team
   * @param {number[]} stacks where each thread's stack ends
   */
  start(team, stacks) {
    this.team = team;
    this.instance.exports.__stack_pointer.value = this.address(stacks[0]);
    if (!this.shared) return;
    this.workers = stacks.map((stack, thread) => {
      const worker = new Worker(this.workerUrl, { type: "module", name: `wasmrt-cpu-${thread}` });
      worker.onmessage = ({ data }) => this.heard(data);
      worker.onerror = (event) => this.fail(event.message || "its script does not load");
      worker.postMessage({ module: this.module, memory: this.memory, wide: this.wide, stack, team, thread });
      return worker;
    });
  }

  address(number) {
    return this.wide ? BigInt(number) : number;
  }

  heard(data) {
    if (data.failed !== undefined) {
      this.fail(data.failed);
    } else if (data.status !== undefined) {
      this.seconds += data.seconds;
      const run = this.pending; // none: it has failed, and thread 0 was still in it
      this.pending = null;
      run?.resolve(data.status);
    }
  }

  /** Call an exported function on this thread, between runs. @returns {number} */
  call(name, args) {
    this.check();
    const started = performance.now();
    const [first, ...rest] = args; // an address
    const result = this.instance.exports[name](this.address(first), ...rest);
    this.seconds += (performance.now() - started) / 1000;
    return result;
  }

  /** Run what the team describes. @returns {Promise<number>} its status */
  async run() {
    this.check();
    if (this.shared) {
      return new Promise((resolve, reject) => {
        this.pending = { resolve, reject, looks: 0, seen: "" };
        this.workers[0].postMessage("run");
        this.timer ??= setInterval(() => this.look(), LOOK_MS);
      });
    }
    await macrotask(); // so that a message that says stop is heard
    this.check();
    const started = performance.now();
    try {
      return this.instance.exports.run(this.team);
    } catch (error) {
      this.fail(error.message);
      throw failure(this.failed);
    } finally {
      this.seconds += (performance.now() - started) / 1000;
    }
  }

  /** Whether threads work; without a run there is nothing to see. */
  look() {
    if (!this.pending) {
      clearInterval(this.timer);
      this.timer = null;
      return;
    }
    const { buffer } = this.memory;
    const cursors = Number(new BigUint64Array(buffer, this.team + CURSORS_AT, 1)[0]);
    const places = [this.team + PHASE_AT, this.team + NEXT_AT];
    for (let thread = 0; thread < this.nThreads; thread++) places.push(cursors + thread * CURSOR_BYTES);
    const seen = places.map((place) => Atomics.load(new Uint32Array(buffer, place, 1), 0)).join();
    this.pending.looks = seen === this.pending.seen ? this.pending.looks + 1 : 0;
    this.pending.seen = seen;
    if (this.pending.looks >= LOOKS) this.fail("a thread has ended, or the machine stands still");
  }

  check() {
    if (this.failed) throw failure(this.failed);
  }

  fail(why) {
    this.stop(`a kernel failed (${why}); open the model again`);
  }

  /** End all threads; a run ends with an error. Idempotent. */
  abort() {
    this.stop("the device was closed; open the model again");
  }

  stop(why) {
    if (!this.failed) this.failed = why;
    clearInterval(this.timer);
    const running = Boolean(this.pending);
    if (running) {
      this.pending.reject(failure(this.failed));
      this.pending = null;
    }
    const { workers, instance } = this;
    // Whoever still holds this would hold the memory. Threads that are in the kernels for a moment more have their own.
    this.memory = this.module = this.instance = null;
    if (!workers.length) return;
    this.workers = [];
    // A thread inside the kernels sees this and leaves; ending it at once might leave another that waits for it. Between two runs
    // thread 0 waits for a message, and the page may end this thread, with its timers, before long.
    instance.exports.abort_team(this.address(this.team));
    if (!running) workers[0].terminate();
    setTimeout(() => workers.forEach((worker) => worker.terminate()), STOP_MS);
  }
}

const { port1, port2 } = new MessageChannel();
const waiting = [];
port1.onmessage = () => waiting.shift()();

/** Until events that have come so far are handled. A timer would take 4 ms. */
export function macrotask() {
  return new Promise((resolve) => {
    waiting.push(resolve);
    port2.postMessage(0);
  });
}

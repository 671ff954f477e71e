/**
 * WebGPU for Python: buffers, pipelines and bind groups by number, and a token's dispatches replayed in one call.
 *
 * A device is asked for when an adapter is found, so that everything after that is synchronous. All hosts of a page share the
 * device of an adapter with its pipelines; each has buffers and bind groups of its own.
 */

const POWERS = ["high-performance", "low-power"]; // the first is the default, also where it is the same adapter
const FEATURES = { subgroups: "subgroups", f16: "shader-f16", timestamps: "timestamp-query" };
// What is asked of a device beyond the defaults: all that the adapter has.
const LIMITS = [
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxStorageBuffersPerShaderStage",
];
const LINGER_MS = 300_000; // that a device without a host is kept for the next: to find adapters and to make hosts takes time
const POLL_MS = 4; // Firefox sees that work is done when something is submitted; left alone, after 100 ms
const STEP = 5; // numbers of a dispatch: pipeline, group, workgroups x, y, z
const COPY = 5; // of a copy: source, offset, target, offset, bytes

const USAGE = {
  storage: 0x80 | 0x8 | 0x4, // STORAGE | COPY_DST | COPY_SRC
  state: 0x40 | 0x80 | 0x8 | 0x4, // UNIFORM and these
  read: 0x1 | 0x8, // MAP_READ | COPY_DST
};
const BINDING = { uniform: "uniform", read: "read-only-storage", write: "storage" };
const COMPUTE = 0x4; // a shader stage

/** @type {Map<string, Shared>} by power preference */
const found = new Map();
let finding = null;

/** @param {string} message @returns {Error & {kind: string}} */
function failure(message) {
  return Object.assign(new Error(message.replace(/\s+/g, " ").slice(0, 700)), { kind: "DeviceError" });
}

/**
 * What computes in this browser, best first, each with a device that hosts can be made on. Asked again, it gives the same, but
 * for devices that are gone.
 * @returns {Promise<{adapters: object[], why: string}>} why: if there are none
 */
export function find() {
  finding ??= search().finally(() => (finding = null));
  return finding;
}

async function search() {
  if (!navigator.gpu) {
    const why = self.isSecureContext ? "this browser has no WebGPU" : "a browser has WebGPU only on pages of https or localhost";
    return { adapters: [], why: `${why} (navigator.gpu is missing)` };
  }
  let why = "this browser finds no GPU, or does not use the one that is there (chrome://gpu or about:support tells why)";
  for (const power of POWERS) {
    const known = found.get(power);
    if (known && !known.lost) {
      known.keep();
      continue;
    }
    found.delete(power);
    try {
      const adapter = await navigator.gpu.requestAdapter({ powerPreference: power });
      if (!adapter) continue;
      const facts = describe(adapter, power);
      if (![...found.values()].some((other) => same(other.facts, facts))) found.set(power, await open(adapter, facts));
    } catch (error) {
      why = `the browser's GPU gives no device (${error.message})`;
    }
  }
  const adapters = POWERS.filter((power) => found.has(power)).map((power) => found.get(power).facts);
  return { adapters, why: adapters.length ? "" : why };
}

/** As gpu_host.Adapter has it. A browser may keep any of these names to itself. */
function describe(adapter, power) {
  const { vendor, architecture, device, description } = adapter.info;
  const l = adapter.limits;
  const software = adapter.info.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false;
  const name = description || [vendor, device || architecture].filter(Boolean).join(" ") || (software ? "software" : "GPU");
  return {
    key: power,
    name,
    vendor,
    driver: [architecture, device].filter(Boolean).join(" "),
    software: software || /swiftshader|llvmpipe|lavapipe|basic render/i.test(`${architecture} ${device} ${description}`),
    features: Object.keys(FEATURES).filter((ours) => adapter.features.has(FEATURES[ours])),
    limits: {
      binding: l.maxStorageBufferBindingSize,
      buffer: l.maxBufferSize,
      workgroup_bytes: l.maxComputeWorkgroupStorageSize,
      invocations: Math.min(l.maxComputeInvocationsPerWorkgroup, l.maxComputeWorkgroupSizeX),
      buffers: l.maxStorageBuffersPerShaderStage,
      workgroups: 65535, // and
      alignment: 256, // are what a device has that asks for no others
    },
  };
}

function same(a, b) {
  return JSON.stringify({ ...a, key: "" }) === JSON.stringify({ ...b, key: "" });
}

async function open(adapter, facts) {
  const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
  const requiredFeatures = facts.features.map((ours) => FEATURES[ours]);
  return new Shared(await adapter.requestDevice({ requiredFeatures, requiredLimits }), facts);
}

/** A device, and what all hosts on it share. */
class Shared {
  constructor(device, facts) {
    this.device = device;
    this.facts = facts;
    this.lost = ""; // why, once it is
    this.hosts = new Set();
    this.layouts = new Map();
    this.pipelines = new Map();
    this.timer = 0;
    device.lost.then((info) => this.lose(`the browser took the GPU away (${info.message || info.reason || "no reason given"})`));
    device.addEventListener("uncapturederror", ({ error }) => {
      for (const host of this.hosts) host.errors.push(`the GPU refuses what it was given: ${error.message}`);
    });
    this.keep();
  }

  lose(why) {
    if (this.lost) return;
    this.lost = why;
    clearTimeout(this.timer);
    if (found.get(this.facts.key) === this) found.delete(this.facts.key);
    for (const host of this.hosts) host.end(why);
    this.pipelines.clear();
    this.layouts.clear();
  }

  /** For a while, or until the last host has gone for as long. */
  keep() {
    clearTimeout(this.timer);
    this.timer = this.hosts.size || this.lost ? 0 : setTimeout(() => this.destroy(), LINGER_MS);
  }

  destroy() {
    this.lose("the device was closed");
    this.device.destroy();
  }
}

/** Let go of devices that no host is on. */
export function release() {
  for (const shared of [...found.values()]) if (!shared.hosts.size) shared.destroy();
}

/** @returns {{devices: number, hosts: number, buffers: number, bytes: number}} what there is now */
export function counts() {
  const hosts = [...found.values()].flatMap((shared) => [...shared.hosts]);
  const buffers = hosts.flatMap((host) => host.buffers.items.filter(Boolean));
  const bytes = buffers.reduce((sum, buffer) => sum + buffer.size, 0);
  return { devices: found.size, hosts: hosts.length, buffers: buffers.length, bytes };
}

/** Objects by number; numbers of those that went are given again. */
class Slots {
  constructor() {
    this.items = [];
    this.spare = [];
  }

  add(item) {
    const id = this.spare.length ? this.spare.pop() : this.items.length;
    this.items[id] = item;
    return id;
  }

  take(id) {
    const item = this.items[id];
    this.items[id] = undefined;
    this.spare.push(id);
    return item;
  }
}

/**
 * What one model makes on a device. Whatever goes wrong is a DeviceError: at once where WebGPU says so at once, else from the
 * next done() or fetch(), for write() perhaps from the one after that. Once the device is gone, all calls and waits fail.
 */
export class GpuHost {
  /** @param {string} key of an adapter that was found */
  constructor(key) {
    const shared = found.get(key);
    if (!shared) throw failure("the GPU's device is gone; open the model again");
    this.shared = shared;
    this.device = shared.device;
    this.queue = shared.device.queue;
    this.buffers = new Slots();
    this.pipelines = new Slots();
    this.groups = new Slots();
    this.errors = [];
    this.scopes = new Set(); // whose outcome is not known yet
    this.waiting = new Set(); // reject functions
    this.ended = "";
    shared.hosts.add(this);
    shared.keep();
  }

  /** A zeroed buffer. @param {number} size bytes, in fours @param {"storage" | "state" | "read"} use */
  buffer(size, use) {
    const make = () => this.device.createBuffer({ size, usage: USAGE[use] });
    return this.buffers.add(this.scoped(["validation", "out-of-memory"], `the GPU has no room for ${size} bytes more`, make));
  }

  free(id) {
    this.buffers.take(id)?.destroy();
  }

  /**
   * The compute shader `main` of a WGSL text. The same one is compiled once for all hosts.
   * @param {string} name @param {string} code
   * @param {string} bindings as JSON: [index, "uniform" | "read" | "write"] of each
   * @param {string} constants as JSON: the overrides
   */
  pipeline(name, code, bindings, constants) {
    const { pipelines } = this.shared;
    const key = `${constants}\n${code}`;
    if (!pipelines.has(key)) {
      const what = `the shader ${name} does not compile on this GPU`;
      const made = this.scoped(["validation", "internal"], what, () => this.compile(name, code, bindings, constants), () =>
        pipelines.delete(key),
      );
      pipelines.set(key, made);
    }
    return this.pipelines.add(pipelines.get(key));
  }

  compile(name, code, bindings, constants) {
    const module = this.device.createShaderModule({ label: name, code });
    const layout = this.device.createPipelineLayout({ bindGroupLayouts: [this.layout(bindings)] });
    const compute = { module, entryPoint: "main", constants: JSON.parse(constants) };
    return this.device.createComputePipeline({ label: name, layout, compute });
  }

  layout(bindings) {
    const { layouts } = this.shared;
    if (!layouts.has(bindings)) {
      const entries = JSON.parse(bindings).map(([binding, kind]) => ({
        binding,
        visibility: COMPUTE,
        buffer: { type: BINDING[kind] },
      }));
      layouts.set(bindings, this.device.createBindGroupLayout({ entries }));
    }
    return layouts.get(bindings);
  }

  /**
   * A bind group.
   * @param {string} bindings as pipeline() takes them
   * @param {Float64Array} ranges for each binding buffer, offset, bytes
   */
  group(bindings, ranges) {
    const entries = JSON.parse(bindings).map(([binding], i) => {
      const [id, offset, size] = ranges.subarray(3 * i);
      return { binding, resource: { buffer: this.buffers.items[id], offset, size } };
    });
    const make = () => this.device.createBindGroup({ layout: this.layout(bindings), entries });
    return this.groups.add(this.scoped(["validation"], "the GPU takes no such bindings", make));
  }

  /**
   * Copy bytes into a buffer before what is replayed later; offset and length in fours. There is no error scope around it, which
   * would take longer than the copy.
   * @param {Uint8Array} bytes
   */
  write(id, offset, bytes) {
    this.check();
    try {
      this.queue.writeBuffer(this.buffers.items[id], offset, bytes);
    } catch (error) {
      throw failure(`the GPU takes no bytes: ${error.message}`);
    }
  }

  /** The same from a memory of the store (memory.js). */
  writeFrom(id, offset, memory, address, nBytes) {
    this.write(id, offset, memory.window(address, nBytes));
  }

  /**
   * Run dispatches one after another in one pass, then copies, in one submit.
   * @param {Uint32Array} steps of each dispatch pipeline, group, workgroups x, y, z
   * @param {Float64Array} copies of each source, offset, target, offset, bytes
   * @param {Uint32Array} dropped groups that nobody wants any more
   */
  replay(steps, copies, dropped) {
    this.scoped(["validation"], "the GPU does not compute", () => {
      const encoder = this.device.createCommandEncoder();
      if (steps.length) this.encode(encoder, steps);
      for (let i = 0; i < copies.length; i += COPY) {
        const [source, at, target, to, nBytes] = copies.subarray(i);
        encoder.copyBufferToBuffer(this.buffers.items[source], at, this.buffers.items[target], to, nBytes);
      }
      this.queue.submit([encoder.finish()]);
    });
    for (const id of dropped) this.groups.take(id);
  }

  encode(encoder, steps) {
    const pipelines = this.pipelines.items;
    const groups = this.groups.items;
    const pass = encoder.beginComputePass();
    let last = -1;
    for (let i = 0; i < steps.length; i += STEP) {
      if (steps[i] !== last) pass.setPipeline(pipelines[(last = steps[i])]);
      pass.setBindGroup(0, groups[steps[i + 1]]);
      pass.dispatchWorkgroups(steps[i + 2], steps[i + 3], steps[i + 4]);
    }
    pass.end();
  }

  /**
   * The first bytes of a buffer made for "read", once what was replayed has run; then it may be copied to again.
   * @returns {Promise<Uint8Array>}
   */
  async fetch(id, nBytes) {
    const buffer = this.buffers.items[id];
    const size = 4 * Math.ceil(nBytes / 4);
    await this.wait(() => buffer.mapAsync(1, 0, size), "nothing can be read from the GPU");
    const data = new Uint8Array(buffer.getMappedRange(0, size)).slice(0, nBytes);
    buffer.unmap();
    this.raise();
    return data;
  }

  /** Until what was replayed has run. */
  async done() {
    await this.wait(() => this.queue.onSubmittedWorkDone(), "the GPU does not compute");
    this.raise();
  }

  /** Wait for what `begin` begins, and for what is not known yet about what was made before. */
  wait(begin, what) {
    return new Promise((resolve, reject) => {
      this.check();
      const leave = (settle, value) => {
        clearInterval(timer);
        this.waiting.delete(end);
        settle(value);
      };
      const end = (error) => leave(reject, error);
      this.waiting.add(end);
      const timer = setInterval(() => this.ended || this.queue.submit([]), POLL_MS);
      begin()
        .then(() => Promise.all(this.scopes))
        .then(
          () => leave(resolve),
          (error) => end(failure(`${what}: ${error.message}`)),
        );
    });
  }

  /** Make something between error scopes, whose outcome is known later; then undo is called if it is bad. */
  scoped(filters, what, make, undo = () => {}) {
    this.check();
    for (const filter of filters) this.device.pushErrorScope(filter);
    try {
      return make();
    } catch (error) {
      undo();
      throw failure(`${what}: ${error.message}`);
    } finally {
      for (const _ of filters) this.follow(this.device.popErrorScope(), what, undo);
    }
  }

  follow(popped, what, undo) {
    const scope = popped
      .then(
        (error) => {
          if (!error) return;
          this.errors.push(`${what}: ${error.message}`);
          undo();
        },
        () => {}, // the device is gone, which is told elsewhere
      )
      .finally(() => this.scopes.delete(scope));
    this.scopes.add(scope);
  }

  check() {
    if (this.ended) throw failure(this.ended);
  }

  /** What went wrong so far, once. */
  raise() {
    this.check();
    const [first] = this.errors.splice(0);
    if (first) throw failure(first);
  }

  /** Nothing works from now on. */
  end(why) {
    if (this.ended) return;
    this.ended = why;
    for (const reject of [...this.waiting]) reject(failure(why));
    for (const buffer of this.buffers.items) buffer?.destroy();
    this.buffers = new Slots();
    this.pipelines = new Slots();
    this.groups = new Slots();
    this.shared.hosts.delete(this);
    this.shared.keep();
  }

  /** Idempotent. Buffers are gone afterwards. */
  close() {
    this.end("the device was closed");
  }
}

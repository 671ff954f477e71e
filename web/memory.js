/**
 * A WebAssembly memory for weights, caches and activations, outside Python's own heap.
 *
 * Where the page is cross-origin isolated it is shared with workers, and has 64-bit addresses if it needs them. Elsewhere it
 * is an unshared 32-bit memory of one thread. Addresses are JavaScript numbers, which are exact up to 2**53.
 */

const PAGE = 65536;
const FIRST_PAGES = 2; // the kernels' own data and stack: frames begin after them

// A module with one function: i8x16.relaxed_swizzle of two constants.
const RELAXED = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11];

/**
 * What memories this page can have. shared: with workers, which needs cross-origin isolation, and relaxed SIMD, since the kernels
 * for shared memory use it. wide: with 64-bit addresses.
 * @returns {{shared: boolean, wide: boolean}}
 */
export function abilities() {
  const shared = self.crossOriginIsolated === true && typeof SharedArrayBuffer === "function";
  return { shared: shared && WebAssembly.validate(new Uint8Array(RELAXED)), wide: hasMemory64() };
}

function hasMemory64() {
  try {
    return new WebAssembly.Memory({ address: "i64", initial: 0n, maximum: 0n }).buffer.byteLength === 0;
  } catch {
    return false;
  }
}

export class Memory {
  /**
   * @param {"wasm64" | "wasm32" | "plain"} build the kernels that are to run on it; plain: unshared
   * @param {number} capacity bytes beside the kernels' own
   */
  constructor(build, capacity) {
    const pages = FIRST_PAGES + Math.ceil(capacity / PAGE);
    this.build = build;
    this.shared = build !== "plain";
    this.start = FIRST_PAGES * PAGE;
    try {
      this.memory = new WebAssembly.Memory(
        build === "wasm64"
          ? { address: "i64", initial: BigInt(pages), maximum: BigInt(pages), shared: true }
          : { initial: pages, maximum: pages, shared: this.shared },
      );
    } catch (error) {
      throw Object.assign(new Error(`the browser refuses ${capacity} bytes of memory (${error.message})`), { kind: "BudgetError" });
    }
  }

  /**
   * The bytes at an address, without a copy.
   * @param {number} address
   * @param {number} nBytes
   * @returns {Uint8Array}
   */
  window(address, nBytes) {
    return new Uint8Array(this.memory.buffer, address, nBytes);
  }

  /** Write a 64-bit word. @param {number} address @param {number} word */
  setWord(address, word) {
    new BigUint64Array(this.memory.buffer, address, 1)[0] = BigInt(word);
  }

  /** Set one byte that other threads look at. @param {number} address @param {number} byte */
  setByte(address, byte) {
    Atomics.store(this.window(address, 1), 0, byte);
  }

  /** @param {number} source @param {number} target @param {number} nBytes */
  copy(source, target, nBytes) {
    this.window(target, nBytes).set(this.window(source, nBytes));
  }

  /** Let go of the memory: it goes when the last thread has. */
  close() {
    this.memory = null;
  }
}

/**
 * One thread of the CPU device: an instance of the kernels on a shared memory.
 *
 * Messages in: {module, memory, wide, stack, team, thread} once; then, for thread 0, "run".
 * Messages out: {ready: true}; {status, seconds} after each run; {failed: text} when a kernel traps or does not start.
 * Threads above 0 stay inside the kernels' work(), which sleeps between runs, until the team is aborted; then they end.
 */

let run = null;

self.onmessage = ({ data }) => {
  try {
    if (data === "run") {
      run();
    } else {
      start(data);
    }
  } catch (error) {
    self.postMessage({ failed: String(error.message ?? error) });
  }
};

function start({ module, memory, wide, stack, team, thread }) {
  const address = wide ? BigInt : Number;
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  exports.__stack_pointer.value = address(stack);
  self.postMessage({ ready: true });
  if (thread > 0) {
    exports.work(address(team), thread);
    self.close();
    return;
  }
  run = () => {
    const started = performance.now();
    const status = exports.run(address(team));
    self.postMessage({ status, seconds: (performance.now() - started) / 1000 });
  };
}

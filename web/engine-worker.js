// The worker that Python and the engine run in, one for all models of a page. web/wasmrt.js talks to it.
//
// To the worker. `id` numbers a request, `model` is the id of the request that opened it, options have Python's names.
//   {id, do: "open", ref, key, options}          ref: a URL, or a File or Blob; key: the page's name of it
//   {id, do: "examine", ref, key, options}       what would come of opening it: the header is read, and stays known for a while
//   {id, do: "forget"}                           close what was examined
//   {id, do: "generate", model, prompt, options} prompt: text or ids
//   {id, do: "chat", model, messages, options}
//   {id, do: "tokenize", model, text, options}   {id, do: "detokenize", model, ids}   {id, do: "logits", model, ids}
//   {id, do: "stats", model}                     {id, do: "map", model}: what is where at this moment
//   {id, do: "loaded", model}: when the weights that stay are there
//   {id, do: "lower_memory", model, memory}      {id, do: "close", model}: breaks off what is asked of the model
//   {taken: id}   the pieces that came were used; only then more are sent, so that a slow page is not flooded
//   {stop: id}    end a text here, as if it were finished
//   {cancel: id}  break off a request, which then fails with "AbortError"
//   {ping: n}     is anybody there?
// From the worker.
//   {alive: lock} first of all: the name of a lock (navigator.locks) that this worker holds as long as it lives, or null
//   {ready: true, shared}                        Python runs; shared: computing does not take place on this thread
//   {id, progress: [bytes, of]}                  of a load
//   {id, pieces: [text], tokens: [ids]}          of a text
//   {id, done: value, numbers}                   the answer: value is JSON; numbers, if there are any, a Float32Array
//   {id, error: {kind, message, trace}}          kind: the name of Python's class; trace: of what is not raised on purpose
//   {note: text, id}                             something that a user should know, and the request that it came up in
//   {pong: n}
//   {fatal: {kind, message}}                     the engine did not start, or cannot go on: nothing will be answered any more

const BASE = new URL("./", import.meta.url).href;

const START_SECONDS = 300; // for Pyodide to come (some 10 MB) and start; a wait without an end would tell nobody anything

const waiting = []; // requests that came before Python was there
let handle = null;

self.onmessage = ({ data }) => {
  if (data.ping !== undefined) self.postMessage({ pong: data.ping });
  else if (handle) handle(data);
  else waiting.push(data);
};

function fatal(error) {
  handle = () => {};
  self.postMessage({ fatal: { kind: "EngineStopped", message: String(error?.message ?? error) } });
}

/** Called by Python. numbers: a memoryview of format "f", which is copied out of Python's memory and handed over. */
function post(text, numbers) {
  const message = JSON.parse(text);
  if (!numbers) {
    self.postMessage(message);
    return;
  }
  const view = numbers.getBuffer("f32");
  message.numbers = view.data.slice();
  view.release();
  self.postMessage(message, [message.numbers.buffer]);
}

async function holdLock() {
  const name = self.name;
  const held = new Promise((resolve) => navigator.locks.request(name, () => (resolve(), new Promise(() => {}))));
  await held;
  return name;
}

/** Where a policy forbids WebAssembly, Pyodide waits for ever. */
async function checkWebAssembly() {
  try {
    await WebAssembly.instantiate(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])); // WebKit lets it be compiled
  } catch (error) {
    throw new Error(`WebAssembly is not allowed: the Content-Security-Policy's script-src needs 'wasm-unsafe-eval' (${error.message})`);
  }
}

async function loadPython() {
  const { loadPyodide } = await import(`${BASE}pyodide/pyodide.mjs`);
  const pyodide = await loadPyodide({ indexURL: `${BASE}pyodide/`, packages: ["wasmrt"] });
  // It goes on without what it could not fetch, or what has another digest than its lock file says.
  const missing = Object.keys(pyodide.lockfile.packages).filter((name) => !(name in pyodide.loadedPackages));
  if (missing.length) throw new Error(`${missing.join(", ")} cannot be loaded, or is not of this version of the page; reload it`);
  return pyodide;
}

function within(seconds, promise) {
  const why = `Python did not start in ${seconds} s; see the console, and the page's Content-Security-Policy`;
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(why)), seconds * 1000)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function start() {
  self.postMessage({ alive: navigator.locks ? await holdLock() : null });
  // Python finds its JavaScript here, and imports it without evaluating any: both as wasmrt/browser.py wants them.
  self.wasmrtScripts = BASE;
  self.wasmrtImport = (url) => import(url);
  await checkWebAssembly();
  const { abilities } = await import(`${BASE}memory.js`);
  const pyodide = await within(START_SECONDS, loadPython());
  const Page = pyodide.pyimport("wasmrt.page").Page;
  const page = Page(post);
  handle = ({ ref, ...message }) => {
    let text;
    try {
      text = JSON.stringify(typeof ref === "string" ? { ...message, ref } : message);
    } catch (error) {
      self.postMessage({ id: message.id, error: { kind: "TypeError", message: error.message } });
      return;
    }
    try {
      page.handle(text, typeof ref === "string" ? undefined : ref);
    } catch (error) {
      fatal(error); // requests' own failures are answered: this is Python's end
    }
  };
  self.postMessage({ ready: true, shared: abilities().shared });
  for (const message of waiting.splice(0)) handle(message);
}

start().catch(fatal);

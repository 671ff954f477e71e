// The worker that Python and the engine run in, one for all models of a page. web/wasmrt.js talks to it.
//
// To the worker. `id` numbers a request, `model` is the id of the request that opened it, options have Python's names.
//   {id, do: "open", ref, options}               ref: a URL, or a File or Blob
//   {id, do: "generate", model, prompt, options} prompt: text or ids
//   {id, do: "chat", model, messages, options}
//   {id, do: "tokenize", model, text, options}   {id, do: "detokenize", model, ids}   {id, do: "logits", model, ids}
//   {id, do: "stats", model}                     {id, do: "loaded", model}: when the weights that stay are there
//   {id, do: "lower_memory", model, memory}      {id, do: "close", model}: breaks off what is asked of the model
//   {taken: id}   the pieces that came were used; only then more are sent, so that a slow page is not flooded
//   {stop: id}    end a text here, as if it were finished
//   {cancel: id}  break off a request, which then fails with "AbortError"
//   {ping: n}     is anybody there?
// From the worker.
//   {alive: lock} first of all: the name of a lock (navigator.locks) that this worker holds as long as it lives, or null
//   {ready: true} Python runs
//   {id, progress: [bytes, of]}                  of a load
//   {id, pieces: [text], tokens: [ids]}          of a text
//   {id, done: value, numbers}                   the answer: value is JSON; numbers, if there are any, a Float32Array
//   {id, error: {kind, message, trace}}          kind: the name of Python's class; trace: of what is not raised on purpose
//   {note: text, id}                             something that a user should know, and the request that it came up in
//   {pong: n}
//   {fatal: {kind, message}}                     the engine did not start, or cannot go on: nothing will be answered any more

const BASE = new URL("./", import.meta.url).href;

const waiting = []; // requests that came before Python was there
let handle = null;

self.onmessage = ({ data }) => {
  if (data.ping !== undefined) self.postMessage({ pong: data.ping });
  else if (handle) handle(data);
  else waiting.push(data);
};

function fatal(error) {
  handle = () => {};
  self.postMessage({ fatal: { kind: "EngineStopped", message: `the engine has stopped: ${error?.message ?? error}` } });
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

async function start() {
  self.postMessage({ alive: navigator.locks ? await holdLock() : null });
  // Python finds its JavaScript here, and imports it without evaluating any: both as wasmrt/browser.py wants them.
  self.wasmrtScripts = BASE;
  self.wasmrtImport = (url) => import(url);
  const { loadPyodide } = await import(`${BASE}pyodide/pyodide.mjs`);
  const pyodide = await loadPyodide({ indexURL: `${BASE}pyodide/`, packages: ["wasmrt"] });
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
  self.postMessage({ ready: true });
  for (const message of waiting.splice(0)) handle(message);
}

start().catch(fatal);

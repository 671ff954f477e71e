// Pyodide in a page of a test, once for each place: runPython("import sys; sys.version", {where: "worker"}).

const running = new Map();

/**
 * Run Python's text (with top-level await) and give what its last expression is worth, as JSON.
 * options: where: "main" | "worker"; indexURL: the folder of pyodide.mjs; wheels: URLs of wheels to unpack before; globals: names
 * to set first (JSON).
 */
export async function runPython(text, { where = "worker", indexURL = "/pyodide/", wheels = [], globals = {} } = {}) {
  const key = JSON.stringify([where, indexURL, wheels]);
  if (!running.has(key)) running.set(key, where === "main" ? onMain(indexURL, wheels) : inWorker(indexURL, wheels));
  const run = await running.get(key);
  const json = await run(text, JSON.stringify(globals));
  return json === undefined ? null : JSON.parse(json);
}

/** Load Pyodide here; gives (text, globals as JSON) => JSON. */
export async function onMain(indexURL, wheels) {
  indexURL = new URL(indexURL, location.href).href;
  const { loadPyodide } = await import(`${indexURL}pyodide.mjs`);
  const pyodide = await loadPyodide({ indexURL });
  for (const wheel of wheels) {
    const response = await fetch(wheel);
    if (!response.ok) throw new Error(`${wheel}: ${response.status}`);
    pyodide.unpackArchive(await response.arrayBuffer(), "wheel");
  }
  return async (text, globals) => {
    pyodide.globals.set("_globals", globals);
    pyodide.runPython("import json as _json; globals().update(_json.loads(_globals))");
    pyodide.globals.set("_value", await pyodide.runPythonAsync(text));
    return pyodide.runPython("_json.dumps(_value)");
  };
}

async function inWorker(indexURL, wheels) {
  const worker = new Worker(new URL("./python-worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let last = 0;
  worker.onmessage = ({ data }) => {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) reject(Object.assign(new Error(data.error.message), { kind: data.error.kind }));
    else resolve(data.value);
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(`Python's worker: ${event.message}`));
    waiting.clear();
  };
  const ask = (message) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject });
      worker.postMessage({ id: last, ...message });
    });
  await ask({ indexURL: new URL(indexURL, location.href).href, wheels: wheels.map((wheel) => new URL(wheel, location.href).href) });
  return (text, globals) => ask({ text, globals });
}

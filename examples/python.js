import { loadPyodide } from "./pyodide/pyodide.mjs";

// For pages whose policy forbids eval and blob: scripts. Others can do without, and then without wasmrt's scripts beside them.
globalThis.wasmrtScripts = new URL("./", location.href).href;
globalThis.wasmrtImport = (url) => import(url);

const python = await loadPyodide();
await python.loadPackage(["jinja2", new URL("pyodide/wasmrt-0.1.0-py3-none-any.whl", location.href).href]);
const story = await fetch("story.py");
await python.runPythonAsync(await story.text());

const text = document.getElementById("text");
const model = new URL("models/demo.gguf", location.href).href;
await python.globals.get("tell")(model, (piece) => text.append(piece));

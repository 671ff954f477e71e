// The worker of python.js.

import { onMain } from "./python.js";

let run;

self.wasmrtImport = (url) => import(url); // Python may not evaluate JavaScript here

self.onmessage = async ({ data }) => {
  try {
    if (data.indexURL) self.postMessage({ id: data.id, value: ((run = await onMain(data.indexURL, data.wheels)), undefined) });
    else self.postMessage({ id: data.id, value: await run(data.text, data.globals) });
  } catch (error) {
    self.postMessage({ id: data.id, error: { kind: error.type, message: error.message } });
  }
};

// The page's first script. What cannot be loaded, or is not understood by an old browser, is said.

import { isolate } from "./ui/offline.js";

try {
  if (!(await isolate())) (await import("./ui/app.js")).start(document.getElementById("app"));
} catch (error) {
  const text = `This page cannot start here: ${error.message}. Reload it, or open it in a newer browser.`;
  document.querySelector(".pick").replaceWith(Object.assign(document.createElement("p"), { className: "problem", textContent: text }));
  throw error;
}

// A file may be dropped anywhere on the page.

import { chosenByFile } from "./picker.js";
import { html, useEffect, useState } from "./html.js";
import { examine } from "./session.js";

export function DropTarget() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    let depth = 0; // dragging into a child leaves its parent
    const isFile = (event) => event.dataTransfer?.types.includes("Files");
    const handlers = {
      dragenter: (event) => isFile(event) && (depth++, setOver(true)),
      dragleave: (event) => isFile(event) && --depth <= 0 && ((depth = 0), setOver(false)),
      dragover: (event) => isFile(event) && event.preventDefault(),
      drop: (event) => {
        if (!isFile(event)) return;
        event.preventDefault();
        depth = 0;
        setOver(false);
        const [file] = event.dataTransfer.files;
        if (file) examine(chosenByFile(file));
      },
    };
    for (const [name, handle] of Object.entries(handlers)) addEventListener(name, handle);
    return () => Object.entries(handlers).forEach(([name, handle]) => removeEventListener(name, handle));
  }, []);
  return over && html`
    <div class="drop"><p>Drop a GGUF file<small>It is read from your disk, never uploaded.</small></p></div>`;
}

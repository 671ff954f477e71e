// Small pictures on buttons; each button has its name in words beside it, or as its label.

import { html } from "./html.js";

const PATHS = {
  check: "M3.5 8.5l3 3 6-7",
  chevron: "M4 6l4 4 4-4",
  close: "M4 4l8 8M12 4l-8 8",
  copy: "M5.5 5.5V3.2c0-.4.3-.7.7-.7h6.6c.4 0 .7.3.7.7v6.6c0 .4-.3.7-.7.7h-2.3M3.2 5.5h6.6c.4 0 .7.3.7.7v6.6c0 .4-.3.7-.7.7H3.2c-.4 0-.7-.3-.7-.7V6.2c0-.4.3-.7.7-.7z",
  down: "M8 3v10M3.5 8.5L8 13l4.5-4.5",
  edit: "M10.5 3.5l2 2L5.500 12.500 2.800 13.200 3.500 10.500z",
  export: "M8 10V2.500M5 5l3-3 3 3M2.500 9.500v3.500h11V9.500",
  import: "M8 2.500V10M5 7.500l3 3 3-3M2.500 9.500v3.500h11V9.500",
  list: "M2.500 4h11M2.500 8h11M2.500 12h7",
  next: "M3 8h9M8.500 4l4 4-4 4",
  plus: "M8 3v10M3 8h10",
  redo: "M13 3v3.500H9.500M12.700 6.500A5.200 5.200 0 1 0 13 9.500",
  send: "M8 13V3M3.500 7.500L8 3l4.500 4.500",
  settings: "M2.500 4.500h6M12 4.500h1.500M8.500 3v3M2.500 11.500h1.500M7.500 11.500h6M5.500 10v3",
  stop: "M4.500 4.500h7v7h-7z",
  trash: "M2.500 4.500h11M6 4V2.500h4V4M4 4.500l.6 9h6.800l.6-9",
  undo: "M3 3v3.500h3.500M3.300 6.500A5.200 5.200 0 1 1 3 9.500",
};

export function Icon({ name }) {
  return html`<svg class="chat-icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}

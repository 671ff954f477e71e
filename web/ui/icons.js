// Drawn signs. They only stand beside a name, so they have none of their own.

import { html } from "./html.js";

const SIGNS = {
  auto: html`<circle cx="12" cy="12" r="8.25" /><path d="M12 3.75a8.25 8.25 0 0 1 0 16.5z" fill="currentColor" />`,
  light: html`<circle cx="12" cy="12" r="4" /><path d="M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4" />`,
  dark: html`<path d="M20 14.2A8.2 8.2 0 1 1 9.8 4a6.6 6.6 0 0 0 10.2 10.2z" />`,
  disk: html`<ellipse cx="12" cy="6" rx="7.5" ry="2.75" /><path d="M4.5 6v12c0 1.5 3.4 2.75 7.5 2.75s7.5-1.25 7.5-2.75V6M4.5 12c0 1.5 3.4 2.75 7.5 2.75s7.5-1.25 7.5-2.75" />`,
  help: html`<circle cx="12" cy="12" r="8.75" /><path d="M9.6 9.4a2.4 2.4 0 1 1 3.5 2.2c-.8.4-1.1.9-1.1 1.9" /><circle cx="12" cy="16.6" r=".6" fill="currentColor" />`,
  engine: html`<path d="M4 7h16M4 12h16M4 17h16" /><circle cx="9" cy="7" r="2.1" class="icon-fill" /><circle cx="15.5" cy="12" r="2.1" class="icon-fill" /><circle cx="7.5" cy="17" r="2.1" class="icon-fill" />`,
  chats: html`<path d="M4.5 5.5h15v10h-8l-4 3.5v-3.5h-3z" />`,
  close: html`<path d="m6.5 6.5 11 11M17.5 6.5l-11 11" />`,
  file: html`<path d="M6.5 3.5h7l4 4v13h-11z" /><path d="M13.5 3.5v4h4" />`,
  link: html`<path d="M10 14a4 4 0 0 0 5.7 0l2.8-2.8a4 4 0 0 0-5.7-5.7L11.5 6.8" /><path d="M14 10a4 4 0 0 0-5.7 0l-2.8 2.8a4 4 0 0 0 5.7 5.7l1.3-1.3" />`,
  server: html`<rect x="4" y="4.5" width="16" height="6" rx="1.5" /><rect x="4" y="13.5" width="16" height="6" rx="1.5" /><path d="M7.5 7.5h.01M7.5 16.5h.01" />`,
  spark: html`<path d="M12 3.5c.6 4.8 2.7 7.3 8 8.5-5.3 1.2-7.4 3.7-8 8.5-.6-4.8-2.7-7.3-8-8.5 5.3-1.2 7.4-3.7 8-8.5z" />`,
  warn: html`<path d="M12 4.5 21 19.5H3z" /><path d="M12 10v4.5" /><circle cx="12" cy="17" r=".6" fill="currentColor" />`,
  swap: html`<path d="M4 8.5h14M14.5 5l3.5 3.5-3.5 3.5M20 15.5H6M9.5 12 6 15.5 9.5 19" />`,
  arrow: html`<path d="M5 12h13.5M13 6.5l5.5 5.5-5.5 5.5" />`,
};

/** @param {{name: keyof SIGNS}} props */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">${SIGNS[name]}</svg>`;
}

/** The sign of wasmrt: layers, of which some lie on the GPU and one is being read. */
export function Mark() {
  return html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
    <rect class="mark-use" x="5" y="4" width="22" height="4.5" rx="2" />
    <rect class="mark-gpu" x="5" y="10.5" width="22" height="4.5" rx="2" />
    <rect class="mark-resident" x="5" y="17" width="22" height="4.5" rx="2" />
    <rect class="mark-arriving" x="5" y="23.5" width="13" height="4.5" rx="2" />
  </svg>`;
}

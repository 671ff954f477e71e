// A sheet that comes in from a side of a narrow window, and the button for it.

import { Icon } from "./chat-icons.js";
import { html, useRef, useSignal } from "./html.js";

/** @param {{icon: string, label: string, side: "left" | "right", children: (close: () => void) => any}} props */
export function Sheet({ icon, label, side, children }) {
  const sheet = useRef(null);
  const open = useSignal(false);
  const show = () => {
    open.value = true;
    sheet.current.showModal();
  };
  const close = () => sheet.current.close();
  // A click on the dialog itself is one on what lies around its content.
  return html`<button type="button" class="button button-icon" title=${label} aria-label=${label} aria-haspopup="dialog" onClick=${show}>
      <${Icon} name=${icon} /></button>
    <dialog ref=${sheet} class="chat-sheet chat-sheet-${side}" aria-label=${label} onClose=${() => (open.value = false)}
      onClick=${(event) => event.target === sheet.current && close()}>
      <div class="chat-sheet-inside">
        <header><h2>${label}</h2>
          <button type="button" class="button button-icon" aria-label="Close" onClick=${close}><${Icon} name="close" /></button></header>
        ${open.value && children(close)}
      </div>
    </dialog>`;
}

// A dialog of the browser's own: it holds the focus, and Escape or a click beside it closes it.

import { Icon } from "./icons.js";
import { html, useEffect, useId, useRef } from "./html.js";

/**
 * @param {object} props
 * @param {string} [props.title] left out where the content has a heading of its own; `label` then names the dialog
 * @param {string} [props.label]
 * @param {() => void} props.onClose
 */
export function Dialog({ title, label, onClose, children }) {
  const dialog = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.isConnected && before.focus();
  }, []);
  const beside = (event) => event.target === dialog.current && dialog.current.close();
  const names = title ? { "aria-labelledby": id } : { "aria-label": label };
  return html`
    <dialog class="dialog" ref=${dialog} onClose=${onClose} onClick=${beside} ...${names}>
      <div class=${`dialog-head ${title ? "" : "dialog-bare"}`}>
        ${title && html`<h2 id=${id}>${title}</h2>`}
        <button type="button" class="button button-icon" aria-label="Close" onClick=${() => dialog.current.close()}>
          <${Icon} name="close" />
        </button>
      </div>
      <div class="dialog-body">${children}</div>
    </dialog>`;
}

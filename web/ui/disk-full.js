// A model that does not fit on this origin's disk: said before it is fetched, with what can be done about it.

import { html, useId } from "./html.js";

/**
 * @param {object} props
 * @param {string} props.needs what would still have to be kept, such as "4.1 GB"
 * @param {string} props.room what there is
 * @param {() => void} props.onRoom show what can be deleted
 * @param {() => void} props.onWithout load without keeping a copy
 * @param {() => void} [props.onPart] load, and keep as much as fits
 */
export function DiskFull({ needs, room, onRoom, onWithout, onPart }) {
  const title = useId();
  return html`
    <section class="storage-full" aria-labelledby=${title}>
      <h3 id=${title}>It does not fit on this device's disk</h3>
      <p>A copy needs ${needs}, and this site may keep ${room} more. The model runs without one, but then each visit fetches it again.</p>
      <div class="storage-answers">
        <button type="button" class="button button-small" onClick=${onRoom}>Make room…</button>
        <button type="button" class="button button-small" onClick=${onWithout}>Load without a copy</button>
        ${onPart && html`<button type="button" class="button button-small" onClick=${onPart}>Keep what fits</button>`}
      </div>
    </section>`;
}

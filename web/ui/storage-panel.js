// What this origin keeps on the visitor's own disk: each model and how much of it, the room there is, and how to delete.

import { estimate, list, persist, remove } from "../storage.js";
import { forget } from "../wasmrt.js";
import { sentence } from "./errors.js";
import { bytes, bytesOf, percent } from "./format.js";
import { html, useEffect, useId, useRef, useState } from "./html.js";

const WORKER = new URL("../prefetch-worker.js", import.meta.url);
const GROWING_MS = 2000; // as often as the copy of a model that is arriving is written down

/** Site and folder, without the file's own name: that stands above it. */
function place(url) {
  if (!url) return "just begun, or broken";
  if (!URL.canParse(url)) return url;
  const { host, origin, pathname } = new URL(url);
  const folder = pathname.split("/").slice(1, -1).join("/");
  return `${origin === location.origin ? "this server" : host}${folder && `/${folder}`}`;
}

/**
 * @param {object} props
 * @param {string} [props.inUse] URL of the model that is open: it cannot be deleted, and is told from the others
 * @param {unknown} [props.revision] whenever it changes, what is there is looked up anew
 */
export function StoragePanel({ inUse = "", revision }) {
  const [kept, setKept] = useState(null); // {models, usage, quota, persisted}, or {error}
  const [asked, setAsked] = useState(""); // key of the model that is about to be deleted, or ALL
  const [said, setSaid] = useState("");
  const [busy, setBusy] = useState(false);
  const heading = useRef(null);
  const title = useId();

  const look = async () => {
    try {
      const [models, room] = await Promise.all([list(WORKER), estimate()]);
      models.sort((a, b) => b.present - a.present);
      setKept({ models, ...room });
    } catch (error) {
      setKept({ error: error.message });
    }
  };
  useEffect(() => void look(), [revision, inUse]);

  const isOpen = ({ url }) => Boolean(inUse) && url === inUse;
  const growing = inUse && kept?.models && !kept.models.some((model) => isOpen(model) && model.whole);
  useEffect(() => {
    if (!growing) return undefined;
    const timer = setInterval(look, GROWING_MS);
    return () => clearInterval(timer);
  }, [growing]);

  const drop = async (models) => {
    setBusy(true);
    const failed = [];
    await forget(); // the one that was examined: its beginnings are kept, too
    for (const model of models) await remove(model.key, WORKER).catch(() => failed.push(model));
    await look();
    setBusy(false);
    setAsked("");
    const gone = models.filter((model) => !failed.includes(model));
    const names = (of) => of.map(nameOf).join(", ");
    setSaid([
      gone.length > 0 && `${names(gone)}: deleted, ${bytes(gone.reduce((sum, { present }) => sum + present, 0))} freed.`,
      failed.length > 0 && `${names(failed)}: still open, perhaps in another tab. Close it there, and delete it then.`,
    ].filter(Boolean).join(" "));
    heading.current?.focus(); // what had the focus is gone
  };

  const keep = async () => {
    const granted = await persist();
    await look();
    setSaid(granted
      ? "The browser will keep these models until you delete them."
      : "The browser did not agree: it may still delete them when the disk fills up. Most agree after some visits, or once the page is installed or bookmarked.");
  };

  const deletable = kept?.models?.filter((model) => !isOpen(model)) ?? [];
  return html`
    <section class="storage" aria-labelledby=${title}>
      <header class="storage-head">
        <h2 id=${title} ref=${heading} tabindex="-1">Kept on this device</h2>
        ${deletable.length > 1 && asked !== ALL && html`
          <button type="button" class="button button-small" onClick=${() => setAsked(ALL)}>Delete all…</button>`}
      </header>
      ${asked === ALL && html`
        <${Confirm} busy=${busy} yes="Delete all" onYes=${() => drop(deletable)} onNo=${() => setAsked("")}
          text=${`Delete ${deletable.length} models? Each would have to be fetched again.`} />`}
      ${kept === null && html`<p class="storage-quiet">Looking…</p>`}
      ${kept?.error && html`<${NoDisk} why=${kept.error} />`}
      ${kept?.models && html`<${Room} ...${kept} />`}
      ${kept?.models?.length === 0 && html`
        <div class="storage-empty">
          <p>Nothing is kept yet.</p>
          <p>A model that you load from a link stays here, on your own disk: the second time it opens at once, also without a network.</p>
        </div>`}
      ${kept?.models?.length > 0 && html`
        <ul class="storage-list">
          ${kept.models.map((model) => html`
            <${Kept} key=${model.key} model=${model} open=${isOpen(model)} asked=${asked === model.key} busy=${busy}
              onAsk=${() => setAsked(model.key)} onNo=${() => setAsked("")} onYes=${() => drop([model])} />`)}
        </ul>
        <${Promised} persisted=${kept.persisted} onKeep=${keep} />`}
      <p class="storage-said" role="status">${said}</p>
    </section>`;
}

const ALL = "all of them"; // no key looks like that
const nameOf = ({ name }) => name || "unnamed copy";

/** Why nothing is kept here, and what that means. */
function NoDisk({ why }) {
  return html`
    <div class="storage-empty">
      <p>This browser keeps no models.</p>
      <p>Everything works, but each visit fetches the model again. ${sentence(why)}</p>
    </div>`;
}


/** All that the origin keeps against all that it may keep: models in the accent's colour, the page's own parts beside them. */
function Room({ models, usage, quota }) {
  if (!quota) return null;
  const ours = Math.min(models.reduce((sum, { present }) => sum + present, 0), usage);
  const share = (bytes) => ({ width: `${(100 * bytes) / quota}%` });
  const text = `${bytes(usage)} of ${bytes(quota)} used`;
  return html`
    <div class="storage-room">
      <div class="storage-bar" role="meter" aria-label="Room for this site" aria-valuemin="0" aria-valuemax=${quota}
        aria-valuenow=${Math.min(usage, quota)} aria-valuetext=${text}>
        ${ours > 0 && html`<span class="storage-bar-models" style=${share(ours)}></span>`}
        ${usage > ours && html`<span class="storage-bar-rest" style=${share(Math.min(usage, quota) - ours)}></span>`}
      </div>
      <p class="storage-figures">
        <span>${text}</span>
        <span class="storage-quiet">${bytes(Math.max(0, quota - usage))} free for this site</span>
      </p>
    </div>`;
}

function Kept({ model, open, asked, busy, onAsk, onYes, onNo }) {
  const { present, whole, url } = model;
  const share = present / (model.size || 1);
  const button = useRef(null);
  const name = nameOf(model);
  const decline = () => {
    onNo();
    requestAnimationFrame(() => button.current?.focus());
  };
  return html`
    <li class="storage-item">
      <div class="storage-model">
        <span class="storage-name" title=${url}>${name}</span>
        <span class="storage-place">${place(url)}</span>
      </div>
      <div class="storage-state">
        ${whole
          ? html`<span class="storage-badge storage-whole">whole</span>`
          : html`<span class="storage-badge storage-partial">${percent(share)} of it</span>`}
        ${open && html`<span class="storage-badge storage-open">open now</span>`}
        <span class="storage-size">${whole ? bytes(model.size) : bytesOf(present, model.size)}</span>
      </div>
      ${!asked && !open && html`
        <button type="button" class="button button-small storage-delete" ref=${button} onClick=${onAsk} aria-label=${`Delete ${name}`}>Delete…</button>`}
      ${!whole && html`
        <span class="storage-part" aria-hidden="true"><span style=${{ width: `${100 * share}%` }}></span></span>`}
      <p class="storage-what">${what(whole, open)}</p>
      ${asked && html`
        <${Confirm} busy=${busy} yes="Delete" onYes=${onYes} onNo=${decline}
          text=${`Delete ${name}? ${bytes(present)} would have to be fetched again.`} />`}
    </li>`;
}

function what(whole, open) {
  const use = whole ? "Opens without a network." : "The rest is fetched when it is opened.";
  return open ? `${use} To delete it, close it first.` : use;
}

/** The safe answer has the focus. */
function Confirm({ text, yes, busy, onYes, onNo }) {
  const no = useRef(null);
  const id = useId();
  useEffect(() => no.current?.focus(), []);
  const escape = (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault(); // or the dialog around it closes
    event.stopPropagation();
    onNo();
  };
  return html`
    <div class="storage-confirm" role="alertdialog" aria-labelledby=${id} onKeyDown=${escape}>
      <p id=${id}>${text}</p>
      <div class="storage-answers">
        <button type="button" class="button button-small" ref=${no} onClick=${onNo} disabled=${busy}>Keep</button>
        <button type="button" class="button button-small storage-danger" onClick=${onYes} disabled=${busy}>${busy ? "Deleting…" : yes}</button>
      </div>
    </div>`;
}

/** Whether the browser may delete all of it by itself. */
function Promised({ persisted, onKeep }) {
  return html`
    <div class="storage-persist">
      ${persisted
        ? html`<p>The browser keeps these models until you delete them.</p>`
        : html`<p>When the disk fills up, the browser may delete all of them by itself.</p>
          <button type="button" class="button button-small" onClick=${onKeep}>Keep them</button>`}
    </div>`;
}

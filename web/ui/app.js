// The page: its header, the first screen or the chat, and the dialogs above them.

import { About } from "./about.js";
import { Dialog } from "./dialog.js";
import { DropTarget } from "./drop.js";
import { EnginePanel } from "./engine-panel.js";
import { Header } from "./header.js";
import { Live } from "./live.js";
import { keepOffline } from "./offline.js";
import { OfflineStatus } from "./offline-status.js";
import { Start } from "./start.js";
import { StoragePanel } from "./storage-panel.js";
import { Work } from "./work.js";
import { chosenByText, lookForServed } from "./picker.js";
import { effect, html, render, useEffect, useRef } from "./html.js";
import { DEMO, arriving, choice, entered, examine, model, panel, phase, problem, unexpected } from "./session.js";

const IDLE_MS = 3000;
let kept = false;

function App() {
  const work = entered.value;
  const before = useRef(work);
  useEffect(() => {
    document.title = work ? `${choice.value.name} · wasmrt` : "wasmrt: any GGUF model, in this tab";
    document.getElementById("app").classList.toggle("app-work", work);
    if (before.current && !work) document.getElementById("main").focus({ preventScroll: true });
    before.current = work;
  }, [work]);
  return html`
    <a class="skip" href="#main">Skip to the content</a>
    <${Header} />
    <main id="main" tabindex="-1">${work ? html`<${Work} />` : html`<${Start} />`}</main>
    ${!work && html`<${Foot} />`}
    <${Panels} />
    <${DropTarget} />
    <${Live} />`;
}

function Foot() {
  return html`
    <footer class="foot">
      <${OfflineStatus} />
      <button type="button" class="button-link" onClick=${() => (panel.value = "about")}>How it works</button>
      <a href="THIRD_PARTY.txt">Licences</a>
    </footer>`;
}

const PANELS = {
  storage: { label: "Storage", content: () => html`<${StoragePanel} inUse=${urlInUse()} revision=${phase.value} /><${OfflineStatus} />` },
  about: { title: "About wasmrt", content: () => html`<${About} />` },
  engine: { title: "Engine", content: () => html`<${EnginePanel} />` },
};

function Panels() {
  const open = PANELS[panel.value];
  if (!open) return null;
  const { content, ...names } = open;
  return html`<${Dialog} key=${panel.value} ...${names} onClose=${() => (panel.value = null)}>${content()}</${Dialog}>`;
}

function urlInUse() {
  const ref = model.value && choice.value.ref;
  return typeof ref === "string" ? (/^hf:/i.test(ref) ? ref : new URL(ref, document.baseURI).href) : "";
}

/** The address names the model that was chosen by a link, so that it can be shared, and a reload comes back to it. */
function keepAddress() {
  const { kind, ref } = choice.value;
  const address = new URL(location.href);
  const shown = (kind === "url" || kind === "served") && !ref.includes("?"); // a signature of somebody's is not for others
  if (shown) address.searchParams.set("model", ref);
  else address.searchParams.delete("model");
  if (address.href !== location.href) history.replaceState(null, "", address);
}

/** The page itself is kept once it has nothing more urgent to fetch. */
function keepPage() {
  const idle = phase.value === "planned" || (phase.value === "ready" && !arriving.value) || problem.value;
  if (!idle) return;
  const before = phase.value;
  setTimeout(() => {
    if (phase.value !== before || kept) return;
    kept = true;
    keepOffline();
  }, IDLE_MS);
}

export function start(root) {
  addEventListener("error", ({ error }) => error && unexpected(error));
  addEventListener("unhandledrejection", ({ reason }) => unexpected(reason));
  root.replaceChildren();
  render(html`<${App} />`, root);
  choice.subscribe((chosen) => chosen && keepAddress());
  const wanted = new URLSearchParams(location.search).get("model");
  effect(keepPage);
  // Reading a header starts the engine, too: whoever looks at the page for some seconds need not wait for Python.
  examine((wanted && chosenByText(wanted)) || DEMO);
  lookForServed();
}

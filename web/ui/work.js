// A model that is open: conversations, chat, engine. In a narrow window only the chat; what else there is opens above it.

import { Chat, Conversations, SamplerSettings } from "./chat.js";
import { EnginePanel } from "./engine-panel.js";
import { Notice } from "./notes.js";
import { Problem } from "./problem.js";
import { html, useEffect, useState } from "./html.js";

const WIDE = matchMedia("(min-width: 75.01rem)"); // as in layout.css

export function Work() {
  const wide = useMedia(WIDE);
  return html`
    <div class="work">
      ${wide && html`<aside class="work-side work-left" aria-label="Conversations"><${Conversations} /></aside>`}
      <section class="work-chat" aria-label="Chat">
        <${Notice} />
        <${Problem} />
        <div class="work-main"><${Chat} panels=${!wide} /></div>
      </section>
      <aside class="work-side work-right" aria-label="Engine">
        <${EnginePanel} />
        ${wide && html`<details class="work-settings"><summary>Settings of the text</summary><${SamplerSettings} /></details>`}
      </aside>
    </div>`;
}

function useMedia(query) {
  const [matches, setMatches] = useState(query.matches);
  useEffect(() => {
    const change = () => setMatches(query.matches);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, []);
  return matches;
}

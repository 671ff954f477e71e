// A model that is open: conversations, chat, engine. In a narrow window only the chat, the others as dialogs.

import { Chat } from "./chat.js";
import { Conversations } from "./conversations.js";
import { EnginePanel } from "./engine-panel.js";
import { Notice } from "./notes.js";
import { Problem } from "./problem.js";
import { html } from "./html.js";

export function Work() {
  return html`
    <div class="work">
      <aside class="work-side work-left" aria-label="Conversations"><${Conversations} /></aside>
      <section class="work-chat" aria-label="Chat">
        <${Notice} />
        <${Problem} />
        <div class="work-main"><${Chat} /></div>
      </section>
      <aside class="work-side work-right" aria-label="Engine"><${EnginePanel} /></aside>
    </div>`;
}

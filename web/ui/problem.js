// One problem, and what can be done about it.

import { Icon } from "./icons.js";
import { html, useEffect, useRef } from "./html.js";
import { problem } from "./session.js";

export function Problem() {
  const section = useRef(null);
  useEffect(() => section.current?.scrollIntoView({ block: "nearest" }), [problem.value]);
  if (!problem.value) return null;
  const { title, text, trace, moves } = problem.value;
  return html`
    <section class="problem" role="alert" ref=${section}>
      <${Icon} name="warn" />
      <div>
        <h2>${title}</h2>
        <p>${text}</p>
        ${trace && html`<details><summary>Details for a report</summary><pre tabindex="0">${trace}</pre></details>`}
        <div class="problem-moves">
          ${moves.map(({ label, run }, i) => html`
            <button type="button" key=${label} class=${`button ${i ? "" : "button-primary"}`} onClick=${run}>${label}</button>`)}
        </div>
      </div>
    </section>`;
}

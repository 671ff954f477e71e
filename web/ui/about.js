// What the page is and does, in a dialog.

import { html } from "./html.js";

export function About() {
  return html`
    <div class="about">
      <section>
        <h3>What happens here</h3>
        <p>wasmrt runs language models in this tab: Python and the kernels are WebAssembly, and where the browser has WebGPU the graphics
          card computes. A GGUF file is used as it is, without conversion: Llama, Mistral, Qwen, Gemma, Phi, DeepSeek, gpt-oss and many other
          families, in all common formats. What of a file is not supported, its plan says.</p>
      </section>
      <section>
        <h3>Larger than memory</h3>
        <p>Weights are read layer by layer. What fits stays in memory or on the GPU; the rest streams from this device's disk or from the
          network for each token. Before anything large is read, the plan says what stays, what streams, and how fast that will be.</p>
      </section>
      <section>
        <h3>Private</h3>
        <ul>
          <li>What you write stays in this tab. There is no account, no counting, no server that sees it.</li>
          <li>A file from your disk is read in place and never uploaded.</li>
          <li>The only other site that is asked for anything is the one whose model you choose.</li>
        </ul>
      </section>
      <section>
        <h3>Keyboard</h3>
        <ul>
          <li><kbd>Enter</kbd> sends, <kbd>Shift</kbd> <kbd>Enter</kbd> begins a line, <kbd>Escape</kbd> closes a dialog.</li>
          <li><kbd>Tab</kbd> reaches everything.</li>
        </ul>
      </section>
      <p><a href="THIRD_PARTY.txt" target="_blank" rel="noopener">Who made the parts, and their licences</a></p>
    </div>`;
}

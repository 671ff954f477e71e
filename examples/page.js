import { open } from "./wasmrt.js";

const [form, plan, state, text] = ["ask", "plan", "state", "text"].map((id) => document.getElementById(id));
const mib = (bytes) => `${Math.round(bytes / 2 ** 20)} MiB`;
let model, stop;

form.onsubmit = async (event) => {
  event.preventDefault();
  stop = new AbortController();
  const { signal } = stop;
  const onprogress = (bytes, of) => (state.textContent = `${mib(bytes)} of ${mib(of)}`);
  try {
    model ??= await open(form.model.value, { memory: "1GiB", onprogress, signal });
    plan.textContent = `${mib(model.plan.total_bytes)} of memory, ${mib(model.plan.streamed_bytes)} read for each token`;
    text.textContent = "";
    const story = model.generate(form.prompt.value, { maxTokens: 64, signal });
    for await (const piece of story) text.append(piece);
    state.textContent = `${story.tokens.length} tokens, ${Math.round(story.stats.decode_tokens_per_second)} a second`;
  } catch (error) {
    state.textContent = signal.aborted ? "Stopped." : `${error.kind ?? error.name}: ${error.message}`;
  }
};
form.stop.onclick = () => stop?.abort();

// A bare page to try models in: open one, let it write, stop it.

import { open } from "./wasmrt.js";

const $ = (id) => document.getElementById(id);
const mebibytes = (n) => `${(n / 2 ** 20).toFixed(1)} MiB`;

let model = null;
let opening = null; // an AbortController, while a model is opened
let text = null; // what is being written

function say(message, isError = false) {
  $("state").textContent = message;
  $("state").classList.toggle("error", isError);
}

function note(message) {
  $("notes").append(Object.assign(document.createElement("li"), { textContent: message }));
}

function showButtons() {
  $("load").disabled = Boolean(opening);
  $("close").disabled = !model && !opening;
  $("go").disabled = !model || Boolean(text);
  $("stop").disabled = !text;
}

function showProgress(done, total) {
  $("progress").hidden = done >= total;
  $("progress").max = total;
  $("progress").value = done;
  if (!text) say(done < total ? `${mebibytes(done)} of ${mebibytes(total)}` : "ready");
}

async function closeModel() {
  opening?.abort();
  const closing = model?.close();
  model = null;
  showButtons();
  await closing;
}

$("open").onsubmit = async (event) => {
  event.preventDefault();
  await closeModel();
  $("notes").replaceChildren();
  const mine = (opening = new AbortController());
  showButtons();
  say("starting");
  try {
    model = await open($("file").files[0] ?? $("url").value, {
      device: $("device").value,
      memory: $("memory").value || undefined,
      context: Number($("context").value) || undefined,
      cache: $("cache").checked,
      onprogress: showProgress,
      onnote: note,
      signal: mine.signal,
    });
    const { plan } = model;
    note(`${model.name}: ${mebibytes(plan.weight_bytes)} of weights in memory, context ${plan.context}`);
    if (plan.streamed_bytes) note(`${mebibytes(plan.streamed_bytes)} are read again for each token`);
    say("ready");
  } catch (error) {
    say(error.message, !mine.signal.aborted);
  } finally {
    if (opening === mine) opening = null;
    showButtons();
  }
};

$("close").onclick = async () => {
  await closeModel();
  $("progress").hidden = true;
  say("closed");
};

$("write").onsubmit = async (event) => {
  event.preventDefault();
  $("text").textContent = $("prompt").value;
  text = model.generate($("prompt").value, {
    maxTokens: Number($("tokens").value),
    temperature: Number($("temperature").value),
  });
  showButtons();
  try {
    for await (const piece of text) $("text").append(piece);
    const { stats } = text;
    const speeds = [stats.prefill_tokens_per_second, stats.decode_tokens_per_second].map((n) => n.toFixed(1));
    say(`${stats.generated_tokens} tokens (${stats.finish}); ${speeds[0]} tokens/s read, ${speeds[1]} written`);
  } catch (error) {
    say(error.message, true);
  } finally {
    text = null;
    showButtons();
  }
};

$("stop").onclick = () => text?.stop();

$("url").value = new URLSearchParams(location.search).get("model") ?? $("url").value;

// How the model is told to write: the system prompt, and how each next token is drawn.

import { conversation } from "./chat-state.js";
import { html, useEffect, useState } from "./html.js";
import { SETTINGS, checkSetting, firstSettings } from "./settings.js";

export function SamplerSettings() {
  const { settings, system, mode } = conversation;
  const changed = JSON.stringify(settings.value) !== JSON.stringify(firstSettings());
  return html`<section class="chat-settings" aria-label="Settings of the answers">
    ${mode.value === "chat" && html`<div class="chat-setting">
      <label for="chat-system">System prompt</label>
      <textarea id="chat-system" rows="3" value=${system.value} placeholder="Who the model is to be, and how it is to answer"
        aria-describedby="chat-system-help" onInput=${(event) => (system.value = event.target.value)}></textarea>
      <p class="chat-hint" id="chat-system-help">Goes before every conversation, from the next answer on.</p>
    </div>`}
    ${SETTINGS.map((setting) => html`<${Setting} key=${setting.name} setting=${setting} />`)}
    <p class="chat-settings-end"><button type="button" class="button button-small" disabled=${!changed}
      onClick=${() => (settings.value = firstSettings())}>Reset to defaults</button></p>
  </section>`;
}

function Setting({ setting }) {
  const { settings } = conversation;
  const value = settings.value[setting.name];
  const [text, setText] = useState(shown(setting, value));
  const [error, setError] = useState("");
  useEffect(() => {
    if (checkSetting(setting, text).value === value) return;
    setText(shown(setting, value));
    setError("");
  }, [value]);
  const id = `chat-set-${setting.name}`;
  const take = (given) => {
    setText(given);
    const checked = checkSetting(setting, given);
    setError(checked.error ?? "");
    if (!checked.error) settings.value = { ...settings.value, [setting.name]: checked.value };
  };
  const leave = () => {
    setText(shown(setting, settings.value[setting.name])); // what holds, if the field has nothing valid
    setError("");
  };
  return html`<div class="chat-setting">
    <div class="chat-setting-row">
      <label for=${id}>${setting.label}${setting.unit && html` <span class="chat-hint">${setting.unit}</span>`}</label>
      <input id=${id} class="field chat-number" inputmode=${setting.whole || setting.seed ? "numeric" : "decimal"} value=${text}
        autocomplete="off" placeholder=${setting.placeholder} aria-invalid=${error ? "true" : undefined} aria-describedby="${id}-help"
        onInput=${(event) => take(event.target.value)} onBlur=${leave} />
    </div>
    ${setting.most !== undefined && html`<input type="range" class="slider" style=${{ "--filled": filled(setting, value) }}
      min=${setting.least} max=${setting.most} step=${setting.step} value=${Math.min(value, setting.most)} aria-label="${setting.label}, slider" aria-describedby="${id}-help"
      onInput=${(event) => take(event.target.value)} />`}
    <p class="${error ? "chat-error" : "chat-hint"}" id="${id}-help" role=${error ? "alert" : undefined}>${error || setting.help}</p>
  </div>`;
}

const shown = ({ digits }, value) => (value === null ? "" : digits ? String(Number(value.toFixed(digits + 2))) : String(value));

const filled = ({ least, most }, value) => `${(100 * (Math.min(value, most) - least)) / (most - least)}%`;

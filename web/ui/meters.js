// How fast the model reads and writes: numbers, and tokens/s over the text as a small plot.

import { duration, percent, tokenRate, whole } from "./format.js";
import { html, useEffect, useRef } from "./html.js";
import { SpeedPlot } from "./speed-plot.js";
import { valueOf } from "./value.js";

const LEAST_POINTS = 3; // what a line is worth drawing of

/** speeds: those of session.js, or the signal. */
export function Meters({ speeds }) {
  const now = valueOf(speeds);
  if (!now) return null;
  const { prefill, decode, firstToken, stalled, tokens, series } = now;
  if (!tokens && prefill === null && stalled === null) return html`<p class="map-reading">How fast it writes will be shown here.</p>`;
  const writes = tokenRate(decode);
  const reads = tokenRate(prefill);
  return html`<section class="map-meters" aria-label="Speed">
    <dl class="map-numbers">
      <${Number} name="Writing" number=${writes.number} unit=${writes.unit} large />
      <${Number} name="Reading the prompt" number=${reads.number} unit=${reads.unit} />
      <${Number} name="To the first token" number=${firstToken === null ? "–" : duration(firstToken)} />
      <${Number} name="Waiting for bytes" number=${stalled === null ? "–" : percent(stalled)} unit="of the time" />
      <${Number} name="Written" number=${whole(tokens)} unit=${tokens === 1 ? "token" : "tokens"} />
    </dl>
    ${series.length >= LEAST_POINTS && html`<${Plot} series=${series} />`}
  </section>`;
}

function Number({ name, number, unit = "", large = false }) {
  return html`<div class=${`map-number${large ? " map-number-large" : ""}`}>
    <dt>${name}</dt><dd><b class=${number === "–" ? "map-none" : ""}>${number}</b>${unit && html` <span>${unit}</span>`}</dd>
  </div>`;
}

function Plot({ series }) {
  const root = useRef(null);
  const plot = useRef(null);
  useEffect(() => {
    plot.current = new SpeedPlot(root.current);
    return () => plot.current.close();
  }, []);
  useEffect(() => plot.current.show(series), [series]);
  const rates = series.map(([, rate]) => rate);
  const [low, high] = [Math.min(...rates), Math.max(...rates)].map((rate) => tokenRate(rate));
  const label = `Speed over the text: between ${low.number} ${low.unit} and ${high.number} ${high.unit}`;
  return html`<div class="map-plot" role="img" aria-label=${label}>
    <p aria-hidden="true">Tokens/s over the text</p>
    <div class="map-plot-area" ref=${root} aria-hidden="true"></div>
  </div>`;
}

// How fast the model reads and writes: numbers, and tokens/s over the text as a small plot.

import { duration, percent, tokenRate, whole } from "./format.js";
import { html, useEffect, useRef } from "./html.js";
import { SpeedPlot } from "./speed-plot.js";
import { valueOf } from "./value.js";

const LEAST_POINTS = 3; // what a line is worth drawing of

/** speeds, map: values or signals of session.js. */
export function Meters({ speeds, map }) {
  const now = valueOf(speeds);
  const waited = useStall(valueOf(map), now?.tokens ?? 0);
  if (!now) return null;
  const { prefill, decode, firstToken, tokens, series } = now;
  const stalled = now.stalled ?? waited;
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
  return html`<figure class="map-plot" role="img" aria-label=${label}>
    <figcaption aria-hidden="true">Tokens/s over the text</figcaption>
    <div class="map-plot-area" ref=${root} aria-hidden="true"></div>
  </figure>`;
}

/** Of the time in which a text was written, the share that computing waited for bytes; null before there is one. */
function useStall(map, tokens) {
  const seen = useRef({ begun: null, share: null, tokens: 0 });
  const text = seen.current;
  const at = performance.now() / 1000;
  if (tokens < text.tokens || !map) seen.current = { begun: null, share: null, tokens };
  else if (tokens > text.tokens) {
    text.tokens = tokens;
    text.begun ??= { at, stalled: map.stalled_seconds };
    const seconds = at - text.begun.at;
    if (seconds > 0.5) text.share = Math.min(1, Math.max(0, (map.stalled_seconds - text.begun.stalled) / seconds));
  }
  return seen.current.share;
}

/**
 * The cells of the live map, on a canvas: a page that follows a load eight times a second must not spend its thread on it. As elements
 * with transitions 128 segments took 75 ms an update on a busy machine, mostly for style and layers; like this they take 4.
 */

import { Colours, faded, onTheme } from "./colours.js";
import { drawable, fillOf, layoutOf, planOf } from "./geometry.js";
import { patternsOf } from "./patterns.js";

const LEFT = 0.6; // of a cell's light, at the next update after it was used
const COOL_MS = 450; // after the last update nothing is lit any more
const RISE = 2; // pixels that the stripes of what arrives move up by an update
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

export class LayerCanvas {
  #canvas;
  #context;
  #look; // {compact, ghost}
  #colours;
  #colour = {};
  #patterns = {};
  #font = "";
  #scale = 1; // pixels of the device per pixel
  #width = 0;
  #layout = null;
  #cells = null; // a path around them all
  #planned = null;
  #live = null;
  #heat = [];
  #phase = 0;
  #selected = null;
  #cooling = 0;
  #ends;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{compact: boolean, ghost: number}} look ghost: how strong the colours are of what is only planned, from 0 to 1
   */
  constructor(canvas, look) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#look = look;
    this.#colours = new Colours(canvas.parentElement);
    const resized = new ResizeObserver(([{ contentRect }]) => this.#resize(contentRect.width));
    resized.observe(canvas.parentElement);
    this.#ends = [onTheme(() => this.#restyle()), () => resized.disconnect(), () => this.#colours.close()];
  }

  close() {
    clearTimeout(this.#cooling);
    for (const end of this.#ends) end();
  }

  get columns() {
    return this.#layout?.columns ?? 1;
  }

  /** @param {any[] | null} planned segments as `examine` gives them @param {any[] | null} live those of `map`: what is there now */
  show(planned, live) {
    const before = this.#n;
    this.#planned = drawable(planned);
    this.#live = drawable(live);
    if (this.#n !== before) this.#resize(this.#width || this.#canvas.parentElement.clientWidth);
    this.#heat = (live ?? []).map(({ in_use: used }, i) => (used ? 1 : STILL.matches ? 0 : LEFT * (this.#heat[i] ?? 0)));
    if (!STILL.matches) this.#phase += RISE;
    clearTimeout(this.#cooling);
    if (this.#heat.some((heat) => heat > 0)) this.#cooling = setTimeout(() => this.#cool(), COOL_MS);
    this.#draw();
  }

  /** @param {number | null} i the cell that details are shown of */
  select(i) {
    this.#selected = i;
    this.#draw();
  }

  /** The cell at a place, in pixels from the canvas's corner; null: there is none. */
  at(x, y) {
    return this.#layout?.at(x, y) ?? null;
  }

  get #n() {
    return (this.#live ?? this.#planned ?? []).length;
  }

  #cool() {
    this.#heat = this.#heat.map(() => 0);
    this.#draw();
  }

  #resize(width) {
    this.#width = width;
    if (!width || !this.#n) return;
    const layout = (this.#layout = layoutOf(this.#n, width, this.#look.compact ? this.#canvas.parentElement.clientHeight : 0));
    this.#cells = new Path2D();
    for (const { x, y, width, height } of layout.rects) this.#cells.roundRect(x, y, width, height, layout.radius);
    this.#scale = devicePixelRatio;
    this.#canvas.width = Math.round(width * this.#scale);
    this.#canvas.height = Math.round(layout.height * this.#scale);
    this.#canvas.style.height = `${layout.height}px`;
    this.#restyle();
  }

  #restyle() {
    if (!this.#layout) return;
    const colour = (name) => this.#colours.of(name);
    this.#font = `11px ${getComputedStyle(this.#canvas).fontFamily}`;
    this.#patterns = patternsOf(this.#context, this.#scale, colour);
    this.#colour = Object.fromEntries(
      ["absent", "resident", "gpu", "use", "stream"].map((name) => [name, colour(`--map-${name}`)]).concat([["text", colour("--text")], ["muted", colour("--muted")]]),
    );
    this.#draw();
  }

  #draw() {
    const { rects, labels } = this.#layout ?? { rects: [] };
    if (!rects.length || rects.length !== this.#n) return;
    const c = this.#context;
    const { compact, ghost } = this.#look;
    c.setTransform(this.#scale, 0, 0, this.#scale, 0, 0);
    c.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    c.save();
    c.clip(this.#cells);
    if (compact) this.#fill(this.#colour.absent, () => [0, 1]);
    if (this.#planned) this.#drawPlan(ghost);
    if (this.#live) this.#drawLive();
    c.restore();
    if (!compact) {
      c.strokeStyle = this.#colour.absent;
      c.lineWidth = 1;
      c.stroke(this.#cells);
    }
    this.#drawLight();
    if (labels && !compact) this.#drawLabels(labels);
  }

  #drawPlan(ghost) {
    const shares = this.#planned.map(planOf);
    this.#fill(faded(this.#colour.gpu, ghost), (i) => [0, shares[i][0]]);
    this.#fill(faded(this.#colour.resident, ghost), (i) => [shares[i][0], shares[i][1]]);
    if (ghost === 1) this.#fill(this.#pattern("lines"), (i) => [0, shares[i][0]]);
    this.#context.globalAlpha = ghost < 1 ? 0.55 : 1;
    this.#fill(this.#pattern("hatch"), (i) => [shares[i][0] + shares[i][1], shares[i][2]]);
    this.#fill(this.#pattern("dots"), (i) => [0, shares[i].some((share) => share > 0) ? 0 : 1]);
    this.#context.globalAlpha = 1;
  }

  #drawLive() {
    const fills = this.#live.map(fillOf);
    this.#fill(this.#pattern("stripes", this.#phase), (i) => [fills[i][0] + fills[i][1], fills[i][2]]);
    this.#fill(this.#colour.resident, (i) => [fills[i][0], fills[i][1]]);
    this.#fill(this.#colour.gpu, (i) => [0, fills[i][0]]);
    this.#fill(this.#pattern("lines"), (i) => [0, fills[i][0]]);
  }

  /** Frames around what is in use, and ever fainter ones around what was. */
  #drawLight() {
    const c = this.#context;
    const { rects, radius } = this.#layout;
    const frame = (i, colour, out, width, alpha) => {
      const { x, y, width: w, height: h } = rects[i];
      c.globalAlpha = alpha;
      c.strokeStyle = colour;
      c.lineWidth = width;
      c.beginPath();
      c.roundRect(x - out, y - out, w + 2 * out, h + 2 * out, Math.max(0, radius + out));
      c.stroke();
    };
    this.#heat.forEach((heat, i) => {
      if (heat < 0.08 || i >= rects.length) return;
      if (!this.#look.compact) frame(i, this.#colour.use, 2, 5, 0.28 * heat);
      frame(i, this.#colour.use, this.#look.compact ? -1 : 1, 2, heat);
    });
    if (this.#selected !== null && this.#selected < rects.length) frame(this.#selected, this.#colour.text, 1, 2, 1);
    c.globalAlpha = 1;
  }

  #drawLabels(labels) {
    const c = this.#context;
    c.fillStyle = this.#colour.muted;
    c.font = this.#font;
    c.textBaseline = "top";
    for (const { text, x, y, align } of labels) {
      c.textAlign = align;
      c.fillText(text, x, y);
    }
  }

  /** In one go what `share` says of each cell: [from, height], from the bottom, as shares of it. */
  #fill(style, share) {
    const c = this.#context;
    c.fillStyle = style;
    c.beginPath();
    this.#layout.rects.forEach(({ x, y, width, height }, i) => {
      const [from, part] = share(i);
      if (part > 0) c.rect(x, y + height * (1 - from - part), width, height * part);
    });
    c.fill();
  }

  /** Patterns are in pixels of the device, and rise. */
  #pattern(name, rise = 0) {
    this.#patterns[name].setTransform(new DOMMatrix().scale(1 / this.#scale).translate(0, -rise * this.#scale));
    return this.#patterns[name];
  }
}

// The cells of the live map as elements, made once a model and then only touched where an amount has changed: a page that follows a
// load eight times a second must not build anything. What moves by itself (stripes, fading) is left to the compositor.

import { fillOf, gridOf, labelled, planOf } from "./geometry.js";
import { segmentName } from "./format.js";

const LEAST_CHANGE = 1 / 400; // of a cell: less than a pixel

/** In `root`, a grid. */
export class LayerCells {
  #root;
  #compact;
  #cells = []; // {element, body, gpu, resident, arriving, label, fill: the shares that are shown, used}
  #names = "";
  #planned = null;
  #width = 0;

  /** @param {HTMLElement} root @param {{compact: boolean, id: string}} options id: what ids of cells begin with */
  constructor(root, { compact, id }) {
    this.#root = root;
    this.#compact = compact;
    this.id = id;
  }

  /**
   * @param {any[] | null} planned segments as `examine` gives them @param {any[] | null} live the same of `map`, what is there now
   */
  show(planned, live) {
    const segments = live ?? planned ?? [];
    const names = segments.map(({ name }) => name).join();
    if (names !== this.#names) {
      this.#build(segments);
      this.#names = names;
      this.#planned = null;
    }
    if (planned && planned !== this.#planned) {
      this.#planned = planned;
      planned.forEach((segment, i) => this.#plan(i, segment));
    }
    if (live) live.forEach((segment, i) => this.#fill(i, segment));
    else if (planned) planned.forEach(({ name, bytes }, i) => this.#fill(i, { name, bytes }));
  }

  /** Lay out for a width in pixels. */
  resize(width) {
    if (!this.#cells.length || !width) return;
    this.#width = width;
    if (this.#compact) return;
    const n = this.#cells.length;
    const { columns, rows } = gridOf(n, width);
    this.columns = columns;
    this.#root.style.setProperty("--map-columns", columns);
    this.#root.dataset.rows = rows === 1 ? "one" : rows === 2 ? "two" : "many";
    const numbers = new Set(labelled(n, columns, width));
    this.#cells.forEach(({ label }, i) => {
      const end = i === 0 ? "embedding" : i === n - 1 ? "head" : "";
      label.textContent = end || (numbers.has(i) ? i : "");
      label.dataset.side = i % columns === 0 ? "start" : i % columns === columns - 1 ? "end" : "";
    });
  }

  #build(segments) {
    this.#cells = segments.map(({ name }, i) => {
      const part = (tag, className) => Object.assign(document.createElement(tag), { className });
      const element = part("div", "map-cell");
      const body = part("div", "map-body");
      const [arriving, resident, gpu] = ["map-arriving", "map-resident", "map-gpu"].map((kind) => part("i", kind));
      body.append(arriving, resident, gpu);
      arriving.hidden = true;
      element.append(body);
      const label = part("span", "map-label");
      if (!this.#compact) {
        element.append(label);
        element.id = `${this.id}-${i}`;
        element.dataset.i = i;
        element.setAttribute("role", "option");
        element.setAttribute("aria-selected", "false");
        element.setAttribute("aria-label", segmentName(name));
      }
      return { element, body, gpu, resident, arriving, label, fill: [0, 0, 0], used: false };
    });
    this.#root.replaceChildren(...this.#cells.map(({ element }) => element));
    this.resize(this.#width);
  }

  #plan(i, segment) {
    const { style } = this.#cells[i].body;
    const [gpu, resident, streamed] = planOf(segment).map((share) => 100 * share);
    style.setProperty("--plan-gpu", `${gpu}%`);
    style.setProperty("--plan-here", `${gpu + resident}%`);
    style.setProperty("--plan-stream", `${streamed}%`);
  }

  #fill(i, segment) {
    const cell = this.#cells[i];
    const fill = fillOf(segment);
    if (fill.some((share, part) => changed(share, cell.fill[part]))) {
      const [gpu, resident, arriving] = (cell.fill = fill);
      cell.gpu.style.transform = `scaleY(${gpu})`;
      cell.resident.style.transform = `scaleY(${gpu + resident})`;
      // Not scaled, as its stripes would be; it is under what has arrived.
      cell.arriving.style.height = `${arriving && 100 * (gpu + resident + arriving)}%`;
      cell.arriving.hidden = arriving === 0;
    }
    const used = Boolean(segment.in_use);
    if (used !== cell.used) {
      cell.element.classList.toggle("map-used", used);
      cell.used = used;
    }
  }
}

function changed(share, was) {
  return share !== was && (Math.abs(share - was) > LEAST_CHANGE || share === 0 || share === 1);
}

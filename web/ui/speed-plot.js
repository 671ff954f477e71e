// Tokens/s over time, drawn by uPlot, which is fetched when there is something to draw. It follows the theme and its element's width.

import { Colours, faded, onTheme } from "./colours.js";

const HEIGHT = 120;

export class SpeedPlot {
  #root;
  #plot = null;
  #series = [];
  #closed = false;
  #ends = [];

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    this.#start();
  }

  /** @param {[number, number][]} series seconds since the text began, tokens/s */
  show(series) {
    this.#series = series;
    this.#plot?.setData(columns(series));
  }

  close() {
    this.#closed = true;
    for (const end of this.#ends) end();
    this.#plot?.destroy();
  }

  async #start() {
    const { default: UPlot } = await import("./vendor/uplot.js");
    if (this.#closed) return;
    const draw = () => {
      this.#plot?.destroy();
      this.#plot = new UPlot(options(this.#root), columns(this.#series), this.#root);
    };
    draw();
    const resized = new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width && contentRect.width !== this.#plot.width) this.#plot.setSize({ width: contentRect.width, height: HEIGHT });
    });
    resized.observe(this.#root);
    this.#ends.push(() => resized.disconnect(), onTheme(draw));
  }
}

function columns(series) {
  return [series.map(([at]) => at), series.map(([, rate]) => rate)];
}

function options(root) {
  const colours = new Colours(root);
  const [line, muted, pace] = ["--line", "--muted", "--map-resident"].map((name) => colours.of(name));
  colours.close();
  const grid = { stroke: line, width: 1 };
  const axis = { stroke: muted, grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width: root.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    padding: [8, 8, 0, 0],
    scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(high * 1.15, 0.1)] } },
    axes: [
      { ...axis, grid: { show: false }, size: 22, gap: 4, values: (_, at) => at.map((t) => `${t} s`), space: 60 },
      { ...axis, size: 36, gap: 6, space: 32 },
    ],
    series: [
      {},
      {
        stroke: pace,
        width: 2,
        fill: (plot) => {
          const { top, height } = plot.bbox;
          const shade = plot.ctx.createLinearGradient(0, top, 0, top + height);
          shade.addColorStop(0, faded(pace, 0.28));
          shade.addColorStop(1, faded(pace, 0));
          return shade;
        },
        points: { show: false },
      },
    ],
  };
}

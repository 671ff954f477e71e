// What the map's states look like besides their colour: tiles that repeat, drawn in pixels of the device.

/**
 * hatch: what is read for each token; stripes: what arrives; lines: over what is on a GPU; dots: what is read row by row.
 * @param {CanvasRenderingContext2D} context @param {number} scale pixels of the device per pixel @param {(name: string) => string} colour
 */
export function patternsOf(context, scale, colour) {
  const stream = colour("--map-stream");
  const arriving = colour("--map-arriving");
  const surface = colour("--surface");
  return {
    hatch: tile(context, Math.round(6 * scale), (c, n) => slanted(c, n, 1.25 * scale, stream, -1)),
    stripes: tile(context, Math.round(8 * scale), (c, n) => {
      c.fillStyle = arriving;
      c.globalAlpha = 0.3;
      c.fillRect(0, 0, n, n);
      c.globalAlpha = 1;
      slanted(c, n, 3 * scale, arriving, 1);
    }),
    lines: tile(context, Math.round(4 * scale), (c, n) => {
      c.fillStyle = surface;
      c.globalAlpha = 0.3;
      c.fillRect(0, 0, Math.max(1, Math.round(scale)), n);
    }),
    dots: tile(context, Math.round(5 * scale), (c, n) => {
      c.fillStyle = stream;
      c.arc(n / 2, n / 2, 0.9 * scale, 0, 2 * Math.PI);
      c.fill();
    }),
  };
}

function tile(context, n, draw) {
  const canvas = Object.assign(document.createElement("canvas"), { width: n, height: n });
  draw(canvas.getContext("2d"), n);
  return context.createPattern(canvas, "repeat");
}

/** A line from corner to corner, with the ends of its neighbours, so that it goes on in the next tile. */
function slanted(c, n, width, colour, direction) {
  c.strokeStyle = colour;
  c.lineWidth = width;
  c.beginPath();
  for (const shift of [-n, 0, n]) {
    c.moveTo(shift - n, direction > 0 ? 2 * n : -n);
    c.lineTo(shift + 2 * n, direction > 0 ? -n : 2 * n);
  }
  c.stroke();
}

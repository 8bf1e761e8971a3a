// Placing the crop by hand: dragged, scaled and turned on the photograph.

import { $, answered, lay, whereIn } from "./dom.js";
import { fill } from "./sliders.js";
import { ARROWS } from "./zoom.js";

const SMALLEST = 16; // px
const NUDGE = 0.02; // of the crop's side, for a press of an arrow key

// The { box, angle } that a hand places; null where it is called off. Without a
// `box` to begin with, it is the middle of the picture.
export async function cropped({ image, width, height, box, angle = 0 }) {
  const [bed, size, turn] = [$("bed"), $("crop-size"), $("crop-turn")];
  const [canvas, square] = bed.children;
  const side = box?.size ?? Math.min(width, height);
  const crop = { // x and y are of its middle
    x: box ? box.x + side / 2 : width / 2,
    y: box ? box.y + side / 2 : height / 2,
    size: side,
    angle,
  };
  const boxed = () => ({ x: crop.x - crop.size / 2, y: crop.y - crop.size / 2, size: crop.size });

  const change = (to) => {
    Object.assign(crop, to);
    crop.x = Math.min(width, Math.max(0, crop.x));
    crop.y = Math.min(height, Math.max(0, crop.y));
    crop.size = Math.min(Number(size.max), Math.max(SMALLEST, crop.size));
    crop.angle = ((crop.angle + 540) % 360) - 180;
    lay(square, boxed(), crop.angle, { x: 0, y: 0, width, height });
    fill(size, crop.size);
    fill(turn, crop.angle);
  };

  size.min = SMALLEST;
  size.max = Math.ceil(1.5 * Math.max(width, height));
  const shrink = Math.min(1, 1200 / Math.max(width, height));
  Object.assign(canvas, { width: Math.round(width * shrink), height: Math.round(height * shrink) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  bed.style.setProperty("--shape", width / height);
  change();

  let held = null; // { part, x, y } of what the pointer has
  const point = (event) => {
    const { x, y } = whereIn(bed, event);
    return { x: x * width, y: y * height };
  };
  square.onpointerdown = (event) => {
    if (event.button !== 0) return;
    square.setPointerCapture(event.pointerId);
    const { x, y } = point(event);
    held = { part: event.target.className, x: crop.x - x, y: crop.y - y };
  };
  square.onpointermove = (event) => {
    if (!held) return;
    const at = point(event);
    const [x, y] = [at.x - crop.x, at.y - crop.y];
    if (held.part === "turn") change({ angle: (Math.atan2(y, x) * 180) / Math.PI + 90 });
    else if (held.part === "corner-grip") change({ size: Math.hypot(x, y) * Math.SQRT2 });
    else change({ x: at.x + held.x, y: at.y + held.y });
  };
  square.onlostpointercapture = () => { held = null; };
  square.onkeydown = (event) => {
    const way = ARROWS[event.key];
    if (!way) return;
    event.preventDefault();
    const step = NUDGE * crop.size;
    change({ x: crop.x + way[0] * step, y: crop.y + way[1] * step });
  };
  size.oninput = () => change({ size: size.valueAsNumber });
  turn.oninput = () => change({ angle: turn.valueAsNumber });

  const use = answered($("cropper"));
  square.focus();
  return (await use) ? { box: boxed(), angle: crop.angle } : null;
}

// Placing the crop by hand: dragged, scaled and turned on the photograph.

import { $ } from "./dom.js";
import { fill } from "./sliders.js";

const SMALLEST = 16; // px
const NUDGE = 0.02; // of the crop's side, for a press of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// The { box, angle } that a hand places; null where it is called off. Without a
// `box` to begin with, it is the middle of the picture.
export function cropped({ image, width, height, box, angle = 0 }) {
  const dialog = $("cropper");
  const bed = $("bed");
  const square = bed.querySelector(".crop-box");
  const [size, turn] = [$("crop-size"), $("crop-turn")];
  const side = box?.size ?? Math.min(width, height);
  const crop = box
    ? { x: box.x + side / 2, y: box.y + side / 2, size: side, angle } // x and y of its middle
    : { x: width / 2, y: height / 2, size: side, angle };

  const show = () => {
    crop.x = Math.min(width, Math.max(0, crop.x));
    crop.y = Math.min(height, Math.max(0, crop.y));
    crop.size = Math.min(Number(size.max), Math.max(SMALLEST, crop.size));
    crop.angle = ((crop.angle + 540) % 360) - 180;
    const part = (length, of) => `${(100 * length) / of}%`;
    Object.assign(square.style, {
      left: part(crop.x - crop.size / 2, width),
      top: part(crop.y - crop.size / 2, height),
      width: part(crop.size, width),
      height: part(crop.size, height),
      transform: `rotate(${crop.angle}deg)`,
    });
    size.value = crop.size;
    turn.value = crop.angle;
    for (const slider of [size, turn]) fill(slider, slider.valueAsNumber);
  };

  size.min = SMALLEST;
  size.max = Math.ceil(1.5 * Math.max(width, height));
  const canvas = bed.querySelector("canvas");
  const shrink = Math.min(1, 1200 / Math.max(width, height));
  Object.assign(canvas, { width: Math.round(width * shrink), height: Math.round(height * shrink) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  bed.style.setProperty("--shape", width / height);
  show();
  dialog.showModal();
  square.focus();

  const life = new AbortController();
  const on = (target, kind, act) => target.addEventListener(kind, act, { signal: life.signal });
  let held = null; // { part, x, y } of what the pointer has
  const point = (event) => {
    const { left, top, width: across } = bed.getBoundingClientRect();
    const scale = width / across;
    return { x: (event.clientX - left) * scale, y: (event.clientY - top) * scale };
  };
  on(square, "pointerdown", (event) => {
    if (event.button !== 0) return;
    square.setPointerCapture(event.pointerId);
    const { x, y } = point(event);
    held = { part: event.target.className, x: crop.x - x, y: crop.y - y };
  });
  on(square, "pointermove", (event) => {
    if (!held || !square.hasPointerCapture(event.pointerId)) return;
    const at = point(event);
    const [x, y] = [at.x - crop.x, at.y - crop.y];
    if (held.part === "turn") crop.angle = (Math.atan2(y, x) * 180) / Math.PI + 90;
    else if (held.part === "corner-grip") crop.size = Math.hypot(x, y) * Math.SQRT2;
    else Object.assign(crop, { x: at.x + held.x, y: at.y + held.y });
    show();
  });
  on(square, "lostpointercapture", () => { held = null; });
  on(square, "keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way) return;
    event.preventDefault();
    crop.x += way[0] * NUDGE * crop.size;
    crop.y += way[1] * NUDGE * crop.size;
    show();
  });
  on(size, "input", () => { crop.size = size.valueAsNumber; show(); });
  on(turn, "input", () => { crop.angle = turn.valueAsNumber; show(); });

  return new Promise((resolve) => {
    on($("use-crop"), "click", () => dialog.close("use"));
    on(dialog, "close", () => {
      life.abort();
      const used = dialog.returnValue === "use";
      dialog.returnValue = "";
      const half = crop.size / 2;
      resolve(used ? { box: { x: crop.x - half, y: crop.y - half, size: crop.size }, angle: crop.angle } : null);
    });
  });
}

// Paints the picture before and after, whole or as the crop alone, from afar or near.
//
// While a slider moves, only the small crop comes from the service. What it changed is added to
// the photograph's own pixels, faded out towards the crop's border, which is how the service sets
// the face into the photograph: so nothing jumps when the photograph itself arrives.

import { $, lay } from "./dom.js";

const FADE = 0.125; // of the crop's side
const COARSEST = 10; // times; a pixel shown larger than that is all there is to see
const SMOOTH = 512; // px
const SHARPEST = 4096; // px; a larger photograph is shown, though never saved, at this side
const NEAREST = 12; // times as large as what fits the window
const DOUBLINGS = 3; // of what changed, in its map
const DIM = 0.2; // of the picture beneath that map

export class Picture {
  #stage = $("stage");
  #holder = $("picture");
  #before = $("before").getContext("2d");
  #after = $("after").getContext("2d");
  #shown = null; // { image, width, height, box, angle }
  #change = null; // what to show after: { image } or { more, less }
  #plain = null; // pixels of the crop without strengths
  #view = "photo";
  zoom = 1; // times as large as what fits the window
  #outlines = []; // { element, box, angle }
  #middle = { x: 0, y: 0 }; // of the window onto what is shown, in its pixels
  #window = { x: 0, y: 0, width: 1, height: 1 };
  #map = false;

  constructor() {
    new ResizeObserver(() => this.#lay()).observe(this.#stage);
  }

  // `box` and `angle` say where in the image `plain`, the crop without strengths, comes from.
  show({ image, width, height, box, angle, plain }) {
    this.#shown?.image.close?.();
    this.#shown = { image, width, height, box, angle };
    this.#plain = pixels(plain);
    this.#change = null;
    this.#outlines = [];
    this.view = "photo";
    this.busy = false;
  }

  // `outlines` are elements to lie on the photograph, each with its box and angle.
  outline(outlines) {
    this.#outlines = outlines;
    this.#lay();
  }

  clear() {
    this.#shown = this.#change = this.#plain = null;
    for (const { canvas } of [this.#before, this.#after]) canvas.width = canvas.height = 0;
  }

  // "photo" or "crop"; from afar.
  set view(view) {
    this.#view = view;
    this.zoom = 1;
    this.#lay();
  }

  get view() {
    return this.#view;
  }

  // Nearer by a factor; what lies at (x, y) of the window, in shares of it, stays there.
  approach(factor, { x = 0.5, y = 0.5 } = {}) {
    const zoom = Math.min(NEAREST, Math.max(1, this.zoom * factor));
    const nearer = 1 - this.zoom / zoom;
    this.zoom = zoom;
    this.pan((x - 0.5) * nearer, (y - 0.5) * nearer);
  }

  // The window moves, by shares of itself.
  pan(x, y) {
    this.#middle.x += x * this.#window.width;
    this.#middle.y += y * this.#window.height;
    this.#lay();
  }

  // Whether the picture after is a map of what changed.
  set map(map) {
    this.#map = map;
    this.#paintAfter();
  }

  get map() {
    return this.#map;
  }

  // Whether what is shown is still to change.
  set busy(busy) {
    this.#holder.ariaBusy = busy;
  }

  original() {
    this.#become(null);
    this.busy = false;
  }

  // `image` is the whole picture after, at rest.
  settle(image) {
    this.#become({ image });
  }

  // `crop` is the crop after, on the way.
  follow(crop) {
    const after = pixels(crop);
    this.#become({ more: surplus(after, this.#plain, 1), less: surplus(after, this.#plain, -1) });
  }

  #become(change) {
    this.#change?.image?.close?.();
    this.#change = change;
    this.#paintAfter();
  }

  #lay() {
    if (!this.#shown) return;
    const { clientWidth, clientHeight } = this.#stage;
    const { paddingLeft, paddingRight, paddingTop, paddingBottom } = getComputedStyle(this.#stage);
    const room = {
      width: clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight),
      height: clientHeight - parseFloat(paddingTop) - parseFloat(paddingBottom),
    };
    if (room.width < 1 || room.height < 1) return;
    const { box } = this.#shown;
    const shape = this.#view === "crop" ? { width: box.size, height: box.size } : this.#shown;
    const fits = Math.min(room.width / shape.width, room.height / shape.height, COARSEST);
    const size = {};
    for (const [side, from] of [["width", "x"], ["height", "y"]]) {
      const whole = Math.round(shape[side] * fits) * this.zoom;
      size[side] = Math.round(Math.min(room[side], whole));
      const part = shape[side] * Math.min(1, size[side] / whole);
      const middle = Math.min(shape[side] - part / 2, Math.max(part / 2, this.#middle[from]));
      this.#middle[from] = middle;
      this.#window[side] = part;
      this.#window[from] = middle - part / 2;
    }
    this.#holder.style.width = `${size.width}px`;
    this.#holder.style.height = `${size.height}px`;
    for (const { canvas } of [this.#before, this.#after]) {
      canvas.width = Math.round(size.width * devicePixelRatio);
      canvas.height = Math.round(size.height * devicePixelRatio);
    }
    this.#holder.classList.toggle("near", this.zoom > 1);
    for (const { element, box, angle } of this.#outlines) lay(element, box, angle, this.#window);
    this.#paint(this.#before, this.#shown.image);
    this.#paintAfter();
  }

  #paintAfter() {
    if (!this.#shown) return;
    if (this.#change?.image) this.#paint(this.#after, this.#change.image);
    else this.#paintChange();
    if (this.#map) this.#paintMap();
  }

  #paintMap() {
    const pen = this.#after;
    const paint = ({ canvas }, operation, alpha = 1) => {
      ready(pen, operation);
      pen.globalAlpha = alpha;
      pen.drawImage(canvas, 0, 0);
    };
    paint(this.#before, "difference");
    for (let i = 0; i < DOUBLINGS; i++) paint(pen, "lighter");
    paint(this.#before, "lighter", DIM);
    pen.globalAlpha = 1;
  }

  #paintChange() {
    const pen = this.#after;
    const { box, angle } = this.#shown;
    ready(pen, "copy");
    pen.drawImage(this.#before.canvas, 0, 0);
    // A canvas can add but not subtract; on the negative, adding subtracts. The negative is
    // taken of the whole canvas, as that of a turned square would leave a line at its border.
    for (const layer of this.#change ? [this.#change.less, this.#change.more] : []) {
      ready(pen, "difference");
      whiten(pen);
      this.#aim(pen, "lighter");
      pen.translate(box.x + box.size / 2, box.y + box.size / 2);
      pen.rotate((angle * Math.PI) / 180);
      pen.drawImage(layer, -box.size / 2, -box.size / 2, box.size, box.size);
    }
  }

  // From the photograph's pixels to the canvas's.
  #aim(pen, operation) {
    const { box, angle } = this.#shown;
    const { x, y, width, height } = this.#window;
    ready(pen, operation);
    pen.imageSmoothingQuality = "high";
    pen.scale(pen.canvas.width / width, pen.canvas.height / height);
    pen.translate(-x, -y);
    if (this.#view === "photo") return;
    pen.translate(box.size / 2, box.size / 2);
    pen.rotate((-angle * Math.PI) / 180);
    pen.translate(-box.x - box.size / 2, -box.y - box.size / 2);
  }

  #paint(pen, image) {
    const { width, height } = this.#shown;
    ready(pen);
    whiten(pen); // what the service puts behind a transparent photograph
    // Beyond its border the photograph goes on mirrored, as in the crop that the model is given.
    const tiles = this.#view === "crop" ? [[0, -1], [2, -1], [0, 1]] : [[0, 1]];
    for (const [down, vertical] of tiles) {
      for (const [right, horizontal] of tiles) {
        this.#aim(pen);
        pen.transform(horizontal, 0, 0, vertical, right * width, down * height);
        pen.drawImage(image, 0, 0, width, height);
      }
    }
  }
}

function ready(pen, operation = "source-over") {
  pen.resetTransform();
  pen.globalCompositeOperation = operation;
}

function whiten(pen) {
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
}

// A crop enlarged at one stroke shows its pixels' lattice; enlarged twofold at a time it does not.
export function enlarged(image) {
  let large = image;
  while (large.width < SMOOTH) {
    const canvas = new OffscreenCanvas(large.width * 2, large.height * 2);
    canvas.getContext("2d").drawImage(large, 0, 0, canvas.width, canvas.height);
    large = canvas;
  }
  return large;
}

// A bitmap that a canvas can draw, with the photograph's own width and height.
export async function bitmap(blob) {
  const image = await createImageBitmap(blob);
  const { width, height } = image;
  const shrink = SHARPEST / Math.max(width, height);
  if (shrink >= 1) return { image, width, height };
  const small = await createImageBitmap(image, {
    resizeWidth: Math.round(width * shrink),
    resizeHeight: Math.round(height * shrink),
    resizeQuality: "high",
  });
  image.close();
  return { image: small, width, height };
}

function pixels(image) {
  const pen = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  return pen.getImageData(0, 0, image.width, image.height);
}

// What a crop has more than another, or by a `sign` of -1 less, faded out towards the border.
function surplus(after, before, sign) {
  const { width, height, data } = after;
  const layer = new ImageData(width, height);
  for (let i = 0; i < data.length; i++) {
    const [column, row] = [(i >> 2) % width, Math.floor((i >> 2) / width)];
    const change = (data[i] - before.data[i]) * ramp(column, width) * ramp(row, height);
    layer.data[i] = i % 4 === 3 ? 255 : sign * change; // which is held to 0 and more
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(layer, 0, 0);
  return canvas;
}

function ramp(place, side) {
  const share = Math.min(1, (Math.min(place, side - 1 - place) + 0.5) / side / FADE);
  return share * share * (3 - 2 * share);
}

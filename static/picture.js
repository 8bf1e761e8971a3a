// Paints the picture before and after, whole or as the crop alone, from afar or near.
//
// While a slider moves, only the small crop comes from the service. What it changed is added to
// the photograph's own pixels, faded out towards the crop's border, which is how the service sets
// the face into the photograph: so nothing jumps when the photograph itself arrives.

const FADE = 0.125; // of the crop's side
const COARSEST = 10; // times; a pixel shown larger than that is all there is to see
const SMOOTH = 512; // px
const SHARPEST = 4096; // px; a larger photograph is shown, though never saved, at this side
const NEAREST = 12; // times as large as what fits the window
const DOUBLINGS = 3; // of what changed, in its map
const DIM = 0.2; // of the picture beneath that map

export class Picture {
  #stage;
  #holder;
  #before;
  #after;
  #shown = null; // { image, width, height, box, angle }
  #change = null; // what to show after: { image } or { more, less }
  #plain = null; // pixels of the crop without strengths
  #view = "photo";
  #outlines = []; // { element, box, angle }
  #zoom = 1;
  #middle = { x: 0, y: 0 }; // of the window onto what is shown, in its pixels
  #window = { x: 0, y: 0, width: 1, height: 1 };
  #map = false;

  constructor({ stage, holder, before, after }) {
    this.#stage = stage;
    this.#holder = holder;
    this.#before = before.getContext("2d");
    this.#after = after.getContext("2d");
    new ResizeObserver(() => this.#lay()).observe(stage);
  }

  // `box` and `angle` say where in the image `plain`, the crop without strengths, comes from.
  show({ image, width, height, box, angle, plain }) {
    this.#shown?.image.close?.();
    this.#shown = { image, width, height, box, angle };
    this.#plain = pixels(plain);
    this.#change = null;
    this.#outlines = [];
    this.#map = false;
    this.#fit();
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

  set view(view) {
    this.#view = view;
    this.#fit();
  }

  get zoom() {
    return this.#zoom;
  }

  // Nearer by a factor; what lies at (x, y) of the window, in shares of it, stays there.
  approach(factor, { x = 0.5, y = 0.5 } = {}) {
    const zoom = Math.min(NEAREST, Math.max(1, this.#zoom * factor));
    const [right, down] = [(x - 0.5) * this.#window.width, (y - 0.5) * this.#window.height];
    const left = 1 - this.#zoom / zoom;
    this.#middle = { x: this.#middle.x + right * left, y: this.#middle.y + down * left };
    this.#zoom = zoom;
    this.#lay();
  }

  // The window moves, by shares of itself.
  pan(x, y) {
    this.#middle = {
      x: this.#middle.x + x * this.#window.width,
      y: this.#middle.y + y * this.#window.height,
    };
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

  #fit() {
    this.#zoom = 1;
    this.#lay();
  }

  get view() {
    return this.#view;
  }

  // Whether what is shown is still to change.
  set busy(busy) {
    this.#holder.setAttribute("aria-busy", busy);
  }

  original() {
    this.#change = null;
    this.#paintAfter();
    this.busy = false;
  }

  // `image` is the whole picture after, at rest.
  settle(image) {
    this.#change?.image?.close?.();
    this.#change = { image };
    this.#paintAfter();
  }

  // `crop` is the crop after, on the way.
  follow(crop) {
    this.#change?.image?.close?.();
    this.#change = difference(pixels(crop), this.#plain);
    this.#paintAfter();
  }

  #lay() {
    if (!this.#shown) return;
    const style = getComputedStyle(this.#stage);
    const room = {
      width: this.#stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight),
      height: this.#stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom),
    };
    if (room.width < 1 || room.height < 1) return;
    const { box } = this.#shown;
    const shape = this.#view === "crop" ? { width: box.size, height: box.size } : this.#shown;
    const fits = Math.min(room.width / shape.width, room.height / shape.height, COARSEST);
    const size = {};
    for (const [side, from] of [["width", "x"], ["height", "y"]]) {
      const whole = Math.round(shape[side] * fits) * this.#zoom;
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
    this.#holder.classList.toggle("near", this.#zoom > 1);
    const { x, y, width, height } = this.#window;
    const part = (length) => `${100 * length}%`;
    for (const { element, box, angle } of this.#outlines) {
      Object.assign(element.style, {
        left: part((box.x - x) / width),
        top: part((box.y - y) / height),
        width: part(box.size / width),
        height: part(box.size / height),
        transform: `rotate(${angle}deg)`,
      });
    }
    this.#paint(this.#before, this.#shown.image);
    this.#paintAfter();
  }

  #paintAfter() {
    if (!this.#shown) return;
    const pen = this.#after;
    if (this.#change?.image) this.#paint(pen, this.#change.image);
    else this.#paintChange(pen);
    if (this.#map) this.#paintMap(pen);
  }

  #paintMap(pen) {
    const paint = (canvas, operation, alpha = 1) => {
      pen.globalCompositeOperation = operation;
      pen.globalAlpha = alpha;
      pen.drawImage(canvas, 0, 0);
    };
    pen.resetTransform();
    paint(this.#before.canvas, "difference");
    for (let i = 0; i < DOUBLINGS; i++) paint(pen.canvas, "lighter");
    paint(this.#before.canvas, "lighter", DIM);
    pen.globalAlpha = 1;
    pen.globalCompositeOperation = "source-over";
  }

  #paintChange(pen) {
    const { width, height } = pen.canvas;
    pen.resetTransform();
    pen.globalCompositeOperation = "copy";
    pen.drawImage(this.#before.canvas, 0, 0);
    if (this.#change) {
      // A canvas can add but not subtract; on the negative, adding subtracts. The negative is
      // taken of the whole canvas, as that of a turned square would leave a line at its border.
      const negative = () => {
        pen.resetTransform();
        pen.globalCompositeOperation = "difference";
        pen.fillStyle = "#fff";
        pen.fillRect(0, 0, width, height);
      };
      negative();
      this.#add(pen, this.#change.less);
      negative();
      this.#add(pen, this.#change.more);
    }
    pen.globalCompositeOperation = "source-over";
  }

  #add(pen, layer) {
    const { box, angle } = this.#shown;
    this.#aim(pen);
    pen.translate(box.x + box.size / 2, box.y + box.size / 2);
    pen.rotate((angle * Math.PI) / 180);
    pen.globalCompositeOperation = "lighter";
    pen.drawImage(layer, -box.size / 2, -box.size / 2, box.size, box.size);
  }

  // From the photograph's pixels to the canvas's.
  #aim(pen) {
    const { box, angle } = this.#shown;
    const { x, y, width, height } = this.#window;
    pen.resetTransform();
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.scale(pen.canvas.width / width, pen.canvas.height / height);
    pen.translate(-x, -y);
    if (this.#view === "photo") return;
    pen.translate(box.size / 2, box.size / 2);
    pen.rotate((-angle * Math.PI) / 180);
    pen.translate(-box.x - box.size / 2, -box.y - box.size / 2);
  }

  #paint(pen, image) {
    const { width, height, box } = this.#shown;
    pen.resetTransform();
    pen.globalCompositeOperation = "source-over";
    pen.fillStyle = "#fff"; // what the service puts behind a transparent photograph
    pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
    const reach = box.size * Math.SQRT1_2;
    const middle = { x: box.x + box.size / 2, y: box.y + box.size / 2 };
    const inside =
      middle.x >= reach && middle.y >= reach && middle.x + reach <= width && middle.y + reach <= height;
    // Beyond its border the photograph goes on mirrored, as in the crop that the model is given.
    const tiles = this.#view === "crop" && !inside ? [-1, 1, 0] : [0];
    for (const row of tiles) {
      for (const column of tiles) {
        this.#aim(pen);
        pen.translate(column && (column > 0 ? 2 * width : 0), row && (row > 0 ? 2 * height : 0));
        pen.scale(column ? -1 : 1, row ? -1 : 1);
        pen.drawImage(image, 0, 0, width, height);
      }
    }
  }
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

function difference(after, before) {
  const { width, height } = after;
  const layers = [new ImageData(width, height), new ImageData(width, height)];
  const [more, less] = layers.map(({ data }) => data.fill(255));
  for (let i = 0; i < after.data.length; i += 4) {
    const column = (i / 4) % width;
    const row = Math.floor(i / 4 / width);
    const fade = ramp(column, width) * ramp(row, height);
    for (let channel = i; channel < i + 3; channel++) {
      const change = (after.data[channel] - before.data[channel]) * fade;
      more[channel] = Math.max(0, change);
      less[channel] = Math.max(0, -change);
    }
  }
  const [moreLayer, lessLayer] = layers.map((layer) => {
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(layer, 0, 0);
    return canvas;
  });
  return { more: moreLayer, less: lessLayer };
}

function ramp(place, side) {
  const share = Math.min(1, (Math.min(place, side - 1 - place) + 0.5) / side / FADE);
  return share * share * (3 - 2 * share);
}

// Paints the picture before and after, whole or as the crop alone.
//
// While a slider moves, only the small crop comes from the service. What it changed is added to
// the photograph's own pixels, faded out towards the crop's border, which is how the service sets
// the face into the photograph: so nothing jumps when the photograph itself arrives.

const FADE = 0.125; // of the crop's side
const COARSEST = 10; // times; a pixel shown larger than that is all there is to see
const SMOOTH = 512; // px
const SHARPEST = 4096; // px; a larger photograph is shown, though never saved, at this side

export class Picture {
  #stage;
  #frame;
  #holder;
  #before;
  #after;
  #shown = null; // { image, width, height, box, angle }
  #change = null; // what to show after: { image } or { more, less }
  #plain = null; // pixels of the crop without strengths
  #view = "photo";

  constructor({ stage, holder, before, after, frame }) {
    this.#stage = stage;
    this.#holder = holder;
    this.#frame = frame;
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
    this.#lay();
    this.busy = false;
  }

  clear() {
    this.#shown = this.#change = this.#plain = null;
    for (const { canvas } of [this.#before, this.#after]) canvas.width = canvas.height = 0;
  }

  set view(view) {
    this.#view = view;
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
    const { width, height, box, angle } = this.#shown;
    const shape = this.#view === "crop" ? { width: 1, height: 1 } : { width, height };
    const across = this.#view === "crop" ? box.size : width; // pixels there are to show
    const scale = Math.min(
      room.width / shape.width,
      room.height / shape.height,
      (COARSEST * across) / shape.width,
    );
    const size = { width: Math.round(shape.width * scale), height: Math.round(shape.height * scale) };
    this.#holder.style.width = `${size.width}px`;
    this.#holder.style.height = `${size.height}px`;
    for (const { canvas } of [this.#before, this.#after]) {
      canvas.width = Math.round(size.width * devicePixelRatio);
      canvas.height = Math.round(size.height * devicePixelRatio);
    }
    const part = (length) => `${100 * length}%`;
    Object.assign(this.#frame.style, {
      left: part(box.x / width),
      top: part(box.y / height),
      width: part(box.size / width),
      height: part(box.size / height),
      transform: `rotate(${angle}deg)`,
    });
    this.#paint(this.#before, this.#shown.image);
    this.#paintAfter();
  }

  #paintAfter() {
    if (!this.#shown) return;
    const pen = this.#after;
    if (this.#change?.image) {
      this.#paint(pen, this.#change.image);
      return;
    }
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
    const { width, box, angle } = this.#shown;
    const across = pen.canvas.width;
    pen.resetTransform();
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    if (this.#view === "photo") {
      pen.scale(across / width, pen.canvas.height / this.#shown.height);
      return;
    }
    pen.translate(across / 2, across / 2);
    pen.scale(across / box.size, across / box.size);
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

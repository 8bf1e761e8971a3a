// Pointers and keys on the picture. A press takes the divider there, as its line alone is a small
// thing to hit; near, it moves the picture.

import { modified } from "./compare.js";
import { $, whereIn } from "./dom.js";

const STEP = 1.5;
const SLIDE = 0.15; // of the window, for a press of a key
const KEYS = { "+": STEP, "=": STEP, "-": 1 / STEP, 0: 0 };
export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// `onZoom` is told after every change; `active` says whether keys count.
export function zoomable({ picture, compare, onZoom, active }) {
  const [holder, divider] = [$("picture"), $("divider")];
  const fingers = new Map(); // pointerId to where it is, in shares of the holder
  let dividing = false; // whether the divider is held, not the picture

  const approach = (factor, at) => {
    picture.approach(factor, at);
    onZoom();
  };

  holder.onwheel = (event) => {
    event.preventDefault();
    approach(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), whereIn(holder, event));
  };
  holder.onpointerdown = (event) => {
    if (event.button !== 0 || event.target.closest("button")) return;
    holder.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, whereIn(holder, event));
    dividing = fingers.size === 1 && (picture.zoom === 1 || divider.contains(event.target));
    if (!dividing) return;
    event.preventDefault();
    divider.focus({ preventScroll: true, focusVisible: false });
    compare.place = 100 * whereIn(holder, event).x;
  };
  holder.onpointermove = (event) => {
    const from = fingers.get(event.pointerId);
    if (!from) return;
    const to = whereIn(holder, event);
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (other) {
      const apart = (at) => Math.hypot(at.x - other.x, at.y - other.y) || 1e-3;
      approach(apart(to) / apart(from), { x: (to.x + other.x) / 2, y: (to.y + other.y) / 2 });
    }
    if (dividing) compare.place = 100 * to.x;
    else {
      const share = other ? 0.5 : 1; // the middle between two fingers moves half as far
      picture.pan((from.x - to.x) * share, (from.y - to.y) * share);
    }
    fingers.set(event.pointerId, whereIn(holder, event));
  };
  holder.onlostpointercapture = (event) => fingers.delete(event.pointerId);

  $("zooms").onclick = ({ target }) => {
    const key = target.closest("[data-zoom]")?.dataset.zoom;
    if (key) approach(KEYS[key]);
  };
  window.addEventListener("keydown", (event) => {
    if (!active() || modified(event) || event.target.closest("select, dialog")) return;
    if (event.key in KEYS) approach(KEYS[event.key]);
    else if (event.shiftKey && event.key in ARROWS && picture.zoom > 1) picture.pan(...ARROWS[event.key].map((way) => way * SLIDE));
    else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
}

// Nearer and farther: by wheel, two fingers, keys and buttons; a press moves the picture when near.

const STEP = 1.5;
const SLIDE = 0.15; // of the window, for a press of a key
const KEYS = { "+": STEP, "=": STEP, "-": 1 / STEP, 0: 0 };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// `onZoom` is told after every change; `active` says whether keys count.
export function zoomable({ picture, holder, buttons, onZoom, active }) {
  const fingers = new Map(); // pointerId to where it is, in shares of the holder

  const where = ({ clientX, clientY }) => {
    const { left, top, width, height } = holder.getBoundingClientRect();
    return { x: (clientX - left) / width, y: (clientY - top) / height };
  };
  const approach = (factor, at) => {
    picture.approach(factor, at);
    onZoom();
  };

  holder.addEventListener("wheel", (event) => {
    event.preventDefault();
    approach(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), where(event));
  }, { passive: false });

  holder.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("button")) return;
    if (picture.zoom > 1 && event.target.closest(".divider")) return;
    holder.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, where(event));
    holder.classList.toggle("pinched", fingers.size > 1);
  });
  holder.addEventListener("pointermove", (event) => {
    const from = fingers.get(event.pointerId);
    if (!from) return;
    const to = where(event);
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (other) {
      const apart = (at) => Math.hypot(at.x - other.x, at.y - other.y) || 1e-3;
      approach(apart(to) / apart(from), { x: (to.x + other.x) / 2, y: (to.y + other.y) / 2 });
    }
    if (other || picture.zoom > 1) {
      const share = other ? 0.5 : 1; // the middle between two fingers moves half as far
      picture.pan((from.x - to.x) * share, (from.y - to.y) * share);
    }
    fingers.set(event.pointerId, where(event));
  });
  holder.addEventListener("lostpointercapture", (event) => {
    fingers.delete(event.pointerId);
    if (!fingers.size) holder.classList.remove("pinched");
  });

  buttons.addEventListener("click", (event) => {
    const key = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (key) approach(KEYS[key]);
  });
  window.addEventListener("keydown", (event) => {
    if (!active() || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, dialog")) return;
    if (event.key in KEYS) approach(KEYS[event.key]);
    else if (event.shiftKey && event.key in ARROWS && picture.zoom > 1) picture.pan(...ARROWS[event.key].map((way) => way * SLIDE));
    else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
}

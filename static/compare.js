// The divider between before and after, and the look at the original while a button is held.

const STEPS = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 };

export class Compare {
  #holder;
  #divider;
  #after;
  #place = 50;

  constructor({ holder, divider, after }) {
    this.#holder = holder;
    this.#divider = divider;
    this.#after = after;
    // A press anywhere on the picture takes the divider there: on a phone its line alone is a
    // small thing to hit.
    holder.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !event.isPrimary || event.target.closest("button")) return;
      if (holder.classList.contains("near") && !event.target.closest(".divider")) return;
      holder.setPointerCapture(event.pointerId);
      event.preventDefault();
      divider.focus({ preventScroll: true, focusVisible: false });
      holder.classList.add("dragging");
      this.#follow(event);
    });
    holder.addEventListener("pointermove", (event) => {
      if (holder.matches(".dragging:not(.pinched)")) this.#follow(event);
    });
    holder.addEventListener("lostpointercapture", () => holder.classList.remove("dragging"));
    divider.addEventListener("keydown", (event) => {
      const ends = { Home: 0, End: 100 };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in STEPS) this.place = this.#place + STEPS[event.key];
      else if (event.key in ends) this.place = ends[event.key];
      else return;
      event.preventDefault();
    });
    this.place = this.#place;
  }

  get place() {
    return this.#place;
  }

  // In percent from the left.
  set place(percent) {
    this.#place = Math.min(100, Math.max(0, percent));
    const shown = Math.round(this.#place);
    this.#holder.style.setProperty("--place", `${this.#place}%`);
    this.#after.style.clipPath = `inset(0 0 0 ${this.#place}%)`;
    this.#divider.setAttribute("aria-valuenow", shown);
    this.#divider.setAttribute("aria-valuetext", `${shown}% before, ${100 - shown}% after`);
    this.#holder.classList.toggle("hardly-before", this.#place < 14);
    this.#holder.classList.toggle("hardly-after", this.#place > 86);
  }

  #follow(event) {
    const { left, width } = this.#holder.getBoundingClientRect();
    this.place = (100 * (event.clientX - left)) / width;
  }
}

export function holdToSee({ button, key, holder, active }) {
  const see = (held) => {
    if (held && !active()) return;
    holder.classList.toggle("held", held);
    button.setAttribute("aria-pressed", held);
  };
  button.addEventListener("pointerdown", (event) => {
    if (event.button === 0) see(true);
  });
  for (const end of ["pointerup", "pointercancel", "blur"]) window.addEventListener(end, () => see(false));
  button.addEventListener("contextmenu", (event) => event.preventDefault());
  const holds = (event) =>
    event.key.toLowerCase() === key || (event.target === button && [" ", "Enter"].includes(event.key));
  window.addEventListener("keydown", (event) => {
    if (!holds(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select, dialog")) return;
    event.preventDefault();
    see(true);
  });
  window.addEventListener("keyup", (event) => {
    if (event.key.toLowerCase() === key || [" ", "Enter"].includes(event.key)) see(false);
  });
}

// The divider between before and after, and the look at the original while a button is held.

import { $ } from "./dom.js";

const STEPS = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };

export class Compare {
  #place = 50;

  constructor() {
    $("divider").onkeydown = (event) => {
      if (modified(event) || !(event.key in STEPS)) return;
      this.place += STEPS[event.key];
      event.preventDefault();
    };
  }

  get place() {
    return this.#place;
  }

  // In percent from the left.
  set place(percent) {
    this.#place = Math.min(100, Math.max(0, percent));
    const shown = Math.round(this.#place);
    $("picture").style.setProperty("--place", `${this.#place}%`);
    $("divider").ariaValueNow = shown;
    $("divider").ariaValueText = `${shown}% before, ${100 - shown}% after`;
    $("tag-before").hidden = this.#place < 14;
    $("tag-after").hidden = this.#place > 86;
  }
}

export const modified = (event) => event.ctrlKey || event.metaKey || event.altKey;

export function holdToSee({ key, active }) {
  const button = $("hold");
  const see = (held) => {
    if (held && !active()) return;
    $("picture").classList.toggle("held", held);
    button.ariaPressed = held;
  };
  button.onpointerdown = (event) => {
    if (event.button === 0) see(true);
  };
  for (const end of ["pointerup", "pointercancel", "blur"]) window.addEventListener(end, () => see(false));
  button.oncontextmenu = (event) => event.preventDefault();
  const holds = ({ key: pressed, target }) =>
    pressed.toLowerCase() === key || (target === button && [" ", "Enter"].includes(pressed));
  window.addEventListener("keydown", (event) => {
    if (!holds(event) || modified(event) || event.target.closest("select, dialog")) return;
    event.preventDefault();
    see(true);
  });
  window.addEventListener("keyup", (event) => {
    if (holds(event)) see(false);
  });
}

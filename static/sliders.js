// The panel of sliders, one for each attribute, in groups.

import { element } from "./dom.js";

export const signed = (number, digits) => {
  const text = Math.abs(number).toFixed(digits);
  return Number(text) === 0 ? text : (number < 0 ? "\u2212" : "+") + text;
};

const STEP = 0.05;
const KNOWN = 2; // standard deviations beyond the mean faces, and past that few faces are known

export class Sliders {
  #rows = new Map();
  #strengths;
  #readings = {};

  #remove;

  // `remove` is told the name of an attribute of one's own that is to go.
  constructor(form, strengths, remove) {
    this.form = form;
    this.#strengths = strengths;
    this.#remove = remove;
    strengths.addEventListener("move", () => this.#show());
  }

  build(attributes) {
    this.#rows.clear();
    this.form.replaceChildren(...[...grouped(attributes)].map(([name, members]) => this.#group(name, members)));
    this.#show();
  }

  // Strengths that came from elsewhere, as far as there are sliders for them.
  fitted(strengths) {
    const fit = ([name, strength]) => {
      const row = this.#rows.get(name);
      return row ? [[name, Math.min(row.max, Math.max(row.min, strength))]] : [];
    };
    return Object.fromEntries(Object.entries(strengths).flatMap(fit));
  }

  // A few strengths at random.
  random() {
    const some = [...this.#rows].sort(() => Math.random() - 0.5).slice(0, 4);
    const strength = ({ min, max }) => Math.round((min + Math.random() * (max - min)) * 0.6 / STEP) * STEP;
    return Object.fromEntries(some.map(([name, row]) => [name, strength(row)]).filter(([, to]) => to));
  }

  // The labels of strengths that lead beyond the faces that the model knows.
  get doubtful() {
    const far = ([name, { std }]) =>
      this.#strengths.of(name) && Math.abs(this.#readings[name] + this.#strengths.of(name)) > 0.5 + KNOWN * std;
    return [...this.#rows].filter(far).map(([, { label }]) => label);
  }

  set readings(readings) {
    this.#readings = readings ?? {};
    this.#show();
  }

  #group(name, members) {
    const set = element("fieldset", {}, element("legend", { textContent: name }));
    set.append(...members.map((attribute) => this.#row(attribute)));
    return set;
  }

  #row({ name, label, kind, min, max, std, counts }) {
    const id = `strength-${name}`;
    // A range counts its steps from its least value, and 0 has to be one of them.
    const [least, most] = [Math.ceil(min / STEP) * STEP, Math.floor(max / STEP) * STEP];
    const ends = { min: least.toFixed(2), max: most.toFixed(2) };
    const input = element("input", { type: "range", id, name, ...ends, step: STEP, value: 0 });
    const reading = element("span", { className: "reading", id: `${id}-reading` });
    const value = element("output", { className: "value", htmlFor: id });
    const words = element("label", { htmlFor: id, textContent: label });
    if (counts) {
      const made = [counts.positive, counts.negative].map((count) => count.toLocaleString("en"));
      words.title = `Direction from ${made[0]} faces with it and ${made[1]} without. Double-click the slider to reset it.`;
    }
    input.addEventListener("input", () => this.#strengths.set(name, input.valueAsNumber));
    input.addEventListener("change", () => this.#strengths.commit(name));
    const clear = () => {
      this.#strengths.set(name, 0);
      this.#strengths.commit(name);
    };
    input.addEventListener("dblclick", clear);
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Delete" && event.key !== "Backspace") return;
      event.preventDefault();
      clear();
    });
    this.#rows.set(name, { input, reading, value, min: least, max: most, std, label });
    const row = element("div", { className: "row" }, words, reading, value, input);
    if (kind === "custom") {
      const gone = element("button", { type: "button", className: "quiet small danger", textContent: "Delete", ariaLabel: `Delete ${label}` });
      gone.addEventListener("click", () => this.#remove(name, label));
      row.append(gone);
    }
    return row;
  }

  #show() {
    for (const [name, { input, reading, value, min, max }] of this.#rows) {
      const strength = this.#strengths.of(name);
      if (input.valueAsNumber !== strength) input.value = strength;
      fill(input, strength);
      value.textContent = signed(strength, 2);
      value.classList.toggle("set", strength !== 0);
      const reads = this.#readings[name];
      const today = (Math.min(max, Math.max(min, reads ?? 0)) - min) / (max - min);
      input.style.setProperty("--today", reads === undefined ? -1 : today);
      reading.textContent = reads === undefined ? "" : `reads ${signed(reads + strength, 1)}`;
      const spoken = reading.textContent && `, ${reading.textContent}`;
      input.setAttribute("aria-valuetext", `strength ${signed(strength, 2)}${spoken}`);
    }
  }
}

// Colours a slider from its 0 to where it is.
export function fill(input, strength) {
  const [min, max] = [Number(input.min), Number(input.max)];
  const share = (number) => (number - min) / (max - min);
  input.style.setProperty("--zero", share(0));
  input.style.setProperty("--from", share(Math.min(0, strength)));
  input.style.setProperty("--to", share(Math.max(0, strength)));
}

function grouped(attributes) {
  const groups = new Map();
  for (const attribute of attributes) {
    groups.set(attribute.group, [...(groups.get(attribute.group) ?? []), attribute]);
  }
  return groups;
}

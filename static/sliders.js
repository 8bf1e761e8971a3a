// The panel of sliders, one for each attribute, in groups.

import { element } from "./dom.js";

export const signed = (number, digits) => {
  const text = Math.abs(number).toFixed(digits);
  return Number(text) === 0 ? text : (number < 0 ? "\u2212" : "+") + text;
};

const STEP = 0.05;

export class Sliders {
  #rows = new Map();
  #strengths;
  #readings = {};

  constructor(form, strengths) {
    this.form = form;
    this.#strengths = strengths;
    strengths.addEventListener("move", () => this.#show());
  }

  build(attributes) {
    this.#rows.clear();
    this.form.replaceChildren(...[...grouped(attributes)].map(([name, members]) => this.#group(name, members)));
    this.#show();
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

  #row({ name, label, kind, min, max, counts }) {
    const id = `strength-${name}`;
    // A range counts its steps from its least value, and 0 has to be one of them.
    const [least, most] = [Math.ceil(min / STEP) * STEP, Math.floor(max / STEP) * STEP];
    const ends = { min: least.toFixed(2), max: most.toFixed(2) };
    const input = element("input", { type: "range", id, name, ...ends, step: STEP, value: 0 });
    const reading = element("span", { className: "reading", id: `${id}-reading` });
    const value = element("output", { className: "value", htmlFor: id });
    const words = element("label", { htmlFor: id, textContent: label });
    if (kind === "custom") words.append(element("small", { textContent: "custom" }));
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
    this.#rows.set(name, { input, reading, value, min: least, max: most });
    return element("div", { className: "row" }, words, reading, value, input);
  }

  #show() {
    for (const [name, { input, reading, value, min, max }] of this.#rows) {
      const strength = this.#strengths.of(name);
      if (input.valueAsNumber !== strength) input.value = strength;
      fill(input, min, max, strength);
      value.textContent = signed(strength, 2);
      value.classList.toggle("set", strength !== 0);
      const reads = this.#readings[name];
      reading.textContent = reads === undefined ? "" : `reads ${signed(reads + strength, 1)}`;
      const spoken = reading.textContent && `, ${reading.textContent}`;
      input.setAttribute("aria-valuetext", `strength ${signed(strength, 2)}${spoken}`);
    }
  }
}

function fill(input, min, max, strength) {
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

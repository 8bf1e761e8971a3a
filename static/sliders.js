// The panel of sliders, one for each attribute, in groups.

import { $, element } from "./dom.js";

export const signed = (number, digits) => {
  const text = Math.abs(number).toFixed(digits);
  return Number(text) === 0 ? text : (number < 0 ? "\u2212" : "+") + text;
};

const STEP = 0.05;
const KNOWN = 3.5; // standard deviations of readings; past that few faces are known

export class Sliders {
  #rows = new Map();
  #strengths;
  #readings = {};
  #remove;

  // `remove` is told the name and label of an attribute of one's own that is to go.
  constructor(strengths, remove) {
    this.#strengths = strengths;
    this.#remove = remove;
    strengths.addEventListener("move", () => this.#show());
  }

  build(attributes) {
    this.#rows.clear();
    const groups = new Map();
    for (const attribute of attributes) {
      const { group } = attribute;
      if (!groups.has(group)) groups.set(group, element("fieldset", {}, element("legend", { textContent: group })));
      groups.get(group).append(this.#row(attribute));
    }
    $("sliders").replaceChildren(...groups.values());
    this.#show();
  }

  // Strengths that came from elsewhere, as far as there are sliders for them.
  fitted(strengths) {
    const known = Object.entries(strengths).filter(([name]) => this.#rows.has(name));
    return Object.fromEntries(known.map(([name, strength]) => {
      const { min, max } = this.#rows.get(name);
      return [name, Math.min(max, Math.max(min, strength))];
    }));
  }

  // A few strengths at random.
  random() {
    const some = [...this.#rows].sort(() => Math.random() - 0.5).slice(0, 4);
    const strength = ({ min, max }) => Math.round((min + Math.random() * (max - min)) * 0.6 / STEP) * STEP;
    return Object.fromEntries(some.map(([name, row]) => [name, strength(row)]).filter(([, to]) => to));
  }

  // The labels of strengths that lead beyond the faces that the model knows.
  get doubtful() {
    const far = ([name, { std }]) => {
      const strength = this.#strengths.of(name);
      return strength && Math.abs(this.#readings[name] + strength) > KNOWN * std;
    };
    return [...this.#rows].filter(far).map(([, { label }]) => label);
  }

  set readings(readings) {
    this.#readings = readings;
    this.#show();
  }

  #row({ name, label, kind, min: least, max: most, std, counts }) {
    const id = `strength-${name}`;
    // A range counts its steps from its least value, and 0 has to be one of them.
    const [min, max] = [Math.ceil(least / STEP) * STEP, Math.floor(most / STEP) * STEP];
    const input = element("input", { type: "range", id, name, min: min.toFixed(2), max: max.toFixed(2), step: STEP });
    const reading = element("span", { className: "reading" });
    const value = element("output", { htmlFor: id });
    const words = element("label", { htmlFor: id, textContent: label });
    if (counts) {
      const [some, others] = [counts.positive, counts.negative].map((count) => count.toLocaleString("en"));
      words.title = `Direction from ${some} faces with it and ${others} without. Double-click the slider to reset it.`;
    }
    drive(input, this.#strengths, name);
    this.#rows.set(name, { input, reading, value, min, max, std, label });
    const row = element("div", { className: "row" }, words, reading, value, input);
    if (kind === "custom") {
      const gone = element("button", { type: "button", className: "quiet small danger", textContent: "Delete", ariaLabel: `Delete ${label}` });
      gone.onclick = () => this.#remove(name, label);
      row.append(gone);
    }
    return row;
  }

  #show() {
    for (const [name, { input, reading, value, min, max }] of this.#rows) {
      const strength = this.#strengths.of(name);
      fill(input, strength);
      value.textContent = signed(strength, 2);
      value.classList.toggle("set", strength !== 0);
      const reads = this.#readings[name];
      const known = reads !== undefined;
      input.style.setProperty("--today", known ? (Math.min(max, Math.max(min, reads)) - min) / (max - min) : -1);
      reading.textContent = known ? `reads ${signed(reads + strength, 1)}` : "";
      input.setAttribute("aria-valuetext", `strength ${signed(strength, 2)}${known ? `, ${reading.textContent}` : ""}`);
    }
  }
}

// Lets a slider set a strength; a double click, or Delete, takes it back to 0.
export function drive(input, strengths, name) {
  input.oninput = () => strengths.set(name, input.valueAsNumber);
  input.onchange = () => strengths.commit(name);
  input.ondblclick = () => strengths.clear(name);
  input.onkeydown = (event) => {
    if (event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    strengths.clear(name);
  };
}

// Sets a slider, and colours it from its 0 to there.
export function fill(input, value) {
  if (input.valueAsNumber !== value) input.value = value;
  const [min, max] = [Number(input.min), Number(input.max)];
  const places = { "--zero": 0, "--from": Math.min(0, value), "--to": Math.max(0, value) };
  for (const [place, at] of Object.entries(places)) {
    input.style.setProperty(place, `calc(var(--half) + ${(at - min) / (max - min)} * (100% - 2 * var(--half)))`);
  }
}

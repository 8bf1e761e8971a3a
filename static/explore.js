// A filmstrip of one attribute from end to end, or a grid of two; pressing a picture takes it.

import { sweep } from "./api.js";
import { $, element } from "./dom.js";
import { signed } from "./sliders.js";

const FRAMES = 9; // of a filmstrip
const SIDE = 5; // of a grid

const spread = ({ min, max }, steps) => Array.from({ length: steps }, (_, i) => min + ((max - min) * i) / (steps - 1));

// What opens it. `move` gives the move as it stands, whose other strengths hold still.
export function explorer({ attributes, move, strengths, explain }) {
  const [dialog, sheet, across, down] = [$("explore"), $("sheet"), $("across"), $("down")];
  let turn = null;

  async function show() {
    turn?.abort();
    const { signal } = (turn = new AbortController());
    const named = (name) => attributes().find((attribute) => attribute.name === name);
    const [a, b] = [named(across.value), down.value === across.value ? undefined : named(down.value)];
    const steps = b ? SIDE : FRAMES;
    const rows = b ? spread(b, SIDE).reverse() : [null];
    sheet.classList.toggle("grid", Boolean(b));
    sheet.setAttribute("aria-busy", "true");
    try {
      const strips = await Promise.all(rows.map(async (strength) => {
        const base = move();
        const request = { ...base, attributes: { ...base.attributes, ...(b && { [b.name]: strength }) }, attribute: a.name, steps };
        return createImageBitmap(await sweep(request, "image/png", signal));
      }));
      if (signal.aborted) return;
      sheet.replaceChildren(...strips.flatMap((strip, row) => spread(a, steps).map((strength, column) => {
        const taken = { [a.name]: strength, ...(b && { [b.name]: rows[row] }) };
        return frame(strip, column, taken, [a, b].filter(Boolean));
      })));
      sheet.setAttribute("aria-busy", "false");
    } catch (problem) {
      if (signal.aborted) return;
      dialog.close();
      explain(problem, { again: open });
    }
  }

  function frame(strip, column, taken, of) {
    const { height: side } = strip;
    const canvas = element("canvas", { width: side, height: side });
    canvas.getContext("2d").drawImage(strip, -side * column, 0);
    const words = of.map(({ name, label }) => `${label} ${signed(taken[name], 2)}`).join(", ");
    const button = element("button", { type: "button", title: words, ariaLabel: words }, canvas);
    button.addEventListener("click", () => {
      strengths.replace({ ...strengths.all, ...taken });
      dialog.close();
    });
    return button;
  }

  function open() {
    const options = () => attributes().map(({ name, label }) => element("option", { value: name, textContent: label }));
    const [first, second] = [across.value, down.value];
    across.replaceChildren(...options());
    down.replaceChildren(element("option", { value: "", textContent: "Nothing: a filmstrip" }), ...options());
    if (first) [across.value, down.value] = [first, second];
    dialog.showModal();
    void show();
  }

  for (const choice of [across, down]) choice.addEventListener("change", show);
  dialog.addEventListener("close", () => turn?.abort());
  return open;
}

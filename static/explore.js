// A filmstrip of one attribute from end to end, or a grid of two; pressing a picture takes it.

import { sweep } from "./api.js";
import { $, element, optionsOf } from "./dom.js";
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
    const named = (choice) => attributes().find(({ name }) => name === choice.value);
    const [a, b] = [named(across), down.value === across.value ? undefined : named(down)];
    const steps = b ? SIDE : FRAMES;
    const rows = b ? spread(b, SIDE).reverse().map((strength) => ({ [b.name]: strength })) : [{}];
    sheet.classList.toggle("grid", Boolean(b));
    sheet.ariaBusy = "true";
    try {
      const base = move();
      const strips = await Promise.all(rows.map(async (row) => {
        const request = { ...base, attributes: { ...base.attributes, ...row }, attribute: a.name, steps };
        return createImageBitmap(await sweep(request, "image/png", signal));
      }));
      if (signal.aborted) return;
      sheet.replaceChildren(...strips.flatMap((strip, i) =>
        spread(a, steps).map((strength, column) => frame(strip, column, { [a.name]: strength, ...rows[i] }))));
      sheet.ariaBusy = "false";
    } catch (problem) {
      if (signal.aborted) return;
      dialog.close();
      explain(problem, { again: open });
    }
  }

  function frame(strip, column, taken) {
    const { height: side } = strip;
    const canvas = element("canvas", { width: side, height: side });
    canvas.getContext("2d").drawImage(strip, -side * column, 0);
    const title = attributes().filter(({ name }) => name in taken)
      .map(({ name, label }) => `${label} ${signed(taken[name], 2)}`).join(", ");
    const button = element("button", { title }, canvas);
    button.onclick = () => {
      strengths.replace({ ...strengths.all, ...taken });
      dialog.close();
    };
    return button;
  }

  function open() {
    const [first, second] = [across.value, down.value];
    across.replaceChildren(...optionsOf(attributes()));
    down.replaceChildren(new Option("Nothing: a filmstrip", ""), ...optionsOf(attributes()));
    if (first) [across.value, down.value] = [first, second];
    dialog.showModal();
    void show();
  }

  for (const choice of [across, down]) choice.addEventListener("change", show);
  dialog.onclose = () => turn?.abort();
  return open;
}

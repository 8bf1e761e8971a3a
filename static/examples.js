// Making an attribute from two piles of photographs.

import { makeAttribute } from "./api.js";
import { $ } from "./dom.js";

const FEWEST = 3;

// What opens it; `onMade` is given the attribute.
export function examples({ onMade }) {
  const [dialog, form] = [$("make"), $("make-form")];
  const [fault, progress] = [form.querySelector(".fault"), form.querySelector("progress")];
  let turn = null;

  const count = (input) => {
    input.parentElement.querySelector("span").textContent = input.files.length
      ? `${input.files.length} photographs`
      : "Choose, or drop them here";
  };
  for (const input of [form.positive, form.negative]) {
    count(input);
    input.addEventListener("change", () => count(input));
    input.parentElement.addEventListener("drop", (event) => {
      event.preventDefault();
      input.files = event.dataTransfer.files;
      count(input);
    });
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const piles = [form.positive, form.negative].map(({ files }) => [...files]);
    if (piles.some((pile) => pile.length < FEWEST)) {
      fault.textContent = `Each pile needs ${FEWEST} photographs or more.`;
      return;
    }
    const name = form.elements.name.value.trim().replace(/[^A-Za-z0-9]+/g, "_").replace(/^_+/, "");
    if (!name) {
      fault.textContent = "The name needs letters from a to z, or digits.";
      return;
    }
    turn = new AbortController();
    fault.textContent = "";
    progress.hidden = false;
    form.setAttribute("aria-busy", "true");
    try {
      const made = await makeAttribute(name, ...piles, turn.signal, (share) => {
        if (share < 1) progress.value = share;
        else progress.removeAttribute("value"); // the rest has no measure
      });
      form.reset();
      for (const input of [form.positive, form.negative]) count(input);
      dialog.close();
      await onMade(made);
    } catch (problem) {
      if (!turn.signal.aborted) fault.textContent = problem.message;
    } finally {
      progress.hidden = true;
      form.removeAttribute("aria-busy");
    }
  });
  dialog.addEventListener("close", () => turn?.abort());
  return () => dialog.showModal();
}

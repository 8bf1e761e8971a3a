// Making an attribute from two piles of photographs.

import { makeAttribute } from "./api.js";
import { $ } from "./dom.js";

const FEWEST = 3;

// What opens it; `onMade` is given the attribute.
export function examples({ onMade }) {
  const [dialog, form] = [$("make"), $("make-form")];
  const [fault, progress] = [form.querySelector(".fault"), form.querySelector("progress")];
  const inputs = [form.positive, form.negative];
  let turn = null;

  const count = () => {
    for (const { files, nextSibling } of inputs) {
      nextSibling.textContent = files.length ? `${files.length} photographs` : "Choose, or drop them here";
    }
  };
  count();
  for (const input of inputs) {
    input.onchange = count;
    input.parentElement.ondrop = (event) => {
      event.preventDefault();
      input.files = event.dataTransfer.files;
      count();
    };
  }

  form.onsubmit = async (event) => {
    event.preventDefault();
    const piles = inputs.map(({ files }) => [...files]);
    const name = form.elements.name.value.trim().replace(/[^A-Za-z0-9]+/g, "_").replace(/^_+/, "");
    fault.textContent = piles.some((pile) => pile.length < FEWEST)
      ? `Each pile needs ${FEWEST} photographs or more.`
      : name ? "" : "The name needs letters from a to z, or digits.";
    if (fault.textContent) return;
    turn = new AbortController();
    progress.hidden = false;
    form.ariaBusy = "true";
    try {
      const made = await makeAttribute(name, ...piles, turn.signal, (share) => {
        if (share < 1) progress.value = share;
        else progress.removeAttribute("value"); // the rest has no measure
      });
      form.reset();
      count();
      dialog.close();
      await onMade(made);
    } catch (problem) {
      if (!turn.signal.aborted) fault.textContent = problem.message;
    } finally {
      progress.hidden = true;
      form.ariaBusy = null;
    }
  };
  dialog.onclose = () => turn?.abort();
  return () => dialog.showModal();
}

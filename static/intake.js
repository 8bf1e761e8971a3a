// Every way that a photograph gets in: chosen, dropped, pasted.

import { $ } from "./dom.js";

// `idle` says whether the page as a whole takes what comes; `onText`, whether a text was of use.
export function takeIn({ onChosen, onFile, onText, idle, onNothing }) {
  $("file").onchange = ({ target }) => {
    const [file] = target.files;
    target.value = ""; // choosing the same file again should count
    if (file) onChosen(file);
  };

  // Entering a child fires before leaving its parent, so that only the count says when the drag
  // has left the window.
  let depth = 0;
  const hover = (change) => {
    depth = change ? Math.max(0, depth + change) : 0;
    $("veil").classList.toggle("shown", depth > 0 && idle());
  };
  window.addEventListener("dragenter", (event) => { event.preventDefault(); hover(1); });
  window.addEventListener("dragleave", () => hover(-1));
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    hover(0);
    if (idle()) give(event.dataTransfer, "Nothing to open came with that. Drop an image file.");
  });
  window.addEventListener("paste", (event) => {
    if (!idle() || onText(event.clipboardData.getData("text"))) return;
    give(event.clipboardData, "There is no picture on the clipboard. Copy one, then paste again.");
  });

  function give({ files: [...files] }, otherwise) {
    const file = files.find(({ type }) => type.startsWith("image/")) ?? files[0];
    if (file) onFile(file);
    else onNothing(otherwise);
  }
}

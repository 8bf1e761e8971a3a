// What went wrong, in words, with what can be done about it.

import { element } from "./dom.js";

export class Notice {
  #region;

  constructor(region) {
    this.#region = region;
  }

  // `ways` is [label, action] pairs.
  show(words, ways = []) {
    const close = element("button", { type: "button", className: "icon", ariaLabel: "Dismiss" });
    close.innerHTML = '<svg aria-hidden="true"><use href="#i-close"/></svg>';
    close.addEventListener("click", () => this.clear());
    const buttons = ways.map(([label, act]) => {
      const button = element("button", { type: "button", className: "second small", textContent: label });
      button.addEventListener("click", () => {
        this.clear();
        act();
      });
      return button;
    });
    this.#region.replaceChildren(
      element("div", { className: "notice" },
        element("p", { textContent: words }),
        element("div", { className: "ways" }, ...buttons),
        close,
      ),
    );
  }

  get shown() {
    return this.#region.childElementCount > 0;
  }

  clear() {
    this.#region.replaceChildren();
  }
}

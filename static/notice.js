// What the page says: what it is busy with, what was done, and what went wrong, in words.

import { $, closer, element } from "./dom.js";

// What went wrong; `ways` are [label, action] pairs of what can be done about it.
export function warn(words, ways = []) {
  const buttons = ways.map(([label, act]) => {
    const button = element("button", { className: "second small", textContent: label });
    button.onclick = () => {
      hush();
      act();
    };
    return button;
  });
  $("alert").replaceChildren(
    element("div", { className: "notice" },
      element("p", { textContent: words }),
      element("div", { className: "ways" }, ...buttons),
      closer("Dismiss", hush),
    ),
  );
}

export const hush = () => $("alert").replaceChildren();

let fading = 0;

// What was done; `shown` to the eye too.
export function say(words, shown = false) {
  clearTimeout(fading);
  $("status").textContent = words;
  $("status").classList.toggle("shown", shown);
  fading = setTimeout(() => $("status").classList.remove("shown"), 4000);
}

export function busy(words) {
  $("busy").hidden = !words;
  $("busy-text").textContent = words ?? "";
  $("sent").removeAttribute("value");
  if (words) say(words);
}

// `share` of an upload, 0 to 1.
export function uploading(share) {
  if (share === 1) return busy("Finding the face");
  $("sent").value = share;
  $("busy-text").textContent = `Uploading ${Math.round(100 * share)}%`;
}

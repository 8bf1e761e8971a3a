// What the other modules build the page with.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A button that closes what it lies in.
export function closer(ariaLabel, close) {
  const button = element("button", { className: "icon", ariaLabel, textContent: "×" });
  button.onclick = close;
  return button;
}

export const optionsOf = (attributes) =>
  attributes.map(({ name, label }) => element("option", { value: name, textContent: label }));

// Where a pointer is, in shares of an element.
export function whereIn(held, { clientX, clientY }) {
  const { left, top, width, height } = held.getBoundingClientRect();
  return { x: (clientX - left) / width, y: (clientY - top) / height };
}

// Lays an element on a picture, of which a window is shown, where a turned box of it is.
export function lay(laid, box, angle, { x, y, width, height }) {
  const part = (length, of) => `${(100 * length) / of}%`;
  Object.assign(laid.style, {
    left: part(box.x - x, width),
    top: part(box.y - y, height),
    width: part(box.size, width),
    height: part(box.size, height),
    transform: `rotate(${angle}deg)`,
  });
}

export const modal = () => document.querySelector("dialog[open]");

// What a modal dialog was closed with, as a button in it says; "" where it was called off.
export async function answered(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue;
}

// Also where the page is not served over a secure connection.
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const held = element("textarea", { value: text });
    (modal() ?? document.body).append(held);
    held.select();
    document.execCommand("copy");
    held.remove();
  }
}

export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  element("a", { href, download: `${name}.${endingOf(blob.type)}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000); // some browsers read it later
}

export const endingOf = (type) => type.split("/")[1].replace("jpeg", "jpg");

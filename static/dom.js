// What the other modules build the page with.

export const $ = (id) => document.getElementById(id);

// Also where the page is not served over a secure connection.
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const held = element("textarea", { value: text });
    (document.querySelector("dialog[open]") ?? document.body).append(held);
    held.select();
    document.execCommand("copy");
    held.remove();
  }
}

export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  element("a", { href, download: `${name}.${blob.type.split("/")[1].replace("jpeg", "jpg")}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000); // some browsers read it later
}

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The API key, where the service asks for one. It is kept with the tab, or for a page's life where
// site data are blocked, and goes into headers alone: histories and logs hold addresses.

import { $, answered } from "./dom.js";

const KEPT = "glow-key";

let kept;
try {
  kept = sessionStorage;
} catch {}
let key = kept?.getItem(KEPT);
let asking = null;

export const hasKey = () => Boolean(key);

export const keyHeaders = () => (key ? { "X-API-Key": key } : {});

// The protocols of a WebSocket, which can bear no header of ours; the key's as base64url.
export function keyProtocols() {
  if (!key) return [];
  return ["glow-live", `key.${btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`];
}

async function ask() {
  $("key-fault").textContent = key ? "The service does not know this key. Check it for a slip, or ask for another." : "";
  const used = await answered($("ask-key"));
  if (used) {
    key = $("key").value;
    kept?.setItem(KEPT, key);
  }
  $("key").value = "";
  return used;
}

// `work`, again with another key for as long as the service refuses the one it had.
export async function admitted(work) {
  for (;;) {
    const had = key;
    try {
      return await work();
    } catch (problem) {
      if (problem.status !== 401) throw problem;
      if (key !== had) continue; // another call has asked meanwhile
      asking ??= ask().finally(() => { asking = null; });
      if (!(await asking)) throw problem;
    }
  }
}

// The service, one function a call. Addresses are relative so that the page also works behind a
// path prefix.

import { admitted, keyHeaders } from "./key.js";

const BASE = "api/v1/";
const PATIENCE = 60_000; // ms; a lost answer must not leave the page waiting for ever
export const MIX = "the other face"; // stands beside attributes, whose names have no spaces

export class Problem extends Error {
  constructor({ status = 0, type = "", title = "", detail = "" }, retryAfter = 0) {
    super(
      status === 401
        ? "The service answers nothing without an API key. Try again to enter one."
        : detail || title || `The service answered with status ${status}.`,
    );
    this.status = status;
    this.kind = type.split(":").pop();
    this.retryAfter = Number(retryAfter);
  }

  // The latent is out of reach for good, but what it came from can be sent again.
  get gone() {
    return [404, 409, 410].includes(this.status);
  }
}

// Not by fetch, which cannot tell how much has been sent; `onSent` is told the share, 0 to 1.
function once(path, { method = "POST", json, form, accept = "application/json", signal, onSent }) {
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const fail = (detail) => () => reject(new Problem({ detail }));
    request.onerror = fail("The service cannot be reached. Check the connection, then try again.");
    request.ontimeout = fail("The service took too long to answer. Try again in a moment.");
    request.onload = async () => {
      const { status, response: blob } = request;
      if (status < 300 && accept.startsWith("image/")) return resolve(blob);
      const said = await new Response(blob).json().catch(() => ({}));
      if (status < 300) resolve(said);
      else reject(new Problem({ ...said, status }, request.getResponseHeader("Retry-After")));
    };
    if (onSent) request.upload.onprogress = ({ loaded, total }) => onSent(loaded / total);
    signal?.addEventListener("abort", () => { request.abort(); reject(signal.reason); }, { once: true });
    request.open(method, BASE + path);
    request.responseType = "blob";
    request.timeout = form ? 5 * PATIENCE : PATIENCE;
    const headers = { Accept: accept, ...(json && { "Content-Type": "application/json" }), ...keyHeaders() };
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.send(form ?? (json && JSON.stringify(json)));
  });
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });

// A busy service (503, 429) says when to come back; coming back is nothing to trouble a hand with.
async function call(path, request, tries = 4) {
  for (;;) {
    try {
      return await admitted(() => once(path, request));
    } catch (problem) {
      if (!problem.retryAfter || --tries === 0) throw problem;
      await pause(Math.min(problem.retryAfter, 10), request.signal);
    }
  }
}

export const getModel = () => call("model", { method: "GET" });
export const getAttributes = () => call("attributes", { method: "GET" });

function upload(path, fields, signal, onSent) {
  const form = new FormData();
  for (const field of fields) form.append(...field);
  return call(path, { form, signal, onSent });
}

export const encode = (file, align, signal, onSent) =>
  upload("encode", [["image", file, file.name || "photograph"], ["align", align]], signal, onSent);

export function makeAttribute(name, positive, negative, signal, onSent) {
  const pile = (kind, files) => files.map((file) => [kind, file]);
  return upload("attributes", [["name", name], ...pile("positive[]", positive), ...pile("negative[]", negative)], signal, onSent);
}

export async function sample({ seed, temperature }, signal) {
  const [face] = await call("sample", { json: { count: 1, temperature, seed }, signal });
  return face;
}

// Strengths as the service takes them; `other` is the latent mixed in.
export function moveOf(latent, { [MIX]: t, ...attributes }, other) {
  return { latent_id: latent, attributes, ...(t && other && { mix: { latent_id: other, t } }) };
}

// The picture of a move; a crop that is not moved is the latent's own picture.
export function render(move, { output, accept = "image/png", signal }) {
  const moved = move.mix || Object.values(move.attributes).some(Boolean);
  return output === "crop" && !moved
    ? call("decode", { json: { latent_id: move.latent_id }, accept, signal })
    : call("edit", { json: { ...move, output }, accept, signal });
}

export const sweep = (json, accept, signal) => call("sweep", { json, accept, signal });

export const forget = (latent) => call(`latents/${latent}`, { method: "DELETE" });
export const dropAttribute = (name) => call(`attributes/${name}`, { method: "DELETE" });

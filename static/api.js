// The service, one function a call. Addresses are relative so that the page also works behind a
// path prefix.

const BASE = "api/v1/";
const PATIENCE = 60_000; // ms; a lost answer must not leave the page waiting for ever
const UNREACHED = "The service cannot be reached. Check the connection, then try again.";
export const MIX = "the other face"; // stands beside attributes, whose names have no spaces

export class Problem extends Error {
  constructor({ status = 0, type = "", title = "", detail = "" }, retryAfter = 0) {
    super(detail || title || `The service answered with status ${status}.`);
    this.status = status;
    this.kind = type.split(":").pop();
    this.retryAfter = retryAfter;
  }

  // The latent is out of reach for good, but what it came from can be sent again.
  get gone() {
    return [404, 409, 410].includes(this.status);
  }
}

async function call(path, { method = "GET", json, form, accept = "application/json", signal } = {}) {
  const limit = AbortSignal.timeout(PATIENCE);
  const headers = { Accept: accept };
  if (json) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(BASE + path, {
      method,
      headers,
      body: json ? JSON.stringify(json) : form,
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    if (answer.ok) return answer.status === 204 ? null : await (accept.startsWith("image/") ? answer.blob() : answer.json());
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem({
      detail: limit.aborted
        ? "The service took too long to answer. Try again in a moment."
        : UNREACHED,
    });
  }
  const said = await answer.json().catch(() => ({}));
  throw new Problem({ ...said, status: answer.status }, Number(answer.headers.get("Retry-After")) || 0);
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });

// A busy service (503, 429) says when to come back; coming back is nothing to trouble a hand with.
async function patiently(work, signal, tries = 4) {
  for (;;) {
    try {
      return await work();
    } catch (problem) {
      if (!problem.retryAfter || --tries === 0) throw problem;
      await pause(Math.min(problem.retryAfter, 10), signal);
    }
  }
}

export const getModel = () => patiently(() => call("model"));
export const getAttributes = () => patiently(() => call("attributes"));

// fetch cannot tell how much has been sent; `onSent` is told the share, 0 to 1.
function upload(path, form, signal, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const broken = () => reject(new Problem({ detail: UNREACHED }));
    request.responseType = "json";
    request.upload.addEventListener("progress", ({ loaded, total }) => onSent(loaded / total));
    request.addEventListener("error", broken);
    request.addEventListener("timeout", broken);
    request.addEventListener("load", () => {
      const { status, response } = request;
      if (status === 201) resolve(response);
      else reject(new Problem({ ...response, status }, Number(request.getResponseHeader("Retry-After")) || 0));
    });
    signal?.addEventListener("abort", () => { request.abort(); reject(signal.reason); }, { once: true });
    request.open("POST", BASE + path);
    request.timeout = 5 * PATIENCE;
    request.setRequestHeader("Accept", "application/json");
    request.send(form);
  });
}

export function encode(file, align, signal, onSent) {
  const form = new FormData();
  form.append("image", file, file.name || "photograph");
  form.append("align", align);
  return patiently(() => upload("encode", form, signal, onSent), signal);
}

export function makeAttribute(name, positive, negative, signal, onSent) {
  const form = new FormData();
  form.append("name", name);
  for (const file of positive) form.append("positive[]", file);
  for (const file of negative) form.append("negative[]", file);
  return patiently(() => upload("attributes", form, signal, onSent), signal);
}

export const dropAttribute = (name) => call(`attributes/${name}`, { method: "DELETE" });

export async function sample({ seed, temperature }, signal) {
  const json = { count: 1, temperature, seed };
  const [face] = await patiently(() => call("sample", { method: "POST", json, signal }), signal);
  return face;
}

// Strengths as the service takes them; `other` is the latent that is mixed in.
export function moveOf(latent, { [MIX]: t, ...attributes }, other) {
  return { latent_id: latent, attributes, ...(t && other && { mix: { latent_id: other, t } }) };
}

const picture = (path, json, accept, signal) =>
  patiently(() => call(path, { method: "POST", json, accept, signal }), signal);

// The picture of a move; a crop that is not moved is the latent's own picture.
export function render(move, { output, accept = "image/png", signal }) {
  const plain = output === "crop" && !move.mix && !Object.values(move.attributes).some(Boolean);
  return plain
    ? picture("decode", { latent_id: move.latent_id }, accept, signal)
    : picture("edit", { ...move, output }, accept, signal);
}

export const sweep = (request, accept, signal) => picture("sweep", request, accept, signal);

export const forget = (latent) => call(`latents/${latent}`, { method: "DELETE" });

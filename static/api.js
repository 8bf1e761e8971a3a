// The service, one function a call. Addresses are relative so that the page also works behind a
// path prefix.

const BASE = "api/v1/";
const PATIENCE = 60_000; // ms; a lost answer must not leave the page waiting for ever

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
        : "The service cannot be reached. Check the connection, then try again.",
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

export function encode(file, align, signal) {
  const form = new FormData();
  form.append("image", file, file.name || "photograph");
  form.append("align", align);
  return patiently(() => call("encode", { method: "POST", form, signal }), signal);
}

export async function sample(seed, signal) {
  const json = { count: 1, temperature: 0.7, seed };
  const [face] = await patiently(() => call("sample", { method: "POST", json, signal }), signal);
  return face;
}

// The picture with these strengths; a crop without any is the latent's own picture.
export function render({ latent, attributes, output, accept = "image/png", signal }) {
  const plain = output === "crop" && !Object.values(attributes).some(Boolean);
  const json = plain ? { latent_id: latent } : { latent_id: latent, attributes, output };
  const request = { method: "POST", json, accept, signal };
  return patiently(() => call(plain ? "decode" : "edit", request), signal);
}

export const forget = (latent) => call(`latents/${latent}`, { method: "DELETE" });

// What the page tells of the model, and of a crop in its eyes.

import { $, element } from "./dom.js";

const RAW = 8; // bits of a pixel's colour value, which a model that knows nothing needs
const UNUSUAL = 1.2; // bits beyond the mean; sharp faces edit well at 1

export function describeModel(model) {
  $("model-name").textContent = `Model ${model.name}`;
  if (model.time_to_live) $("privacy-span").textContent = `after ${span(model.time_to_live)}`;
  const facts = {
    Model: model.name,
    Crop: `${model.resolution} × ${model.resolution} pixels`,
    Levels: model.levels,
    Parameters: `${(model.parameters / 1e6).toFixed(1)} million`,
    "Bits/dim": model.bits_per_dim?.toFixed(2),
  };
  $("about-model").replaceChildren(...terms(facts));
  $("about-card").replaceChildren(...terms(model.card ?? {}));
}

function terms(facts) {
  const words = (value) => {
    if (Array.isArray(value)) return value.map(words).join(", ");
    if (value && typeof value === "object") return Object.entries(value).map(([k, v]) => `${k}: ${words(v)}`).join("; ");
    return String(value);
  };
  return Object.entries(facts)
    .filter(([, value]) => ![undefined, null, ""].includes(value))
    .flatMap(([term, value]) => [
      element("dt", { textContent: term.replaceAll("_", " ") }),
      element("dd", { textContent: words(value) }),
    ]);
}

function span(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return `${seconds} seconds`;
  return minutes === 1 ? "a minute" : `${minutes} minutes`;
}

// `bits` of a crop, and their `mean` over faces; a generated face has none.
export function describeCrop(bits, mean) {
  $("facts").hidden = !bits;
  if (!bits) return;
  const unusual = mean && bits > mean + UNUSUAL;
  const share = (some) => `${Math.min(100, (100 * some) / RAW)}%`;
  $("bits").textContent = `${bits.toFixed(2)} bits/dim`;
  $("bits-word").textContent = unusual ? "unusual crop" : "familiar crop";
  $("gauge-fill").style.width = share(bits);
  $("gauge-mean").hidden = !mean;
  $("gauge-mean").style.left = share(mean ?? 0);
  $("bits-more").textContent =
    "How many bits the model needs for each colour value of this crop: fewer means a face more " +
    `like those it was trained on. Knowing nothing takes ${RAW}.` +
    (mean ? ` The mark is its mean over faces it had never seen, ${mean.toFixed(2)}.` : "") +
    (unusual ? " Edits of an unusual crop may look less natural." : "");
}

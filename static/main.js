// Wires the parts: what a hand does, what the service answers, what is shown.

import * as api from "./api.js";
import { Compare, holdToSee } from "./compare.js";
import { $, element } from "./dom.js";
import { takeIn } from "./intake.js";
import { Newest } from "./newest.js";
import { Notice } from "./notice.js";
import { bitmap, enlarged, Picture } from "./picture.js";
import { Sliders } from "./sliders.js";
import { Strengths } from "./state.js";

const REST = 250; // ms without a move after which the whole photograph is fetched
const EXACT = 1_500_000; // px; a larger photograph is shown from JPEG, as PNG would take seconds
const BESIDE = 6; // percent; where the divider leaves room for its own handle
const RAW = 8; // bits of a pixel's colour value, which a model that knows nothing needs

const strengths = new Strengths();
const notice = new Notice($("alert"));
const sliders = new Sliders($("sliders"), strengths);
const picture = new Picture({
  stage: $("stage"),
  holder: $("picture"),
  before: $("before"),
  after: $("after"),
  frame: $("frame"),
});
const compare = new Compare({ holder: $("picture"), divider: $("divider"), after: $("after") });
const requests = new Newest((error) => {
  picture.busy = false;
  explain(error, { source: face?.source, kept: strengths.all, again: follow });
});

let model = null;
let face = null; // what is being edited
let opening = null; // AbortController of what is on its way
let rest = 0;
const places = { photo: 50, crop: 50 }; // the divider's, in each view

// ---- what the service has

async function meet() {
  try {
    const [about, attributes] = await Promise.all([api.getModel(), api.getAttributes()]);
    model = about;
    sliders.build(attributes);
    describeModel();
  } catch (problem) {
    notice.show(problem.message, [["Try again", meetAgain]]);
    throw problem;
  }
}

let met;

function meetAgain() {
  met = meet();
  met.catch(() => {}); // told above; whoever needs what it brings tries anew
}

meetAgain();

function describeModel() {
  const million = (count) => `${(count / 1e6).toFixed(1)} million`;
  for (const name of document.querySelectorAll(".model-name")) name.textContent = `Model ${model.name}`;
  if (model.time_to_live) $("privacy-span").textContent = `after ${span(model.time_to_live)}`;
  const facts = {
    Model: model.name,
    Crop: `${model.resolution} × ${model.resolution} pixels`,
    Levels: model.levels,
    Parameters: million(model.parameters),
    "Bits/dim": model.bits_per_dim?.toFixed(2),
  };
  $("about-model").replaceChildren(...terms(facts));
  $("about-card").replaceChildren(element("dl", {}, ...terms(model.card ?? {})));
}

function terms(facts) {
  const words = (value) => {
    if (Array.isArray(value)) return value.map(words).join(", ");
    if (value && typeof value === "object") return Object.entries(value).map(([k, v]) => `${k}: ${words(v)}`).join("; ");
    return String(value);
  };
  return Object.entries(facts)
    .filter(([, value]) => value !== undefined && value !== null && value !== "")
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

// ---- opening a face

// `source` is { file, align } or { seed }; `kept` are strengths to go on with.
async function open(source, kept = null) {
  opening?.abort();
  const turn = (opening = new AbortController());
  notice.clear();
  busy(source.file ? "Finding the face" : "Generating a face");
  try {
    await (met = met.catch(() => meet()));
    const next = await (source.file ? fromPhotograph : fromSeed)(source, turn.signal);
    if (turn.signal.aborted) return;
    enter(next, kept);
  } catch (problem) {
    if (!turn.signal.aborted) explain(problem, { source, kept, opening: true, again: () => open(source, kept) });
  } finally {
    if (opening === turn) {
      opening = null;
      busy(null);
    }
  }
}

async function fromPhotograph(source, signal) {
  const { file, align } = source;
  const local = bitmap(file).catch(() => null);
  const encoded = await api.encode(file, align, signal);
  const latent = encoded.latent_id;
  if (signal.aborted) void api.forget(latent).catch(() => {});
  const [plain, own] = await Promise.all([crop(latent, signal), local]);
  // A format that the service can read and this browser cannot comes back from the service.
  const shown = own ?? (await bitmap(await api.render({ latent, attributes: {}, output: "photo", signal })));
  return {
    source,
    latent,
    plain,
    ...shown,
    box: encoded.face.box,
    angle: encoded.face.angle ?? 0,
    readings: encoded.readings,
    bits: encoded.bits_per_dim,
    ends: Date.now() + encoded.expires_in * 1000,
    generated: false,
    name: (file.name || "photograph").replace(/\.[^.]*$/, ""),
  };
}

async function fromSeed(source, signal) {
  const sampled = await api.sample(source.seed, signal);
  const latent = sampled.latent_id;
  const plain = await crop(latent, signal);
  return {
    source,
    latent,
    plain,
    image: enlarged(plain),
    width: plain.width,
    height: plain.height,
    box: { x: 0, y: 0, size: plain.width },
    angle: 0,
    readings: sampled.readings,
    bits: null,
    ends: Date.now() + sampled.expires_in * 1000,
    generated: true,
    name: `face-${source.seed}`,
  };
}

async function crop(latent, signal, attributes = {}) {
  return createImageBitmap(await api.render({ latent, attributes, output: "crop", signal }));
}

function enter(next, kept) {
  const before = face;
  requests.drop();
  clearTimeout(rest);
  face = next;
  if (before) void api.forget(before.latent).catch(() => {});
  screen("edit");
  $("edit").classList.toggle("generated", face.generated);
  picture.show(face);
  see(face.generated ? "crop" : "photo");
  Object.assign(places, { photo: beside(face), crop: BESIDE });
  compare.place = places[picture.view];
  sliders.readings = face.readings;
  describeFace();
  tick();
  strengths.begin(kept ?? {});
  $("panel-title").focus({ preventScroll: true });
  say(face.generated ? "A face was generated." : "The photograph is open.");
  if (!face.generated) reveal();
}

// To the left of the face, so that an edit is seen whole at once.
function beside({ box, width }) {
  return Math.min(50, Math.max(BESIDE, (100 * (box.x - box.size * 0.06)) / width));
}

function reveal() {
  $("frame").classList.remove("reveal");
  requestAnimationFrame(() => $("frame").classList.add("reveal"));
}

function describeFace() {
  const known = typeof face.bits === "number";
  $("facts").hidden = !known;
  if (!known) return;
  const mean = model.bits_per_dim;
  $("bits").textContent = `${face.bits.toFixed(2)} bits/dim`;
  $("gauge-fill").style.width = `${Math.min(100, (100 * face.bits) / RAW)}%`;
  $("gauge-mean").hidden = !mean;
  $("gauge-mean").style.left = `${(100 * (mean ?? 0)) / RAW}%`;
  const unusual = mean && face.bits > mean + 0.5;
  $("bits-word").textContent = unusual ? "unusual crop" : "familiar crop";
  $("bits-more").textContent =
    "How many bits the model needs for each colour value of this crop: fewer means a face more " +
    `like those it was trained on. Knowing nothing takes ${RAW}.` +
    (mean ? ` The mark is its mean over faces it had never seen, ${mean.toFixed(2)}.` : "") +
    (unusual ? " Edits of an unusual crop may look less natural." : "");
}

function leave() {
  face = null;
  requests.drop();
  clearTimeout(rest);
  strengths.begin({});
  picture.clear();
  screen("start");
  $("start").querySelector("[data-do=choose]").focus({ preventScroll: true });
}

function screen(name) {
  document.body.dataset.screen = name;
  $("start").hidden = name !== "start";
  $("edit").hidden = name !== "edit";
  document.title = name === "edit" ? `${face.name} – Glow Editor` : "Glow Editor";
}

// ---- editing

function follow() {
  if (!face) return;
  const { latent, generated } = face;
  const attributes = strengths.all;
  clearTimeout(rest);
  if (!strengths.any) {
    requests.drop();
    picture.original();
    return;
  }
  picture.busy = true;
  requests.ask(async (signal) => {
    const moved = await crop(latent, signal, attributes);
    if (signal.aborted) return;
    notice.clear();
    if (!generated) picture.follow(moved);
    else {
      picture.settle(enlarged(moved));
      picture.busy = requests.waits;
    }
  });
  if (!generated) rest = setTimeout(() => requests.ask((signal) => fetchWhole(attributes, signal), { yields: true }), REST);
}

async function fetchWhole(attributes, signal) {
  const { latent, width, height } = face;
  const accept = width * height > EXACT ? "image/jpeg" : "image/png";
  const blob = await api.render({ latent, attributes, output: "photo", accept, signal });
  const { image } = await bitmap(blob);
  if (signal.aborted) return;
  picture.settle(image);
  picture.busy = requests.waits;
}

strengths.addEventListener("move", follow);
for (const kind of ["move", "step"]) {
  strengths.addEventListener(kind, () => {
    $("undo").disabled = !strengths.canUndo;
    $("redo").disabled = !strengths.canRedo;
    $("reset").disabled = !strengths.any;
  });
}

// ---- telling

// `source` is what it was about, `kept` the strengths that opening it again should go on with.
function explain(problem, { source, kept = null, again, opening = false }) {
  if (!(problem instanceof api.Problem)) {
    console.error(problem);
    notice.show("Something went wrong on this page. Reload it, then try again.", [["Reload", () => location.reload()]]);
  } else if (problem.kind === "no-face") {
    notice.show("No face was found in this picture. Try one that shows a face from the front, or:", [
      ["Use the middle of the picture as the face", () => open({ ...source, align: "none" })],
      ["Choose another", choose],
    ]);
  } else if (problem.gone && source) {
    notice.show("The service has forgotten this face: its time is over, or it was deleted.", [
      [source.file ? "Open it again" : "Generate it again", () => open(source, kept)],
      ["Start over", leave],
    ]);
  } else if (opening && [413, 415, 422].includes(problem.status)) {
    notice.show(problem.message, [["Choose another", choose]]);
  } else {
    notice.show(problem.message, [["Try again", again]]);
  }
}

function busy(words) {
  $("busy").hidden = !words;
  $("busy-text").textContent = words ?? "";
  if (words) say(words);
}

let hush = 0;

function say(words, shown = false) {
  clearTimeout(hush);
  $("status").textContent = words;
  $("status").classList.toggle("shown", shown);
  hush = setTimeout(() => $("status").classList.remove("shown"), 4000);
}

function tick() {
  if (!face) return;
  const left = Math.max(0, Math.round((face.ends - Date.now()) / 1000));
  $("countdown").textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  $("countdown").classList.toggle("soon", left < 60);
  if (left > 0 || face.over) return;
  face.over = true;
  explain(new api.Problem({ status: 410 }), { source: face.source, kept: strengths.all });
}

setInterval(tick, 1000);

// ---- hands

function choose() {
  $("file").click();
}

function see(view) {
  places[picture.view] = compare.place;
  picture.view = view;
  compare.place = places[view];
  for (const button of $("views").children) button.setAttribute("aria-pressed", button.dataset.view === view);
  $("picture").classList.toggle("cropped", view === "crop");
}

async function remove() {
  const { latent } = face;
  try {
    await api.forget(latent);
  } catch (problem) {
    if (!problem.gone) {
      notice.show(`${problem.message} It was not deleted.`, [["Delete again", remove]]);
      return;
    }
  }
  notice.clear();
  leave();
  say("Deleted: the service has forgotten it.", true);
}

async function download(event) {
  event.preventDefault();
  const form = new FormData(event.target);
  const { latent, name, source, generated } = face;
  const button = event.submitter ?? event.target.querySelector("button");
  button.setAttribute("aria-busy", "true");
  try {
    const blob = await api.render({
      latent,
      attributes: strengths.all,
      output: generated ? "crop" : form.get("output"),
      accept: form.get("format"),
    });
    const part = form.get("output") === "crop" || generated ? "-crop" : "";
    const link = element("a", {
      href: URL.createObjectURL(blob),
      download: `${name}${part}-edited.${blob.type.split("/")[1].replace("jpeg", "jpg")}`,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // some browsers read it later
    say("Downloaded.", true);
  } catch (problem) {
    explain(problem, { source, kept: strengths.all, again: () => event.target.requestSubmit() });
  } finally {
    button.removeAttribute("aria-busy");
  }
}

// Closing deletes too, but a slip of the hand should cost nothing.
function close() {
  if (!face) return;
  const { latent, source } = face;
  const kept = strengths.all;
  void api.forget(latent).catch(() => {});
  leave();
  notice.show("The picture was closed, and the service has forgotten it.", [
    ["Open it again", () => open(source, kept)],
  ]);
}

const acts = {
  choose,
  generate: () => open({ seed: crypto.getRandomValues(new Uint32Array(1))[0] }),
  about: () => $("about").showModal(),
  "close-about": () => $("about").close(),
};

document.addEventListener("click", (event) => acts[event.target.closest("[data-do]")?.dataset.do]?.());
$("home").addEventListener("click", close);
$("cancel").addEventListener("click", cancel);
$("undo").addEventListener("click", () => strengths.undo());
$("redo").addEventListener("click", () => strengths.redo());
$("reset").addEventListener("click", () => strengths.reset());
$("delete").addEventListener("click", remove);
$("save").addEventListener("submit", download);
$("views").addEventListener("click", (event) => {
  const view = event.target.closest("[data-view]")?.dataset.view;
  if (view) see(view);
});

function cancel() {
  opening?.abort();
  opening = null;
  busy(null);
}

window.addEventListener("keydown", (event) => {
  if ($("about").open) return;
  const key = event.key.toLowerCase();
  if (event.key === "Escape") {
    if (opening) cancel();
    else notice.clear();
  }
  if (!face) return;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z" && !event.shiftKey) strengths.undo();
    else if (key === "y" || key === "z") strengths.redo();
    else return;
    event.preventDefault();
  } else if (key === "v" && !event.altKey && !event.target.closest("select") && !face.generated) {
    see(picture.view === "crop" ? "photo" : "crop");
  }
});

holdToSee({ button: $("hold"), key: "o", holder: $("picture"), active: () => face });
takeIn({
  input: $("file"),
  veil: $("veil"),
  onFile: (file) => open({ file, align: "auto" }),
  onNothing: (words) => notice.show(words, [["Choose a file", choose]]),
});

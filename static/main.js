// Wires the parts: what a hand does, what the service answers, what is shown.

import * as api from "./api.js";
import { photographed } from "./camera.js";
import { Compare, holdToSee } from "./compare.js";
import { cropped } from "./cropper.js";
import { $, copy, element, save } from "./dom.js";
import { examples } from "./examples.js";
import { explorer } from "./explore.js";
import { takeIn } from "./intake.js";
import { linkOf, readLink } from "./link.js";
import { Live } from "./live.js";
import { Newest } from "./newest.js";
import { Notice } from "./notice.js";
import { bitmap, enlarged, Picture } from "./picture.js";
import { fill, Sliders } from "./sliders.js";
import { Strengths } from "./state.js";
import { zoomable } from "./zoom.js";

const REST = 250; // ms without a move after which the whole photograph is fetched
const EXACT = 1_500_000; // px; a larger photograph is shown from JPEG, as PNG would take seconds
const BESIDE = 6; // percent; where the divider leaves room for its own handle
const RAW = 8; // bits of a pixel's colour value, which a model that knows nothing needs

const strengths = new Strengths();
const notice = new Notice($("alert"));
const sliders = new Sliders($("sliders"), strengths, unmake);
const picture = new Picture({
  stage: $("stage"),
  holder: $("picture"),
  before: $("before"),
  after: $("after"),
});
const compare = new Compare({ holder: $("picture"), divider: $("divider"), after: $("after") });
const requests = new Newest((error) => {
  picture.busy = false;
  explain(error, { source: face?.source, kept: strengths.all, again: follow });
});
const live = new Live({
  onPicture: arrive,
  onProblem: (said) => {
    if (said.status === 503) return askFor(moved()); // which comes back when it may
    picture.busy = false;
    explain(new api.Problem(said), { source: face?.source, kept: strengths.all, again: follow });
  },
  onLost: () => follow(),
});

let model = null;
let attributes = [];
let face = null; // what is being edited
let second = null; // { latent } of the face that is mixed in
let linked = readLink(location.hash); // settings that wait for a face
let opening = null; // AbortController of what is on its way
let rest = 0;
const places = { photo: 50, crop: 50 }; // the divider's, in each view

// ---- what the service has

async function meet() {
  try {
    [model, attributes] = await Promise.all([api.getModel(), api.getAttributes()]);
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
  return met.catch(() => {}); // told above; whoever needs what it brings tries anew
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

// `source` is { file, align } or { seed, temperature }; `kept` are strengths to go on with.
async function open(source, kept = null) {
  opening?.abort();
  const turn = (opening = new AbortController());
  notice.clear();
  busy(source.file ? "Uploading" : "Generating a face");
  try {
    await (met = met.catch(() => meet()));
    const next = await (source.file ? fromPhotograph : fromSeed)(source, turn.signal);
    if (turn.signal.aborted) return;
    enter(next, kept ?? sliders.fitted(linked?.strengths ?? {}), Boolean(kept && face));
    linked = null;
    $("linked").hidden = true;
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
  const encoded = await api.encode(file, align, signal, uploading);
  const latent = encoded.latent_id;
  if (signal.aborted) void api.forget(latent).catch(() => {});
  const [plain, own] = await Promise.all([crop(latent, signal), local]);
  // A format that the service can read and this browser cannot comes back from the service.
  const shown = own ?? (await bitmap(await api.render(api.moveOf(latent, {}), { output: "photo", signal })));
  return {
    source,
    latent,
    plain,
    ...shown,
    box: encoded.face.box,
    angle: encoded.face.angle,
    others: encoded.others,
    readings: encoded.readings,
    bits: encoded.bits_per_dim,
    ends: Date.now() + encoded.expires_in * 1000,
    generated: false,
    name: (file.name || "photograph").replace(/\.[^.]*$/, ""),
  };
}

async function fromSeed(source, signal) {
  const sampled = await api.sample(source, signal);
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
    others: [],
    readings: sampled.readings,
    bits: null,
    ends: Date.now() + sampled.expires_in * 1000,
    generated: true,
    name: `face-${source.seed}`,
  };
}

async function crop(latent, signal) {
  return createImageBitmap(await api.render(api.moveOf(latent, {}), { output: "crop", signal }));
}

const moved = () => api.moveOf(face.latent, strengths.all, second?.latent);

// Where the hand `goesOn` with the strengths that are set, they can still be undone.
function enter(next, kept, goesOn) {
  const before = face;
  requests.drop();
  live.drop();
  live.open();
  clearTimeout(rest);
  face = next;
  if (before) void api.forget(before.latent).catch(() => {});
  screen("edit");
  $("edit").classList.toggle("generated", face.generated);
  picture.show(face);
  outline();
  showMap(false);
  drawn();
  see(face.generated ? "crop" : "photo");
  Object.assign(places, { photo: beside(face), crop: BESIDE });
  compare.place = places[picture.view];
  sliders.readings = face.readings;
  if (before?.source.file !== face.source.file) document.querySelector(".panel-scroll").scrollTop = 0;
  describeFace();
  tick();
  if (goesOn) strengths.replace(kept);
  else strengths.begin(kept);
  keepAddress();
  $("panel-title").focus({ preventScroll: true });
  const more = face.others.length ? ` ${face.others.length + 1} faces were found; press another to edit it.` : "";
  say(face.generated ? "A face was generated." : `The photograph is open.${more}`, Boolean(more));
  if (!face.generated) reveal();
}

// The crop's outline on the photograph, and of each other face that was found, one to press.
function outline() {
  const press = ({ box, angle }, index) => {
    const button = element("button", { type: "button", className: "other", ariaLabel: `Edit face ${index + 2}`, title: "Edit this face" });
    button.addEventListener("click", () => open({ ...face.source, align: alignOf({ box, angle }) }));
    return { element: button, box, angle };
  };
  const others = face.others.map(press);
  $("others").replaceChildren(...others.map((other) => other.element));
  picture.outline([{ element: $("frame"), box: face.box, angle: face.angle }, ...others]);
}

const alignOf = ({ box: { x, y, size }, angle }) => [x, y, size, angle].map((n) => n.toFixed(2)).join(",");

function drawn() {
  const { temperature } = face.source;
  $("drawn").hidden = !face.generated;
  if (!face.generated) return;
  $("temperature").value = temperature;
  fill($("temperature"), temperature);
  $("temperature-value").textContent = temperature.toFixed(2);
}

// To the left of the face, so that an edit is seen whole at once.
function beside({ box, width }) {
  return Math.min(50, Math.max(BESIDE, (100 * (box.x - box.size * 0.06)) / width));
}

let veiling = 0;

function reveal() {
  clearTimeout(veiling);
  $("frame").classList.add("reveal");
  veiling = setTimeout(() => $("frame").classList.remove("reveal"), 2500);
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
  unmix();
  requests.drop();
  live.drop();
  live.close();
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
  clearTimeout(rest);
  if (!strengths.any) {
    requests.drop();
    live.drop();
    picture.original();
    return;
  }
  picture.busy = true;
  const move = moved();
  if (live.ask(move)) requests.drop();
  else askFor(move);
  if (!face.generated) rest = setTimeout(() => requests.ask((signal) => fetchWhole(move, signal), { yields: true }), REST);
}

// The crop by a request, where the live connection cannot bring it.
function askFor(move) {
  requests.ask(async (signal) => {
    const crop = await createImageBitmap(await api.render(move, { output: "crop", signal }));
    if (!signal.aborted) arrive(crop, !requests.waits);
  });
}

// A crop on the way; of a generated face, the `newest` is all there is to come.
function arrive(crop, newest) {
  notice.clear();
  if (!face.generated) picture.follow(crop);
  else {
    picture.settle(enlarged(crop));
    picture.busy = !newest;
  }
}

async function fetchWhole(move, signal) {
  const { width, height } = face;
  const accept = width * height > EXACT ? "image/jpeg" : "image/png";
  const blob = await api.render(move, { output: "photo", accept, signal });
  const { image } = await bitmap(blob);
  if (signal.aborted) return;
  live.drop();
  notice.clear();
  picture.settle(image);
  picture.busy = requests.waits;
}

strengths.addEventListener("move", follow);
for (const kind of ["move", "step"]) {
  strengths.addEventListener(kind, () => {
    $("undo").disabled = !strengths.canUndo;
    $("redo").disabled = !strengths.canRedo;
    $("reset").disabled = !strengths.any;
    $("share").value = strengths.of(api.MIX);
    fill($("share"), strengths.of(api.MIX));
    $("share-value").textContent = `${Math.round(100 * strengths.of(api.MIX))}%`;
    doubt();
  });
}
strengths.addEventListener("step", keepAddress);

// The page's address is the link to what is set.
function keepAddress() {
  const bare = !face || (!strengths.any && !face.generated);
  history.replaceState(null, "", bare ? location.pathname + location.search : linkOf(strengths.all, face.source));
}

// A word where an edit will be unreliable.
function doubt() {
  const far = face ? sliders.doubtful : [];
  $("doubt").hidden = !far.length;
  if (far.length) $("doubt").textContent = `Unreliable: ${far.join(", ")} beyond the faces this model knows. Move it nearer to 0.`;
}

// ---- settings from elsewhere

let copied = "";

async function copySettings() {
  copied = linkOf(strengths.all, face.source);
  await copy(copied);
  say("Copied: a link that restores these strengths.", true);
}

async function pasteSettings() {
  const text = await navigator.clipboard?.readText().catch(() => "");
  if (!settle(text || "") && !settle(copied)) {
    notice.show("There are no settings on the clipboard. Copy some first, or press Ctrl+V.");
  }
}

// Whether the text held settings.
function settle(text) {
  const said = readLink(text);
  const strengthsSaid = sliders.fitted(said?.strengths ?? {});
  if (!said?.source && !Object.keys(strengthsSaid).length) return false;
  if (face) strengths.replace(strengthsSaid);
  else start(said);
  return true;
}

function start(said) {
  linked = said;
  if (said.source) void open(said.source);
  else $("linked").hidden = false;
}

window.addEventListener("hashchange", () => settle(location.hash));

// ---- a second face

async function mixWith(source) {
  opening?.abort();
  const { signal } = (opening = new AbortController());
  notice.clear();
  busy(source.file ? "Uploading" : "Generating a face");
  try {
    const found = await (source.file ? api.encode(source.file, "auto", signal, uploading) : api.sample(source, signal));
    const plain = await crop(found.latent_id, signal);
    unmix();
    second = { latent: found.latent_id };
    const canvas = Object.assign($("second"), { width: plain.width, height: plain.height });
    canvas.getContext("2d").drawImage(plain, 0, 0);
    $("mixing").hidden = false;
    $("mix").open = true;
    if (!strengths.of(api.MIX)) strengths.replace({ ...strengths.all, [api.MIX]: 0.5 });
    else follow();
    $("share").focus();
  } catch (problem) {
    if (signal.aborted) return;
    if (problem.kind === "no-face") {
      notice.show("No face was found in the second picture. Choose one that shows a face from the front.", [
        ["Choose another", chooseSecond],
      ]);
    } else explain(problem, { again: () => mixWith(source) });
  } finally {
    if (!signal.aborted) {
      opening = null;
      busy(null);
    }
  }
}

function unmix() {
  if (second) void api.forget(second.latent).catch(() => {});
  second = null;
  $("mixing").hidden = true;
}

$("share").addEventListener("input", () => strengths.set(api.MIX, $("share").valueAsNumber));
$("share").addEventListener("change", () => strengths.commit(api.MIX));
$("share").addEventListener("dblclick", () => {
  strengths.set(api.MIX, 0);
  strengths.commit(api.MIX);
});

// ---- attributes of one's own

async function unmake(name, label) {
  try {
    await api.dropAttribute(name);
  } catch (problem) {
    if (!problem.gone) return explain(problem, { again: () => unmake(name, label) });
  }
  const { [name]: _, ...others } = strengths.all;
  strengths.begin(others); // what used it cannot be undone to
  await meetAgain();
  say(`${label} was deleted.`, true);
}

// ---- telling

// `source` is what it was about, `kept` the strengths that opening it again should go on with.
function explain(problem, { source, kept = null, again, opening = false }) {
  if (!(problem instanceof api.Problem)) {
    console.error(problem);
    notice.show("Something went wrong on this page. Reload it, then try again.", [["Reload", () => location.reload()]]);
  } else if (problem.kind === "no-face") {
    notice.show("No face was found in this picture. Try one that shows a face from the front, or:", [
      ["Place the crop by hand", () => place({ ...source })],
      ["Use the middle of the picture as the face", () => open({ ...source, align: "none" })],
      ["Choose another", choose],
    ]);
  } else if (problem.gone && source) {
    unmix(); // it may be the second face that is forgotten
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
  $("sent").hidden = true;
  if (words) say(words);
}

function uploading(share) {
  if (share < 1) {
    $("sent").hidden = false;
    $("sent").value = share;
    $("busy-text").textContent = `Uploading ${Math.round(100 * share)}%`;
  } else busy("Finding the face");
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

let taker = null; // who gets the file that is chosen

function choose() {
  taker = null;
  $("file").click();
}

function chooseSecond() {
  taker = (file) => mixWith({ file });
  $("file").click();
}

const any = () => ({
  seed: crypto.getRandomValues(new Uint32Array(1))[0],
  temperature: $("temperature").valueAsNumber,
});

async function place(source) {
  try {
    const shown = face?.source.file === source.file ? face : await bitmap(source.file);
    const crop = await cropped(shown);
    if (crop) await open({ ...source, align: alignOf(crop) }, face && strengths.all);
  } catch {
    notice.show("This browser cannot show the picture, so the crop cannot be placed by hand here.", [
      ["Use the middle of the picture as the face", () => open({ ...source, align: "none" })],
    ]);
  }
}

async function shoot() {
  try {
    const file = await photographed();
    if (file) await open({ file, align: "auto" });
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    notice.show(refused
      ? "The camera may not be used. Allow it for this page in the browser, then try again."
      : "No camera can be used here. Connect one, or choose a photograph instead.",
    [["Try again", shoot], ["Choose a photograph", choose]]);
  }
}

function see(view) {
  places[picture.view] = compare.place;
  picture.view = view;
  showZoom();
  compare.place = places[view];
  for (const button of $("views").children) button.setAttribute("aria-pressed", button.dataset.view === view);
  $("picture").classList.toggle("cropped", view === "crop");
}

function showZoom() {
  $("zoom").textContent = `${Math.round(10 * picture.zoom) / 10}×`;
}

function showMap(map) {
  picture.map = map;
  $("map").setAttribute("aria-pressed", map);
  document.querySelector(".tag-after").textContent = map ? "What changed, 8×" : "After";
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
  const { name, source, generated } = face;
  const button = event.submitter ?? event.target.querySelector("button");
  button.setAttribute("aria-busy", "true");
  try {
    if (event.target === $("motion")) {
      const attribute = form.get("attribute");
      const request = { ...moved(), attribute, steps: 12, animated: generated ? "crop" : "photo" };
      save(await api.sweep(request, form.get("format")), `${name}-${attribute}`);
    } else {
      const output = generated ? "crop" : form.get("output");
      const blob = await api.render(moved(), { output, accept: form.get("format") });
      save(blob, `${name}${output === "crop" ? "-crop" : ""}-edited`);
    }
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

function take() {
  const form = new FormData($("save"));
  const output = face.generated ? "crop" : form.get("output");
  const kind = form.get("format").split("/")[1].replace("jpeg", "jpg");
  $("curl").textContent = [
    `curl -X POST ${new URL("api/v1/edit", document.baseURI)}`,
    "-H 'content-type: application/json'",
    `-H 'accept: ${form.get("format")}'`,
    `-d '${JSON.stringify({ ...moved(), output })}'`,
    `-o edited.${kind}`,
  ].join(" \\\n  ");
  const options = attributes.map(({ name, label }) => element("option", { value: name, textContent: label }));
  $("motion").attribute.replaceChildren(...options);
  $("take").showModal();
}

const explore = explorer({ attributes: () => attributes, move: moved, strengths, explain });
const make = examples({
  onMade: async ({ label }) => {
    if (face) live.renew();
    await meetAgain();
    say(`${label} has a slider now.`, true);
  },
});

const acts = {
  choose,
  generate: () => open(any()),
  camera: shoot,
  adjust: () => place(face.source),
  copy: copySettings,
  paste: pasteSettings,
  explore,
  "choose-second": chooseSecond,
  "generate-second": () => mixWith(any()),
  make,
  take,
  "copy-curl": () => copy($("curl").textContent).then(() => say("Copied.", true)),
  about: () => $("about").showModal(),
  close: (button) => button.closest("dialog").close(),
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button) return;
  if (button.closest("[popover]")) $("more").hidePopover();
  acts[button.dataset.do](button);
});
$("more").addEventListener("toggle", () => {
  const { right, bottom } = $("more-button").getBoundingClientRect();
  const left = Math.max(8, right - $("more").offsetWidth);
  Object.assign($("more").style, { top: `${bottom + 4}px`, left: `${left}px` });
});
$("file").addEventListener("cancel", () => { taker = null; });
$("home").addEventListener("click", close);
$("cancel").addEventListener("click", cancel);
$("undo").addEventListener("click", () => strengths.undo());
$("redo").addEventListener("click", () => strengths.redo());
$("reset").addEventListener("click", () => strengths.replace({}));
$("randomise").addEventListener("click", randomise);
$("map").addEventListener("click", () => showMap(!picture.map));
$("motion").addEventListener("submit", download);
$("temperature").addEventListener("input", () => {
  fill($("temperature"), $("temperature").valueAsNumber);
  $("temperature-value").textContent = $("temperature").valueAsNumber.toFixed(2);
});
$("temperature").addEventListener("change", () => open({ ...any(), seed: face.source.seed }, strengths.all));
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

function randomise() {
  const { [api.MIX]: share } = strengths.all;
  strengths.replace({ ...sliders.random(), ...(share && { [api.MIX]: share }) });
}

const modal = () => document.querySelector("dialog[open]");

window.addEventListener("keydown", (event) => {
  if (modal()) return;
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
  } else if (!event.altKey && !event.target.closest("select")) {
    if (key === "v" && !face.generated) see(picture.view === "crop" ? "photo" : "crop");
    if (key === "m") showMap(!picture.map);
    if (key === "r") randomise();
  }
});

window.addEventListener("copy", (event) => {
  if (!face || modal() || String(getSelection())) return;
  copied = linkOf(strengths.all, face.source);
  event.clipboardData.setData("text/plain", copied);
  event.preventDefault();
  say("Copied: a link that restores these strengths.", true);
});

zoomable({ picture, holder: $("picture"), buttons: $("zooms"), onZoom: showZoom, active: () => face && !modal() });

holdToSee({ button: $("hold"), key: "o", holder: $("picture"), active: () => face });
takeIn({
  input: $("file"),
  veil: $("veil"),
  onFile: (file) => {
    const take = taker ?? ((chosen) => open({ file: chosen, align: "auto" }));
    taker = null;
    take(file);
  },
  onText: settle,
  idle: () => !modal(),
  onNothing: (words) => notice.show(words, [["Choose a file", choose]]),
});
if (linked) start(linked);

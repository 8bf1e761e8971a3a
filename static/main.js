// Wires the parts: what a hand does, what the service answers, what is shown.

import { describeCrop, describeModel } from "./about.js";
import * as api from "./api.js";
import { photographed } from "./camera.js";
import { Compare, holdToSee } from "./compare.js";
import { cropped } from "./cropper.js";
import { $, closer, copy, element, endingOf, modal, optionsOf, save } from "./dom.js";
import { examples } from "./examples.js";
import { explorer } from "./explore.js";
import { begun, crop, faceOf, forget } from "./face.js";
import { takeIn } from "./intake.js";
import { hasKey } from "./key.js";
import { linkOf, readLink } from "./link.js";
import { Live } from "./live.js";
import { Newest } from "./newest.js";
import { busy, hush, say, uploading, warn } from "./notice.js";
import { bitmap, enlarged, Picture } from "./picture.js";
import { drive, fill, Sliders } from "./sliders.js";
import { Strengths } from "./state.js";
import { zoomable } from "./zoom.js";

const REST = 250; // ms without a move after which the whole photograph is fetched
const EXACT = 1_500_000; // px; a larger photograph is shown from JPEG, as PNG would take seconds
const BESIDE = 6; // percent; where the divider leaves room for its own handle

const strengths = new Strengths();
const sliders = new Sliders(strengths, unmake);
const picture = new Picture();
const compare = new Compare();
const requests = new Newest(stuck);
const live = new Live({
  onPicture: arrive,
  // a busy service is asked by requests, which come back when they may
  onProblem: (said) => (said.status === 503 ? askFor(moved()) : stuck(new api.Problem(said))),
  onLost: follow,
});

let model = null;
let attributes = [];
let face = null; // what is being edited
let second = null; // the latent of the face that is mixed in
let linked = readLink(location.hash); // settings that wait for a face
let opening = null; // AbortController of what is on its way
let rest = 0;
const places = { photo: 50, crop: 50 }; // the divider's, in each view

// ---- what the service has

async function meet() {
  try {
    [model, attributes] = await Promise.all([api.getModel(), api.getAttributes()]);
    sliders.build(attributes);
    describeModel(model);
  } catch (problem) {
    warn(problem.message, [["Try again", meetAgain]]);
    throw problem;
  }
}

let met;

// Its failure is told above; who needs what it brings tries anew.
const meetAgain = () => (met = meet()).catch(() => {});
meetAgain();

// ---- opening a face

// One at a time; `fail` hears of a problem, unless it was called off.
async function bring(source, work, fail) {
  opening?.abort();
  const turn = (opening = new AbortController());
  hush();
  busy(source.file ? "Uploading" : "Generating a face");
  try {
    await (met = met.catch(meet));
    await work(turn.signal);
  } catch (problem) {
    if (!turn.signal.aborted) fail(problem);
  } finally {
    if (opening === turn) settled();
  }
}

function settled() {
  opening = null;
  busy(null);
}

// `kept` are strengths to go on with.
function open(source, kept = null) {
  return bring(source, async (signal) => {
    const next = await faceOf(source, signal, uploading);
    if (signal.aborted) return forget(next.latent);
    enter(next, kept ?? sliders.fitted(linked?.strengths ?? {}), Boolean(kept && face));
    linked = null;
    $("linked").hidden = true;
  }, (problem) => explain(problem, { source, kept, opening: true, again: () => open(source, kept) }));
}

const moved = () => api.moveOf(face.latent, strengths.all, second);

// Where the hand `goesOn`, the strengths that are set can be undone.
function enter(next, kept, goesOn) {
  const before = face;
  stop();
  live.open();
  face = next;
  const { generated, source, others, box, width, bits } = face;
  if (before) forget(before.latent);
  screen("edit");
  $("edit").classList.toggle("generated", generated);
  picture.show(face);
  outline();
  showMap(false);
  $("drawn").hidden = !generated;
  if (generated) showTemperature(source.temperature);
  see(generated ? "crop" : "photo");
  // left of the face, so that an edit is seen whole at once
  const beside = (100 * (box.x - box.size * 0.06)) / width;
  Object.assign(places, { photo: Math.min(50, Math.max(BESIDE, beside)), crop: BESIDE });
  compare.place = places[picture.view];
  sliders.readings = face.readings;
  if (before?.source.file !== source.file) $("panel-scroll").scrollTop = 0;
  describeCrop(bits, model.bits_per_dim);
  tick();
  if (goesOn) strengths.replace(kept);
  else strengths.begin(kept);
  keepAddress();
  $("panel-title").focus({ preventScroll: true });
  if (others.length) say(`${others.length + 1} faces were found; press another to edit it.`, true);
  else say(generated ? "A face was generated." : "The photograph is open.");
  $("frame").animate({ opacity: [0.95, 0.95, 0] }, 4000);
}

// The crop's outline on the photograph, and one to press of each other face.
function outline() {
  const others = face.others.map(({ box, angle }, index) => {
    const button = element("button", { className: "other", ariaLabel: `Edit face ${index + 2}`, title: "Edit this face" });
    button.onclick = () => open({ ...face.source, align: alignOf({ box, angle }) });
    return { element: button, box, angle };
  });
  $("others").replaceChildren(...others.map((other) => other.element));
  picture.outline([{ element: $("frame"), box: face.box, angle: face.angle }, ...others]);
}

const alignOf = ({ box: { x, y, size }, angle }) => [x, y, size, angle].map((n) => n.toFixed(2)).join(",");

function showTemperature(temperature) {
  fill($("temperature"), temperature);
  $("temperature-value").textContent = temperature.toFixed(2);
}

// What is on its way for the open face.
function stop() {
  requests.drop();
  live.drop();
  clearTimeout(rest);
}

function leave() {
  face = null;
  unmix();
  stop();
  live.close();
  strengths.begin({});
  picture.clear();
  screen("start");
  $("start").querySelector("button").focus({ preventScroll: true });
}

function screen(name) {
  document.body.dataset.screen = name;
  for (const id of ["start", "edit"]) $(id).hidden = id !== name;
  document.title = face ? `${face.name} – Glow Editor` : "Glow Editor";
}

// ---- editing

function follow() {
  if (!face) return;
  clearTimeout(rest);
  if (!strengths.any) {
    stop();
    return picture.original();
  }
  picture.busy = true;
  const move = moved();
  if (live.ask(move)) requests.drop();
  else askFor(move);
  if (!face.generated) rest = setTimeout(() => requests.ask((signal) => fetchWhole(move, signal), { yields: true }), REST);
}

// Where the live connection cannot bring it.
function askFor(move) {
  requests.ask(async (signal) => {
    const image = await crop(move, signal);
    if (!signal.aborted) arrive(image, !requests.waits);
  });
}

// A crop on the way; of a generated face, the `newest` is all to come.
function arrive(image, newest) {
  hush();
  if (!face.generated) return picture.follow(image);
  picture.settle(enlarged(image));
  picture.busy = !newest;
}

async function fetchWhole(move, signal) {
  const accept = face.width * face.height > EXACT ? "image/jpeg" : "image/png";
  const { image } = await bitmap(await api.render(move, { output: "photo", accept, signal }));
  if (signal.aborted) return;
  live.drop();
  hush();
  picture.settle(image);
  picture.busy = requests.waits;
}

function stuck(problem) {
  picture.busy = false;
  explain(problem, { again: follow });
}

strengths.addEventListener("move", follow);
for (const kind of ["move", "step"]) {
  strengths.addEventListener(kind, () => {
    $("undo").disabled = !strengths.canUndo;
    $("redo").disabled = !strengths.canRedo;
    $("reset").disabled = !strengths.any;
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

// Where an edit is unreliable.
function doubt() {
  const far = face ? sliders.doubtful : [];
  $("doubt").hidden = !far.length;
  if (far.length) $("doubt").textContent = `Unreliable: ${far.join(", ")} beyond the faces this model knows. Move it nearer to 0.`;
}

// ---- settings from elsewhere

let copied = "";

// For the clipboard.
function copyLink(put) {
  copied = linkOf(strengths.all, face.source);
  put(copied);
  say("Copied: a link that restores these strengths.", true);
}

async function pasteSettings() {
  const text = await navigator.clipboard?.readText().catch(() => "");
  if (!settle(text || "") && !settle(copied)) {
    warn("There are no settings on the clipboard. Copy some first, or press Ctrl+V.");
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

// ---- a second face

function mixWith(source) {
  return bring(source, async (signal) => {
    const { latent, plain } = await begun(source, signal, uploading);
    if (signal.aborted) return forget(latent);
    unmix();
    second = latent;
    const canvas = Object.assign($("second"), { width: plain.width, height: plain.height });
    canvas.getContext("2d").drawImage(plain, 0, 0);
    $("mixing").hidden = false;
    $("mix").open = true;
    if (!strengths.of(api.MIX)) strengths.replace({ ...strengths.all, [api.MIX]: 0.5 });
    else follow();
    $("share").focus();
  }, (problem) => {
    if (problem.kind !== "no-face") return explain(problem, { again: () => mixWith(source) });
    warn("No face was found in the second picture. Choose one that shows a face from the front.", [
      ["Choose another", chooseSecond],
    ]);
  });
}

function unmix() {
  if (second) forget(second);
  second = null;
  $("mixing").hidden = true;
}

drive($("share"), strengths, api.MIX);

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

const make = examples({
  onMade: async ({ label }) => {
    if (face) live.renew();
    await meetAgain();
    say(`${label} has a slider now.`, true);
  },
});

// ---- telling

// `source` is what it was about, `kept` the strengths that opening it again should go on with.
function explain(problem, { source = face?.source, kept = strengths.all, again, opening } = {}) {
  if (!(problem instanceof api.Problem)) {
    console.error(problem);
    warn("Something went wrong on this page. Reload it, then try again.", [["Reload", () => location.reload()]]);
  } else if (problem.kind === "no-face") {
    warn("No face was found in this picture. Try one that shows a face from the front, or:", [
      ["Place the crop by hand", () => place(source)],
      middleOf(source),
      ["Choose another", choose],
    ]);
  } else if (problem.gone && source) {
    unmix(); // it may be the second face that is forgotten
    warn("The service has forgotten this face: its time is over, or it was deleted.", [
      [source.file ? "Open it again" : "Generate it again", () => open(source, kept)],
      ["Start over", leave],
    ]);
  } else if (opening && [413, 415, 422].includes(problem.status)) {
    warn(problem.message, [["Choose another", choose]]);
  } else {
    warn(problem.message, [["Try again", again]]);
  }
}

const middleOf = (source) => ["Use the middle of the picture as the face", () => open({ ...source, align: "none" })];

function tick() {
  if (!face) return;
  const left = Math.max(0, Math.round((face.ends - Date.now()) / 1000));
  $("countdown").textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  $("countdown").classList.toggle("soon", left < 60);
  if (left > 0 || face.over) return;
  face.over = true;
  explain(new api.Problem({ status: 410 }));
}

setInterval(tick, 1000);

// ---- taking away

async function download(event) {
  event.preventDefault();
  const { target: form, submitter: button } = event;
  const { attribute, output: whole = "photo", format } = Object.fromEntries(new FormData(form));
  const { name, generated } = face;
  const output = generated ? "crop" : whole;
  button.ariaBusy = "true";
  try {
    if (attribute) save(await api.sweep({ ...moved(), attribute, steps: 12, animated: output }, format), `${name}-${attribute}`);
    else save(await api.render(moved(), { output, accept: format }), `${name}${output === "crop" ? "-crop" : ""}-edited`);
    say("Downloaded.", true);
  } catch (problem) {
    explain(problem, { again: () => form.requestSubmit(button) });
  } finally {
    button.ariaBusy = null;
  }
}

function take() {
  const { output, format } = Object.fromEntries(new FormData($("save")));
  const move = { ...moved(), output: face.generated ? "crop" : output };
  $("curl").textContent = [
    `curl -X POST ${new URL("api/v1/edit", document.baseURI)}`,
    "-H 'content-type: application/json'",
    `-H 'accept: ${format}'`,
    ...(hasKey() ? ['-H "x-api-key: $GLOW_API_KEY"'] : []),
    `-d '${JSON.stringify(move)}'`,
    `-o edited.${endingOf(format)}`,
  ].join(" \\\n  ");
  $("curl-key").hidden = !hasKey();
  $("motion").attribute.replaceChildren(...optionsOf(attributes));
  $("take").showModal();
}

// ---- hands

const openFile = (file) => open({ file });
let taker = openFile; // who gets the file that is chosen

function choose(take = openFile) {
  taker = take;
  $("file").click();
}

const chooseSecond = () => choose((file) => mixWith({ file }));

const any = () => ({
  seed: crypto.getRandomValues(new Uint32Array(1))[0],
  temperature: $("temperature").valueAsNumber,
});

async function place(source) {
  try {
    const shown = face?.source.file === source.file ? face : await bitmap(source.file);
    const placed = await cropped(shown);
    if (placed) await open({ ...source, align: alignOf(placed) }, face && strengths.all);
  } catch {
    warn("This browser cannot show the picture, so the crop cannot be placed by hand here.", [middleOf(source)]);
  }
}

async function shoot() {
  try {
    const file = await photographed();
    if (file) await openFile(file);
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    warn(refused
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
  for (const button of $("views").children) button.ariaPressed = button.dataset.view === view;
  $("picture").classList.toggle("cropped", view === "crop");
}

function showZoom() {
  $("zoom").textContent = `${Math.round(10 * picture.zoom) / 10}×`;
}

function showMap(map = !picture.map) {
  picture.map = map;
  $("map").ariaPressed = map;
  $("tag-after").textContent = map ? "What changed, 8×" : "After";
}

async function remove() {
  try {
    await api.forget(face.latent);
  } catch (problem) {
    if (!problem.gone) return warn(`${problem.message} It was not deleted.`, [["Delete again", remove]]);
  }
  hush();
  leave();
  say("Deleted: the service has forgotten it.", true);
}

// Closing deletes too, but a slip of the hand should cost nothing.
function close() {
  const { latent, source } = face;
  const kept = strengths.all;
  forget(latent);
  leave();
  warn("The picture was closed, and the service has forgotten it.", [["Open it again", () => open(source, kept)]]);
}

function cancel() {
  opening?.abort();
  settled();
}

function randomise() {
  const { [api.MIX]: share } = strengths.all;
  strengths.replace({ ...sliders.random(), ...(share && { [api.MIX]: share }) });
}

const acts = {
  choose: () => choose(),
  generate: () => open(any()),
  camera: shoot,
  close,
  cancel,
  adjust: () => place(face.source),
  undo: () => strengths.undo(),
  redo: () => strengths.redo(),
  reset: () => strengths.replace({}),
  randomise,
  map: () => showMap(),
  see: ({ dataset }) => see(dataset.view),
  remove,
  copy: () => copyLink(copy),
  paste: pasteSettings,
  explore: explorer({ attributes: () => attributes, move: moved, strengths, explain }),
  "choose-second": chooseSecond,
  "generate-second": () => mixWith(any()),
  make,
  take,
  "copy-curl": () => copy($("curl").textContent).then(() => say("Copied.", true)),
  use: (button) => button.closest("dialog").close("use"),
  about: () => $("about").showModal(),
};

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-do]");
  if (!button) return;
  if (button.closest("[popover]")) $("more").hidePopover();
  acts[button.dataset.do](button);
});
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.ariaLabel = dialog.querySelector("h2").textContent;
  dialog.prepend(closer("Close", () => dialog.close()));
}
$("more").ontoggle = () => {
  const { right, bottom } = $("more-button").getBoundingClientRect();
  const left = Math.max(8, right - $("more").offsetWidth);
  Object.assign($("more").style, { top: `${bottom + 4}px`, left: `${left}px` });
};
$("temperature").oninput = ({ target }) => showTemperature(target.valueAsNumber);
$("temperature").onchange = () => open({ ...any(), seed: face.source.seed }, strengths.all);
for (const form of ["save", "motion"]) $(form).addEventListener("submit", download);

window.addEventListener("keydown", (event) => {
  if (modal()) return;
  const key = event.key.toLowerCase();
  if (key === "escape") {
    if (opening) cancel();
    else hush();
  }
  if (!face) return;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z" && !event.shiftKey) strengths.undo();
    else if (key === "y" || key === "z") strengths.redo();
    else return;
    event.preventDefault();
  } else if (!event.altKey && !event.target.closest("select")) {
    if (key === "v" && !face.generated) see(picture.view === "crop" ? "photo" : "crop");
    if (key === "m") showMap();
    if (key === "r") randomise();
  }
});

window.addEventListener("copy", (event) => {
  if (!face || modal() || String(getSelection())) return;
  copyLink((link) => event.clipboardData.setData("text/plain", link));
  event.preventDefault();
});

window.addEventListener("hashchange", () => settle(location.hash));
zoomable({ picture, compare, onZoom: showZoom, active: () => face && !modal() });
holdToSee({ key: "o", active: () => face });
takeIn({
  onChosen: (file) => taker(file),
  onFile: openFile,
  onText: settle,
  idle: () => !modal(),
  onNothing: (words) => warn(words, [["Choose a file", choose]]),
});
if (linked) start(linked);

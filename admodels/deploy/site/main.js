// The page: what is shown, and what happens when somebody touches it.

import { Calibration, percent } from "./calibration.js";
import { Camera } from "./camera.js";
import { isAnyAbove, overlay } from "./draw.js";
import { fetched } from "./engine.js";
import { asCsv, PictureList } from "./list.js";
import { GIVEN_UP, Scorer } from "./scorer.js";
import { fromDrop, fromFiles, fromFolder } from "./sources.js";
import { Speed } from "./speed.js";

const RATES = [0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5];
const N_VIEWS = 12; // pictures and maps that are kept; others are scored again when they are looked at
const N_IN_FLIGHT = 2; // the worker has the next one while this one is drawn
// A sign, since colours alone say nothing to some.
const VERDICTS = {
  suspected: { words: "✗ Anomalous", kind: "alarm" },
  borderline: {
    words: "? Borderline",
    kind: "borderline",
    advice: "Below the threshold, but at most 5 % of good pictures score as high. Look at it yourself.",
  },
  good: { words: "✓ Looks good", kind: "good" },
};

const $ = (id) => document.getElementById(id);
let isReady = false;
let isRefused = false;
let queue = [];
const settings = await settingsHere();
const fitted = new Calibration(settings.calibration);
const rates = [...new Set([...RATES, settings.calibration.false_alarm_rate])].sort((a, b) => a - b);
const speed = new Speed();
const camera = new Camera($("video"));
const list = new PictureList($("list"), choose);
const views = new Map();
const inFlight = new Set();

let calibration = fitted;
let engineName = "";
let gpuReason = "WebGPU has not answered";
let nDone = 0;
let nAsked = 0;
let hasChosen = false; // by hand, which a batch's worst picture does not replace
let shown = null; // {name, score, notices, view}
let nPasted = 0;
let nKept = 0;
let passedOver = [];

replaced = () => {
  if (nAsked || camera.isOn) $("newer").hidden = false;
  else location.reload();
};

const scorer = new Scorer(settings, { progress, ready, engine: engineChanged, refused }, gpuHere());
describe();

// ——— Start ———

async function settingsHere() {
  try {
    return await new Response(await fetched("model.json")).json();
  } catch (error) {
    refused(`The model could not be loaded (${error.message}). Check the network and load the page again.`);
    return new Promise(() => {}); // nothing below can do without them
  }
}

async function gpuHere() {
  // An adapter that fails is as good as none.
  const isThere = Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
  if (isThere) gpuReason = "WebGPU is tried when nothing else is to do";
  else gpuReason = navigator.gpu ? "WebGPU finds no graphics card" : "this browser has no WebGPU";
  if (isReady) engineChanged(engineName, gpuReason);
  return isThere;
}

function progress(loaded, total) {
  $("progress").value = loaded / total;
  $("engine").textContent = `Loading the model … ${Math.round((100 * loaded) / total)}%`;
}

function ready(name, seconds) {
  if (!isReady) keepForOffline(); // a worker that broke is replaced by another, which gets ready too
  isReady = true;
  $("loading").hidden = true;
  engineChanged(name, gpuReason);
  document.body.dataset.state = "ready";
  document.body.dataset.probeSeconds = seconds;
  pump();
}

function engineChanged(name, reason) {
  engineName = name;
  const alone = self.crossOriginIsolated ? "" : "; one thread, since the page is not isolated from others";
  $("engine").textContent = name;
  $("why").textContent = `Runs on ${name}: ${reason}${name.startsWith("WebGPU") ? "" : alone}.`;
  document.body.dataset.engine = name;
  sayProgress();
}

function refused(reason) {
  say(reason);
  isRefused = true;
  isReady = false;
  document.body.dataset.state = "refused";
  $("engine").textContent = "Judges nothing here";
  $("loading").hidden = true;
  for (const id of ["choose", "choose-folder", "camera"]) $(id).disabled = true;
  for (const item of queue.splice(0)) done(Object.assign(item, { reason: GIVEN_UP }), null); // none is lost in silence
}

function describe() {
  const { title, name, network, working_size: [height, width], source, licences, runtime } = settings;
  $("title").textContent = name;
  const from = source.startsWith("hf-hub:") ? ` · ${source}` : "";
  $("subtitle").textContent = `${title} · ${network} · ${width}×${height} px${from}`;
  $("licences").textContent = `Licences: ${Object.entries(licences).map(([what, text]) => `${what}: ${text}`).join("; ")}.`;
  $("version").textContent = runtime.version + (runtime.is_remote ? `, loaded once from ${new URL(runtime.base).host}` : "");
  $("sources-first").append($("sources"));
  const stops = settings.colours.filter((_, i) => i % 15 === 0).map((rgb) => `rgb(${rgb})`);
  $("bar").style.background = `linear-gradient(to right, ${stops})`;
  $("rate").max = rates.length - 1;
  setCalibration(fitted);
}

/** Keep the page for use without a network, once all of it is here; see whether there is a newer one. */
async function keepForOffline() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("service-worker.js", { updateViaCache: "none" });
    await navigator.serviceWorker.ready;
    $("offline").hidden = false;
    document.body.dataset.offline = "ready";
  } catch (error) {
    document.body.dataset.offline = String(error.message); // it works all the same, while there is a network
  }
}

// ——— Pictures in, verdicts out ———

function take({ pictures, passedOver: others }) {
  passedOver.push(...others);
  $("passed-over").hidden = !passedOver.length;
  if (passedOver.length) {
    const named = passedOver.slice(0, 5).join(", ") + (passedOver.length > 5 ? ", …" : "");
    $("passed-over").textContent =
      passedOver.length === 1
        ? `1 file is not a picture by its name and was passed over: ${named}.`
        : `${passedOver.length} files are not pictures by their names and were passed over: ${named}.`;
    $("side").classList.add("used");
  }
  if (isRefused || !pictures.length) return;
  if (camera.isOn) stopCamera();
  if (nDone === nAsked) [nDone, nAsked, hasChosen] = [0, 0, false];
  nAsked += pictures.length;
  queue.push(...pictures);
  sayProgress();
  pump();
}

function pump() {
  while (isReady && queue.length && inFlight.size < N_IN_FLIGHT) scoreNext(queue.shift());
}

async function scoreNext(item) {
  inFlight.add(item);
  let view = null;
  try {
    const { score, notices, ms, thumbnail, ...rest } = await scorer.score(item.file);
    view = rest;
    Object.assign(item, { score, notices, thumbnail: thumbnail && URL.createObjectURL(thumbnail) });
    speed.add(ms);
  } catch (error) {
    item.reason = error.message;
  }
  const isWanted = inFlight.delete(item); // unless it was cleared away meanwhile
  pump();
  if (isWanted) done(item, view);
}

function done(item, view) {
  nDone += 1;
  if (view) keepView(item, view);
  list.add(item, judge);
  showStage();
  const isLast = nDone === nAsked;
  if (!list.chosen || (list.chosen.reason && !hasChosen)) list.choose(list.items[0]);
  else if (isLast && !hasChosen) list.choose(list.items[0]);
  sayProgress();
}

function judge(score) {
  return VERDICTS[calibration.verdict(score)];
}

function keepView(item, view) {
  views.delete(item);
  views.set(item, view);
  if (views.size > N_VIEWS) views.delete([...views.keys()].find((kept) => kept !== list.chosen));
}

async function choose(item, isByUser) {
  hasChosen ||= isByUser;
  if (isByUser && camera.isOn) stopCamera();
  if (item.reason) {
    show({ name: item.name, reason: item.reason, notices: [], view: null });
    return;
  }
  let view = views.get(item);
  if (!view) {
    show({ name: item.name, score: item.score, notices: item.notices, view: null, isComing: true });
    ({ ...view } = await scorer.score(item.file).catch((error) => ({ lost: error.message })));
    if (list.chosen !== item) return;
    if (view.lost) {
      show({ name: item.name, reason: view.lost, notices: [], view: null });
      return;
    }
  }
  keepView(item, view);
  show({ name: item.name, score: item.score, notices: item.notices, view });
}

// ——— What is shown ———

function showStage() {
  if (!$("result").hidden) return;
  $("empty").hidden = true;
  $("result").hidden = false;
  $("sources-later").append($("sources"));
  $("side").classList.add("used");
  $("stage").scrollIntoView({ block: "nearest" });
}

function show(what) {
  shown = what;
  const { name, score, reason, notices } = what;
  const { words, kind, advice } = reason ? { words: "Not scored", kind: "" } : judge(score);
  const verdict = $("verdict");
  verdict.className = `verdict ${kind}`;
  const [strong, span] = [document.createElement("strong"), document.createElement("span")];
  strong.textContent = words;
  span.textContent = reason ? `${name} ${reason}` : name;
  // Said anew only where it changed: a screen reader would repeat it for every frame.
  if (verdict.textContent !== words + span.textContent) verdict.replaceChildren(strong, span);
  const facts = reason
    ? []
    : [
        ["Score", score.toPrecision(5)],
        ["Threshold", calibration.threshold.toPrecision(5)],
        ["p-value", calibration.pValue(score).toPrecision(3)],
      ];
  $("figures").replaceChildren(
    ...facts.map(([term, value]) => {
      const [pair, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      [dt.textContent, dd.textContent] = [term, value];
      pair.append(dt, dd);
      return pair;
    }),
  );
  const said = notices.map((notice) => `The picture ${notice}.`.replace("The picture its", "Its"));
  $("notices").replaceChildren(
    ...[...(advice ? [advice] : []), ...said].map((textContent) => Object.assign(document.createElement("li"), { textContent })),
  );
  const at = list.items.indexOf(list.chosen);
  const isInList = !camera.isOn;
  for (const id of ["previous", "next", "place"]) $(id).hidden = !isInList;
  $("place").textContent = `${at + 1} of ${list.items.length}`;
  $("previous").disabled = at <= 0;
  $("next").disabled = at >= list.items.length - 1;
  draw();
  drawStrip();
}

function draw() {
  const canvas = $("picture");
  canvas.hidden = !shown?.view && !shown?.isComing;
  canvas.style.visibility = shown?.isComing ? "hidden" : ""; // its place is kept, and no other picture is seen in it
  if (!shown?.view) return;
  const { view, name, score } = shown;
  if (canvas.width !== view.width || canvas.height !== view.height) {
    Object.assign(canvas, { width: view.width, height: view.height });
    canvas.style.setProperty("--w", view.width);
    canvas.style.setProperty("--h", view.height);
  }
  const image = overlay(view, settings.scale, settings.colours, {
    mapThreshold: calibration.mapThreshold,
    opacity: $("opacity").value / 100,
    hasContour: $("contour").checked,
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  const isAbove = isAnyAbove(view.map, calibration.mapThreshold);
  canvas.setAttribute(
    "aria-label",
    `${name}, ${view.fullWidth}×${view.fullHeight} pixels, with its heatmap. ${judge(score).words.slice(2)}. ` +
      (isAbove ? "A region above the pixel threshold is outlined." : "Nothing lies above the pixel threshold."),
  );
}

/** Where this score lies among those of held-out good pictures. */
function drawStrip() {
  const svg = $("strip");
  const { scores, threshold } = calibration;
  const score = shown?.reason ? null : shown?.score;
  const all = [...scores, threshold, ...(score == null ? [] : [score])];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (value) => `${(2 + (96 * (value - low)) / (high - low || 1)).toFixed(2)}%`;
  const part = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const step = Math.max(1, Math.ceil(scores.length / 400));
  svg.replaceChildren(
    part("line", { x1: "0", x2: "100%", y1: 30, y2: 30, class: "base" }),
    ...[...scores].filter((_, i) => i % step === 0).map((value) => part("circle", { cx: x(value), cy: 30, r: 4, class: "held" })),
    part("line", { x1: x(threshold), x2: x(threshold), y1: 8, y2: 42, class: "edge" }),
    ...(score == null
      ? []
      : [part("line", { x1: x(score), x2: x(score), y1: 12, y2: 40, class: `this ${judge(score).kind}` })]),
  );
  const n = scores.length;
  $("strip-text").textContent =
    `Dots: scores of ${n} held-out good pictures. Dashed: the threshold.` +
    (score == null ? "" : ` Bar: this picture, above ${percent(calibration.rarerThan(score), 0)} of them.`);
}

function sayProgress() {
  const isBusy = nDone < nAsked;
  $("batch").hidden = !isBusy || $("result").hidden;
  $("batch-bar").value = nAsked ? nDone / nAsked : 0;
  if ($("result").hidden && isBusy) {
    $("loading").hidden = false;
    if (isReady) $("progress").value = nDone / nAsked;
  }
  const scored = list.items.filter((item) => !item.reason);
  const verdicts = scored.map((item) => calibration.verdict(item.score));
  const [nAlarms, nBorderline] = ["suspected", "borderline"].map((one) => verdicts.filter((each) => each === one).length);
  const nFailed = list.items.length - scored.length;
  const parts = [];
  if (isBusy) parts.push(isReady ? `${nDone} of ${nAsked} scored` : "Waiting for the model");
  if (scored.length) parts.push(`${nAlarms} of ${scored.length} anomalous`);
  if (nBorderline) parts.push(`${nBorderline} borderline`);
  if (nFailed) parts.push(`${nFailed} not scored`);
  $("summary").textContent = parts.join(" · ");
  $("list-actions").hidden = !list.items.length;
  $("speed").textContent = speed.statement(engineName);
  document.body.dataset.busy = isBusy;
}

// ——— Threshold ———

function setCalibration(next) {
  calibration = next;
  const isFitted = next === fitted;
  const at = next.isByHand ? rates.findIndex((rate) => rate >= next.rate) : rates.indexOf(next.rate);
  $("rate").value = Math.max(0, at);
  const words = next.isByHand ? "set by hand" : percent(next.rate, 1);
  $("rate-text").textContent = words;
  $("rate").setAttribute("aria-valuetext", words);
  $("statement").textContent = next.statement;
  $("as-fitted").hidden = isFitted;
  const [bottom, top] = settings.scale;
  const place = Math.min(1, Math.max(0, (next.mapThreshold - bottom) / (top - bottom)));
  $("mark").style.left = `${100 * place}%`;
  $("bottom").textContent = `usual ${bottom.toPrecision(3)}`;
  $("mark-text").textContent = `pixel threshold ${next.mapThreshold.toPrecision(3)}`;
  $("top").textContent = `${top.toPrecision(3)} and above`;
  Object.assign($("figures").dataset, { threshold: next.threshold, mapThreshold: next.mapThreshold });
  list.judge(judge);
  sayProgress();
  if (shown) show(shown);
  else drawStrip();
}

$("rate").addEventListener("input", () => {
  const rate = rates[$("rate").value];
  setCalibration(!fitted.isByHand && rate === fitted.rate ? fitted : fitted.withRate(rate));
});
$("as-fitted").addEventListener("click", () => {
  setCalibration(fitted);
  $("rate").focus();
});

function sayOpacity() {
  $("opacity-text").textContent = `${$("opacity").value}%`;
  draw();
}
$("opacity").addEventListener("input", sayOpacity);
$("contour").addEventListener("change", draw);
sayOpacity();

// ——— Sources ———

const SOURCES = { files: fromFiles, folder: fromFolder, drop: fromDrop, paste: fromPaste };

function fromPaste(files) {
  const given = fromFiles(files);
  for (const picture of given.pictures) if (picture.name === "image.png") picture.name = `pasted ${++nPasted}.png`;
  return given;
}

came = async (source, what) => take(await SOURCES[source](what));
for (const what of early) came(...what);

document.addEventListener("dragover", () => document.body.classList.add("dragging"));
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", () => document.body.classList.remove("dragging"));

// ——— Camera ———

$("camera").addEventListener("click", async () => {
  if (!isReady) return;
  $("camera").disabled = true; // while the visitor is asked too: nothing would stop a second stream
  try {
    await camera.start((bitmap) => scorer.frame(bitmap), showFrame, (error) => {
      if (!camera.isOn) return;
      stopCamera();
      say(`The camera's picture ${error.message}`);
    });
  } catch (error) {
    $("camera").disabled = isRefused;
    say(error.message);
    return;
  }
  say("");
  speed.clear();
  showStage();
  document.body.dataset.camera = "on";
  $("keep").hidden = $("stop-camera").hidden = false;
});

function showFrame({ score, notices, ms, ...view }) {
  speed.add(ms);
  showStage();
  show({ name: "Camera", score, notices, view });
  $("speed").textContent = `${camera.rate.toFixed(1)} camera frames a second are shown. ${speed.statement(engineName)}`;
}

function stopCamera() {
  camera.stop();
  document.body.dataset.camera = "off";
  $("keep").hidden = $("stop-camera").hidden = true;
  $("camera").disabled = isRefused;
  speed.clear();
  if (list.chosen) choose(list.chosen, false);
}
$("stop-camera").addEventListener("click", stopCamera);
$("keep").addEventListener("click", async () => {
  const name = `camera ${++nKept}.png`;
  const file = await camera.picture(name);
  stopCamera();
  hasChosen = false;
  take({ pictures: [{ name, file }], passedOver: [] });
});

// ——— List ———

function say(trouble) {
  if (isRefused) return; // its reason stays
  $("trouble").textContent = trouble;
  $("trouble").hidden = !trouble;
}

$("previous").addEventListener("click", () => list.step(-1));
$("next").addEventListener("click", () => list.step(1));
$("list").addEventListener("click", () => {
  if (window.innerWidth < 900) $("stage").scrollIntoView({ block: "start" });
});
document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea")) return;
  const isInList = target === $("list");
  const steps = {
    ArrowRight: 1, ArrowLeft: -1, ...(isInList && { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -1e9, End: 1e9 }),
  };
  if (!(key in steps) || !list.items.length) return;
  event.preventDefault();
  list.step(steps[key]);
});
$("stop").addEventListener("click", () => {
  for (const item of queue) list.add(Object.assign(item, { reason: "was left out when you stopped." }), judge);
  nAsked -= queue.length;
  queue = [];
  sayProgress();
});
$("clear").addEventListener("click", () => {
  inFlight.clear();
  [queue, passedOver, shown, nDone, nAsked, hasChosen] = [[], [], null, 0, 0, false];
  views.clear();
  list.clear();
  speed.clear();
  $("result").hidden = true;
  $("empty").hidden = false;
  $("passed-over").hidden = true;
  $("side").classList.remove("used");
  $("sources-first").append($("sources"));
  sayProgress();
  $("choose").focus();
});
$("csv").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", asCsv(list.items, calibration)], { type: "text/csv" }));
  link.download = "scores.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
$("reload").addEventListener("click", () => location.reload());

// Scores pictures away from the page's own thread, so that it stays responsive. Messages in: {kind: "start"},
// {kind: "gpu"}, {kind: "score"}, {kind: "frame"}; out: progress, ready, refused, engine, scored, unreadable, broken.

import { decode, pixelsOf, Unreadable } from "./picture.js";
import { Engine, fetched } from "./engine.js";

const SHOWN_SIDE = 1024; // of what is drawn, as in the app
const THUMBNAIL_SIDE = 112;
const QUIET_MS = 400; // without a picture, before another engine is tried

let model;
let engine; // none before one has scored the test picture right
let sayGpu;
const isGpuThere = new Promise((done) => (sayGpu = done));
let waiting = Promise.resolve();
let nWaiting = 0;
let lastDone = 0;

const inTurn = (task) => {
  nWaiting += 1;
  waiting = waiting.then(task).finally(() => {
    nWaiting -= 1;
    lastDone = performance.now();
  });
};

self.onmessage = ({ data }) => {
  if (data.kind === "start") inTurn(() => start(data));
  else if (data.kind === "gpu") sayGpu(data.isThere);
  else if (data.kind === "score") inTurn(() => answer(data, () => decode(data.file, model.value_range)));
  else if (data.kind === "frame") inTurn(() => answer(data, () => pixelsOf(data.bitmap)));
};

async function start({ settings, base }) {
  model = settings;
  try {
    const bytes = fetched(new URL("model.onnx", base), (loaded) =>
      self.postMessage({ kind: "progress", loaded, total: model.n_bytes }),
    );
    const opened = await Engine.open("wasm", model, base, bytes);
    const probe = await decode(new Blob([Uint8Array.from(atob(model.probe.png), (c) => c.charCodeAt(0))]), null);
    const found = await opened.check(probe);
    if (!found.agrees) {
      self.postMessage({
        kind: "refused",
        reason:
          `The model's own test picture scores ${found.score.toPrecision(6)} in this browser and ` +
          `${model.probe.score.toPrecision(6)} in PyTorch. So this page judges nothing here: no verdict could be ` +
          "trusted. Try another browser, or score with Python.",
      });
      return;
    }
    engine = opened;
    self.postMessage({ kind: "ready", engine: engine.name, seconds: found.ms / 1000 });
    isGpuThere.then((isThere) => isThere && tryGpu(bytes, probe, base)); // no picture waits for it
  } catch (error) {
    self.postMessage({ kind: "refused", reason: `The model could not be started: ${error.message || error}` });
  }
}

/** Change to WebGPU where it scores the test picture right and faster; while nobody waits. */
async function tryGpu(bytes, probe, base) {
  do await new Promise((done) => setTimeout(done, QUIET_MS));
  while (nWaiting || performance.now() - lastDone < QUIET_MS);
  inTurn(async () => {
    const report = (reason) => self.postMessage({ kind: "engine", engine: engine.name, reason });
    try {
      const other = await Engine.open("webgpu", model, base, bytes);
      const { agrees, score } = await other.check(probe);
      if (!agrees) {
        report(`WebGPU scores the model's test picture ${score.toPrecision(6)}, not ${model.probe.score.toPrecision(6)}`);
        return;
      }
      const [here, there] = [(await engine.check(probe)).ms, (await other.check(probe)).ms];
      if (there < here) engine = other;
      report(`the test picture takes ${there.toFixed(0)} ms with WebGPU and ${here.toFixed(0)} ms without`);
    } catch (error) {
      report(`WebGPU does not run this model here (${String(error.message || error).slice(0, 120)})`);
    }
  });
}

async function answer({ id, kind }, decoded) {
  const began = performance.now();
  try {
    const picture = await decoded();
    const decodedAt = performance.now();
    const { score, map } = await engine.score(picture);
    const scoredAt = performance.now();
    if (!Number.isFinite(score)) throw new Unreadable("scores NaN or infinite, which no verdict could be built on.");
    const shown = await view(picture, map, kind === "score");
    const ms = { pixels: decodedAt - began, model: scoredAt - decodedAt, all: scoredAt - began };
    self.postMessage({ kind: "scored", id, score, ms, notices: picture.notices, ...shown }, [
      shown.rgba.buffer,
      shown.map.buffer,
    ]);
  } catch (error) {
    if (error instanceof Unreadable) self.postMessage({ kind: "unreadable", id, reason: error.message });
    // After its memory ran out, the runtime cannot be used any more.
    else self.postMessage({ kind: "broken", id, reason: `could not be scored (${error.message || error}).` });
  }
}

/** What is drawn: the picture and its map, of at most SHOWN_SIDE a side, and a thumbnail. */
async function view({ pixels, width, height }, map, withThumbnail) {
  const factor = Math.min(1, SHOWN_SIDE / Math.max(width, height));
  const [w, h] = [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
  let rgba;
  let small = map;
  if (factor === 1) rgba = withAlpha(pixels);
  else {
    rgba = averaged(pixels, width, height, w, h);
    small = new Float32Array(w * h);
    for (let y = 0, to = 0; y < h; y++) {
      const row = Math.floor(Math.min(((y + 0.5) * height) / h, height - 1)) * width;
      for (let x = 0; x < w; x++) small[to++] = map[row + Math.floor(Math.min(((x + 0.5) * width) / w, width - 1))];
    }
  }
  const thumbnail = withThumbnail ? await thumbnailOf(rgba, w, h) : null;
  return { rgba, map: small, width: w, height: h, fullWidth: width, fullHeight: height, thumbnail };
}

function withAlpha(pixels) {
  const rgba = new Uint8ClampedArray((pixels.length / 3) * 4);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    rgba[to] = pixels[from];
    rgba[to + 1] = pixels[from + 1];
    rgba[to + 2] = pixels[from + 2];
    rgba[to + 3] = 255;
  }
  return rgba;
}

/** Smaller, each pixel the mean of those it covers; only looked at, never scored. */
function averaged(pixels, width, height, w, h) {
  const rgba = new Uint8ClampedArray(4 * w * h);
  for (let y = 0, to = 0; y < h; y++) {
    const top = Math.floor((y * height) / h);
    const bottom = Math.max(top + 1, Math.floor(((y + 1) * height) / h));
    for (let x = 0; x < w; x++, to += 4) {
      const left = Math.floor((x * width) / w);
      const right = Math.max(left + 1, Math.floor(((x + 1) * width) / w));
      let [red, green, blue] = [0, 0, 0];
      for (let row = top; row < bottom; row++) {
        for (let at = 3 * (row * width + left), end = 3 * (row * width + right); at < end; at += 3) {
          red += pixels[at];
          green += pixels[at + 1];
          blue += pixels[at + 2];
        }
      }
      const n = (bottom - top) * (right - left);
      rgba[to] = red / n;
      rgba[to + 1] = green / n;
      rgba[to + 2] = blue / n;
      rgba[to + 3] = 255;
    }
  }
  return rgba;
}

async function thumbnailOf(rgba, width, height) {
  const factor = Math.min(1, THUMBNAIL_SIDE / Math.min(width, height));
  const bitmap = await createImageBitmap(new ImageData(rgba, width, height));
  const canvas = new OffscreenCanvas(Math.max(1, width * factor), Math.max(1, height * factor));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
}

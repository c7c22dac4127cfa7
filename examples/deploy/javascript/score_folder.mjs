// Score every picture of a folder with an exported model, on Node 20 or later.
//
//     node score_folder.mjs MODEL.onnx FOLDER [--maps OUT]
//
// Prints one line of CSV for each picture. Exit status: 0 where all were scored, 1 where some could not be, 2 where
// none was, since the model or the call is wrong. The map of each picture goes to OUT as float32 .npy.

import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-web";
import sharp from "sharp";
import { metadataOf } from "./onnx_metadata.mjs";

const SUFFIXES = new Set(
  ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pgm .png .pnm .ppm .tif .tiff .webp".split(" "),
);
const MIN_SIDE = 16;
const PROBE_TOLERANCE = 1e-3; // of the score; the same file on other runtimes differs by about 1e-5

/**
 * A picture file as uint8 RGB, upright, as the detector saw those it learned from.
 *
 * @param {Uint8Array} encoded
 * @param {[number, number] | null} valueRange black and white of 16-bit grey
 * @returns {Promise<{data: Uint8Array, height: number, width: number}>} data is H×W×3
 */
async function rgbPixels(encoded, valueRange) {
  // The detector saw values as they are stored: a colour profile must not change them.
  const opened = sharp(encoded, { ignoreIcc: true });
  const { space, depth, width, height, orientation, channels } = await opened.metadata();
  if (Math.min(width, height) < MIN_SIDE) {
    throw new Error(`it is ${width}×${height} pixels; at least ${MIN_SIDE}×${MIN_SIDE} are needed.`);
  }
  const text = Buffer.from(encoded).toString("latin1");
  if (orientation === undefined && /tiff:Orientation(="|>)[^1]/.test(text)) {
    throw new Error("how it lies stands in XMP alone, which this program does not read. Save it upright.");
  }
  if (orientation === undefined && text.includes("Raw profile type exif")) {
    throw new Error("its EXIF stands in a text, which this program does not read. Save it without.");
  }
  const isDeep = space === "grey16" && depth === "ushort" && channels === 1;
  if (!isDeep && (depth !== "uchar" || !["srgb", "b-w"].includes(space))) {
    throw new Error(`it has ${channels} channels of ${depth} in ${space}. Convert it to RGB or grey of 8 bits.`);
  }
  const upright = opened.autoOrient();
  if (isDeep) {
    const { data, info } = await decoded(upright.toColourspace("grey16").raw({ depth: "ushort" }));
    const values = new Uint16Array(data.buffer, data.byteOffset, info.width * info.height);
    return { data: greyTo8Bit(values, ...(valueRange ?? [0, 65535])), height: info.height, width: info.width };
  }
  const { data, info } = await decoded(upright.toColourspace("srgb").ensureAlpha().raw());
  return { data: overWhite(data), height: info.height, width: info.width };
}

const decoded = (pipeline) => pipeline.toBuffer({ resolveWithObject: true });

/** RGBA to RGB, over white; what is transparent everywhere keeps its colours. */
function overWhite(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  let isSeen = false;
  for (let i = 3; i < rgba.length && !isSeen; i += 4) isSeen = rgba[i] > 0;
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const alpha = isSeen ? rgba[from + 3] : 255;
    for (let c = 0; c < 3; c++) rgb[to++] = Math.round((rgba[from + c] * alpha + 255 * (255 - alpha)) / 255);
  }
  return rgb;
}

/** 16-bit grey to RGB, in float32 and with halves rounded to even, as the detector's program does it. */
function greyTo8Bit(values, black, white) {
  const scale = Math.fround(255 / (white - black));
  const rgb = new Uint8Array(values.length * 3);
  values.forEach((value, i) => {
    const level = Math.min(Math.max(Math.fround(Math.fround(value - Math.fround(black)) * scale), 0), 255);
    const floor = Math.floor(level);
    const isUp = level - floor > 0.5 || (level - floor === 0.5 && floor % 2 === 1);
    rgb.fill(floor + (isUp ? 1 : 0), 3 * i, 3 * i + 3);
  });
  return rgb;
}

/** A map as the bytes of a .npy file. */
function npy({ data, dims }) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${dims.join(", ")}), }`;
  const padded = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + "\n"; // 10 bytes stand before it
  const start = Buffer.from(`\x93NUMPY\x01\x00\x00\x00${padded}`, "latin1");
  start.writeUInt16LE(padded.length, 8);
  return Buffer.concat([start, Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);
}

async function run(session, outputs, { data, height, width }) {
  return session.run({ image: new ort.Tensor("uint8", data, [height, width, 3]) }, outputs);
}

/** The session and what its file says, once it has scored its own picture as it must. */
async function checkedModel(file) {
  const encoded = await readFile(file);
  const metadata = metadataOf(encoded);
  if (metadata.get("admodels_format") !== "1") {
    throw new Error("its metadata have no admodels_format=1: it is no exported model, or a newer one.");
  }
  const session = await ort.InferenceSession.create(encoded);
  const [threshold, probeScore] = ["threshold", "probe_score"].map((name) => Number(metadata.get(name)));
  const probe = await rgbPixels(Buffer.from(metadata.get("probe_png"), "base64"), null);
  const score = (await run(session, ["score"], probe)).score.data[0];
  // Written so that NaN fails.
  if (!(Math.abs(score - probeScore) <= PROBE_TOLERANCE * Math.max(Math.abs(probeScore), Math.abs(threshold)))) {
    throw new Error(`its own picture scores ${score} here and must score ${probeScore}.`);
  }
  return { session, metadata, threshold };
}

async function main() {
  let given, model, names;
  try {
    given = parseArgs({ allowPositionals: true, options: { maps: { type: "string" } } });
    if (given.positionals.length !== 2) throw new Error("usage: score_folder.mjs MODEL.onnx FOLDER [--maps OUT]");
    const isPicture = (name) => SUFFIXES.has(path.extname(name).toLowerCase());
    const all = (await readdir(given.positionals[1])).sort();
    names = all.filter(isPicture);
    for (const name of all.filter((name) => !isPicture(name))) {
      console.error(`${name} is passed over: by its ending it is no picture.`);
    }
    if (names.length === 0) throw new Error(`there are no pictures in ${given.positionals[1]}.`);
    model = await checkedModel(given.positionals[0]);
    if (given.values.maps) await mkdir(given.values.maps, { recursive: true });
  } catch (error) {
    console.error(`Nothing was scored: ${error.message ?? error}`);
    return 2;
  }

  const { session, metadata, threshold } = model;
  const heldOut = JSON.parse(metadata.get("model")).calibration.scores;
  const valueRange = metadata.get("value_range") ? metadata.get("value_range").split(":").map(Number) : null;
  let status = 0;
  console.log("picture,score,threshold,p_value,verdict");
  for (const name of names) {
    let pixels;
    try {
      pixels = await rgbPixels(await readFile(path.join(given.positionals[1], name)), valueRange);
    } catch (error) {
      console.error(`${name} was not scored: ${error.message}`);
      status = 1;
      continue;
    }
    const found = await run(session, ["score", "map"], pixels);
    const score = found.score.data[0];
    const pValue = (1 + heldOut.filter((other) => other >= score).length) / (heldOut.length + 1);
    const cell = /[",\n\r]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name;
    const numbers = [Number(score.toPrecision(9)), metadata.get("threshold"), Number(pValue.toPrecision(6))];
    console.log([cell, ...numbers, score > threshold ? "anomalous" : "good"].join());
    if (given.values.maps) await writeFile(path.join(given.values.maps, `${name}.npy`), npy(found.map));
  }
  return status;
}

process.exitCode = await main();

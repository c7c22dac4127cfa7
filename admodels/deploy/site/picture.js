// From a picture file to pixels: uint8 RGB (height, width, 3), upright, as admodels/pictures/decoding.py gives them; or
// an Unreadable that says what is wrong and what to do. Runs in the worker.

import { coloursOf, Damaged, isPng, readChunks, readSamples } from "./png.js";

const MIN_SIDE = 16;
const MAX_MEGAPIXELS = 100;
const SHALLOW_LEVELS = 16; // of the upper 8 of 16 bits: a camera of 12 bits fills no more
const STRIP_PIXELS = 2 ** 22; // a canvas of a whole large picture would need its memory once more

/** One picture cannot be used; the message is the reason, without the picture's name. */
export class Unreadable extends Error {}

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));
const convert = "Convert it to PNG (a 16-bit grey one keeps its values), or score it with Python: python -m admodels.";

/** What a file is, by how it begins; `remedy` where no browser reads it. */
function kindOf(bytes) {
  const start = text(bytes, 0, 4);
  const brand = text(bytes, 4, 8) === "ftyp" ? text(bytes, 8, 12) : "";
  if (isPng(bytes)) return { kind: "PNG" };
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return { kind: "JPEG" };
  if (start.startsWith("GIF8")) return { kind: "GIF" };
  if (start === "RIFF" && text(bytes, 8, 12) === "WEBP") return { kind: "WebP" };
  if (start.startsWith("BM")) return { kind: "BMP" };
  if (brand.startsWith("avi")) return { kind: "AVIF" };
  if (["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(start)) return { kind: "TIFF", remedy: convert };
  if (/^P[1-7Ff][\s#]/.test(start)) return { kind: "PGM or PPM", remedy: convert };
  if (text(bytes, 4, 8) === "jP  " || (bytes[0] === 0xff && bytes[1] === 0x4f)) return { kind: "JPEG 2000", remedy: convert };
  if (/^(heic|heix|hevc|mif1|msf1)/.test(brand)) return { kind: "HEIC", remedy: "Convert it to PNG or JPEG." };
  if (start.startsWith("PK")) return { kind: "zip", remedy: "Unpack it, and choose the folder." };
  return { kind: "" };
}

/**
 * Decode one picture.
 *
 * @param blob the file.
 * @param valueRange [black, white] for grey pictures of 16 bits, or null.
 * @returns {Promise<{pixels: Uint8Array, width: number, height: number, notices: string[]}>}
 * @throws {Unreadable}
 */
export async function decode(blob, valueRange) {
  if (blob.size === 0) throw new Unreadable("is empty (0 bytes). Copy or export it again.");
  if (blob.size > MAX_MEGAPIXELS * 8e6) throw new Unreadable("is larger than any picture that is accepted. Scale it down.");
  let bytes;
  try {
    bytes = new Uint8Array(await blob.arrayBuffer());
  } catch (error) {
    throw new Unreadable(`cannot be read (${error.message}). Check that it is still there, and choose it again.`);
  }
  const { kind, remedy } = kindOf(bytes);
  if (remedy) throw new Unreadable(`is a ${kind} file, which a browser cannot read. ${remedy}`);
  if (!kind) throw new Unreadable("is not a picture that this page can read. Use PNG, JPEG, WebP, BMP, GIF or AVIF.");
  try {
    return kind === "PNG" ? await decodePng(bytes, valueRange) : await decodeByBrowser(blob, bytes, kind);
  } catch (error) {
    if (error instanceof RangeError) throw new Unreadable("needs more memory than is available. Scale it down.");
    if (!(error instanceof Damaged)) throw error;
    throw new Unreadable(`is damaged or incomplete (${error.message}). Copy or export it again.`);
  }
}

/** The pixels of a frame, such as a camera's. */
export function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  return { pixels: opaque(bitmap, false).pixels, width, height, notices: [] };
}

async function decodePng(bytes, valueRange) {
  const chunks = readChunks(bytes);
  checkSize(chunks.width, chunks.height);
  const notices = chunks.isAnimated ? ["is an animation; only its first frame is used"] : [];
  const isDeep = chunks.depth === 16 && chunks.colour === 0;
  const isReduced = chunks.depth === 16 && !isDeep;
  if (isReduced) {
    notices.push("has 16 bits for each colour; only the upper 8 of them are used");
    if (valueRange && !(valueRange[0] === 0 && valueRange[1] === 65535)) {
      throw new Unreadable(
        "has 16 bits for each colour, of which only the upper 8 can be read, and the values are to be read as " +
          `${valueRange[0]} to ${valueRange[1]}. Convert it to 8 bits a colour.`,
      );
    }
  }
  const samples = await readSamples(chunks);
  let pixels;
  if (isDeep) pixels = fromDeep(samples, valueRange, notices);
  else {
    const { colours, alpha } = coloursOf(chunks, samples);
    pixels = alpha ? overWhite(colours, alpha, notices) : colours;
    if (isReduced) checkShallow(pixels);
  }
  return { ...upright(pixels, chunks.width, chunks.height, chunks.exif ? orientationOf(chunks.exif) : 1), notices };
}

/** Grey levels of 16-bit values: (v − black)·255/(white − black), half to even, in float32 as NumPy computes it. */
function fromDeep(samples, valueRange, notices) {
  const [black, white] = valueRange ?? [0, 65535];
  const levels = new Uint8ClampedArray(65536); // rounds half to even, and clips
  const factor = Math.fround(255 / (white - black));
  for (let value = 0; value < 65536; value++) {
    levels[value] = Math.fround(Math.fround(value - Math.fround(black)) * factor);
  }
  const pixels = new Uint8Array(3 * samples.length);
  let low = 65535;
  let high = 0;
  for (let i = 0, to = 0; i < samples.length; i++, to += 3) {
    const value = samples[i];
    if (value < low) low = value;
    if (value > high) high = value;
    pixels[to] = pixels[to + 1] = pixels[to + 2] = levels[value];
  }
  if (!valueRange) notices.push(`its 16-bit values (${low} to ${high}) were read as 0 (black) to 65535 (white)`);
  const beyond = 0.05 * (white - black);
  if (high > white + beyond || low < black - beyond) {
    notices.push(
      `its values go from ${low} to ${high}; what lies beyond ${black} to ${white} is shown as black or white`,
    );
  }
  return pixels;
}

function checkShallow(pixels) {
  let most = 0;
  for (const level of pixels) if (level > most) most = level;
  if (most > 0 && most < SHALLOW_LEVELS) {
    throw new Unreadable(
      "has 16 bits for each colour and uses few of them: only the upper 8 can be read, and the largest value in them " +
        `is ${most} of 255. Convert it to 8 bits a colour, scaled by the bits that the camera has.`,
    );
  }
}

/** Colours laid over white, in the whole numbers that Pillow's `alpha_composite` uses. */
function overWhite(colours, alpha, notices) {
  if (!alpha.some((a) => a > 0)) { // nobody saves a picture of which nothing is to be seen
    notices.push("is transparent everywhere; its colours are used as they are");
    return colours;
  }
  for (let i = 0, at = 0; i < alpha.length; i++, at += 3) {
    const a = alpha[i];
    if (a === 255) continue;
    if (a === 0) {
      colours[at] = colours[at + 1] = colours[at + 2] = 255;
      continue;
    }
    const share = a * 128; // seven more bits, as Pillow has them
    for (let c = at; c < at + 3; c++) {
      const sum = colours[c] * share + 255 * (255 * 128 - share) + (0x80 << 7);
      colours[c] = ((sum >> 8) + sum) >> 8 >> 7;
    }
  }
  return colours;
}

async function decodeByBrowser(blob, bytes, kind) {
  if (kind === "JPEG") checkJpeg(bytes);
  const exif = kind === "WebP" ? hiddenExif(bytes) : null;
  if (exif) blob = new Blob([bytes]);
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image",
    });
  } catch {
    throw new Unreadable(`is a ${kind} file that is damaged, or of a sort that this browser cannot read. Export it as PNG.`);
  }
  try {
    const { width, height } = bitmap;
    checkSize(width, height);
    const notices = isAnimated(bytes, kind) ? ["is an animation; only its first frame is used"] : [];
    const { pixels, isSeen } = opaque(bitmap, kind !== "JPEG");
    if (!isSeen) throw new Unreadable(`is a ${kind} file that is transparent everywhere. Save it without transparency.`);
    return { ...upright(pixels, width, height, exif ? orientationOf(exif) : 1), notices };
  } finally {
    bitmap.close();
  }
}

/** Pixels of a bitmap; where it may be transparent, over white. Strip by strip, to keep the memory small. */
function opaque(bitmap, mayBeTransparent) {
  const { width, height } = bitmap;
  const pixels = new Uint8Array(3 * width * height);
  const nRows = Math.min(height, Math.max(1, Math.floor(STRIP_PIXELS / width)));
  const context = new OffscreenCanvas(width, nRows).getContext("2d", { willReadFrequently: true });
  let isSeen = !mayBeTransparent;
  let to = 0;
  for (let top = 0; top < height; top += nRows) {
    const rows = Math.min(nRows, height - top);
    if (mayBeTransparent) context.clearRect(0, 0, width, nRows);
    context.drawImage(bitmap, 0, top, width, rows, 0, 0, width, rows);
    let { data } = context.getImageData(0, 0, width, rows);
    if (mayBeTransparent) {
      for (let i = 3; i < data.length && !isSeen; i += 4) isSeen = data[i] > 0;
      context.globalCompositeOperation = "destination-over";
      context.fillStyle = "white";
      context.fillRect(0, 0, width, rows);
      context.globalCompositeOperation = "source-over";
      ({ data } = context.getImageData(0, 0, width, rows));
    }
    for (let i = 0; i < data.length; i += 4) {
      pixels[to++] = data[i];
      pixels[to++] = data[i + 1];
      pixels[to++] = data[i + 2];
    }
  }
  return { pixels, isSeen };
}

function checkSize(width, height) {
  if (Math.min(width, height) < MIN_SIDE) {
    throw new Unreadable(
      `is ${width}×${height} pixels; at least ${MIN_SIDE}×${MIN_SIDE} are needed. Use a larger picture.`,
    );
  }
  if (width * height > MAX_MEGAPIXELS * 1e6) {
    throw new Unreadable(
      `has ${Math.round((width * height) / 1e6)} megapixels (${width}×${height}); at most ${MAX_MEGAPIXELS} are ` +
        "accepted. Scale it down or cut it into parts.",
    );
  }
}

/** See that a JPEG is whole, which browsers do not, and of colours that they read as Pillow does. */
function checkJpeg(bytes) {
  let at = 2;
  while (at + 4 <= bytes.length) {
    if (bytes[at] !== 0xff) throw new Damaged("it has no marker where one should be");
    const marker = bytes[at + 1];
    if (marker === 0xff) {
      at += 1;
      continue;
    }
    if (marker === 0xda) {
      for (let i = bytes.length - 1; i > at; i--) if (bytes[i] === 0xd9 && bytes[i - 1] === 0xff) return;
      throw new Damaged("it ends too early");
    }
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker) && bytes[at + 9] === 4) {
      throw new Unreadable("is a JPEG in print colours (CMYK), which browsers read in other ways. Save it as RGB.");
    }
    at += marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7) ? 2 : 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
  }
  throw new Damaged("it ends too early");
}

function isAnimated(bytes, kind) {
  if (kind === "WebP") return text(bytes, 12, 16) === "VP8X" && (bytes[20] & 2) !== 0;
  if (kind !== "GIF") return false;
  const tableSize = (flags) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  let at = 13 + tableSize(bytes[10]);
  let nFrames = 0;
  while (at < bytes.length && nFrames < 2) {
    if (bytes[at] === 0x2c) {
      nFrames += 1;
      at += 11 + tableSize(bytes[at + 9]);
    } else if (bytes[at] === 0x21) at += 2;
    else break;
    while (at < bytes.length && bytes[at]) at += bytes[at] + 1;
    at += 1;
  }
  return nFrames > 1;
}

/** The EXIF of a WebP file, which is renamed there: some browsers turn such pictures by it and some do not. */
function hiddenExif(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (text(bytes, at, at + 4) === "EXIF") {
      bytes[at] = 0x58;
      return bytes.subarray(at + 8, at + 8 + length);
    }
    at += 8 + length + (length & 1);
  }
  return null;
}

/** EXIF's orientation, 1 to 8. */
function orientationOf(block) {
  const exif = text(block, 0, 6) === "Exif\0\0" ? block.subarray(6) : block;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
  try {
    const isLittle = view.getUint16(0) === 0x4949;
    const start = view.getUint32(4, isLittle);
    for (let i = 0; i < view.getUint16(start, isLittle); i++) {
      const entry = start + 2 + 12 * i;
      if (view.getUint16(entry, isLittle) === 0x0112) {
        const value = view.getUint16(entry + 8, isLittle);
        return value >= 1 && value <= 8 ? value : 1;
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it points outside itself: as good as none
  }
  return 1;
}

function upright(pixels, width, height, orientation) {
  if (orientation === 1) return { pixels, width, height };
  const isLying = orientation >= 5;
  const [w, h] = isLying ? [height, width] : [width, height];
  const turned = new Uint8Array(pixels.length);
  for (let y = 0, to = 0; y < h; y++) {
    for (let x = 0; x < w; x++, to += 3) {
      let [column, row] = isLying ? [y, x] : [x, y];
      if ([2, 3, 7, 8].includes(orientation)) column = width - 1 - column;
      if ([3, 4, 6, 7].includes(orientation)) row = height - 1 - row;
      const from = 3 * (row * width + column);
      turned[to] = pixels[from];
      turned[to + 1] = pixels[from + 1];
      turned[to + 2] = pixels[from + 2];
    }
  }
  return { pixels: turned, width: w, height: h };
}

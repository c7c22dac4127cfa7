// PNG to pixels, value for value as Pillow reads it. A browser's own decoder takes 16 bits down to 8 on a scale of its
// choice, converts colours by profiles, and multiplies them by their transparency on the way through a canvas.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
// First column and row of each pass of an interlaced picture, and its steps.
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const WHOLE = [[0, 0, 1, 1]];

export class Damaged extends Error {}

export const isPng = (bytes) => SIGNATURE.every((byte, i) => bytes[i] === byte);

/**
 * The header and the chunks that matter.
 *
 * @param bytes Uint8Array of the file.
 * @returns {{width, height, depth, colour, isInterlaced, palette, transparency, exif, data, isAnimated}}
 * @throws {Damaged}
 */
export function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = { palette: null, transparency: null, exif: null, data: [], isAnimated: false };
  let at = 8;
  let isDone = false;
  while (!isDone) {
    if (at + 12 > bytes.length) throw new Damaged("it ends too early");
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) throw new Damaged("it ends too early");
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "IHDR") {
      if (length !== 13) throw new Damaged("its header has the wrong length");
      found.width = view.getUint32(at + 8);
      found.height = view.getUint32(at + 12);
      [found.depth, found.colour] = content.subarray(8, 10);
      found.isInterlaced = content[12] === 1;
    } else if (kind === "PLTE") found.palette = content;
    else if (kind === "tRNS") found.transparency = content;
    else if (kind === "eXIf") found.exif = content;
    else if (kind === "acTL") found.isAnimated = true;
    else if (kind === "IDAT") found.data.push(content);
    else isDone = kind === "IEND";
    at += 12 + length;
  }
  if (!found.width || !found.height || !DEPTHS[found.colour]?.includes(found.depth)) {
    throw new Damaged("its header makes no sense");
  }
  if (found.colour === 3 && !found.palette) throw new Damaged("its palette is missing");
  return found;
}

/**
 * The samples of a picture as the file has them: Uint8Array or, of 16 bits, Uint16Array; (height, width, channels).
 *
 * @throws {Damaged}
 */
export async function readSamples(chunks) {
  const { width, height, depth, colour } = chunks;
  const nChannels = CHANNELS[colour];
  const passes = (chunks.isInterlaced ? ADAM7 : WHOLE)
    .map(([x, y, stepX, stepY]) => ({
      x, y, stepX, stepY, columns: Math.ceil((width - x) / stepX), rows: Math.ceil((height - y) / stepY),
    }))
    .filter(({ columns, rows }) => columns > 0 && rows > 0);
  const lengths = passes.map(({ columns, rows }) => rows * (1 + Math.ceil((columns * nChannels * depth) / 8)));
  const raw = await inflated(chunks.data, lengths.reduce((sum, n) => sum + n, 0));
  const samples = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * nChannels);
  let at = 0;
  passes.forEach((pass, i) => {
    const lines = raw.subarray(at, at + lengths[i]);
    at += lengths[i];
    const stride = lengths[i] / pass.rows - 1;
    unfilter(lines, pass.rows, stride, Math.max(1, (nChannels * depth) >> 3));
    spread(lines, stride, pass, samples, width, nChannels, depth);
  });
  return samples;
}

async function inflated(parts, nBytes) {
  const result = new Uint8Array(nBytes);
  let n = 0;
  try {
    const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      result.set(step.value.subarray(0, nBytes - n), n);
      n = Math.min(nBytes, n + step.value.length);
    }
  } catch (error) {
    throw new Damaged(`its data are broken: ${error.message || error}`);
  }
  if (n < nBytes) throw new Damaged("it ends too early");
  return result;
}

/** Undo the filters in place; each line is its filter's number and `stride` bytes. */
function unfilter(lines, nRows, stride, step) {
  for (let row = 0; row < nRows; row++) {
    const start = row * (stride + 1) + 1;
    const filter = lines[start - 1];
    const end = start + stride;
    const up = row ? stride + 1 : 0; // how far back the byte above lies; 0 where there is none
    if (filter === 1) {
      for (let i = start + step; i < end; i++) lines[i] += lines[i - step];
    } else if (filter === 2) {
      if (up) for (let i = start; i < end; i++) lines[i] += lines[i - up];
    } else if (filter === 3) {
      for (let i = start; i < end; i++) {
        const left = i - start < step ? 0 : lines[i - step];
        lines[i] += (left + (up ? lines[i - up] : 0)) >> 1;
      }
    } else if (filter === 4) {
      for (let i = start; i < end; i++) {
        const isFirst = i - start < step;
        const a = isFirst ? 0 : lines[i - step];
        const b = up ? lines[i - up] : 0;
        const c = isFirst || !up ? 0 : lines[i - up - step];
        const toA = Math.abs(b - c);
        const toB = Math.abs(a - c);
        const toC = Math.abs(a + b - c - c);
        lines[i] += toA <= toB && toA <= toC ? a : toB <= toC ? b : c;
      }
    } else if (filter !== 0) throw new Damaged(`one of its lines has filter ${filter}`);
  }
}

function spread(lines, stride, { x, y, stepX, stepY, columns, rows }, samples, width, nChannels, depth) {
  const perRow = columns * nChannels;
  const mask = (1 << depth) - 1;
  for (let row = 0; row < rows; row++) {
    const from = row * (stride + 1) + 1;
    const to = (y + row * stepY) * width * nChannels;
    if (depth === 8 && stepX === 1) {
      samples.set(lines.subarray(from, from + perRow), to);
      continue;
    }
    for (let i = 0; i < perRow; i++) {
      const column = (i / nChannels) | 0;
      const at = to + (x + column * stepX) * nChannels + (i - column * nChannels);
      if (depth === 16) samples[at] = (lines[from + 2 * i] << 8) | lines[from + 2 * i + 1];
      else if (depth === 8) samples[at] = lines[from + i];
      else {
        const bit = i * depth;
        samples[at] = (lines[from + (bit >> 3)] >> (8 - depth - (bit & 7))) & mask;
      }
    }
  }
}

/**
 * 8 bits a channel: {colours: Uint8Array (height, width, 3), alpha: Uint8Array (height, width) or null}.
 * Of 16 bits the upper 8 count, as in Pillow.
 */
export function coloursOf(chunks, samples) {
  const { depth, colour, palette, transparency } = chunks;
  const nChannels = CHANNELS[colour];
  const n = samples.length / nChannels;
  const colours = new Uint8Array(3 * n);
  const hasAlpha = colour === 4 || colour === 6;
  const alpha = hasAlpha || transparency ? new Uint8Array(n).fill(255) : null;
  const shift = depth === 16 ? 8 : 0;
  const scale = colour === 3 || depth >= 8 ? 1 : 255 / ((1 << depth) - 1);
  for (let i = 0, to = 0; i < n; i++, to += 3) {
    const from = i * nChannels;
    if (colour === 3) {
      const index = samples[from];
      colours[to] = palette[3 * index];
      colours[to + 1] = palette[3 * index + 1];
      colours[to + 2] = palette[3 * index + 2];
    } else if (nChannels >= 3) {
      colours[to] = samples[from] >> shift;
      colours[to + 1] = samples[from + 1] >> shift;
      colours[to + 2] = samples[from + 2] >> shift;
    } else colours[to] = colours[to + 1] = colours[to + 2] = (samples[from] >> shift) * scale;
    if (hasAlpha) alpha[i] = samples[from + nChannels - 1] >> shift;
  }
  if (transparency && !hasAlpha) markTransparent(chunks, samples, colours, alpha);
  return { colours, alpha };
}

function markTransparent({ depth, colour, transparency }, samples, colours, alpha) {
  if (colour === 3) {
    for (let i = 0; i < alpha.length; i++) alpha[i] = transparency[samples[i]] ?? 255;
    return;
  }
  const value = (i) => (transparency[2 * i] << 8) | transparency[2 * i + 1];
  if (colour === 2) {
    const [red, green, blue] = [value(0), value(1), value(2)];
    for (let i = 0; i < alpha.length; i++) {
      if (colours[3 * i] === red && colours[3 * i + 1] === green && colours[3 * i + 2] === blue) alpha[i] = 0;
    }
    return;
  }
  const grey = depth === 1 ? value(0) * 255 : value(0); // compared with what 2 and 4 bits were stretched to, as Pillow does
  for (let i = 0; i < alpha.length; i++) if (colours[3 * i] === grey) alpha[i] = 0;
}

// The heatmap over the picture, as admodels/pictures/render.py draws it.

const CONTOUR = [0, 229, 255];
const UNSCORED = [128, 128, 128];

/**
 * @param shown {rgba, map, width, height} of one picture.
 * @param scale [bottom, top] of the colours.
 * @param colours 256 RGB.
 * @param look {mapThreshold, opacity, hasContour}.
 * @returns {ImageData}
 */
export function overlay({ rgba, map, width, height }, [bottom, top], colours, { mapThreshold, opacity, hasContour }) {
  const image = new ImageData(width, height);
  const { data } = image;
  const table = Uint8Array.from(colours.flat());
  const span = top - bottom;
  const nearest = new Uint8ClampedArray(1); // rounds half to even, as NumPy does
  for (let i = 0, at = 0; i < map.length; i++, at += 4) {
    data[at + 3] = 255;
    const value = map[i];
    if (!(value - value === 0)) { // not finite: it was not scored
      const isStripe = (((i / width) | 0) + (i % width)) % 8 < 2;
      for (let c = 0; c < 3; c++) data[at + c] = isStripe ? UNSCORED[c] : rgba[at + c];
      continue;
    }
    let level = (value - bottom) / span;
    if (level < 0) level = 0;
    else if (level > 1) level = 1;
    nearest[0] = level * 255;
    const heat = 3 * nearest[0];
    // What is usual stays clear, so that the part can be seen; full opacity is reached in the middle of the scale.
    const alpha = level < 0.5 ? opacity * 4 * level * level : opacity;
    data[at] = rgba[at] + (table[heat] - rgba[at]) * alpha;
    data[at + 1] = rgba[at + 1] + (table[heat + 1] - rgba[at + 1]) * alpha;
    data[at + 2] = rgba[at + 2] + (table[heat + 2] - rgba[at + 2]) * alpha;
  }
  if (hasContour) drawEdge(data, map, width, height, mapThreshold);
  return image;
}

/** Whether any pixel of a map lies above the threshold. */
export function isAnyAbove(map, threshold) {
  for (let i = 0; i < map.length; i++) if (map[i] > threshold) return true;
  return false;
}

/** The inner edge of the region above the threshold; the picture's own border is none. */
function drawEdge(data, map, width, height, threshold) {
  if (!isAnyAbove(map, threshold)) return;
  const mask = new Uint8Array(map.length);
  for (let i = 0; i < map.length; i++) if (map[i] > threshold) mask[i] = 1;
  let inner = mask;
  for (let n = Math.max(1, Math.floor(Math.max(width, height) / 300)); n > 0; n--) {
    const less = new Uint8Array(inner);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (!inner[i]) continue;
        const isAtEdge =
          (y > 0 && !inner[i - width]) ||
          (y < height - 1 && !inner[i + width]) ||
          (x > 0 && !inner[i - 1]) ||
          (x < width - 1 && !inner[i + 1]);
        if (isAtEdge) less[i] = 0;
      }
    }
    inner = less;
  }
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i] || inner[i]) continue;
    [data[4 * i], data[4 * i + 1], data[4 * i + 2]] = CONTOUR;
  }
}

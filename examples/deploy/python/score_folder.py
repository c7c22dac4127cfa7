"""Score every picture of a folder with an exported model. ONNX Runtime, Pillow and NumPy are all it takes.

    python score_folder.py MODEL.onnx FOLDER [--maps OUT]

Prints one line of CSV for each picture. Exit status: 0 where all were scored, 1 where some could not be, 2 where none
was, since the model or the call is wrong. The map of each picture goes to OUT as float32 .npy.
"""

import argparse
import base64
import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
MIN_SIDE = 16
PROBE_TOLERANCE = 1e-3  # of the score; the same file on other runtimes differs by about 1e-5


def rgb_pixels(encoded: bytes, value_range: tuple[float, float] | None) -> np.ndarray:
    """A picture file as uint8 RGB (H, W, 3), upright, as the detector saw those it learned from.

    Raises:
        ValueError: its pixels would not be those. Pillow raises what it likes where a file is damaged.
    """
    with Image.open(io.BytesIO(encoded)) as opened:
        is_deep = opened.mode == "F" or opened.mode.startswith("I")
        if not is_deep and any(";16" in str(tile[3]) for tile in opened.tile):
            raise ValueError("it has 16 bits for each colour, of which Pillow drops 8. Convert it to 8 bits a colour.")
        if min(opened.size) < MIN_SIDE:
            raise ValueError(f"it is {opened.width}×{opened.height} pixels; at least {MIN_SIDE}×{MIN_SIDE} are needed.")
        image = ImageOps.exif_transpose(opened)
    if is_deep:
        if image.mode == "F" and value_range is None:
            raise ValueError("it holds floating-point values, and this model knows no value_range. Convert it.")
        levels = to_8_bit(np.asarray(image), *(value_range or (0.0, 65535.0)))
        return np.repeat(levels[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][1] > 0:  # what is transparent everywhere keeps its colours
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def to_8_bit(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Grey values of more than 8 bits as uint8; what lies beyond black or white is clipped, NaN is black."""
    levels = (values.astype(np.float32 if values.itemsize <= 2 else np.float64) - black) * (255.0 / (white - black))
    return np.rint(np.clip(np.nan_to_num(levels, nan=0.0), 0, 255)).astype(np.uint8)


def main() -> int:
    parser = argparse.ArgumentParser(description="Score every picture of a folder with an exported model.")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--maps", type=Path, metavar="OUT", help="write each map there, as .npy")
    given = parser.parse_args()
    try:
        paths = []
        for path in sorted(given.folder.iterdir(), key=lambda p: p.name):
            if path.suffix.lower() in SUFFIXES:
                paths.append(path)
            else:
                print(f"{path.name} is passed over: by its ending it is no picture.", file=sys.stderr)
        if not paths:
            raise ValueError(f"there are no pictures in {given.folder}.")
        session = onnxruntime.InferenceSession(given.model)
        metadata = session.get_modelmeta().custom_metadata_map
        if metadata.get("admodels_format") != "1":
            raise ValueError("its metadata have no admodels_format=1: it is no exported model, or a newer one.")
        threshold, probe_score = float(metadata["threshold"]), float(metadata["probe_score"])
        held_out = np.array(json.loads(metadata["model"])["calibration"]["scores"])
        value_range = tuple(map(float, metadata["value_range"].split(":"))) if metadata["value_range"] else None
        probe = rgb_pixels(base64.b64decode(metadata["probe_png"]), None)
        score = session.run(["score"], {"image": probe})[0].item()
        if not abs(score - probe_score) <= PROBE_TOLERANCE * max(abs(probe_score), abs(threshold)):
            raise ValueError(f"its own picture scores {score:.9g} here and must score {probe_score:.9g}.")
        if given.maps:
            given.maps.mkdir(parents=True, exist_ok=True)
    except Exception as error:  # ONNX Runtime's are of many types
        print(f"Nothing was scored: {error}", file=sys.stderr)
        return 2

    lines, n_unread = csv.writer(sys.stdout, lineterminator="\n"), 0
    lines.writerow(["picture", "score", "threshold", "p_value", "verdict"])
    for path in paths:
        try:
            pixels = rgb_pixels(path.read_bytes(), value_range)
        except Exception as error:  # of a damaged file a decoder may say anything
            print(f"{path.name} was not scored: {error}", file=sys.stderr)
            n_unread += 1
            continue
        score, anomaly_map = session.run(["score", "map"], {"image": pixels})
        score = score.item()
        p_value = (1 + np.count_nonzero(held_out >= score)) / (len(held_out) + 1)
        verdict = "anomalous" if score > threshold else "good"
        lines.writerow([path.name, f"{score:.9g}", metadata["threshold"], f"{p_value:.6g}", verdict])
        sys.stdout.flush()
        if given.maps:
            np.save(given.maps / f"{path.name}.npy", anomaly_map)
    return 1 if n_unread else 0


if __name__ == "__main__":
    sys.exit(main())

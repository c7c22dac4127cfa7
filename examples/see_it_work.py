"""Make the pictures that the app begins with: of each example set a good picture, a defective one and its heatmap.

python -m examples.see_it_work
"""

from pathlib import Path

import numpy as np
from PIL import Image

import admodels
from admodels.evaluation import load_dataset, normal_images
from admodels.pictures import decode, overlay

HERE = Path(__file__).resolve().parent
SIDE, GAP, WHITE = 200, 6, 255


def strip(folder: Path) -> np.ndarray:
    """The three side by side, uint8 (SIDE, 3·SIDE + 2·GAP, 3); of the defective ones, that with the highest score."""
    detector = admodels.create("fapm").fit(normal_images(folder))
    test = load_dataset(folder).test
    good = decode(next(item.path for item in test if not item.is_defective)).pixels
    defective = [item.path for item in test if item.is_defective]
    worst = max(zip(detector.predict_batch(defective), defective, strict=True), key=lambda found: found[0].score)
    shown = decode(worst[1]).pixels
    gap = np.full((SIDE, GAP, 3), WHITE, np.uint8)
    small = [np.asarray(Image.fromarray(p).resize((SIDE, SIDE))) for p in (good, shown, overlay(shown, worst[0]))]
    return np.concatenate([small[0], gap, small[1], gap, small[2]], 1)


if __name__ == "__main__":
    for folder in sorted(path for path in HERE.iterdir() if (path / "train").is_dir()):
        Image.fromarray(strip(folder)).save(folder.with_suffix(".jpg"), quality=88)

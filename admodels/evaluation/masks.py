"""Pixel masks: labels in the form of pictures. Nothing about them goes through a picture's colours.

A mask says of each pixel whether it is defective: by 255 in an annotation tool's export, by 1 in a table of labels, by
an index in a palette, by 16-bit numbers of instances, by whatever is drawn on a transparent ground.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from admodels.errors import AdmodelsError, DataError
from admodels.pictures.decoding import opened_picture, picture_size
from admodels.pictures.picture_files import is_litter, list_images

LOSSY_FORMATS = ("JPEG", "MPO")
UNCLEAR_FORMATS = ("WEBP", "AVIF", "JPEG2000")  # with or without loss, which nobody can tell afterwards
MIN_LOSSY_LEVEL = 64  # what is darker everywhere may be noise of the compression, or labels that it has spoilt
ASPECT_TOLERANCE = 0.99  # pixels of the smaller one, where picture and mask have other sizes: what rounding may cost


def read_mask(paths: Sequence[str | Path]) -> np.ndarray:
    """The union of pixel masks as bool H×W; what is not background is defective.

    Raises:
        ImageError: a file cannot be read.
        DataError: a mask cannot be understood, or masks of one picture have different sizes.
    """
    union = _defective(Path(paths[0]))
    for path in paths[1:]:
        other = _defective(Path(path))
        if other.shape != union.shape:
            raise DataError(
                f"{path} is {_px(other.shape)}, the masks beside it {_px(union.shape)}. Make them the same size."
            )
        union |= other
    return union


def mask_of_size(paths: Sequence[str | Path], size: tuple[int, int], picture: str) -> np.ndarray:
    """As `read_mask`, as large as the picture it belongs to: one of the same shape on another scale is resized.

    Args:
        size: (height, width) of the picture.
        picture: its name, for messages.

    Raises:
        ImageError, DataError: as `read_mask`, or the mask has another shape than its picture.
    """
    mask = read_mask(paths)
    if mask.shape == size:
        return mask
    _check_shape(mask.shape, size, Path(paths[0]).name, picture)
    resized = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
    return np.array(resized, dtype=bool)


def check_masks(pictures: Iterable[tuple[Path, Sequence[Path]]]) -> None:
    """Look at the headers of pictures and of their masks, so that a long evaluation does not end at one of them.

    Raises:
        DataError: masks cannot be used; all of them are named.
    """
    said = []
    for picture, masks in pictures:
        try:
            size = picture_size(picture) if masks else None
            for mask in masks:
                _check_shape(picture_size(mask, min_side=1), size, mask.name, picture.name)
        except AdmodelsError as error:
            said.append(str(error))
    if said:
        listed = "\n".join(f"• {line}" for line in said)
        raise DataError(f"{len(said)} masks cannot be used. Leave them out, or replace them:\n{listed}")


def _check_shape(of_mask: tuple[int, int], of_picture: tuple[int, int], mask: str, picture: str) -> None:
    scale = max(of_picture) / max(of_mask)
    apart = max(abs(side - other * scale) for side, other in zip(of_picture, of_mask, strict=True))
    if apart > ASPECT_TOLERANCE * max(1.0, scale):
        raise DataError(
            f"the mask {mask} is {_px(of_mask)}, its picture {picture} {_px(of_picture)}: not the same shape. Make the "
            "mask as large as the picture."
        )


class MaskFolder:
    """The masks of one kind of defect: for each picture a file of its name or `<name>_mask`, or a folder of files.

    Args:
        folder: where they lie; it need not be there.
    """

    def __init__(self, folder: Path | None) -> None:
        self._files: dict[str, list[Path]] = {}
        if folder is None or not folder.is_dir():
            return
        for path in list_images(folder):
            self._files.setdefault(mask_stem(path).casefold(), []).append(path)
        for inside in sorted(p for p in folder.iterdir() if p.is_dir() and not is_litter(p.name)):
            if found := list_images(inside):
                self._files.setdefault(inside.name.casefold(), found)

    def of(self, picture: Path) -> tuple[Path, ...]:
        """The masks of a picture, read as their union; none where there are none."""
        own = self._files.get(picture.stem.casefold())
        if own is None:  # a picture that is itself called <name>_mask
            own = self._files.get(mask_stem(picture).casefold(), [])
        return tuple(own)


def mask_stem(mask: Path) -> str:
    """The name of the picture that a mask belongs to, without suffix."""
    stem = mask.stem
    return stem[: -len("_mask")] if stem.lower().endswith("_mask") else stem


def _defective(path: Path) -> np.ndarray:
    with opened_picture(path, path.name, min_side=1) as opened:
        kind = opened.format
        is_lossy = kind in LOSSY_FORMATS or "jpeg" in str(opened.info.get("compression", ""))
        opened.load()
        image = ImageOps.exif_transpose(opened)
        if kind in UNCLEAR_FORMATS:
            raise DataError(
                f"the mask {path.name} is a {kind} file, whose compression may have changed the labels. Save it as PNG."
            )
        if image.mode == "P" and "transparency" not in image.info:
            return _off_background(np.asarray(image), image)
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            return _drawn(np.asarray(image.convert("RGBA")))
        values = np.asarray(image)
        if image.mode == "CMYK":
            values = np.asarray(image.convert("RGB"))
    largest = values.max(axis=2) if values.ndim == 3 else values
    if largest.dtype.kind == "f":
        return np.nan_to_num(largest) != 0
    if not is_lossy:
        return largest != 0
    top = int(largest.max())
    if 0 < top < MIN_LOSSY_LEVEL:
        raise DataError(
            f"the mask {path.name} is a JPEG whose brightest pixel is {top} of 255: its labels cannot be told from the "
            "noise of the compression. Save it as PNG."
        )
    return largest > top / 2 if top else np.zeros(largest.shape, bool)


def _off_background(indices: np.ndarray, image: Image.Image) -> np.ndarray:
    """Of a palette's indices: background is what is black, as in every usual palette of labels; else index 0."""
    palette = np.array(image.getpalette() or [0, 0, 0], dtype=np.uint8).reshape(-1, 3)
    used = np.unique(indices)
    black = [i for i in used if i < len(palette) and not palette[i].any()]
    return ~np.isin(indices, black or [0])


def _drawn(rgba: np.ndarray) -> np.ndarray:
    """Of a picture with transparency: what is drawn on the transparent ground, black included where all of it is."""
    is_drawn, is_bright = rgba[..., 3] >= 128, rgba[..., :3].any(axis=2)
    if is_drawn.all() or not rgba[..., 3].any():  # no transparency
        return is_bright
    bright = is_drawn & is_bright
    return bright if bright.any() and (is_drawn & ~is_bright).any() else is_drawn


def _px(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]} px"

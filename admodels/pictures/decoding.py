"""From a picture file to pixels: the one place that opens files, and everything that can be wrong with them.

What came is uint8 RGB, H×W×3, upright, or an `ImageError` that names the picture and the remedy.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from admodels.errors import AdmodelsError, ImageError, NotAPictureError
from admodels.pictures.picture_files import (
    FORMATS,
    READABLE,
    ZipPicture,
    check_bytes,
    max_megapixels,
    member_parts,
    read_member,
)
from admodels.pictures.value_range import ValueRange, deep_values, said_of, to_8_bit, usual_value_range

MIN_SIDE = 16
SHALLOW_LEVELS = 16  # of the upper 8 of 16 bits: a camera of 12 bits fills no more

ImageLike = str | Path | bytes | Image.Image | np.ndarray | ZipPicture


def picture_name(image: ImageLike, position: int = 0) -> str:
    """The name that messages use for a picture; unnamed ones are counted from 1."""
    if isinstance(image, str | Path):
        return Path(image).name or str(image)
    if isinstance(image, ZipPicture):
        return member_parts(image.member)[-1]
    filename = getattr(image, "filename", "")
    return Path(filename).name if filename else f"picture {position + 1}"


@contextmanager
def opened_picture(image: ImageLike, name: str, *, min_side: int = MIN_SIDE) -> Iterator[Image.Image]:
    """A picture opened by Pillow, its pixels not decoded yet. Every picture file is opened here.

    Whatever its decoder raises inside the context is an `ImageError`: about a file from outside a decoder may say
    anything, in any type of exception.

    Args:
        image: a path, encoded bytes, a PIL image (a copy is opened) or a `ZipPicture`.

    Raises:
        ImageError: it cannot be read, has fewer than `min_side` pixels on a side or more than 100 megapixels.
    """
    try:
        is_in_memory = isinstance(image, Image.Image) and getattr(image, "fp", None) is None
        if ImageFile.LOAD_TRUNCATED_IMAGES and not is_in_memory:  # another library's choice, and not ours to change
            raise ImageError(
                name,
                "may be truncated without notice: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this program. Set it to "
                "False.",
            )
        if isinstance(image, Image.Image):
            _check_size(image.size, name, min_side)
            opened = image.copy()  # loading and seeking must not change the caller's picture
        else:
            opened = _opened(encoded_bytes(image, name), name)
            _check_size(opened.size, name, min_side)
        yield opened
    except AdmodelsError:
        raise
    except MemoryError as error:
        raise ImageError(name, "needs more memory than is available. Scale it down or cut it into parts.") from error
    except Exception as error:
        said = " ".join(f"{error or type(error).__name__}".split())[:200]
        raise ImageError(name, f"is damaged or incomplete ({said}). Copy or export it again.") from error


def encoded_bytes(image: Any, name: str) -> bytes:
    """The encoded bytes of a picture file."""
    if isinstance(image, bytes | bytearray | memoryview):
        encoded = bytes(image)
        check_bytes(len(encoded), name)
    elif isinstance(image, ZipPicture):
        encoded = read_member(image)
    elif isinstance(image, str | Path):
        encoded = _file_bytes(Path(image), name)
    else:
        more = ": picture.numpy(), with the channels last" if type(image).__module__.startswith("torch") else ""
        raise ImageError(
            name, f"is a {type(image).__name__}; give a path, bytes, a PIL image or an H×W×3 uint8 RGB array{more}."
        )
    if not encoded:
        raise ImageError(name, "is empty (0 bytes). Copy or export it again.")
    return encoded


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(
                name or str(path),
                f"is a folder ({path}); expected one picture. Give the folder where a list of pictures is expected.",
            )
        if path.exists() and not path.is_file():
            raise ImageError(name, f"is not a file ({path}) but a device or a pipe. Give a picture file.")
        check_bytes(path.stat().st_size, name)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(name, f"does not exist ({path}). Check the path.") from error
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise ImageError(name, f"cannot be read ({error}). Check the file and its permissions.") from error


def _opened(encoded: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            name, f"is larger than {max_megapixels():g} megapixels. Scale it down or cut it into parts."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise NotAPictureError(name, f"is not a picture this program can read. Use {READABLE}.") from error


def picture_size(image: str | Path, *, min_side: int = MIN_SIDE) -> tuple[int, int]:
    """(height, width) of a picture file, upright, from its header.

    Raises:
        ImageError: it cannot be read.
    """
    name = picture_name(image)
    encoded = encoded_bytes(image, name)
    with opened_picture(encoded, name, min_side=min_side) as opened:
        return upright_size(opened, encoded)


def _check_size(size: tuple[int, int], name: str, min_side: int = MIN_SIDE) -> None:
    width, height = size
    if min(width, height) < min_side:
        raise ImageError(
            name, f"is {width}×{height} pixels; at least {min_side}×{min_side} are needed. Use a larger picture."
        )
    if width * height > max_megapixels() * 1e6:
        raise ImageError(
            name,
            f"has {width * height / 1e6:.0f} megapixels ({width}×{height}); at most {max_megapixels():g} are "
            "accepted. Scale it down or cut it into parts.",
        )


def upright_size(opened: Image.Image, encoded: bytes) -> tuple[int, int]:
    """(height, width) that decoding will give, from the header."""
    if opened.format == "TIFF":  # announces it itself
        return opened.size[::-1]
    if opened.format == "PNG" and _png_has_more_after_pixels(encoded):
        opened.load()
    # The base's method, since that of PNG decodes the whole picture in search of chunks after the pixels.
    orientation = Image.Image.getexif(opened).get(ExifTags.Base.Orientation, 1)
    # 5 to 8 of the EXIF standard lie on their side.
    return opened.size if orientation in (5, 6, 7, 8) else opened.size[::-1]


def _png_has_more_after_pixels(encoded: bytes) -> bool:
    """Whether a PNG has text or EXIF after its pixels, which may say how it lies."""
    at, seen_pixels = 8, False
    while at + 8 <= len(encoded):
        length, kind = int.from_bytes(encoded[at : at + 4], "big"), encoded[at + 4 : at + 8]
        seen_pixels |= kind == b"IDAT"
        if seen_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        at += 12 + length
    return False


def checked_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 3 or array.shape[2] != 3:
        remedies = {
            2: "Repeat a grey picture three times: np.repeat(array[..., None], 3, 2).",
            4: "It is a batch: give list(array) to predict_batch or fit.",
        }
        if array.ndim == 3:
            remedies[3] = {
                1: "Repeat a grey picture three times: np.repeat(array, 3, 2).",
                4: "Leave out the alpha channel: array[..., :3].",
            }.get(array.shape[2], "Move the channels last: array.transpose(1, 2, 0).")
        remedy = remedies.get(array.ndim, "Give one picture.")
        raise ImageError(
            name, f"is an array of shape {array.shape}; expected height × width × 3 (RGB), channels last. {remedy}"
        )
    if array.dtype != np.uint8:
        remedies = {
            "b": "Convert it: array.astype(np.uint8) * 255.",
            "f": "Convert it, for example (255 * array).round().astype(np.uint8) for values from 0 to 1.",
        }
        remedy = remedies.get(
            array.dtype.kind,
            "Divide by what one grey level of 255 stands for: (array // 257).astype(np.uint8) for values up to 65535, "
            "(array // 16).astype(np.uint8) for a camera of 12 bits.",
        )
        raise ImageError(name, f"is an array of {array.dtype}; expected uint8 with values 0 to 255. {remedy}")
    _check_size((array.shape[1], array.shape[0]), name)
    return np.ascontiguousarray(array)


def is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _is_reduced(image: Image.Image) -> bool:
    """Whether the file has 16 bits a colour, of which Pillow will keep the upper 8."""
    if is_deep(image):
        return False
    modes = [mode for tile in getattr(image, "tile", ()) for mode in _texts(tile[3])]
    return any(";16" in mode for mode in modes)


def _texts(arguments: Any) -> list[str]:
    """Texts among a decoder's arguments."""
    return [a for a in (arguments if isinstance(arguments, tuple | list) else (arguments,)) if isinstance(a, str)]


def header_notices(opened: Image.Image) -> list[str]:
    """What the header already tells the user should know; reasons without the picture's name."""
    said, n_frames = [], getattr(opened, "n_frames", 1)
    if n_frames > 1:
        opened.seek(0)
        said.append(f"has {n_frames} frames; only the first is used")
    if _is_reduced(opened):
        said.append("has 16 bits for each colour; only the upper 8 of them are used")
    return said


def rgb_pixels(opened: Image.Image, name: str, value_range: ValueRange | None) -> tuple[np.ndarray, list[str]]:
    """Pixels as uint8 RGB, H×W×3, and what the user should know; reasons without the picture's name."""
    said, is_reduced = header_notices(opened), _is_reduced(opened)
    if is_reduced and value_range not in (None, (0.0, 65535.0)):
        low, high = value_range
        raise ImageError(
            name,
            f"has 16 bits for each colour, of which only the upper 8 can be read, and the values are to be read as "
            f"{low:g} to {high:g}. Convert it to 8 bits a colour.",
        )
    opened.load()
    image = ImageOps.exif_transpose(opened)
    if is_deep(image):
        grey = np.asarray(image)
        values = deep_values(grey)
        chosen = value_range or usual_value_range(values)
        said += said_of(values, chosen, is_known=value_range is not None)
        return np.repeat(to_8_bit(grey, chosen)[..., None], 3, 2), said
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getextrema()[3][1] == 0:  # nobody saves a picture of which nothing is to be seen
            said.append("is transparent everywhere; its colours are used as they are")
            pixels = np.asarray(rgba)[..., :3].copy()
        else:
            white = Image.new("RGBA", rgba.size, "white")
            pixels = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    else:
        pixels = np.asarray(image.convert("RGB"))
    if is_reduced and 0 < pixels.max() < SHALLOW_LEVELS:
        raise ImageError(
            name,
            "has 16 bits for each colour and uses few of them: only the upper 8 can be read, and the largest value in "
            f"them is {pixels.max()} of 255. Convert it to 8 bits a colour, scaled by the bits that the camera has.",
        )
    return pixels, said

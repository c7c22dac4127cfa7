"""A mask says which pixels are defective, in whatever form a tool saves it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from admodels.errors import DataError, ImageError
from admodels.evaluation.masks import MaskFolder, check_masks, mask_of_size, mask_stem, read_mask
from tests.conftest import gradient


def palette(image, colours):
    image = image.convert("L").copy()
    made = Image.fromarray(np.asarray(image))
    made = Image.frombytes("P", made.size, made.tobytes())
    made.putpalette([channel for colour in colours for channel in colour])
    return made


def transparent(mask, colour, ground=0):
    """What is defective is drawn on a transparent ground."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[..., :3] = ground
    rgba[mask] = (*colour, 255)
    return Image.fromarray(rgba)


def ids(mask):
    """Instances numbered 1, 2, … row by row."""
    return mask * (1 + np.arange(mask.shape[0])[:, None])


# Name, suffix and the picture of a bool mask; none of them loses anything.
FORMS = {
    "255": (".png", lambda m: Image.fromarray(m.astype(np.uint8) * 255)),
    "1": (".png", lambda m: Image.fromarray(m.astype(np.uint8))),
    "numbers": (".bmp", lambda m: Image.fromarray(ids(m).astype(np.uint8))),
    "1-bit": (".png", Image.fromarray),
    "1-bit TIFF": (".tif", Image.fromarray),
    "16-bit numbers": (".png", lambda m: Image.fromarray((ids(m) * 256).astype(np.uint16))),
    "float": (".tiff", lambda m: Image.fromarray(m.astype(np.float32) / 4)),
    "colour": (".PNG", lambda m: Image.fromarray(m[..., None] * np.array([200, 0, 0], np.uint8))),
    "grey palette": (".png", lambda m: Image.fromarray(m.astype(np.uint8)).convert("P")),
    "palette of labels": (".gif", lambda m: palette(Image.fromarray(m.astype(np.uint8)), [(0, 0, 0), (128, 0, 0)])),
    "white first": (".png", lambda m: palette(Image.fromarray((~m).astype(np.uint8)), [(255,) * 3, (0, 0, 0)])),
    "no black": (".png", lambda m: palette(Image.fromarray(m.astype(np.uint8)), [(250, 250, 250), (255, 0, 0)])),
    "white on transparent": (".png", lambda m: transparent(m, (255, 255, 255))),
    "black on transparent": (".png", lambda m: transparent(m, (0, 0, 0), ground=255)),
    "opaque": (".png", lambda m: Image.fromarray(m.astype(np.uint8) * 255).convert("RGBA")),
}


@pytest.mark.parametrize("form", FORMS)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 999))
def test_every_form_gives_the_same_labels(form, size, seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < 0.4
    mask.flat[0], mask.flat[-1] = False, True  # something of both, as every mask of a defect has
    if mask.size == 1:
        return
    suffix, make = FORMS[form]
    path = tmp_path_factory.mktemp("mask") / f"m{suffix}"
    make(mask).save(path)
    np.testing.assert_array_equal(read_mask([path]), mask)


@pytest.mark.parametrize("quality", [40, 75, 95])
@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".tif"])
def test_ringing_of_a_jpeg_is_no_defect(quality, suffix, tmp_path, rng):
    mask = np.zeros((96, 128), bool)
    mask[17:45, 33:71] = True
    options = {"compression": "jpeg"} if suffix == ".tif" else {}
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"m{suffix}", quality=quality, **options)
    found = read_mask([tmp_path / f"m{suffix}"])
    assert (found != mask).mean() < 0.01
    far = np.ones_like(mask)
    far[8:56, 24:80] = False
    assert not found[far].any()


def test_what_cannot_be_told_is_refused(tmp_path):
    few = Image.fromarray((np.indices((32, 32)).sum(0) > 30).astype(np.uint8))
    few.save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg is a JPEG whose brightest pixel is \d"):
        read_mask([tmp_path / "a.jpg"])
    few.convert("RGB").save(tmp_path / "b.webp")
    with pytest.raises(DataError, match=r"b\.webp is a WEBP file"):
        read_mask([tmp_path / "b.webp"])
    (tmp_path / "c.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"c\.png"):
        read_mask([tmp_path / "c.png"])
    Image.new("L", (32, 32)).save(tmp_path / "black.jpg")
    assert not read_mask([tmp_path / "black.jpg"]).any()


@given(factor=st.integers(1, 5), size=st.tuples(st.integers(16, 60), st.integers(16, 60)))
def test_a_mask_on_another_scale_is_as_large_as_its_picture(factor, size, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    mask = np.zeros(size, bool)
    mask[: size[0] // 2, : size[1] // 2] = True
    large = np.kron(mask, np.ones((factor, factor), bool))
    for name, saved in (("small", mask), ("large", large)):
        Image.fromarray(saved).save(folder / f"{name}.png")
    np.testing.assert_array_equal(mask_of_size([folder / "small.png"], large.shape, "p"), large)
    np.testing.assert_array_equal(mask_of_size([folder / "large.png"], mask.shape, "p"), mask)
    with pytest.raises(DataError, match="not the same shape"):
        mask_of_size([folder / "small.png"], (large.shape[0], large.shape[1] + 4 * factor), "p")


def test_every_wrong_mask_is_named_before_the_work(tmp_path):
    gradient(64, 48).save(tmp_path / "p.png")
    gradient(48, 64).save(tmp_path / "lying.png")
    gradient(64, 48).save(tmp_path / "right.png")
    (tmp_path / "cut.png").write_bytes(b"")
    picture = tmp_path / "p.png"
    check_masks([(picture, [tmp_path / "right.png"]), (picture, [])])
    with pytest.raises(DataError, match=r"(?s)3 masks cannot be used.*lying\.png.*cut\.png.*gone\.png"):
        check_masks([(picture, [tmp_path / name]) for name in ("lying.png", "right.png", "cut.png", "gone.png")])


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".tiff", ".jpg"])
@pytest.mark.parametrize("tail", ["", "_mask", "_Mask", "_MASK"])
def test_masks_are_found_by_the_names_of_their_pictures(suffix, tail, tmp_path):
    from pathlib import Path

    gradient().save(tmp_path / f"Part 1{tail}{suffix}")
    folder = MaskFolder(tmp_path)
    assert [path.name for path in folder.of(Path("elsewhere/part 1.JPG"))] == [f"Part 1{tail}{suffix}"]
    assert folder.of(Path("part 2.png")) == ()
    assert mask_stem(tmp_path / f"Part 1{tail}{suffix}") == "Part 1"

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from admodels.errors import ImageError, ImageSetError
from admodels.pictures.images import ZipPicture, decode, inspect_set, list_zip, read_batches, resize
from tests.conftest import encode, gradient

EXPECTED = np.asarray(gradient())


@pytest.mark.parametrize("form", ["path", "text path", "bytes", "pil", "array", "zip"])
def test_every_form_gives_the_same_pixels(form, tmp_path):
    path = tmp_path / "part.png"
    gradient().save(path)
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        archive.write(path, "inner/part.png")
    image = {
        "path": path,
        "text path": str(path),
        "bytes": path.read_bytes(),
        "pil": gradient(),
        "array": EXPECTED,
        "zip": ZipPicture(tmp_path / "parts.zip", "inner/part.png"),
    }[form]
    np.testing.assert_array_equal(decode(image).pixels, EXPECTED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_reported_in_the_size(orientation):
    upright = {
        1: EXPECTED,
        2: EXPECTED[:, ::-1],
        3: EXPECTED[::-1, ::-1],
        4: EXPECTED[::-1],
        5: EXPECTED.transpose(1, 0, 2),
        6: np.rot90(EXPECTED, -1),
        7: EXPECTED[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(EXPECTED),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(gradient(), exif=exif)
    np.testing.assert_array_equal(decode(data).pixels, upright)
    assert inspect_set([data]).sizes == [upright.shape[:2]]


def test_grey_palette_and_cmyk_become_rgb():
    grey = gradient().convert("L")
    np.testing.assert_array_equal(decode(encode(grey)).pixels, np.repeat(np.asarray(grey)[..., None], 3, 2))
    palette = gradient().convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(decode(encode(palette)).pixels, np.asarray(palette.convert("RGB")))
    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert abs(decode(encode(flat, "TIFF")).pixels.astype(int) - [255, 0, 0]).max() <= 2


def test_sixteen_bit_grey_keeps_its_full_range():
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    pixels = decode(encode(Image.fromarray(ramp))).pixels
    np.testing.assert_array_equal(pixels[..., 0], np.rint(ramp / 257.0).astype(np.uint8))


def test_transparency_is_laid_over_white():
    half = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 16, 32))
    pixels = decode(encode(half)).pixels
    assert pixels[0, 0].tolist() == [0, 0, 255]
    assert pixels[0, 31].tolist() == [255, 255, 255]
    see_through = Image.new("P", (32, 32), 0)
    see_through.paste(1, (0, 0, 16, 32))
    see_through.putpalette([10, 20, 30, 40, 50, 60] + [0] * 762)
    pixels = decode(encode(see_through, transparency=0)).pixels
    assert pixels[0, 0].tolist() == [40, 50, 60]
    assert pixels[0, 31].tolist() == [255, 255, 255]


def test_an_animation_gives_its_first_frame_with_a_notice():
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "lime", "blue")]
    decoded = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert decoded.pixels[0, 0].tolist() == [255, 0, 0]
    assert "3 frames" in decoded.notices[0]


def test_a_pil_image_given_is_not_changed():
    image = Image.open(io.BytesIO(encode(gradient())))
    position = image.tell()
    decode(image)
    decode(image)
    assert image.tell() == position
    assert image.size == (48, 32)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"", "0 bytes"),
        (b"not a picture at all", "PNG, JPEG"),
        (encode(gradient(400, 400), "JPEG")[:2000], "damaged or incomplete"),
        (encode(gradient(400, 400))[:500], "damaged or incomplete"),
        (encode(gradient(15, 64)), "15×64"),
        (np.zeros((32, 32), np.uint8), "(32, 32)"),
        (np.zeros((3, 32, 32), np.uint8), "channels last"),
        (np.zeros((32, 32, 3), np.float32), "float32"),
        (np.zeros((8, 32, 3), np.uint8), "32×8"),
        (12, "is a int"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_remedy(image, said):
    with pytest.raises(ImageError, match=r"picture 3") as caught:
        decode(image, position=2)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: does not exist"):
        decode(tmp_path / "gone.png")


def test_more_than_100_megapixels_are_refused_before_decoding(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 5_001)).save(path)
    with pytest.raises(ImageError, match=r"huge\.png: has 100 megapixels \(20000×5001\)"):
        decode(path)


def test_a_set_lists_every_unreadable_picture_and_every_copy(tmp_path, rng):
    noise = [encode(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))) for _ in range(3)]
    given = [noise[0], b"", noise[1], noise[0], b"text", noise[2][:-60], noise[0]]
    looked_at = inspect_set(given, thorough=True)
    assert [e.picture for e in looked_at.errors] == ["picture 2", "picture 5", "picture 6"]
    assert looked_at.duplicates == [[0, 2, 3]]
    assert looked_at.n_duplicates == 2


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (4, 4), (11, 4), (30, 8)])
def test_the_stream_keeps_order_and_loses_nothing(n, batch_size):
    images = [np.full((16, 16, 3), i, np.uint8) for i in range(n)]
    batches = list(read_batches(images, lambda pixels: pixels, batch_size))
    assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate(batches)[:, 0, 0, 0], np.arange(n))


def test_the_stream_opens_files_when_they_are_needed(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for path in paths:
        gradient().save(path)
    stream = read_batches(paths, lambda pixels: pixels, 4)
    next(stream)
    paths[-1].write_bytes(b"")
    with pytest.raises(ImageSetError, match=r"39\.png"):
        list(stream)


def test_the_stream_names_all_broken_pictures_at_once():
    images = [np.zeros((16, 16, 3), np.uint8) if i % 5 else b"broken" for i in range(12)]
    with pytest.raises(ImageSetError) as caught:
        list(read_batches(images, lambda pixels: pixels, 4))
    assert [e.picture for e in caught.value.errors] == ["picture 1", "picture 6", "picture 11"]


def test_resize_and_crop_take_the_centre():
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[24:40, 48:80] = 255
    assert resize(pixels, (64, 128), (16, 32)).min() == 255


def test_a_zip_lists_its_pictures_only(tmp_path):
    path = tmp_path / "parts.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b/2.png", encode(gradient()))
        archive.writestr("a/1.jpg", encode(gradient(), "JPEG"))
        archive.writestr("__MACOSX/a/._1.jpg", b"x")
        archive.writestr("readme.txt", "hello")
    assert [p.member for p in list_zip(path)] == ["a/1.jpg", "b/2.png"]


def test_bad_zips_are_refused(tmp_path):
    path = tmp_path / "bad.zip"
    path.write_bytes(b"PK nonsense")
    with pytest.raises(ImageError, match="not a readable zip"):
        list_zip(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ImageError, match="no picture"):
        list_zip(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(50_000_000))
    with pytest.raises(ImageError, match="Upload a smaller archive"):
        list_zip(path)

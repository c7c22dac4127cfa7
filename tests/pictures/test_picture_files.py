"""Which files are pictures, and what every kind of file that is not one, or is a damaged one, leads to."""

import contextlib
import io
import os
import stat
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from admodels.errors import DataError, ImageError
from admodels.pictures.images import (
    SUFFIXES,
    content_digest,
    decode,
    extract_zip,
    given_images,
    inspect_set,
    list_images,
    list_zip,
    listing,
    picture_name,
    unpack,
    zip_listing,
)
from admodels.pictures.picture_files import FORMATS, ZipPicture, is_litter, member_parts
from tests.conftest import encode, gradient

WRITABLE = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")


def every_kind():
    """Files of every format that Pillow writes, in every mode that it takes."""
    made = {}
    for kind in WRITABLE:
        for mode in MODES:
            image = gradient().convert("L") if mode in ("I;16", "I", "F") else gradient()
            try:
                made[f"{kind} {mode}"] = encode(image.convert(mode), kind)
            except (OSError, ValueError, KeyError):  # this format has no such mode
                continue
    more = [gradient().rotate(90) for _ in range(2)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP", "MPO"):
        made[f"{kind} frames"] = encode(gradient(), kind, save_all=True, append_images=more)
    return made


EVERY_KIND = every_kind()


def test_the_suffixes_are_those_of_the_formats_that_are_read():
    Image.init()
    pillows = {suffix for suffix, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO")}
    assert pillows == SUFFIXES
    assert set(FORMATS) <= set(Image.OPEN)


def test_what_is_decoded_is_found_in_folders_zips_and_uploads(tmp_path):
    folder, archive = tmp_path / "folder", tmp_path / "all.zip"
    folder.mkdir()
    Image.init()
    for i, suffix in enumerate(sorted(SUFFIXES)):
        kind = Image.registered_extensions()[suffix]
        for spelt in (suffix, suffix.upper()):
            (folder / f"{i}{spelt}").write_bytes(encode(gradient(), "PNG" if kind == "MPO" else kind))
    (folder / "no suffix").write_bytes(encode(gradient()))
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, f"inner/{path.name}")
    here, there = listing(folder), zip_listing(archive)
    assert len(here.images) == len(there.images) == 2 * len(SUFFIXES) + 1
    assert here.statement == there.statement == ""
    assert len(unpack([str(archive), *map(str, here.images)]).images) == 2 * len(here.images)
    for picture in [*here.images, *there.images]:
        assert decode(picture).pixels.shape == (32, 48, 3)


def test_what_is_passed_over_is_counted_and_litter_is_not_mentioned(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    gradient().save(folder / "1.png")
    for litter in (".DS_Store", "Thumbs.db", "desktop.ini", "._1.png", ".hidden.png"):
        (folder / litter).write_bytes(b"x")
    for name in ("notes.txt", "LICENCE", "part.psd", "inner.zip"):
        (folder / name).write_bytes(b"some text that is long enough")
    (folder / "monday").mkdir()
    (folder / "called.png").mkdir()
    found = listing(folder)
    assert [path.name for path in found.images] == ["1.png"]
    assert sorted(found.passed_over) == ["LICENCE", "called.png/", "inner.zip", "monday/", "notes.txt", "part.psd"]
    assert found.statement.startswith("6 entries are not pictures and were skipped: ")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in folder.iterdir():
            if path.is_file():
                archive.write(path, f"good/{path.name}")
        archive.writestr("__MACOSX/good/2.png", b"x")
        archive.writestr("good/@eaDir/3.png", b"x")
        link = zipfile.ZipInfo("good/4.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    there = zip_listing(tmp_path / "z.zip")
    assert [picture_name(picture) for picture in there.images] == ["1.png"]
    assert sorted(there.passed_over) == ["4.png", "LICENCE", "inner.zip", "notes.txt", "part.psd"]


def test_a_broken_link_and_a_pipe_are_named(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    errors = inspect_set(tmp_path).errors
    assert [error.picture for error in errors] == ["gone.png", "pipe.png"]
    assert "does not exist" in str(errors[0])
    assert "not a file" in str(errors[1])


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5).map("/".join))
def test_no_member_of_a_zip_leads_outside(name):
    parts = member_parts(name)
    assert not {"", ".", ".."} & set(parts)
    assert not any("/" in part or "\\" in part for part in parts)


def test_members_that_would_come_out_at_one_place_get_two(tmp_path):
    names = ("a/1.png", "../a/1.png", "/a/1.png", "C:\\a\\1.png", "a\\1.png", "a/1.png", "a/./1.png")
    colours = range(0, 20 * len(names), 20)
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, colour in zip(names, colours, strict=True):
            member = zipfile.ZipInfo("x")
            member.filename = name
            archive.writestr(member, encode(Image.new("L", (32, 32), colour)))
    extract_zip(tmp_path / "z.zip", tmp_path / "there")
    assert sorted({path.parent for path in (tmp_path / "there").rglob("*.png")}) == [tmp_path / "there" / "a"]
    read = {int(decode(path).pixels[0, 0, 0]) for path in list_images(tmp_path / "there" / "a")}
    assert read == set(colours)
    assert {int(decode(picture).pixels[0, 0, 0]) for picture in list_zip(tmp_path / "z.zip")} == set(colours)


def test_a_member_larger_than_a_picture_may_be_is_refused_by_its_header(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large.png", np.random.default_rng(0).bytes(200_000) * 100)
        archive.writestr("small.png", encode(gradient()))
    monkeypatch.setenv("ADMODELS_MAX_MEGAPIXELS", "1")
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(ImageError, match=r"large\.png: has 19 MiB; at most 9 are accepted"):
        content_digest(ZipPicture(tmp_path / "z.zip", "large.png"))
    (tmp_path / "large.png").write_bytes(bytes(20_000_000))
    with pytest.raises(ImageError, match=r"large\.png: has 19 MiB"):
        decode(tmp_path / "large.png")


def mutated(data, rng):
    """The same bytes with some flipped, cut, removed, or set to an extreme."""
    data, how = bytearray(data), int(rng.integers(5))
    at = int(rng.integers(len(data)))
    if how == 0:
        data = data[: max(at, 1)]
    elif how == 1:
        for _ in range(int(rng.integers(1, 12))):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    elif how == 2:
        del data[at : at + int(rng.integers(1, 40))]
    elif how == 3:
        data[at : at + 30] = rng.bytes(30)
    else:
        at = int(rng.integers(min(len(data), 200)))
        data[at : at + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")[at % 4]
    return bytes(data)


@given(st.sampled_from(sorted(EVERY_KIND)), st.integers(0, 2**32))
def test_a_damaged_file_is_read_or_an_error_of_ours(kind, seed):
    data = mutated(EVERY_KIND[kind], np.random.default_rng(seed))
    try:
        pixels = decode(data).pixels
    except ImageError as error:
        assert str(error).startswith("picture 1: ")  # noqa: PT017 - that it is of this type is the point
        pixels = None
    for thorough in (True, False):
        looked_at = inspect_set([data], thorough=thorough)
        if pixels is not None:
            assert looked_at.sizes == [pixels.shape[:2]]
    assert thorough or len(looked_at.errors) + len(looked_at.images) == 1
    try:
        lazily_opened = Image.open(io.BytesIO(data))
    except Exception:  # not by us
        return
    with contextlib.suppress(ImageError):
        decode(lazily_opened)


@given(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]), st.integers(0))
def test_a_damaged_zip_is_read_or_an_error_of_ours(packing, seed):
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for i in range(3):
            archive.writestr(f"{i}.bmp", encode(gradient(), "BMP"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "z.zip"
        path.write_bytes(mutated(buffer.getvalue(), rng))
        with contextlib.suppress(ImageError):
            pictures = list_zip(path)
            inspect_set(pictures, thorough=True)
            extract_zip(path, Path(folder) / "there")


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_announced_is_the_size_after_decoding(kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(gradient(), kind, exif=exif) if kind not in ("BMP", "DIB", "GIF", "PPM") else encode(gradient(), kind)
    assert inspect_set([data]).sizes == [decode(data).pixels.shape[:2]]


@pytest.mark.parametrize("where", ["eXIf", "XMP"])
def test_orientation_after_the_pixels_of_a_png_counts(where):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    chunk = (b"eXIf", exif.tobytes()[6:])
    if where == "XMP":
        chunk = (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>')
    data, buffer = encode(gradient()), io.BytesIO()
    PngImagePlugin.putchunk(buffer, *chunk)
    end = data.index(b"IEND") - 4
    data = data[:end] + buffer.getvalue() + data[end:]
    assert decode(data).pixels.shape == (48, 32, 3)
    assert inspect_set([data]).sizes == [(48, 32)]


def test_a_png_is_not_decoded_to_learn_its_size(monkeypatch):
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert inspect_set([encode(gradient())]).sizes == [(32, 48)]


def test_a_folder_a_generator_or_a_zip_stands_for_its_pictures(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    for i in range(3):
        gradient().save(folder / f"{i}.png")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(folder / "0.png", "0.png")
    names = ["0.png", "1.png", "2.png"]
    for given_as in (folder, str(folder), sorted(folder.glob("*.png")), (p for p in sorted(folder.iterdir()))):
        assert [picture_name(image) for image in given_images(given_as)] == names
    assert [picture_name(image) for image in given_images(tmp_path / "z.zip")] == ["0.png"]
    assert len(given_images(np.zeros((4, 32, 32, 3), np.uint8))) == 4


@pytest.mark.parametrize("wrong", ["missing", "one file", "pattern", "empty", "bytes", "PIL", "array", 3, None, "nul"])
def test_what_is_no_set_of_pictures_is_explained(wrong, tmp_path):
    gradient().save(tmp_path / "1.png")
    (tmp_path / "empty").mkdir()
    given_as = {
        "missing": tmp_path / "nowhere",
        "one file": str(tmp_path / "1.png"),
        "pattern": str(tmp_path / "*.png"),
        "empty": tmp_path / "empty",
        "bytes": encode(gradient()),
        "PIL": gradient(),
        "array": np.zeros((32, 32, 3), np.uint8),
        "nul": "a\0b",
    }.get(wrong, wrong)
    with pytest.raises(DataError, match=r"folder") as caught:
        inspect_set(given_as)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails", "$RECYCLE.BIN", "Thumbs.db"]
)
def test_litter(name):
    assert is_litter(name)
    assert is_litter("good", name, "1.png")
    assert not is_litter("good", f"x{name}x", "1.png")


def test_where_pillow_is_told_to_fill_up_cut_files_none_is_read(monkeypatch):
    whole = encode(gradient())
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert decode(gradient()).pixels.shape == (32, 48, 3)  # in memory, there is nothing to be cut off
    for file in (whole, whole[: len(whole) // 2], Image.open(io.BytesIO(whole))):
        with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES is on"):
            decode(file)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    assert decode(whole).pixels.shape == (32, 48, 3)

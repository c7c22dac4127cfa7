"""Pictures of more than 8 bits have one scale, chosen for the set and kept by the model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import admodels
from admodels.errors import ImageError, OptionError
from admodels.pictures.images import decode, inspect_set
from admodels.pictures.value_range import DeepValues, choose_value_range, deep_values, parse_value_range, to_8_bit
from tests.conftest import SMALL, encode

KINDS = ("PNG", "TIFF", "PPM", "JPEG2000")


def part(seed, bits, size=(64, 64)):
    """A textured grey part that fills so many bits, as uint16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    values = 0.5 + 0.3 * np.sin(x / 4) * np.cos(y / 5) + 0.05 * rng.standard_normal(size)
    return np.rint(np.clip(values, 0, 1) * (2**bits - 1)).astype(np.uint16)


def file(values, kind="PNG"):
    return encode(Image.fromarray(values), kind)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_bit_depth_of_a_set_is_found(bits, kind):
    looked_at = inspect_set([file(part(i, bits), kind) for i in range(4)])
    assert choose_value_range(looked_at.deep) == (0, 2**bits - 1)
    pixels = decode(file(part(0, bits), kind), value_range=(0, 2**bits - 1)).pixels
    assert len(np.unique(pixels)) > 100
    np.testing.assert_array_equal(pixels[..., 0], np.rint(part(0, bits) * (255 / (2**bits - 1))).astype(np.uint8))


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=9), st.sampled_from([255, 1023, 4095, 16383, 65535]))
def test_a_value_has_one_grey_level_whatever_is_beside_it(values, white):
    grey = np.array([values], dtype=np.uint16)
    together = to_8_bit(grey, (0, white))[0]
    for value, level in zip(values, together, strict=True):
        assert to_8_bit(np.array([[value]], np.uint16), (0, white))[0, 0] == level
        assert level == min(255, round(value * 255 / white))


@given(st.lists(st.floats(0, 5e4, width=32), min_size=1, max_size=6))
def test_the_scale_of_a_set_holds_all_its_values(maxima):
    pictures = [DeepValues(True, 0.0, value) for value in maxima]
    low, high = choose_value_range(pictures)
    assert low == 0
    assert max(maxima) <= high * 1.05
    assert high in (1, 255, 1023, 4095, 16383, 65535)
    # The order does not matter, and a picture more that fits changes nothing.
    assert choose_value_range([*reversed(pictures), DeepValues(True, 0.0, min(maxima))]) == (low, high)


def test_what_no_scale_fits_is_refused_with_the_remedy():
    for pictures in (
        [DeepValues(True, 0, 0.9), DeepValues(False, 0, 4000)],
        [DeepValues(False, -5, 4000)],
        [DeepValues(True, -3000, 4000)],
        [DeepValues(True, 0, 1e12)],
    ):
        with pytest.raises(OptionError, match="value_range"):
            choose_value_range(pictures)
    assert choose_value_range([]) is None


@pytest.mark.parametrize("text", ["4095", "0:", "5:5", "9:3", "0:nan", "0:inf", "a:b", "0:1:2", "0:1e999", ""])
def test_a_wrong_range_is_refused(text):
    with pytest.raises(OptionError, match="0:4095"):
        admodels.create("fapm", value_range=text)


def test_a_right_range_is_read():
    assert parse_value_range("auto") is None
    assert parse_value_range(" 0:4095 ") == (0, 4095)
    assert parse_value_range("-10.5:1e3") == (-10.5, 1000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_dead_pixel_changes_no_other_and_is_said(value):
    whole = (part(0, 8) / 255).astype(np.float32)
    dead = whole.copy()
    dead[5, 7] = value
    expected, found = decode(file(whole, "TIFF")), decode(file(dead, "TIFF"))
    changed = (expected.pixels != found.pixels).any(axis=2)
    assert np.argwhere(changed).tolist() in ([], [[5, 7]])
    assert any("NaN or infinite" in notice for notice in found.notices)
    assert deep_values(dead).high == whole[whole != whole[5, 7]].max()
    assert any("NaN or infinite" in notice for notice in inspect_set([file(dead, "TIFF")]).notices)


def test_one_picture_without_a_set_says_how_it_was_read():
    for values, said in (
        (part(0, 12), "read as 0 (black) to 65535 (white)"),
        ((part(0, 8) / 255).astype(np.float32), "read as 0 (black) to 1 (white)"),
        (part(0, 12).astype(np.float32), "beyond 0 to 255"),
    ):
        assert any(said in notice for notice in decode(file(values, "TIFF")).notices)


def test_colours_of_16_bits_are_said_or_refused():
    """Pillow reads their upper 8 bits only."""
    import struct
    import zlib

    def png(values):
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        height, width = values.shape[:2]
        parts = [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        ]
        chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    full = png(np.repeat(part(0, 16)[..., None], 3, 2))
    decoded = decode(full)
    np.testing.assert_array_equal(decoded.pixels[..., 0], part(0, 16) >> 8)
    assert "only the upper 8 of them are used" in decoded.notices[0]
    assert "only the upper 8 of them are used" in inspect_set([full]).notices[0]
    with pytest.raises(ImageError, match="uses few of them"):
        decode(png(np.repeat(part(0, 12)[..., None], 3, 2)))
    with pytest.raises(ImageError, match="to be read as 0 to 4095"):
        decode(full, value_range=(0, 4095))


def test_a_model_keeps_its_scale_and_reads_every_picture_with_it():
    bits = 12
    detector = admodels.create("padim_isvd", device="cpu", **SMALL["padim_isvd"])
    detector.fit([file(part(i, bits)) for i in range(12)])
    assert detector.working_shape_.value_range == (0, 4095)
    assert "Values of more than 8 bits are read from 0 (black) to 4095 (white)." in detector.fit_report_.notices
    new = part(99, bits)
    as_8_bit = np.repeat(np.rint(new * (255 / 4095)).astype(np.uint8)[..., None], 3, 2)
    expected = detector.predict(as_8_bit)
    found = detector.predict(file(new))
    assert found.score == expected.score
    assert found.notices == ()
    dark = detector.predict(file(new // 4))  # a scale of its own would make it look like the others
    assert dark.score > 1.2 * found.score
    bright = detector.predict(file(new * 3))
    assert "shown as black or white" in bright.notices[0]
    admodels.save(detector, "deep", overwrite=True)
    loaded = admodels.load("deep", device="cpu")
    assert loaded.working_shape_ == detector.working_shape_
    assert loaded.fit_report_.notices == detector.fit_report_.notices
    assert loaded.predict(file(new)).score == found.score
    loaded.update([file(part(200 + i, bits)) for i in range(8)])
    assert loaded.working_shape_.value_range == (0, 4095)


def test_a_range_that_was_asked_for_counts():
    detector = admodels.create("padim_isvd", device="cpu", value_range="100:2147", **SMALL["padim_isvd"])
    detector.fit([file(part(i, 11)) for i in range(8)])
    assert detector.working_shape_.value_range == (100, 2147)
    shown = detector.read(file(part(50, 11))).pixels[..., 0]
    expected = np.clip(np.rint((part(50, 11).astype(float) - 100) * 255 / 2047), 0, 255)
    assert abs(shown - expected).max() <= 1

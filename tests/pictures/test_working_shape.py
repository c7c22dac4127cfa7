import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from admodels.pictures.working_shape import WorkingShape, choose_working_shape, shape_fault


@given(st.integers(64, 1024), st.lists(st.tuples(st.integers(16, 4000), st.integers(16, 4000)), min_size=1, max_size=9))
def test_keeping_the_aspect_gives_multiples_of_32(image_size, sizes):
    shape = choose_working_shape(image_size, None, True, sizes)
    assert all(side % 32 == 0 and side >= 32 for side in shape.resized)
    assert shape.cropped == shape.resized


def test_the_median_aspect_and_about_the_area_are_kept():
    shape = choose_working_shape(256, None, True, [(100, 200), (300, 600), (500, 100)])
    assert shape.resized == (192, 352)
    assert abs(192 * 352 / 256**2 - 1) < 0.1


def test_the_papers_protocol():
    assert choose_working_shape(256, 224, False, [(300, 900)]) == WorkingShape((256, 256), (224, 224))
    assert choose_working_shape(256, 224, True, [(300, 300)]) == WorkingShape((256, 256), (224, 224))


@pytest.mark.parametrize("size", [(300, 500), (64, 64), (1001, 37)])
def test_an_uncropped_map_fills_the_picture(size):
    shape = WorkingShape((64, 96), (64, 96))
    back = shape.to_original(torch.rand(16, 24), size)
    assert back.shape == size
    assert back.dtype == np.float32
    assert np.isfinite(back).all()


def test_a_crop_leaves_an_unscored_border_of_the_right_width():
    back = WorkingShape((256, 256), (224, 224)).to_original(torch.ones(56, 56), (512, 1024))
    assert np.isnan(back[:32]).all()
    assert np.isnan(back[:, :64]).all()
    assert np.isfinite(back[32:480, 64:960]).all()
    assert np.isnan(back[480:]).all()


def test_a_defect_comes_back_where_it_was():
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[300:320, 450:480] = 255
    shape = WorkingShape((256, 256), (224, 224))
    prepared = torch.from_numpy(shape.prepare(pixels)[..., 0].astype(np.float32))
    back = shape.to_original(prepared, (400, 600))
    row, column = np.unravel_index(np.nanargmax(back), back.shape)
    assert 300 <= row < 320
    assert 450 <= column < 480


SIDES = st.integers(16, 20_000)


@given(st.data(), st.integers(64, 4096), st.booleans(), st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5))
def test_every_shape_that_is_chosen_is_one_that_the_options_can_give(data, image_size, keep_aspect, sizes):
    crop = data.draw(st.none() | st.integers(32, image_size))
    shape = choose_working_shape(image_size, crop, keep_aspect, sizes)
    assert shape_fault(shape, image_size, crop, keep_aspect) is None
    # One that is not: a side that is no multiple, another area, another crop.
    (height, width), (h, w) = shape.resized, shape.cropped
    for resized, cropped in (
        ((height + 1, width), (h, w)),
        ((2 * height, 2 * width), (h, w)),
        ((height, width), (h, w + 32)),
    ):
        assert shape_fault(WorkingShape(resized, cropped), image_size, crop, keep_aspect)


def test_the_longest_picture_that_can_be_read_has_a_shape():
    for sizes in ([(16, 6_250_000)], [(6_250_000, 16)]):
        for image_size in (64, 256, 2048):
            assert shape_fault(choose_working_shape(image_size, None, True, sizes), image_size, None, True) is None
    assert "longer than" in shape_fault(WorkingShape((32, 10**9), (32, 10**9)), 2048, None, True)

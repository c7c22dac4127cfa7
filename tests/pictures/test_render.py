import dataclasses

import numpy as np
import pytest

from admodels import Calibration, Prediction
from admodels.pictures import render
from demo.view import charts, text


def prediction(anomaly_map, score=1.0):
    return Prediction(score, anomaly_map.astype(np.float32), 5.0, 5.0, 0.5, 0.5, (0.0, 10.0))


def test_what_is_usual_stays_clear_and_what_is_hot_takes_the_scales_end():
    pixels = np.full((40, 60, 3), 100, np.uint8)
    values = np.zeros((40, 60))
    values[:, 30:] = 99.0
    shown = render.overlay(pixels, prediction(values), opacity=1, contour=False)
    assert (shown[:, :30] == 100).all()
    assert (shown[:, 30:] == render.colour_table()[-1]).all()


def test_the_scale_is_fixed_and_not_the_pictures_own():
    pixels = np.full((32, 32, 3), 100, np.uint8)
    mild = render.overlay(pixels, prediction(np.full((32, 32), 1.0)), opacity=1, contour=False)
    hot = render.overlay(pixels, prediction(np.full((32, 32), 6.0)), opacity=1, contour=False)
    assert abs(mild.astype(int) - 100).max() < abs(hot.astype(int) - 100).max()


def test_the_contour_follows_the_mask_and_the_border_is_no_edge():
    values = np.zeros((40, 40))
    values[:, :20] = 9.0
    pixels = np.zeros((40, 40, 3), np.uint8)
    shown = render.overlay(pixels, prediction(values), opacity=0, contour=True)
    contour = (shown == render.CONTOUR_COLOUR).all(2)
    assert contour[:, 19].all()
    assert contour.sum() == 40


def test_where_an_anomalous_picture_has_no_pixel_above_the_threshold_a_ring_shows_the_hottest_place():
    values = np.zeros((100, 60))
    values[70, 20] = 4.0
    pixels = np.zeros((100, 60, 3), np.uint8)
    suspected = render.overlay(pixels, prediction(values, score=6.0), opacity=0, contour=True)
    rows, columns = (suspected == render.CONTOUR_COLOUR).all(2).nonzero()
    distances = np.hypot(rows - 70, columns - 20)
    assert len(rows) > 12
    assert abs(distances - render.RING_RATIO * 100).max() <= 1
    for score, contour in ((4.0, True), (6.0, False)):
        assert not render.overlay(pixels, prediction(values, score=score), opacity=0, contour=contour).any()


def test_an_unscored_border_is_striped():
    values = np.full((40, 40), 1.0)
    values[:8] = np.nan
    pixels = np.full((40, 40, 3), 10, np.uint8)
    shown = render.overlay(pixels, prediction(values), opacity=0.5, contour=True)
    striped = (shown == render.UNSCORED_STRIPES).all(2)
    assert striped[:8].mean() == pytest.approx(0.25, abs=0.05)
    assert not striped[8:].any()


@pytest.mark.parametrize("size", [(3000, 2000), (20, 5000), (1024, 16)])
def test_large_pictures_are_shown_smaller(size):
    shown = render.overlay(np.zeros((*size, 3), np.uint8), prediction(np.zeros(size)))
    assert max(shown.shape) <= render.MAX_SIDE


def test_the_histogram_holds_every_score_the_threshold_and_the_picture():
    calibration = Calibration((1.0, 2.0, 2.5, 4.0), (1.0, 2.0, 2.5, 4.0), 0.5)
    figure = charts.score_histogram(calibration, 7.0)
    assert sum(figure.data[0].y) == 4
    assert {shape.x0 for shape in figure.layout.shapes} == {4.0, 7.0}
    assert figure.layout.xaxis.range[1] > 7


def test_one_score_only_still_gives_a_figure():
    assert charts.score_histogram(Calibration((2.0,), (2.0,), 0.5)).layout.xaxis.range[0] < 2


def test_a_stamp_says_the_verdict_by_colour_and_by_sign():
    pixels, signs = np.zeros((480, 640, 3), np.uint8), []
    for verdict, colour in render.VERDICT_COLOURS.items():
        stamped = render.stamp(pixels, "0.5", verdict)
        height = 480 // 14
        assert (stamped[0] == colour).all()
        assert not stamped[height + 1 :].any()
        signs.append((stamped[1:height, 2 : height - 2] == 255).all(2))
        assert signs[-1].any()
    assert not any((one == other).all() for i, one in enumerate(signs) for other in signs[:i])


def test_names_cannot_carry_markup_into_the_page():
    assert "<script>" not in text.verdict("<script>x</script>.png", prediction(np.zeros((4, 4))), "<b>", 9)
    assert "<img" not in text.note("<img src=x onerror=alert(1)>")


def test_the_verdict_is_said_in_words():
    assert "Good" in text.verdict("a", prediction(np.zeros((4, 4)), 1.0), "m", 9)
    suspected = text.verdict("a", prediction(np.zeros((4, 4)), 9.0), "m", 9)
    assert "✗" in suspected
    assert "Defect suspected" in suspected
    assert "the hottest place has a ring" in suspected
    rare = dataclasses.replace(prediction(np.zeros((4, 4)), 4.0), p_value=0.04)
    assert "? Borderline" in text.verdict("a", rare, "m", 24).replace("</span>", "")


def test_regions_are_said_in_pixels_of_the_picture():
    values = np.zeros((40, 60))
    values[10:14, 20:30], values[30, 5] = 7.0, 9.0
    said = text.verdict("a", prediction(values, 9.0), "m", 9)
    assert "20, 10" in said
    assert "size, px" in said
    assert "<td>10×4</td>" in said
    assert said.index("5, 30") < said.index("20, 10")  # the higher peak first
    assert "smaller ones" not in said

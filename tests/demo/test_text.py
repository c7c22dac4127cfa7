"""Results as HTML: whatever came from a user stays text, and numbers say what they are."""

import dataclasses
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import plotly.io
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admodels import ImageError, Prediction
from admodels.core.calibration import Calibration
from admodels.core.results import Estimate, size_text
from admodels.evaluation import Outcomes, Paired, report
from admodels.evaluation.report import table
from admodels.models.store import ModelInfo
from admodels.options import Options, option
from admodels.pictures.images import ImageSet
from demo.view import charts, options, paired, text

# What a browser might take for more than letters.
WORDS = st.text(st.sampled_from("<>&\"'=; abscript!-#x"), min_size=1).map(lambda words: f"<i>&amp;{words}\"'>")


class Parts(HTMLParser):
    """The tags of a piece of HTML with the names of their attributes, and all that is written in it."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.written = [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, [name for name, _ in attrs]))
        self.written += "".join(value or "" for _, value in attrs)

    def handle_data(self, data):
        self.written += data


def prediction(score=1.0, threshold=2.0, map_threshold=0.5, scale=(0.0, 1.0), notices=()):
    return Prediction(score, np.zeros((4, 4), np.float32), threshold, map_threshold, 0.5, 0.5, scale, notices)


HUB_ROW = dict.fromkeys(("method", "category", "image_auroc", "predict_fps", "size_mib", "licence", "reference"))
CALIBRATION = Calibration((1.0, 2.0), (1.0, 2.0), 0.5)
HUB_ROW |= dict.fromkeys(("measured_on", "n_test", "downloads", "updated", "is_private"))
COMPARED = {
    "verdict": "good",
    "is_anomalous": True,
    "score": 1.0,
    "threshold": 1.0,
    "p_value": 1.0,
    "milliseconds": 1.0,
    "model_mib": 1.0,
}

SIDE = dict.fromkeys(("image_auroc", "image_auroc_ci", "pixel_auroc", "aupro")) | {
    **dict.fromkeys(("n_missed", "n_defective", "n_false_alarms", "n_good"), 1),
    **dict.fromkeys(("threshold", "milliseconds", "fps", "model_mib"), 1.0),
    "title": "FAPM",
}
VERDICTS = Paired(
    **dict.fromkeys(("defective", "good"), Outcomes(n_both=1, n_first_only=1, n_second_only=1, n_neither=1))
)


class Named:
    def __init__(self, name):
        self.filename = name


PLACES = {
    "a picture": lambda x: text.verdict(x, prediction(), "model", 9),
    "a model": lambda x: text.verdict("picture", prediction(), x, 9),
    "a notice": lambda x: text.verdict("picture", prediction(notices=(x,)), "model", 9),
    "words for a picture": lambda x: text.picture(np.zeros((4, 4, 3), np.uint8), x),
    "a fact": lambda x: text.facts([(x, "value"), ("label", x)]),
    "a note": text.note,
    "a source": lambda x: text.picked(ImageSet([], [], []), x),
    "a broken picture": lambda x: text.picked(ImageSet([], [], [ImageError(x, "is broken")]), "upload"),
    "copies": lambda x: text.picked(ImageSet([Named(x), Named(x)], [(4, 4)] * 2, [], [[0, 1]]), "upload"),
    "the model in use": lambda x: text.chip(x, CALIBRATION, {1: 0.1}, is_kept=False, threshold_moved=True),
    "a compared picture": lambda x: text.compared(x, [COMPARED | {"model": "a", "fit_seconds": 1}]),
    "a compared model": lambda x: text.compared("picture", [COMPARED | {"model": x, "fit_seconds": 1}]),
    "a headline": text.headline,
    "a picture judged differently": lambda x: text.differences([(x, x, [(x, "data:,", "✓", "found", x)])]),
    "models on a test set": lambda x: paired.summary(x, 2 * [SIDE | {"model": x}], VERDICTS, (x,)),
    "a model's category": lambda x: text.hub_model(HUB_ROW | {"reference": "a/b", "category": x}),
    "a model's licence": lambda x: text.hub_model(HUB_ROW | {"reference": "a/b", "licence": x}),
    "a reference": lambda x: text.hub_model(HUB_ROW | {"reference": x}),
    "a card's name": lambda x: text.model_cards({x: HUB_ROW}, {}),
    "a card's category": lambda x: text.model_cards({"a/b": HUB_ROW | {"category": x}}, {}),
    "what a card was measured on": lambda x: text.model_cards(
        {"a/b": HUB_ROW | {"image_auroc": 1.0, "measured_on": x}}, {}
    ),
    "a saved model": lambda x: text.models([ModelInfo(x, "fapm", x, 1, 1, 1.0, 1.0, "2026-01-01T00:00:00")], ""),
    "when it was saved": lambda x: text.models([ModelInfo("a", "fapm", "FAPM", 1, 1, 1.0, 1.0, x[:16])], ""),
    "a table": lambda x: table([[x, "b"], ["c", x]]),
    "a report": lambda x: report.evaluation_page(
        x,
        [(x, x)],
        [x],
        [],
        [{"name": x, "kind": x, "score": 1.0, "picture": "data:,"}],
        SimpleNamespace(
            threshold=0.5,
            robustness=(),
            at_rates=(),
            pictures=[SimpleNamespace(name=x, kind=x, score=1.0)],
        ),
    ),
}


@pytest.mark.parametrize("place", PLACES)
@given(WORDS)
def test_what_users_write_is_text_and_nothing_else(place, words):
    plain, shown = Parts(PLACES[place]("x")), Parts(PLACES[place](words))
    assert shown.tags == plain.tags
    assert (words[:16] if place == "when it was saved" else words) in shown.written


@given(st.floats(1e-12, 1e6), st.floats(0, 1e-9))
def test_a_score_and_a_threshold_that_differ_look_different(threshold, more):
    score = threshold * (1 + more)
    shown = text.distinct(score, threshold)
    assert (shown[0] == shown[1]) == (score == threshold)
    said = text.verdict("picture", prediction(score=score, threshold=threshold), "model", 9)
    assert ("Defect suspected" in said) == (score > threshold)
    assert ("not exceeded" in said) == (score == threshold)


def test_the_colour_bar_tells_its_ends_apart_however_near_they_are():
    shown = Parts(text.colour_bar(prediction(map_threshold=4.7400005, scale=(4.74, 4.740001)))).written
    assert all(label in shown for label in ("4.74normal", "4.7400005pixel", "4.740001strongly"))


@pytest.mark.parametrize("scores", [(0.0, 0.0), (1e-9, 2e-9), (5.0, 5.0), (1e6, 1e6 + 1)])
def test_the_histogram_shows_scores_of_every_scale(isvd, scores):
    calibration = dataclasses.replace(isvd.calibration_, scores=scores, hand_threshold=scores[1])
    figure = charts.score_histogram(calibration, scores[1])
    low, high = figure.layout.xaxis.range
    assert low < scores[0] <= scores[1] < high
    assert high - low <= max(2 * (scores[1] - scores[0]), 0.01 * abs(scores[1]), 1e-11)
    plotly.io.to_json(figure)


@pytest.mark.parametrize(
    ("mib", "said"),
    [(0, "0 KiB"), (1e-6, "1 KiB"), (0.037, "38 KiB"), (1, "1.0 MiB"), (4.54, "4.5 MiB"), (1240.3, "1,240 MiB")],
)
def test_sizes_are_never_nothing(mib, said):
    assert size_text(mib) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "less than 0.1 s"), (0.2, "about 0.2 s"), (80, "about 80.0 s"), (120, "about 2.0 min"), (7200, "about 2.0 h")],
)
def test_an_estimate_says_how_long(seconds, said):
    shown = Parts(text.estimate(Estimate(4, 4, seconds, 200.0, 400.0, 0.02, ""))).written
    assert f"time{said}peak" in shown
    assert "20 KiB" in shown


@dataclasses.dataclass(frozen=True)
class Some(Options):
    crop: int | None = option(None, "Cut.", minimum=32)
    share: float | None = option(None, "How much.", minimum=0.05)
    count: int = option(4, "How many.", minimum=1)


def test_a_number_that_may_be_missing_is_an_empty_field():
    fields = dataclasses.fields(Some)
    controls = [options.control(field) for field in fields]
    assert [control.value for control in controls] == [None, None, 4]
    assert ["0 or empty: none." in control.info for control in controls] == [True, True, False]
    assert options.changed(fields, [None, 0, 4]) == {}
    assert options.changed(fields, [64, 0.1, 1]) == {"crop": 64, "share": 0.1, "count": 1}
    # What is half written is no error of Gradio's; the option itself says what is wrong with it.
    assert [control.preprocess(6) for control in controls] == [6, 6, 6]

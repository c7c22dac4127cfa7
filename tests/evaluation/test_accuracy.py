"""A fitted detector on labelled pictures, judged at a threshold, and the report of it."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import admodels
from admodels.evaluation import datasets, report
from admodels.evaluation.accuracy import evaluate, measure
from admodels.evaluation.metrics import rate_interval
from demo.view import charts, text


@pytest.fixture(scope="module")
def measured(isvd, example):
    return measure(isvd, example.test)


def test_the_figures_are_those_of_the_scores(isvd, example, measured):
    scores = [p.score for p in isvd.predict_batch([item.path for item in example.test])]
    labels = [item.is_defective for item in example.test]
    assert measured.scores == pytest.approx(scores, rel=1e-5)
    assert measured.image_auroc == pytest.approx(roc_auc_score(labels, measured.scores))
    assert [picture.kind for picture in measured.pictures] == [item.kind for item in example.test]
    assert 0 < measured.aupro <= 1


def test_each_rate_is_judged_by_the_threshold_that_the_model_sets_for_it(isvd, example, measured):
    paths = [item.path for item in example.test]
    assert [row.rate for row in measured.at_rates] == [0.01, 1 / 25, 0.05, 0.1]  # from 24 held-out normals
    assert measured.at_rates[0].n_found is None
    for row in measured.at_rates[1:]:
        alarms = np.array([p.is_anomalous for p in isvd.with_threshold(false_alarm_rate=row.rate).predict_batch(paths)])
        assert (row.n_found, row.n_defective) == (alarms[measured.labels].sum(), 8)
        assert (row.n_false_alarms, row.n_good) == (alarms[~measured.labels].sum(), 12)
    strict = measured.judged(isvd.with_threshold(threshold=1e9).calibration_)
    assert strict.detection_rate == 0
    assert strict.at_rates == measured.at_rates


def test_another_threshold_needs_no_new_scores(isvd, measured):
    middle = float(np.median(measured.scores))
    judged = measured.judged(isvd.with_threshold(threshold=middle).calibration_)
    alarms = measured.scores > middle
    assert judged.false_alarm_rate == alarms[~measured.labels].mean()
    assert judged.detection_rate == alarms[measured.labels].mean()
    assert judged.image_auroc == measured.image_auroc
    for row in judged.robustness:
        flips = (np.array(row.before) > middle) != (np.array(row.after) > middle)
        assert row.n_new_alarms + row.n_lost_alarms == flips.sum()
    wrong = judged.mistakes(99)
    assert sorted(wrong) == np.flatnonzero(alarms != measured.labels).tolist()
    distances = [abs(measured.scores[i] - middle) for i in wrong]
    assert distances == sorted(distances, reverse=True)


def test_masks_of_another_shape_are_refused_before_anything_is_scored(isvd, specks, tmp_path, monkeypatch):
    Image.new("L", (64, 80), 255).save(tmp_path / "odd_mask.png")
    (tmp_path / "cut_mask.png").write_bytes(specks.test[1].masks[0].read_bytes()[:40])
    test = [
        datasets.TestImage(specks.test[0].path, "speck", (tmp_path / "odd_mask.png",)),
        datasets.TestImage(specks.test[1].path, "speck", (tmp_path / "cut_mask.png",)),
    ]
    monkeypatch.setattr(type(isvd.method), "encode", lambda *_: pytest.fail("scored before the masks were looked at"))
    said = r"2 masks cannot be used.*\n.*odd_mask\.png is 64×80 px, its picture .* 128×128 px.*\n.*cut_mask\.png"
    with pytest.raises(admodels.DataError, match=said):
        measure(isvd, test)
    data = datasets.Dataset(tmp_path, specks.train, test, "MVTec AD or LOCO")
    with pytest.raises(admodels.DataError, match="2 masks cannot be used"):
        evaluate(admodels.create("padim_isvd", device="cpu"), data)


def test_one_kind_only_has_no_auroc_but_a_rate(isvd, example):
    good = [item for item in example.test if not item.is_defective]
    only = measure(isvd, good)
    assert only.image_auroc is None
    assert only.detection_rate is None
    alarms = [prediction.is_anomalous for prediction in isvd.predict_batch([item.path for item in good])]
    assert only.false_alarm_rate == np.mean(alarms)
    assert "–" in dict(text.accuracy_facts(only)).values()
    assert charts.roc(only).layout.annotations[0].text.startswith("needs good and defective")


def test_the_charts_hold_every_picture_and_the_current_threshold(isvd, measured):
    histogram = charts.score_histogram(isvd.calibration_, accuracy=measured)
    assert [sum(bar.y) for bar in histogram.data] == [24, 12, 8]
    curve, point = charts.roc(measured).data
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert (point.x[0], point.y[0]) == (measured.false_alarm_rate, measured.detection_rate)


def test_the_interval_of_a_rate_is_that_of_the_beta_distribution():
    from scipy.stats import beta

    assert rate_interval(3, 24) == pytest.approx((beta.ppf(0.025, 3, 22), beta.ppf(0.975, 4, 21)))
    assert rate_interval(0, 12)[0] == 0


def test_the_page_needs_no_other_file(isvd, example, measured, browser, tmp_path):
    strict = measured.judged(isvd.with_threshold(threshold=1e9).calibration_)  # misses everything
    found = report.mistakes(isvd, example.test, strict, 3)
    figures = [charts.score_histogram(isvd.calibration_, accuracy=measured), charts.roc(measured)]
    html = report.evaluation_page("<b>mine</b>", text.accuracy_facts(strict), ["said"], figures, found, strict)
    (tmp_path / "evaluation.html").write_text(html, encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "evaluation.html").as_uri())
    page.wait_for_selector(".plotly .main-svg")
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.locator("h1").inner_text() == "<b>mine</b>"
    assert page.locator("figure").count() == 3
    row = page.locator("tr", has_text="10 %").filter(has_text="of 8").first
    assert f"{strict.at_rates[-1].n_found} of 8" in row.inner_text()
    assert "1 % takes 99 good pictures kept aside; there are 24" in page.locator("body").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()

"""The contract, over every registered detector."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import admodels
from admodels.core.calibration import HeldOutScores, split_folds, split_held_out
from admodels.pictures.images import decode, inspect_set
from admodels.runtime.backbones import Backbone
from tests.conftest import DEVICE, SMALL, first_step


def new(method, **options):
    return admodels.create(method, device=DEVICE, **(SMALL[method] | options))


def counts(detector):
    """How many of the 24 normals are learned from and held out."""
    return (24, 24) if detector.method.folds_by_default else (19, 5)


methods = pytest.mark.parametrize("method", sorted(admodels.DETECTORS))


@methods
def test_unfitted_says_so(method, normals, tmp_path):
    detector = new(method)
    for call in (
        lambda: detector.predict(normals[0]),
        lambda: detector.predict_batch(normals[:2]),
        lambda: detector.update(normals),
        lambda: admodels.save(detector, "unfitted"),
    ):
        with pytest.raises(admodels.NotFittedError, match="Call fit"):
            call()


def test_the_registry_names_itself():
    for key, cls in admodels.DETECTORS.items():
        assert cls.key == key
        assert cls.title
        assert cls.summary
        assert cls.Config is not admodels.DetectorConfig


def test_the_library_imports_no_gradio():
    code = "import sys, admodels, admodels.__main__; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@methods
def test_misspelt_and_wrong_options_are_refused(method):
    with pytest.raises(admodels.OptionError, match="Did you mean 'image_size'"):
        admodels.create(method, image_sise=128)
    with pytest.raises(admodels.OptionError, match="from 64 to"):
        admodels.create(method, image_size=8)
    with pytest.raises(admodels.OptionError, match="expected true or false"):
        admodels.create(method, keep_aspect="maybe")
    with pytest.raises(admodels.OptionError, match="larger than image_size"):
        admodels.create(method, image_size=64, crop=128)
    with pytest.raises(admodels.OptionError, match="expected one of auto"):
        admodels.create(method, device="tpu")
    with pytest.raises(admodels.OptionError, match=method):
        admodels.create("no_such_method")


def test_defective_pictures_score_higher(fitted, specks):
    good = [p.score for p in fitted.predict_batch(specks.train)]
    bad = [p.score for p in fitted.predict_batch([item.path for item in specks.test])]
    assert np.mean(bad) > np.mean(good)


def test_the_map_has_the_pictures_size_and_points_at_the_defect(fitted, specks):
    from admodels.evaluation.datasets import read_mask

    item = specks.test[0]
    prediction = fitted.predict(item.path)
    mask = read_mask(item.masks)
    assert prediction.anomaly_map.shape == mask.shape
    assert prediction.anomaly_map.dtype == np.float32
    assert prediction.mask.dtype == bool
    assert prediction.anomaly_map[mask].mean() > prediction.anomaly_map[~mask].mean()


def test_pictures_of_any_size_are_taken(fitted, rng):
    for height, width in ((16, 16), (31, 200), (300, 50)):
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert fitted.predict(picture).anomaly_map.shape == (height, width)


def test_held_out_p_values_are_consistent(fitted, normals):
    calibration = fitted.calibration_
    assert len(calibration.scores) == fitted.fit_report_.n_held_out
    assert (fitted.fit_report_.n_learned, fitted.fit_report_.n_held_out) == counts(fitted)
    assert calibration.n_folds == fitted.fit_report_.n_folds == (5 if fitted.method.folds_by_default else 0)
    assert ("each once, in 5 folds" in calibration.statement) == fitted.method.folds_by_default
    prediction = fitted.predict(normals[0])
    assert prediction.p_value == calibration.p_value(prediction.score)
    assert prediction.threshold == calibration.threshold == pytest.approx(max(calibration.scores), rel=1e-3)
    assert prediction.threshold > max(calibration.scores)
    assert prediction.is_anomalous == (prediction.score > prediction.threshold)


def test_fitting_again_gives_the_same_model(fitted, normals):
    again = new(fitted.key).fit(normals)
    assert again.state_.keys() == fitted.state_.keys()
    for name, tensor in fitted.state_.items():
        assert torch.equal(again.state_[name], tensor), name
    assert again.calibration_ == fitted.calibration_
    other = new(fitted.key).fit(normals, seed=1)
    assert other.calibration_ != fitted.calibration_


@methods
def test_a_picture_has_one_verdict_alone_and_among_others(method, normals):
    """The held-out picture that sets the threshold too: its score differs by rounding. It is not learned from here."""
    detector = new(method, precision="float32")
    detector.method.learns_held_out = False
    detector.fit(normals, n_folds=0)
    alone = [detector.predict(path) for path in normals]
    together = detector.predict_batch(normals)
    assert [p.is_anomalous for p in alone] == [p.is_anomalous for p in together]
    _, held_out = split_held_out(list(range(len(normals))), 0.2, 0)
    assert not any(alone[i].is_anomalous or together[i].is_anomalous for i in held_out)
    assert not any(alone[i].mask.any() or together[i].mask.any() for i in held_out)


def test_batch_and_single_agree(fitted, specks):
    paths = [item.path for item in specks.test]
    together = fitted.predict_batch(paths)
    for path, prediction in zip(paths, together, strict=True):
        alone = fitted.predict(path)
        assert prediction.score == pytest.approx(alone.score, rel=1e-3)
        np.testing.assert_allclose(prediction.anomaly_map, alone.anomaly_map, rtol=1e-2, atol=1e-2)


def test_predict_is_safe_from_threads_and_leaves_the_detector_alone(fitted, specks):
    paths = [item.path for item in specks.test] * 3
    before = dict(vars(fitted))
    expected = [fitted.predict(p).score for p in paths]
    with ThreadPoolExecutor(8) as pool:
        assert [p.score for p in pool.map(fitted.predict, paths)] == expected
    assert vars(fitted) == before


def test_saving_and_loading_keeps_every_score_bit_for_bit(fitted, specks):
    admodels.save(fitted, f"local:same-{fitted.key}", overwrite=True)
    loaded = admodels.load(f"same-{fitted.key}", device=DEVICE)
    assert loaded.calibration_ == fitted.calibration_
    assert loaded.fit_report_ == fitted.fit_report_
    for item in specks.test:
        a, b = fitted.predict(item.path), loaded.predict(item.path)
        assert a.score == b.score
        assert np.array_equal(a.anomaly_map, b.anomaly_map)


@methods
def test_with_folds_every_score_is_from_a_model_that_did_not_learn_from_it(method, normals):
    """Done again by hand: a model for each fold from the others, and the final one from all."""
    pictures = [*normals[:9], normals[0]]
    detector = new(method).fit(pictures, n_folds=3, seed=4)
    folds = split_folds([*range(9), 0], 3, 4)
    assert next(fold for fold in folds if 0 in fold).count(9) == 1, "a copy left its original"
    batch = np.stack([detector.working_shape_.prepare(decode(p).pixels) for p in pictures])
    encoded = detector.method.encode(torch.from_numpy(batch))

    def learn(positions):
        learner = detector.method.learner(detector.working_shape_, len(positions))
        learner.add([m[positions] for m in encoded])
        return learner.finish()

    scores = []
    with torch.inference_mode():
        for fold in folds:
            state = learn([i for i in range(10) if i not in fold])
            scorer = detector.method.scorer(state, detector.working_shape_)
            scores += scorer([m[fold] for m in encoded]).scores.tolist()
        whole = learn(list(range(10)))
    assert detector.calibration_.scores == pytest.approx(sorted(scores), rel=1e-3)
    assert detector.calibration_.n_folds == 3
    by_hand = dict(zip([i for fold in folds for i in fold], scores, strict=True))
    assert dict(detector.held_out_) == pytest.approx(by_hand, rel=1e-3)
    assert [score for _, score in detector.held_out_] == sorted(detector.calibration_.scores, reverse=True)
    for name, tensor in whole.items():
        torch.testing.assert_close(detector.state_[name], tensor, rtol=1e-3, atol=1e-3)


@methods
def test_without_folds_held_out_pictures_are_scored_and_then_learned_part_by_part(method, normals):
    """Done again by hand; where a method does not learn from them, all are scored by the first model."""
    detector = new(method, **first_step(method)).fit(normals[:14], n_folds=0, seed=4)
    learned, held_out = split_held_out(list(range(14)), 0.2, 4)
    shape, learns = detector.working_shape_, detector.method.learns_held_out
    state, scores, maps = detector.method.learn(shape, [normals[i] for i in learned], None), [], []
    for part in (held_out[:1], held_out[1:2], held_out[2:3], held_out[3:]) if learns else (held_out,):
        batch = np.stack([shape.prepare(decode(normals[i]).pixels) for i in part])
        with torch.inference_mode():
            encoded = detector.method.encode(torch.from_numpy(batch))
            scored = detector.method.scorer(state, shape)(encoded)
            scores, maps = scores + scored.scores.tolist(), [*maps, *scored.maps]
            if learns:
                learner = detector.method.learner(shape, len(part), state)
                learner.add(encoded)
                state = learner.finish()
    report, later = detector.fit_report_, 5 * learns
    assert (report.n_learned, report.n_held_out, report.n_learned_later) == (len(learned) + later, 5, later)
    assert detector.calibration_.scores == pytest.approx(sorted(scores), rel=1e-3)
    assert dict(detector.held_out_) == pytest.approx(dict(zip(held_out, scores, strict=True)), rel=1e-3)
    for name, tensor in state.items():
        torch.testing.assert_close(detector.state_[name], tensor, rtol=1e-3, atol=1e-3)
    for i, score, by_hand in zip(held_out, scores, maps, strict=True):
        decoded = decode(normals[i])
        said = detector.held_out_prediction(i, decoded)
        assert said.score == pytest.approx(score, rel=1e-3)
        wanted = shape.to_original(by_hand, decoded.pixels.shape[:2])
        np.testing.assert_allclose(said.anomaly_map, wanted, rtol=1e-3, atol=1e-3)
    assert detector.held_out_prediction(learned[0], decode(normals[learned[0]])) is None


def test_the_maps_of_the_most_unusual_good_pictures_are_kept_and_no_others(monkeypatch):
    monkeypatch.setattr("admodels.core.calibration.N_KEPT_MAPS", 3)
    found, rng = HeldOutScores(), np.random.default_rng(0)
    scores, maps = torch.from_numpy(rng.permutation(20.0 + np.arange(20))), torch.from_numpy(rng.random((20, 2, 2)))
    for part in (slice(0, 1), slice(1, 8), slice(8, 20)):
        found.add(scores[part], maps[part])
    assert sorted(found.maps) == sorted(scores.argsort(descending=True)[:3].tolist())
    for i, kept in found.maps.items():
        assert torch.equal(kept, maps[i])


def test_a_defective_picture_among_the_good_ones_is_the_most_unusual(normals, specks):
    bad = max(specks.test, key=lambda item: new("padim").fit(normals).predict(item.path).score).path
    for place in (0, 7):
        detector = new("padim").fit([*normals[:place], bad, *normals[place:]])
        assert detector.held_out_[0][0] == place


@methods
def test_one_split_where_asked_or_where_there_are_many(method, normals, monkeypatch):
    detector = new(method).fit(normals, n_folds=0)
    n_learned = 24 if detector.method.learns_held_out else 19
    assert detector.fit_report_.n_learned == n_learned
    monkeypatch.setattr("admodels.core.fitting.MAX_CROSS_IMAGES", 20)
    report = new(method).fit(normals).fit_report_
    assert (report.n_learned, report.n_held_out, report.n_folds) == (n_learned, 5, 0)
    monkeypatch.undo()
    # Pictures so large that keeping them would not do.
    monkeypatch.setattr("admodels.core.fitting.MAX_KEPT_BYTES", 10_000)
    assert new(method).fit(normals).fit_report_.n_folds == 0
    with pytest.raises(admodels.OptionError, match="n_folds is 1"):
        new(method).fit(normals, n_folds=1)


@methods
def test_progress_is_told_and_cancelling_changes_nothing(method, normals):
    seen = []
    detector = new(method).fit(normals, on_progress=seen.append)
    assert {"learning", "setting the threshold"} <= {p.stage for p in seen}
    for stage in {p.stage for p in seen}:
        done = [p.done for p in seen if p.stage == stage]
        assert done == sorted(done)
        assert done[-1] == next(p.total for p in seen if p.stage == stage)
    state, calibration = detector.state_, detector.calibration_

    def stop(progress):
        raise admodels.Cancelled("enough")

    with pytest.raises(admodels.Cancelled):
        detector.fit(normals[:10], on_progress=stop)
    assert detector.state_ is state
    assert detector.calibration_ is calibration


def test_another_threshold_needs_no_fit_and_leaves_the_detector_alone(fitted, specks):
    path = specks.test[0].path
    before = fitted.predict(path)
    strict = fitted.with_threshold(threshold=before.score + 1)
    assert not strict.predict(path).is_anomalous
    assert strict.predict(path).score == before.score
    assert strict.state_ is fitted.state_
    many = fitted.with_threshold(false_alarm_rate=0.5)
    assert np.mean(np.array(many.calibration_.scores) > many.calibration_.threshold) == pytest.approx(0.5, abs=0.11)
    assert fitted.predict(path).threshold == before.threshold
    for wrong in ({}, {"threshold": 1.0, "false_alarm_rate": 0.1}, {"false_alarm_rate": 2.0}):
        with pytest.raises(admodels.OptionError):
            fitted.with_threshold(**wrong)


@methods
def test_update_learns_without_starting_again(method, normals, specks):
    first, second = normals[:14], normals[14:]
    detector = new(method).fit(first)
    n_scores = len(detector.calibration_.scores)
    detector.update(second)
    twice = len(first) if detector.method.folds_by_default else 0  # learned from and held out
    twice += detector.fit_report_.n_learned_later
    assert detector.fit_report_.n_learned + detector.fit_report_.n_held_out == len(normals) + twice
    assert detector.calibration_.n_before_update == n_scores
    assert len(detector.calibration_.scores) > n_scores
    bad = np.mean([p.score for p in detector.predict_batch([item.path for item in specks.test])])
    good = np.mean([p.score for p in detector.predict_batch(normals)])
    assert bad > good


@methods
def test_a_single_good_picture_is_scored_and_then_learned(method, normals, specks):
    detector = new(method).fit(normals[:14])
    before = detector.calibration_
    image = specks.test[0].path
    score = detector.predict(image).score
    if not detector.method.learns_held_out:  # a network is not trained on one picture
        with pytest.raises(admodels.OptionError, match="at least 4"):
            detector.update([image])
        assert detector.calibration_ is before
        return
    detector.update([image, image])  # a copy says nothing new
    assert (detector.fit_report_.n_learned, detector.fit_report_.n_held_out) == (15, 15)
    assert len(detector.calibration_.backgrounds) == len(before.backgrounds) + 1
    (added,) = set(detector.calibration_.scores) - set(before.scores)
    assert added == pytest.approx(score, rel=1e-4)
    assert detector.predict(image).score < score


@methods
def test_bad_pictures_and_too_few_stop_a_fit_with_their_names(method, normals):
    with pytest.raises(admodels.ImageSetError) as caught:
        new(method).fit([*normals[:8], b"", b"text"])
    assert [e.picture for e in caught.value.errors] == ["picture 9", "picture 10"]
    with pytest.raises(admodels.OptionError, match="at least 4"):
        new(method).fit(normals[:3])
    for none in ([], (path for path in ()), inspect_set([])):
        with pytest.raises(admodels.DataError, match="no pictures were given"):
            new(method).fit(none)
    with pytest.raises(admodels.DataError, match="no pictures were given"):
        new(method).estimate(inspect_set([]))
    with pytest.raises(admodels.OptionError, match="false_alarm_rate"):
        new(method).fit(normals, false_alarm_rate=1.5)


@pytest.mark.parametrize("method", ["fapm", "padim", "padim_isvd", "patchcore", "tiled"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("n_folds", [0, 2])
def test_a_network_that_overflows_gives_an_error_and_no_model(method, value, n_folds, normals, monkeypatch):
    real = Backbone.features

    def broken(self, batch):
        maps = real(self, batch)
        maps[-1][-1, 0, 0, 0] = value
        return maps

    detector = new(method).fit(normals[:8])
    state = detector.state_
    monkeypatch.setattr(Backbone, "features", broken)
    with pytest.raises(admodels.TrainingError, match=r"not finite\. Use precision=float32"):
        detector.fit(normals[:8], n_folds=n_folds)
    assert detector.state_ is state
    with pytest.raises(admodels.AdmodelsError, match="not finite"):
        detector.predict(normals[0])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("padim", {}),
        ("padim_isvd", {"solver": "svd"}),
        ("padim_isvd", {"solver": "eigh", "incremental": False}),
        ("padim_isvd", {"solver": "svd", "incremental": False}),
    ],
)
def test_a_decomposition_that_fails_says_what_to_do(method, options, normals, monkeypatch):
    def fail(*_, **__):
        raise torch.linalg.LinAlgError("did not converge")

    for name in ("cholesky", "svd", "eigh"):
        monkeypatch.setattr(torch.linalg, name, fail)
    detector = new(method, **options)
    with pytest.raises(admodels.TrainingError, match=r"cannot be decomposed \(did not converge\)\. \w+ "):
        detector.fit(normals[:8])
    assert not detector.is_fitted


@methods
def test_exact_copies_are_reported(method, normals):
    detector = new(method).fit([*normals[:10], normals[0], normals[0]])
    assert detector.fit_report_.n_duplicates == 2


@methods
def test_a_crop_is_marked_as_unscored(method, normals):
    detector = new(method, image_size=128, crop=64, keep_aspect=False).fit(normals[:10])
    prediction = detector.predict(normals[0])
    size = decode(normals[0]).pixels.shape[:2]
    assert prediction.anomaly_map.shape == size
    assert np.isnan(prediction.anomaly_map[0]).all()
    assert np.isfinite(prediction.anomaly_map[size[0] // 2, size[1] // 2])
    assert not prediction.mask[0].any()


@methods
def test_pictures_that_are_not_square_keep_their_aspect(method, rng):
    wide = [rng.integers(0, 256, (60, 120, 3), dtype=np.uint8) for _ in range(6)]
    detector = new(method, image_size=128).fit(wide)
    assert detector.working_shape_.resized == (96, 192)
    assert detector.predict(wide[0]).anomaly_map.shape == (60, 120)


@methods
def test_the_estimate_knows_size_and_counts(method, normals):
    detector = new(method)
    estimate = detector.estimate(inspect_set(normals))
    detector.fit(normals)
    assert estimate.model_mib == pytest.approx(detector.model_mib, rel=0.5)
    assert (estimate.n_learned, estimate.n_held_out) == counts(detector)
    split = detector.estimate(inspect_set(normals), n_folds=0)
    assert (split.n_learned, split.n_held_out) == (24 if detector.method.learns_held_out else 19, 5)
    assert estimate.seconds > 0
    assert estimate.available_mib > estimate.peak_memory_mib > estimate.model_mib
    assert estimate.warning is None


@methods
def test_a_fit_that_would_not_fit_in_memory_is_warned_of(method, normals, monkeypatch):
    monkeypatch.setattr("admodels.core.planning.available_mib", lambda device: 100.0)
    warning = new(method).estimate(inspect_set(normals)).warning
    assert "only 100 MiB are free" in warning
    assert "lower" in warning
    assert any(field in warning for field in vars(new(method).config))

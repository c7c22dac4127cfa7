"""EfficientAD's own equations, its training, and what has broken other implementations."""

import dataclasses
import gc
import io
import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import admodels
from admodels.efficientad import EfficientAd, training
from admodels.efficientad import method as method_module
from admodels.efficientad.networks import FIRST_MIDDLE, STRIDE, Pdn, normalised, output_size
from admodels.efficientad.schedule import SCHEDULE
from admodels.efficientad.step import Trainer, rate_factor, recoloured
from admodels.efficientad.training import QUANTILES, squared_differences
from admodels.pictures.images import decode, inspect_set
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime import graphs
from admodels.runtime.quiet import fitting
from admodels.training import budget
from tests.conftest import DEVICE, SMALL
from tests.runtime.test_graphs import Recorder

OPTIONS = SMALL["efficientad"]
SHAPE = WorkingShape((64, 64), (64, 64))


def new(**options):
    return admodels.create("efficientad", device=DEVICE, **(OPTIONS | options))


@pytest.fixture(scope="module", params=["auto", "published"])
def ead(request, normals):
    return new(max_steps=12, precision="float32", scoring=request.param).fit(normals)


def test_the_maps_are_the_papers_formulas(ead, specks):
    state, shape = ead.state_, ead.working_shape_
    pixels = shape.prepare(decode(specks.test[0].path).pixels).copy()
    x = normalised(torch.from_numpy(pixels)[None])
    networks = ead.fitted_.scorer.networks
    with torch.no_grad():
        t, s, a = (network(x)[0].double().numpy() for network in networks)
    n = len(t)
    t = (t - state["mean"].numpy()[:, None, None]) / state["std"].numpy()[:, None, None]
    apart = t - s[:n]
    if ead.config.scoring != "published":
        apart = np.einsum("dc,chw->dhw", state["whitening"].double().numpy(), apart)
    local, whole = (apart**2).mean(0), ((a - s[n:]) ** 2).mean(0)
    (qa, qb), (ra, rb) = state["quantiles"].double().numpy()
    weights = state["map_weights"].numpy()
    expected = weights[0] * 0.1 * (local - qa) / (qb - qa) + weights[1] * 0.1 * (whole - ra) / (rb - ra)
    scores, maps = ead.score_batch(torch.from_numpy(pixels)[None])
    n_largest = 1 if ead.config.scoring == "published" else round(0.01 * maps[0].numel())
    assert float(scores[0]) == pytest.approx(float(maps.flatten().sort().values[-n_largest:].mean()), rel=1e-5)
    for i in range(local.shape[0]):
        for j in range(local.shape[1]):  # at the middles of the patches stand the networks' own values
            y, x_ = i * STRIDE + FIRST_MIDDLE - 0.5, j * STRIDE + FIRST_MIDDLE - 0.5
            assert y == int(y)
            assert float(maps[0, int(y), int(x_)]) == pytest.approx(expected[i, j], rel=1e-3, abs=1e-4)


def test_local_and_global_map_can_be_looked_at_apart(ead, specks):
    prediction = ead.predict(specks.test[0].path)
    assert list(prediction.parts) == ["local", "global"]
    weights = ead.state_["map_weights"].tolist()
    together = weights[0] * prediction.parts["local"] + weights[1] * prediction.parts["global"]
    assert prediction.anomaly_map == pytest.approx(together, rel=1e-4, abs=1e-5)


def test_the_quantiles_are_exact_over_pictures_not_trained_on(normals, monkeypatch):
    seen = []
    original = training.on_kept

    def spy(trainer, pictures, mean, std, whitening):
        found, explained = original(trainer, pictures, mean, std, whitening)
        with torch.no_grad():
            maps = [
                squared_differences(*trainer.networks.descriptions(p[None], mean, std, torch.float32), whitening)
                for p in pictures
            ]
        seen.append((found, [np.concatenate([m[i].numpy().ravel() for m in maps]) for i in range(2)], len(pictures)))
        return found, explained

    monkeypatch.setattr(training, "on_kept", spy)
    new(max_steps=2, precision="float32").fit(normals)
    ((found, values, n),) = seen
    assert n == 2
    for row, v in zip(found, values, strict=True):
        ordered = np.sort(v)
        for quantile, value in zip(QUANTILES, row.tolist(), strict=True):
            position = quantile * (len(ordered) - 1)
            below = ordered[int(position)]
            assert value == pytest.approx(below + (position % 1) * (ordered[int(position) + 1] - below), rel=1e-5)


def test_on_good_pictures_whitened_differences_are_alike_in_all_directions(ead, normals):
    """WᵀW is the inverse of M with the ridge, M the mean of both groups' moments, of whatever size they are."""
    shape, state = ead.working_shape_, ead.state_
    trainer = ead.method.learner(shape, len(normals), state).trainer
    pictures = torch.from_numpy(np.stack([shape.prepare(decode(path).pixels) for path in normals]))
    mean, std = (state[name][None, :, None, None] for name in ("mean", "std"))
    whitening = training.whitening_of(trainer, (pictures[:2], pictures[2:]), mean, std).cpu().double().numpy()
    moments = 0.0
    for group in (pictures[:2], pictures[2:]):
        with torch.no_grad():
            taught, student, _ = trainer.networks.descriptions(group, mean, std, torch.float32)
        apart = (taught - student[:, : taught.shape[1]]).permute(1, 0, 2, 3).flatten(1).cpu().double().numpy()
        moments = moments + apart @ apart.T / apart.shape[1] / 2  # (C, C)
    ridge = np.trace(moments) / len(moments)
    expected = np.linalg.inv(moments + ridge * np.eye(len(moments)))
    np.testing.assert_allclose(whitening.T @ whitening, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
    alike = np.linalg.eigvalsh(whitening @ moments @ whitening.T)
    assert alike.min() > 0
    assert alike.max() < 1


@pytest.mark.parametrize("scoring", ["auto", "whitened", "published"])
def test_a_long_training_scores_as_published_unless_asked_otherwise(scoring, normals, monkeypatch):
    monkeypatch.setattr(method_module, "SCHEDULE", replace(SCHEDULE, long=3))
    for n_steps in (2, 3):
        state = new(max_steps=n_steps, scoring=scoring).fit(normals).state_
        if scoring == "published":
            assert "whitening" not in state
            continue
        whitened = scoring == "whitened" or n_steps < 3
        assert float(state["top_ratio"]) == pytest.approx(0.01 if whitened else 0.0)
        assert bool((state["whitening"].cpu() == torch.eye(len(state["mean"]))).all()) != whitened


def test_training_learns(normals):
    losses = []
    new(max_steps=25, batch_size=2).fit(
        normals, on_progress=lambda p: losses.append(p.loss) if p.stage == "training" and p.done else None
    )
    assert len(losses) == 25
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"penalty_images": "none"}, {"penalty_images": "generated"}])
def test_options_of_the_training(normals, specks, options):
    detector = new(**options).fit(normals)
    assert np.isfinite(detector.predict(specks.test[0].path).score)


def test_penalty_images_may_be_a_folder(normals):
    assert new(penalty_images=str(normals[0].parent)).fit(normals[:8]).is_fitted
    with pytest.raises(admodels.OptionError, match="not a folder"):
        new(penalty_images="no-such-folder").fit(normals[:8])


def test_enough_keeps_what_was_trained(normals, specks):
    def on_progress(progress):
        if progress.stage == "training" and progress.done == 3:
            raise admodels.Enough("that will do")

    detector = new(max_steps=1000).fit(normals, on_progress=on_progress)
    assert detector.details()["training"] == "3 steps"
    assert len(detector.calibration_.scores) == 5
    assert np.isfinite(detector.predict(specks.test[0].path).anomaly_map).all()


def paused_after(n_steps, detector, pictures, checkpoint=None):
    """The checkpoint of a fit that was paused there, written and read as for another process."""

    def on_progress(progress):
        if progress.stage == "training" and progress.done == n_steps:
            raise admodels.Pause("later")

    with pytest.raises(admodels.Pause) as paused:
        detector.fit(pictures, on_progress=on_progress, checkpoint=checkpoint)
    assert not detector.is_fitted
    written = io.BytesIO()
    torch.save(paused.value.checkpoint, written)
    written.seek(0)
    return torch.load(written, weights_only=True)


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_a_paused_training_goes_on_to_the_same_model(normals, monkeypatch, long):
    if long:  # with changed colours, and unrelated pictures that are replaced
        monkeypatch.setattr(method_module, "SCHEDULE", replace(SCHEDULE, long=2))
        monkeypatch.setattr(training, "STEPS_BETWEEN_PENALTIES", 3)
    n = 25  # more than one pass over the pictures
    expected = new(max_steps=n).fit(normals)
    checkpoint = paused_after(2, new(max_steps=n), normals)
    checkpoint = paused_after(21, new(max_steps=n), normals, checkpoint)
    for _ in range(2):  # a checkpoint is not used up
        detector = new(max_steps=n).fit(normals, checkpoint=checkpoint)
        assert detector.state_.keys() == expected.state_.keys()
        assert all(torch.equal(detector.state_[name], tensor) for name, tensor in expected.state_.items())
        assert detector.calibration_ == expected.calibration_
    # Paused after its last step, it is calibrated without another one.
    checkpoint = paused_after(n, new(max_steps=n), normals)
    assert new(max_steps=n).fit(normals, checkpoint=checkpoint).calibration_ == expected.calibration_


def test_a_paused_training_keeps_its_schedule_and_its_time(normals, monkeypatch):
    checkpoint = paused_after(2, new(max_steps=None, max_minutes=0.2), normals)
    assert 0 < checkpoint["seconds"] < checkpoint["max_seconds"] < 12
    monkeypatch.setattr(method_module.EfficientAd, "budget", lambda *_: None)  # it was measured where it began
    rates = []
    monkeypatch.setattr(training, "rate_factor", lambda done, long: rates.append(done) or rate_factor(done, long))
    checkpoint["seconds"] = 0.9 * checkpoint["max_seconds"]
    assert new(max_steps=None, max_minutes=0.2, scoring="whitened").fit(normals, checkpoint=checkpoint).is_fitted
    assert rates[0] == pytest.approx(0.9, abs=0.1)


def test_enough_ends_a_paused_training_where_it_stands(normals):
    checkpoint = paused_after(3, new(max_steps=1000), normals)

    def on_progress(progress):
        if progress.stage == "training":
            raise admodels.Enough("that will do")

    detector = new(max_steps=1000).fit(normals, on_progress=on_progress, checkpoint=checkpoint)
    assert detector.details()["training"] == "3 steps"


def test_what_cannot_be_resumed_says_so(normals):
    checkpoint = paused_after(1, new(), normals)
    with pytest.raises(admodels.OptionError, match="EfficientAD in folds cannot be resumed"):
        new().fit(normals, checkpoint=checkpoint, n_folds=2)
    with pytest.raises(admodels.OptionError, match="cannot be resumed"):
        admodels.create("fapm", device=DEVICE, **SMALL["fapm"]).fit(normals, checkpoint=checkpoint)


def test_stopping_before_the_first_step_leaves_nothing(normals):
    def on_progress(progress):
        if progress.stage == "training":
            raise admodels.Cancelled("stopped")

    detector = new()
    with pytest.raises(admodels.Cancelled):
        detector.fit(normals, on_progress=on_progress)
    assert not detector.is_fitted


def test_a_training_ends_with_its_minutes_and_the_rate_falls_to_nothing_by_then(normals, monkeypatch):
    rates, told = [], []
    original = rate_factor
    monkeypatch.setattr(training, "rate_factor", lambda done, long: rates.append(done) or original(done, long))
    detector = new(max_steps=None, max_minutes=0.08).fit(
        normals, on_progress=lambda p: told.append((p.done, p.total)) if p.stage == "training" else None
    )
    n = int(detector.state_["n_steps"])
    assert told[-1] == (n, n)
    assert rates[0] == 0.0
    assert rates == sorted(rates)
    assert rates[-1] < 1.0


def test_a_short_training_ends_before_more_does_harm(normals, monkeypatch):
    monkeypatch.setattr(method_module, "SCHEDULE", replace(SCHEDULE, short_steps=5))
    told = []
    detector = new(max_steps=None, max_minutes=2.0).fit(
        normals, on_progress=lambda p: told.append((p.done, p.total)) if p.stage == "training" else None
    )
    assert detector.details()["training"] == "5 steps"
    assert told[-1] == (5, 5)


def test_minutes_pay_for_all_that_a_fit_does(normals, monkeypatch):
    def seconds(trainer, long):
        return budget.Seconds(step=3.0 if long else 1.0, teacher=0.1, score=0.2)

    monkeypatch.setattr("admodels.efficientad.method.measured_seconds", seconds)
    monkeypatch.setattr(budget, "_SECONDS", {})
    shape = WorkingShape((64, 64), (64, 64))
    cases = [  # options, pictures, steps: 80 pictures cost 6.4 + 0.2 × (16 + 40 + 20) seconds, 40 cost 4 + 0.2 × 58
        ({"max_minutes": 2.0}, 80, int((120 - 6.4 - 15.2 - 8.0) / 1.0)),
        ({"max_minutes": 0.5}, 80, int((30 - 6.4 - 15.2) / 1.1)),
        ({"max_minutes": 0.05}, 80, 1),
        ({"max_minutes": 2.0, "max_steps": 7}, 80, 7),
        ({"max_minutes": 2.0, "batch_size": 4}, 40, int((120 - 4.0 - 11.6 - 4.0) / 1.0)),
        # More than a short training is the better for, unless asked for; enough for 10,000 short steps, not for as many
        # of the paper's; and enough for both.
        ({"max_minutes": 60.0}, 80, 1_500),
        ({"max_minutes": 60.0, "max_steps": 2_000}, 80, 2_000),
        ({"max_minutes": 400.0}, 80, 1_500),
        ({"max_minutes": 600.0}, 80, int((36000 - 6.4 - 15.2 - 8.0) / 3.0)),
    ]
    for options, n, n_steps in cases:
        planned = new(**({"max_steps": None} | options)).method.budget(shape)
        assert planned.n_steps(n) == n_steps
        if "max_steps" not in options and options["max_minutes"] > 0.1:
            spent = 1_500 + 6.4 + 15.2 + 8.0 if n_steps == 1_500 else 60 * options["max_minutes"]
            assert planned.seconds(n) == pytest.approx(spent, abs=3.0)  # a step


def test_the_teacher_describes_every_picture_once(normals, monkeypatch):
    asked = []
    original = Trainer.teacher
    monkeypatch.setattr(Trainer, "teacher", lambda self, p: asked.append(len(p)) or original(self, p))
    new(max_steps=20, batch_size=3).fit(normals)
    n_learned = len(normals) - 5
    assert sum(asked) == n_learned - 2  # two only set the quantiles
    asked.clear()
    monkeypatch.setattr(training, "keepable_bytes", lambda device: 0)
    new(max_steps=4, batch_size=3).fit(normals)
    assert sum(asked) == n_learned - 2 + 12


def held_pictures():
    """Bytes of all pictures in tensors that are alive, each storage once."""
    gc.collect()
    found = [t.untyped_storage() for t in gc.get_objects() if type(t) is torch.Tensor and t.dtype == torch.uint8]
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_training_holds_its_pictures_once(batch_size, rng, monkeypatch):
    """Looked at when the teacher is asked: before the statistics, and after batches were taken out."""
    n, side = 60, 96
    held, calls, original = [], itertools.count(), Trainer.teacher

    def teacher(self, pictures):
        if next(calls) % 15 == 0:  # to look takes long
            held.append(held_pictures())
        return original(self, pictures)

    monkeypatch.setattr(Trainer, "teacher", teacher)
    monkeypatch.setattr(training, "keepable_bytes", lambda device: 0)
    detector, shape = new(image_size=side, max_steps=3, batch_size=batch_size), WorkingShape((side, side), (side, side))
    before = held_pictures()
    learner = detector.method.learner(shape, n)
    for _ in range(0, n, 6):
        learner.add([torch.from_numpy(rng.integers(0, 256, (6, side, side, 3), dtype=np.uint8))])
    learner.finish()
    of_one = 3 * side**2
    assert n * of_one <= max(held) - before <= (n + 2 * batch_size) * of_one


def test_the_learners_bytes_grow_by_a_picture_and_its_features():
    side, detector = 96, new(image_size=96)
    shape = WorkingShape((side, side), (side, side))
    h, w = output_size((side, side))
    sizes = [detector.method.cost(shape, n).learner_bytes for n in (70, 60)]
    assert sizes[0] - sizes[1] == 10 * (3 * side**2 + 2 * detector.method._n_channels() * h * w)


def test_a_limit_that_is_over_before_the_first_step_still_gives_a_model(normals, specks, monkeypatch):
    monkeypatch.setattr(budget.Budget, "end", lambda *_, **__: budget.End(time.perf_counter() - 1))
    told = []
    detector = new(max_steps=None, max_minutes=0.05).fit(
        normals, on_progress=lambda p: told.append((p.done, p.total)) if p.stage == "training" else None
    )
    assert detector.details()["training"] == "1 steps"
    assert told[-1] == (1, 1)
    assert np.isfinite(detector.predict(specks.test[0].path).anomaly_map).all()


def test_a_share_of_nothing_still_gives_a_model(normals, specks):
    config = new(max_steps=None, max_minutes=0.05).config
    detector = admodels.Detector(EfficientAd(config, device=DEVICE, time_share=1e-9))
    assert np.isfinite(detector.fit(normals).predict(specks.test[0].path).anomaly_map).all()


def test_what_is_not_finite_after_the_training_is_no_model(normals, monkeypatch):
    monkeypatch.setattr(training, "on_kept", lambda *_: (torch.full((2, 2), float("nan")), 0.0))
    detector = new(max_steps=2)
    with pytest.raises(admodels.TrainingError, match="diverged at step 2"):
        detector.fit(normals)
    assert not detector.is_fitted


def test_enough_before_the_first_step_is_a_cancellation(normals):
    def on_progress(progress):
        if progress.stage == "training" and progress.loss is None:
            raise admodels.Enough("that will do")

    detector = new()
    with pytest.raises(admodels.Cancelled, match="nothing was learned yet"):
        detector.fit(normals, on_progress=on_progress)
    assert not detector.is_fitted


def test_what_was_measured_beside_another_fit_is_not_kept(monkeypatch):
    measured, began, over = [], threading.Event(), threading.Event()
    seconds = budget.Seconds(1.0, 0.1, 0.1)
    monkeypatch.setattr(budget, "_SECONDS", {})
    monkeypatch.setattr("admodels.efficientad.method.measured_seconds", lambda *_: measured.append(1) or seconds)
    planned = new().method.budget(WorkingShape((64, 64), (64, 64)))

    def another_fit():
        with fitting():
            began.set()
            over.wait()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(another_fit)
        began.wait()
        assert [planned._seconds(False) for _ in range(3)] == [seconds] * 3
        assert len(measured) == 3
        over.set()
        other.result()
    with fitting():  # this thread's own fit is what is measured for
        assert [planned._seconds(False) for _ in range(3)] == [seconds] * 3
    assert len(measured) == 4


def test_more_steps_go_on_where_it_stood(ead, normals):
    detector = new(max_steps=4).fit(normals)
    detector.update(normals)
    assert detector.details()["training"] == "8 steps"


def test_a_training_that_diverges_says_so_and_changes_nothing(normals):
    detector = new(max_steps=30, learning_rate=1.0)
    with pytest.raises(admodels.TrainingError, match=r"diverged at step \d+.*Lower learning_rate"):
        detector.fit(normals)
    assert not detector.is_fitted


def flat(value, n, side=64):
    """Pictures that differ in one pixel only, so that they are no copies."""
    pictures = [np.full((side, side, 3), value, np.uint8) for _ in range(n)]
    for i, picture in enumerate(pictures):
        picture[i, i] = 255 - value
    return pictures


@pytest.mark.parametrize("value", [0, 255])
def test_pictures_without_any_texture_give_no_nan(value):
    detector = new().fit(flat(value, 6))
    prediction = detector.predict(np.full((64, 64, 3), value, np.uint8))
    assert np.isfinite(prediction.anomaly_map).all()
    assert np.isfinite([prediction.score, prediction.threshold, *prediction.scale]).all()


def test_one_picture_and_identical_ones_are_refused_clearly(normals):
    for pictures in ([normals[0]], [normals[0]] * 2, [np.zeros((64, 64, 3), np.uint8)] * 8):
        with pytest.raises(admodels.OptionError, match="at least 4 are needed"):
            new().fit(pictures)


def test_a_model_carries_its_teacher(normals, specks, tmp_path, monkeypatch):
    torch.manual_seed(1)
    path = tmp_path / "mine.pth"
    torch.save(Pdn("small", 16).state_dict(), path)
    detector = new(teacher=str(path)).fit(normals)
    admodels.save(detector, "own-teacher")
    path.unlink()
    loaded = admodels.load("own-teacher", device=DEVICE)
    assert loaded.predict(specks.test[0].path).score == detector.predict(specks.test[0].path).score
    loaded.update(normals[:8])
    assert loaded.is_fitted
    # Where minutes end a training its steps are timed, with the teacher that the model carries.
    config = dataclasses.replace(loaded.config, max_steps=None, max_minutes=0.05)
    timed = admodels.Detector(EfficientAd(config, device=DEVICE), loaded.fitted_)
    monkeypatch.setattr(budget, "_SECONDS", {})
    assert int(timed.update(normals[:8]).state_["n_steps"]) > int(loaded.state_["n_steps"])
    with pytest.raises(admodels.OptionError, match=r"mine\.pth"):  # a new fit reads the file anew
        loaded.fit(normals[:8])
    admodels.delete("own-teacher")


def test_tensors_that_contradict_each_other_are_refused(ead):
    for name, tensor, said in (
        ("std", torch.zeros_like(ead.state_["std"]), "std is not above 0"),
        ("mean", ead.state_["mean"][:-1], "channels"),
        ("quantiles", torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "ascending"),
    ):
        broken = ead.state_ | {name: tensor}
        with pytest.raises(ValueError, match=said):
            ead.method.scorer(broken, ead.working_shape_)


def test_the_papers_schedule_for_long_trainings_and_a_gentle_end_for_short_ones():
    assert [rate_factor(step / 70_000, True) for step in (0, 66_499, 66_500)] == [1.0, 1.0, 0.1]
    short = [rate_factor(step / 200, False) for step in range(200)]
    assert short[0] < 0.2 * max(short)
    assert short[-1] < 0.01 * max(short)
    assert short == sorted(short[: short.index(max(short)) + 1]) + sorted(short[short.index(max(short)) + 1 :])[::-1]


def test_a_long_training_follows_the_paper_and_recolours_what_the_autoencoder_sees(normals, monkeypatch):
    monkeypatch.setattr(method_module, "SCHEDULE", replace(SCHEDULE, long=2))
    calls = []
    original = training.recoloured
    monkeypatch.setattr(training, "recoloured", lambda *given: calls.append(1) or original(*given))
    assert new(max_steps=3).fit(normals).is_fitted
    assert len(calls) == 3


@pytest.mark.parametrize("source", ["generated", "a folder"])
def test_a_long_training_sees_ever_new_unrelated_pictures(source, normals, tmp_path, monkeypatch):
    """One after the other is replaced; a file that cannot be read any more is left out."""
    monkeypatch.setattr(training, "N_PENALTY", 3)
    monkeypatch.setattr(training, "STEPS_BETWEEN_PENALTIES", 2)
    folder = tmp_path / "unrelated"
    shutil.copytree(normals[0].parent, folder)
    learner = new(penalty_images=source if source == "generated" else str(folder)).method.learner(SHAPE, 2)
    pictures = torch.zeros(2, 64, 64, 3, dtype=torch.uint8, device=learner.options.device)
    taught, mean, std = training._Taught(learner.trainer, pictures), *torch.ones(2, 1, device=pictures.device)
    for long in (False, True):
        rng, there = np.random.default_rng(0), []
        data = training._Data(taught, np.arange(2), mean, std, rng, long)
        for _ in range(6):
            there.append(data.penalty.clone())
            data.batch()
        there.append(data.penalty.clone())
        replaced = [(a != b).flatten(1).any(1).nonzero().flatten().tolist() for a, b in itertools.pairwise(there)]
        assert replaced == ([[], [1], [], [2], [], [0]] if long else [[]] * 6)
    if source == "a folder":
        shutil.rmtree(folder)
        for _ in range(6):
            data.batch()
        assert torch.equal(data.penalty, there[-1])


def test_a_recorded_prediction_is_the_prediction(ead, specks, monkeypatch):
    """On CUDA the networks and their differences are one graph; here a recording stands for it."""
    recorder = Recorder()
    monkeypatch.setattr(graphs, "recorded", recorder)
    scorer = ead.method.scorer(ead.state_, ead.working_shape_)
    recorded = replace(scorer, graph=graphs.Graphed(scorer.computed))
    pixels = np.stack([ead.working_shape_.prepare(decode(item.path).pixels) for item in specks.test[:3]])
    encoded = ead.method.encode(torch.from_numpy(pixels))
    with torch.inference_mode():
        for _ in range(2):
            expected, found = scorer(encoded), recorded(encoded)
            torch.testing.assert_close(found.scores, expected.scores)
            torch.testing.assert_close(found.maps, expected.maps)
    assert recorder.n_replayed == 3


def test_an_estimate_compiles_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(method_module, "Trainer", lambda networks, options: asked.append(options.compile))
    monkeypatch.setattr(method_module, "measured_seconds", lambda *_: budget.Seconds(1.0, 0.1, 0.1))
    method = new(compile=True).method
    method.budget(SHAPE).measure(False)
    assert asked == [False]
    assert method.training_options(SHAPE).compile


def test_colours_change_in_one_of_the_papers_three_ways():
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.integers(60, 180, (2, 8, 8, 3), dtype=np.uint8))
    grey = (pictures.float() * torch.tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    kinds = set()
    for _ in range(40):
        changed = recoloured(pictures, rng).float()
        for kind, around in enumerate((torch.zeros_like(grey), grey.mean((1, 2), keepdim=True), grey)):
            away = pictures.float() - around
            factor = float(((changed - around) * away).sum() / (away**2).sum())
            if (changed - (around + factor * away)).abs().max() < 0.8:
                kinds.add(kind)
                assert 0.79 <= factor <= 1.21
    assert kinds == {0, 1, 2}


@pytest.mark.parametrize("in_tiles", [False, True])
@pytest.mark.parametrize("n_folds", [None, 0, 2])
def test_pictures_too_narrow_for_it_are_refused_before_they_are_read(in_tiles, n_folds, rng, monkeypatch):
    monkeypatch.setattr("admodels.pictures.images.read_ahead", lambda *_: pytest.fail("pictures were read"))
    narrow = [rng.integers(0, 256, (20, 200, 3), dtype=np.uint8) for _ in range(8)]
    asked = {"method": "efficientad", "image_size": 128, "tile_size": 64, "stride": 64} if in_tiles else OPTIONS
    detector = admodels.create("tiled" if in_tiles else "efficientad", device=DEVICE, **asked)
    for ask in (detector.fit, lambda images, n_folds: detector.estimate(inspect_set(images), n_folds=n_folds)):
        with pytest.raises(admodels.OptionError, match=r"needs 64 on each side.*keep_aspect=False"):
            ask(narrow, n_folds=n_folds)

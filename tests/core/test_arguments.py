"""What a program gives wrong is refused in words, before the work; what is not finite is no score."""

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import admodels
from admodels.core.calibration import HeldOutScores, check_folds, check_rate, check_ratio, check_seed
from admodels.evaluation.accuracy import measure
from admodels.evaluation.datasets import TestImage as Labelled
from admodels.pictures.images import DecodedImage, inspect_set
from admodels.pictures.working_shape import WorkingShape
from tests.conftest import DEVICE, SMALL

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(
        [2**70, 10**400, np.float32(0.1), np.int64(3), np.nan, torch.tensor(3), 2.0, -0.0, "0.1", "٣", "²"]
    ),
)


@pytest.mark.parametrize("check", [check_rate, check_ratio, check_folds, check_seed])
@given(value=ANYTHING)
def test_any_value_is_taken_or_refused_in_words(check, value):
    try:
        taken = check(value)
    except admodels.OptionError as error:
        assert "; expected " in str(error)  # noqa: PT017
    else:
        assert taken == value
        assert type(taken) in (int, float, type(None))
        again = check(taken)
        assert again == taken


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": None},
        {"seed": 2**70, "n_folds": 0},
        {"n_folds": 1},
        {"n_folds": True},
        {"n_folds": 999},
        {"held_out_ratio": np.nan},
        {"false_alarm_rate": None},
    ],
)
def test_they_are_looked_at_before_the_pictures(wrong):
    read = []

    def pictures():
        read.append(1)
        yield from ()

    name = next(iter(wrong))
    with pytest.raises(admodels.OptionError, match=name):
        admodels.create("fapm", device=DEVICE).fit(pictures(), **wrong)
    assert read == []


@given(value=ANYTHING)
def test_any_threshold_is_taken_or_refused_in_words(isvd, value):
    try:
        moved = isvd.with_threshold(threshold=value)
    except admodels.OptionError as error:
        assert "threshold" in str(error)  # noqa: PT017
    else:
        assert moved.calibration_.threshold == value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["scores", "maps"])
def test_a_score_that_is_not_finite_is_no_verdict(value, part, isvd, normals, monkeypatch):
    scorer = type(isvd.fitted_.scorer)
    right = scorer.__call__

    def broken(self, encoded):
        found = right(self, encoded)
        changed = getattr(found, part).clone()
        changed[(-1,) * changed.dim()] = value
        return found._replace(**{part: changed})

    new = admodels.create("padim_isvd", device=DEVICE, **SMALL["padim_isvd"])
    monkeypatch.setattr(scorer, "__call__", broken)
    for call in (
        lambda: isvd.predict(normals[0]),
        lambda: isvd.predict_batch(normals[:3]),
        lambda: isvd.score_batch(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)),
        lambda: new.fit(normals),
        lambda: new.fit(normals, n_folds=0),
    ):
        with pytest.raises(admodels.ScoreError, match="NaN or infinite"):
            call()
    assert not new.is_fitted


def test_what_was_learned_is_finite_or_not_kept(isvd, normals, monkeypatch):
    right = type(isvd.method).learn

    def broken(self, shape, images, on_progress):
        state = dict(right(self, shape, images, on_progress))
        name = next(name for name, tensor in state.items() if tensor.is_floating_point())
        state[name] = state[name].clone()
        state[name][(0,) * state[name].dim()] = torch.nan
        return state

    new = admodels.create("padim_isvd", device=DEVICE, **SMALL["padim_isvd"]).fit(normals)
    before = new.state_
    monkeypatch.setattr(type(isvd.method), "learn", broken)
    with pytest.raises(admodels.ScoreError):
        new.fit(normals, n_folds=0)
    assert new.state_ is before


def test_held_out_scores_that_are_not_finite_set_no_threshold():
    with pytest.raises(admodels.ScoreError, match="held-out"):
        HeldOutScores().add(torch.tensor([1.0, torch.nan]), torch.zeros(2, 4, 4))


class Alive:
    """How many of the things that were made are still there, at most."""

    def __init__(self):
        self.now, self.most = 0, 0

    def watch(self, thing):
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(thing, self._gone)
        return thing

    def _gone(self):
        self.now -= 1


@pytest.mark.parametrize("n", [40, 80])
def test_memory_does_not_grow_with_the_pictures(n, isvd, normals, monkeypatch):
    pixels, maps = Alive(), Alive()
    made, to_original = DecodedImage.__init__, WorkingShape.to_original

    def watched(self, given, *args, **kwargs):
        made(self, pixels.watch(given.copy()), *args, **kwargs)

    monkeypatch.setattr(DecodedImage, "__init__", watched)
    monkeypatch.setattr(WorkingShape, "to_original", lambda *args: maps.watch(to_original(*args).copy()))
    paths = [normals[i % len(normals)] for i in range(n)]
    scores = [prediction.score for prediction in isvd.predict_stream(paths)]
    assert len(scores) == n
    assert pixels.most <= 4
    assert maps.most <= 4
    measured = measure(isvd, [Labelled(path, ("good", "bad")[i % 2]) for i, path in enumerate(paths)], robustness=True)
    assert measured.scores == pytest.approx(scores, rel=1e-5)
    assert maps.most <= 4
    assert pixels.most <= 10  # a picture and its seven changed copies


def test_a_stream_names_every_unreadable_picture(isvd, normals):
    given = [*normals[:3], b"", normals[3], b"nothing"]
    stream = isvd.predict_stream(given)
    with pytest.raises(admodels.ImageSetError) as caught:
        list(stream)
    assert [error.picture for error in caught.value.errors] == ["picture 4", "picture 6"]


def test_what_a_fit_should_tell_is_in_its_report(normals, tmp_path):
    from PIL import Image

    pages = [Image.open(path).convert("L") for path in normals[:3]]
    for name in ("a", "b"):
        pages[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=pages[1:])
    looked_at = inspect_set([*normals[:8], tmp_path / "a.tif", tmp_path / "b.tif"])
    assert looked_at.notices == ("2 pictures (a.tif, b.tif): each has 3 frames; only the first is used.",)
    detector = admodels.create("padim_isvd", device=DEVICE, **SMALL["padim_isvd"]).fit(looked_at)
    assert detector.fit_report_.notices == looked_at.notices
    detector.update(normals[8:20])
    assert detector.fit_report_.notices == looked_at.notices
    assert detector.predict(tmp_path / "a.tif").notices == ("a.tif has 3 frames; only the first is used.",)

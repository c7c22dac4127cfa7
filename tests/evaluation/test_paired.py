"""Two models on the same pictures, against counts by hand and a computation of the test with whole numbers."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import admodels
from admodels.evaluation.accuracy import Accuracy, ScoredImage
from admodels.evaluation.paired import Outcomes, Paired, compare_verdicts, is_same_model, mcnemar
from tests.conftest import SMALL


@pytest.mark.parametrize("n", range(26))
def test_mcnemars_test_is_exact(n):
    ways = [Fraction(comb(n, k), 2**n) for k in range(n + 1)]
    for k in range(n + 1):
        # All splits that are no likelier than this one.
        expected = sum(way for way in ways if way <= ways[k])
        assert mcnemar(k, n - k) == pytest.approx(float(expected), rel=1e-12)
        assert mcnemar(k, n - k) == mcnemar(n - k, k)


def accuracy(kinds, scores, threshold):
    pictures = tuple(
        ScoredImage(f"{i}.png", kind, score) for i, (kind, score) in enumerate(zip(kinds, scores, strict=True))
    )
    nothing = dict.fromkeys(Accuracy.__dataclass_fields__)
    return Accuracy(**nothing | {"n_test": len(kinds), "pictures": pictures, "threshold": threshold})


@given(st.lists(st.tuples(st.sampled_from(["good", "crack", "spot"]), *2 * [st.integers(0, 4)]), min_size=1))
def test_every_picture_is_counted_where_it_belongs(given_pictures):
    kinds, *scores = zip(*given_pictures, strict=True)
    first, second = accuracy(kinds, scores[0], 2), accuracy(kinds, scores[1], 1)
    found = compare_verdicts(first, second)
    for outcomes, is_defective in ((found.defective, True), (found.good, False)):
        counted = {(a, b): 0 for a in (False, True) for b in (False, True)}
        for kind, a, b in given_pictures:
            if (kind != "good") == is_defective:
                counted[(a > 2) == is_defective, (b > 1) == is_defective] += 1
        assert outcomes.n_both == counted[True, True]
        assert outcomes.n_first_only == counted[True, False]
        assert outcomes.n_second_only == counted[False, True]
        assert outcomes.n_neither == counted[False, False]
    assert found.whole.n == len(given_pictures)
    assert found.statement()


def paired(defective=(0, 0, 0, 0), good=(0, 0, 0, 0)):
    names = ("n_both", "n_first_only", "n_second_only", "n_neither")
    return Paired(
        **{k: Outcomes(**dict(zip(names, v, strict=True))) for k, v in {"defective": defective, "good": good}.items()}
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            paired((4, 1, 3, 0), (10, 2, 0, 0)),
            "The other model finds 3 defective pictures that this one misses, and misses 1 that this one finds. "
            "False alarms: 2 with the other model, 0 with this one. "
            "Wrong verdicts in all: 3 against 3 (exact McNemar test, p = 1).",
        ),
        (
            paired((2, 9, 0, 0)),
            "The other model misses 9 defective pictures that this one finds, and finds none that this one misses. "
            "Wrong verdicts in all: 9 against 0; chance alone would rarely make such a difference with 11 pictures "
            "(exact McNemar test, p = 0.0039).",
        ),
        (
            paired((5, 0, 3, 0), (12, 0, 0, 0)),
            "The other model finds 3 defective pictures that this one misses, and misses none that this one finds. "
            "False alarms: 0 with the other model, 0 with this one. "
            "Wrong verdicts in all: 0 against 3; with 20 pictures such a difference may be chance (exact McNemar test, "
            "p = 0.25).",
        ),
        (
            paired((0, 0, 11, 0), (0, 11, 0, 1)),
            "The other model finds 11 defective pictures that this one misses, and misses none that this one finds. "
            "False alarms: 12 with the other model, 1 with this one. "
            "Wrong verdicts in all: 12 against 12 (exact McNemar test, p = 1). Taken alone, the differences on the "
            "defective ones (p < 0.001) and the good ones (p < 0.001) can hardly be chance.",
        ),
        (
            paired((8, 0, 0, 0), (10, 1, 1, 0)),
            "Both models find the same defective pictures, 8 of 8. "
            "False alarms: 1 with the other model, 1 with this one, not all on the same pictures. "
            "Wrong verdicts in all: 1 against 1 (exact McNemar test, p = 1).",
        ),
        (
            paired((7, 0, 0, 1), (12, 0, 0, 0)),
            "Both models give the same verdict on all 20 pictures: 1 of 8 defective ones missed, 0 of 12 good ones "
            "alarm.",
        ),
    ],
)
def test_what_differs_is_said_in_few_sentences(found, said):
    assert found.statement() == said


def test_other_pictures_are_not_compared():
    with pytest.raises(admodels.DataError, match="different pictures"):
        compare_verdicts(accuracy(["good", "spot"], [1, 2], 0), accuracy(["spot", "good"], [1, 2], 0))


@pytest.mark.parametrize("method", ["fapm", "padim_isvd", "tiled"])
def test_a_model_is_known_again_after_it_was_saved(method, normals):
    detector = admodels.create(method, device="cpu", **SMALL[method]).fit(normals[:8])
    admodels.save(detector.with_threshold(threshold=1e6), "again", overwrite=True)
    loaded = admodels.load("again", device="cpu")
    admodels.delete("again")
    assert is_same_model(detector, loaded)
    assert not is_same_model(detector, admodels.create(method, device="cpu", **SMALL[method]).fit(normals[:7]))


def test_a_threshold_is_judged_strictly_as_everywhere():
    assert accuracy(["good", "spot"], [2.0, 2.0], 2.0).is_right.tolist() == [True, False]
    assert np.array_equal(accuracy(["good", "spot"], [2.1, 2.1], 2.0).is_right, [False, True])

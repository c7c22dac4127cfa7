"""Models that an earlier commit saved: they load, and score as they did.

`saved_before_rooms` was written by commit 1d46254 on an Intel Xeon, with precision=float32 and eight good pictures of
the example.
"""

import json
from pathlib import Path

import pytest

from admodels import DETECTORS
from admodels.models import Store
from tests.conftest import EXAMPLES

FOLDER = Path(__file__).parent / "saved_before_rooms"
SCORES = json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SCORES)
def test_a_model_saved_before_gives_the_same_scores(name):
    detector = Store(DETECTORS, FOLDER).load(name, device="cpu")
    found = {path: detector.predict(EXAMPLES / "pa_brg02_rl" / path).score for path in SCORES[name]}
    assert detector.fitted_.product is None  # there was none yet
    assert found == pytest.approx(SCORES[name], rel=1e-5)  # another CPU sums in another order

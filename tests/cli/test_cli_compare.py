"""The command `compare`."""

import json

import pytest

import admodels
from tests.conftest import SMALL


@pytest.fixture
def two(isvd, normals):
    """Two saved models: `strict`, and `blind`, which lets everything pass."""
    admodels.save(isvd, "strict", overwrite=True)
    blind = admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(normals[:8]).with_threshold(threshold=1e6)
    admodels.save(blind, "blind", overwrite=True)
    yield "local:strict", "local:blind"
    for name in ("strict", "blind"):
        admodels.delete(name)


def test_two_models_are_compared_on_a_data_set(run, two, small_data, tmp_path):
    out = tmp_path / "compared.json"
    said = run("compare", *two, small_data, "--json", out, "--device", "cpu")
    found = json.loads(out.read_text(encoding="utf-8"))
    strict, blind = found["models"]
    alarms = [[p["score"] > model["threshold"] for p in model["pictures"]] for model in (strict, blind)]
    is_defective = [p["kind"] != "good" for p in strict["pictures"]]
    assert not any(alarms[1])
    n_found = sum(a and d for a, d in zip(alarms[0], is_defective, strict=True))
    assert found["verdicts"]["defective"]["n_first_only"] == n_found > 0
    assert f"The second model misses {n_found} defective pictures that the first finds" in said
    assert "McNemar" in said
    assert (blind["model"], blind["method"]) == ("local:blind", "fapm")
    assert blind["network_seconds"] > 0


def test_what_cannot_be_compared_is_said(run, two, small_data):
    assert "the same model with the same threshold" in run("compare", two[0], two[0], small_data, fails=True)
    assert "no model named" in run("compare", two[0], "local:nowhere", small_data, fails=True)

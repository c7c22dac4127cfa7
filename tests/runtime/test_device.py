"""Which devices are taken, and what is said of the others."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import admodels
from admodels.core import fitting
from admodels.runtime.device import DEVICES, resolve_device, resolve_precision, trainable
from tests.conftest import SMALL


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_the_cpu_has_several_names(device):
    assert resolve_device(device).type == "cpu"
    assert admodels.create("fapm", device=device).device.type == "cpu"


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "expected one of"),
        ("", "expected one of"),
        (None, "expected one of"),
        (0, "expected one of"),
        (b"cpu", "expected one of"),
        ("cuda:abc", "expected one of"),
        ("cpu:", "expected one of"),
        ("cpu:-1", "expected one of"),
        ("cpu:²", "expected one of"),
        ("cpu:99", "there is only cpu here. Use device='cpu'"),
        ("cuda:900", "cuda"),
        (torch.device("meta"), "expected one of"),
    ],
)
def test_other_devices_are_refused_with_the_remedy(device, said):
    with pytest.raises(admodels.OptionError, match=said):
        resolve_device(device)


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(admodels.OptionError, match="there is only cuda:0 to cuda:1 here"):
        resolve_device("cuda:7")


@given(st.text() | st.sampled_from(DEVICES).flatmap(lambda kind: st.text().map(lambda rest: f"{kind}:{rest}")))
def test_any_text_is_a_device_or_our_error(device):
    with contextlib.suppress(admodels.OptionError):
        assert isinstance(resolve_device(device), torch.device)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), torch.float32),
        ((7, 0), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ],
)
def test_a_gpu_computes_in_what_it_multiplies_by_itself(monkeypatch, capability, expected):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    device = torch.device("cuda:1")
    assert resolve_precision("auto", device) == expected
    assert asked == [device]  # not the first one's
    assert resolve_precision("float32", device) == torch.float32
    assert trainable(expected) == (torch.float32 if expected == torch.float16 else expected)


@pytest.mark.parametrize("method", sorted(admodels.DETECTORS))
def test_in_float16_a_model_scores_as_in_float32(method, normals, monkeypatch):
    """As on a T4, by PyTorch on the CPU: nothing overflows, where a model is fitted there and where one is loaded."""
    monkeypatch.setenv("ADMODELS_ENGINE", "torch")
    exact = admodels.create(method, device="cpu", precision="float32", **SMALL[method]).fit(normals)
    expected = exact.predict_batch(normals)
    for place in ("admodels.core.method", "admodels.runtime.backbones"):
        monkeypatch.setattr(f"{place}.resolve_precision", lambda precision, device: torch.float16)
    new = admodels.DETECTORS[method](exact.config, device="cpu")
    assert new.dtype == torch.float16
    fitted = admodels.Detector(new).fit(normals[:8])
    assert np.isfinite([p.score for p in fitted.predict_batch(normals)]).all()
    known = exact.fitted_
    loaded = fitting.restore(new, known.state, known.shape, known.calibration, known.report)
    for found, wanted in zip(admodels.Detector(new, loaded).predict_batch(normals), expected, strict=True):
        assert found.score == pytest.approx(wanted.score, rel=0.02, abs=0.02 * wanted.threshold)

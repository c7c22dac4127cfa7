"""What a GPU would be waited for: once in a batch for its scores, and never picture by picture or map by map.

On a CPU nothing waits; here the operations that would are counted.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import admodels
from admodels.core.calibration import HeldOutScores
from admodels.core.method import Scored
from admodels.methods import eigen, fapm
from admodels.pictures.images import decode
from admodels.runtime.engines import TORCH_TITLE
from tests.conftest import DEVICE, SMALL

# Each asks for values on the host, or for how many values meet a condition.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal")
MASKED = ("index", "index_put", "index_put_", "_index_put_impl_")


class Waits(TorchDispatchMode):
    """Counts the operations for which a GPU would be waited for; of OpenVINO, which runs on a CPU, there are none."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_masked = name in MASKED and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if name in WAITING or is_masked:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def copied(monkeypatch):
    """How often tensors were brought to the host by these methods, which PyTorch does not dispatch on a CPU."""
    counts = Counter()

    def counted(name):
        original = getattr(torch.Tensor, name)

        def method(self, *args, **kwargs):
            counts[name] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, method)

    for name in ("cpu", "tolist", "item"):
        counted(name)
    return counts


def batch(detector, specks, n):
    shape = detector.working_shape_
    pixels = [shape.prepare(decode(item.path).pixels) for item in specks.test[:n]]
    return torch.from_numpy(np.stack(pixels))


def waits(detector, encoded):
    """Of scoring them, after what is made once was made."""
    detector.fitted_.scorer(encoded)
    with Waits() as found:
        detector.fitted_.scorer(encoded)
    return found.counts


@pytest.mark.parametrize("n", [1, 4])
def test_a_scorer_waits_for_nothing(fitted, specks, n, copied):
    with torch.inference_mode():
        encoded = fitted.method.encode(batch(fitted, specks, n))
        copied.clear()
        assert not waits(fitted, encoded)
    if fitted.engine_title == TORCH_TITLE:  # another engine takes its pictures from the host
        assert not copied


OTHERS = {
    "fapm layers": ("fapm", {"image_score": "layers"}),
    "fapm layers, one memory": ("fapm", {"image_score": "layers", "patch_wise": False}),
    "fapm layers, tiles": ("tiled", {"member": {"image_score": "layers", "grid": 2}, "method": "fapm"}),
    "patchcore tiles": ("tiled", {"member": {}, "method": "patchcore"}),
    "padim tiles": ("tiled", {"member": {"n_features": 10}, "method": "padim"}),
    "padim_isvd without blur": ("padim_isvd", {"blur": False, "dtype": "float64"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_nor_does_any_other_way_of_scoring(name, normals, specks, copied, monkeypatch):
    """FAPM's scores of layers search every vector in every run of patches there; a CPU only where its patch is."""
    method, options = OTHERS[name]
    detector = admodels.create(method, device=DEVICE, **(SMALL[method] | options)).fit(normals[:8], n_folds=0)
    for n in (1, 4):
        with torch.inference_mode():
            encoded = detector.method.encode(batch(detector, specks, n))
            expected = detector.fitted_.scorer(encoded)
            with monkeypatch.context() as patched:
                patched.setattr(fapm, "may_count", lambda device: False)
                copied.clear()
                assert not waits(detector, encoded)
                assert not copied
                found = detector.fitted_.scorer(encoded)
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(found.maps, expected.maps)


@pytest.mark.parametrize("n", [1, 4])
def test_learning_from_a_batch_waits_for_nothing(fitted, specks, n, copied):
    with torch.inference_mode():
        encoded = fitted.method.encode(batch(fitted, specks, n))
        learner = fitted.method.learner(fitted.working_shape_, 2 * n)
        learner.add(encoded)
        copied.clear()
        with Waits() as found:
            learner.add(encoded)
    assert not found.counts
    assert not copied


def test_a_search_for_eigenvectors_looks_once_whether_it_failed():
    x = torch.randn(20, 60, 60, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 60)
    with Waits() as found:
        eigen._searched(torch.bmm(x.mT, x), 4, torch.float32)
    assert found.counts == {"_local_scalar_dense": 1}


def test_what_calibrates_is_brought_to_the_host_once_for_a_batch(copied):
    counts = []
    for n in (1, 8):
        held_out = HeldOutScores()
        copied.clear()
        held_out.add(torch.arange(float(n)), torch.rand(n, 32, 32))
        counts.append(dict(copied))
        assert len(held_out.maps) == n
    assert counts[0] == counts[1]
    assert counts[0]["cpu"] == 2  # scores and maps


def test_scores_are_brought_to_the_host_tensor_by_tensor_and_not_picture_by_picture(copied):
    def scored(n):
        maps = torch.zeros(n, 4, 4)
        return Scored(torch.zeros(n), maps, {"local": maps, "global": maps}, torch.zeros(n, 2, 2))

    for n in (1, 8):
        copied.clear()
        scored(n).cpu()
        assert copied == {"cpu": 5}

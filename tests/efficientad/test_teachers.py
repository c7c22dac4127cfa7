"""Teachers of every published form are read, and what is none is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

import admodels
from admodels.efficientad.networks import Pdn
from admodels.efficientad.teachers import teacher_weights

SEQUENTIAL = {"small": (0, 3, 6, 8), "medium": (0, 3, 6, 8, 10, 12)}


@pytest.fixture(params=["small", "medium"])
def network(request):
    torch.manual_seed(0)
    found = Pdn(request.param, 24)
    found.size = request.param
    return found


@pytest.mark.parametrize("form", ["ours", "anomalib", "nn.Sequential"])
def test_every_published_form_gives_the_same_weights(network, form, tmp_path):
    state = network.state_dict()
    if form == "ours":
        path = tmp_path / "teacher.safetensors"
        save_file({name: t.half() for name, t in state.items()}, path)
    else:
        path = tmp_path / "teacher.pth"
        if form == "nn.Sequential":
            positions = SEQUENTIAL[network.size]
            state = {f"{positions[int(name[4]) - 1]}{name[5:]}": tensor for name, tensor in state.items()}
        torch.save(state, path)
    found = teacher_weights(str(path), network.size)
    assert list(found) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert found[name].dtype == torch.float32
        assert torch.allclose(found[name], tensor, atol=1e-3)


def test_what_is_no_teacher_is_refused(tmp_path):
    small = tmp_path / "small.pth"
    torch.save(Pdn("small", 24).state_dict(), small)
    with pytest.raises(admodels.WeightsError, match=r"not a PDN of size medium.*\(256, 3, 4, 4\)"):
        teacher_weights(str(small), "medium")
    with pytest.raises(admodels.OptionError, match="not a file"):
        teacher_weights(str(tmp_path / "nowhere.pth"), "small")
    with pytest.raises(admodels.OptionError, match="distill --size medium"):
        teacher_weights("shipped", "medium")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(admodels.WeightsError, match="no weights by name"):
        teacher_weights(str(tmp_path / "list.pth"), "small")
    (tmp_path / "text.safetensors").write_text("no", encoding="utf-8")
    with pytest.raises(admodels.WeightsError, match="cannot be read"):
        teacher_weights(str(tmp_path / "text.safetensors"), "small")
    broken = {name: torch.full_like(t, float("nan")) for name, t in Pdn("small", 24).state_dict().items()}
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(admodels.WeightsError, match="not finite"):
        teacher_weights(str(tmp_path / "nan.pth"), "small")


class Evil:
    """What would run if it were unpickled."""

    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"conv1.weight": Evil()}))
    with pytest.raises(admodels.WeightsError):
        teacher_weights(str(tmp_path / "evil.pth"), "small")
    assert "executed" not in capsys.readouterr().out


def test_the_shipped_teacher_is_small_and_finite():
    weights = teacher_weights("shipped", "small")
    assert weights["conv4.weight"].shape[1:] == (256, 4, 4)
    assert 2 * sum(t.numel() for t in weights.values()) < 12 * 2**20

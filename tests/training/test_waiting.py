"""A step of a training must not wait for a GPU: on a device without any data, what asks for some fails."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import admodels
from admodels.efficientad import training
from admodels.efficientad.networks import Autoencoder, Networks, Pdn
from admodels.efficientad.step import Trainer, TrainingOptions
from admodels.methods import reverse_distillation, trained
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.device import sent
from admodels.training.average import Average
from tests.conftest import SMALL

META = torch.device("meta")
SHAPE = WorkingShape((64, 64), (64, 64))


class NoCopies(TorchDispatchMode):
    """Fails where numbers of the CPU, single ones apart, meet those of the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        given, made = ([t for t in tree_leaves(x) if isinstance(t, torch.Tensor)] for x in ((args, kwargs), found))
        if any(t.device == META for t in (*given, *made)):
            assert not [t for t in given if t.device != META and t.dim()], f"{func} takes numbers from the CPU"
        return found


@pytest.fixture
def without_waiting(monkeypatch):
    """Python's numbers become tensors on the CPU, and are copied where no dispatch mode sees it."""
    item = torch.Tensor.__getitem__

    def refused(*args, **kwargs):
        pytest.fail("a tensor is made of Python's numbers")

    def item_of(tensor, at):
        if any(isinstance(index, list | np.ndarray) for index in (at if isinstance(at, tuple) else (at,))):
            refused()
        return item(tensor, at)

    def begin():
        for place, name in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
            monkeypatch.setattr(place, name, refused)
        monkeypatch.setattr(torch.Tensor, "__getitem__", item_of)
        return NoCopies()

    for module in (training, reverse_distillation):
        monkeypatch.setattr(module, "sent", as_if_sent)
    for module in (training, trained):
        monkeypatch.setattr(module, "keepable_bytes", lambda device: 2**30)
    monkeypatch.setattr(trained, "computing_in", lambda dtype, device: nullcontext())
    return begin


def as_if_sent(tensor, device):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("long", [False, True])
def test_a_step_of_efficientad(long, batch_size, without_waiting, monkeypatch):
    monkeypatch.setattr(training, "STEPS_BETWEEN_PENALTIES", 1)
    monkeypatch.setattr(Autoencoder, "dropout_masks", lambda *_: [torch.ones(1, 1, 1, 1, device=META)] * 6)
    with META:
        networks = Networks(Pdn("small", 8), Pdn("small", 16), Autoencoder((64, 64), 8))
    with monkeypatch.context() as patched:  # there is no generator for it
        patched.setattr(torch, "Generator", lambda device: torch.default_generator)
        trainer = Trainer(networks, TrainingOptions((64, 64), batch_size, 1e-4, "generated", META, META, torch.float32))
    taught = training._Taught(trainer, torch.empty(5, 64, 64, 3, dtype=torch.uint8, device=META))
    mean, std = torch.empty(2, 1, 8, 1, 1, device=META)
    data = training._Data(taught, np.arange(5), mean, std, np.random.default_rng(0), long)
    # Adam counts its steps on the CPU, and looks at them there.
    optimizer = torch.optim.SGD([p for network in networks[1:] for p in network.parameters()])

    def step():
        pictures, features, penalty = data.batch()
        again = data.recoloured(pictures) if long else None
        trainer.step(pictures, features, penalty, optimizer, again)

    step()  # the normalisation's constants are copied once
    with without_waiting():
        for _ in range(4):
            step()


@pytest.mark.parametrize("key", ["fastflow", "reverse_distillation"])
def test_a_step_on_maps(key, without_waiting):
    method = admodels.create(key, device="cpu", **(SMALL[key] | {"precision": "float32", "batch_size": 3})).method
    method.device = META
    learner = method.learner(SHAPE, 5)
    network = learner.network.train()
    optimizer = torch.optim.SGD(network.parameters())
    with without_waiting():
        averaged = Average(network)
        for _ in range(3):
            trained.do_step(method, network, optimizer, learner._batch([4, 0, 2]))
            averaged.add()
        averaged.write()


def test_what_is_sent_to_cuda_is_not_waited_for(monkeypatch):
    """From pinned memory alone such a copy waits for nothing."""
    tensor, pinned, asked = torch.ones(3), torch.ones(3), []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: asked.append((self is pinned, args, kwargs)))
    sent(tensor, torch.device("cuda:1"))
    sent(tensor, torch.device("mps"))
    assert asked == [
        (True, (torch.device("cuda:1"),), {"non_blocking": True}),
        (False, (torch.device("mps"),), {}),
    ]

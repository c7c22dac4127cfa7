"""FastFlow's equations, each computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F

import admodels
from admodels.methods.fastflow import AS_MANY, Flow, Flows, FlowStep
from admodels.methods.trained import MapMoments, moments
from admodels.pictures.working_shape import WorkingShape
from tests.conftest import DEVICE


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*size, seed=0):
    return torch.randn(*size, generator=generator(seed))


def disturbed(module):
    """With weights that make a difference."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * drawn(*parameter.shape, seed=i + 1))
    return module


def step(n_channels, kernel):
    made = FlowStep(n_channels, kernel)
    with torch.no_grad():
        made.initialise(generator())
    return disturbed(made)


def flows(sizes, n_steps=2):
    made = Flows(sizes, n_steps)
    with torch.no_grad():
        made.initialise(generator())
        made.look_at([MapMoments(9, drawn(*size, seed=7), 0.5 + drawn(*size, seed=8).square()) for size in sizes])
    return disturbed(made).double()


@pytest.mark.parametrize("kernel", [3, 1])
@pytest.mark.parametrize("n_channels", [2, 5, 6])
def test_a_step_is_the_equations(n_channels, kernel):
    made, x = step(n_channels, kernel), drawn(3, n_channels, 4, 5)
    n1 = n_channels - n_channels // 2
    x1, x2 = x[:, :n1], x[:, n1:]
    a = 0.1 * made.subnet(x1)
    s, t = 2 * torch.tanh(a[:, : n_channels // 2]), a[:, n_channels // 2 :]
    scale = 0.1 * torch.log1p(torch.exp(0.5 * made.scale)) / 0.5
    y = torch.cat([x1, x2 * torch.exp(s) + t], 1) * scale[:, None, None] + made.offset[:, None, None]
    permutation = torch.eye(n_channels)[made.order]
    found, log_det = made(x)
    torch.testing.assert_close(found, F.conv2d(y, permutation[:, :, None, None]))
    torch.testing.assert_close(log_det, s.sum((1, 2, 3)) + 4 * 5 * torch.log(scale).sum())


def test_an_untrained_step_scales_nothing():
    made = FlowStep(6, 3)
    with torch.no_grad():
        made.initialise(generator())
    torch.testing.assert_close(made._scales(), torch.ones(6))


@pytest.mark.parametrize("kernel", [3, 1])
@pytest.mark.parametrize("n_channels", [2, 5, 6])
def test_a_step_can_be_undone(n_channels, kernel):
    made, x = step(n_channels, kernel).double(), drawn(3, n_channels, 4, 5).double()
    torch.testing.assert_close(made.inverse(made(x)[0]), x, rtol=1e-4, atol=1e-5)


def test_the_log_determinant_is_that_of_the_jacobian():
    made, x = flows([(3, 2, 3)], 4).flows[0], drawn(1, 3, 2, 3).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: made(v.view(1, 3, 2, 3))[0].flatten(), x.flatten())
    # The scaling by each position's deviation is fixed, and no part of what is trained.
    expected = torch.linalg.slogdet(jacobian).logabsdet + made.std.log().sum()
    torch.testing.assert_close(made(x)[1][0], expected, rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_negative_log_likelihood_and_the_map_the_mean_square():
    sizes = [(4, 4, 6), (5, 2, 3)]
    made, maps = flows(sizes), [drawn(3, *size, seed=i).double() for i, size in enumerate(sizes)]
    expected, n = 0.0, 0
    for flow, m in zip(made.flows, maps, strict=True):
        z, log_det = flow(m)
        normal = torch.distributions.Normal(0.0, 1.0)
        of_picture = normal.log_prob(z).sum((1, 2, 3)) + log_det
        expected -= of_picture.mean()
        n += z[0].numel()
    torch.testing.assert_close(made.loss(maps), expected - n * 0.5 * math.log(2 * math.pi))
    for found, flow, m in zip(made.anomaly_maps(maps), made.flows, maps, strict=True):
        torch.testing.assert_close(found, (flow(m)[0] ** 2).mean(1))


def test_maps_are_brought_to_zero_mean_and_unit_deviation_where_pictures_are_many():
    maps = 3 * drawn(4000, 2, 3, 4) * (1 + torch.arange(12).view(3, 4)) + 5
    flow = Flow((2, 3, 4), 0)
    flow.initialise()
    flow.look_at(moments(maps))
    z, log_det = flow(maps)
    assert z.mean(0).abs().max() < 0.1
    assert (z.std(0) - 1).abs().max() < 0.1
    assert not log_det.any()


def test_of_few_pictures_a_position_is_not_believed():
    n = 2
    maps = drawn(n, 1, 8, 8)
    flow = Flow((1, 8, 8), 0)
    flow.initialise()
    flow.look_at(moments(maps))
    share = n / (n + AS_MANY)
    of_position = maps.mean(0)
    torch.testing.assert_close(flow.mean, share * of_position + (1 - share) * maps.mean(), rtol=1e-4, atol=1e-5)
    deviation = (share * maps.var(0, correction=0) + (1 - share) * maps.var(correction=0)).sqrt()
    torch.testing.assert_close(flow.std, deviation, rtol=1e-4, atol=1e-5)


def test_a_channel_that_never_moves_does_not_blow_up():
    maps = drawn(5, 3, 4, 4)
    maps[:, 1] = 2.0
    flow = Flow((3, 4, 4), 0)
    flow.initialise()
    flow.look_at(moments(maps))
    assert flow(maps)[0].abs().max() < 10
    flow.look_at(moments(torch.zeros(5, 3, 4, 4)))
    assert flow(torch.zeros(1, 3, 4, 4))[0].isfinite().all()


def test_an_order_that_names_a_channel_twice_is_refused(normals, tmp_path):
    detector = admodels.create("fastflow", device=DEVICE, image_size=64, max_steps=1).fit(normals)
    state, shape = dict(detector.state_), detector.working_shape_
    name = next(name for name in state if name.endswith("order"))
    state[name] = torch.zeros_like(state[name])
    with pytest.raises(ValueError, match=r"each of .* channels once"):
        detector.method.scorer(state, shape)


def test_more_steps_make_good_pictures_likelier():
    method = admodels.create("fastflow", device=DEVICE, image_size=64, layers="8,16", batch_size=8).method
    shape = WorkingShape((64, 64), (64, 64))
    mixing = [drawn(c, c, seed=c) / c**0.5 for c, _, _ in method.map_sizes(shape)]
    encoded = [torch.zeros(1)] * 5
    for i, matrix in zip(method._indices, mixing, strict=True):
        noise = drawn(40, len(matrix), *method.map_sizes(shape)[method._indices.index(i)][1:], seed=i)
        encoded[i] = F.conv2d(noise, matrix[:, :, None, None])
    losses = []
    for n_steps in (1, 60):
        other = admodels.create("fastflow", device=DEVICE, layers="8,16", batch_size=8, max_steps=n_steps).method
        learner = other.learner(shape, 40)
        learner.add(encoded)
        network = other._restored(learner.finish(), shape)
        losses.append(float(network.loss(other.used(encoded)).detach()))
    assert losses[1] < losses[0] - 100

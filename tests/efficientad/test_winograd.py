"""Fast convolutions against PyTorch's own in float64, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from admodels.efficientad.winograd import convolve, convolve_transformed, transformed_weight


def tensors(n, n_in, n_out, r, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_in, height, width, generator=generator)
    weight = torch.randn(n_out, n_in, r, r, generator=generator) / (n_in * r * r) ** 0.5
    return x, weight


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([3, 4]),
    st.integers(4, 23),
    st.integers(4, 23),
)
def test_any_size_gives_the_direct_result(n, n_in, n_out, r, height, width):
    x, weight = tensors(n, n_in, n_out, r, height, width)
    expected = F.conv2d(x.double(), weight.double())
    assert convolve(x, weight).shape == expected.shape
    for found in (convolve(x, weight), convolve_transformed(x, transformed_weight(weight), r)):
        assert (found - expected).abs().max() < 2e-5 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("r", [3, 4])
def test_the_gradients_are_the_direct_ones(r):
    x, weight = tensors(2, 8, 6, r, 17, 14)
    x = x.contiguous(memory_format=torch.channels_last)
    towards = torch.randn(2, 6, 17 - r + 1, 14 - r + 1, generator=torch.Generator().manual_seed(1))
    found, expected = [], []
    for function, dtype, out in ((convolve, torch.float32, found), (F.conv2d, torch.float64, expected)):
        a, b = (t.detach().clone().to(dtype).requires_grad_() for t in (x, weight))
        (function(a, b) * towards.to(dtype)).sum().backward()
        out += [a.grad, b.grad]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_only_the_wanted_gradient_is_computed():
    x, weight = tensors(1, 4, 4, 3, 9, 9)
    weight.requires_grad_()
    convolve(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None

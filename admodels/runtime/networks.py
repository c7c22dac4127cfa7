"""The networks that backbones are made of, ready to run: with their weights, and with batch norms folded away."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from admodels.runtime.backbone_specs import KNOWN_BACKBONES, backbone_spec
from admodels.runtime.backbone_weights import PUBLISHED, load_weights
from admodels.runtime.feature_networks import core_network, for_any_size

FOLDED_TOLERANCE = 1e-3  # relative to a map's largest value, in float32


def build_network(name: str, *, weights: str = PUBLISHED, pretrained: bool = True, folded: bool = True) -> nn.Module:
    """The network up to its last used layer, from normalised B×3×h×w to a list of B×C×⌈h/stride⌉×⌈w/stride⌉.

    Args:
        weights: "published", or a file as `pinned` gives it.
        pretrained: False gives random weights, for estimates and for tests of the structure.
        folded: fold the batch norms into the convolutions before them; off is for comparison.

    Raises:
        OptionError: the name is unknown, or the network gives no maps.
        WeightsError: the weights are not here and cannot be fetched, or are another network's; there is no fall-back to
            random ones.
    """
    spec = backbone_spec(name)
    core = core_network(spec.architecture)
    if pretrained:
        load_weights(core, name, weights)
    else:
        draw_weights(core)
    network = for_any_size(core, spec.architecture, spec.strides).eval()
    if not folded:
        return network
    without = fold_batch_norm(network)
    # Tests look after our own; of another one, nobody knows whether its modules stand in the order of their use.
    return without if name in KNOWN_BACKBONES or _are_alike(network, without) else network


def draw_weights(network: nn.Module) -> None:
    """Give a network whose memory is not set random weights, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy with every batch norm folded into the convolution before it; an activation that it applies stays.

    It is taken that a batch norm gets what the module defined just before it gives.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for (name, first), (next_name, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, getattr(second, "act", nn.Identity()))
    return network


def _are_alike(network: nn.Module, other: nn.Module) -> bool:
    """Whether two networks give the same maps of noise."""
    x = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return all(_is_close(a, b) for a, b in zip(network(x), other(x), strict=True))


def _is_close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= FOLDED_TOLERANCE * a.abs().max())

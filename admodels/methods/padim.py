"""PaDiM: at every position, a Gaussian over a random part of the features.

Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and localization", 2021. P is the
number of positions of the largest map, d the channels kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from admodels.core.method import Cost, Layout, Learner, OnStep, Scored, State, layout_bytes
from admodels.methods.backbone_method import BackboneConfig, BackboneMethod, decomposing
from admodels.methods.feature_maps import concatenate, realign
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.device import timed
from admodels.runtime.quiet import rounds

RIDGE = 0.01  # added to the covariance's diagonal (section III-B)
IMAGES_PER_UPDATE = 64  # the products of so many pictures are added up at once: fewer passes over the covariances
PROBE_POSITIONS = 1024  # learned on random numbers to estimate the time; fewer would fit in the cache, and mislead


@dataclass(frozen=True)
class PadimConfig(BackboneConfig):
    """Options of PaDiM."""

    n_features: int = option(
        100, "Channels to keep, chosen at random; size and time grow with the square.", minimum=1, maximum=2000
    )


class Padim(BackboneMethod):
    """A full covariance at every position."""

    key = "padim"
    title = "PaDiM"
    summary = (
        "Learns mean and covariance at every position. The classic baseline; the model is large, however few the "
        "pictures. Best where parts lie in the same place."
    )
    Config = PadimConfig
    config: PadimConfig
    memory_advice = "lower n_features or image_size, or use padim_isvd"

    def learner(self, shape: WorkingShape, n_images: int, state: State | None = None) -> Learner:
        return PadimLearner(self._channels(), self.statistics_device, state)

    def scorer(self, state: State, shape: WorkingShape) -> "PadimScorer":
        n_channels = sum(backbone_spec(self.config.backbone).channels)
        if int(state["channels"].min()) < 0 or int(state["channels"].max()) >= n_channels:
            raise ValueError(f"channels lie outside 0 to {n_channels - 1}")
        return PadimScorer(state["whitening"], state["mean"], state["channels"], shape)

    def tile_scorer(self, states: list[State], stacked: State, shape: WorkingShape) -> "PadimScorer":
        joined = {name: stacked[name].flatten(0, 1) for name in ("whitening", "mean")}
        return self.scorer(joined | {"channels": states[0]["channels"]}, shape)

    def layout(self, shape: WorkingShape, n_images: int) -> Layout:
        n_positions, d = self._sizes(shape)
        return {
            "whitening": ((n_positions, d, d), torch.float32),
            "mean": ((n_positions, d), torch.float32),
            "channels": ((d,), torch.int64),
            "n_images": ((), torch.int64),
        }

    def cost(self, shape: WorkingShape, n_images: int) -> Cost:
        n_positions, d = self._sizes(shape)
        held = 4 * n_positions * (d * d + (min(n_images, IMAGES_PER_UPDATE) + 2) * d)
        part, n_probe = min(n_positions, PROBE_POSITIONS), min(n_images, IMAGES_PER_UPDATE)
        vectors = torch.randn(n_probe, part, d, generator=torch.Generator().manual_seed(0)).to(self.statistics_device)

        def add(learner: PadimLearner) -> None:
            learner.add_vectors(vectors)
            learner.flush()

        adding, finishing = [], []
        for _ in rounds(least=2):
            learner = PadimLearner(torch.arange(d), self.statistics_device)
            adding.append(timed(lambda: add(learner), self.statistics_device))  # noqa: B023 - called at once
            finishing.append(timed(learner.finish, self.statistics_device))
        seconds = (min(adding) * n_images / n_probe + min(finishing)) * n_positions / part
        return Cost(seconds, held, layout_bytes(self.layout(shape, n_images)))

    def _channels(self) -> Tensor:
        """Which channels are kept: always the same ones for the same backbone and number."""
        n_channels = sum(backbone_spec(self.config.backbone).channels)
        shuffled = torch.randperm(n_channels, generator=torch.Generator().manual_seed(0))
        return shuffled[: self.config.n_features].sort().values

    def _sizes(self, shape: WorkingShape) -> tuple[int, int]:
        height, width = backbone_spec(self.config.backbone).map_sizes(shape.cropped)[0]
        return height * width, len(self._channels())


@dataclass(frozen=True, eq=False)
class PadimScorer:
    """Mahalanobis distance at every position, upsampled and blurred; the image score is the map's largest value."""

    whitening: Tensor  # (P, d, d); with tiles, P are the positions of all
    mean: Tensor  # (P, d)
    channels: Tensor  # (d,)
    shape: WorkingShape

    def __call__(self, encoded: list[Tensor]) -> Scored:
        x = concatenate(encoded).to(self.mean)[:, :, self.channels]
        x = x.reshape(-1, *self.mean.shape)  # (B, P, d)
        z = torch.bmm(self.whitening, (x - self.mean).permute(1, 2, 0))  # (P, d, B)
        distances = z.square_().sum(1).sqrt_().T.reshape(-1, *encoded[0].shape[-2:])
        maps = realign(distances.contiguous(), self.shape.cropped)
        return Scored(maps.flatten(1).amax(1), maps)


class PadimLearner(Learner):
    """Sums of vectors and of their products about a first guess of the mean, in memory that does not grow."""

    stage = "computing the covariances"

    def __init__(self, channels: Tensor, device: torch.device, resume_from: State | None = None) -> None:
        self.channels, self.device = channels.to(device), device
        self.n_images = 0
        self.waiting: list[Tensor] = []  # of (n, P, d)
        self.reference: Tensor | None = None  # (P, d): sums about it do not cancel
        self.total: Tensor | None = None  # (P, d)
        self.products: Tensor | None = None  # (P, d, d)
        if resume_from is not None:
            self._resume(resume_from)

    def add(self, encoded: list[Tensor]) -> None:
        self.add_vectors(concatenate(encoded).to(self.device)[:, :, self.channels])

    def add_vectors(self, x: Tensor) -> None:
        """Take in vectors (n, P, d)."""
        self.waiting.append(x)
        if sum(map(len, self.waiting)) >= IMAGES_PER_UPDATE:
            self.flush()

    def flush(self) -> None:
        """Add what waits to the sums."""
        if not self.waiting:
            return
        x = torch.cat(self.waiting)
        self.waiting = []
        if self.reference is None:
            self.reference = x.mean(0)
            self.total = torch.zeros_like(self.reference)
            self.products = torch.zeros(*self.reference.shape, x.shape[2], device=self.device)
        centred = (x - self.reference).transpose(0, 1)  # (P, n, d)
        self.n_images += len(x)
        self.total += centred.sum(1)
        self.products.baddbmm_(centred.mT, centred)

    def finish(self, on_step: OnStep | None = None) -> State:
        """Whiten by the inverse Cholesky factor of the covariance: Σ⁻¹ = WᵀW."""
        self.flush()
        n = self.n_images
        shift = self.total / n
        whitening = self.products  # in place, since it is the largest tensor by far
        identity = torch.eye(shift.shape[1], device=self.device)
        for first in range(0, len(shift), 256):
            block = slice(first, first + 256)
            covariance = (whitening[block] - n * shift[block, :, None] * shift[block, None]) / max(n - 1, 1)
            with decomposing("Lower n_features, or use precision=float32 or another backbone."):
                factor = torch.linalg.cholesky(covariance + RIDGE * identity)
            whitening[block] = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
            if on_step is not None:
                on_step(min(first + 256, len(shift)), len(shift))
        self.products = None
        return {
            "whitening": whitening,
            "mean": self.reference + shift,
            "channels": self.channels,
            "n_images": torch.tensor(n),
        }

    def _resume(self, state: State) -> None:
        """Rebuild the sums from mean and covariance."""
        self.n_images = int(state["n_images"])
        self.reference, self.total = state["mean"].clone(), torch.zeros_like(state["mean"])
        identity = torch.eye(self.reference.shape[1], device=self.device)
        self.products = torch.empty_like(state["whitening"])
        for first in range(0, len(self.reference), 256):
            block = slice(first, first + 256)
            # W = L⁻¹, so that L = W⁻¹ and Σ = LLᵀ.
            factor = torch.linalg.solve_triangular(
                state["whitening"][block], identity.expand_as(state["whitening"][block]), upper=False
            )
            self.products[block] = (factor @ factor.mT - RIDGE * identity) * (self.n_images - 1)

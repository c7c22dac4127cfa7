"""PaDiM: at every position, a Gaussian over a random part of the features.

Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and localization", 2021. P is the
number of positions of the largest map, d the channels kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from admodels.core.method import Cost, Layout, Learner, OnStep, Scored, State, layout_bytes
from admodels.methods.backbone_method import BackboneConfig, BackboneMethod, decomposing
from admodels.methods.eigen import by_blocks
from admodels.methods.feature_maps import concatenate, realign
from admodels.methods.moments import IMAGES_PER_UPDATE, Moments
from admodels.options import option
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.device import timed
from admodels.runtime.quiet import rounds

RIDGE = 0.01  # added to the covariance's diagonal (section III-B)
BLOCK = 64  # positions whose covariances are whitened at a time, in one thread's cache
PROBE_POSITIONS = 1024  # learned on random numbers to estimate the time; fewer would fit in the cache, and mislead


@dataclass(frozen=True)
class PadimConfig(BackboneConfig):
    """Options of PaDiM."""

    n_features: int = option(
        100,
        "Channels to keep, chosen at random; size and time grow with the square.",
        minimum=1,
        maximum=2000,
        common=True,
    )
    shrinkage: float = option(
        0.3,
        "Pull each covariance towards its mean variance, by this part of what is best for estimating it from so few "
        "pictures (OAS); 0 as published.",
        minimum=0,
        maximum=0.9,
        before=0.0,
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
        return PadimLearner(self._channels(), self.config.shrinkage, self.statistics_device, state)

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
            learner.moments.flush()

        adding, finishing = [], []
        for _ in rounds(least=2):
            learner = PadimLearner(torch.arange(d), self.config.shrinkage, self.statistics_device)
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
    """Mean and covariance at every position, in memory that does not grow with the pictures."""

    stage = "computing the covariances"

    def __init__(
        self, channels: Tensor, shrinkage: float, device: torch.device, resume_from: State | None = None
    ) -> None:
        self.channels, self.shrinkage, self.device = channels.to(device), shrinkage, device
        self.moments = Moments(device)
        if resume_from is not None:
            self._resume(resume_from)

    def add(self, encoded: list[Tensor]) -> None:
        self.add_vectors(concatenate(encoded).to(self.device)[:, :, self.channels])

    def add_vectors(self, x: Tensor) -> None:
        """Take in vectors (n, P, d)."""
        self.moments.add(x)

    def finish(self, on_step: OnStep | None = None) -> State:
        """Whiten by the inverse Cholesky factor of the shrunk covariance: Σ⁻¹ = WᵀW."""
        self.moments.flush()
        n_positions, n = self.moments.n_positions, self.moments.n_images
        whitening = self.moments.products  # in place, since it is the largest tensor by far

        def whiten(positions: slice) -> None:
            covariance = _shrunk(self.moments.covariance(positions), n, self.shrinkage)
            with decomposing("Lower n_features, or use precision=float32 or another backbone."):
                factor = torch.linalg.cholesky(covariance)
            identity = torch.eye(factor.shape[1], device=self.device)
            whitening[positions] = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)

        def done(n_done: int) -> None:
            if on_step is not None:
                on_step(n_done, n_positions)

        by_blocks(whiten, n_positions, BLOCK, self.device, done, each_bytes=whitening[0].nbytes)
        self.moments.products = None
        return {
            "whitening": whitening,
            "mean": self.moments.mean(),
            "channels": self.channels,
            "n_images": torch.tensor(n),
        }

    def _resume(self, state: State) -> None:
        """Rebuild the sums from mean and shrunk covariance."""
        n = int(state["n_images"])
        products = torch.empty_like(state["whitening"])

        def rebuild(positions: slice) -> None:
            whitening = state["whitening"][positions]
            identity = torch.eye(whitening.shape[1], device=self.device)
            # W = L⁻¹, so that L = W⁻¹ and Σ = LLᵀ.
            factor = torch.linalg.solve_triangular(whitening, identity.expand_as(whitening), upper=False)
            products[positions] = _unshrunk(factor @ factor.mT, n, self.shrinkage) * (n - 1)

        by_blocks(rebuild, len(products), BLOCK, self.device, each_bytes=products[0].nbytes)
        self.moments.resume(state["mean"], products, n)


def _shrunk(covariance: Tensor, n: int, shrinkage: float) -> Tensor:
    """Covariances (P, d, d) pulled towards their mean variance μ·I by a part of what OAS says, and the ridge.

    Chen, Wiesel, Eldar and Hero, "Shrinkage algorithms for MMSE covariance estimation", 2010, equation 23, in the form
    that scikit-learn has: ρ = min((‖S‖²/d² + μ²) / ((n + 1)(‖S‖²/d² − μ²/d)), 1), which is (1 + c/a)/(n + 1) in terms
    of what is not μ·I: a = ‖S − μI‖²/d² and c = (1 + 1/d)·μ².
    """
    mean, rest = _mean_and_rest(covariance)
    spread = rest.square().mean((1, 2))  # a
    c = (1 + 1 / rest.shape[1]) * mean**2
    rho = ((1 + c / spread.clamp_min(torch.finfo(spread.dtype).tiny)) / (n + 1)).clamp_max(1)
    return rest * (1 - shrinkage * rho)[:, None, None] + _diagonal(mean + RIDGE, rest)


def _unshrunk(shrunk: Tensor, n: int, shrinkage: float) -> Tensor:
    """The covariances that `_shrunk` was given.

    μ stayed as it is; √a became u = √a·(1 − shrinkage·ρ), which is a quadratic equation for √a.
    """
    mean, rest = _mean_and_rest(shrunk)
    mean = mean - RIDGE
    u = rest.square().mean((1, 2)).sqrt()
    c = (1 + 1 / rest.shape[1]) * mean**2
    first, last = n + 1 - shrinkage, shrinkage * c
    root = ((n + 1) * u + ((n + 1) ** 2 * u**2 + 4 * first * last).sqrt()) / (2 * first)
    root = torch.where(root**2 * n < c, u / (1 - shrinkage), root)  # where ρ was cut off at 1
    scale = torch.where(u > 0, root / u.clamp_min(torch.finfo(u.dtype).tiny), 1)
    return rest * scale[:, None, None] + _diagonal(mean, rest)


def _mean_and_rest(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The mean variance μ (P,), and what is left without μ·I (P, d, d)."""
    mean = covariance.diagonal(dim1=1, dim2=2).mean(1)
    return mean, covariance - _diagonal(mean, covariance)


def _diagonal(values: Tensor, like: Tensor) -> Tensor:
    """values·I, (P, d, d), of values (P,)."""
    return torch.eye(like.shape[1], dtype=like.dtype, device=like.device) * values[:, None, None]

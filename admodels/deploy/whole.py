"""A fitted detector as one module, from prepared pixels to scores and maps: what other runtimes are given."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from admodels.core.detector import Detector
from admodels.core.method import Scored, Scorer


class Whole(nn.Module):
    """Encoder and scorer of one detector, in float32 on the CPU."""

    def __init__(self, encoder: nn.Module, scorer: Scorer) -> None:
        super().__init__()
        self.encoder, self.scorer = encoder, scorer

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 RGB (1, h, w, 3), resized and cropped, to `score` (1,), `map` (1, h', w'), and what else there is."""
        scored: Scored = self.scorer(self.encoder(pixels))
        named = {"score": scored.scores, "map": scored.maps} | {f"map_{k}": m for k, m in scored.parts.items()}
        return named if scored.tile_scores is None else named | {"tile_scores": scored.tile_scores[0]}


def in_float32(detector: Detector) -> Detector:
    """The same model in float32 on the CPU, with tensors of its own that can be written down.

    Raises:
        NotFittedError: nothing was learned yet.
    """
    fitted = detector.fitted_
    method = type(detector.method)(replace(detector.config, precision="float32"), device="cpu")
    with torch.inference_mode(False):
        state = {name: tensor.cpu().clone() for name, tensor in fitted.state.items()}
        return Detector(method, replace(fitted, state=state, scorer=method.scorer(state, fitted.shape)))


def whole_detector(detector: Detector) -> Whole:
    """The module of a detector from `in_float32`."""
    return Whole(detector.method.encoder(), detector.fitted_.scorer).eval()

"""How fast a model predicts, measured in a moment: what stands beside a model, not a figure to quote."""

from collections.abc import Sequence

from admodels import Detector
from admodels.core import BATCH_SIZE
from admodels.evaluation import measure_network
from admodels.pictures import ImageLike

# For so long, and at least so often; what is slow only with single pictures.
MEASURED_SECONDS, MEASURED_REPEATS = 0.2, 3
SLOW_SECONDS = 0.1


def batch_seconds(detector: Detector, images: Sequence[ImageLike]) -> dict[int, float]:
    """Batch size to the median time of a batch, from its pixels to scores and maps."""
    found = {}
    for n in (1, BATCH_SIZE):
        batch = [images[i % len(images)] for i in range(n)]
        found[n] = measure_network(detector, batch, MEASURED_SECONDS, MEASURED_REPEATS)[0].p50
        if found[n] > SLOW_SECONDS:
            break
    return found

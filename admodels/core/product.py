"""What good pictures of one product look like as a whole, to tell which saved model a picture is for.

The picture, resized to one small square, goes through one frozen network, whatever the model's own network, size and
device. Of each channel's map the median over a grid of cells is kept: a defect, which covers a part of the picture,
hardly moves it. A product is the descriptors of some good pictures. How far a picture lies from it is the root mean
square, over the channels, of its difference from their mean in units of their spread.

On nine kinds, each known by 32 pictures, all good test pictures and 99 % of the defective ones go to their own product
and the rest are called unknown. A product that is not among the known is unknown as well, unless it is all but like one
of them, as some of these kinds, six papers, are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from admodels.core.calibration import MIN_IMAGES, conformal_threshold
from admodels.pictures.images import ImageSet, read_batches, resize
from admodels.pictures.value_range import ValueRange
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.backbones import get_backbone

NETWORK = "efficientnet_lite0"  # its weights come with a package: there is nothing to download
# Over nine products, all of these sides route good pictures alike; at 128 more defective ones look unknown, and 224
# takes twice as long without finding more.
SIDE, GRID = 160, 10
DESCRIPTOR = f"{NETWORK}, {SIDE} px, medians of {GRID}x{GRID} cells"  # descriptors of another kind do not compare
LENGTH = sum(backbone_spec(NETWORK).channels)
BATCH = 16

# Pictures that a fit or an update looks at, and that a product keeps after updates: 64 or 128 route no better than 32.
MAX_SEEN, MAX_KEPT = 32, 64
# Large pictures take long to decode: fewer of them are looked at. Known by 8, products still get 98 % of their own
# defective pictures.
MAX_DECODED_PIXELS, MIN_OF_LARGE = 16_000_000, 8
# To each channel's variance this part of the squared descriptor is added. Good pictures of one day are often all but
# alike; later ones, or the same ones saved as JPEG or in another light, are not those of another product.
FLOOR = 0.05
UNKNOWN_RATE = 0.05  # of good pictures, at most
# The least threshold, in spreads. Defective pictures lie farther out than good ones: 99 % of them are within it. Within
# 1.4 98 % are, and a few less pictures of look-alike products that are none of the known.
LEAST_THRESHOLD = 1.5


@dataclass(frozen=True, eq=False)
class Product:
    """A product as some of its good pictures show it.

    Attributes:
        descriptors: float32 (n, LENGTH) of n good pictures, from 4 to `MAX_KEPT`.
    """

    descriptors: np.ndarray

    @cached_property
    def threshold(self) -> float:
        """The distance beyond which a picture shows an unknown product.

        It is the conformal threshold for a rate of `UNKNOWN_RATE` over the distance of each picture to the product
        without it (leave-one-out; of fewer than 19 the largest), but at least `LEAST_THRESHOLD`. So at most about that
        part of later good pictures lies beyond it.
        """
        x = self.descriptors.astype(np.float64)
        n, apart = len(x), (x - x.mean(0)) ** 2
        # Mean and variance without one picture, from those of all.
        variances = np.maximum(apart.sum(0) - apart * n / (n - 1), 0) / (n - 2)
        held_out = _root_mean(apart * (n / (n - 1)) ** 2 / _raised(variances, x.mean(0)))
        return max(LEAST_THRESHOLD, conformal_threshold(held_out, UNKNOWN_RATE))

    def distances(self, descriptors: np.ndarray) -> np.ndarray:
        """How far pictures lie from this product, float64 (B,): beyond 1 they show something unknown.

        Args:
            descriptors: float32 (B, LENGTH), as `describe` gives them.
        """
        mean, variances = self._statistics
        return _root_mean((descriptors - mean) ** 2 / variances) / self.threshold

    @cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        x = self.descriptors.astype(np.float64)
        return x.mean(0), _raised(x.var(0, ddof=1), x.mean(0))


def describe(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """What pictures look like as a whole, float32 (B, LENGTH); one pass of the network for all of them.

    Args:
        pictures: uint8 RGB H×W×3 of any sizes, at least one.
    """
    return _described(torch.from_numpy(np.stack([_small(pixels) for pixels in pictures])))


def describe_some(images: ImageSet, groups: Sequence[int], value_range: ValueRange | None, seed: int) -> np.ndarray:
    """What some pictures of a set look like as a whole: at most `MAX_SEEN`, chosen by `seed`; float32 (n, LENGTH).

    Args:
        groups: as for `split_held_out`; of exact copies one counts.
        value_range: which values are black and white in pictures of more than 8 bits.

    Raises:
        ImageSetError: pictures cannot be used.
    """
    largest = max(height * width for height, width in images.sizes)
    n = min(MAX_SEEN, max(MIN_OF_LARGE, MAX_DECODED_PIXELS // largest))
    chosen = [images.images[i] for i in sorted(np.random.default_rng(seed).permutation(sorted(set(groups)))[:n])]
    batches = read_batches(chosen, _small, BATCH, value_range)
    return np.concatenate([_described(torch.from_numpy(batch)) for batch in batches])


def joined(product: Product | None, later: np.ndarray) -> Product | None:
    """A product with the descriptors of an update.

    Where there would be more than `MAX_KEPT`, earlier ones make room: the later are learned from because the earlier do
    not show all.

    Returns:
        None where nothing is known of earlier pictures, and the later ones are too few to know a product by.
    """
    if product is None:
        return Product(later) if len(later) >= MIN_IMAGES else None
    earlier, room = product.descriptors, MAX_KEPT - len(later)
    if len(earlier) > room:
        earlier = earlier[np.linspace(0, len(earlier) - 1, room).round().astype(int)]
    return Product(np.concatenate([earlier, later]))


def _small(pixels: np.ndarray) -> np.ndarray:
    return resize(pixels, (SIDE, SIDE))


def _described(batch: torch.Tensor) -> np.ndarray:
    # On the CPU in float32 always: a product fitted on a GPU is compared with pictures seen without one.
    maps = get_backbone(NETWORK, torch.device("cpu"), "float32").features(batch)
    with torch.inference_mode():
        return torch.cat([F.adaptive_avg_pool2d(m, GRID).flatten(2).median(2).values for m in maps], 1).numpy()


def _raised(variances: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Variances of the channels (..., LENGTH) with the floor under them; above 0 for descriptors that are all 0."""
    return variances + FLOOR * (mean**2).mean() + np.finfo(np.float32).tiny


def _root_mean(squares: np.ndarray) -> np.ndarray:
    return np.sqrt(squares.mean(-1))

"""Which of several products a picture shows: the nearest one, if it is near enough to be one of them at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from admodels.core.product import Product, describe
from admodels.errors import DataError
from admodels.pictures.images import DecodedImage

# With it `sure` is about the part of such answers that are right: over nine products, each left out in turn, 51 % of
# those from 0.5 to 0.7, 78 % of those to 0.8, 90 % to 0.9, 95 % to 0.95, 92 % to 0.99, and 99.9 % beyond.
SHARPNESS = 10
NEAREST = 1e-3  # distances below it count as it


@dataclass(frozen=True)
class Routed:
    """Which product a picture shows.

    Attributes:
        name: of the nearest product; None where the picture shows none of them.
        sure: this answer's share of all answers' weights. A product weighs its distance to the power of −10; "unknown"
            weighs 1, as a product at distance 1 would. So it is near 1 where no other answer is close, and 1/2 where
            one other is as close. Of answers with a share from 0.5 up, about that part is right where half of the
            pictures are of unknown products.
        distances: of each product, by name, in units of its threshold: beyond 1 it is not this product.
    """

    name: str | None
    sure: float
    distances: Mapping[str, float]


def route(picture: DecodedImage | np.ndarray, products: Mapping[str, Product]) -> Routed:
    """Which of these products a picture shows; the arguments are `route_all`'s."""
    return route_all([picture], products)[0]


def route_all(pictures: Sequence[DecodedImage | np.ndarray], products: Mapping[str, Product]) -> list[Routed]:
    """Which of these products each picture shows, from one pass of the network, however many products there are.

    Args:
        pictures: decoded, or uint8 RGB H×W×3. Pictures of more than 8 bits must be read on the models' scale; where
            models have several, use `describe`, `Product.distances` and `routed` for each.
        products: by name, such as `detector.fitted_.product` by the model's name.

    Raises:
        DataError: there are no products.
    """
    if not pictures:
        return []
    found = describe([item.pixels if isinstance(item, DecodedImage) else item for item in pictures])
    by_name = {name: product.distances(found).tolist() for name, product in products.items()}
    return [routed({name: values[i] for name, values in by_name.items()}) for i in range(len(pictures))]


def routed(distances: Mapping[str, float]) -> Routed:
    """The answer that follows from a picture's distance to each product, by name.

    Raises:
        DataError: there are no products.
    """
    if not distances:
        raise DataError("there are no products to choose from. Give the product of one fitted model, or of more.")
    nearest = min(distances, key=lambda name: distances[name])
    weights = {name: max(distance, NEAREST) ** -SHARPNESS for name, distance in distances.items()}
    is_known = distances[nearest] <= 1
    own = weights[nearest] if is_known else 1.0
    return Routed(nearest if is_known else None, own / (sum(weights.values()) + 1.0), dict(distances))

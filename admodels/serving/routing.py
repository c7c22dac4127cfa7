"""Which saved model a picture is for, where `auto` stands in place of a model's name."""

from collections.abc import Mapping
from typing import Any

from admodels.core.product import describe
from admodels.core.routing import Routed, routed
from admodels.errors import ImageError
from admodels.pictures.images import ImageLike, decode
from admodels.serving.models import Known

UNKNOWN = "unknown product"  # in place of a verdict


def choose(image: ImageLike, name: str, known: Mapping[str, Known]) -> Routed:
    """The saved model whose good pictures this one resembles.

    A picture of more than 8 bits is read on the scale of each model, as that will read it.

    Args:
        known: models by reference; those without a product are passed over.

    Raises:
        ImageError: the picture cannot be used with any of them.
    """
    by_range: dict[Any, list[str]] = {}
    for reference, model in known.items():
        if model.product is not None:
            by_range.setdefault(model.value_range, []).append(reference)
    distances: dict[str, float] = {}
    error = None
    for value_range, references in by_range.items():
        try:
            found = describe([decode(image, name=name, value_range=value_range).pixels])
        except ImageError as failed:
            error = failed
            continue
        distances |= {reference: float(known[reference].product.distances(found)[0]) for reference in references}
    if error is not None and not distances:
        raise error
    return routed(distances)


def said_of(choice: Routed, known: Mapping[str, Known]) -> dict[str, Any]:
    """What a program is told of the choice."""
    return {
        "model": choice.name,
        "sure": round(choice.sure, 4),
        "distances": {name: round(distance, 4) for name, distance in sorted(choice.distances.items())},
        "not_considered": not_considered(known),
    }


def not_considered(known: Mapping[str, Known]) -> list[str]:
    """Saved models that no picture goes to, since they do not say what their product looks like."""
    return sorted(name for name, model in known.items() if model.product is None)


def of_unknown(name: str) -> dict[str, Any]:
    """A picture that no saved model is for: nothing is said of it."""
    nothing = dict.fromkeys(("score", "threshold", "p_value", "is_anomalous"))
    return {"picture": name, **nothing, "verdict": UNKNOWN, "notices": []}

"""Which product pictures are routed to, over several kinds together, and what is called unknown.

    python -m tests.core.measure_routing ROOT[@N]...

Of each kind only the product is made, from its good training pictures (`ROOT@N`: from N of them, chosen by seed 0); no
method is fitted. All test pictures of all kinds are routed among all products. Then each kind is left out in turn: its
pictures should be called unknown. Then, how often answers of a `sure` are right, over both together: half of these
pictures are of a known product, half are not. Last, what becomes of good pictures that are changed a little.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.table import Table

from admodels.core.fitting import duplicate_groups
from admodels.core.product import Product, describe, describe_some
from admodels.core.routing import Routed, routed
from admodels.evaluation.datasets import TestImage
from admodels.evaluation.robustness import CHANGES
from admodels.pictures.images import decode, inspect_set
from admodels.pictures.value_range import ValueRange, choose_value_range
from admodels.runtime.memory import keep_freed_memory
from tests.evaluation.measure_accuracy import sets

BATCH = 16
MAX_CHANGED = 24  # good pictures of each kind
SURE = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Answer:
    """What was said of one picture of a kind: among all products, and with its own left out."""

    kind: str
    is_defective: bool
    found: Routed
    left_out: Routed


def main() -> None:
    """Print a row for each kind, and how often the answers are right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("roots", nargs="+")
    asked = parser.parse_args()
    keep_freed_memory()
    products, tests, seconds = {}, {}, {}
    for name, data, train in sets(asked.roots):
        looked_at = inspect_set(train)
        value_range = choose_value_range(looked_at.deep)
        started = time.perf_counter()
        products[name] = Product(describe_some(looked_at, duplicate_groups(looked_at), value_range, 0))
        seconds[name] = time.perf_counter() - started
        tests[name] = (data.test, value_range)
    answers = [answer for name, test in tests.items() for answer in answered(name, test, products)]
    columns = ("right", "unknown", "wrong")
    head = [f"{kind}: {column}" for kind in ("good", "defective") for column in columns]
    table = Table("kind", "pictures", "ms", *head, "left out: unknown", "else taken for", title="routed")
    for name in (*products, "all"):
        own = [answer for answer in answers if name in ("all", answer.kind)]
        n = len(products[name].descriptors) if name in products else 0
        cost = (str(n), f"{seconds[name] * 1000:.0f}") if n else ("", "")
        taken_for = [a.left_out.name for a in own if a.left_out.name is not None]
        others = ", ".join(f"{other} {taken_for.count(other)}" for other in dict.fromkeys(taken_for)) if n else ""
        unknown = f"{len(own) - len(taken_for)} of {len(own)}"
        table.add_row(name, *cost, *counts(own, False), *counts(own, True), unknown, others)
    Console(width=240).print(table, sure_table(answers), changed_table(tests, products))


Test = tuple[list[TestImage], ValueRange | None]


def answered(name: str, test: Test, products: dict[str, Product]) -> list[Answer]:
    """The answers for all test pictures of a kind."""
    found = []
    for item, distances in zip(test[0], distances_of(test, products), strict=True):
        others = {other: distance for other, distance in distances.items() if other != name}
        found.append(Answer(name, item.is_defective, routed(distances), routed(others)))
    return found


def distances_of(
    test: Test, products: dict[str, Product], change: Callable[[np.ndarray], np.ndarray] | None = None
) -> list[dict[str, float]]:
    """How far each picture, changed or not, lies from each product."""
    items, value_range = test
    found = []
    for first in range(0, len(items), BATCH):
        pictures = [decode(item.path, value_range=value_range).pixels for item in items[first : first + BATCH]]
        described = describe([change(pixels) for pixels in pictures] if change else pictures)
        by_name = {name: product.distances(described).tolist() for name, product in products.items()}
        found += [{name: values[i] for name, values in by_name.items()} for i in range(len(pictures))]
    return found


def counts(answers: list[Answer], is_defective: bool) -> list[str]:
    """How many of one sort of picture are routed right, called unknown, and routed wrong."""
    of = [answer for answer in answers if answer.is_defective == is_defective]
    right = sum(answer.found.name == answer.kind for answer in of)
    unknown = sum(answer.found.name is None for answer in of)
    share = f" ({right / len(of):.1%})" if of else ""
    return [f"{right} of {len(of)}{share}", str(unknown), str(len(of) - right - unknown)]


def sure_table(answers: list[Answer]) -> Table:
    """How many answers of each `sure` there are, and the part of them that is right."""
    sure = np.array([a.found.sure for a in answers] + [a.left_out.sure for a in answers])
    right = np.array([a.found.name == a.kind for a in answers] + [a.left_out.name is None for a in answers])
    table = Table("sure", "answers", "right", title="how sure, and how often right")
    for low, high in pairwise(SURE):
        chosen = (sure > low) & (sure <= high)
        if chosen.any():
            table.add_row(f"{low:g} to {high:g}", str(int(chosen.sum())), f"{right[chosen].mean():.1%}")
    return table


def changed_table(tests: dict[str, Test], products: dict[str, Product]) -> Table:
    """What good pictures are called after each of the usual changes."""
    table = Table("change", "right", "unknown", "wrong", title="good pictures that are changed")
    for change, changed in CHANGES.items():
        said = []
        for name, (items, value_range) in tests.items():
            good = [item for item in items if not item.is_defective][:MAX_CHANGED]
            answers = [routed(d).name for d in distances_of((good, value_range), products, changed)]
            said += ["right" if answer == name else "wrong" if answer else "unknown" for answer in answers]
        n = {what: said.count(what) for what in ("right", "unknown", "wrong")}
        table.add_row(
            change, f"{n['right']} of {len(said)} ({n['right'] / len(said):.1%})", str(n["unknown"]), str(n["wrong"])
        )
    return table


if __name__ == "__main__":
    main()

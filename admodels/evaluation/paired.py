"""Two models on the same labelled pictures: on which their verdicts differ, and whether chance alone would do that."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from admodels.core.detector import Detector
from admodels.errors import DataError
from admodels.evaluation.accuracy import Accuracy

LIKELY_CHANCE = 0.05  # a p-value above it is called one


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How many pictures two models judge rightly: found where defective, passed where good.

    Attributes:
        n_both, n_first_only, n_second_only, n_neither: who judges a picture rightly; together they are all pictures.
    """

    n_both: int
    n_first_only: int
    n_second_only: int
    n_neither: int

    @property
    def n(self) -> int:
        """How many pictures there are."""
        return self.n_both + self.n_first_only + self.n_second_only + self.n_neither

    @property
    def n_different(self) -> int:
        """On how many the verdicts differ."""
        return self.n_first_only + self.n_second_only

    @property
    def p_value(self) -> float:
        """Of the exact McNemar test that both judge equally many rightly, in (0, 1]."""
        return mcnemar(self.n_first_only, self.n_second_only)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The verdicts of two models on the same labelled pictures, each at its own threshold."""

    defective: Outcomes
    good: Outcomes

    @property
    def whole(self) -> Outcomes:
        """Defective and good pictures together."""
        return Outcomes(**{name: getattr(self.defective, name) + value for name, value in vars(self.good).items()})

    def counts(self) -> dict[str, dict[str, Any]]:
        """The fields of `Outcomes` with `p_value`, of "defective", "good" and "all" pictures."""
        found = {"defective": self.defective, "good": self.good, "all": self.whole}
        return {kind: vars(outcomes) | {"p_value": outcomes.p_value} for kind, outcomes in found.items()}

    def statement(self, first: str = "this one", second: str = "the other model") -> str:
        """What differs, in few sentences, and whether that may be chance.

        Args:
            first, second: what the models are called; the sentences are about the second.
        """
        whole = self.whole
        if not whole.n_different:
            return f"Both models give the same verdict on {_all_of(whole.n)}: {self._alike()}."
        said = [self._found(first, second), self._alarms(first, second)]
        return " ".join(line for line in (*said, self._chance()) if line)

    def _alike(self) -> str:
        parts = [f"{self.defective.n_neither} of {self.defective.n} defective ones missed"] if self.defective.n else []
        parts += [f"{self.good.n_neither} of {self.good.n} good ones alarm"] if self.good.n else []
        return ", ".join(parts)

    def _found(self, first: str, second: str) -> str:
        gained, lost = self.defective.n_second_only, self.defective.n_first_only
        if not self.defective.n:
            return ""
        if not gained and not lost:
            return f"Both models find the same defective pictures, {self.defective.n_both} of {self.defective.n}."
        subject = second[:1].upper() + second[1:]
        if not gained:
            return f"{subject} misses {_defects(lost)} that {first} finds, and finds none that {first} misses."
        return (
            f"{subject} finds {_defects(gained)} that {first} misses, and misses {lost or 'none'} that {first} finds."
        )

    def _alarms(self, first: str, second: str) -> str:
        good = self.good
        if not good.n:
            return ""
        of_first, of_second = good.n_neither + good.n_second_only, good.n_neither + good.n_first_only
        others = ", not all on the same pictures" if good.n_different and of_first == of_second else ""
        return f"False alarms: {of_second} with {second}, {of_first} with {first}{others}."

    def _chance(self) -> str:
        whole, test = self.whole, f"exact McNemar test, {_p(self.whole.p_value)}"
        of_first, of_second = whole.n_neither + whole.n_second_only, whole.n_neither + whole.n_first_only
        wrong = f"Wrong verdicts in all: {of_second} against {of_first}"
        if whole.p_value <= LIKELY_CHANCE:
            return f"{wrong}; chance alone would rarely make such a difference with {whole.n} pictures ({test})."
        chance = f"; with {whole.n} pictures such a difference may be chance" if of_first != of_second else ""
        # More defects found for more false alarms: no fewer errors, and no chance either.
        apart = {"defective": self.defective.p_value, "good": self.good.p_value}
        sure = [f"the {kind} ones ({_p(value)})" for kind, value in apart.items() if value <= LIKELY_CHANCE]
        differences = "difference" if len(sure) == 1 else "differences"
        more = f" Taken alone, the {differences} on {' and '.join(sure)} can hardly be chance." if sure else ""
        return f"{wrong}{chance} ({test}).{more}"


def compare_verdicts(first: Accuracy, second: Accuracy) -> Paired:
    """Set two models' verdicts on the same pictures against each other.

    Raises:
        DataError: the pictures are not the same, or not in the same order.
    """
    if [(p.name, p.kind) for p in first.pictures] != [(p.name, p.kind) for p in second.pictures]:
        raise DataError(
            f"the two models were measured on different pictures ({first.n_test} and {second.n_test}). Measure both on "
            "the same ones, in the same order."
        )
    labels = first.labels
    return Paired(
        defective=_outcomes(first.is_right[labels], second.is_right[labels]),
        good=_outcomes(first.is_right[~labels], second.is_right[~labels]),
    )


def mcnemar(n_first_only: int, n_second_only: int) -> float:
    """Two-sided p-value of the exact McNemar test (McNemar 1947; the binomial form), in (0, 1].

    How likely a split at least as uneven is if each picture that only one model judges rightly is as likely that of
    the one as of the other; 1 where there is no such picture.

    Args:
        n_first_only, n_second_only: pictures that only the one, and only the other, judges rightly.
    """
    from scipy.stats import binomtest  # here, since it takes a while that only a comparison needs

    n = n_first_only + n_second_only
    return float(binomtest(n_first_only, n, 0.5).pvalue) if n else 1.0


def is_same_model(first: Detector, second: Detector) -> bool:
    """Whether two fitted detectors score alike: method, options and all that was learned are equal.

    Their thresholds may differ. One that was saved and loaded is the same as before.
    """
    one, other = first.fitted_.state, second.fitted_.state
    if one is other:
        return True
    if (first.key, first.config.stored(), one.keys()) != (second.key, second.config.stored(), other.keys()):
        return False
    return all(_equal(one[name], other[name]) for name in one)


def count_rows(verdicts: Paired, first: str, second: str) -> list[list[str]]:
    """On how many pictures which of both is right, as a table, its header first.

    Args:
        first, second: what the models are called.
    """
    rows = [["right", "both", f"only {first}", f"only {second}", "neither", "McNemar p"]]
    for kind, found in verdicts.counts().items():
        *counts, p_value = found.values()
        rows.append([kind, *map(str, counts), f"{p_value:.2g}" if sum(counts) else "–"])
    return rows


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    is_alike = one.dtype == other.dtype and one.shape == other.shape
    return is_alike and torch.equal(one.to(other.device), other)


def _outcomes(first: np.ndarray, second: np.ndarray) -> Outcomes:
    """Of bool (n,) each: which pictures the model judges rightly."""
    return Outcomes(
        n_both=int((first & second).sum()),
        n_first_only=int((first & ~second).sum()),
        n_second_only=int((~first & second).sum()),
        n_neither=int((~first & ~second).sum()),
    )


def _all_of(n: int) -> str:
    return f"all {n} pictures" if n > 1 else "the one picture"


def _defects(n: int) -> str:
    return f"{n} defective picture{'s' if n != 1 else ''}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"

"""Fitting a method: which pictures are held out, learning from the others, and the threshold from those held out."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from admodels.core.batches import finish_progress, prepared_batches
from admodels.core.calibration import (
    DEFAULT_FOLDS,
    MAX_CROSS_IMAGES,
    MIN_IMAGES,
    Calibration,
    HeldOutScores,
    check_finite,
    split_folds,
    split_held_out,
)
from admodels.core.method import Checkpoint, Method, Scorer, State
from admodels.core.product import Product, describe_some, joined
from admodels.core.results import FitReport, OnProgress, Origin, Progress
from admodels.errors import DataError, ImageSetError, OptionError
from admodels.pictures.images import ImageLike, ImageSet, inspect_set
from admodels.pictures.value_range import choose_value_range, parse_value_range
from admodels.pictures.working_shape import WorkingShape, choose_working_shape
from admodels.runtime.exact import exact_products
from admodels.runtime.memory import PeakMemory
from admodels.runtime.quiet import fitting

MAX_KEPT_BYTES = 2**30  # of encoded pictures, where folds are the default
N_HELD_OUT_PARTS = 4  # one after the other they are scored and then learned from


@dataclass(frozen=True, eq=False)
class Fitted:
    """What was learned, as one value: it is replaced, never changed.

    Attributes:
        scorer: what the method made of state and shape.
        origin: of a model that was saved before; None where it was fitted here.
        held_out: of the pictures that set the threshold in the last fit or update, position among those given and
            score, the most unusual first; not saved.
        held_out_maps: the anomaly maps (h, w) of the first of them, by position.
        product: what the good pictures look like as a whole, to tell which model a picture is for; None in models
            saved before it was kept.
    """

    state: State
    shape: WorkingShape
    calibration: Calibration
    report: FitReport
    scorer: Scorer = field(repr=False)
    origin: Origin | None = None
    held_out: tuple[tuple[int, float], ...] = ()
    held_out_maps: Mapping[int, Tensor] = field(default_factory=dict, repr=False)
    product: Product | None = field(default=None, repr=False)

    @property
    def model_mib(self) -> float:
        """Size of the state in MiB."""
        return sum(tensor.nbytes for tensor in self.state.values()) / 2**20


def fit(
    method: Method,
    images: Iterable[ImageLike] | ImageSet | str | Path,
    *,
    false_alarm_rate: float,
    held_out_ratio: float,
    n_folds: int | None,
    seed: int,
    on_progress: OnProgress | None,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Learn from good pictures, and set the threshold from those held out.

    Arguments and errors are `Detector.fit`'s.
    """
    started = time.perf_counter()
    images = _readable(images)
    shape = shape_for(method, images)
    n_folds, groups = n_folds_for(method, n_folds, len(images.images), shape), duplicate_groups(images)
    if checkpoint is not None:
        if n_folds or not method.can_pause:
            raise OptionError(f"a fit of {method.title}{' in folds' * bool(n_folds)} cannot be resumed. Start it anew.")
        started -= checkpoint["seconds"]
    with PeakMemory(method.device) as peak, fitting(), exact_products(method.device):
        if n_folds:
            folds = split_folds(groups, n_folds, seed)
            n_learned = n_held_out = len(images.images)
            n_later = 0
            state, scored = _cross_fit(method, images.images, shape, folds, on_progress)
            n_folds, positions = len(folds), [position for fold in folds for position in fold]
        else:
            first, positions = split_held_out(groups, held_out_ratio, seed)
            learned = [images.images[i] for i in first]
            if checkpoint is None:
                state = method.learn(shape, learned, on_progress)
            else:
                learner = method.learner(shape, len(learned))
                learner.resume(checkpoint)
                state = method.learn_with(learner, shape, learned, on_progress)
            state, scored = _scored(method, state, shape, [images.images[i] for i in positions], on_progress)
            n_held_out, n_later = len(positions), len(positions) * method.learns_held_out
            n_learned = len(first) + n_later
        calibration = scored.calibration(false_alarm_rate, n_folds)
        scorer = method.scorer(state, shape)
        product = Product(describe_some(images, groups, shape.value_range, seed))
    seconds = time.perf_counter() - started
    check_finite("what was learned", *state.values())
    notices = images.notices
    if images.deep:
        low, high = shape.value_range
        notices += (f"Values of more than 8 bits are read from {low:g} (black) to {high:g} (white).",)
    report = FitReport(
        n_learned, n_held_out, images.n_duplicates, seconds, peak.mib, calibration.n_folds, notices, n_later
    )
    held_out, maps = _by_score(positions, scored)
    return Fitted(state, shape, calibration, report, scorer, held_out=held_out, held_out_maps=maps, product=product)


def update(
    method: Method,
    before: Fitted,
    images: Iterable[ImageLike] | ImageSet | str | Path,
    *,
    held_out_ratio: float,
    seed: int,
    on_progress: OnProgress | None,
) -> Fitted:
    """Learn from more good pictures; arguments and errors are `Detector.update`'s."""
    started, shape, report = time.perf_counter(), before.shape, before.report
    images = _readable(images)
    groups = duplicate_groups(images)
    if method.learns_held_out and 0 < len(set(groups)) < MIN_IMAGES:  # each is scored first, and then learned from
        first, positions = [], sorted(set(groups))
    else:
        first, positions = split_held_out(groups, held_out_ratio, seed)
    learned, held_out = ([images.images[i] for i in chosen] for chosen in (first, positions))
    with PeakMemory(method.device) as peak, fitting(), exact_products(method.device):
        state = before.state
        if learned:
            learner = method.learner(shape, len(learned), state)
            state = method.learn_with(learner, shape, learned, on_progress)
        state, scored = _scored(method, state, shape, held_out, on_progress)
        calibration = scored.calibration(before.calibration.false_alarm_rate)
        scorer = method.scorer(state, shape)
        product = joined(before.product, describe_some(images, groups, shape.value_range, seed))
    n_later = len(held_out) * method.learns_held_out
    check_finite("what was learned", *state.values())
    report = FitReport(
        report.n_learned + len(learned) + n_later,
        report.n_held_out + len(held_out),
        report.n_duplicates + images.n_duplicates,
        report.seconds + time.perf_counter() - started,
        max(report.peak_memory_mib, peak.mib),
        report.n_folds,
        tuple(dict.fromkeys(report.notices + images.notices)),
        report.n_learned_later + n_later,
    )
    calibration = before.calibration.joined(calibration)
    held_out, maps = _by_score(positions, scored)
    return Fitted(state, shape, calibration, report, scorer, held_out=held_out, held_out_maps=maps, product=product)


def restore(
    method: Method,
    state: State,
    shape: WorkingShape,
    calibration: Calibration,
    report: FitReport,
    origin: Origin | None = None,
    product: Product | None = None,
) -> Fitted:
    """What was learned before, as a saved model holds it; the state's layout was checked.

    Raises:
        ValueError: its tensors contradict each other.
    """
    state = {name: tensor.to(method.statistics_device) for name, tensor in state.items()}
    with torch.inference_mode(), exact_products(method.device):
        scorer = method.scorer(state, shape)
    return Fitted(state, shape, calibration, report, scorer, origin, product=product)


def _readable(images: Iterable[ImageLike] | ImageSet | str | Path) -> ImageSet:
    """The pictures, looked at.

    Raises:
        DataError: what was given is no set of pictures.
        ImageSetError: pictures cannot be read; all of them are named.
    """
    looked_at = images if isinstance(images, ImageSet) else inspect_set(images)
    if looked_at.errors:
        raise ImageSetError(looked_at.errors, len(looked_at.images) + len(looked_at.errors))
    return looked_at


def shape_for(method: Method, images: ImageSet) -> WorkingShape:
    """How a model of these pictures looks at them: size, crop, and the scale of values of more than 8 bits.

    Raises:
        DataError: there are no pictures.
        OptionError: the pictures allow none; the message says what to set.
    """
    if not images.sizes:
        raise DataError("no pictures were given. Give good pictures: a list of them, a folder or a zip.")
    config = method.config
    shape = choose_working_shape(config.image_size, config.crop, config.keep_aspect, images.sizes)
    method.check_shape(shape)
    asked = parse_value_range(config.value_range)
    return replace(shape, value_range=asked or choose_value_range(images.deep))


def n_folds_for(method: Method, asked: int | None, n_images: int, shape: WorkingShape) -> int:
    """Into how many folds pictures are split; 0 is one split.

    Raises:
        OptionError: the method cannot learn in so many.
    """
    if asked is not None:
        method.check_folds(asked)
        return asked
    if not method.folds_by_default or n_images > MAX_CROSS_IMAGES:
        return 0
    return DEFAULT_FOLDS if n_images * method.encoded_bytes(shape) <= MAX_KEPT_BYTES else 0


def duplicate_groups(images: ImageSet) -> list[int]:
    """A number for each picture; exact copies have the same one, so that no copy is held out from the other."""
    groups = list(range(len(images.images)))
    for duplicates in images.duplicates:
        for position in duplicates:
            groups[position] = duplicates[0]
    return groups


def _by_score(positions: list[int], scored: HeldOutScores) -> tuple[tuple[tuple[int, float], ...], dict[int, Tensor]]:
    """Positions and scores of the pictures held out, the highest first, and the maps that were kept, by position."""
    ranked = tuple(sorted(zip(positions, scored.in_order, strict=True), key=lambda pair: -pair[1]))
    return ranked, {positions[i]: kept for i, kept in scored.maps.items()}


def _cross_fit(
    method: Method,
    images: list[ImageLike],
    shape: WorkingShape,
    folds: list[list[int]],
    on_progress: OnProgress | None,
) -> tuple[State, HeldOutScores]:
    """The state learned from all pictures, and the scores of each from a model that did not learn from it.

    The scores come fold by fold, each in its pictures' order.

    The network, by far the slowest part, sees every picture once: its encoded batches are kept.
    """
    fold_of = torch.empty(len(images), dtype=torch.long)
    for number, fold in enumerate(folds):
        fold_of[fold] = number
    held_out, started, done = HeldOutScores(), time.perf_counter(), 0
    with torch.inference_mode():
        prepared = prepared_batches(images, shape, method.batch_size(shape), "learning", on_progress, method.device)
        batches = [method.encode(batch) for batch in prepared]
        folds_of = fold_of.split([len(encoded[0]) for encoded in batches])

        def parts(wanted: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
            for encoded, numbers in zip(batches, folds_of, strict=True):
                chosen = wanted(numbers).nonzero()[:, 0].to(encoded[0].device)
                if len(chosen):
                    yield [m[chosen] for m in encoded]

        def learn(encoded: Iterable[list[Tensor]], n: int, on_progress: OnProgress | None = None) -> State:
            learner = method.learner(shape, n)
            for part in encoded:
                learner.add(part)
            return learner.finish(finish_progress(learner.stage, on_progress))

        state = learn(batches, len(images), on_progress)
        for number, fold in enumerate(folds):
            others = parts(lambda of: of != number)  # noqa: B023 - used up before the next fold
            scorer = method.scorer(learn(others, len(images) - len(fold)), shape)
            for part in parts(lambda of: of == number):  # noqa: B023
                held_out.add(*scorer(part)[:2])
            done += len(fold)
            if on_progress is not None:
                seconds = time.perf_counter() - started
                on_progress(Progress("setting the threshold", done, len(images), seconds))
    return state, held_out


def _scored(
    method: Method,
    state: State,
    shape: WorkingShape,
    held_out: list[ImageLike],
    on_progress: OnProgress | None,
) -> tuple[State, HeldOutScores]:
    """The scores of pictures held out, and the state after the method has learned from those too where it does.

    It scores a part of them, learns from it, and goes on with the next. So every score is of a picture that was not
    learned from, by models that had learned from ever more: closer to the final one than if all were scored first.
    """
    found, done, started = HeldOutScores(), 0, time.perf_counter()

    def tell(*_: object) -> None:
        if on_progress is not None:
            on_progress(Progress("setting the threshold", done, len(held_out), time.perf_counter() - started))

    n_parts = min(N_HELD_OUT_PARTS, len(held_out)) if method.learns_held_out else 1
    ends = [len(held_out) * (i + 1) // n_parts for i in range(n_parts)]
    with torch.inference_mode():
        for first, end in pairwise([0, *ends]):
            scorer = method.scorer(state, shape)
            learner = method.learner(shape, end - first, state) if method.learns_held_out else None
            for batch in prepared_batches(
                held_out[first:end], shape, method.batch_size(shape), "", None, method.device
            ):
                encoded = method.encode(batch)
                found.add(*scorer(encoded)[:2])
                if learner is not None:
                    learner.add(encoded)
                done += len(batch)
                tell()
            if learner is not None:
                state = learner.finish(tell)
    return state, found

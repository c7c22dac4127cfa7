"""What is said of pictures marked as defects, and of good ones that a model is to learn from."""

from admodels import Calibration
from demo.view import text

N_MISSED = 5  # of the marked defects, those that are named


def marked(names: list[str], scores: list[float], calibration: Calibration) -> str:
    """How many of the pictures marked as defects a model finds.

    Args:
        names, scores: of all marked pictures.
    """
    missed = [name for name, score in zip(names, scores, strict=True) if score <= calibration.threshold]
    n = len(names)
    if n == 1:
        said = f"The marked defect {names[0]} is {'missed' if missed else 'found'} by this model."
        return text.note(said, "warning" if missed else "note")
    said = f"{n - len(missed)} of {n} marked defects are found by this model."
    more = f", and {len(missed) - N_MISSED} more" if len(missed) > N_MISSED else ""
    return text.note(f"{said} Missed: {', '.join(missed[:N_MISSED])}{more}.", "warning") if missed else text.note(said)


def marked_here(name: str, score: float, calibration: Calibration, is_kept: bool) -> str:
    """That the picture shown is marked as a defect, whether the threshold in use finds it, and what keeps the mark."""
    is_found = score > calibration.threshold
    more = "" if is_found else f" {_found_at(score, calibration, 'this one')}"
    keep = "" if is_kept else " Save the model to keep the mark with it."
    said = f"{name} is marked as a defect, and {'found' if is_found else 'missed'} at this threshold.{more}{keep}"
    return text.note(said, "note" if is_found else "warning")


def missed_at(names: list[str], scores: list[float], calibration: Calibration) -> str:
    """At which false-alarm rates the marked defects would be found that are missed now; nothing where none is."""
    missed = [(n, s) for n, s in zip(names, scores, strict=True) if s <= calibration.threshold]
    missed = sorted(missed, key=lambda pair: -pair[1])[:N_MISSED]
    said = " ".join(_found_at(score, calibration, name) for name, score in missed)
    return text.note(f"Marked defects: {said}") if missed else ""


def and_marked(n: int) -> tuple[str, ...]:
    """That an evaluation counts marked defects too, as further lines of what was understood."""
    return (f"And {n} picture{'s' if n != 1 else ''} marked as defective in Inspect.",) if n else ()


def with_marked(n: int) -> str:
    """That a model was saved with marked defects."""
    return f", with {n} marked defect{'s' if n != 1 else ''}" if n else ""


def _found_at(score: float, calibration: Calibration, what: str) -> str:
    rate = calibration.finding_rate(score)
    return f"No rate up to 50 % finds {what}." if rate is None else f"At {100 * rate:.3g} % {what} is found."


def to_add(
    names: list[str], calibration: Calibration, n_good: int, after: float | None, n_others: int, n_lost: int
) -> str:
    """What is said before good pictures are added to a model.

    Args:
        n_good: good pictures that the model has learned from.
        after: the threshold then, where it is known.
        n_others: other pictures here that are suspected now, and that threshold would not find.
        n_lost: the same of marked defects.
    """
    kept = f"{len(calibration.scores)} good pictures kept aside"
    what = names[0] if len(names) == 1 else f"{len(names)} pictures"
    said = f"Adds {what} to the {n_good} good pictures of this model."
    if calibration.hand_threshold is not None:
        said += f" The threshold stays at {calibration.threshold:.4g}, as it was set by hand."
    elif after is None:
        said += f" The threshold is set anew, from the {kept} before and from new ones."
    elif after == calibration.threshold:
        said += f" Its score joins those of the {kept}; the threshold stays at {after:.4g}."
    else:
        before, then = text.distinct(calibration.threshold, after)
        said += f" Its score joins those of the {kept}, so the threshold moves from {before} to {then}."
    if n_others:
        said += f" {n_others} more of the pictures suspected here would then be below it."
    if n_lost:
        said += f" {n_lost} marked defect{'s' if n_lost != 1 else ''} would then be missed."
    return text.note(said, "warning" if n_others or n_lost else "note")


def added(names: list[str], before: float, after: float) -> str:
    """That good pictures were added, and what became of the threshold."""
    what = names[0] if len(names) == 1 else f"{len(names)} good pictures"
    if before == after:
        return f"Added {what}. The threshold stays at {after:.4g}."
    shown = text.distinct(before, after)
    return f"Added {what}. The threshold moved from {shown[0]} to {shown[1]}."

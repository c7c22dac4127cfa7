"""Every error this library raises on purpose.

Each message says what came, what was expected and what to do about it, so that a user interface can show it as it is.
"""

from typing import Any


class AdmodelsError(Exception):
    """Base of all errors that a user can act on."""


class OptionError(AdmodelsError, ValueError):
    """An option has an unknown name or a value outside its range."""


class ImageError(AdmodelsError, ValueError):
    """One picture cannot be used; the message names it.

    Attributes:
        picture: the name under which the picture was given.
        reason: what is wrong with it and what to do, without the name.
    """

    def __init__(self, picture: str, reason: str) -> None:
        super().__init__(f"{picture}: {reason}")
        self.picture = picture
        self.reason = reason

    def __reduce__(self) -> tuple:  # raised in a worker's process too
        return type(self), (self.picture, self.reason)


class NotAPictureError(ImageError):
    """What was given as a picture is none, or is in a format that is not read."""


class ImageSetError(AdmodelsError, ValueError):
    """Several pictures of a set cannot be used; `errors` holds one `ImageError` for each."""

    def __init__(self, errors: list[ImageError], n_images: int) -> None:
        lines = "\n".join(f"- {error}" for error in errors)
        which = "it" if len(errors) == 1 else "them"
        super().__init__(f"{len(errors)} of {n_images} pictures cannot be used. Remove or replace {which}:\n{lines}")
        self.errors = errors
        self.n_images = n_images

    def __reduce__(self) -> tuple:
        return type(self), (self.errors, self.n_images)


class NotFittedError(AdmodelsError, RuntimeError):
    """The detector has not learned yet."""


class WeightsError(AdmodelsError, RuntimeError):
    """Backbone weights could not be loaded."""


class StoreError(AdmodelsError):
    """A saved model cannot be found, read, validated or written."""


class ModelNotFoundError(StoreError):
    """There is no saved model of this name."""


class ExportError(AdmodelsError):
    """A model cannot be written for other programs, or such a file cannot be read."""


class OutputError(AdmodelsError):
    """A result cannot be written where it was asked for."""


class HubError(AdmodelsError):
    """A model cannot be pushed to, pulled from or looked for on the Hub."""


class DataError(AdmodelsError, ValueError):
    """A folder does not hold the data set that was expected there."""


class Cancelled(AdmodelsError):  # noqa: N818 - not a mistake of anybody's
    """Raised inside `on_progress` to stop a fit; the detector stays as it was before."""


class Enough(AdmodelsError):  # noqa: N818 - not a mistake of anybody's
    """Raised inside `on_progress` after a training step, to end the training there and keep what was learned."""


class Pause(AdmodelsError):  # noqa: N818 - not a mistake of anybody's
    """Raised inside `on_progress` after a training step, to end the fit there and go on with it later.

    Attributes:
        checkpoint: on its way out of `fit`, what that takes to go on: numbers, lists and tensors on the CPU, as
            `torch.save` writes them. None where the method cannot go on with a fit.
    """

    checkpoint: dict[str, Any] | None = None


class TrainingError(AdmodelsError):
    """A training diverged, or what a network says of the pictures cannot be learned from."""


class ScoreError(AdmodelsError, ArithmeticError):
    """A score, a map or what was learned is not a finite number, so that no verdict could be trusted."""

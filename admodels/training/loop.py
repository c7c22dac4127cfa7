"""Steps until a budget is used up, somebody has seen enough, or the training diverges."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from admodels.core.method import OnStep
from admodels.errors import Cancelled, Enough, TrainingError
from admodels.training.budget import End

STEPS_BETWEEN_LOOKS = 20
LOSS_MEMORY = 0.95
WARM_UP = 0.1  # of a short training


@dataclass
class Position:
    """Where a training stands.

    Attributes:
        n_done: steps.
        seconds: that they took.
        loss: smoothed; None before the first look at it.
    """

    n_done: int = 0
    seconds: float = 0.0
    loss: float | None = None


def train(
    step: Callable[[float], Tensor],
    *,
    end: End | None,
    max_steps: int | None,
    device: torch.device,
    on_step: OnStep | None,
    learning_rate: float,
    position: Position | None = None,
) -> int:
    """Train: how many steps were done, those before included.

    Args:
        step: does one, when a part from 0 to 1 of the training is over, and returns its loss.
        end: when the training has to end; None where there is no limit.
        max_steps: how many steps there are at most; None where there is no limit.
        on_step: is told (done, about how many in all, smoothed loss), and may raise `Enough`.
        learning_rate: as asked for; an error names it.
        position: that it goes on from, kept up to date; None for a training that nobody will go on with.

    Raises:
        TrainingError: the loss is no finite number.
    """
    position = Position() if position is None else position
    smooth, n_done, began = position.loss, position.n_done, time.perf_counter() - position.seconds
    done = _part_done(n_done, began, end, max_steps) if n_done else 0.0
    try:
        if n_done and on_step is not None:
            on_step(n_done, max(n_done, round(n_done / done)), smooth)
        while done < 1:
            loss = step(done)
            n_done += 1
            # An end that comes nearer and goes away again must not turn a schedule back.
            done = max(done, _part_done(n_done, began, end, max_steps))
            # To ask for the loss is to wait for the device, which a GPU would feel in every step.
            if device.type == "cpu" or n_done % STEPS_BETWEEN_LOOKS == 0 or done >= 1:
                value = float(loss)
                if not math.isfinite(value):
                    raise diverged(n_done, value, learning_rate)
                smooth = value if smooth is None else LOSS_MEMORY * smooth + (1 - LOSS_MEMORY) * value
                if on_step is not None:
                    on_step(n_done, max(n_done, round(n_done / done)), smooth)
    except Enough:
        pass
    finally:
        position.n_done, position.seconds, position.loss = n_done, time.perf_counter() - began, smooth
    return n_done


def diverged(step: int, loss: float, learning_rate: float) -> TrainingError:
    """The error of a training that came to nothing."""
    return TrainingError(
        f"the training diverged at step {step} (loss {loss}). Lower learning_rate ({learning_rate:g}), or remove "
        "outlier pictures."
    )


@contextmanager
def before_the_first_step() -> Iterator[None]:
    """Where nothing was learned yet.

    Raises:
        Cancelled: in place of `Enough`, since there is nothing to keep.
    """
    try:
        yield
    except Enough as error:
        raise Cancelled("stopped before the first step: nothing was learned yet") from error


def batches_without_end(
    rng: np.random.Generator, positions: np.ndarray, n: int, order: list[int] | None = None
) -> Iterator[list[int]]:
    """So many of some positions at a time, each taken once before any is taken again.

    Args:
        order: with these it begins; the list always holds those that come next.
    """
    order = [] if order is None else order
    while True:
        while len(order) < n:
            order += rng.permutation(positions).tolist()
        chosen = order[:n]
        del order[:n]
        yield chosen


def rows(tensor: Tensor, chosen: Sequence[int]) -> Tensor:
    """A copy of the chosen rows; a list as index would first be copied to a GPU, after all that runs there."""
    return torch.cat([tensor[i : i + 1] for i in chosen])


def _part_done(n_done: int, began: float, end: End | None, max_steps: int | None) -> float:
    of_time = 0.0
    if end is not None:
        now = time.perf_counter()
        moment = end.moment(n_done, now - began)
        # Where the time was over before the first step, one step is what there is.
        of_time = 1.0 if now >= moment else (now - began) / (moment - began)
    return max(of_time, n_done / max_steps if max_steps is not None else 0.0)


def warmed_up_and_decayed(done: float) -> float:
    """Factor of the learning rate of a short training, of which a part `done` from 0 to 1 is over."""
    return min(1.0, 0.1 + done / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))

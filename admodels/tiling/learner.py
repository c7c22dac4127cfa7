"""A learner made of the learners of all tiles, and the states of all tiles as one."""

import torch
from torch import Tensor

from admodels.core.method import Learner, OnStep, State
from admodels.errors import Cancelled, Enough


class TiledLearner(Learner):
    """Hands every tile to its learner; one learner gets them all.

    Args:
        stacked: names of the state's tensors that are kept as one for all tiles.
    """

    def __init__(self, learners: list[Learner], stacked: set[str]) -> None:
        self.learners: list[Learner | None] = list(learners)
        self.stacked = stacked
        self.stage = learners[0].stage

    def add(self, encoded: list[Tensor]) -> None:
        if len(self.learners) == 1:
            self.learners[0].add([m.flatten(0, 1) for m in encoded])
            return
        for i, learner in enumerate(self.learners):
            learner.add([m[:, i] for m in encoded])

    def finish(self, on_step: OnStep | None = None) -> State:
        states, steps = [], _StepsOfTiles(on_step, len(self.learners))
        for i, learner in enumerate(self.learners):
            self.learners[i] = None  # what it collected is freed before the next one needs room
            states.append(learner.finish(steps.told_by(i)))
        return stacked_state(states, self.stacked)


def stacked_state(states: list[State], stacked: set[str]) -> State:
    """The states of all models as one; those are emptied. `member_state` takes it apart."""
    state: State = {}
    for name in list(states[0]):
        tensors = [s.pop(name) for s in states]
        if name in stacked:
            state[name] = torch.stack(tensors)
        else:
            state |= {numbered(name, i): tensor for i, tensor in enumerate(tensors)}
    return state


def member_state(state: State, i: int) -> State:
    """The state of one model, without a copy."""
    found = {}
    for name, tensor in state.items():
        own, _, number = name.rpartition("@")
        if not own:
            found[name] = tensor[i]
        elif int(number) == i:
            found[own] = tensor
    return found


def is_fixed(size: tuple[int | range, ...]) -> bool:
    """Whether a tensor's shape in a layout is the same whatever the data."""
    return all(isinstance(dim, int) for dim in size)


def numbered(name: str, i: int) -> str:
    """The name of the i-th model's tensor where each has its own."""
    return f"{name}@{i}"


class _StepsOfTiles:
    """Progress of n tiles, one after the other, as that of all; an ensemble is of use when all of them have learned."""

    def __init__(self, on_step: OnStep | None, n: int) -> None:
        self.on_step, self.n = on_step, n
        self.n_before = self.n_done = 0  # steps of the tiles before, and with this one's

    def told_by(self, i: int) -> OnStep | None:
        """What the i-th tile tells its progress to."""
        self.n_before = self.n_done
        if self.on_step is None:
            return None

        def told(done: int, total: int, *loss: float) -> None:
            self.n_done = self.n_before + done
            try:
                # Tiles that train for a time do not know the others' steps: those to come are taken to be as many.
                self.on_step(self.n_done, self.n_before + (self.n - i) * total, *loss)
            except Enough as error:
                if i + 1 < self.n:
                    raise Cancelled(
                        f"stopped at tile {i + 1} of {self.n}, and the others have not learned yet"
                    ) from error
                raise

        return told

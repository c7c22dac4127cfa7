"""Pictures that wait together are scored together, and each request gets its own score."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admodels.core.detector import Prepared
from admodels.errors import ScoreError
from admodels.serving.batches import Batches, Busy, Places

BATCH_SIZE = 4
BROKEN = 13


class Fake:
    """A detector that knows whose pictures it scores, and fails at one of them."""

    batch_size = BATCH_SIZE

    def __init__(self, name):
        self.name, self.batches = name, []

    def predict_prepared(self, prepared):
        values = [int(item.pixels[0]) for item in prepared]
        self.batches.append(values)
        if BROKEN in values:
            raise ScoreError(f"{BROKEN} cannot be scored")
        return [SimpleNamespace(score=(self.name, value)) for value in values]


def picture(value):
    return Prepared(np.array([value]), (1, 1), ())


@contextmanager
def held_up():
    """Batches whose scorer waits until it is let go, so that what follows waits together."""
    go = threading.Event()

    @contextmanager
    def around():
        assert go.wait(60)
        yield

    yield around, go


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), min_size=1, max_size=40))
def test_each_gets_its_own_score_and_no_batch_has_two_models_or_more_than_its_size(asked):
    detectors = [Fake(name) for name in "abc"]
    with held_up() as (around, go):
        batches = Batches(around)
        futures = [batches.score(detectors[which], picture(value)) for which, value in asked]
        go.set()
        for (which, value), future in zip(asked, futures, strict=True):
            if value == BROKEN:
                with pytest.raises(ScoreError):
                    future.result(60)
            else:
                assert future.result(60).prediction.score == ("abc"[which], value)
        batches.close()
    for which, detector in enumerate(detectors):
        of_this = [value for asked_of, value in asked if asked_of == which]
        assert all(len(batch) <= BATCH_SIZE for batch in detector.batches)
        whole = [batch for batch in detector.batches if len(batch) > 1 or BROKEN not in batch]
        assert sorted(v for batch in whole if BROKEN not in batch for v in batch) == sorted(
            v for v in of_this if v != BROKEN
        )


def test_those_that_wait_together_are_one_batch_and_the_longest_wait_comes_first():
    first, second = Fake("first"), Fake("second")
    with held_up() as (around, go):
        batches = Batches(around)
        futures = [batches.score(first, picture(0))]  # the scorer holds it
        while not futures[0].running():
            pass
        futures += [batches.score(d, picture(i)) for i, d in enumerate([second, first, first, second, first], 1)]
        go.set()
        assert [future.result(60).n_batch for future in futures] == [1, 2, 3, 3, 2, 3]
        batches.close()
    assert second.batches == [[1, 4]]
    assert first.batches == [[0], [2, 3, 5]]


def test_who_has_gone_is_not_scored():
    detector = Fake("x")
    with held_up() as (around, go):
        batches = Batches(around)
        running = batches.score(detector, picture(0))
        while not running.running():
            pass
        gone, stays = (batches.score(detector, picture(i)) for i in (1, 2))
        assert gone.cancel()
        go.set()
        assert stays.result(60).n_batch == 1
        batches.close()
    assert detector.batches == [[0], [2]]


def test_there_is_room_for_so_many_pictures_and_bytes_and_it_comes_back():
    places = Places(3, 100)
    with places.take(2, 60):
        with pytest.raises(Busy, match="2 pictures are waiting") as refused, places.take(2, 0):
            pass
        assert refused.value.retry_after == 1
        with pytest.raises(Busy), places.take(1, 41):
            pass
        with places.take(1, 40):
            assert places.taken == 3
    assert places.taken == 0
    with places.take(1, 1000):  # alone, a large one is taken: its own limit is another one
        pass


def test_the_advice_to_try_again_follows_from_what_a_picture_takes():
    places = Places(100, 100)
    for _ in range(60):
        places.learn(0.2)
    with places.take(100, 0):
        with pytest.raises(Busy) as refused, places.take(1, 0):
            pass
        assert refused.value.retry_after == 20


def test_what_fails_around_a_batch_fails_its_pictures_and_no_later_ones():
    fails = iter([True, False])

    @contextmanager
    def around():
        if next(fails):
            raise RuntimeError("no core is free")
        yield

    batches, detector = Batches(around), Fake("x")
    with pytest.raises(RuntimeError, match="no core is free"):
        batches.score(detector, picture(1)).result(60)
    assert batches.score(detector, picture(2)).result(60).prediction.score == ("x", 2)
    batches.close()

"""A short form of the load test: nothing fails, nobody gets another's scores."""

import numpy as np
import pytest

from tests.demo.load.run import TOLERANCE, prepare, run, serve


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("load")
    prepared = prepare(home, {"image_size": 64, "grid": 3})
    with serve(home) as server:
        yield server, *prepared


@pytest.mark.parametrize(("endpoint", "n"), [("/score", 100), ("/inspect", 40)])
def test_many_clients_each_get_their_own_scores(served, endpoint, n):
    server, asked, _ = served
    assert len(asked) == 40
    scores = np.sort([item.score for item in asked])
    assert (np.diff(scores) > 2 * TOLERANCE * scores[1:]).mean() > 0.9  # another's score would be noticed
    found = run(server, asked, endpoint, 20, 0, n)
    assert found.errors == []
    assert found.n_wrong == 0
    assert found.n_requests >= n

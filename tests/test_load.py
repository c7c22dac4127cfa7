"""A short form of the load test: nothing fails, nobody gets another's scores."""

import pytest

from .load.run import prepare, run, serve


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("load")
    prepared = prepare(home, {"image_size": 64, "grid": 3})
    with serve(home) as server:
        yield server, *prepared


@pytest.mark.parametrize(("endpoint", "n"), [("/score", 100), ("/inspect", 40)])
def test_many_clients_each_get_their_own_scores(served, endpoint, n):
    server, asked, alone = served
    assert alone > 0
    assert len({item.score for item in asked}) == len(asked) == 40
    found = run(server, asked, endpoint, 20, 0, n)
    assert found.errors == []
    assert found.n_wrong == 0
    assert found.n_requests >= n
    assert len(found.memory) >= 4

"""`python -m admodels serve` in processes of its own: killed under load, with several workers, asked to end."""

import signal
import threading
from contextlib import suppress

import httpx
import numpy as np
import psutil
import pytest
from joblib import cpu_count

from tests.conftest import until
from tests.demo.load.run import HTTP, TOLERANCE, prepare, run, serve


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with two models, and what they say of pictures."""
    home = tmp_path_factory.mktemp("home")
    return home, prepare(home, {"image_size": 64, "grid": 3})[0]


def ask(client, item):
    answer = client.post(f"{HTTP}?model=local:{item.model}", content=item.picture.read_bytes())
    assert answer.status_code == 200, answer.text
    return answer.json()["score"]


def check(address, work):
    """Every picture has the score that the library gives."""
    with httpx.Client(base_url=address, timeout=60) as client:
        np.testing.assert_allclose([ask(client, item) for item in work], [item.score for item in work], rtol=TOLERANCE)
        return client.get("/v1/models").json()["models"]


def test_many_clients_with_one_picture_each_get_their_own_scores(prepared):
    home, work = prepared
    with serve(home, page=False) as server:
        found = run(server, work, HTTP, 20, 0, 400)
        assert found.errors == []
        assert found.n_wrong == 0
        several = run(server, work, HTTP, 4, 0, 20, 5)
        assert (several.errors, several.n_wrong) == ([], 0)


def test_a_server_killed_under_load_and_started_again_has_its_models_and_scores_the_same(prepared):
    home, work = prepared
    with serve(home, page=False) as (address, process):
        before = check(address, work)
        wrong, n_done, go_on = [], [0], threading.Event()

        def client(number):
            with httpx.Client(base_url=address, timeout=60) as connection:
                for item in (work[number:] + work[:number]) * 1000:
                    try:
                        score = ask(connection, item)
                    except httpx.TransportError:  # it is gone
                        return
                    if abs(score - item.score) > TOLERANCE * item.score:
                        wrong.append(item)
                    n_done[0] += 1
                    go_on.set()

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        assert go_on.wait(60)
        process.kill()
        for thread in threads:
            thread.join()
        assert n_done[0] > 0
        assert wrong == []
    with serve(home, page=False) as (address, _):
        assert check(address, work) == before


def n_answers(address):
    """How many good answers are counted."""
    metrics = httpx.get(f"{address}metrics", timeout=60).text
    counted = [line for line in metrics.splitlines() if line.startswith("admodels_requests_total") and "200" in line]
    return sum(float(line.split()[-1]) for line in counted)


def test_several_workers_score_alike_and_are_counted_together(prepared):
    home, work = prepared
    n_workers = min(2, cpu_count())
    with serve(home, page=False, ADMODELS_WORKERS=str(n_workers), OMP_NUM_THREADS=str(n_workers)) as server:
        address, process = server
        found = run(server, work, HTTP, 8, 0, 100)
        assert (found.errors, found.n_wrong) == ([], 0)
        expected = found.n_requests + 8  # and one of each to load
        until(lambda: n_answers(address) >= expected)  # an answer is counted after it was sent
        assert n_answers(address) == expected
        if n_workers > 1:
            assert len(process.children(recursive=True)) >= n_workers


def test_asked_to_end_it_answers_what_it_has_and_ends(prepared):
    home, work = prepared
    items = [work[0]] * 100
    with serve(home, page=False) as (address, process), httpx.Client(base_url=address, timeout=60) as client:
        check(address, work[:1])
        answers, is_seen = [], False
        files = [("p", ("a.png", item.picture.read_bytes())) for item in items]
        while not is_seen:  # a request may end between two looks
            asking = threading.Thread(
                target=lambda: answers.append(client.post(f"{HTTP}?model=local:{work[0].model}", files=files))
            )
            asking.start()
            while asking.is_alive() and not is_seen:
                is_seen = "admodels_pictures_here 0.0" not in client.get("metrics").text
        process.send_signal(signal.SIGTERM)
        asking.join()
        process.wait(60)
    scores = [row["score"] for row in answers[-1].json()["pictures"]]
    assert scores == pytest.approx([item.score for item in items], rel=TOLERANCE)


def replicas(process):
    """Ray's processes that score."""
    found = []
    for each in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # others come and go
            found += [each] if each.name().endswith(":Replica") else []
    return found


def test_on_ray_two_replicas_score_and_one_killed_under_load_loses_nothing(prepared):
    home, work = prepared
    with serve(home, "--ray", "--replicas", "2", page=False) as server:
        address, process = server
        check(address, work)

        until(lambda: len(replicas(process)) == 2)  # each takes its name some time after its start
        there = replicas(process)
        killed = threading.Timer(2, there[0].kill)
        found = run(server, work, HTTP, 8, 6, 100, on_begin=killed.start)
        killed.join()
        assert not there[0].is_running()
        assert found.errors == []
        assert found.n_wrong == 0
        with httpx.Client(base_url=address, timeout=60) as client:
            missing = client.post(f"{HTTP}?model=nothing", content=work[0].picture.read_bytes())
            assert missing.status_code == 404
            assert "no model named" in missing.json()["detail"]

"""The HTTP interface, through a real client: scores are the library's, and every mistake is named."""

import base64
import dataclasses
import io
import json
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import admodels
from admodels.evaluation.datasets import load_dataset
from admodels.models.store import Store
from admodels.serving import models as serving_models
from tests import HUB
from tests.conftest import EXAMPLES, SMALL, until
from tests.serving.conftest import serving

CLOSE = 1e-4  # relative: sums in another order, where several pictures are scored together
KEY = "a key that nobody guesses"


def encoded(size, kind="png"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 60)).save(buffer, kind)
    return buffer.getvalue()


def asking(client, model, content, n):
    """Answers that will have come once the threads, which each ask for one, have ended."""
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(client.post(f"/v1/score?model={model}", content=content)))
        for _ in range(n)
    ]
    for thread in threads:
        thread.start()
    return found, threads


def test_a_pictures_bytes_are_scored_as_the_library_does(served, store, example):
    for name in ("specks", "other"):
        detector = store.load(name, device="cpu")
        for item in example.test[:4]:
            answer = served.post(f"/v1/score?model=local:{name}&regions=1", content=item.path.read_bytes())
            assert answer.status_code == 200
            said, expected = answer.json(), detector.predict(item.path)
            assert said["score"] == pytest.approx(expected.score, rel=CLOSE)
            assert said["threshold"] == expected.threshold
            assert said["p_value"] == expected.p_value
            assert said["verdict"] == expected.verdict.value
            assert said["is_anomalous"] == expected.is_anomalous
            boxes = [(r["left"], r["top"], r["right"], r["bottom"]) for r in said["regions"]]
            found = expected.regions if expected.is_anomalous else ()
            assert boxes == [(r.left, r.top, r.right, r.bottom) for r in found]
            assert said["model"] == {
                "reference": f"local:{name}",
                "version": store.identity(name),
                "method": detector.key,
            }
            assert {"decoding", "waiting", "scoring"} == said["milliseconds"].keys()
            assert said["total_milliseconds"] > 0


def test_a_form_with_several_pictures_is_answered_in_order_and_by_name(served, store, example):
    items = [example.test[i] for i in (5, 0, 9, 3, 12)]
    answer = served.post("/v1/score?model=specks", files=[("p", (i.path.name, i.path.read_bytes())) for i in items])
    rows, detector = answer.json()["pictures"], store.load("specks", device="cpu")
    assert [row["picture"] for row in rows] == [item.path.name for item in items]
    expected = [detector.predict(item.path).score for item in items]
    assert [row["score"] for row in rows] == pytest.approx(expected, rel=CLOSE)


def test_nothing_is_written_to_disk(store, example, monkeypatch):
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda self: pytest.fail("a part went to disk"))
    buffer = io.BytesIO()
    Image.open(example.test[0].path).resize((1100, 1000)).convert("RGB").save(buffer, "bmp")
    assert len(buffer.getvalue()) > 3_000_000
    with serving(store) as (client, _):
        answer = client.post("/v1/score?model=specks", files=[("p", ("large.bmp", buffer.getvalue()))] * 2)
        assert answer.status_code == 200


def test_a_rate_moves_the_threshold_as_in_the_library(served, store, picture):
    said = served.post("/v1/score?model=specks&rate=0.2", content=picture.read_bytes()).json()
    expected = store.load("specks", device="cpu").with_threshold(false_alarm_rate=0.2).predict(picture)
    assert said["threshold"] == expected.threshold
    assert said["threshold"] != served.post("/v1/score?model=specks", content=picture.read_bytes()).json()["threshold"]


def test_the_map_comes_as_numbers_or_as_a_picture(served, store, picture):
    expected = store.load("specks", device="cpu").predict(picture)
    said = served.post("/v1/score?model=specks&map=npy", content=picture.read_bytes()).json()["map"]
    values = np.load(io.BytesIO(base64.b64decode(said["data"])), allow_pickle=False)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected.anomaly_map, rtol=CLOSE, atol=1e-4)
    assert (said["low"], said["high"], said["threshold"]) == (*expected.scale, expected.map_threshold)
    said = served.post("/v1/score?model=specks&map=png", content=picture.read_bytes()).json()["map"]
    drawn = Image.open(io.BytesIO(base64.b64decode(said["data"])))
    assert drawn.format == "PNG"
    assert drawn.size == Image.open(picture).size
    assert "map" not in served.post("/v1/score?model=specks", content=picture.read_bytes()).json()


@pytest.mark.parametrize(
    ("query", "content", "headers", "status", "says"),
    [
        ("", "picture", {}, 400, "no model is named"),
        ("model=specks&modle=x", "picture", {}, 400, "no parameter 'modle'"),
        ("model=specks&model=other", "picture", {}, 400, "'model' is given 2 times"),
        ("model=nothing", "picture", {}, 404, "no model named 'nothing'. Saved models: other, specks"),
        ("model=../specks", "picture", {}, 422, "names no model"),
        ("model=local:../specks", "picture", {}, 422, "is not a name"),
        ("model=specks&rate=2", "picture", {}, 422, "false_alarm_rate is 2.0"),
        ("model=specks&rate=few", "picture", {}, 422, "rate is 'few'"),
        ("model=specks&map=gif", "picture", {}, 422, "map is 'gif'"),
        ("model=specks", b"", {}, 400, "the body is empty"),
        ("model=specks", b"no picture", {}, 415, "not a picture this program can read"),
        ("model=specks", b'{"a": 1}', {"content-type": "application/json"}, 415, "the body is application/json"),
        ("model=specks", "half", {}, 422, "damaged or incomplete"),
        ("model=specks", encoded((8, 40)), {}, 422, "at least 16×16 are needed"),
        ("model=specks", b"x", {"content-type": "multipart/form-data"}, 400, "form cannot be read"),
        ("model=specks", b"x", {"content-type": "multipart/form-data; boundary=b"}, 400, "form"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_a_status(served, picture, query, content, headers, status, says):
    whole = picture.read_bytes()
    content = {"picture": whole, "half": whole[: len(whole) // 2]}.get(content, content)
    answer = served.post(f"/v1/score?{query}", content=content, headers=headers)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
    assert "\n" not in answer.json()["detail"]


def test_of_several_pictures_all_that_cannot_be_used_are_named_and_none_is_scored(served, picture):
    files = [("p", ("one.png", b"none")), ("p", ("two.png", picture.read_bytes())), ("p", ("three.png", b""))]
    answer = served.post("/v1/score?model=specks", files=files)
    assert answer.status_code == 422
    assert "2 of 3 pictures" in answer.json()["detail"]
    assert "one.png" in answer.json()["detail"]
    assert "three.png" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("form", "says"),
    [({"files": {"p": ("", b"")}}, "no file"), ({"data": {"model": "x"}, "files": {"p": b"x"}}, "'model' is no file")],
)
def test_a_form_has_files_and_nothing_else(served, form, says):
    answer = served.post("/v1/score?model=specks", **form)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


def test_a_request_that_is_too_large_is_refused_whether_it_says_so_or_not(store, picture):
    with serving(store, max_request_bytes=2000) as (client, _):
        assert len(picture.read_bytes()) > 2000

        def parts():
            for _ in range(10):
                yield bytes(1000)

        for content in (picture.read_bytes(), parts()):
            answer = client.post("/v1/score?model=specks", content=content)
            assert answer.status_code == 413
            assert "ADMODELS_MAX_REQUEST_MIB" in answer.json()["detail"]


def test_what_waits_is_bounded_and_who_is_refused_knows_when_to_come_again(store, picture):
    go, content = threading.Event(), picture.read_bytes()

    @contextmanager
    def around():
        assert go.wait(60)
        yield

    with serving(store, around, max_waiting=3) as (client, service):
        service.models.get("specks")
        found, threads = asking(client, "specks", content, 3)
        until(lambda: service.places.taken == 3)
        refused = client.post("/v1/score?model=specks", content=content)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "Try again in" in refused.json()["detail"]
        assert client.get("/healthz").status_code == 200
        go.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in found] == [200] * 3
        assert client.post("/v1/score?model=specks", content=content).status_code == 200
        many = client.post("/v1/score?model=specks", files=[("p", ("a.png", content))] * 4)
        assert many.status_code == 400  # it could never be taken
        assert "Maximum number of files is 3" in many.json()["detail"]


def test_a_key_is_asked_for_where_one_is_set(store, picture):
    with serving(store, api_key=KEY) as (client, _):
        ways = [
            lambda **more: client.post("/v1/score?model=specks", content=picture.read_bytes(), **more),
            lambda **more: client.get("/v1/models", **more),
            lambda **more: client.get("/metrics", **more),
        ]
        for ask in ways:
            for headers in (
                {},
                {"Authorization": f"Bearer {KEY}x"},
                {"X-API-Key": ""},
                {"Authorization": f"Basic {KEY}"},
            ):
                answer = ask(headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert KEY not in answer.text
            for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}):
                assert ask(headers=headers).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_a_page_of_another_site_cannot_use_a_server_without_a_key(served, picture):
    answer = served.post(
        "/v1/score?model=specks", content=picture.read_bytes(), headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status_code == 403


def test_a_model_that_is_replaced_or_deleted_is_noticed(tmp_path, example, picture, monkeypatch):
    monkeypatch.setattr(serving_models, "LOOK_AGAIN", 0.0)
    store = Store(admodels.DETECTORS, tmp_path)
    first, second = (
        admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(example.train[part])
        for part in (slice(None, 12), slice(12, None))
    )
    with serving(store) as (client, service):
        ask = lambda: client.post("/v1/score?model=parts", content=picture.read_bytes())  # noqa: E731
        assert ask().status_code == 404
        answers = []
        for detector in (first, second):
            store.save(detector, "parts", overwrite=True)
            answers.append(ask().json())
            assert answers[-1]["score"] == pytest.approx(detector.predict(picture).score, rel=CLOSE)
        assert answers[0]["model"]["version"] != answers[1]["model"]["version"]
        store.delete("parts")
        assert ask().status_code == 404
        assert service.models.held == []


def test_models_that_were_not_used_for_longest_go_where_memory_ends(store, picture):
    with serving(store, max_model_bytes=1) as (client, service):
        for name in ("specks", "other", "specks"):
            assert client.post(f"/v1/score?model={name}", content=picture.read_bytes()).status_code == 200
            assert [held.reference for held in service.models.held] == [f"local:{name}"]


def test_a_model_of_the_hub_is_named_with_its_commit(store, picture):
    HUB.clear()
    pushed = admodels.push(store.load("specks", device="cpu"), "owner/parts", private=False, token="hf_owner")
    with serving(store) as (client, _):
        for asked in ("owner/parts", "hf-hub:owner/parts", f"owner/parts@{pushed.reference.revision}"):
            said = client.post(f"/v1/score?model={asked}", content=picture.read_bytes()).json()
            assert said["model"]["reference"] == str(pushed.reference)
            assert said["score"] == pytest.approx(store.load("specks", device="cpu").predict(picture).score, rel=CLOSE)
        missing = client.post("/v1/score?model=owner/nothing", content=picture.read_bytes())
        assert missing.status_code == 404
        assert "was not found" in missing.json()["detail"]
    with serving(store, takes_hub=False) as (client, _):
        refused = client.post("/v1/score?model=owner/parts", content=picture.read_bytes())
        assert refused.status_code == 422
        assert "this server downloads none" in refused.json()["detail"]


def test_the_saved_models_are_listed(served, store):
    said = served.get("/v1/models").json()
    assert [model["reference"] for model in said["models"]] == ["local:other", "local:specks"]
    assert said["unreadable"] == []
    assert served.get("/v1/models?a=b").status_code == 400


def test_the_description_names_every_parameter(served):
    said = served.get("/v1/openapi.json").json()["paths"]["/score"]["post"]
    assert {parameter["name"] for parameter in said["parameters"]} == {"model", "rate", "map", "regions"}
    assert set(said["requestBody"]["content"]) == {"application/octet-stream", "multipart/form-data"}
    assert served.get("/v1/docs").status_code == 200


def test_what_is_counted_can_be_read(store, picture):
    with serving(store, default_model="local:specks") as (client, _):
        until(lambda: client.get("/readyz").status_code == 200)
        for _ in range(3):
            assert client.post("/v1/score", content=picture.read_bytes()).status_code == 200
        client.post("/v1/score", content=b"none")
        lines = client.get("/metrics").text.splitlines()
        assert 'admodels_requests_total{path="score",status="200"} 3.0' in lines
        assert 'admodels_requests_total{path="score",status="415"} 1.0' in lines
        assert 'admodels_pictures_total{method="fapm",verdict="suspected"} 3.0' in lines
        assert "admodels_models_held 1.0" in lines
        assert "admodels_pictures_here 0.0" in lines


def test_it_is_not_ready_before_its_model_is_loaded(store, monkeypatch):
    go, load = threading.Event(), serving_models.Models.prepare

    def slow(self, reference):
        assert go.wait(60)
        return load(self, reference)

    monkeypatch.setattr(serving_models.Models, "prepare", slow)
    with serving(store, default_model="specks") as (client, _):
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        go.set()
        until(lambda: client.get("/readyz").status_code == 200)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ADMODELS_API_KEY", "short", "at least 16"),
        ("ADMODELS_MAX_WAITING", "none", "ADMODELS_MAX_WAITING is 'none'"),
        ("ADMODELS_WORKERS", "0", "ADMODELS_WORKERS is '0'"),
        ("ADMODELS_WORKERS", "999", "at most one for each"),
    ],
)
def test_a_setting_that_cannot_be_used_is_said_at_the_start(monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-m", "admodels", "serve"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert says in done.stderr


def test_a_server_without_a_page_needs_no_gradio():
    code = "import admodels.serving.http.server, sys; print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.lower()) is False


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """A model for each of the two example papers, and their test pictures."""
    store, pictures = Store(admodels.DETECTORS, tmp_path_factory.mktemp("papers")), {}
    for name, folder in (("specks", "pa_brg02_rl"), ("fibres", "pa_brg03_tl")):
        data = load_dataset(EXAMPLES / folder)
        store.save(admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(data.train), name)
        pictures[name] = [item.path for item in data.test]
    return store, pictures


def test_a_picture_goes_to_the_model_of_its_product(papers):
    store, pictures = papers
    asked = [(name, path) for name, paths in pictures.items() for path in paths[::4]]
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    with serving(store) as (client, _):
        files = [("p", (path.name, path.read_bytes())) for _, path in asked]
        rows = client.post("/v1/score?model=auto&regions=1", files=files).json()["pictures"]
        for (name, path), row in zip(asked, rows, strict=True):
            assert row["routed"]["model"] == row["model"]["reference"] == f"local:{name}"
            assert 0.5 < row["routed"]["sure"] <= 1
            assert row["routed"]["distances"].keys() == {"local:specks", "local:fibres"}
            expected = store.load(name, device="cpu").predict(path)
            assert row["score"] == pytest.approx(expected.score, rel=CLOSE)
            assert row["threshold"] == expected.threshold
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "png")
        said = client.post("/v1/score?model=auto", content=buffer.getvalue()).json()
        assert said["verdict"] == "unknown product"
        assert said["score"] is said["is_anomalous"] is said["routed"]["model"] is None
        one = client.post("/v1/score?model=auto", content=asked[0][1].read_bytes()).json()
        assert one["model"]["reference"] == "local:specks"
        broken = client.post("/v1/score?model=auto", content=b"none")
        assert broken.status_code == 415


def test_models_without_a_product_are_named_and_where_all_are_so_it_is_refused(papers, tmp_path, monkeypatch):
    monkeypatch.setattr(serving_models, "LOOK_AGAIN", 0.0)
    store, pictures = papers
    other, content = Store(admodels.DETECTORS, tmp_path), pictures["specks"][0].read_bytes()
    with serving(other) as (client, _):
        answer = client.post("/v1/score?model=auto", content=content)
        assert answer.status_code == 404
        assert "none is saved" in answer.json()["detail"]
        earlier = store.load("fibres", device="cpu")
        earlier._fitted = dataclasses.replace(earlier.fitted_, product=None)
        other.save(earlier, "earlier")
        answer = client.post("/v1/score?model=auto", content=content)
        assert answer.status_code == 404
        assert "by an earlier version" in answer.json()["detail"]
        other.save(store.load("specks", device="cpu"), "specks")
        said = client.post("/v1/score?model=auto", content=content).json()
        assert said["routed"]["not_considered"] == ["local:earlier"]
        assert said["model"]["reference"] == "local:specks"


def test_many_that_wait_for_one_model_keep_nobody_from_another(store, picture, monkeypatch):
    go, get, content = threading.Event(), serving_models.Models.get, picture.read_bytes()

    def slow(self, reference):
        assert reference != "other" or go.wait(60)
        return get(self, reference)

    monkeypatch.setattr(serving_models.Models, "get", slow)
    with serving(store) as (client, service):
        found, waiting = asking(client, "other", content, 8)
        until(lambda: service.places.taken == 8)
        assert client.post("/v1/score?model=specks", content=content).status_code == 200
        go.set()
        for thread in waiting:
            thread.join()
        assert [answer.status_code for answer in found] == [200] * 8


def test_a_model_that_is_not_there_yet_is_waited_for(tmp_path, store, monkeypatch, caplog):
    monkeypatch.setattr("admodels.serving.http.server.TRY_AGAIN_SECONDS", 0.05)
    other = Store(admodels.DETECTORS, tmp_path)
    with serving(other, default_model="local:specks") as (client, _):
        until(lambda: "no model named 'specks'" in caplog.text)
        assert client.get("/readyz").status_code == 503
        other.save(store.load("specks", device="cpu"), "specks")
        until(lambda: client.get("/readyz").status_code == 200)


def test_a_damaged_model_is_named_among_those_that_were_not_considered(papers, tmp_path):
    store, pictures = papers
    other = Store(admodels.DETECTORS, tmp_path)
    other.save(store.load("specks", device="cpu"), "specks")
    for name, file in (("no-tensors", "model.safetensors"), ("no-config", "config.json")):
        other.save(store.load("specks", device="cpu"), name)
        (tmp_path / name / file).write_bytes(b"damaged")
    with serving(other) as (client, _):
        said = client.post("/v1/score?model=auto", content=pictures["specks"][0].read_bytes()).json()
        assert said["routed"]["not_considered"] == ["local:no-config", "local:no-tensors"]

"""The command `watch`, mostly as a process of its own: it is killed, interrupted and runs beside others."""

import csv
import dataclasses
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import admodels
from admodels.evaluation.datasets import load_dataset
from admodels.models.store import Store
from admodels.serving.watching import arrivals
from admodels.serving.watching.arrivals import Arrivals, stamp_of
from admodels.serving.watching.camera import shown
from admodels.serving.watching.journal import Journal
from admodels.serving.watching.outputs import COLUMNS, CsvFile, Outputs, Result, move_into
from admodels.serving.watching.webhook import MAX_WAITING, Webhook
from tests.conftest import EXAMPLES, SMALL

DEADLINE = 120  # seconds; only a failure takes so long
# The command, with time for a machine that does not get on with writing or answering.
PATIENT = """
from admodels.cli.main import main
from admodels.serving.watching import arrivals, webhook
arrivals.PATIENCE_SECONDS, webhook.TIMEOUT_SECONDS = 15, 60
main()
"""


@pytest.fixture(scope="module")
def fapm(home, normals):
    """A small model, saved as `local:bolts`."""
    detector = admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(normals)
    admodels.save(detector, "bolts", overwrite=True)
    return detector


@pytest.fixture
def folder(fapm, tmp_path):
    """The folder that is watched, with two defective pictures in it."""
    made = tmp_path / "incoming"
    made.mkdir()
    return made


@pytest.fixture
def defective(specks):
    return [item.path for item in specks.test]


class Watcher:
    """The running command; its rows and complaints as they come."""

    def __init__(self, *arguments, model="local:bolts", program=("-m", "admodels")):
        command = [sys.executable, *program, "watch", "--model", model, "--device", "cpu", *map(str, arguments)]
        environment = os.environ | {"NO_PROXY": "*", "no_proxy": "*", "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, encoding="utf-8", env=environment)
        self._rows, self.said = queue.Queue(), []
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_rows, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read_rows(self):
        for line in self.process.stdout:
            if line.endswith("\n"):  # else it was killed there
                self._rows.put(json.loads(line))

    def _read_errors(self):
        self.said.extend(iter(self.process.stderr.readline, ""))

    def row(self):
        return self._rows.get(timeout=DEADLINE)

    def rows(self, n):
        """The next n rows by the picture's name."""
        return {row["picture"]: row for row in (self.row() for _ in range(n))}

    def wait_for(self, text):
        wait_until(lambda: any(text in line for line in self.said))

    def end(self, number=signal.SIGTERM):
        """Status, rows that nobody took, and all that was said."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self):
        status = self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        return status, list(self._rows.queue), "".join(self.said)


@pytest.fixture
def watch():
    """Starts watchers, and kills those that a failed test leaves."""
    started = []

    def start(*arguments, **more):
        started.append(Watcher(*arguments, **more))
        return started[-1]

    yield start
    for watcher in started:
        watcher.process.kill()
        watcher.process.wait()


def wait_until(is_so):
    until = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


def journalled(home, folder):
    """Names in the journal of a folder and `local:bolts`."""
    for file in (home / "watched").glob("*.jsonl"):
        head, *lines = file.read_text(encoding="utf-8").splitlines()
        if json.loads(head) == {"folder": str(folder.resolve()), "model": "local:bolts"}:
            return [json.loads(line)["name"] for line in lines if line.endswith("}")]
    return []


def test_pictures_are_scored_as_they_arrive_and_only_when_they_are_whole(watch, folder, fapm, defective, tmp_path):
    shutil.copy(defective[0], folder / "there.png")
    (folder / "inside").mkdir()
    shutil.copy(defective[0], folder / "inside" / "deeper.png")
    (folder / "Thumbs.db").touch()
    (folder / "list.txt").write_text("no picture", encoding="utf-8")
    table = tmp_path / "scores.csv"
    watcher = watch(folder, "--regions", "--csv", table, program=("-c", PATIENT))
    row = watcher.row()
    prediction = fapm.predict(defective[0])
    assert row["picture"] == "there.png"
    assert row["path"] == str(folder / "there.png")
    assert row["score"] == pytest.approx(prediction.score, rel=1e-5)
    assert (row["is_anomalous"], row["verdict"], row["threshold"]) == (True, "suspected", prediction.threshold)
    assert row["n_regions"] == len(prediction.regions)
    assert row["model"] == {"reference": "local:bolts", "version": admodels.LOCAL.identity("bolts"), "method": "fapm"}
    assert row["at"].endswith("+00:00")
    assert row["milliseconds"].keys() == {"decoding", "waiting", "scoring"}
    # A file that is written slowly is not read before it is whole.
    content = defective[1].read_bytes()
    with (folder / "slow.png").open("wb") as opened:
        for part in (content[:4000], content[4000:8000], content[8000:]):
            opened.write(part)
            opened.flush()
            time.sleep(0.9)
    (folder / "=1+2.png").write_bytes(content)
    (folder / "broken.png").write_bytes(b"no picture")
    rows = watcher.rows(3)
    assert rows["slow.png"]["score"] == rows["=1+2.png"]["score"] == pytest.approx(fapm.predict(defective[1]).score)
    assert "is not a picture this program can read" in rows["broken.png"]["error"]
    # What was broken, and what was scored, is looked at again once it changes.
    shutil.copy(defective[0], folder / "broken.png")
    shutil.copy(defective[2], folder / "there.png")
    rows = watcher.rows(2)
    assert rows["broken.png"]["verdict"] == "suspected"
    assert rows["there.png"]["score"] == pytest.approx(fapm.predict(defective[2]).score, rel=1e-5)
    status, left, said = watcher.end(signal.SIGINT)
    assert (status, left) == (130, [])
    assert "Watched: 6 pictures: 5 suspected, 1 with errors." in said
    assert said.count("list.txt is not a picture") == 1
    assert "Thumbs.db" not in said
    assert "Traceback" not in said
    with table.open(encoding="utf-8", newline="") as opened:
        found = list(csv.DictReader(opened))
    assert found[0]["picture"] == "there.png"
    assert len(found) == 6
    assert {line["picture"] for line in found} == {"there.png", "slow.png", "'=1+2.png", "broken.png"}
    assert sum(bool(line["error"]) for line in found) == 1


def test_a_watcher_that_was_killed_goes_on_and_leaves_nothing_out(watch, folder, fapm, home, example):
    names = {f"{i:02}.png" for i in range(60)}
    for i, name in enumerate(sorted(names)):
        shutil.copy(example.test[i % len(example.test)].path, folder / name)
    killed = watch(folder)
    first = killed.row()
    killed.process.kill()
    _, rows, _ = killed.ended()
    printed = [row["picture"] for row in (first, *rows)]
    (journal,) = [
        path for path in (home / "watched").glob("*.jsonl") if str(folder) in path.read_text(encoding="utf-8")
    ]
    with journal.open("a", encoding="utf-8") as opened:
        opened.write('{"name": "torn')
    watcher = watch(folder)
    wait_until(lambda: set(journalled(home, folder)) == names)
    status, rows, _ = watcher.end()
    assert status == 0
    printed += [row["picture"] for row in rows]
    assert set(printed) == names
    assert len(printed) <= len(names) + fapm.batch_size  # at least once; at worst one batch twice


def test_what_is_done_is_not_scored_again_unless_it_changes(watch, folder, home, defective):
    for i in range(3):
        shutil.copy(defective[i], folder / f"{i}.png")
    watcher = watch(folder)
    watcher.rows(3)
    wait_until(lambda: len(journalled(home, folder)) == 3)
    # A second one is refused meanwhile, and leaves the journal as it is.
    status, rows, said = watch(folder, "--again", model="bolts").ended()
    assert (status, rows) == (1, [])
    assert "is being watched with local:bolts already" in said
    watcher.process.kill()
    watcher.process.wait()
    (folder / "0.png").unlink()
    shutil.copy(defective[3], folder / "3.png")
    shutil.copy(defective[4], folder / "1.png")
    watcher = watch(folder)
    assert watcher.rows(2).keys() == {"1.png", "3.png"}
    status, left, _ = watcher.end()
    assert (status, left) == (0, [])
    assert sorted(set(journalled(home, folder))) == ["1.png", "2.png", "3.png"]
    watcher = watch(folder, "--again")
    assert watcher.rows(3).keys() == {"1.png", "2.png", "3.png"}
    assert watcher.end()[:2] == (0, [])


def test_pictures_are_sorted_into_folders_and_nothing_is_overwritten(watch, folder, home, defective, example):
    good = next(item.path for item in example.test if not item.is_defective)
    sorted_to = folder / "sorted"
    (sorted_to / "suspected").mkdir(parents=True)
    (sorted_to / "suspected" / "part.png").write_bytes(b"older")
    shutil.copy(defective[0], folder / "part.png")
    shutil.copy(good, folder / "fine.png")
    (folder / "broken.png").write_bytes(b"no picture")
    watcher = watch(folder, "--move-to", sorted_to, "--rate", 0.1)
    rows = watcher.rows(3)
    wait_until(lambda: not [path for path in folder.iterdir() if path.is_file()])
    assert (sorted_to / "suspected" / "part.png").read_bytes() == b"older"
    assert (sorted_to / "suspected" / "part (2).png").read_bytes() == defective[0].read_bytes()
    assert (sorted_to / rows["fine.png"]["verdict"] / "fine.png").is_file()
    assert (sorted_to / "unreadable" / "broken.png").is_file()
    # The same file put back is scored again, and found nowhere in the journal.
    (sorted_to / "suspected" / "part (2).png").rename(folder / "part.png")
    assert watcher.row()["picture"] == "part.png"
    wait_until(lambda: (sorted_to / "suspected" / "part (2).png").is_file())
    assert watcher.end()[:2] == (0, [])
    assert journalled(home, folder) == []


@contextmanager
def receiver(statuses):
    """A web server that answers so, the last of them for ever; its address and what it was sent."""
    received, left = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            status = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/rows?token=secret", received
    finally:
        server.shutdown()
        server.server_close()


def test_rows_are_sent_and_what_fails_is_marked(watch, folder, home, defective):
    with receiver([500, 503, 200, 404, 500]) as (url, received):
        watcher = watch(folder, "--webhook", url, program=("-c", PATIENT))
        for i, said in enumerate(("delivered", "failed: it answered 404", "failed: it answered 500")):
            shutil.copy(defective[i], folder / f"{i}.png")
            row = watcher.row()
            assert (row["picture"], row["webhook"]) == (f"{i}.png", said)
            wait_until(lambda i=i: len(journalled(home, folder)) == i + 1)
        status, left, said = watcher.end()
    assert (status, left) == (0, [])
    # Two that fail and one that succeeds; one that is not tried again; three that fail.
    assert [sent["picture"] for _, sent in received] == ["0.png"] * 3 + ["1.png"] + ["2.png"] * 3
    assert "webhook" not in received[0][1]
    assert "2.png was not delivered to http://127.0.0.1:" in said
    assert "secret" not in said


def test_redirects_are_not_followed_and_a_dead_webhook_holds_nobody_up(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with receiver([302]) as (url, received):
        assert Webhook(url).send({"picture": "a"}).result(DEADLINE) == "it answered 302"
    assert [path for path, _ in received] == ["/rows?token=secret"]
    dead = Webhook(url)
    assert "refused" in dead.send({"picture": "a"}).result(DEADLINE)
    # Once it fails, rows that find no place are given up instead of waited for.
    monkeypatch.setattr(dead, "_post", lambda content: time.sleep(DEADLINE) or ("", True))
    outcomes = [dead.send({"picture": "a"}) for _ in range(MAX_WAITING + 2)]
    assert "waiting already" in outcomes[-1].result(DEADLINE)


@pytest.mark.parametrize("is_slow", [False, True])
def test_at_the_end_rows_are_delivered_or_left_for_the_next_start(monkeypatch, is_slow):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("admodels.serving.watching.outputs.CLOSING_SECONDS", 0.3 if is_slow else DEADLINE)
    said, done, may_go_on = [], [], threading.Event()
    with receiver([200]) as (url, _):
        webhook = Webhook(url)
        post = webhook._post
        monkeypatch.setattr(webhook, "_post", lambda content: may_go_on.wait(DEADLINE) and post(content))
        outputs = Outputs(said.append, said.append, webhook=webhook)
        outputs.on_done = done.extend
        results = [Result({"picture": str(i)}) for i in range(3)]
        outputs.put(results)
        assert (said, done, outputs.n_waiting) == ([], [], 3)
        if not is_slow:
            may_go_on.set()
        left = outputs.close()
        may_go_on.set()
    assert (left, done) == ((results, []) if is_slow else ([], results))
    assert [row["webhook"] for row in said] == ([] if is_slow else ["delivered"] * 3)


def test_a_model_that_is_replaced_scores_what_comes_then(watch, folder, fapm, defective):
    try:
        watcher = watch(folder)
        shutil.copy(defective[0], folder / "0.png")
        before = watcher.row()
        admodels.save(fapm.with_threshold(threshold=1000.0), "bolts", overwrite=True)
        time.sleep(1.5)  # models.LOOK_AGAIN: until then it is taken to be what it was
        shutil.copy(defective[0], folder / "1.png")
        after = watcher.row()
        assert (before["is_anomalous"], after["is_anomalous"]) == (True, False)
        assert after["score"] == before["score"]
        assert after["model"]["version"] == admodels.LOCAL.identity("bolts") != before["model"]["version"]
        # While there is none, pictures wait.
        admodels.delete("bolts")
        time.sleep(1.5)
        shutil.copy(defective[0], folder / "2.png")
        watcher.wait_for("no model named")
        admodels.save(fapm, "bolts")
        assert watcher.row()["picture"] == "2.png"
        # So they do while the folder is gone.
        away = folder.with_name("away")
        folder.rename(away)
        watcher.wait_for("Waiting for it")
        shutil.copy(defective[1], away / "3.png")
        away.rename(folder)
        assert watcher.row()["picture"] == "3.png"
        status, left, said = watcher.end()
        assert (status, left) == (0, [])
        assert said.count("Waiting for it") == said.count("is back") == said.count("no model named") == 1
    finally:
        admodels.save(fapm, "bolts", overwrite=True)


@pytest.mark.parametrize("is_moved", [False, True])
def test_each_picture_is_scored_by_the_model_of_its_product(watch, tmp_path, monkeypatch, is_moved):
    monkeypatch.setenv("ADMODELS_MODELS", str(tmp_path / "models"))
    folder, moved = tmp_path / "mixed", tmp_path / "sorted"
    folder.mkdir()
    store, expected = Store(admodels.DETECTORS, tmp_path / "models"), {}
    for product, paper in (("specks", "pa_brg02_rl"), ("fibres", "pa_brg03_tl")):
        data = load_dataset(EXAMPLES / paper)
        store.save(admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(data.train), product)
        for i, item in enumerate(data.test[::6]):
            name = f"{i}-{product}.png"  # both products in turn
            shutil.copy(item.path, folder / name)
            expected[name] = (f"local:{product}", store.load(product, device="cpu").predict(item.path).score)
    earlier = store.load("fibres", device="cpu")
    earlier._fitted = dataclasses.replace(earlier.fitted_, product=None)
    store.save(earlier, "earlier")
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "broken.png").write_bytes(b"no picture")
    table = tmp_path / "scores.csv"
    watcher = watch(folder, "--csv", table, *(["--move-to", moved] if is_moved else []), model="auto")
    rows = watcher.rows(len(expected) + 2)
    for name, (model, score) in expected.items():
        assert rows[name]["model"]["reference"] == rows[name]["routed"]["model"] == model
        assert rows[name]["score"] == pytest.approx(score, rel=1e-5)
    unknown, broken = rows["noise.png"], rows["broken.png"]
    assert unknown["verdict"] == "unknown product"
    assert unknown["model"] is unknown["score"] is unknown["routed"]["model"] is None
    assert broken["model"] is None
    assert "is not a picture this program can read" in broken["error"]
    with table.open(encoding="utf-8", newline="") as opened:
        of_table = {line["picture"]: line for line in csv.DictReader(opened)}
    assert {name: line["model"] for name, line in of_table.items()} == {
        **{name: model for name, (model, _) in expected.items()},
        "noise.png": "",
        "broken.png": "",
    }
    if is_moved:
        wait_until(lambda: not any(folder.iterdir()))
        assert [path.name for path in (moved / "unknown product").iterdir()] == ["noise.png"]
        assert [path.name for path in (moved / "unreadable").iterdir()] == ["broken.png"]
    # While no model can be chosen, pictures wait; what was done is not done again.
    for product in ("specks", "fibres", "earlier"):
        store.delete(product)
    time.sleep(1.5)  # models.LOOK_AGAIN
    shutil.copy(data.test[0].path, folder / "later.png")
    watcher.wait_for("none is saved: fit one first. Pictures wait")
    store.save(admodels.create("fapm", device="cpu", **SMALL["fapm"]).fit(data.train), "later")
    assert watcher.row()["model"]["reference"] == "local:later"
    status, left, said = watcher.end()
    assert (status, left) == (0, [])
    assert "local:earlier cannot be chosen" in said
    assert "The saved models can be used again." in said
    if not is_moved:
        watcher = watch(folder, model="auto")
        shutil.copy(data.test[0].path, folder / "last.png")
        assert watcher.row()["picture"] == "last.png"
        assert watcher.end()[:2] == (0, [])


@pytest.fixture(scope="module")
def video(tmp_path_factory, specks):
    """A video of six frames, ten a second: a defective part, which only has red in its upper corner."""
    cv2 = pytest.importorskip("cv2")
    file = tmp_path_factory.mktemp("video") / "part.avi"
    pixels = np.asarray(Image.open(specks.test[0].path).convert("RGB")).copy()
    pixels[:32, :32] = (255, 0, 0)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, pixels.shape[1::-1])
    for _ in range(6):
        writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    writer.release()
    return file


def test_frames_of_a_video_are_scored(run, fapm, video, tmp_path):
    def scored(*more):
        said = run("watch", "--camera", video, "--model", "local:bolts", "--device", "cpu", *more)
        return [json.loads(line) for line in said.splitlines()]

    rows = scored("--csv", tmp_path / "frames.csv")
    assert [row["picture"] for row in rows] == [f"frame {i}" for i in range(1, 7)]
    assert {row["path"] for row in rows} == {str(video)}
    assert [row["picture"] for row in scored("--every", 0.2)] == ["frame 1", "frame 3", "frame 5"]
    assert len(scored("--frames", 2)) == 2
    routed = json.loads(run("watch", "--camera", video, "--model", "auto", "--frames", 1, "--device", "cpu"))
    assert routed["routed"]["model"] == (routed["model"] or {}).get("reference")
    assert len((tmp_path / "frames.csv").read_text(encoding="utf-8").splitlines()) == 7


def test_frames_are_rgb_and_of_a_stream_the_newest(video, monkeypatch):
    from admodels.serving.watching.camera import Camera

    said = []
    camera = Camera(str(video), said.append)
    number, pixels = next(camera.frames(0, lambda: False))
    assert number == 1
    red, green, blue = pixels[8, 8]
    assert red > 200 > 60 > max(green, blue)
    # The same file as if it were a stream: it breaks at its end, and is opened again.
    monkeypatch.setattr(camera, "_is_file", False)
    numbers = []
    for number, _ in camera.frames(0.3, lambda: False):
        numbers.append(number)
        if number > 6:
            break
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 7  # older ones were dropped
    assert [line.rpartition("avi ")[2] for line in said[:2]] == ["gives no pictures. Trying again.", "is back."]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("0", "0"),
        ("rtsp://me:secret@camera:554/stream", "rtsp://camera:554/stream"),
        ("rtsp://me:sec/ret@#?@camera/stream", "rtsp://camera/stream"),
        ("rtsp://camera/stream?password=secret", "rtsp://camera/stream"),
        ("rtsp://camera:554/user=me&password=secret&channel=1", "rtsp://camera:554"),
        ("line 1.avi", "line 1.avi"),
    ],
)
def test_no_password_is_shown(source, expected):
    assert shown(source) == expected


def test_a_camera_that_cannot_be_opened_is_named_without_its_password(fapm, watch):
    pytest.importorskip("cv2")
    status, rows, said = watch("--camera", "rtsp://me:secret@127.0.0.1:9/stream").ended()
    assert (status, rows) == (1, [])
    assert "the camera rtsp://127.0.0.1:9/stream cannot be opened" in said
    assert "secret" not in said
    assert "Traceback" not in said


def test_a_camera_needs_opencv(run, fapm, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    said = run("watch", "--camera", 0, "--model", "local:bolts", fails=True)
    assert "pip install 'admodels[camera]'" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "exactly one of a folder and --camera"),
        (("{}", "--camera", "0", "--model", "bolts"), "exactly one of a folder and --camera"),
        (("{}",), "--model is missing"),
        (("{}/nowhere", "--model", "bolts"), "is not a folder"),
        (("{}", "--model", "none"), "no model named"),
        (("{}", "--model", "bolts", "--rate", "2"), "false_alarm_rate"),
        (("{}", "--model", "bolts", "--every", "2"), "are for --camera"),
        (("--camera", "0", "--model", "bolts", "--again"), "are for a folder"),
        (("{}", "--model", "bolts", "--webhook", "file:///etc/passwd"), "no address of a web server"),
        (("{}", "--model", "bolts", "--webhook", "http://me:secret@host/"), "without it"),
        (("{}/good", "--model", "bolts", "--move-to", "{}"), "would move pictures into"),
        (("{}", "--model", "bolts", "--csv", "{}/other.csv"), "has other columns"),
    ],
)
def test_what_cannot_be_is_said(run, fapm, tmp_path, arguments, said):
    (tmp_path / "good").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    message = run("watch", *(text.format(tmp_path) for text in arguments), fails=True)
    assert said in message
    assert "secret" not in message


def test_what_is_done_is_compared_in_parts_and_new_files_are_found_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals, "N_COMPARED", 3)
    monkeypatch.setattr(arrivals, "LOOK_SECONDS", 0)
    monkeypatch.setattr(arrivals, "SHARE_OF_LOOKS", 0)
    monkeypatch.setattr(arrivals, "STILL_SECONDS", 0)
    for i in range(10):
        (tmp_path / f"{i}.png").touch()
    found = Arrivals(tmp_path, {path.name: stamp_of(path) for path in tmp_path.iterdir()})
    (tmp_path / "7.png").write_bytes(b"changed")
    (tmp_path / "new.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    looks = []
    for _ in range(6):
        assert found.look_if_due()
        looks.append({name for name, _ in found.take(9)})
    assert looks[1] >= {"new.png"}
    assert looks[-1] == {"new.png", "7.png"}
    (tmp_path / "new.png").unlink()
    found.look_if_due()
    assert {name for name, _ in found.take(9)} == {"7.png"}


def test_a_journal_keeps_all_of_a_folder_that_is_empty_for_now(tmp_path, home):
    with Journal(tmp_path, "local:a") as journal:
        assert journal.start([], again=False) == {}
        journal.append([("\udcff.png", (1, 2), "v"), ("b.png", (3, 4), "v")])
    with Journal(tmp_path, "local:a") as journal:
        assert journal.start([], again=False) == {"\udcff.png": (1, 2), "b.png": (3, 4)}
        assert journal.start(["b.png"], again=False) == {"b.png": (3, 4)}
    with Journal(tmp_path, "local:b") as journal, Journal(tmp_path, "local:a") as other:
        assert journal.start(["b.png"], again=False) == {}
        assert other.start(["b.png"], again=False) == {"b.png": (3, 4)}
        assert other.start(["b.png"], again=True) == {}


def test_a_table_goes_on_after_a_torn_line(tmp_path):
    row = {"at": "now", "picture": "@a\n.png", "path": "p", "model": {"reference": "local:a", "version": "v"}}
    table = CsvFile(tmp_path / "t.csv")
    table.append([row | {"error": "broken"}])
    with (tmp_path / "t.csv").open("a", encoding="utf-8") as opened:
        opened.write("torn,line")
    CsvFile(tmp_path / "t.csv").append([row | {"score": -1.5}])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as opened:
        head, first, torn, last = csv.reader(opened)
    assert tuple(head) == COLUMNS
    assert torn == ["torn", "line"]
    assert first[COLUMNS.index("picture")] == last[COLUMNS.index("picture")] == "'@a\n.png"
    assert last[COLUMNS.index("score")] == "-1.5"


def test_a_file_moves_to_another_disk_whole_or_stays(tmp_path, monkeypatch):
    source = tmp_path / "a.png"
    source.write_bytes(b"content")
    replace = Path.replace

    def other_disk(self, target):
        if self == source:
            raise OSError(18, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", other_disk)
    move_into(tmp_path / "good", source)
    assert (tmp_path / "good" / "a.png").read_bytes() == b"content"
    assert not source.exists()
    source.write_bytes(b"second")
    monkeypatch.setattr(
        "admodels.serving.watching.outputs.shutil.copy2", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        move_into(tmp_path / "good", source)
    assert source.read_bytes() == b"second"
    assert [path.name for path in (tmp_path / "good").iterdir()] == ["a.png"]

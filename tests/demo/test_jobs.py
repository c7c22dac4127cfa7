"""One job at a time, whoever asks; a job outlives its page; one visitor's things are out of another's reach."""

import json
import threading
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio_client import handle_file

import admodels
from demo.state.jobs import Jobs
from demo.state.sessions import Sessions
from demo.tabs import fitting
from tests.conftest import SMALL, client_of

LONG = json.dumps({"image_size": 64, "max_steps": 100_000})


def no_progress(*_, **__):
    """What a page would show."""


def page(name):
    return SimpleNamespace(session_hash=name)


def test_jobs_run_one_at_a_time_in_their_order():
    jobs, running, order = Jobs(), [], []
    gate = threading.Event()

    def work(i):
        def do(tell):
            running.append(i)
            assert len(running) == 1
            gate.wait(60)
            order.append(running.pop())
            return i

        return do

    submitted = [jobs.submit(work(i), threading.Event()) for i in range(5)]
    gate.set()
    assert [jobs.follow(job, no_progress) for job in submitted] == list(range(5))
    assert order == list(range(5))


def test_who_waits_sees_how_many_are_before():
    jobs, gate, said = Jobs(), threading.Event(), []
    first = jobs.submit(lambda tell: gate.wait(60), threading.Event())
    second = jobs.submit(lambda tell: tell(0.5, "half done"), threading.Event())

    def progress(fraction, desc):
        said.append(desc)
        gate.set()

    jobs.follow(second, progress)
    jobs.follow(first, no_progress)
    assert said[0] == "queued: 1 ahead"


def test_a_job_that_waits_can_be_taken_out_at_once():
    jobs, gate, stop, done = Jobs(), threading.Event(), threading.Event(), []
    first = jobs.submit(lambda tell: gate.wait(60), threading.Event())
    second = jobs.submit(done.append, stop)
    stop.set()
    with pytest.raises(admodels.Cancelled):
        jobs.follow(second, no_progress)
    assert first.is_running  # nobody waited for it
    gate.set()
    jobs.follow(first, no_progress)
    assert done == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "not enough memory"),
        (admodels.OptionError("image_size is wrong"), "image_size is wrong"),
        (ZeroDivisionError("division"), r"unexpected way \(ZeroDivisionError: division\)"),
        (GeneratorExit(), r"unexpected way \(GeneratorExit"),
        (KeyboardInterrupt(), r"unexpected way \(KeyboardInterrupt"),
        (SystemExit(3), r"unexpected way \(SystemExit: 3\)"),
    ],
)
def test_whatever_breaks_in_one_job_is_said_and_the_next_one_has_its_turn(error, said):
    jobs = Jobs()

    def broken(tell):
        raise error

    with pytest.raises(gr.Error, match=said):
        jobs.run(broken, threading.Event(), no_progress)
    assert jobs.run(lambda tell: 7, threading.Event(), no_progress) == 7


def test_work_for_which_no_thread_can_be_had_does_not_block_the_queue(monkeypatch):
    jobs = Jobs()

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            jobs.submit(lambda tell: 1, threading.Event())
    assert jobs.run(lambda tell: 7, threading.Event(), no_progress) == 7


def test_a_refreshed_page_finds_its_visitor_and_nobody_else_does():
    sessions = Sessions()
    secret = sessions.arrive("", page("first"))
    mine = sessions.of(page("first"))
    sessions.close(page("first"))
    assert sessions.arrive(secret, page("second")) == secret
    assert sessions.of(page("second")) is mine
    for guess in ("", "first", "second", "x" * 43, None):
        assert sessions.arrive(guess, page("other")) != secret
        assert sessions.of(page("other")) is not mine
    # A session of a program is found by its hash only, which is no secret that a page could bring.
    program = sessions.of(page("program"))
    sessions.arrive("program", page("thief"))
    assert sessions.of(page("thief")) is not program


def test_what_a_quick_click_did_before_the_page_had_arrived_is_kept():
    sessions = Sessions()
    quick = sessions.of(page("quick"))
    sessions.arrive("", page("quick"))
    assert sessions.of(page("quick")) is quick


def test_who_stays_away_is_forgotten_and_what_runs_for_nobody_is_stopped(monkeypatch):
    monkeypatch.setattr("demo.state.sessions.AWAY_SECONDS", 0.2)
    sessions = Sessions()
    secret = sessions.arrive("", page("first"))
    session = sessions.of(page("first"))
    stop = session.fit_stop.take()
    sessions.close(page("first"))
    assert stop.wait(10)
    assert sessions.arrive(secret, page("later")) != secret
    assert sessions.of(page("later")) is not session


def test_a_long_fit_lets_others_inspect_and_can_be_stopped_soon(app, specks, isvd, monkeypatch, request):
    admodels.save(isvd, "meanwhile", overwrite=True)
    busy, other = client_of(app), client_of(app)
    given = [handle_file(str(p)) for p in specks.train[:8]]
    submitted, trains, over = threading.Semaphore(0), threading.Event(), threading.Event()
    submit, on_progress = Jobs.submit, fitting._on_progress
    request.addfinalizer(over.set)  # nothing trains on for a test that failed

    def counted(*arguments):
        job = submit(*arguments)
        submitted.release()
        return job

    def watched(session, stop, at, tell):
        if over.is_set():
            raise admodels.Cancelled("the test is over")
        on_progress(session, stop, at, tell)
        if at.stage == "training" and at.done:
            trains.set()

    monkeypatch.setattr(Jobs, "submit", counted)
    monkeypatch.setattr(fitting, "_on_progress", watched)
    fit = busy.submit(given, "efficientad", 0.01, LONG, 0, "0", api_name="/fit")
    assert submitted.acquire(timeout=60)
    assert trains.wait(60)
    other.predict("meanwhile", api_name="/load_model")
    rows = other.predict([handle_file(str(specks.test[0].path))], 0.7, True, api_name="/inspect")[-1]
    assert rows[0]["score"] == pytest.approx(isvd.predict(specks.test[0].path).score, rel=1e-6)
    options = json.dumps(SMALL["padim_isvd"])
    waiting = other.submit(given, "padim_isvd", 0.01, options, 0, "0", api_name="/fit")
    assert submitted.acquire(timeout=60)
    assert not waiting.done()  # its turn comes when the first has ended, and that has far to go
    busy.predict(api_name="/stop")
    result = fit.result(60)[2]
    assert (result["method"], result["stopped"]) == ("efficientad", True)
    with pytest.raises(Exception, match="no model yet"):  # not before it is said to be kept
        busy.predict(given[:1], api_name="/score")
    assert busy.predict(api_name="/keep_stopped")["method"] == "efficientad"
    assert busy.predict(given[:1], api_name="/score")[0]["score"] > 0
    assert waiting.result(60)[2]["method"] == "padim_isvd"
    admodels.delete("meanwhile")


def test_an_error_in_a_fit_leaves_the_model_there(app, specks, monkeypatch):
    client = client_of(app)
    given = [handle_file(str(p)) for p in specks.train[:8]]
    asked = (given, "padim_isvd", 0.01, json.dumps(SMALL["padim_isvd"]), 0, "0")
    client.predict(*asked, api_name="/fit")
    before = client.predict(given[:1], 0.7, True, api_name="/inspect")[-1][0]["score"]

    def broken(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("admodels.methods.padim_isvd.PadimIsvd.learn", broken)
        with pytest.raises(Exception, match="not enough memory"):
            client.predict(*asked, api_name="/fit")
    assert client.predict(given[:1], 0.7, True, api_name="/inspect")[-1][0]["score"] == before


def test_on_a_shared_server_models_belong_to_their_visitor(app, specks, isvd, monkeypatch):
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    admodels.save(isvd, "of-the-machine", overwrite=True)
    of_the_machine = admodels.list_models()
    mine, other = client_of(app), client_of(app)
    given = [handle_file(str(p)) for p in specks.train[:8]]
    learned = {}
    for client, n in ((mine, 4), (other, 8)):
        asked = (given[:n], "padim_isvd", 0.01, json.dumps(SMALL["padim_isvd"]), 0, "0")
        learned[client] = client.predict(*asked, api_name="/fit")[2]["n_learned"]
        assert client.predict(api_name="/list_models") == []
        client.predict("mine", False, api_name="/save_model")
    assert learned[mine] < learned[other]
    for client in (mine, other):
        client.predict("mine", api_name="/load_model")
        assert [m["n_learned"] for m in client.predict(api_name="/list_models")] == [learned[client]]
        for name in ("of-the-machine", "../mine"):
            with pytest.raises(Exception, match=r"no model named|not a name"):
                client.predict(name, api_name="/load_model")
    monkeypatch.delenv("ADMODELS_SHARED")
    assert admodels.list_models() == of_the_machine
    admodels.delete("of-the-machine")


def test_many_visitors_share_one_loaded_model(isvd, monkeypatch):
    monkeypatch.setattr("demo.state.sessions.MAX_LOADED_MODELS", 2)
    names = ["of-many", "another", "third"]
    for name in names:
        admodels.save(isvd, name, overwrite=True)
    sessions = Sessions()

    def opened(visitor, name):
        return sessions.saved(name, sessions.of(page(visitor))).detector

    model = opened("visitor 0", "of-many")
    assert all(opened(f"visitor {i}", "of-many") is model for i in range(50))
    for name in names:
        opened("visitor 0", name)
    assert len(sessions._loaded) == 2
    assert opened("visitor 1", "of-many") is not model  # it had made room; whoever uses it still has it
    for name in names:
        admodels.delete(name)


def test_limits_are_said_and_can_be_set(app, specks, monkeypatch):
    client = client_of(app)
    given = [handle_file(str(p)) for p in specks.train[:8]]

    def fit(method="padim_isvd", options=None):
        asked = (given, method, 0.01, json.dumps(options or SMALL[method]), 0, "0")
        return client.predict(*asked, api_name="/fit")[2]

    for name, value, said in (
        ("ADMODELS_MAX_PICTURES", "7", "You selected 8 pictures; the limit is 7"),
        ("ADMODELS_MAX_PICTURES", "many", "ADMODELS_MAX_PICTURES is 'many'; expected a number above 0"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(Exception, match=said):
                fit()
    with monkeypatch.context() as patch:
        patch.setenv("ADMODELS_MAX_FIT_MINUTES", "0.02")
        with pytest.raises(Exception, match=r"more than 0\.02 minutes"):
            fit("efficientad", json.loads(LONG))
    fit()
    with monkeypatch.context() as patch:
        patch.setenv("ADMODELS_MAX_INSPECTED", "2")
        with pytest.raises(Exception, match="You selected 8 pictures; the limit is 2"):
            client.predict(given, 0.7, True, api_name="/inspect")


def test_a_full_queue_is_refused(monkeypatch):
    monkeypatch.setenv("ADMODELS_MAX_QUEUE", "2")
    jobs, gate = Jobs(), threading.Event()
    submitted = [jobs.submit(lambda tell: gate.wait(60), threading.Event()) for _ in range(2)]
    with pytest.raises(admodels.OptionError, match="2 jobs are queued already"):
        jobs.submit(lambda tell: None, threading.Event())
    gate.set()
    for job in submitted:
        jobs.follow(job, no_progress)

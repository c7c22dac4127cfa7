"""What programs send, and what they may reach: no stranger's session, no visitor's place, and no traceback."""

import asyncio
import inspect
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import httpx
import pytest
from gradio_client import handle_file
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import admodels
from demo import sent
from demo.app import build
from demo.state.current import Current
from demo.state.jobs import Jobs
from demo.state.sessions import MAX_PROGRAMS, MAX_SESSIONS, SESSIONS, Sessions
from demo.tabs import fitting
from tests.conftest import SMALL, client_of

OWNER = "hf_owner"


def page(name):
    return gr.Request(session_hash=name, query_params={})


def call(app, name, *data, **more):
    """One call over HTTP as curl does it; the stream of its events as text."""
    begun = httpx.post(f"{app}gradio_api/call/{name}", json={"data": list(data)} | more, timeout=60)
    begun.raise_for_status()
    return httpx.get(f"{app}gradio_api/call/{name}/{begun.json()['event_id']}", timeout=60).text


# --- whose session --------------------


def test_calls_without_a_session_share_neither_a_token_nor_a_model(app, isvd):
    admodels.save(isvd, "shared", overwrite=True)
    tokens = [s.token() for s in SESSIONS._sessions.values()].count(OWNER)
    assert "Logged in as owner" in call(app, "log_in", OWNER)
    assert "event: complete" in call(app, "load_model", "shared")
    assert "no model to push yet" in call(app, "push", "owner/x", "", "mit", "", True, False, "", False)
    assert [s.token() for s in SESSIONS._sessions.values()].count(OWNER) <= tokens + 1  # of the call that logged in
    # With a session of its own a program goes on where it was.
    mine = {"session_hash": "a long random text of my own"}
    call(app, "load_model", "shared", **mine)
    assert "no model to push yet" not in call(app, "push", "owner/x", "", "mit", "", True, False, "", False, **mine)
    admodels.delete("shared")


@pytest.mark.parametrize("path", ["run", "api"])
@pytest.mark.parametrize("session", [{}, {"session_hash": "any"}])
def test_the_path_beside_the_queue_is_closed(app, path, session):
    answer = httpx.post(f"{app}gradio_api/{path}/list_models", json={"data": []} | session, timeout=60)
    assert answer.status_code == 404
    assert "join the queue" in answer.text


def test_a_call_without_a_session_is_refused_where_nothing_gives_it_one():
    sessions = Sessions()
    for nobody in (None, ""):
        with pytest.raises(gr.Error, match="names no session"):
            sessions.of(page(nobody))
        with pytest.raises(gr.Error, match="names no session"):
            sessions.arrive("", page(nobody))
    assert not sessions._sessions


def unsaved(isvd):
    return Current(isvd, "mine")


def test_programs_push_nobody_out(isvd):
    sessions = Sessions()
    sessions.arrive("", page("idle"))
    idle = sessions.of(page("idle"))
    client = sessions.of(page("a client"))
    client.use(unsaved(isvd))
    for i in range(3 * MAX_SESSIONS):
        sessions.of(page(f"{i:032x}"))
    assert sessions.of(page("idle")) is idle
    assert sessions.of(page("a client")) is client
    assert len(sessions._sessions) <= MAX_PROGRAMS + 1


@pytest.mark.parametrize("is_page", [True, False], ids=["pages", "programs"])
def test_where_everybody_has_something_to_lose_newcomers_are_refused(isvd, is_page):
    sessions, most = Sessions(), MAX_SESSIONS if is_page else MAX_PROGRAMS
    everybody = []
    for i in range(most):
        if is_page:
            sessions.arrive("", page(f"one {i}"))
        everybody.append(sessions.of(page(f"one {i}")))
        everybody[-1].use(unsaved(isvd))
    with pytest.raises(gr.Error, match="have unsaved models here"):
        sessions.arrive("", page("new")) if is_page else sessions.of(page("new"))
    assert all(sessions.of(page(f"one {i}")) is session for i, session in enumerate(everybody))
    everybody[5].replace(everybody[5].current, everybody[5].current.saved("kept"))
    sessions.arrive("", page("new")) if is_page else sessions.of(page("new"))
    assert sessions.of(page("one 4")) is everybody[4]


def test_a_program_that_ended_makes_room_before_a_new_one_is_refused(isvd):
    sessions = Sessions()
    for i in range(MAX_PROGRAMS):
        sessions.of(page(f"one {i}")).use(unsaved(isvd))
    sessions.of(page("one 8")).current = None  # at work, and nothing to lose so far
    sessions.close(page("one 7"))
    sessions.of(page("new"))
    assert "one 7" not in sessions._sessions
    assert "one 8" in sessions._sessions
    assert len(sessions._sessions) == MAX_PROGRAMS


def test_a_program_that_was_not_heard_of_for_long_makes_room(isvd, monkeypatch):
    sessions = Sessions()
    for i in range(MAX_PROGRAMS):
        sessions.of(page(f"one {i}")).use(unsaved(isvd))
    monkeypatch.setattr("demo.state.sessions.AWAY_SECONDS", -1.0)
    sessions.of(page("new"))
    assert "one 0" not in sessions._sessions
    assert "one 1" in sessions._sessions


def test_among_visitors_with_nothing_to_lose_who_went_away_makes_room(isvd):
    sessions = Sessions()
    here = [sessions.arrive("", page(f"one {i}")) for i in range(MAX_SESSIONS)]
    sessions.close(page("one 40"))
    sessions.arrive("", page("new"))
    assert len(sessions._sessions) == MAX_SESSIONS
    assert here[40] not in sessions._sessions
    assert here[0] in sessions._sessions


def test_a_session_of_one_call_alone_is_short_and_what_runs_in_it_is_not_stopped(monkeypatch):
    monkeypatch.setattr("demo.state.sessions.CALL_SECONDS", -1.0)
    sessions, jobs, gate = Sessions(), Jobs(), threading.Event()
    once, twice, busy = f"{1:032x}", f"{2:032x}", f"{3:032x}"
    for hash_ in (once, busy):
        session = sessions.of(page(hash_))
        stop = session.side_stop.take()
        session.side_job = jobs.submit(lambda tell: gate.wait(60), stop) if hash_ == busy else None
    for hash_ in ("a client's own", twice):
        sessions.of(page(hash_)).n_requests = 2
    sessions.of(page("another client"))
    assert set(sessions._sessions) == {twice, "a client's own", busy, "another client"}
    assert not stop.is_set()
    gate.set()
    jobs.follow(session.side_job, lambda *_, **__: None)
    sessions.of(page("a third"))
    assert busy not in sessions._sessions


# --- what is sent --------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**320)
    | st.floats()
    | st.text()
    | st.sampled_from(["²", "٣", "auto", "0", "nan", "\ud800", "a\0b", "../x", "data:image/png;base64,AAAA", "1e999"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def demo(home):
    return build()


def public(demo):
    return {f.api_name: f for f in demo.fns.values() if f.api_visibility == "public"}


def handled(demo, endpoint, values):
    """What an endpoint's handler gives for values as they were sent."""
    with ThreadPoolExecutor(1) as pool:  # the browser of other tests leaves a loop that runs in this thread
        processed = iter(pool.submit(asyncio.run, demo.preprocess_data(endpoint, values, None)).result())
    arguments = {}
    for name, parameter in inspect.signature(endpoint.fn).parameters.items():
        if name == "request":
            arguments[name] = page("a fuzzing program")
        elif name == "progress":
            arguments[name] = lambda *_, **__: None
        else:
            assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            arguments[name] = next(processed)
    return endpoint.fn(**arguments)


def refusal(call, *arguments):
    """The words in which a call was refused; empty where it was not."""
    try:
        call(*arguments)
    except (gr.Error, admodels.OptionError) as error:
        return error.message if isinstance(error, gr.Error) else str(error)
    return ""


def plausible(component):
    """Values that pass the check of a control, so that its handler gets to see them."""
    if isinstance(component, gr.Checkbox):
        return st.booleans()
    if isinstance(component, gr.Radio):
        return st.sampled_from([value for _, value in component.choices])
    if isinstance(component, gr.Slider):
        return st.floats(component.minimum, component.maximum)
    if isinstance(component, gr.Number):
        return st.none() | st.integers()
    if isinstance(component, gr.Textbox | gr.Dropdown):
        odd = st.sampled_from(["²", "auto", "{}", "[" * 10_000, "a/b@c", "local:", "x" * 10_000])
        return st.none() | st.text() | odd
    return st.none() | st.just([])


# Those that would go to a network or compute for long where, by chance, nothing is wrong with what they get.
LONG = {"add_examples", "push", "search_hub", "log_in", "measure_speed"}


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_is_sent_to_an_endpoint_is_answered_in_words_of_ours(demo, data):
    endpoints = public(demo)
    name = data.draw(st.sampled_from(sorted(set(endpoints) - LONG)))
    values = [data.draw(plausible(component)) for component in endpoints[name].inputs]
    n_odd = data.draw(st.integers(0, 2))  # how many values are anything at all
    for position in range(min(n_odd, len(values))):
        values[data.draw(st.integers(position, len(values) - 1))] = data.draw(JSON)
    said = refusal(handled, demo, endpoints[name], values)
    assert said == "" or 20 < len(said) < 2000


@settings(max_examples=200)
@given(JSON)
def test_what_programs_send_is_read_or_refused(value):
    for read in (sent.seed, sent.folds, lambda v: sent.json_object(v, "options"), lambda v: sent.text(v, "name")):
        assert len(refusal(read, value)) < 400
    is_rate = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
    said = refusal(lambda v: sent.number(v, "rate", above=0, below=1), value)
    assert said == "" if is_rate else said.startswith("rate is ")


NAMES = st.sampled_from(["image_size", "device", "crop", "member", "member.grid", "method", "engine", "layers", "grid"])


@settings(max_examples=200)
@given(
    st.sampled_from([*admodels.DETECTORS, "", "no such"]),
    st.dictionaries(NAMES | st.text(max_size=4), JSON, max_size=4),
)
@example("tiled", {"member": 5, "member.grid": 3})
@example("fapm", {"device": "cpu"})
def test_whatever_options_are_sent_they_are_taken_or_refused(method, options):
    said = refusal(fitting._detector, method, json.dumps(options))
    assert said or method in admodels.DETECTORS


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ("", None), (" auto ", None), ("0", 0), (5, 5), ("7", 7)]
)
def test_folds(value, expected):
    assert sent.folds(value) == expected


@pytest.mark.parametrize("value", ["²", "٣", "-1", 2.5, "many", True, [5], "9" * 400, float("nan")])
def test_what_are_no_folds(value):
    with pytest.raises(admodels.OptionError, match="folds is"):
        sent.folds(value)


def test_a_switch_is_not_taken_for_granted(demo):
    """Null for private would publish a model, "false" for replace would overwrite one."""
    endpoints = public(demo)
    for name, values, said in (
        ("push", ["owner/x", "", "mit", "", None, False, "", False], "private is null; expected true or false"),
        ("save_model", ["x", "false"], "replace is 'false'; expected true or false"),
        ("inspect", [None, float("nan"), True, False], "opacity is nan; expected a number"),
        ("inspect", [None, "0.5", True, False], "opacity is '0.5'; expected a number"),
        ("fit", [None, "fapm", 0.1, "{}", 1.5, "0"], "seed is 1.5; expected a whole number"),
        ("fit", [["data:image/png;base64,AAAA"], "fapm", 0.1, "{}", 0, "0"], "files holds .*handle_file"),
        ("set_threshold", [None, 0.1, 1.0], "how is null; expected one of by false-alarm rate, by hand"),
        ("fit", [None, "fapm"], "2 values received; 6 are expected: files, method, false_alarm_rate"),
    ):
        with pytest.raises(gr.Error, match=said):
            handled(demo, endpoints[name], values)


def test_nothing_but_words_of_ours_reaches_the_log(app, specks, caplog, capfd):
    mine = {"session_hash": "a program that errs"}
    with caplog.at_level(logging.WARNING):
        for name, data in (
            ("search_hub", [[], {}]),
            ("inspect", ["x", None, None]),
            ("set_threshold", ["x", "y", "z"]),
        ):
            assert "event: error" in call(app, name, *data, **mine)
    said = capfd.readouterr()
    raised = [line for line in (said.out + said.err).splitlines() if "Error" in line and not line.startswith(" ")]
    assert [line for line in raised if "gradio.exceptions.Error" not in line and "admodels.errors" not in line] == []
    assert not caplog.records


def test_a_program_without_a_page_may_still_fit_and_go_on(app, specks):
    client = client_of(app)
    given_ = [handle_file(str(p)) for p in specks.train[:8]]
    client.predict(given_, "fapm", 0.1, json.dumps(SMALL["fapm"]), 0, api_name="/fit")
    assert client.predict(given_[:1], api_name="/score")[0]["score"] > 0

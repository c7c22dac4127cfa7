"""The command line with the paths, names and terminals that people have: nothing is lost, overwritten or misread."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

import admodels
from admodels import LOCAL
from admodels.cli import terminal
from admodels.cli.main import app as command_line
from admodels.models import store
from admodels.models.format import CONFIG_FILE, TENSOR_FILE
from demo.state.limits import check_settings


@pytest.fixture
def saved(isvd):
    """A saved model, called m."""
    LOCAL.save(isvd, "m", overwrite=True)
    yield isvd
    if (store.models_folder() / "m").exists():
        LOCAL.delete("m")


@pytest.fixture
def picture(specks):
    return specks.test[0].path


def rows_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_picture_has_maps_of_its_own(run, saved, specks, tmp_path):
    names = ["a/part.png", "a/part_2.png", "b/part.png", "b/Part.png", "a/part_2_2.png", "a/part_map.png"]
    for name, item in zip(names, specks.test, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(item.path, tmp_path / name)
    shutil.copy(specks.test[6].path, tmp_path / "b/part_mask.png")
    # Written beside the pictures, no mask may take the place of one of them.
    for out in (tmp_path / "out", tmp_path / "b"):
        run("predict", "m", tmp_path / "a", tmp_path / "b", "--out", out, "--json", tmp_path / "s.json")
        rows = rows_of(tmp_path / "s.json")
        assert len(rows) == 7
        files = [row[key] for row in rows for key in ("map", "mask")]
        assert len({name.casefold() for name in files}) == 14
        for row in rows:
            expected = saved.predict(row["image"]).anomaly_map  # alone, and so up to rounding
            np.testing.assert_allclose(np.load(row["map"]), expected, rtol=1e-3, atol=1e-3)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert (tmp_path / "b/part_mask.png").read_bytes() == specks.test[6].path.read_bytes()


ODD_NAMES = [
    "part[red]1.png",
    "[bold]2.png",
    "cam[link=x]3.png",
    "a\nb.png",
    "c\x1b[2Jd.png",
    "e\u202ef.png",
    ":boom:.png",
]


def test_names_are_shown_as_they_are_and_steer_nothing(run, saved, picture, tmp_path):
    names = [*ODD_NAMES, os.fsdecode(b"Pr\xfcfteil.png")]
    for name in names:
        shutil.copy(picture, tmp_path / name)
    said = run("predict", "m", tmp_path, "--json", tmp_path / "out/s.json", "--out", tmp_path / "out")
    for shown in (
        "part[red]1.png",
        "[bold]2.png",
        "cam[link=x]3.png",
        "a\\nb.png",
        "c\\x1b[2Jd.png",
        "Pr\\xfcfteil.png",
    ):
        assert shown in said
    assert "\x1b" not in said
    assert ":boom:" in said
    rows = rows_of(tmp_path / "out/s.json")
    assert {Path(row["image"]).name for row in rows} == set(names)
    assert all(Path(row["map"]).is_file() for row in rows)
    broken = tmp_path / "[b]\x1b[31m.png"
    broken.write_bytes(b"x")
    complaint = run("predict", "m", broken, fails=True)
    assert "[b]\\x1b[31m.png" in complaint
    assert "\x1b" not in complaint


PLAIN = {"color_system": None, "markup": False, "emoji": False, "highlight": False}


@given(st.lists(st.text(), min_size=1, max_size=3), st.text(), st.sampled_from([1, 20, 400]))
def test_any_text_fits_in_a_table_a_line_and_a_title(cells, title, width):
    for encoding, kind in itertools.product(("utf-8", "cp1252", "ascii"), ({}, {"force_terminal": True})):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
        console = Console(file=stream, width=width, **PLAIN, **kind)
        table = terminal.Rows(*cells, title=title)
        table.add_row(*cells)
        with patch.object(terminal, "console", console):
            terminal.say(table)
            terminal.say(title)
        stream.flush()
        written = stream.buffer.getvalue()
        assert b"\x1b" not in written
        assert len(written.splitlines()) >= (2 if kind else 5)


WORDS = st.text("ab1.é部", min_size=1, max_size=30)


@given(
    st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=8),
    st.integers(10, 300),
    st.booleans(),
)
def test_no_table_breaks_a_name_or_a_number(cells, width, is_terminal):
    stream = io.StringIO()
    table = terminal.Rows(*(f"c{i}" for i in range(len(cells))), title="a title")
    table.add_row(*cells)
    with patch.object(terminal, "console", Console(file=stream, width=width, force_terminal=is_terminal, **PLAIN)):
        terminal.say(table)
    lines = stream.getvalue().splitlines()
    for word in " ".join(cells).split():
        assert any(word in line for line in lines)
    if is_terminal:  # a long line is broken by the terminal alone, where nothing else helps
        assert max(map(cell_len, lines)) <= width or not any("┃" in line for line in lines)
        is_wide = sum(map(cell_len, cells)) + 4 * len(cells) <= width
        assert any("┃" in line for line in lines) or not is_wide
    else:
        assert any(all(cell in line for cell in cells) for line in lines)


def test_what_a_terminal_lacks_costs_a_character(monkeypatch):
    for encoding, expected in (("ascii", b"? x\\xfc"), ("cp1252", b"? x\\xfc"), ("utf-8", "部 x\\xfc".encode())):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.lenient_output()
        terminal.say("部 x\udcfc")
        stream.flush()
        assert stream.buffer.getvalue().rstrip(b"\r\n") == expected


@pytest.mark.parametrize("name", ["m", "my bolts", "bolts/line2", "Prüfteil", "con", ""])
def test_a_name_is_refused_before_the_fit(run, saved, small_data, monkeypatch, name):
    monkeypatch.setattr(admodels.Detector, "fit", lambda *a, **k: pytest.fail("it learned first"))
    said = run("fit", "padim_isvd", small_data, "--save", name, "--device", "cpu", fails=True)
    assert ("exists already" if name == "m" else "is not a name") in said
    said = run("pull", "owner/nothing", "--save", name, fails=True)
    assert ("exists already" if name == "m" else "is not a name") in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "m", "PICTURE", "--json"],
        ["evaluate", "fapm", "DATA", "--json"],
        ["evaluate", "fapm", "DATA", "--all", "--out", "FILE", "--json"],
        ["benchmark", "fapm", "--json"],
        ["benchmark", "--compare", "--data", "DATA", "--scatter"],
        ["search", "--json"],
        ["publish", "DATA", "--owner", "owner", "--json"],
        ["distill", "--images", "DATA", "--out"],
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_work(
    run, saved, picture, small_data, tmp_path, monkeypatch, arguments
):
    for place in ("evaluate.run_evaluation", "distill.run_distillation", "benchmark.compare_methods"):
        monkeypatch.setattr(f"admodels.cli.{place}", lambda *a, **k: pytest.fail("it worked first"))
    monkeypatch.setattr(admodels.Detector, "predict_batch", lambda *a, **k: pytest.fail("it worked first"))
    for name in ("search", "catalogue"):
        monkeypatch.setattr(admodels, name, lambda *a, **k: pytest.fail("it worked first"))
    (tmp_path / "file").touch()
    (tmp_path / "x.safetensors").mkdir()
    stands_for = {"PICTURE": picture, "DATA": small_data, "FILE": tmp_path / "file"}
    bad = tmp_path / "x.safetensors" if arguments[0] == "distill" else tmp_path
    said = run(*(stands_for.get(a, a) for a in arguments), bad, fails=True)
    assert str(tmp_path) in said
    assert "Choose another" in said or "Give the path of a file" in said


def test_a_teacher_goes_into_a_file_of_its_own_kind(run, small_data, tmp_path):
    for name in ("teacher.jsonl", "teacher.part", "teacher"):
        said = run("distill", "--images", small_data, "--out", tmp_path / name, fails=True)
        assert "ends in .safetensors" in said
    said = run("distill", "--images", small_data, "--out", tmp_path / "t.safetensors", "--minutes", "nan", fails=True)
    assert "--minutes is nan; expected a number above 0" in said


def test_results_are_written_before_they_are_printed(run, saved, picture, small_data, tmp_path, monkeypatch):
    def fail(*parts):
        raise OSError(28, "No space left on device")

    for place in ("fit", "evaluate", "saved", "distill", "hub", "benchmark"):
        monkeypatch.setattr(f"admodels.cli.{place}.say", fail)
    fast = ["--option", "image_size=64", "--option", "grid=3", "--device", "cpu", "--no-robustness"]
    out = tmp_path / "new folder"
    for name, arguments in {
        "p.json": ["predict", "m", picture],
        "e.json": ["evaluate", "fapm", small_data, *fast],
        "all.json": ["evaluate", "fapm", small_data, "--all", "--out", tmp_path / "all", *fast],
    }.items():
        said = run(*arguments, "--json", out / name, fails=True)
        assert "No space left on device" in said
        if name != "all.json":  # there each category's result is printed as it comes, and is in its own file
            assert rows_of(out / name)
    assert [p.name for p in (tmp_path / "all").iterdir()] == [f"{small_data.name}.json"]


def test_what_was_scored_before_a_damaged_picture_is_kept(run, saved, picture, tmp_path):
    for i in range(10):
        Image.open(picture).convert("RGB").save(tmp_path / f"{i}.jpg")
    whole = (tmp_path / "9.jpg").read_bytes()
    (tmp_path / "9.jpg").write_bytes(whole[: len(whole) // 2])  # its header is fine
    said = run("predict", "m", tmp_path, "--json", tmp_path / "s.json", fails=True)
    assert "9.jpg" in said
    assert [Path(row["image"]).name for row in rows_of(tmp_path / "s.json")] == [f"{i}.jpg" for i in range(8)]


def test_pictures_come_as_folders_zips_and_patterns(run, saved, picture, tmp_path):
    (tmp_path / "deep/batch1").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("1.png", "2.png"):
        shutil.copy(picture, tmp_path / "deep/batch1" / name)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(picture, "in/a.png")
        archive.write(picture, "in/b/a.png")
    given = [tmp_path / "p.zip", tmp_path / "deep/batch1/*.png"]
    run("predict", "m", *given, "--json", tmp_path / "s.json", "--out", tmp_path / "out")
    rows = rows_of(tmp_path / "s.json")
    assert [row["image"].removeprefix(f"{tmp_path}/") for row in rows] == [
        "p.zip/in/a.png",
        "p.zip/in/b/a.png",
        "deep/batch1/1.png",
        "deep/batch1/2.png",
    ]
    assert len({row["map"] for row in rows}) == 4
    for wrong, said in (
        (tmp_path / "empty", "holds no pictures"),
        (tmp_path / "deep", "skipped: batch1"),
        (tmp_path / "*.gif", "matches no file"),
        (tmp_path / "nope", "does not exist"),
        ("-", "does not exist"),
    ):
        assert said in run("predict", "m", wrong, fails=True)


def test_notices_about_pictures_reach_the_user(saved, picture, tmp_path):
    frames = [Image.open(picture) for _ in range(3)]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    given = ["predict", "m", str(tmp_path / "stack.tif"), "--json", str(tmp_path / "s.json")]
    result = CliRunner().invoke(command_line, given)
    assert result.exit_code == 0
    assert "Note: stack.tif has 3 frames" in result.stderr
    assert "has 3 frames" in rows_of(tmp_path / "s.json")[0]["notices"][0]


def test_a_damaged_model_is_told_of_in_the_list(run, saved):
    (store.models_folder() / "m" / CONFIG_FILE).write_text("{", encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "admodels", "list"], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0
    assert "m cannot be read: m/config.json is not valid JSON" in done.stderr


def test_the_threshold_moves_and_nothing_else(run, saved):
    folder = store.models_folder() / "m"
    config = rows_of(folder / CONFIG_FILE)
    config |= {"fitted_on": {"device": "cuda", "precision": "bfloat16"}, "saved_at": "2025-01-01T00:00:00+00:00"}
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    before = (folder / TENSOR_FILE).read_bytes()
    run("threshold", "m", "--rate", "0.2")
    after = rows_of(folder / CONFIG_FILE)
    assert after.pop("calibration") == config.pop("calibration") | {
        "false_alarm_rate": 0.2,
        "threshold": saved.with_threshold(false_alarm_rate=0.2).calibration_.threshold,
    }
    assert after.pop("digests")["tensors"] == config.pop("digests")["tensors"]
    assert after == config
    assert (folder / TENSOR_FILE).read_bytes() == before
    for wrong in (("--rate", "nan"), ("--rate", "0"), ("--value", "inf"), (), ("--rate", "0.1", "--value", "3")):
        assert "Error" in run("threshold", "m", *wrong, fails=True)


def test_ctrl_c_and_a_closed_pipe_end_quietly(run, saved, picture, monkeypatch):
    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("admodels.cli.fit.pictures", interrupt)
    assert run("predict", "m", picture, fails=True).strip() == "Stopped: by Ctrl-C."

    def closed(*given):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("admodels.cli.fit.pictures", closed)
    assert run("predict", "m", picture, fails=True) == ""


@pytest.mark.parametrize("setting", ["ADMODELS_DEVICE=gpu", "GRADIO_SERVER_PORT=abc"])
def test_a_setting_with_a_slip_is_one_message_when_the_app_starts(setting):
    name, value = setting.split("=")
    done = subprocess.run([sys.executable, "app.py"], env=os.environ | {name: value}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert f"is {value!r}; expected" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ADMODELS_MAX_UPLOAD", "lots"),
        ("ADMODELS_MAX_UPLOAD", "0gb"),
        ("ADMODELS_MAX_UPLOAD", "²gb"),
        ("ADMODELS_MAX_QUEUE", "many"),
        ("ADMODELS_MAX_ZIP_GIB", "-1"),
        ("ADMODELS_MAX_MEGAPIXELS", "nan"),
        ("ADMODELS_HOME", __file__),
    ],
)
def test_every_setting_is_looked_at_before_anybody_comes(monkeypatch, name, value):
    check_settings()
    monkeypatch.setenv(name, value)
    with pytest.raises(admodels.AdmodelsError, match=f"{name}|ADMODELS_HOME"):
        check_settings()

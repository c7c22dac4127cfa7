"""What Inspect scores, wherever the pictures come from, through `gradio_client`."""

import base64
import csv
import re

import numpy as np
import pytest
from gradio_client import handle_file
from PIL import Image

import admodels
from admodels.pictures import defects
from admodels.pictures.images import decode
from tests.demo.test_app_api import fit, inspect


def test_many_pictures_are_scored_in_parts_and_their_scores_come_as_a_file(client, specks, tmp_path, monkeypatch):
    fit(client, specks.train)
    given = [item.path for item in specks.test[:5]]
    at_once = inspect(client, given)
    monkeypatch.setattr("admodels.core.method.BATCH_SIZE", 2)
    in_parts = inspect(client, given)
    assert [r["score"] for r in in_parts] == pytest.approx([r["score"] for r in at_once], rel=1e-5)
    with open(client.predict(api_name="/scores_file"), newline="", encoding="utf-8") as opened:
        header, *rows = csv.reader(opened)
    assert header[:6] == ["picture", "score", "p-value", "verdict", "hottest x", "hottest y"]
    assert [int(row[6]) for row in rows] == [len(r["regions"]) for r in in_parts]
    for row, said in zip(rows, in_parts, strict=True):
        first = [[r["peak"], r["left"], r["top"], r["right"], r["bottom"], r["area"]] for r in said["regions"][:1]]
        assert [float(value) for value in row[7:] if value] == pytest.approx(first[0] if first else [], rel=1e-5)
    assert [(row[0], float(row[1]), float(row[2])) for row in rows] == [
        (r["name"], r["score"], r["p_value"]) for r in in_parts
    ]
    assert [row[3] for row in rows] == [r["verdict"] for r in in_parts]
    assert [r["verdict"] == "suspected" for r in in_parts] == [r["is_anomalous"] for r in in_parts]
    for row in in_parts:
        assert bool(row["regions"]) <= row["is_anomalous"]
        for region in row["regions"]:
            assert 0 <= region["left"] < region["right"] <= 128
            assert 0 <= region["top"] < region["bottom"] <= 128
            assert 0 < region["area"] <= (region["right"] - region["left"]) * (region["bottom"] - region["top"])
    broken = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in broken:
        path.write_bytes(given[0].read_bytes()[:900])
    with pytest.raises(Exception, match=r"2 of 7 pictures cannot be used(.|\n)*a\.png(.|\n)*b\.png"):
        inspect(client, [broken[0], *given, broken[1]])


def test_pictures_are_added_to_those_inspected_before(client, specks):
    fit(client, specks.train)
    paths = [item.path for item in specks.test[:3]]
    before = inspect(client, paths[:2])
    given = [handle_file(str(path)) for path in paths]
    both = client.predict(given[2:], 0.7, True, True, api_name="/inspect")[-1]
    assert [row["name"] for row in both] == [path.name for path in paths]
    assert both[:2] == before
    with pytest.raises(Exception, match="No picture selected"):
        client.predict([], 0.7, True, True, api_name="/inspect")
    assert [row["name"] for row in inspect(client, paths[:1])] == [paths[0].name]  # in their place


def test_programs_get_scores_without_what_is_drawn(client, specks):
    with pytest.raises(Exception, match="no model yet"):
        client.predict([handle_file(str(specks.test[0].path))], api_name="/score")
    fit(client, specks.train)
    shown = inspect(client, [specks.test[0].path])
    given = [handle_file(str(item.path)) for item in specks.test[:3]]
    rows = client.predict(given, api_name="/score")
    assert rows == [*inspect(client, [item.path for item in specks.test[:3]])]
    assert rows[0]["score"] == pytest.approx(shown[0]["score"], rel=1e-5)
    with pytest.raises(Exception, match="No picture selected"):
        client.predict([], api_name="/score")


def test_one_frame_of_a_stream(client, specks):
    frame = handle_file(str(specks.test[0].path))
    with pytest.raises(Exception, match="no model yet"):
        client.predict(frame, 0.7, True, api_name="/live")
    fit(client, specks.train)
    row = inspect(client, [specks.test[0].path])[0]
    found = [client.predict(frame, 0.7, True, api_name="/live") for _ in range(3)]
    assert found[0][1]["fps"] is None
    for picture, said in found[1:]:
        assert said["score"] == pytest.approx(row["score"], rel=1e-5)
        assert said["is_anomalous"] == row["is_anomalous"]
        assert said["verdict"] == row["verdict"]
        assert said["fps"] > 0
        assert said["milliseconds"] > 0
        shown = decode(base64.b64decode(re.search(r"base64,([^\"]+)", picture)[1]))
        assert shown.pixels.shape == decode(specks.test[0].path).pixels.shape
        assert f"{said['fps']:.1f} FPS" in picture
    with pytest.raises(Exception, match="No frame received"):
        client.predict(None, 0.7, True, api_name="/live")


def paint(client, background, layers):
    edited = {"background": background, "layers": layers, "composite": None}
    return client.predict(edited, 0.7, True, api_name="/inspect_painted")


def test_a_painted_defect_is_scored_at_its_size_and_smaller(client, specks, tmp_path):
    fit(client, specks.train)
    good = decode(specks.train[0]).pixels
    layer = np.zeros((*good.shape[:2], 4), np.uint8)
    layer[60:100, 70:90] = (20, 20, 20, 255)
    Image.fromarray(good).save(tmp_path / "good.png")
    Image.fromarray(layer).save(tmp_path / "layer.png")
    background, painted = (handle_file(str(tmp_path / name)) for name in ("good.png", "layer.png"))
    said, result, *shown = paint(client, background, [painted])
    rows = shown[-1]
    assert [row["name"] for row in rows] == ["without", "40 px", "28 px", "20 px", "14 px", "10 px", "7 px"]
    assert result == {"pixels": 40, "found_down_to": result["found_down_to"], "is_hottest": True, "good_alarms": False}
    assert result["found_down_to"] in (40, 28, 20, 14, 10, 7)
    assert str(result["found_down_to"]) in said

    client.predict("painted", True, api_name="/save_model")
    detector = admodels.load("painted", device="cpu")
    admodels.delete("painted")
    expected = [good, *(defects.lay_over(good, defects.scaled(layer, s)) for s in (1, 0.7, 0.5, 0.35, 0.25, 0.18))]
    for row, pixels in zip(rows, expected, strict=True):
        assert row["score"] == pytest.approx(detector.predict(pixels).score, rel=1e-4)
    found = [row["is_anomalous"] for row in rows]
    assert found[0] is False
    n = found.index(False, 1) if False in found[1:] else len(found)
    assert rows[n - 1]["name"] == f"{result['found_down_to']} px"

    faint = layer.copy()
    faint[..., 3] = np.where(layer[..., 3] > 0, 1, 0)
    Image.fromarray(faint).save(tmp_path / "faint.png")
    said, result, *_ = paint(client, background, [handle_file(str(tmp_path / "faint.png"))])
    assert result["found_down_to"] is None
    assert "✗ Missed" in said
    defective = handle_file(str(specks.test[4].path))
    said, result, *_ = paint(client, defective, [painted])
    assert result["good_alarms"]
    assert "says nothing" in said


def test_what_cannot_be_painted_on_is_said(client, specks, tmp_path):
    background = handle_file(str(specks.train[0]))
    Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(tmp_path / "small.png")
    clear = Image.new("RGBA", decode(specks.train[0]).pixels.shape[1::-1], (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    for given, said in (
        ((None, []), "No picture to paint on"),
        ((background, []), "Nothing is painted yet"),
        ((background, [handle_file(str(tmp_path / "clear.png"))]), "Nothing is painted yet"),
        ((background, [handle_file(str(tmp_path / "small.png"))]), "expected RGBA of the picture's size"),
    ):
        with pytest.raises(Exception, match=said):
            paint(client, *given)
    clear.putpixel((50, 50), (0, 0, 0, 255))
    clear.save(tmp_path / "dot.png")
    with pytest.raises(Exception, match="no model yet"):
        paint(client, background, [handle_file(str(tmp_path / "dot.png"))])

"""Every category is measured once, resumed, averaged and reported."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import admodels
from admodels.evaluation.datasets import find_datasets
from admodels.evaluation.published import OBJECTS, PUBLISHED, TEXTURES
from admodels.evaluation.sweep import averages, sweep, table_rows, write_report
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def root(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("categories")
    for name in ("carpet", "grid"):
        shutil.copytree(small_data, folder / name)
    # What looks nothing like a good picture, under good, is a mistake that the report must show.
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "grid/test/good/odd.png")
    return folder


def new():
    return admodels.create("fapm", device="cpu", **SMALL["fapm"])


@pytest.fixture(scope="module")
def swept(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return sweep(new, find_datasets(root), out), out


def test_every_category_has_its_file_and_is_not_measured_again(root, swept):
    results, out = swept
    assert sorted(p.name for p in out.iterdir()) == ["carpet.json", "grid.json"]
    (out / "grid.json").unlink()
    seen = []
    again = sweep(new, find_datasets(root), out, on_category=lambda name, result, there: seen.append((name, there)))
    assert seen == [("carpet", True), ("grid", False)]
    assert again["carpet"] == json.loads((out / "carpet.json").read_text(encoding="utf-8"))["result"]
    assert again["grid"]["image_auroc"] == results["grid"]["image_auroc"]


def test_results_of_another_request_are_not_taken(root, swept):
    _, out = swept
    with pytest.raises(admodels.DataError, match="another request"):
        sweep(new, find_datasets(root), out, seed=3)
    shutil.copytree(out, out.parent / "damaged", dirs_exist_ok=True)
    (out.parent / "damaged" / "carpet.json").write_text("{", encoding="utf-8")
    with pytest.raises(admodels.DataError, match="damaged"):
        sweep(new, find_datasets(root), out.parent / "damaged")


def test_results_of_an_earlier_version_are_read_without_what_it_did_not_measure(root, swept, tmp_path):
    new_results, out = swept
    shutil.copytree(out, tmp_path / "out")
    file = tmp_path / "out/carpet.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["result"]["at_rates"]
    file.write_text(json.dumps(content), encoding="utf-8")
    seen = []
    results = sweep(
        new, find_datasets(root), tmp_path / "out", on_category=lambda name, result, there: seen.append(there)
    )
    assert seen == [True, True]
    carpet, grid, average = table_rows(results)[1:]
    assert carpet[4:7] == average[4:7] == ["–"] * 3
    assert grid[6] == table_rows(new_results)[2][6] != "–"
    write_report(tmp_path / "report.html", results, "Measured here", None)
    assert "an earlier version measured" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_categories_whose_names_are_no_files_have_files_of_their_own(root, swept, tmp_path, monkeypatch):
    data, measured = find_datasets(root)["carpet"], swept[0]["carpet"]
    monkeypatch.setattr("admodels.evaluation.sweep._measured", lambda *given: measured)
    out = tmp_path / "deep" / "out"
    names = ("../carpet", "a/b", "Carpet", "carpet", "all", "σ")
    results = sweep(new, dict.fromkeys(names, data), out, robustness=False)
    assert list(results) == list(names)
    assert len({p.name.casefold() for p in out.iterdir()}) == len(names)
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]
    seen = []
    sweep(new, dict.fromkeys(names, data), out, robustness=False, on_category=lambda n, r, there: seen.append(there))
    assert seen == [True] * len(names)
    # A category called like an average has a row of its own.
    assert [row[0] for row in table_rows(results)[1:]] == [*names, "all"]
    write_report(out / "report.html", results, "Measured here", None)
    assert "σ" in (out / "report.html").read_bytes().decode("utf-8")


def test_averages_are_means_and_groups_need_all_their_members():
    results = {
        name: {
            "image_auroc": i / 20,
            "pixel_auroc": 0.5,
            "aupro": None,
            "at_rates": [{"rate": rate, "detection_rate": i / 10, "false_alarm_rate": 0.25} for rate in (0.05, 0.1)],
        }
        for i, name in enumerate((*TEXTURES, *OBJECTS))
    }
    results["wood"]["at_rates"][0]["detection_rate"] = None
    rows = averages(results)
    at = [rows["textures"].pop("at_rates"), rows["objects"]["at_rates"]]
    assert rows["textures"] == {"image_auroc": pytest.approx(0.1), "pixel_auroc": 0.5, "aupro": None}
    assert [[row["rate"] for row in of_group] for of_group in at] == [[0.01, 0.05, 0.1]] * 2
    assert [row["detection_rate"] for row in at[0]] == [None, None, pytest.approx(0.2)]
    assert [row["detection_rate"] for row in at[1]] == [None, pytest.approx(0.95), pytest.approx(0.95)]
    assert at[0][2]["false_alarm_rate"] == 0.25
    assert rows["objects"]["image_auroc"] == pytest.approx(sum(range(5, 15)) / 200)
    assert rows["all"]["image_auroc"] == pytest.approx(0.35)
    assert list(averages({name: results[name] for name in TEXTURES})) == ["textures", "all"]


def test_the_table_sets_the_papers_figures_beside_ours(swept):
    header, *rows = table_rows(swept[0], "fapm")
    assert header[-1] == "AUPRO 30 % (paper)"
    assert [row[0] for row in rows] == ["carpet", "grid", "all"]
    assert rows[0][-3:] == ["99.3", "98.9", "–"]
    assert "[" in rows[0][1]
    assert rows[2][-3:] == ["–", "–", "–"]  # an average over two categories is not the paper's over fifteen
    assert len({len(row) for row in (header, *rows)}) == 1
    assert len(table_rows(swept[0])[0]) == 9


def test_published_averages_agree_with_their_rows():
    rows = PUBLISHED["fapm"].rows
    for i in range(2):
        mean = sum(rows[name][i] for name in (*TEXTURES, *OBJECTS)) / 15
        assert mean == pytest.approx(rows["all"][i], abs=0.06)


def test_the_report_stands_alone(swept, tmp_path):
    write_report(tmp_path / "report.html", swept[0], "Measured on <a device>", "fapm")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "odd.png" in page
    assert "data:image/jpeg;base64," in page
    assert "&lt;a device&gt;" in page
    assert "http" not in page.replace("https://", "")
    assert 'src="/' not in page


def test_the_report_in_a_browser(swept, tmp_path, browser):
    write_report(tmp_path / "report.html", swept[0], "Measured here", None)
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("tr").count() == 4 + 2 * 7  # results, and a robustness check for each category
    assert page.locator("img").first.evaluate("image => image.naturalWidth > 50")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()

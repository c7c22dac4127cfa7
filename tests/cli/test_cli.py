"""The command line, through the function that `python -m admodels` calls."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.metrics import roc_auc_score

import admodels
from admodels.evaluation.datasets import load_dataset, normal_images, read_mask
from tests import HUB

FAST = ["--option", "image_size=64", "--option", "n_components=4", "--device", "cpu"]


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "admodels", "options", "nope"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "padim_isvd" in done.stderr
    assert "Traceback" not in done.stderr


def test_fit_predict_list_show_delete(run, small_data, tmp_path):
    said = run("fit", "padim_isvd", small_data, "--save", "paper", *FAST)
    assert "Learned from 16 pictures, 16 held out" in said
    assert "local:paper" in run("list")
    shown = json.loads(run("show", "local:paper"))
    assert shown["options"]["n_components"] == 4
    test = small_data / "test" / "speck"
    run(
        "predict", "local:paper", test, small_data / "test" / "good", "--out", tmp_path, "--json", tmp_path / "out.json"
    )
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert len(rows) == 16
    assert len({row["map"] for row in rows}) == 16
    assert rows[0]["threshold"] == shown["calibration"]["threshold"]
    assert np.load(rows[0]["map"]).shape == read_mask((rows[0]["mask"],)).shape == (128, 128)
    assert "Set by hand" in run("threshold", "local:paper", "--value", 1.5)
    assert json.loads(run("show", "local:paper"))["calibration"]["threshold"] == 1.5
    run("delete", "local:paper")
    assert "local:paper" not in run("list")


def test_evaluate_writes_exactly_the_keys(run, small_data, tmp_path):
    out = tmp_path / "out.json"
    said = run("evaluate", "padim_isvd", small_data, "--n-train", 12, "--json", out, *FAST)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result) == {
        "method",
        "options",
        "n_train",
        "n_test",
        "image_auroc",
        "image_auroc_ci",
        "average_precision",
        "f1_max",
        "pixel_auroc",
        "pixel_average_precision",
        "aupro",
        "aupro_5",
        "fit_seconds",
        "feature_seconds",
        "fit_fps",
        "predict_fps",
        "peak_rss_mib",
        "model_mib",
        "threshold",
        "false_alarm_rate",
        "detection_rate",
        "at_rates",
        "pictures",
        "robustness",
    }
    assert len(result["pictures"]) == 16
    assert {"name", "kind", "score"} == set(result["pictures"][0])
    assert [row["change"] for row in result["robustness"]][:1] == ["JPEG, quality 90"]
    assert [row["rate"] for row in result["at_rates"]] == [0.01, 0.05, 1 / 13, 0.1]
    assert [row["n_found"] is None for row in result["at_rates"]] == [True, True, False, False]
    scores = [p["score"] for p in result["pictures"] if p["kind"] != "good"]
    assert result["at_rates"][3]["n_found"] == sum(score > result["at_rates"][3]["threshold"] for score in scores)
    assert f"{result['at_rates'][3]['n_found']} of 8" in said
    assert "1 % takes 99 and 5 % takes 19 good pictures kept aside; there are 12, enough for 7.7 % at best" in said
    assert (result["n_train"], result["n_test"]) == (12, 16)
    assert 0.5 < result["image_auroc"] <= 1
    assert 0.5 < result["pixel_auroc"] <= 1


def test_all_categories_are_shown_with_what_is_found_at_each_rate(run, small_data, tmp_path):
    out = tmp_path / "out.json"
    given = ("--all", "--out", tmp_path / "results", "--no-robustness", "--json", out)
    said = run("evaluate", "padim_isvd", small_data.parent, "--reference", "isvd", *given, *FAST)
    found = json.loads(out.read_text(encoding="utf-8"))[small_data.name]["at_rates"][-1]
    cell = f"{100 * found['detection_rate']:.1f} / {100 * found['false_alarm_rate']:.1f}"
    assert said.count(cell) == 2  # of the one category, and of the average
    assert "at the threshold that the model sets from the good pictures it kept aside" in said


def test_evaluation_agrees_with_scikit_learn(small_data):
    from admodels.evaluation.accuracy import evaluate

    data = load_dataset(small_data)
    detector = admodels.create("padim_isvd", device="cpu", image_size=64, n_components=4)
    result = evaluate(detector, data)
    predictions = [detector.predict(item.path) for item in data.test]
    labels = [item.kind != "good" for item in data.test]
    assert result.image_auroc == pytest.approx(roc_auc_score(labels, [p.score for p in predictions]))
    truth = np.concatenate([(read_mask(i.masks) if i.masks else np.zeros((128, 128), bool)).ravel() for i in data.test])
    values = np.concatenate([p.anomaly_map.ravel() for p in predictions])
    assert result.pixel_auroc == pytest.approx(roc_auc_score(truth, values), abs=1e-4)
    alarms = np.array([p.is_anomalous for p in predictions])
    assert result.detection_rate == alarms[np.array(labels)].mean()


def test_pixel_auroc_is_none_without_masks(small_data, tmp_path):
    import shutil

    from admodels.evaluation.accuracy import evaluate

    copy = tmp_path / "no_masks"
    shutil.copytree(small_data, copy, ignore=shutil.ignore_patterns("ground_truth"))
    detector = admodels.create("padim_isvd", device="cpu", image_size=64, n_components=4)
    assert evaluate(detector, load_dataset(copy)).pixel_auroc is None


def test_benchmark_prints_the_ratios_and_the_papers_columns(run, small_data, tmp_path):
    out = tmp_path / "out.json"
    said = run("benchmark", "padim_isvd", "--data", small_data, "--json", out, *FAST)
    assert "feature pass" in said
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["fit_ratio"] == pytest.approx(result["fit_ms"] / result["features_ms"])
    assert len(result["comparison"]) == 5
    last = result["comparison"][-1]["at_rates"][-1]
    assert f"{last['detection_rate']:.3f} / {last['false_alarm_rate']:.3f}" in said
    assert [row["options"]["incremental"] for row in result["comparison"]] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "padim_isvd", "/nowhere", "--save", "x"], "not a folder"),
        (["fit", "padim_isvd", "/no[/bold]where", "--save", "x"], "/no[/bold]where"),
        (["fit", "padimm", ".", "--save", "x"], "padim_isvd"),
        (["fit", "padim_isvd", ".", "--save", "x", "--option", "n_component=3"], "Did you mean 'n_components'"),
        (["fit", "padim_isvd", ".", "--save", "x", "--option", "n_components"], "key=value"),
        (["predict", "local:nothing", "a.png"], "no model named"),
        (["show", "../../etc"], "not a name"),
        (["evaluate", "padim_isvd", "."], "train/good is missing"),
    ],
)
def test_errors_are_one_message_without_a_traceback(run, arguments, said):
    message = run(*arguments, fails=True)
    assert said in message
    assert "Traceback" not in message


def test_predict_names_every_unreadable_picture(run, small_data, tmp_path):
    run("fit", "padim_isvd", small_data, "--save", "names", *FAST)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"text")
    message = run("predict", "names", tmp_path, fails=True)
    assert "a.png" in message
    assert "b.png" in message


def test_every_command_has_help_worth_reading(run):
    for command in ("fit", "predict", "evaluate", "benchmark", "list", "show", "delete", "options"):
        assert len(run(command, "--help")) > 150
    assert "n_components" in run("options", "padim_isvd")


def test_benchmark_of_fapm_prints_the_papers_five_rows(run, small_data, tmp_path):
    out = tmp_path / "out.json"
    fast = ["--option", "image_size=64", "--option", "grid=3", "--device", "cpu"]
    said = run("benchmark", "fapm", "--data", small_data, "--json", out, *fast)
    for row in ("A  one memory", "B  patch-wise", "C  layer-wise", "D  both", "E  both, adaptive", "model MiB"):
        assert row in said
    rows = json.loads(out.read_text(encoding="utf-8"))["comparison"]
    assert len(rows) == 5
    assert all(row["image_auroc"] > 0.5 and row["model_mib"] > 0 for row in rows)


def test_all_methods_are_compared(run, small_data, tmp_path):
    out, figure = tmp_path / "out.json", tmp_path / "scatter.html"
    fast = ["--option", "image_size=64", "--option", "n_features=10", "--option", "max_steps=3", "--device", "cpu"]
    fast += ["--n-train", 8]
    said = run("benchmark", "--compare", "--data", small_data, "--json", out, "--scatter", figure, *fast)
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == list(admodels.METHODS)
    for row in rows:
        assert row["name"] in said
        assert row["options"]["image_size"] == 64
        assert row["peak_rss_mib"] > row["model_mib"] > 0
        assert row["image_auroc_ci"][0] <= row["image_auroc"] <= row["image_auroc_ci"][1]
    page = figure.read_text(encoding="utf-8")
    assert "ms a picture" in page
    # Eight held-out normals are too few for any of these rates; 11 % is what they allow.
    assert all([at["n_found"] is None for at in row["at_rates"]] == [True, True, True, False] for row in rows)
    assert "at 10 %: %{customdata[4]}" in page.replace("\\u002f", "/")
    assert "fapm" in page
    assert "needs --data" in run("benchmark", "--compare", fails=True)
    assert "no method given" in run("benchmark", fails=True)
    assert "n_featurs" in run("benchmark", "--compare", "--data", small_data, "--option", "n_featurs=3", fails=True)


OF_BENCHMARKS = {  # with a value, and which benchmarks use it
    "--data": ("DATA", "fapm tiled efficientad --compare"),
    "--option": ("image_size=64", "fapm tiled efficientad --compare"),
    "--json": ("FILE", "fapm tiled efficientad --compare"),
    "--method": ("padim", "tiled"),
    "--ray": (None, "tiled"),
    "--n-train": (8, "tiled efficientad --compare"),
    "--minutes": (1, "efficientad"),
    "--scatter": ("FILE", "--compare"),
    "--out": ("FILE", "gpu"),
    "--limit": (1, "gpu"),
}


@pytest.mark.parametrize("benchmark", ["fapm", "tiled", "efficientad", "--compare", "gpu"])
@pytest.mark.parametrize("option", OF_BENCHMARKS)
def test_a_benchmark_uses_an_option_or_refuses_it(run, small_data, tmp_path, monkeypatch, benchmark, option):
    for work in ("_benchmark_tiled", "_benchmark_efficientad", "_compare_methods", "benchmark_gpu", "run_benchmark"):
        monkeypatch.setattr(f"admodels.cli.benchmark.{work}", lambda *a, **k: pytest.exit("began"))
    value, users = OF_BENCHMARKS[option]
    value = {"DATA": small_data, "FILE": tmp_path / "x.json"}.get(value, value)
    given = ["benchmark", benchmark, option, *([] if value is None else [value])]
    if benchmark in users.split():
        with pytest.raises(pytest.exit.Exception, match="began"):
            run(*given)
    else:
        assert f"benchmark {benchmark} does not use {option}; " in run(*given, fails=True)


def test_a_benchmark_of_half_a_question_is_refused(run, small_data):
    assert "belong together" in run("benchmark", "efficientad", "--data", small_data, fails=True)
    assert "belong together" in run("benchmark", "efficientad", "--minutes", 1, fails=True)
    assert "'fapm' was named" in run("benchmark", "fapm", "--compare", "--data", small_data, fails=True)
    assert "--limit is 0" in run("benchmark", "gpu", "--limit", 0, fails=True)


def test_a_fit_says_what_it_will_take_and_what_it_kept(run, small_data):
    said = run("fit", "patchcore", small_data, "--save", "told", "--option", "image_size=64", "--device", "cpu")
    assert "MiB of memory" in said
    assert "memory: 10 of 1,024 vectors" in said
    run("delete", "told")


def test_folders_without_the_layout_say_what_was_looked_for(tmp_path):
    with pytest.raises(admodels.DataError, match="holds no pictures"):
        normal_images(tmp_path)
    (tmp_path / "train" / "good").mkdir(parents=True)
    with pytest.raises(admodels.DataError, match="test is missing"):
        load_dataset(tmp_path)


def test_efficientad_is_timed_against_its_textbook_form_and_fitted_for_a_time(run, small_data, tmp_path, monkeypatch):
    for name in ("a_long_name_of_grained_wood", "a_long_name_of_grained_stone"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(small_data)
    monkeypatch.setattr("admodels.cli.efficientad_benchmark.N_ROUNDS", 1)
    monkeypatch.setattr("admodels.cli.efficientad_benchmark.SIDE", 96)
    out = tmp_path / "out.json"
    given = ("--data", tmp_path / "data", "--minutes", 0.05, "--option", "image_size=64", "--json", out)
    said = run("benchmark", "efficientad", *given)
    assert "training step" in said
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["predict_ratio"] == pytest.approx(found["textbook_predict_ms"] / found["predict_ms"])
    assert [row["data"] for row in found["fits"]] == ["a_long_name_of_grained_stone", "a_long_name_of_grained_wood"]
    assert all(row["steps"] >= 1 for row in found["fits"])
    mean = sum(row["image_auroc"] for row in found["fits"]) / 2
    assert f"{mean:.4f}" in said[said.index("│ all") :]


def test_an_ensemble_is_measured_as_in_its_paper(run, small_data, tmp_path, monkeypatch):
    for name, value in (("SIDE", 128), ("TILE", 64), ("N_ROUNDS", 1)):
        monkeypatch.setattr(f"admodels.cli.tiled_benchmark.{name}", value)
    out = tmp_path / "out.json"
    methods = ("--method", "padim_isvd", "--method", "fastflow")
    given = (*methods, "--option", "n_components=4", "--option", "max_steps=2", "--data", small_data, "--json", out)
    said = run("benchmark", "tiled", *given, "--device", "cpu")
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(found) == ["padim_isvd", "fastflow"]
    whole = said[said.rindex("setting") :]
    for method, of_it in found.items():
        rows = of_it["rows"]
        assert [row["name"] for row in rows] == ["SM256", "SM512", "ST4", "ST9", "ENS4", "ENS9"]
        assert [row["options"].get("one_model") for row in rows] == [None, None, True, True, False, False]
        assert whole.count(f" {method} ") == 6
        for row in rows:
            assert row["name"] in whole
            assert f"{row['image_auroc']:.4f}" in whole
            assert f"{row['fit_seconds']:.1f}" in whole
        assert of_it["milliseconds"].keys() == {"SM256", "SM512", "ENS4", "ENS9", "separate"}
        assert of_it["memory_mib"].keys() == {"SM256", "ENS9"}
        assert of_it["workers"] == {}
    # An option goes to the methods that have it.
    assert found["padim_isvd"]["rows"][4]["options"]["member"]["n_components"] == 4
    assert found["fastflow"]["rows"][4]["options"]["member"]["max_steps"] == 2
    assert "none of padim, patchcore has the options max_steps" in run(
        "benchmark", "tiled", "--method", "padim", "--method", "patchcore", "--option", "max_steps=2", fails=True
    )
    assert "method is 'pedim'; expected one of" in run("benchmark", "tiled", "--method", "pedim", fails=True)


def test_a_teacher_is_distilled(run, normals, tmp_path, monkeypatch):
    for name, value in (("CROP_SIDE", 64), ("N_HELD_OUT", 4), ("N_STATISTICS", 8)):
        monkeypatch.setattr(f"admodels.efficientad.distill.{name}", value)
    out = tmp_path / "teacher.safetensors"
    given = ("--images", normals[0].parent, "--out", out, "--minutes", 0.03, "--batch-size", 2)
    assert "held out" in run("distill", *given, "--layers", "0")
    assert out.is_file()
    assert "expected positions" in run("distill", *given, "--layers", "x", fails=True)
    assert "not a folder" in run("distill", "--images", tmp_path / "nowhere", "--out", out, fails=True)


def test_a_model_goes_to_the_hub_and_comes_back(run, isvd, specks, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    HUB.repos.clear()
    admodels.save(isvd, "to-share", overwrite=True)
    assert "Pushed to" in run("push", "local:to-share", "owner/cli", "--category", "paper", "--licence", "mit")
    said = run("pull", "owner/cli", "--save", "came-back", "--device", "cpu")
    assert "bit for bit" in said
    assert "Verified" in run("verify", "owner/cli", "--device", "cpu")
    out = tmp_path / "found.json"
    assert "owner/cli" in run("search", "cli", "--json", out)
    assert json.loads(out.read_text(encoding="utf-8"))[0]["category"] == "paper"
    picture = specks.test[0].path
    scores = tmp_path / "scores.json"
    run("predict", "hf-hub:owner/cli", picture, "--json", scores, "--device", "cpu")
    assert json.loads(scores.read_text(encoding="utf-8"))[0]["score"] == isvd.predict(picture).score
    assert admodels.load("came-back", device="cpu").predict(picture).score == isvd.predict(picture).score
    assert "names no model on the Hub" in run("pull", "nothing", fails=True)
    for name in ("to-share", "came-back"):
        run("delete", name)


def test_a_data_set_becomes_models_and_a_collection_on_the_hub(run, small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    HUB.repos.clear()
    HUB.collections.clear()
    root, out = tmp_path / "parts", tmp_path / "out.json"
    shutil.copytree(small_data, root / "paper")
    shutil.copytree(small_data, root / "other")
    given = ("publish", root, "--owner", "owner", "--method", "padim_isvd", "--json", out, *FAST)
    said = run(*given, "--dry-run")
    assert "fit, evaluate and push; nothing there yet" in said
    assert "16, 8 defective" in said
    assert not HUB.repos
    (root / "other/train/good/broken.png").write_bytes(b"no picture")
    assert "other: " in run(*given, fails=True)
    rows = {row["name"]: row for row in json.loads(out.read_text(encoding="utf-8"))}
    assert (rows["other"]["outcome"], rows["paper"]["outcome"]) == ("failed", "pushed")
    (root / "other/train/good/broken.png").unlink()
    assert "there already" in run(*given, "--dry-run")
    said = run(*given)
    rows = {row["name"]: row for row in json.loads(out.read_text(encoding="utf-8"))}
    assert (rows["other"]["outcome"], rows["paper"]["outcome"]) == ("pushed", "there already")
    for row in rows.values():
        assert row["repo_id"] in said
        assert f"{row['image_auroc']:.4f}, 16 pictures" in said
        assert HUB.repos[row["repo_id"]].commits[-1][0][:8] in said
    (collection,) = HUB.collections.values()
    assert sorted(collection.items) == ["owner/other-padim_isvd", "owner/paper-padim_isvd"]
    assert "Collection: " in said
    assert "licence is 'free'" in run(*given, "--licence", "free", fails=True)


def test_pictures_that_are_unlike_the_good_ones_as_a_group_are_noticed(run, example, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("admodels.cli.fit.warn", said.append)
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path / "home"))
    run("fit", "padim_isvd", example.root, "--save", "paper", *FAST)
    good = [item.path for item in example.test if not item.is_defective]
    run("predict", "local:paper", *(item.path for item in example.test if item.is_defective))
    run("predict", "local:paper", *good)
    assert said == []
    for path in good:
        ImageEnhance.Brightness(Image.open(path).convert("RGB")).enhance(1.3).save(tmp_path / path.name)
    run("predict", "local:paper", *(tmp_path / path.name for path in good))
    assert len(said) == 1
    assert said[0].startswith("As a group, these 12 pictures are unlike the good ones")

"""Every layout, built from real pictures, is found by looking at the folder."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

import admodels
from admodels.evaluation.datasets import (
    find_datasets,
    labelled_images,
    load_dataset,
    normal_images,
    notes_on,
    pair_masks,
    passed_over,
    read_mask,
)
from admodels.pictures.images import extract_zip


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def test_mvtec(small_data):
    data = load_dataset(small_data)
    assert data.layout == "MVTec AD or LOCO"
    assert len(data.train) == 16
    assert {item.kind for item in data.test} == {"good", "speck"}
    assert all(len(item.masks) == item.is_defective for item in data.test)


def test_mvtec_loco_masks_are_read_as_their_union(specks, tmp_path):
    for i, path in enumerate(specks.train):
        copy(path, tmp_path / ("train" if i < 16 else "test") / "good" / path.name)
    for item in specks.test:
        copy(item.path, tmp_path / "test" / "logical_anomalies" / item.path.name)
    whole = read_mask(specks.test[0].masks)
    folder = tmp_path / "ground_truth" / "logical_anomalies" / specks.test[0].path.stem
    folder.mkdir(parents=True)
    left, right = whole.copy(), whole.copy()
    middle = int(np.argwhere(whole)[:, 1].mean())
    left[:, middle:], right[:, :middle] = False, False
    Image.fromarray(left).save(folder / "000.png")
    Image.fromarray(right).save(folder / "001.png")
    data = load_dataset(tmp_path)
    item = next(i for i in data.test if i.path.stem == specks.test[0].path.stem and i.is_defective)
    assert len(item.masks) == 2
    assert np.array_equal(read_mask(item.masks), whole)
    Image.fromarray(right[:-1]).save(folder / "002.png")
    with pytest.raises(admodels.DataError, match="beside it"):
        read_mask(load_dataset(tmp_path).test[len([i for i in data.test if not i.is_defective])].masks)


def test_magnetic_tile_as_published(specks, tmp_path):
    def jpeg(source, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).save(target)

    for i, path in enumerate(specks.train[:6]):
        jpeg(path, tmp_path / "MT_Free" / "Imgs" / f"exp{1 + i % 3}_num_{i}.jpg")
        copy(specks.test[0].masks[0], tmp_path / "MT_Free" / "Imgs" / f"exp{1 + i % 3}_num_{i}.png")
    jpeg(specks.test[0].path, tmp_path / "MT_Crack" / "Imgs" / "exp1_num_9.jpg")
    copy(specks.test[0].masks[0], tmp_path / "MT_Crack" / "Imgs" / "exp1_num_9.png")
    data = load_dataset(tmp_path)
    assert data.layout == "Magnetic Tile"
    assert len(data.train) == 4
    assert [(item.kind, len(item.masks)) for item in data.test] == [("good", 0), ("good", 0), ("crack", 1)]


def test_visa_by_its_csv(specks, tmp_path):
    rows = []
    for name in ("candle", "fryum"):
        for i, path in enumerate(specks.train[:8]):
            relative = f"{name}/Data/Images/Normal/{path.name}"
            copy(path, tmp_path / relative)
            rows.append([name, "train" if i < 5 else "test", "normal", relative, ""])
        item = specks.test[0]
        copy(item.path, tmp_path / name / "Data" / "Images" / "Anomaly" / "000.png")
        copy(item.masks[0], tmp_path / name / "Data" / "Masks" / "Anomaly" / "000.png")
        images, masks = f"{name}/Data/Images/Anomaly/000.png", f"{name}/Data/Masks/Anomaly/000.png"
        rows.append([name, "test", "anomaly", images, masks])
    (tmp_path / "split_csv").mkdir()
    with open(tmp_path / "split_csv" / "1cls.csv", "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([["object", "split", "label", "image", "mask"], *rows])
    found = find_datasets(tmp_path)
    assert list(found) == ["candle", "fryum"]
    assert len(found["candle"].train) == 5
    assert [item.is_defective for item in found["candle"].test] == [False] * 3 + [True]
    assert read_mask(found["candle"].test[-1].masks).any()
    (tmp_path / rows[0][3]).unlink()
    with pytest.raises(admodels.DataError, match="not there"):
        find_datasets(tmp_path)


def test_a_folder_with_good_and_others(specks, tmp_path):
    for path in specks.train[:12]:
        copy(path, tmp_path / "good" / path.name)
    for item in specks.test[:4]:
        copy(item.path, tmp_path / "scratch" / item.path.name)
    data = load_dataset(tmp_path)
    assert data.layout == "good and others"
    assert len(data.train) == 9
    assert [item.kind for item in data.test].count("good") == 3
    assert not {item.path for item in data.test} & set(data.train)
    assert normal_images(tmp_path) == data.train


def test_an_unknown_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(admodels.DataError) as caught:
        load_dataset(tmp_path)
    message = str(caught.value)
    for expected in ("It holds pictures", "train/good is missing", "MT_Free/Imgs is missing", "good is missing"):
        assert expected in message
    with pytest.raises(admodels.DataError, match="holds no categories; 1 folders"):
        find_datasets(tmp_path)
    with pytest.raises(admodels.DataError, match="not a folder"):
        load_dataset(tmp_path / "nowhere")


def test_every_category_under_a_folder_is_found(small_data, tmp_path):
    for name in ("carpet", "grid"):
        shutil.copytree(small_data, tmp_path / name)
    (tmp_path / "licence").mkdir()
    assert list(find_datasets(tmp_path)) == ["carpet", "grid"]
    assert list(find_datasets(small_data)) == [small_data.name]


def test_labelled_pictures_of_a_zip(small_data, tmp_path):
    archive = shutil.make_archive(tmp_path / "paper", "zip", small_data.parent, small_data.name)
    extract_zip(archive, tmp_path / "there")
    found = labelled_images(tmp_path / "there")
    wanted = load_dataset(small_data).test
    assert [(i.kind, i.path.name, len(i.masks)) for i in found] == [(i.kind, i.path.name, len(i.masks)) for i in wanted]
    shutil.move(tmp_path / "there/paper/test", tmp_path / "flat")
    shutil.move(tmp_path / "there/paper/ground_truth", tmp_path / "flat/ground_truth")
    assert [i.kind for i in labelled_images(tmp_path / "flat")] == [i.kind for i in wanted]
    with pytest.raises(admodels.DataError, match="expected test/good"):
        labelled_images(small_data / "train" / "good")


def test_members_of_a_zip_stay_in_its_folder(specks, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(specks.train[0], "../../outside.png")
        archive.write(specks.train[1], "good/inside.png")
    extract_zip(tmp_path / "evil.zip", tmp_path / "a" / "b" / "c")
    assert not list(tmp_path.glob("outside.png")) + list((tmp_path / "a").glob("*.png"))
    assert (tmp_path / "a" / "b" / "c" / "good" / "inside.png").is_file()


def test_masks_find_their_pictures():
    found = pair_masks(["a/0.png"], ["b/7.png", "b/8.jpg"], ["m/7_mask.png", "m/8.png"])
    assert [(i.kind, [m.name for m in i.masks]) for i in found] == [
        ("good", []),
        ("defective", ["7_mask.png"]),
        ("defective", ["8.png"]),
    ]
    with pytest.raises(admodels.DataError, match=r"0_mask\.png belongs to no defective"):
        pair_masks(["a/0.png"], ["b/7.png"], ["0_mask.png"])
    with pytest.raises(admodels.DataError, match="belongs to 2 defective"):
        pair_masks([], ["a/7.png", "b/7.png"], ["7.png"])


@pytest.mark.parametrize(
    ("good", "bad"), [("OK", "NG"), ("ok", "ko"), ("Good", "Bad"), ("GOOD", "crack"), ("normal", "x")]
)
@pytest.mark.parametrize("parts", [("train", "test"), ("Train", "TEST")])
def test_good_is_good_whatever_its_folder_is_called(good, bad, parts, specks, tmp_path):
    train, test = parts
    for i, path in enumerate(specks.train[:10]):
        copy(path, tmp_path / (train if i < 6 else test) / good / path.name)
    for item in specks.test[:3]:
        copy(item.path, tmp_path / test / bad / item.path.name)
    data = load_dataset(tmp_path)
    for found in (data.test, labelled_images(tmp_path)):
        assert [item.kind for item in found].count("good") == 4
        assert {item.kind for item in found if item.is_defective} == {bad}
    assert normal_images(tmp_path) == data.train == sorted(data.train)
    assert len(data.train) == 6
    said = notes_on(data.test, data.train)
    assert f"{train}/{good}: 6 pictures, good, to learn from." in said
    assert f"{test}/{bad}: 3 pictures, defective ({bad})." in said
    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / test, flat)
    assert sum(item.is_defective for item in load_dataset(flat).test) == 3


@pytest.mark.parametrize("litter", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails", "__pycache__"])
def test_litter_is_no_kind_of_defect(litter, small_data, tmp_path):
    wanted = load_dataset(small_data)
    shutil.copytree(small_data, tmp_path / "data")
    for part in ("test", "train", "."):
        copy(wanted.train[0], tmp_path / "data" / part / litter / "000.png")
    found = load_dataset(tmp_path / "data")
    assert [item.kind for item in found.test] == [item.kind for item in wanted.test]
    assert len(found.train) == len(wanted.train)
    assert len(labelled_images(tmp_path / "data")) == len(wanted.test)


@pytest.mark.parametrize("name", ["ground_truth", "masks", "Mask", "GT"])
def test_a_folder_of_masks_is_no_kind_of_defect(name, specks, tmp_path):
    for path in specks.train[:8]:
        copy(path, tmp_path / "good" / path.name)
    for item in specks.test[:4]:
        copy(item.path, tmp_path / "scratch" / item.path.name)
        copy(item.masks[0], tmp_path / name / "Scratch" / item.masks[0].name)
    data = load_dataset(tmp_path)
    assert {item.kind for item in data.test} == {"good", "scratch"}
    assert all(item.masks for item in data.test if item.is_defective)


def test_a_stray_file_changes_nothing(small_data, specks, tmp_path):
    wanted = load_dataset(small_data)
    shutil.copytree(small_data, tmp_path / "data")
    for part in ("", "train", "test", "ground_truth"):
        copy(specks.train[0], tmp_path / "data" / part / "overview.png")
    (tmp_path / "data" / "test" / "speck" / "notes.txt").write_text("looked at by hand", encoding="utf-8")
    (tmp_path / "data" / "test" / "speck" / "folder.png").mkdir()
    data = load_dataset(tmp_path / "data")
    assert [(i.kind, i.path.name, len(i.masks)) for i in data.test] == [
        (i.kind, i.path.name, len(i.masks)) for i in wanted.test
    ]
    assert len(normal_images(tmp_path / "data")) == len(wanted.train)
    assert any("notes.txt" in line and "folder.png/" in line for line in notes_on(data.test, data.train))
    flat = tmp_path / "flat"
    shutil.copytree(small_data / "train" / "good", flat / "good")
    copy(specks.train[0], flat / "overview.png")
    assert len(normal_images(flat)) == 16


def test_a_mask_that_is_missing_where_others_are_there_is_said(small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    gone = sorted((tmp_path / "data" / "ground_truth" / "speck").iterdir())[0]
    gone.unlink()
    said = notes_on(labelled_images(tmp_path / "data"))
    name = gone.name.replace("_mask", "")
    assert any(f"1 defective pictures have no mask and are left out of the pixel measures: {name}" in s for s in said)
    shutil.rmtree(tmp_path / "data" / "ground_truth")
    assert not any("no mask" in line for line in notes_on(labelled_images(tmp_path / "data")))


def test_folders_inside_the_good_ones_are_not_passed_over_in_silence(specks, tmp_path):
    for i, path in enumerate(specks.train[:8]):
        copy(path, tmp_path / "good" / ("monday", "tuesday")[i % 2] / path.name)
    with pytest.raises(admodels.DataError, match=r"not searched \(monday, tuesday\)"):
        normal_images(tmp_path / "good")


def table(rows, separator=",", end="\n"):
    return end.join(separator.join(row) for row in [["object", "split", "label", "image", "mask"], *rows]) + end


@pytest.mark.parametrize(
    "save",
    [
        lambda rows: table(rows, end="\r\n").encode(),
        lambda rows: table(rows).encode("utf-8-sig"),
        lambda rows: table(rows, ";").encode(),
        lambda rows: table(rows, "\t").encode("utf-16"),
        lambda rows: table(rows).replace("/", "\\").encode(),
        lambda rows: (table(rows) + ",,,,\n\n").encode(),
        lambda rows: table(rows).replace("normal", "Normal").replace("test", "Test").encode(),
    ],
    ids=["CRLF", "byte-order mark", "semicolons", "UTF-16 with tabs", "backslashes", "empty lines", "capitals"],
)
def test_the_table_of_visa_as_a_spreadsheet_saves_it(save, specks, tmp_path):
    rows = []
    for i, path in enumerate(specks.train[:8]):
        copy(path, tmp_path / "nut" / "n" / path.name)
        rows.append(["nut", "train" if i < 5 else "test", "normal", f"nut/n/{path.name}", ""])
    copy(specks.test[0].path, tmp_path / "nut" / "a" / "0.png")
    copy(specks.test[0].masks[0], tmp_path / "nut" / "m" / "0.png")
    rows.append(["nut", "test", "anomaly", "nut/a/0.png", "nut/m/0.png"])
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_bytes(save(rows))
    data = find_datasets(tmp_path)["nut"]
    assert len(data.train) == 5
    assert [item.is_defective for item in data.test] == [False] * 3 + [True]
    assert data.test[-1].masks


def test_what_is_no_category_is_said(small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "carpet")
    (tmp_path / "half_copied" / "test").mkdir(parents=True)
    (tmp_path / ".cache").mkdir()
    assert passed_over(tmp_path, find_datasets(tmp_path)) == ["half_copied"]
    assert passed_over(small_data, find_datasets(small_data)) == []

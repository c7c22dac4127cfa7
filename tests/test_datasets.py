"""Every layout, built from real pictures, is found by looking at the folder."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

import admodels
from admodels.datasets import find_datasets, labelled_images, load_dataset, normal_images, pair_masks, read_mask
from admodels.images import extract_zip


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

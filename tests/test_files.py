"""Files for results: whole, in UTF-8, one for each name, and looked at before the work."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admodels.errors import OutputError
from admodels.files import OwnStems, check_file, check_folder, named_files, safe_stem, same_name, write_text

# As file systems have them: bytes in another encoding come as lone surrogates.
NAMES = st.text(st.characters(exclude_categories=()), max_size=300)
LIKE_OTHERS = st.sampled_from(["part", "part_2", "Part", "part_2_2", "part_3", "x_map", "x", "con", "é", "e\u0301"])


@given(
    st.lists(NAMES | LIKE_OTHERS, max_size=30), st.lists(LIKE_OTHERS.map(lambda name: f"{name}_map.npy"), max_size=3)
)
def test_no_two_pictures_share_a_file_whatever_they_are_called(names, taken):
    stems = OwnStems(("_map.npy", "_mask.png"), taken)
    files = [stem + ending for stem in map(stems.take, names) for ending in ("_map.npy", "_mask.png")]
    assert len({same_name(file) for file in files} | {same_name(name) for name in taken}) == (
        len(files) + len({same_name(name) for name in taken})
    )


def test_a_name_stays_as_it_is_wherever_that_can_be():
    stems = OwnStems((".npy",))
    given_names = ["part", "part_2", "part", "Part", "nut", "a b-ü.1"]
    assert [stems.take(name) for name in given_names] == ["part", "part_2", "part_3", "Part_4", "nut", "a b-ü.1"]


@given(NAMES)
def test_any_name_makes_a_file(name):
    stem = safe_stem(name)
    assert not set(stem) & set('<>:"/\\|?*\0\n')
    assert len(os.fsencode(stem + "_mask.png")) <= 255
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{stem}.json").touch()
        assert [p.name for p in Path(folder).iterdir()] == [f"{stem}.json"]


@given(st.sets(NAMES | LIKE_OTHERS | st.sampled_from(["../x", "a/b", "", "..", "con", "Carpet", "carpet"])))
def test_every_category_has_a_file_of_its_own_and_the_same_in_every_run(names):
    files = named_files(names, ".json")
    assert set(files) == names
    assert len({same_name(file) for file in files.values()}) == len(names)
    assert files == named_files(list(names)[::-1], ".json")
    assert not any("/" in file for file in files.values())


def test_plain_categories_keep_their_names():
    assert named_files(["carpet", "metal_nut", "pcb1"], ".json") == {
        name: f"{name}.json" for name in ("carpet", "metal_nut", "pcb1")
    }


def test_text_is_written_whole_as_utf_8_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    (tmp_path / "link.json").symlink_to(path)
    write_text(tmp_path / "link.json", "σ \udcfc")
    assert path.read_bytes() == "σ \\udcfc".encode()
    assert (tmp_path / "link.json").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "link.json"]


def test_a_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")

    def fail(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text(encoding="utf-8") == "old"


def test_what_is_no_plain_file_is_written_into_and_not_replaced(tmp_path):
    read, write = os.pipe()
    device = Path(f"/dev/fd/{write}") if Path("/dev/fd").is_dir() else Path("nul")
    check_file(device, "--json")
    write_text(device, "x")
    assert device.exists()
    assert not device.is_file()
    for end in (read, write):
        os.close(end)


def test_paths_are_looked_at_before_the_work(tmp_path):
    check_file(tmp_path / "new" / "deep" / "a.json", "--json")
    check_folder(tmp_path / "maps", "--out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "maps", "new"]
    (tmp_path / "file").touch()
    for check, path, said in (
        (check_file, tmp_path, "is a folder"),
        (check_file, tmp_path / "file" / "a.json", "is a file"),
        (check_folder, tmp_path / "file", "is a file"),
        (check_folder, tmp_path / "file" / "deep", "is a file"),
        (check_folder, tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(OutputError, match=said):
            check(path, "--json")

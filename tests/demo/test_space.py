"""The folder that becomes a Hugging Face Space starts by itself."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from gradio_client import handle_file
from packaging.requirements import Requirement

from admodels.models.store import models_folder
from demo import keep_in
from demo.app import build, header
from demo.space import main, requirements
from demo.state.limits import upload_limit
from demo.state.server import is_shared
from demo.tabs import hub as hub_tab
from tests.conftest import client_of
from tests.demo.load.run import wait_for

ROOT = Path(__file__).resolve().parents[2]
IS_WHOLE = bool(os.environ.get("ADMODELS_TEST_WHOLE_INSTALL"))


@pytest.fixture
def python(space, tmp_path):
    """What the Space is run with: in CI an environment of its own, with the versions that it asks for."""
    if not IS_WHOLE:
        yield sys.executable
        return
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    found = folder / "bin" / "python"
    asked = space / "requirements.txt"
    subprocess.run([found, "-m", "pip", "install", "--quiet", "--no-cache-dir", "-r", asked], check=True)
    yield found
    shutil.rmtree(folder)


@pytest.fixture
def space(tmp_path):
    folder = tmp_path / "space"
    subprocess.run(["make", "space", f"SPACE={folder}"], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.timeout(1800)  # where everything is installed anew
def test_it_holds_what_a_space_needs_and_starts_from_nothing_else(space, python, tmp_path):
    assert sorted(p.name for p in space.iterdir()) == [
        "LICENSE",
        "README.md",
        "admodels",
        "app.py",
        "demo",
        "examples",
        "requirements.txt",
    ]
    assert not list(space.rglob("__pycache__"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    with subprocess.Popen([python, "app.py"], cwd=space, env=clean, stdout=subprocess.DEVNULL) as started:
        try:
            page = wait_for(f"http://127.0.0.1:{port}/", started)
            assert page.status_code == 200
            assert "Visual anomaly detection" in page.text
            client = client_of(f"http://127.0.0.1:{port}/")
            good = [handle_file(path) for path in sorted((space / "examples" / "pa_brg02_rl").glob("train/good/*.png"))]
            small = json.dumps({"image_size": 64})
            report = client.predict(good, "fapm", 0.05, small, 0, "auto", api_name="/fit")[-1]
            assert report["n_learned"] == len(good)
        finally:
            started.terminate()


def test_it_asks_for_versions_that_zero_gpu_lists_and_that_belong_together(space):
    head = (space / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    values = dict(re.findall(r"^(\w+): (.+)$", head, re.MULTILINE))
    assert len(re.findall(r"^\w+:", head, re.MULTILINE)) == len(set(re.findall(r"^\w+:", head, re.MULTILINE)))
    assert values["python_version"].strip('"') in ("3.10.13", "3.12.12")
    assert (values["sdk"], values["app_file"], values["hf_oauth"]) == ("gradio", "app.py", "true")
    assert values["suggested_hardware"] in {item.value for item in huggingface_hub.SpaceHardware}
    assert "- contribute-repos" in head
    asked = [Requirement(line) for line in lines_of(space / "requirements.txt")]
    ours = [Requirement(line) for line in lines_of(ROOT / "requirements.txt")]
    by_name = {each.name: each for each in asked}
    assert len(by_name) == len(asked)
    assert {each.name for each in ours} <= set(by_name)
    assert by_name["gradio"].specifier.contains(values["sdk_version"])
    assert "oauth" in by_name["gradio"].extras
    zero_gpu = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
    listed = [version for version in zero_gpu if by_name["torch"].specifier.contains(version)]
    assert len(listed) == 1
    assert next(each for each in ours if each.name == "torch").specifier.contains(listed[0])
    # Each torchvision goes with one PyTorch: 0.26 with 2.11.
    minor = int(listed[0].split(".")[1])
    assert by_name["torchvision"].specifier.contains(f"0.{minor + 15}.0")
    assert "spaces" in by_name


def test_it_is_written_anew_but_takes_no_other_folders_place(space, tmp_path):
    (space / "left_over.py").write_text("", encoding="utf-8")
    main(space)
    assert not (space / "left_over.py").exists()
    (tmp_path / "mine").mkdir()
    kept = tmp_path / "mine" / "work.txt"
    kept.write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds something else"):
        main(kept.parent)
    assert kept.read_text(encoding="utf-8") == "mine"


def test_a_version_that_our_range_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"ZeroGPU is to have 2\.11\.0, and requirements\.txt says 'torch>=2\.12,<3'"):
        requirements("torch>=2.12,<3\n")


def lines_of(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def test_only_saved_models_go_to_storage_that_lasts_and_only_on_ones_own_space(tmp_path, monkeypatch):
    names = ("HF_HOME", "ADMODELS_HOME", "ADMODELS_MODELS", "SPACE_ID", "ADMODELS_SHARED")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("ADMODELS_SHARED", "0")
    keep_in(tmp_path)  # no Space
    assert "ADMODELS_MODELS" not in os.environ
    monkeypatch.setenv("SPACE_ID", "owner/name")
    keep_in(tmp_path / "nowhere")
    assert "ADMODELS_MODELS" not in os.environ
    for shared in ("", "1"):  # what visitors save is theirs
        monkeypatch.setenv("ADMODELS_SHARED", shared)
        keep_in(tmp_path)
        assert "ADMODELS_MODELS" not in os.environ
    monkeypatch.setenv("ADMODELS_SHARED", "0")
    keep_in(tmp_path)
    assert models_folder() == tmp_path / "admodels" / "models"
    assert "HF_HOME" not in os.environ
    assert "ADMODELS_HOME" not in os.environ
    monkeypatch.setenv("ADMODELS_MODELS", "mine")
    keep_in(tmp_path)
    assert os.environ["ADMODELS_MODELS"] == "mine"


def test_visitors_of_a_space_share_it_unless_its_owner_says_otherwise(monkeypatch):
    assert "uplicate" not in header()
    monkeypatch.setenv("SPACE_ID", 'owner/na"me')
    assert is_shared()
    assert "https://huggingface.co/spaces/owner/na&#34;me?duplicate=true" in header()
    assert "ADMODELS_SHARED to 0" in header()  # a copy is shared too, unless it says otherwise
    monkeypatch.setenv("ADMODELS_SHARED", "0")
    assert not is_shared()
    assert "uplicate" not in header()
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    assert is_shared()


def test_a_space_takes_smaller_uploads(monkeypatch):
    assert upload_limit() == "2gb"
    monkeypatch.setenv("SPACE_ID", "owner/name")
    assert upload_limit() == "200mb"
    monkeypatch.setenv("ADMODELS_MAX_UPLOAD", "1gb")
    assert upload_limit() == "1gb"


@pytest.mark.filterwarnings("ignore:Gradio does not support OAuth features outside of a Space")
def test_the_login_says_what_it_reaches_and_the_app_opens_in_its_own_tab(monkeypatch):
    def texts():
        config, words = build().get_config_file()["components"], ("markdown", "button")
        return {each["props"].get("value"): each["props"].get("link") for each in config if each["type"] in words}

    monkeypatch.setenv("SPACE_ID", "owner/name")
    monkeypatch.setenv("HF_TOKEN", "hf_owner")  # whom Gradio plays outside of a Space
    monkeypatch.setenv("SPACE_HOST", "owner-name.hf.space,parts.example.org")
    assert hub_tab.OF_LOGIN in texts()
    assert texts()[hub_tab.OWN_TAB] == "https://owner-name.hf.space"
    monkeypatch.delenv("SPACE_HOST")
    assert hub_tab.OWN_TAB not in texts()

"""The folder that becomes a Hugging Face Space starts by itself."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from demo import keep_in
from demo.app import header
from demo.state.server import is_shared
from tests.demo.load.run import wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def space(tmp_path):
    folder = tmp_path / "space"
    subprocess.run(["make", "space", f"SPACE={folder}"], cwd=ROOT, check=True, capture_output=True)
    return folder


def test_it_holds_what_a_space_needs_and_starts_from_nothing_else(space, tmp_path):
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
    head = (space / "README.md").read_text(encoding="utf-8").split("---")[1]
    asked = re.search(r"gradio>=([\d.]+)", (space / "requirements.txt").read_text(encoding="utf-8"))[1]
    assert f"sdk_version: {asked}" in head
    for line in ("sdk: gradio", "app_file: app.py", "hf_oauth: true", "- contribute-repos"):
        assert line in head
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    with subprocess.Popen([sys.executable, "app.py"], cwd=space, env=clean, stdout=subprocess.DEVNULL) as started:
        try:
            page = wait_for(f"http://127.0.0.1:{port}/", started)
            assert page.status_code == 200
            assert "Visual anomaly detection" in page.text
        finally:
            started.terminate()


def test_storage_that_lasts_is_used_where_it_is_there(tmp_path, monkeypatch):
    for name in ("HF_HOME", "ADMODELS_HOME", "SPACE_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    keep_in(tmp_path)  # no Space
    assert "HF_HOME" not in os.environ
    monkeypatch.setenv("SPACE_ID", "owner/name")
    keep_in(tmp_path / "nowhere")
    assert "HF_HOME" not in os.environ
    monkeypatch.setenv("ADMODELS_HOME", "mine")
    keep_in(tmp_path)
    assert os.environ["HF_HOME"] == str(tmp_path / "huggingface")
    assert os.environ["ADMODELS_HOME"] == "mine"


def test_visitors_of_a_space_share_it_unless_its_owner_says_otherwise(monkeypatch):
    assert "uplicate" not in header()
    monkeypatch.setenv("SPACE_ID", 'owner/na"me')
    assert is_shared()
    assert "https://huggingface.co/spaces/owner/na&#34;me?duplicate=true" in header()
    monkeypatch.setenv("ADMODELS_SHARED", "0")
    assert not is_shared()
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    assert is_shared()

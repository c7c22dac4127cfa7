"""The folder that becomes a Hugging Face Space starts by itself."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent


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
    head = (space / "README.md").read_text().split("---")[1]
    asked = re.search(r"gradio>=([\d.]+)", (space / "requirements.txt").read_text())[1]
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
            deadline = time.monotonic() + 120
            while True:
                assert started.poll() is None, "it ended"
                try:
                    page = httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            assert page.status_code == 200
            assert "Visual anomaly detection" in page.text
        finally:
            started.terminate()

"""The short programs of the app's page do what it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "demo" / "README.md").read_text(encoding="utf-8")
PROGRAMS = {  # by the language of its block: the command, and the file that it reads
    "python": (sys.executable, "example.py"),
    "javascript": ("node", "example.mjs"),
    "sh": ("sh", "example.sh"),
}


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_documented_program_gets_its_verdict(language, served, picture, tmp_path):
    command, name = PROGRAMS[language]
    needed = "curl" if language == "sh" else command
    if shutil.which(needed) is None:
        pytest.skip(f"no {needed} on this machine: install it to run this example")
    block = next(b for b in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if "/v1/score" in b)
    address = str(served.base_url).rstrip("/")
    (tmp_path / name).write_text(
        block.replace("http://127.0.0.1:7860", address).replace("local:bolts", "local:specks"), encoding="utf-8"
    )
    shutil.copy(picture, tmp_path / "part.png")
    done = subprocess.run([command, name], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "suspected" in done.stdout


def test_the_table_of_errors_has_every_status_that_is_given():
    source = Path(__file__).resolve().parents[2] / "admodels" / "serving" / "http" / "routes.py"
    given = set(re.findall(r"\b(4\d\d|50\d)\b", source.read_text(encoding="utf-8")))
    table = PAGE.split("| status | meaning |")[1].split("\n\n")[0]
    assert given <= set(re.findall(r"\d{3}", table))

"""The library as a package: built as a wheel, installed elsewhere, and used as a model's card tells strangers to.

The dependencies come from this environment, unless ADMODELS_TEST_WHOLE_INSTALL is set, as in CI: then the environment
is empty before and all of them are installed, gigabytes of them.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from packaging.requirements import Requirement

import admodels
from tests import HUB

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_THE_APP = {"gradio", "prometheus-client"}  # the second is of the extra `serve` as well
IS_WHOLE = bool(os.environ.get("ADMODELS_TEST_WHOLE_INSTALL"))


def requirements(lines):
    """Name to accepted versions, of lines as pip reads them."""
    found = [Requirement(line) for line in (line.partition("#")[0].strip() for line in lines) if line]
    return {each.name: (str(each.specifier), each.extras) for each in found}


def run(*command, **more):
    """Run a command that must succeed; what it prints."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=540, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built with what is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder with the programs of an environment that has the package."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", folder)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    options = []
    if not IS_WHOLE:
        options = ["--no-deps"]
        purelib = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        Path(purelib, "of_the_tests.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    run(programs / "python", "-m", "pip", "install", "--quiet", *options, wheel)
    yield programs
    shutil.rmtree(folder)  # pytest would keep it for a while


def test_the_package_needs_what_the_requirements_say_less_the_apps():
    of_the_app = requirements((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert of_the_app.keys() >= OF_THE_APP
    expected = {name: said for name, said in of_the_app.items() if name not in OF_THE_APP}
    assert requirements(PROJECT["dependencies"]) == expected


def test_what_is_optional_is_as_the_tests_have_it():
    tested = requirements((ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8").splitlines())
    for lines in PROJECT["optional-dependencies"].values():
        for name, said in requirements(lines).items():
            assert tested[name] == said


def test_the_wheel_has_every_file_of_the_library_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    there = [path for path in (ROOT / "admodels").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {path.relative_to(ROOT).as_posix() for path in there}


def test_a_stranger_does_what_a_card_says(installed, isvd, specks, tmp_path):
    """With a model from the Hub, in a folder that holds a picture and nothing of this project."""
    HUB.repos.clear()
    admodels.push(isvd, "owner/paper", licence="mit", private=False, token="hf_owner")
    snippet = re.search(r"```python\n(.*?)```", ModelCard.load("owner/paper").text, re.DOTALL)[1]
    picture = shutil.copy(specks.test[-1].path, tmp_path / "part.png")
    check = "\nimport sys\nprint(admodels.__file__)\nprint('gradio' in sys.modules, 'demo' in sys.modules)\n"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = run(installed / "python", "-c", snippet + check, cwd=tmp_path, env=environment).splitlines()
    expected = isvd.predict(picture)
    assert float(told[0].split()[0]) == pytest.approx(expected.score, rel=1e-6)
    assert told[0].split()[2] == str(expected.is_anomalous)
    assert Path(told[1]).is_relative_to(installed.parent)
    assert told[2] == "False False"


def test_the_command_is_there(installed, tmp_path):
    told = run(installed / "admodels", "--help", cwd=tmp_path)
    assert "predict" in told
    assert "publish" in told

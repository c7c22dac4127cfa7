"""Shared fixtures: small pictures, one fitted detector, one running app, one browser."""

import dataclasses
import io
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import admodels
from admodels.deploy.runtimes import WEB_PACKAGE, WEB_VERSION
from admodels.evaluation.datasets import load_dataset, normal_images
from admodels.runtime import openvino_engine

# The same examples in every run, so that no change fails for what it did not touch. HYPOTHESIS_PROFILE=search looks for
# new ones.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

DEVICE = "cpu"  # where the tests of what computes run; set by --device before they are imported


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        default="cpu",
        help="cpu, cuda, cuda:1 or mps: where the tests of the contract, the methods, training and tiles run",
    )


def pytest_configure(config):
    global DEVICE
    DEVICE = config.getoption("--device")


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# Options that make a fit on the example a matter of a moment.
SMALL = {
    "efficientad": {"image_size": 64, "max_steps": 6},
    "fapm": {"image_size": 64, "grid": 3},
    "fastflow": {"image_size": 64, "max_steps": 6},
    "reverse_distillation": {"image_size": 64, "max_steps": 40},
    "padim_isvd": {"image_size": 64, "n_components": 4, "step": 8},
    "padim": {"image_size": 64, "n_features": 20},
    "patchcore": {"image_size": 64, "coreset_ratio": 0.1},
    "tiled": {"image_size": 64, "tile_size": 32, "stride": 32, "member": {"n_components": 4, "step": 8}},
}
TRAINED = ("efficientad", "fastflow", "reverse_distillation")  # step by step


def first_step(method: str) -> dict[str, int]:
    """Options with which a training is over at once; none for methods that do not train."""
    return {"max_steps": 1} if method in TRAINED else {}


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """Saved models go to a folder of the test run, never to the user's."""
    folder = tmp_path_factory.mktemp("home")
    os.environ["ADMODELS_HOME"] = str(folder)
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return folder


@pytest.fixture(autouse=True)
def own_threads():
    """PyTorch's number of threads is the process's: a test that sets it sets it for itself alone."""
    n = torch.get_num_threads()
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="session")
def example():
    """The example with specks: 24 good pictures to learn from; 12 good and 8 defective ones, with masks, to test on."""
    return load_dataset(EXAMPLES / "pa_brg02_rl")


@pytest.fixture(scope="session")
def specks(example):
    """The same with only the defective ones to test on."""
    return dataclasses.replace(example, test=[item for item in example.test if item.is_defective])


@pytest.fixture
def visitor(request):
    """A request of a visitor of its own."""
    import gradio as gr  # here, since the library's tests need no app

    from demo.state.sessions import SESSIONS

    page = gr.Request(session_hash=f"page of {request.node.name}", query_params={})
    yield page
    SESSIONS.close(page)


@pytest.fixture(scope="session")
def normals():
    return normal_images(EXAMPLES / "pa_brg02_rl")


INSTALLED_ENGINES = ("openvino", "torch") if openvino_engine.is_installed() else ("torch",)  # elsewhere PyTorch alone


@pytest.fixture(scope="session")
def fitted_once():
    """What `fitted` made, by method and engine."""
    return {}


@pytest.fixture(params=itertools.product(sorted(admodels.DETECTORS), INSTALLED_ENGINES), ids="-".join)
def fitted(request, normals, fitted_once, monkeypatch):
    """Every registered detector with every engine there is, fitted once on real pictures; tests must not change it."""
    method, engine = request.param
    monkeypatch.setenv("ADMODELS_ENGINE", engine)  # each pass asks for it
    if request.param not in fitted_once:
        fitted_once[request.param] = admodels.create(method, device=DEVICE, **SMALL[method]).fit(normals)
    return fitted_once[request.param]


@pytest.fixture(scope="session")
def isvd(normals):
    """One fitted PaDiM-iSVD, for what is the same whatever the method; tests must not change it."""
    return admodels.create("padim_isvd", device=DEVICE, **SMALL["padim_isvd"]).fit(normals)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory, specks):
    """A folder in the MVTec AD layout with real pictures in every part, good test pictures too."""
    root = tmp_path_factory.mktemp("data") / "paper"
    for part in ("train/good", "test/good", "test/speck", "ground_truth/speck"):
        (root / part).mkdir(parents=True)
    for i, path in enumerate(specks.train):
        shutil.copy(path, root / ("train/good" if i < 16 else "test/good") / path.name)
    for item in specks.test:
        shutil.copy(item.path, root / "test/speck" / item.path.name)
        shutil.copy(item.masks[0], root / "ground_truth/speck" / item.masks[0].name)
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line, called as `python -m admodels` calls it; what it printed, or where it fails its complaint."""
    from admodels.cli.main import main

    def call(*arguments, fails=False):
        monkeypatch.setattr(sys, "argv", ["admodels", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert bool(stopped.value.code) == fails, said
        return said.err if fails else said.out

    return call


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def until(is_so, seconds=60):
    """Wait until something is so; a busy machine takes its time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def encode(image, kind="PNG", **options):
    """A PIL image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width=48, height=32):
    """A picture whose four corners differ, so that a flip or a swap of channels is seen."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 40)], axis=2)
    return Image.fromarray(rgb.astype(np.uint8))


@pytest.fixture(scope="session")
def onnx_runtime_web(tmp_path_factory):
    """The folder with ONNX Runtime Web from its npm package; None on a machine without Node.js and npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return None
    folder = tmp_path_factory.mktemp("onnxruntime-web")
    subprocess.run([npm, "pack", "--silent", f"{WEB_PACKAGE}@{WEB_VERSION}"], cwd=folder, check=True, timeout=300)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


@pytest.fixture(scope="session")
def app(home):
    """The real app, served on a free port in this process; yields its address."""
    from demo.app import build, launch

    demo = build()
    _, url, _ = launch(demo, prevent_thread_lock=True, server_port=None, quiet=True)
    yield url
    demo.close()


def client_of(url):
    """A program that uses the API of an app, with a session of its own; a busy machine may take a minute to answer."""
    from gradio_client import Client  # here, since the library's tests need no app

    return Client(url, verbose=False, httpx_kwargs={"timeout": 60})


@pytest.fixture
def client(app):
    """A program with a session of its own."""
    return client_of(app)


def chromium(kind, *more):
    """Headless Chromium from the system, with a camera that shows a moving test picture.

    Args:
        kind: Playwright's browser type.
        more: arguments of Chromium.
    """
    path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium or Chrome on this machine: install the package chromium to run the browser tests")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        *more,
    ]
    return kind.launch(executable_path=path, args=arguments)


@pytest.fixture(scope="session")
def browser():
    """The browser that most tests share."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # what counts is that it comes; a busy machine takes longer than 5 seconds
    with sync_playwright() as playwright:
        opened = chromium(playwright.chromium)
        yield opened
        opened.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "narrow"])
def page(request, browser, app):
    """A new visitor's page of the app, on a wide and on a narrow window; it must not fail or scroll sideways."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, permissions=["camera"])
    page.set_default_timeout(60_000)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(app)
    yield page
    # Nothing needs a horizontal scroll, and the page's own code did not fail.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert problems == []
    page.close()

"""A page without a server: a folder of static files that scores pictures in the visitor's own browser.

The exported model runs in ONNX Runtime Web, which comes from npm when the page is built and does not come with
this program. Every one of its files is held to a digest that stands here, wherever it comes from.
"""

import base64
import hashlib
import html
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from admodels.deploy.onnx_file import OnnxFile, read
from admodels.deploy.runtimes import TOLERANCES, WEB_PACKAGE, WEB_VERSION, web_folder
from admodels.errors import ExportError, OptionError, OutputError
from admodels.files import check_folder
from admodels.pictures.render import colour_table

KIND = "admodels page"
FORMAT = f"{KIND} 1"
SETTINGS_FILE = "model.json"
SITE = Path(__file__).parent / "site"

RELEASE = f"{WEB_PACKAGE} {WEB_VERSION}"  # what follows are its digests
PACKAGE_DIGEST = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# WebAssembly for every browser.
RUNTIME = {
    "ort.wasm.min.mjs": "sha384-SfFfy/pvthiOsgaw3KX0bV5TfQ6Iq+oY9KutMe4SxIuHH4cl+DCSD4rTsYOoG1tJ",
    "ort-wasm-simd-threaded.mjs": "sha384-XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad",
    "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
# Only browsers with WebGPU ask for these.
GPU_RUNTIME = {
    "ort.webgpu.min.mjs": "sha384-FPQBMbud8ICuP0Ii+Gr95KWEX9pKHtUC3lacIp0aPI8WYluKvTsEGQ3AE2Ze3QlL",
    "ort-wasm-simd-threaded.asyncify.mjs": "sha384-qViEcCGzsR/m8nlQwIsbYh7afN4thuraqFYDQY6huvmoLVoZq/eYawQ1wrv8nnhA",
    "ort-wasm-simd-threaded.asyncify.wasm": "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR",
}
RUNTIME_FOLDER = "runtime"
CDN = f"https://cdn.jsdelivr.net/npm/{WEB_PACKAGE}@{WEB_VERSION}/dist/"
NPM_SECONDS = 600
LARGE_MIB = 100  # what GitHub takes as one file

HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}
# Licences as the Hub spells them; any other text is "other" there.
HUB_LICENCES = frozenset(
    {
        *("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
        *("cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "unlicense"),
    }
)


@dataclass(frozen=True)
class Page:
    """What was written.

    Attributes:
        size_mib: of all files together.
        n_files: how many there are.
        notices: what the user should know.
    """

    folder: Path
    size_mib: float
    n_files: int
    notices: tuple[str, ...] = ()


def build_page(onnx_file: str | Path, out: str | Path, *, assets: Path | None = None, use_cdn: bool = False) -> Page:
    """Make a folder of static files that scores pictures in the browser, with an exported model.

    The folder is written whole or not at all. It is also ready to be a static Space.

    Args:
        onnx_file: as `write_onnx` writes it.
        out: a new or empty folder, or that of an earlier page, which is replaced.
        assets: a folder with ONNX Runtime Web, the unpacked npm package or its `dist`; None fetches it with npm.
        use_cdn: leave the runtime out; the page loads it from jsDelivr, once, and checks its digest.

    Raises:
        ExportError: it is no exported file, or the runtime cannot be had or is not the pinned version.
        OptionError: both `assets` and `use_cdn` are given.
        OutputError: the folder holds something else, or cannot be written.
    """
    if assets is not None and use_cdn:
        raise OptionError("assets and use_cdn are both given. Give one: a copy of the runtime, or none in the folder.")
    onnx_file, folder = Path(onnx_file), Path(out).resolve()
    model = read(onnx_file)
    _check_replaceable(folder)
    check_folder(folder.parent, "the page's parent folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".page-", dir=folder.parent, ignore_cleanup_errors=True) as made:
            staged = Path(made, "new")
            staged.mkdir()
            shutil.copyfile(onnx_file, staged / "model.onnx")
            if not use_cdn:
                _put_runtime(staged / RUNTIME_FOLDER, assets)
            _put_site(staged, model, use_cdn)
            sizes = [path.stat().st_size for path in staged.rglob("*") if path.is_file()]
            _replace(folder, staged, Path(made, "old"))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error}). Free space there, or choose another.") from error
    return Page(folder, sum(sizes) / 2**20, len(sizes), _notices(model, onnx_file, use_cdn))


def page_settings(content: bytes) -> dict[str, Any] | None:
    """What `SETTINGS_FILE` says, where it is that of a page of ours, of whatever version; else None."""
    try:
        settings = json.loads(content)
    except ValueError:
        return None
    is_ours = isinstance(settings, dict) and str(settings.get("format", "")).startswith(KIND)
    return settings if is_ours else None


def _put_site(staged: Path, model: OnnxFile, use_cdn: bool) -> None:
    """Everything but model and runtime, which must be there already."""
    settings = _settings(model, (staged / "model.onnx").stat().st_size, use_cdn)
    for path in sorted(SITE.iterdir()):
        if path.name not in ("index.html", "service-worker.js", "runtime-licence.txt"):
            shutil.copyfile(path, staged / path.name)
    page = (SITE / "index.html").read_text(encoding="utf-8")
    first_script = page.split("<script>", 1)[1].split("</script>", 1)[0]
    own = f"'{_digest(first_script.encode(), 'sha256')}'"
    # The page can load and send nothing else, whatever a picture's name or a model's title says.
    remote = f" {CDN}" if use_cdn else ""
    policy = (
        f"default-src 'none'; script-src 'self' {own} blob: 'wasm-unsafe-eval'; worker-src 'self' blob:; "
        f"style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' blob:{remote}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = page.replace("{{policy}}", policy).replace("{{title}}", html.escape(settings["name"]))
    (staged / "index.html").write_text(page, encoding="utf-8")
    if not use_cdn:
        shutil.copyfile(SITE / "runtime-licence.txt", staged / RUNTIME_FOLDER / "LICENCE.txt")
    (staged / "README.md").write_text(_space(settings, model), encoding="utf-8")
    settings["files"] = sorted([*_names(staged), SETTINGS_FILE, "service-worker.js"])
    (staged / SETTINGS_FILE).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    (staged / "service-worker.js").write_text(_service_worker(staged, use_cdn), encoding="utf-8")


def _settings(model: OnnxFile, n_bytes: int, use_cdn: bool) -> dict[str, Any]:
    """What the page knows of the model: `model.json`."""
    said, config = model.metadata, model.config
    source = said.get("source", "")
    height, width = config["working_shape"]["resized"]
    calibration = config["calibration"]
    kept = ("scores", "map_maxima", "false_alarm_rate", "n_folds", "hand_threshold", "rounding_ratio")
    return {
        "format": FORMAT,
        "name": source.split(":", 1)[-1].split("@")[0].rsplit("/", 1)[-1] or model.title,
        "title": model.title,
        "network": said.get("network", ""),
        "precision": model.precision,
        "source": source,
        "licences": json.loads(said.get("licences") or "{}"),
        "working_size": [height, width],
        "n_bytes": n_bytes,
        "threshold": float(said["threshold"]),
        "map_threshold": float(said["map_threshold"]),
        "scale": [float(said["scale_bottom"]), float(said["scale_top"])],
        "value_range": [float(end) for end in said["value_range"].split(":")] if said.get("value_range") else None,
        "calibration": {name: calibration[name] for name in kept if name in calibration},
        "colours": colour_table().tolist(),
        "probe": {"png": said["probe_png"], "score": model.probe_score, "tolerance": TOLERANCES[model.precision]},
        "runtime": {
            "version": WEB_VERSION,
            "base": CDN if use_cdn else f"{RUNTIME_FOLDER}/",
            "is_remote": use_cdn,
            "files": RUNTIME | GPU_RUNTIME,
        },
    }


def _service_worker(staged: Path, use_cdn: bool) -> str:
    """The script that keeps the page, with the names of its files and a digest of all that they hold."""
    digest = hashlib.sha256((SITE / "service-worker.js").read_bytes())
    for name in _names(staged):
        digest.update(f"{name}\n".encode())
        digest.update(hashlib.sha256((staged / name).read_bytes()).digest())
    base = CDN if use_cdn else f"{RUNTIME_FOLDER}/"
    later = [base + name for name in GPU_RUNTIME]
    # The folder's own address too, by which most visitors come.
    first = [
        "./",
        *(n for n in _names(staged) if n not in (*later, "README.md")),
        *(CDN + n for n in RUNTIME if use_cdn),
    ]
    constants = {"DIGEST": digest.hexdigest()[:16], "FILES": first, "LATER": later}
    lines = [f"const {name} = {json.dumps(value)};" for name, value in constants.items()]
    return "\n".join([*lines, "", (SITE / "service-worker.js").read_text(encoding="utf-8")])


def _space(settings: Mapping[str, Any], model: OnnxFile) -> str:
    """`README.md`, whose front matter makes the folder a static Space."""
    licences = settings["licences"]
    licence = str(licences.get("model", "")).strip()
    front = {
        "title": settings["name"],
        "emoji": "🔍",
        "colorFrom": "green",
        "colorTo": "gray",
        "sdk": "static",
        "app_file": "index.html",
        "pinned": False,
        "tags": ["admodels", "anomaly-detection"],
        "custom_headers": HEADERS,
    }
    if licence and licence != "not stated":
        front["license"] = licence.lower() if licence.lower() in HUB_LICENCES else "other"
    # Every value is JSON, which YAML reads.
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in front.items()]
    terms = "\n".join(f"- {what}: {text}" for what, text in licences.items())
    return "\n".join(
        [
            "---",
            *lines,
            "---",
            "",
            f"# {settings['name']}",
            "",
            f"This page finds what is unusual in pictures, with {model.title}. It runs in the visitor's browser: no "
            "picture leaves the machine.",
            "",
            f"{model.calibration.statement}",
            "",
            "Serve this folder with any server for static files, over https or from localhost:",
            "",
            "```sh",
            "python -m http.server --directory .",
            "```",
            "",
            "## Licences",
            "",
            terms,
            f"- runtime: ONNX Runtime Web {WEB_VERSION}, MIT",
            "",
        ]
    )


def _put_runtime(folder: Path, assets: Path | None) -> None:
    """ONNX Runtime Web's files, each of which is the pinned one."""
    folder.mkdir()
    wanted = RUNTIME | GPU_RUNTIME
    found = _from_npm(wanted) if assets is None else _from_folder(Path(assets), wanted)
    for name, digest in wanted.items():
        if _digest(found[name], "sha384") != digest:
            where = f"npm's {WEB_PACKAGE}" if assets is None else str(assets)
            raise ExportError(f"{name} in {where} is not that of {RELEASE}. Give a copy of this version.")
        (folder / name).write_bytes(found[name])


def _from_folder(assets: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
    folder = web_folder(assets, tuple(wanted))
    return {name: (folder / name).read_bytes() for name in wanted}


def _from_npm(wanted: Mapping[str, str]) -> dict[str, bytes]:
    npm = shutil.which("npm")
    others = f"or give a copy of {RELEASE} (--assets), or let the page load it from jsDelivr (--cdn)"
    if npm is None:
        raise ExportError(f"the page needs {RELEASE}, and npm is not installed. Install npm, {others}.")
    with tempfile.TemporaryDirectory(prefix="admodels-") as folder:
        command = [npm, "pack", f"{WEB_PACKAGE}@{WEB_VERSION}", "--pack-destination", folder, "--ignore-scripts"]
        command += ["--loglevel=error", "--prefer-offline"]  # one version is one content, which is looked at below
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS, check=False)
            said = done.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            done, said = None, str(error)
        packed = sorted(Path(folder).glob("*.tgz"))
        if done is None or done.returncode or not packed:
            said = " ".join((said or "no file came").split())[:300]
            raise ExportError(f"npm could not fetch {RELEASE} ({said}). Check the network, {others}.")
        if _digest(packed[0].read_bytes(), "sha512") != PACKAGE_DIGEST:
            raise ExportError(f"what npm fetched is not {RELEASE}: its SHA-512 differs. See which registry npm uses.")
        with tarfile.open(packed[0]) as archive:  # nothing is unpacked: only these members are read
            return {name: _member(archive, f"package/dist/{name}") for name in wanted}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    content = archive.extractfile(name)
    if content is None:
        raise ExportError(f"{RELEASE} holds no file {name}. Check npm's registry.")
    return content.read()


def _check_replaceable(folder: Path) -> None:
    """See that nothing but an earlier page would be lost."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; the page is a folder. Choose another path.")
    names = _names(folder)
    if not names and not any(folder.iterdir()):
        return
    try:
        earlier = page_settings((folder / SETTINGS_FILE).read_bytes())
        own = set(earlier["files"]) if earlier else set()
    except (OSError, KeyError, TypeError):
        own = set()
    others = [name for name in names if name not in own]
    if not own or others:
        named = ", ".join((others or names)[:3])
        what = "is not an earlier page" if not own else "holds more than an earlier page"
        raise OutputError(f"{folder} {what} ({named}) and would be replaced. Choose a new folder, or empty it.")


def _replace(folder: Path, staged: Path, old: Path) -> None:
    """Put the new folder in the place of the old one; where that fails, the old one comes back."""
    if folder.exists():
        folder.rename(old)
    try:
        staged.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _names(folder: Path) -> list[str]:
    """All files below a folder, with / between the parts of their paths."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _digest(content: bytes, algorithm: str) -> str:
    """As `integrity` in HTML and npm's lock files have it."""
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


def _notices(model: OnnxFile, onnx_file: Path, use_cdn: bool) -> tuple[str, ...]:
    said = []
    size = onnx_file.stat().st_size / 2**20
    if use_cdn:
        said.append("The page needs the network once, to load ONNX Runtime Web from cdn.jsdelivr.net.")
    if size > LARGE_MIB:
        said.append(
            f"The model has {size:.0f} MiB, which every visitor loads once; some hosts, such as GitHub Pages, take no "
            f"file above {LARGE_MIB} MB."
        )
    licences = json.loads(model.metadata.get("licences") or "{}")
    terms = {"model": "the licence of the model", "data": "the terms of the pictures it learned from"}
    unsaid = [text for what, text in terms.items() if licences.get(what, "not stated") == "not stated"]
    if unsaid:
        said.append(
            f"Not stated: {' and '.join(unsaid)}. Before you publish, state them on the command line "
            "(--licence, --data-terms)."
        )
    return tuple(said)

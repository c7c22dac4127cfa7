"""Write the folder that becomes a Hugging Face Space: `python demo/space.py FOLDER`, with nothing but Python.

The program is copied; what a Space on ZeroGPU runs it with is written: its list of versions is shorter than ours.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("README.md", "LICENSE", "requirements.txt", "app.py", "demo", "admodels", "examples")
# The newest that the Hub's page about ZeroGPU lists (of PyTorch 2.8.0, 2.9.1, 2.10.0 and 2.11.0; of Python 3.10.13 and
# 3.12.12, and the older one is too old for this program), and the torchvision that belongs to it.
PYTHON = "3.12.12"
PINNED = {"torch": "torch==2.11.0", "torchvision": "torchvision==0.26.0"}
ADDED = ("spaces>=0.51,<1  # gets hold of the GPU",)
HARDWARE = "zero-a10g"  # as the Hub still calls it


def requirements(ours: str) -> str:
    """The requirements of a Space, of ours: with PyTorch as listed, and what only a Space needs.

    Raises:
        ValueError: a version that is listed is not within our range.
    """
    lines = ["# Written by `make space`: our requirements, with versions that ZeroGPU lists."]
    for line in ours.splitlines():
        name = re.match(r"[\w-]*", line)[0]
        if name == "torch":
            check_range(PINNED[name].partition("==")[2], line)
            lines += PINNED.values()
        elif name == "gradio":
            lines.append(line.replace("gradio", "gradio[oauth]", 1))
        elif name and name not in PINNED:
            lines.append(line)
    return "\n".join([*lines, *ADDED, ""])


def check_range(version: str, line: str) -> None:
    """Refuse a version that a line such as `torch>=2.9,<3` does not take.

    Raises:
        ValueError: it does not.
    """
    found = re.fullmatch(r"[\w-]+>=([\d.]+),<([\d.]+)", line.partition("#")[0].strip())
    if found is None or not _parts(found[1]) <= _parts(version) < _parts(found[2]):
        raise ValueError(
            f"ZeroGPU is to have {version}, and requirements.txt says {line!r}. Choose a version here that both take."
        )


def readme(ours: str, asked: str) -> str:
    """The main README whose header says what the Space runs on.

    Args:
        asked: our requirements; their lowest Gradio is the one that the Space gets.
    """
    _, head, body = ours.split("---\n", 2)
    gradio = re.search(r"^gradio>=([\d.]+)", asked, re.MULTILINE)[1]
    values = {"sdk_version": gradio, "python_version": f'"{PYTHON}"', "suggested_hardware": HARDWARE}
    lines = [line for line in head.splitlines() if line.partition(":")[0] not in values]
    lines += [f"{name}: {value}" for name, value in values.items()]
    return "---\n" + "\n".join(lines) + "\n---\n" + body


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def main(folder: Path) -> None:
    """Write the folder; what it held before goes, if that was such a folder.

    Raises:
        FileExistsError: it holds something else.
    """
    if folder.exists():
        if any(folder.iterdir()) and not all((folder / name).exists() for name in PARTS):
            raise FileExistsError(f"{folder} holds something else than a Space written before. Name another folder.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    asked = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(asked), encoding="utf-8")
    ours = (ROOT / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(readme(ours, asked), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

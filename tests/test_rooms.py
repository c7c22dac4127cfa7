"""The rooms are as the README draws them, and public means listed."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "admodels/README.md", "demo/README.md", "tests/README.md", "examples/README.md")
OUTSIDE = [ROOT / "app.py", *sorted((ROOT / "demo").rglob("*.py")), *sorted((ROOT / "examples").glob("*.py"))]
PACKAGES = [path.parent for path in sorted((ROOT / "admodels").rglob("__init__.py"))]


def imports_of(path):
    """Module and name of each `from … import …`, and modules of each `import …` with no name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def test_the_readme_draws_the_rooms_that_are_there():
    drawn, room = set(), ""
    tree = re.search(r"```\n(app\.py.*?)```", README, re.DOTALL)[1]
    for line in tree.splitlines():
        name = line.split()[0]
        room = "" if not line.startswith(" ") else room
        assert (ROOT / room / name).exists(), line
        drawn.add(room + name)
        if name.endswith("/") and not line.startswith(" "):
            room = name
    there = {
        f"{path.relative_to(ROOT).as_posix()}/"
        for top in ("admodels", "demo")
        for path in (ROOT / top).iterdir()
        if (path / "__init__.py").is_file()
    }
    assert there <= drawn


def test_the_readme_is_short_and_every_page_is_reached_from_it():
    assert README.count("\n") <= 250
    for page in PAGES:
        folder = (ROOT / page).parent
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
        for link in links:
            assert (folder / link).exists(), f"{page}: {link}"
        assert page == "README.md" or f"]({page})" in README


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_lists_what_it_exports(package):
    module = importlib.import_module(".".join(package.relative_to(ROOT).parts))
    imported = {name for _, name in imports_of(package / "__init__.py") if name is not None}
    listed = set(getattr(module, "__all__", ()))
    renamed = {alias for alias in listed if alias not in imported}
    assert len(listed) == len(imported)
    assert all(hasattr(module, name) for name in listed)
    assert renamed <= {"HUB_PREFIX"}


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_app_and_the_examples_use_listed_names_only(path):
    for module, name in imports_of(path):
        if module is None or module.split(".")[0] != "admodels":
            continue
        assert name is None or name in importlib.import_module(module).__all__, f"{module}.{name}"


def test_a_room_does_not_reach_around_its_rules_by_the_whole_library():
    for path in sorted((ROOT / "admodels").rglob("*.py")):
        if path.relative_to(ROOT).parts[1] not in ("cli", "__main__.py"):
            assert "admodels" not in {module for module, _ in imports_of(path)}, path


@pytest.mark.parametrize("room", ["core", "methods", "efficientad", "tiling", "training", "runtime"])
def test_what_runs_on_a_machine_with_a_gpu_needs_no_app_there(room):
    """Such machines are lent bare: tests of these rooms, and what they share, begin without Gradio or a browser."""
    shared = [ROOT / "tests" / name for name in ("__init__.py", "conftest.py", "test_global_state.py")]
    for path in [*shared, *sorted((ROOT / "tests" / room).rglob("*.py"))]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in getattr(node, "names", ())] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in ("demo", "fastapi", "gradio", "gradio_client", "playwright"), path

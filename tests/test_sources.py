"""What holds for every source file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(p for folder in ("admodels", "demo", "examples", "tests") for p in (ROOT / folder).rglob("*.py"))
TEXT_METHODS = {"read_text", "write_text"}


def without_encoding(source):
    """Line numbers of calls that read or write text in the encoding of whatever machine they run on."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        is_method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if is_method else getattr(call.func, "id", None)
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if "encoding" in keywords:
            continue
        if is_method and name in TEXT_METHODS:
            yield call.lineno
        elif name == "open":
            # The mode is the second argument of the built-in function and the first of a path's method.
            at = 0 if is_method else 1
            mode = keywords.get("mode") or (call.args[at] if len(call.args) > at else ast.Constant("r"))
            value = mode.value if isinstance(mode, ast.Constant) else None  # else what another library opens
            if isinstance(value, str) and "b" not in value:
                yield call.lineno


@pytest.mark.parametrize("path", [ROOT / "app.py", *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_are_utf_8_whatever_the_locale(path):
    assert [f"{path.name}:{line}" for line in without_encoding(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("open(p)", True),
        ("open(p, 'w', newline='')", True),
        ("p.open('a')", True),
        ("p.read_text()", True),
        ("(a / b).write_text(text)", True),
        ("open(p, 'rb')", False),
        ("p.open(mode='wb')", False),
        ("open(p, encoding='utf-8')", False),
        ("Image.open(p)", False),
        ("archive.open(member)", False),
        ("write_text(p, text)", False),
    ],
)
def test_what_is_looked_for_is_found(source, is_found):
    assert bool(list(without_encoding(source))) == is_found

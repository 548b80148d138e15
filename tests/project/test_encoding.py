"""Text files are UTF-8 in every locale: every call sets the encoding."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path for name in ("octvideo", "data_tools", "tools", "demo", "benchmarks") for path in (ROOT / name).rglob("*.py")
)
_OTHER_OPEN = ("archive", "av", "os", "Image", "tarfile")  # their ``open`` has no encoding


def calls_without_encoding(tree: ast.AST) -> Iterator[int]:
    """The lines of calls that read or write text in the locale's encoding."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if "encoding" in keywords:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        owner = getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else ""
        if name in ("read_text", "write_text") and len(call.args) < (1 if name == "read_text" else 2):
            yield call.lineno
        elif name == "open" and owner not in _OTHER_OPEN:
            words = [node.value for part in call.args for node in ast.walk(part) if isinstance(node, ast.Constant)]
            if not {"rb", "wb", "ab", "xb", "rb+", "r+b", "ab+"} & {*words}:
                yield call.lineno
        elif {"text", "universal_newlines"} & keywords.keys() and name in ("run", "Popen", "check_output"):
            yield call.lineno


@pytest.mark.parametrize(
    "code", ["p.read_text()", "p.write_text('a')", "open(p, 'w')", "p.open()", "run(c, text=True)"]
)
def test_call_without_encoding_is_found(code: str) -> None:
    assert list(calls_without_encoding(ast.parse(code))) == [1]


def test_no_call_depends_on_the_locale() -> None:
    # ``write_text`` of octvideo.files always writes UTF-8, and takes two arguments as well.
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line in calls_without_encoding(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found

"""Folders of octvideo import only folders above them in the table of CONTRIBUTING.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FOLDERS = re.findall(r"^\| `(\w+)/` \|", TEXT, re.MULTILINE)
IMPORT = re.compile(r"^\s*(?:from|import) octvideo\.(\w+)", re.MULTILINE)


def test_table_has_every_folder() -> None:
    packages = {path.parent.name for path in (ROOT / "octvideo").glob("*/__init__.py")}
    assert packages == set(FOLDERS) and len(packages) == len(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_lead_upwards(folder: str) -> None:
    files = (ROOT / "octvideo" / folder).rglob("*.py")
    imported = {name for file in files for name in IMPORT.findall(file.read_text(encoding="utf-8"))}
    below = FOLDERS[FOLDERS.index(folder) + 1 :]
    assert not imported & set(below)
    if folder == "octave":
        assert imported == {"octave"}

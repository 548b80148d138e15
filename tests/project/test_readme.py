"""Links, commands and examples of README.md and CONTRIBUTING.md work."""

from __future__ import annotations

import re
from pathlib import Path

from octvideo.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT + CONTRIBUTING) if "://" not in link]
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_commands_and_targets_exist() -> None:
    scripts = set(re.findall(r"\b(?:tools|demo|benchmarks)/\w+\.py\b", TEXT + CONTRIBUTING))
    assert scripts and [script for script in scripts if not (ROOT / script).is_file()] == []
    assert set(re.findall(r"`octvideo ([a-z][a-z-]+)", TEXT)) <= set(COMMANDS)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", TEXT + CONTRIBUTING, re.MULTILINE)) <= targets


def test_python_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["clips"].shape == (1, 32, 8, 56, 56)  # type: ignore[attr-defined]
    assert names["network"].octave_report  # type: ignore[attr-defined]

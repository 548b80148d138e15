"""The studies of benchmarks/evidence.py, and the page that shows their figures."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from octvideo.config import load_cfg
from octvideo.models import build_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("study", ["rendered", "ablations", "others", "faster", "inflation"])
def test_networks_of_a_study_can_be_built(study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import evidence

    args = argparse.Namespace(rendered=tmp_path, output=tmp_path, lists={})
    plans = list(evidence.STUDIES[study](args))
    assert len({plan.name for plan in plans}) == len(plans) >= 4
    for plan in plans:
        pairs = [str(part) for item in plan.keys.items() for part in item]
        build_model(load_cfg(str(ROOT / plan.cfg), pairs))


RECORDS = sorted((ROOT / "benchmarks" / "results" / "evidence").glob("*.json"))


@pytest.mark.parametrize("script", [*(f"evidence.py {path.stem}" for path in RECORDS), "int8.py"])
def test_page_shows_the_table(script: str) -> None:
    command = [sys.executable, *f"benchmarks/{script} --table".split()]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 2 and [row for row in rows if row not in page] == []

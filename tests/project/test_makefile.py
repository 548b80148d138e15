"""The Makefile's logic, with a fake ``python`` that records its arguments: nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None and not os.environ.get("CI"), reason="make is missing")


def make(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs make in the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "PYTHON", "VENV"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that is there already."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$*" in *$FAIL*) exit 3;; esac\n')
    python.chmod(0o755)
    return tmp_path / "venv"


def calls(venv: Path) -> list[str]:
    """What the environment's python was called with since the last time."""
    file = venv.parent / "calls"
    lines = file.read_text().splitlines()
    file.unlink()
    return lines


def test_help_lists_every_target() -> None:
    listed = set(re.findall(r"^([\w-]+)  ", make("help").stdout, re.MULTILINE))
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets and listed == set(targets[1].split())


def test_install_repeats_when_setup_py_changes(venv: Path) -> None:
    run = [f"VENV={venv}", "FAIL=nothing-fails"]
    done = make("quickstart", *run)
    assert done.returncode == 0, done.stderr
    assert "installing octvideo" in done.stdout
    assert calls(venv) == ["-m pip install -q -e .", "tools/quickstart.py"]
    assert make("quickstart", *run).returncode == 0
    assert calls(venv) == ["tools/quickstart.py"]
    make("quickstart", "-W", "setup.py", *run)
    assert calls(venv) == ["-m pip install -q -e .", "tools/quickstart.py"]


def test_dev_install_serves_the_quickstart(venv: Path) -> None:
    run = [f"VENV={venv}", "FAIL=nothing-fails"]
    assert make("test", *run).returncode == 0
    install, tests = calls(venv)
    assert "[dev,export" in install and tests.startswith("-m pytest") and tests.endswith("tests")
    make("quickstart", *run)
    assert calls(venv) == ["tools/quickstart.py"]


def test_failed_step_is_named_and_repeated(venv: Path) -> None:
    for _ in range(2):
        done = make("test", f"VENV={venv}", "FAIL=install")
        assert done.returncode != 0 and "error: 'pip install -e .[dev,export" in done.stdout
        assert len(calls(venv)) == 1
    done = make("test", f"VENV={venv}", "FAIL=pytest")
    assert done.returncode != 0 and "error: make test" in done.stdout


@pytest.mark.parametrize("python", ["", "/bin/false"])
def test_missing_or_old_python_is_named(python: str, tmp_path: Path) -> None:
    done = make("test", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}")
    assert done.returncode == 2
    assert "Python 3.10 or newer" in done.stdout and python in done.stdout
    assert not (tmp_path / "venv").exists()


def test_clean_keeps_given_environment_and_output(venv: Path) -> None:
    commands = make("-n", "clean", f"VENV={venv}").stdout
    assert str(venv) not in commands and not re.search(r"output(\s|$)", commands)

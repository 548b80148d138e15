"""The installed command: what it dispatches to, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import octvideo
from octvideo.cli import run
from octvideo.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"octvideo {octvideo.__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)
    assert main([]) == 2


def test_an_unknown_command_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, ["trian"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "trian" in captured.err and "run-net" in captured.err


@pytest.mark.parametrize("name", sorted({*COMMANDS, *(name.replace("-", "_") for name in COMMANDS)}))
def test_every_command_answers_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_python_m_octvideo() -> None:
    done = subprocess.run([sys.executable, "-m", "octvideo", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"octvideo {octvideo.__version__}\n")


def test_a_wrong_configuration_ends_in_one_line_and_before_torch_is_loaded() -> None:
    code = (
        "import sys; from octvideo.cli import run; from octvideo.cli.main import main; "
        "code = run(main, ['run-net', '--cfg', 'nonexistent.yaml']); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "nonexistent.yaml" in done.stderr


def test_the_public_names_come_on_demand() -> None:
    code = "import sys, octvideo; assert 'torch' not in sys.modules; [getattr(octvideo, n) for n in octvideo.__all__]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="octav_ize"):
        octvideo.octav_ize  # noqa: B018

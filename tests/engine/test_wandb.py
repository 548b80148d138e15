"""Weights & Biases, in its offline mode: a run is written and would be sent by `wandb sync`."""

from __future__ import annotations

import sys
import time

import pytest

from octvideo.cli import run
from octvideo.cli.run_net import main


def test_a_run_has_the_numbers_of_the_log(small_run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert run(main, small_run("out", "TRAIN.STEPS", "2", "TRAIN.WANDB", "octvideo-test")) == 0
    (file,) = (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")
    end = time.monotonic() + 240  # another process writes it, and may do so after the run has ended
    for name in (b"train/loss", b"test/top1", b"octvideo-test", b"SAMPLING_RATE"):
        while name not in file.read_bytes():
            assert time.monotonic() < end, name
            time.sleep(0.1)


def test_without_wandb(small_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails, as where it is not installed
    assert run(main, small_run("out", "TRAIN.WANDB", "project")) == 2
    assert capsys.readouterr().err.endswith(
        "error: TRAIN.WANDB is project, but wandb is not installed: pip install wandb\n"
    )

"""The log: JSON lines, remaining time, Weights & Biases in its offline mode."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest
from runs import call
from torch import nn
from trainers import make_trainer

from octvideo.engine.hooks import Logging
from octvideo.engine.logging import RunLog
from octvideo.engine.trainer import StepStats


def test_infinite_numbers_are_valid_json(tmp_path):
    def refuse(name: str) -> None:
        raise AssertionError(name)

    with RunLog(tmp_path) as log:
        log.start()
        log.write("train", step=1, grad_norm=float("inf"), loss=np.float64("nan"))
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert line["grad_norm"] is None and line["loss"] is None


def test_cut_line_leaves_next_line_whole(tmp_path):
    file = tmp_path / "log.jsonl"
    whole = '{"kind": "info", "message": "before"}\n'
    for before, lines in (("", 1), (whole, 2), (whole + '{"kind": "tr', 3)):
        file.write_text(before)
        with RunLog(tmp_path) as log:
            log.start()
            log.write("info", message="after")
        found = file.read_text().splitlines()
        assert len(found) == lines and json.loads(found[-1])["message"] == "after"


def test_remaining_time_may_be_days(tmp_path, capsys):
    net = nn.Linear(1, 1)
    trainer = make_trainer(net, 101)
    trainer.step = 1
    stats = StepStats(0.0, 0.0, 0.0, 0.0, 2, [], data_time=0.0, wait_time=0.0, step_time=3600.0)
    with RunLog(tmp_path) as log:
        Logging(log, 1)(trainer, stats)
    assert "ETA 100:00:00" in capsys.readouterr().err


def test_wandb_gets_the_numbers(small_run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert call(small_run("out", "TRAIN.STEPS", "2", "TRAIN.WANDB", "octvideo-test")) == 0
    (file,) = (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")
    end = time.monotonic() + 240  # another process writes it, and may do so after the run has ended
    for name in (b"train/loss", b"test/top1", b"octvideo-test", b"SAMPLING_RATE"):
        while name not in file.read_bytes():
            assert time.monotonic() < end, name
            time.sleep(0.1)


def test_missing_wandb_is_an_error(small_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails, as where it is not installed
    assert call(small_run("out", "TRAIN.WANDB", "project")) == 2
    assert capsys.readouterr().err.endswith(
        "error: TRAIN.WANDB is project, but wandb is not installed: pip install wandb\n"
    )

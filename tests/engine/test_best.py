"""The best network of a run: early stopping, and testing it."""

from __future__ import annotations

import torch
from runs import call, equal, log_lines, metrics, weights


def _set_best(folder, **figures):
    path = folder / "checkpoints" / "best.pt"
    torch.save({**torch.load(path, weights_only=True), **figures}, path)


def test_training_stops_without_improvement(small_run, tmp_path, capsys):
    out, evaluate = tmp_path / "out", ("TRAIN.EVAL_EVERY", "3", "TRAIN.PATIENCE", "2")
    assert call(small_run("out", *evaluate, "TRAIN.STEPS", "6")) == 0
    _set_best(out, top1=100.0, loss=0.0, step=6)
    capsys.readouterr()
    more = small_run("out", *evaluate, "TRAIN.STEPS", "60")
    assert call(more) == 0
    assert "no improvement since step 6 (2 evaluations, TRAIN.PATIENCE)" in capsys.readouterr().err
    assert [line["step"] for line in log_lines(out, "val")] == [3, 6, 9, 12]
    assert torch.load(out / "checkpoints" / "last.pt", weights_only=True)["step"] == 12
    before = metrics(out)
    assert call(more) == 0  # has nothing to do
    assert "step 12 of 60 is done (TRAIN.PATIENCE), nothing is left to train" in capsys.readouterr().err
    assert len(log_lines(out, "val")) == 4 and metrics(out) == before


def test_loss_decides_between_equal_accuracies(small_run, tmp_path):
    out, evaluate = tmp_path / "out", ("TRAIN.EVAL_EVERY", "3", "TEST.ENABLE", "False")
    assert call(small_run("out", *evaluate, "TRAIN.STEPS", "3")) == 0
    _set_best(out, top1=0.0, loss=1e9)
    assert call(small_run("out", *evaluate, "TRAIN.STEPS", "6")) == 0
    first, second = log_lines(out, "val")
    best = torch.load(out / "checkpoints" / "best.pt", weights_only=True)
    assert best["step"] == 6 and (best["top1"], best["loss"]) == (second["top1"], second["loss"])
    assert 0 < second["loss"] < 5


def test_best_weights_are_tested(small_run, tmp_path, capsys):
    out = tmp_path / "out"
    best = ("TRAIN.EVAL_EVERY", "6", "TEST.WEIGHTS", "best")
    assert call(small_run("out", *best)) == 0
    assert f"testing {out / 'checkpoints' / 'best.pt'}" in capsys.readouterr().err
    # Another network in its place is what a second test finds.
    torch.save(
        {**torch.load(out / "checkpoints" / "best.pt", weights_only=True), "step": 0}, out / "checkpoints" / "x.pt"
    )
    found = metrics(out)
    own = ("TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(out / "checkpoints" / "x.pt"))
    assert call(small_run("again", *own)) == 0 and metrics(tmp_path / "again") == found
    assert call(small_run("out", "TRAIN.ENABLE", "False", "TEST.WEIGHTS", "best")) == 0 and metrics(out) == found


def test_best_needs_evaluation(small_run, tmp_path, capsys):
    assert call(small_run("out", "TEST.WEIGHTS", "best")) == 2
    assert "TEST.WEIGHTS is best, but TRAIN.EVAL_EVERY is 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_last_weights_are_tested_by_default(small_run, tmp_path):
    assert call(small_run("out", "TRAIN.EVAL_EVERY", "3")) == 0
    last = ("TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "out" / "checkpoints" / "last.pt"))
    assert call(small_run("again", *last)) == 0
    assert metrics(tmp_path / "again") == metrics(tmp_path / "out")
    assert not equal(weights(tmp_path / "out"), weights(tmp_path / "out", "step_00000009.pt"))

"""Runs from the command line: what they leave, learn and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import EVERYTHING, call

from octvideo.config import load_cfg
from octvideo.models import build_model


def test_run_leaves_all_files(small_run, tmp_path, capsys):
    assert call(small_run("out", "TRAIN.EVAL_EVERY", "6")) == 0
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["num_videos"] == 8 and metrics["num_failed"] == 0 and 0 <= metrics["top1"] <= 100
    assert metrics["top5"] == 100 and set(metrics["per_class"]) == {"down", "right"}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [3, 6, 9, 12]
    keys = {"loss", "top1", "lr", "grad_norm", "data_time", "step_time", "clips_per_second", "eta_seconds"}
    assert keys <= train[0].keys()
    assert [line["step"] for line in lines if line["kind"] == "val"] == [6, 12]
    assert sum(line["kind"] == "test" for line in lines) == 1
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "best.pt", "last.pt", "step_00000009.pt", "step_00000012.pt",
    ]  # fmt: skip
    assert load_cfg(out / "config.yaml").TRAIN.STEPS == 12
    assert list((out / "tensorboard").glob("events.out.tfevents*"))
    assert (out / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    rows = (out / "predictions.csv").read_text().splitlines()
    assert len(rows) == 9 and rows[0].startswith("path,label,prediction1,score1")
    assert len((out / "confusion_matrix.csv").read_text().splitlines()) == 3
    for name in ("best.pt", "last.pt"):
        payload = torch.load(out / "checkpoints" / name, weights_only=True)
        assert payload["classes"] == ["down", "right"] and "ALPHA: 0.25" in payload["config"]
        assert list(payload["model"]) == list(build_model(load_cfg(out / "config.yaml")).state_dict())
    # A test without training gives the same; so does another TEST.MAX_VIEWS.
    capsys.readouterr()
    checkpoint = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(out / "checkpoints" / "last.pt")]
    assert call(small_run("again", *checkpoint, "TEST.MAX_VIEWS", "2")) == 0
    assert json.loads((tmp_path / "again" / "metrics.json").read_text()) == metrics


def test_run_learns_motion(small_run, tmp_path):
    """Only the motion tells the two classes apart."""
    steps = ["TRAIN.STEPS", "90", "TRAIN.CHECKPOINT_EVERY", "90", "TRAIN.BATCH_SIZE", "8", "SOLVER.WARMUP_STEPS", "10"]
    assert call(small_run("out", *steps)) == 0
    losses = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in losses if line["kind"] == "train"]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["top1"] >= 87


SWITCHES = ["DATA.SAMPLING", "DATA.RANDOM_RESIZED_CROP", "DATA.REPEATS", "DATA.RANDAUGMENT", "DATA.RANDOM_ERASING"]


@pytest.mark.parametrize("key", [*SWITCHES, "TRAIN.MIXUP", "TRAIN.CUTMIX"])
def test_each_augmentation_changes_the_loss(small_run, tmp_path, key):
    steps = ["TRAIN.STEPS", "1", "TRAIN.LOG_EVERY", "1", "TEST.ENABLE", "False", "DATA.RANDOM_ERASING", "0"]
    value = dict(zip(EVERYTHING[::2], EVERYTHING[1::2]))[key]
    losses = []
    for name, more in (("off", []), ("on", [key, "1" if key == "DATA.RANDOM_ERASING" else value])):
        assert call(small_run(name, *steps, *more)) == 0
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        losses.append(next(json.loads(line)["loss"] for line in lines if '"train"' in line))
    assert losses[0] != losses[1]


def test_epochs_become_steps(small_run, tmp_path, capsys):
    """8 videos in batches of 4: one and a half passes are 3 steps."""
    assert call(small_run("out", "TRAIN.EPOCHS", "1.5", "TEST.ENABLE", "False")) == 0
    assert torch.load(tmp_path / "out" / "checkpoints" / "last.pt", weights_only=True)["step"] == 3
    assert "3 steps, 1.5 passes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["TRAIN.ENABLE", "False", "TEST.ENABLE", "False"], "nothing to do"),
        (["TRAIN.PRECISION", "fp16"], "TRAIN.PRECISION is fp16"),
        (["DATA.TRAIN", "absent.csv"], "absent.csv: no such list file"),
        (["MODEL.NUM_CLASSES", "1"], "set MODEL.NUM_CLASSES 2"),
        (["TRAIN.CHECKPOINT", "absent.pt"], "absent.pt: no such checkpoint"),
        (["TRAIN.ENABLE", "False"], "no such checkpoint; set TEST.CHECKPOINT"),
        (["SOLVER.BASE_LR", "1e18", "SOLVER.OPTIMIZER", "sgd"], "lower SOLVER.BASE_LR"),
        (["TRAIN.STEP", "3"], "unknown key TRAIN.STEP; did you mean TRAIN.STEPS"),
        (["OUTPUT_DIR", "/proc/nowhere"], "OUTPUT_DIR /proc/nowhere: cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(small_run, overrides, message, capsys):
    assert call(small_run("out", *overrides)) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TRAIN.EMA", "1.0"),
        ("TRAIN.EPOCHS", "-1"),
        ("TRAIN.RECOMPUTE", "[1]"),
        ("TRAIN.EVAL_CROPS", "2"),
        ("TRAIN.COMPILE", "True"),
    ],
)
def test_wrong_values_are_named(small_run, capsys, key, value):
    assert call(small_run("out", key, value)) == 2
    assert key in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["log.jsonl", "tensorboard", "checkpoints", "metrics.json", "predictions.csv", "confusion_matrix.png"]
)
def test_unwritable_folder_ends_in_one_line(
    small_run: Callable[..., list[str]], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if name in ("tensorboard", "checkpoints"):
        (out / name).write_text("a file")
    elif name == "log.jsonl":
        (out / name).symlink_to("/dev/full")
    else:
        (out / name).mkdir()
    assert call(small_run("out", "TRAIN.STEPS", "1", "TEST.NUM_CLIPS", "1", "TEST.NUM_CROPS", "1")) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and str(out) in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
    if "." in name and name != "log.jsonl":  # the test is done: its accuracy is not lost
        assert "1 x 1 views of 8 videos, 0 failed: top-1 " in err
        assert (out / "metrics.json").is_file() == (name != "metrics.json")

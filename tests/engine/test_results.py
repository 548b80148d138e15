"""Metrics and result files: locales, pictures that cannot be drawn, very many classes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import ROOT
from runs import call

from octvideo.data import VideoIndex
from octvideo.engine.metrics import confusion_matrix, draw_confusion, per_class_accuracy, top_k_accuracy
from octvideo.engine.results import accuracy, summarize, write_details, write_metrics
from octvideo.engine.tester import TestResult

NAMES = ["打篮球", "élan $\\frac"]


def test_metrics_by_hand():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.5, 0.1]])
    labels = torch.tensor([1, 0, 0, 0])
    assert top_k_accuracy(scores, labels, 1) == 50
    assert top_k_accuracy(scores, labels, 2) == 75
    assert top_k_accuracy(scores, labels, 5) == 100
    confusion = confusion_matrix(scores.argmax(1), labels, 3)
    assert np.array_equal(confusion, [[1, 1, 1], [0, 1, 0], [0, 0, 0]])
    assert per_class_accuracy(scores.argmax(1), labels, 3) == [pytest.approx(100 / 3), 100, None]


def test_accuracy_ignores_unlabelled_videos():
    index = VideoIndex(["a.mp4", "b.mp4"], [0, -1], ["x", "y"])
    assert accuracy(TestResult(torch.eye(2), torch.arange(2), []), index)["top1"] == 100


@pytest.fixture
def named_run(small_run: Callable[..., list[str]], video_folder: Path, tmp_path: Path) -> list[str]:
    """A run of one step on classes whose names are not ASCII, in ``out``."""
    (tmp_path / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    videos = sorted((video_folder / "train").rglob("*.mp4"))
    rows = [f'"{video}",{int(video.parent.name == "right")}\n' for video in videos]
    (tmp_path / "list.csv").write_text("".join(rows), encoding="utf-8")
    data = [f"DATA.{key}={tmp_path / 'list.csv'}".split("=") for key in ("TRAIN", "VAL")]
    keys = ["DATA.CLASSES", str(tmp_path / "classes.txt"), "TRAIN.STEPS", "1", "TEST.NUM_CLIPS", "1"]
    return small_run("out", *[part for pair in data for part in pair], *keys)


def check_results(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["num_videos"] == 8 and list(metrics["per_class"]) == NAMES
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {*NAMES} and {row["prediction2"] for row in rows} <= {*NAMES}
    with (folder / "confusion_matrix.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file))[1:] == NAMES


@pytest.mark.full
def test_results_are_utf8_in_any_locale(named_run: list[str], video_folder: Path, tmp_path: Path) -> None:
    """What predict prints is JSON there too."""
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    script = (
        "import sys; from octvideo.cli import predict, run, run_net\n"
        "run(run_net.main, sys.argv[3:]) or sys.exit(run(predict.main, [*sys.argv[1:3], '--json', '--device', 'cpu']))"
    )
    checkpoint = tmp_path / "out" / "checkpoints" / "last.pt"
    video = next((video_folder / "val").rglob("*.mp4"))
    command = [sys.executable, "-c", script, str(video), f"--checkpoint={checkpoint}", *named_run]
    done = subprocess.run(command, env={**os.environ, **locale}, cwd=ROOT, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    check_results(tmp_path / "out")
    assert {entry["label"] for entry in json.loads(done.stdout.decode("ascii"))["predictions"]} == {*NAMES}


def test_failed_picture_is_a_warning(named_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib

    # As in a user's matplotlibrc; LaTeX is missing, or does not know the command.
    with matplotlib.rc_context({"text.usetex": True, "text.latex.preamble": "\\nothing"}):
        assert call(named_run) == 0
    assert "warning: confusion_matrix.png cannot be drawn (" in capsys.readouterr().err
    check_results(tmp_path / "out")
    assert not (tmp_path / "out" / "confusion_matrix.png").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["\U0003fffe", 100 * "long"])  # a letter that no font has
def test_matrix_of_odd_names_is_silent(name: str) -> None:
    assert draw_confusion(np.eye(2, dtype=int), [name, "打篮球"]).startswith(b"\x89PNG")


def test_many_classes_have_no_matrix(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(40_000)]
    index = VideoIndex(["a.mp4", "b.mp4", "c.mp4"], [39_999, 7, 7], classes)
    scores = torch.zeros(3, len(classes))
    scores[0, 39_999] = scores[1, 7] = scores[2, 8] = 1
    result = TestResult(scores, torch.arange(3), [])
    messages: list[str] = []
    metrics = summarize(result, index, classes)
    write_metrics(metrics, tmp_path)
    write_details(result, index, classes, tmp_path, messages.append)
    assert json.loads((tmp_path / "metrics.json").read_text())["per_class"]["class 7"] == 50
    assert metrics["top1"] == pytest.approx(200 / 3) and np.isclose(metrics["per_class"]["class 39999"], 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "predictions.csv"]
    assert len(messages) == 1 and "40000 classes are more than 5000" in messages[0]

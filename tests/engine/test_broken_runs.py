"""Broken checkpoints and folders, changed settings: a warning or one line, never a traceback or a silent change."""

from __future__ import annotations

import json
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from octvideo.cli import run
from octvideo.cli.run_net import main

_SHORT = ["TRAIN.STEPS", "2", "TRAIN.CHECKPOINT_EVERY", "1", "TEST.ENABLE", "False"]


def call(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    return run(main, arguments)


def flip_largest_record(path: Path) -> None:
    """64 bytes in its middle."""
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda record: record.file_size)
    content = bytearray(path.read_bytes())
    header = record.header_offset
    lengths = [int.from_bytes(content[header + at : header + at + 2], "little") for at in (26, 28)]
    middle = header + 30 + sum(lengths) + record.file_size // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    path.write_bytes(content)


def test_damaged_and_foreign_checkpoints_are_passed_over(
    small_run: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(small_run("out", *_SHORT)) == 0
    folder = tmp_path / "out" / "checkpoints"
    before = torch.load(folder / "last.pt", weights_only=True)["model"]
    flip_largest_record(folder / "step_00000002.pt")
    torch.save({"model": {}}, folder / "step_00000003.pt")
    torch.save(3, folder / "step_00000004.pt")
    (folder / "best.pt").write_bytes(b"broken")
    capsys.readouterr()
    assert call(small_run("out", *_SHORT, "TRAIN.EVAL_EVERY", "2")) == 0
    err = capsys.readouterr().err
    assert "step_00000004.pt: not a checkpoint of a training (it is no mapping); using the one before" in err
    assert "step_00000003.pt: not a checkpoint of a training (it has no config); using the one before" in err
    assert "is damaged); using the one before" in err and "resuming at step 1 " in err
    assert "best.pt: not a readable checkpoint" in err and "the next evaluation replaces it" in err
    assert torch.load(folder / "best.pt", weights_only=True)["top1"] >= 0
    after = torch.load(folder / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_another_optimiser_is_refused_and_other_settings_are_told(
    small_run: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(small_run("out", *_SHORT)) == 0
    assert "learning rate 0.002 for a batch of 4, not scaled" in capsys.readouterr().err
    assert call(small_run("out", *_SHORT, "SOLVER.OPTIMIZER", "sgd")) == 2
    assert "SOLVER.OPTIMIZER adamw, this run sgd: choose another OUTPUT_DIR" in capsys.readouterr().err
    assert call(small_run("out", *_SHORT, "SEED", "5", "TRAIN.BATCH_SIZE", "2")) == 2
    assert "its checkpoints have SEED 0, this run 5; TRAIN.BATCH_SIZE 4, this run 2: choose" in capsys.readouterr().err
    assert call(small_run("out", *_SHORT, "TRAIN.STEPS", "3", "SOLVER.BASE_BATCH_SIZE", "8")) == 0
    err = capsys.readouterr().err
    assert "TRAIN.STEPS is 3 from here on, it was 2\n" in err
    assert "SOLVER.BASE_BATCH_SIZE is 8 from here on, it was 0\n" in err
    assert "learning rate 0.001 for a batch of 4 (SOLVER.BASE_LR 0.002 x 4 / 8)" in err
    last = tmp_path / "out" / "checkpoints" / "last.pt"
    torch.save({**torch.load(last, weights_only=True), "classes": 3}, last)
    assert call(small_run("test", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(last))) == 2
    assert "last.pt: its classes are not a list of names" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["log.jsonl", "tensorboard", "checkpoints", "metrics.json", "predictions.csv", "confusion_matrix.png"]
)
def test_a_folder_that_cannot_be_written_ends_in_one_line(
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


def test_validation_without_labels_is_refused(
    small_run: Callable[..., list[str]], video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = sorted((video_folder / "val").rglob("*.mp4"))
    (tmp_path / "val.csv").write_text("".join(f'"{video}"\n' for video in videos))
    assert call(small_run("out", *_SHORT, "TRAIN.EVAL_EVERY", "1", "DATA.VAL", str(tmp_path / "val.csv"))) == 2
    assert "no video has a label: give it labels, or set TRAIN.EVAL_EVERY 0" in capsys.readouterr().err


def test_the_metrics_count_what_training_could_not_read(
    small_run: Callable[..., list[str]], video_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(video_folder / "train", tmp_path / "train")
    (tmp_path / "train" / "down" / "video 1.mp4").write_bytes(b"broken")
    # Two passes: the video is drawn more than once, and counted once.
    assert call(small_run("out", "TRAIN.STEPS", "4", "DATA.TRAIN", str(tmp_path / "train"))) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_failed_train"] == 1 and metrics["num_failed"] == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["num_failed_train"] for line in lines if line["kind"] == "test"] == [1]


def test_clipping_bounds_the_step(small_run: Callable[..., list[str]], tmp_path: Path) -> None:
    """Plain gradient descent: with a bound below the norm the step is the same one, shortened to it."""
    plain = ["SOLVER.OPTIMIZER", "sgd", "SOLVER.MOMENTUM", "0", "SOLVER.NESTEROV", "False", "SOLVER.WEIGHT_DECAY", "0"]
    steps = ["TRAIN.STEPS", "1", "SOLVER.WARMUP_STEPS", "0", "TEST.ENABLE", "False", "TRAIN.LOG_EVERY", "1"]
    found, norms = [], []
    for name, bound, rate in (("start", "0", "0"), ("whole", "0", "1"), ("clipped", "0.01", "1")):
        more = [*plain, *steps, "TRAIN.CLIP_GRAD_NORM", bound, "SOLVER.BASE_LR", "1e-30" if rate == "0" else rate]
        assert call(small_run(name, *more)) == 0
        model = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"]
        learnt = [value for key, value in model.items() if key.endswith(("weight", "bias"))]
        found.append(torch.cat([value.double().flatten() for value in learnt]))
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        norms.append(next(line["grad_norm"] for line in lines if line["kind"] == "train"))
    start, whole, clipped = found
    assert norms[2] == pytest.approx(norms[1], rel=1e-5) and norms[1] > 0.01
    assert (whole - start).norm().item() == pytest.approx(norms[1], rel=1e-3)
    assert (clipped - start).norm().item() == pytest.approx(0.01, rel=1e-2)
    torch.testing.assert_close(clipped - start, (whole - start) * 0.01 / norms[1], atol=1e-6, rtol=0)


def test_a_signal_in_the_last_evaluation_ends_the_run_before_the_test(
    small_run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(scores: torch.Tensor, labels: torch.Tensor, k: int) -> float:
        signal.raise_signal(signal.SIGTERM)
        return 50.0

    more = ["TRAIN.STEPS", "1", "TRAIN.EVAL_EVERY", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("octvideo.engine.train.top_k_accuracy", interrupted)
        assert call(small_run("out", *more)) == 128 + signal.SIGTERM
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert call(small_run("out", *more)) == 0
    assert (tmp_path / "out" / "metrics.json").exists()

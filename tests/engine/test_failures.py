"""Unreadable videos: all ranks count them together and stop together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import HELPERS, run_script, start
from runs import call

from octvideo.data import Failure
from octvideo.engine.failures import FailureBudget
from octvideo.errors import UserError


def broken(folder: Path, tmp_path: Path, names: str) -> Path:
    """Copy the videos, and break some of them."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    paths = sorted(copy.glob(names))
    assert paths
    for path in paths:
        path.write_bytes(b"broken")
    return copy


def test_budget_is_a_share_after_ten() -> None:
    budget = FailureBudget(0.1, always_allowed=10)
    example = Failure("/a.mp4", "no frames")
    budget.add(drawn=20, failed=10)
    budget.check(example)
    budget.add(drawn=80, failed=1)
    with pytest.raises(UserError, match=r"^11 of 100 videos cannot be read, .* \(0.1\) .* /a.mp4: no frames$"):
        budget.check(example)
    budget.add(drawn=10, failed=0)
    budget.check(example)


def test_ranks_judge_evaluation_together(tmp_path):
    done = run_script(HELPERS / "failing_views.py", tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    asked = {name: [rank[name][0] for rank in ranks] for name in ranks[0]}
    ends = {name: ranks[0][name][1:] for name in ranks[0]}
    assert all(ranks[1][name][1:] == end for name, end in ends.items()), "both ranks end alike"
    # One rank's twenty in a row are not all's: the share of both ends it, when all have been read.
    assert asked["one rank"] == [41, 40] and ends["one rank"][0] == 41
    assert ends["one rank"][1].startswith("40 of 81 videos cannot be read, more than DATA.MAX_FAILED (0.1)")
    assert asked["all"] == [20, 20] and "/38.mp4: no frames; 20 videos in a row" in ends["all"][1]
    assert asked["from the middle"] == [120, 120] and "20 videos in a row" in ends["from the middle"][1]
    assert asked["a missing class"] == [500, 500] and ends["a missing class"] == [920, ""]
    assert asked["few"] == [1, 0] and ends["few"][1].startswith("1 of 1 videos cannot be read")


def test_failed_evaluation_leaves_a_checkpoint(
    small_run: Callable[..., list[str]], video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = str(broken(video_folder / "val", tmp_path, "*/video 2.mp4"))
    more = ["DATA.VAL", val, "TEST.ENABLE", "False", "TRAIN.EVAL_EVERY", "4", "TRAIN.CHECKPOINT_EVERY", "100"]
    assert call(small_run("out", *more)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "error: 2 of 8 videos cannot be read, more than DATA.MAX_FAILED (0.1) allows; one of them: "
    )
    assert val in error
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step_00000004.pt"]
    assert call(small_run("out", *more, "DATA.MAX_FAILED", "0.3")) == 0
    err = capsys.readouterr().err
    assert "resuming at step 4" in err and "(2 videos cannot be read)" in err


def test_ranks_end_with_the_same_line(small_run: Callable[..., list[str]], video_folder: Path, tmp_path: Path) -> None:
    train = broken(video_folder / "train", tmp_path, "*/*.mp4")
    process = start(small_run("out", "DATA.TRAIN", str(train), "TRAIN.BATCH_SIZE", "2"), processes=2)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    lines = [line for line in err.splitlines() if "20 videos in a row cannot be read" in line]
    assert len(lines) == 2 and lines[0] == lines[1] and lines[0].startswith("error: "), err


def test_metrics_count_failures_of_training(
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


def test_failures_are_listed_and_limited(small_run, video_folder, tmp_path, capsys):
    shutil.copytree(video_folder, tmp_path / "v")
    broken = tmp_path / "v" / "val" / "right" / "video 2.mp4"
    broken.write_bytes(b"broken")
    assert call(small_run("train", "TEST.ENABLE", "False", "TRAIN.STEPS", "2")) == 0
    checkpoint = str(tmp_path / "train" / "checkpoints" / "last.pt")
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", checkpoint, "DATA.VAL", str(tmp_path / "v" / "val")]
    assert call(small_run("out", *test, "DATA.MAX_FAILED", "0.2")) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_failed"] == 1 and metrics["num_videos"] == 8
    assert metrics["failed"][0]["path"] == str(broken)
    assert call(small_run("out", *test)) == 2
    assert "1 of 8 videos cannot be read" in capsys.readouterr().err

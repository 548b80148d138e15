"""Testing, and evaluation during training: packs of views, ranks, scales, subsets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import start
from runs import call, finish, log_lines, metrics
from torch import nn
from trainers import ALONE, MEAN, STD

from octvideo.data import Failure, VideoViews, normalize_clips
from octvideo.engine.tester import Tester, score_videos

_STOP = ["TRAIN.STEPS", "6", "TEST.ENABLE", "False"]


def test_few_views_are_scored_together():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 4 * 4, 5))
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    views = [1, 2, 0, 2, 7, 1]  # of each video; 0 could not be read
    videos = [torch.randint(0, 256, (count, 2, 4, 4, 3), dtype=torch.uint8) for count in views]
    items = [
        VideoViews(video, 0, number, None) if len(video) else VideoViews(None, 0, number, Failure("b.jpg", "broken"))
        for number, video in enumerate(videos)
    ]
    result = Tester(ALONE, mean=MEAN, std=STD, max_views=4).score(network, items)
    assert seen == [3, 2, 4, 3, 1]
    assert result.indices.tolist() == [0, 1, 3, 4, 5] and result.failed == [Failure("b.jpg", "broken")]
    for row, number in zip(result.scores, result.indices.tolist()):
        (alone,) = score_videos(network, [videos[number]], device=ALONE.device, max_views=8, mean=MEAN, std=STD)
        torch.testing.assert_close(row, alone)


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_scores_average_all_views(average):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 4 * 4, 5))
    video = torch.randint(0, 256, (5, 2, 4, 4, 3), dtype=torch.uint8)
    logits = network(normalize_clips(video, MEAN, STD))
    expected = logits.softmax(1).mean(0) if average == "softmax" else logits.mean(0).softmax(0)
    tester = Tester(ALONE, mean=MEAN, std=STD, max_views=2, average=average)
    result = tester.score(network, [VideoViews(video, 0, 0, None)])
    torch.testing.assert_close(result.scores[0], expected.detach())


def test_two_processes_give_metrics_of_one(small_run, video_folder, tmp_path):
    assert call(small_run("train", "TEST.ENABLE", "False")) == 0
    videos = sorted((video_folder / "val").rglob("*.mp4"))[:-1]  # seven: one process has one more than the other
    (tmp_path / "test.csv").write_text("".join(f"{path} {int(path.parent.name == 'right')}\n" for path in videos))
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "train" / "checkpoints" / "last.pt")]
    test += ["DATA.TEST", str(tmp_path / "test.csv")]
    assert call(small_run("one", *test)) == 0
    code, _, err = finish(start(small_run("two", *test), processes=2))
    assert code == 0, err
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["num_videos"] == len(videos) == 7
    for name in ("metrics.json", "predictions.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_backend_changes_nothing_but_rounding(small_run, tmp_path, capsys):
    """In two processes, which convert at the same time."""
    pytest.importorskip("openvino")
    assert call(small_run("torch", "TRAIN.STEPS", "6", "TEST.BACKEND", "torch")) == 0
    assert "backend: torch\n" in capsys.readouterr().err
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "torch" / "checkpoints" / "last.pt")]
    code, _, err = finish(start(small_run("auto", *test, "TEST.NUM_CLIPS", "3"), processes=2))  # 72 clips
    assert code == 0 and "backend: openvino (converted now, once)\n" in err, err
    assert call(small_run("openvino", *test, "TEST.BACKEND", "openvino")) == 0
    expected, found = (_scores(tmp_path / name / "predictions.csv") for name in ("torch", "openvino"))
    assert len(found) == 16 and found == pytest.approx(expected, abs=1e-4)


def _scores(path: Path) -> dict[str, float]:
    """Return the probability of each class of each video."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {f"{row['path']} {row[f'prediction{k}']}": float(row[f"score{k}"]) for row in rows for k in (1, 2)}


def test_two_processes_test_the_saved_network(small_run, tmp_path):
    """Batch norm's statistics differ between the ranks after a step, until they are shared."""
    code, _, err = finish(start(small_run("trained", "SOLVER.BASE_LR", "2e-2"), processes=2))
    assert code == 0 and "Warning" not in err, err
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(tmp_path / "trained" / "checkpoints" / "last.pt")]
    assert call(small_run("alone", *test)) == 0
    trained, alone = ((tmp_path / name / "predictions.csv").read_text() for name in ("trained", "alone"))
    assert trained == alone


def test_scales_of_a_video_network(small_run, tmp_path):
    assert call(small_run("out", "TRAIN.STEPS", "1", "TEST.SCALES", "[32,64]", "TEST.NUM_CLIPS", "1")) == 0
    assert [row["size"] for row in metrics(tmp_path / "out")["scales"]] == [32, 64]


def test_evaluation_takes_a_subset(small_run, tmp_path):
    keys = ["TRAIN.EVAL_EVERY", "3", "TRAIN.EVAL_VIDEOS", "3", "TRAIN.EVAL_CLIPS", "2", "TRAIN.EVAL_CROPS", "3"]
    assert call(small_run("out", *_STOP, *keys)) == 0
    shares = [line["top1"] for line in log_lines(tmp_path / "out", "val")]
    assert len(shares) == 2 and all(min(abs(share - 100 * hits / 3) for hits in range(4)) < 1e-3 for share in shares)
    last = log_lines(tmp_path / "out", "train")[-1]
    assert last["peak_memory_mb"] > 50 and last["compute_time"] == pytest.approx(last["step_time"] - last["data_time"])
    assert last["wait_time"] == 0, "there is no other rank"


def test_validation_without_labels_is_refused(
    small_run: Callable[..., list[str]], video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = sorted((video_folder / "val").rglob("*.mp4"))
    (tmp_path / "val.csv").write_text("".join(f'"{video}"\n' for video in videos))
    assert call(small_run("out", *_STOP, "TRAIN.EVAL_EVERY", "1", "DATA.VAL", str(tmp_path / "val.csv"))) == 2
    assert "no video has a label: give it labels, or set TRAIN.EVAL_EVERY 0" in capsys.readouterr().err

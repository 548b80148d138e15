"""ImageNet's recipe on real pictures: frames of real clips as JPEG files in class folders, through tools/run_net.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from trainers import ALONE, MEAN, STD

from octvideo.cli import run
from octvideo.cli.run_net import main
from octvideo.data import Failure, VideoViews, open_video
from octvideo.engine.tester import Tester, score_videos

CLASSES = {"bend": "n00000001", "jack": "n00000002", "wave2": "n00000003"}
# The configuration of ResNet-50 on ImageNet, but for sizes.
SMALL = (
    "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 MODEL.NUM_CLASSES 3 DATA.TRAIN_CROP 32 DATA.TEST_CROP 32 "
    "DATA.TEST_SHORT_SIDE 36 DATA.RETRIES 0 DATA.MAX_FAILED 0.2 TRAIN.STEPS 6 TRAIN.BATCH_SIZE 6 TRAIN.PRECISION fp32 "
    "TRAIN.EVAL_EVERY 6 TRAIN.CHECKPOINT_EVERY 3 TRAIN.LOG_EVERY 3 TRAIN.LABEL_SMOOTHING 0.1 TRAIN.MIXUP 0.2 "
    "SOLVER.BASE_LR 0.02 SOLVER.BASE_BATCH_SIZE 0 SOLVER.WARMUP_STEPS 2 NUM_WORKERS 0 DEVICE cpu"
)


@pytest.fixture(scope="module")
def pictures(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` and ``val`` have other persons; one JPEG file of each is cut short."""
    folder = tmp_path_factory.mktemp("imagenet")
    for action, name in CLASSES.items():
        for number, path in enumerate(sorted((data / "weizmann" / action).glob("*.avi"))[:4]):
            split = folder / ("val" if number == 3 else "train") / name
            split.mkdir(parents=True, exist_ok=True)
            with open_video(str(path)) as video:
                for place, frame in enumerate(video.frames([4, 12, 20])):
                    Image.fromarray(frame).save(split / f"{path.stem}_{place}.JPEG")
    for split in ("train", "val"):
        whole = sorted((folder / split / CLASSES["wave2"]).iterdir())[0]
        whole.write_bytes(whole.read_bytes()[:2000])
        whole.rename(whole.with_name("cut.JPEG"))
    return folder


@pytest.fixture
def arguments(pictures: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def make(output: str, *overrides: str) -> list[str]:
        paths = ["DATA.TRAIN", str(pictures / "train"), "DATA.VAL", str(pictures / "val")]
        cfg = ["--cfg", "oct_resnet50_in1k.yaml", *SMALL.split()]
        return [*cfg, *paths, "OUTPUT_DIR", str(tmp_path / output), *overrides]

    return make


def call(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    return run(main, arguments)


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_training_testing_at_three_scales_and_going_on(arguments, tmp_path, capsys):
    assert call(arguments("whole", "TEST.SCALES", "[64,32,48]")) == 0
    whole, said = metrics(tmp_path / "whole"), capsys.readouterr().err
    assert whole["num_videos"] == 9 and whole["num_failed"] == 1 and set(whole["per_class"]) == set(CLASSES.values())
    assert [(Path(row["path"]).name, "truncated" in row["reason"]) for row in whole["failed"]] == [("cut.JPEG", True)]
    assert "cut.JPEG: cannot be read" in said and "another video takes its place" in said
    assert [(row["size"], row["num_videos"], row["num_failed"]) for row in whole["scales"]] == [
        (64, 9, 1), (32, 9, 1), (48, 9, 1)
    ]  # fmt: skip
    assert all(0 <= row["top1"] <= row["top5"] == 100 for row in whole["scales"])
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["size"] for line in lines if line["kind"] == "scale"] == [64, 32, 48]
    assert all(f"size {size:4d}: top-1 " in said for size in (64, 32, 48))

    # A size is what a test with that short side and that crop gives.
    weights = tmp_path / "whole" / "checkpoints" / "last.pt"
    alone = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(weights)]
    assert call(arguments("alone", *alone, "DATA.TEST_SHORT_SIDE", "48", "DATA.TEST_CROP", "48")) == 0
    single = metrics(tmp_path / "alone")
    assert "scales" not in single
    assert {key: single[key] for key in ("top1", "top5")} == {key: whole["scales"][2][key] for key in ("top1", "top5")}

    # From its third step the run goes on to the same weights.
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    shutil.copy(weights.with_name("step_00000003.pt"), tmp_path / "half" / "checkpoints")
    assert call(arguments("half", "TEST.ENABLE", "False")) == 0
    assert "resuming at step 3" in capsys.readouterr().err
    a, b = (torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("whole", "half"))
    assert a["classes"] == sorted(CLASSES.values())
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])


def test_video_networks_are_tested_at_scales_too(small_run, tmp_path):
    assert call(small_run("out", "TRAIN.STEPS", "1", "TEST.SCALES", "[32,64]", "TEST.NUM_CLIPS", "1")) == 0
    assert [row["size"] for row in metrics(tmp_path / "out")["scales"]] == [32, 64]


def test_videos_of_few_views_are_scored_together():
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

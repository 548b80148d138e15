"""ImageNet's recipe on real pictures: frames of real clips as JPEG files in class folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import call, metrics

from octvideo.data import open_video

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


def test_train_test_scales_and_resume(arguments, tmp_path, capsys):
    assert call(arguments("whole", "TEST.SCALES", "[64,32,48]")) == 0
    whole, printed = metrics(tmp_path / "whole"), capsys.readouterr().err
    assert whole["num_videos"] == 9 and whole["num_failed"] == 1 and set(whole["per_class"]) == set(CLASSES.values())
    assert [(Path(row["path"]).name, "truncated" in row["reason"]) for row in whole["failed"]] == [("cut.JPEG", True)]
    assert "cut.JPEG: cannot be read" in printed and "another video takes its place" in printed
    assert [(row["size"], row["num_videos"], row["num_failed"]) for row in whole["scales"]] == [
        (64, 9, 1), (32, 9, 1), (48, 9, 1)
    ]  # fmt: skip
    assert all(0 <= row["top1"] <= row["top5"] == 100 for row in whole["scales"])
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["size"] for line in lines if line["kind"] == "scale"] == [64, 32, 48]
    assert all(f"size {size:4d}: top-1 " in printed for size in (64, 32, 48))

    # A size is what a test with that short side and that crop gives.
    weights = tmp_path / "whole" / "checkpoints" / "last.pt"
    alone = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(weights)]
    assert call(arguments("alone", *alone, "DATA.TEST_SHORT_SIDE", "48", "DATA.TEST_CROP", "48")) == 0
    single = metrics(tmp_path / "alone")
    assert "scales" not in single
    assert {key: single[key] for key in ("top1", "top5")} == {key: whole["scales"][2][key] for key in ("top1", "top5")}

    # Resumed from its third step, the run has the same weights.
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    shutil.copy(weights.with_name("step_00000003.pt"), tmp_path / "half" / "checkpoints")
    assert call(arguments("half", "TEST.ENABLE", "False")) == 0
    assert "resuming at step 3" in capsys.readouterr().err
    a, b = (torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("whole", "half"))
    assert a["classes"] == sorted(CLASSES.values())
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])

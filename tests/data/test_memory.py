"""Memory of decoding: frames are held at full size a few at a time, which changes no pixel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import HELPERS, environment

from octvideo.config import load_cfg
from octvideo.data import build_test_loader, build_train_loader
from octvideo.data.decoders import decode
from octvideo.inference import Predictor


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_large_frames_are_not_held(
    make_video: Callable[..., Path], checkpoint: Path, tmp_path: Path, suffix: str
) -> None:
    pytest.importorskip("resource")
    size = 100, 1080, 1920, 3
    small = make_video(tmp_path / f"small{suffix}", np.zeros((30, 64, 80, 3), np.uint8))
    large = make_video(tmp_path / f"large{suffix}", np.broadcast_to(np.uint8(90), size), gop=50)
    done = subprocess.run(
        [sys.executable, str(HELPERS / "peak_memory.py"), str(small), str(large), str(checkpoint)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    growth = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert list(growth) == ["test", "train", "predict"]
    assert sum(growth.values()) < np.prod(size) / 3, growth  # one decoding held at full size is three times as much


@pytest.mark.parametrize("name", ["mmaction2_part_0.mp4", "decord_flipping_a_pancake.mkv", "paddlevideo_archery.avi"])
def test_parts_give_the_pixels_of_the_whole(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    video = data / "clips" / "actions" / name
    (tmp_path / "list.txt").write_text(f"{video} 0\n")
    sizes = "DATA.TRAIN_CROP 112 DATA.TRAIN_SHORT_SIDE [128,160] DATA.TEST_CROP 112 DATA.TEST_SHORT_SIDE 128"
    rest = "DATA.NUM_FRAMES 8 DATA.SAMPLING_RATE 3 DATA.COLOR_JITTER 0.4 TRAIN.BATCH_SIZE 1 TRAIN.MIXUP 0"
    views = "MODEL.NUM_CLASSES 2 TEST.NUM_CLIPS 3 NUM_WORKERS 0 DATA.ITEM_TIMEOUT 0"
    paths = ["DATA.TRAIN", str(tmp_path / "list.txt"), "DATA.VAL", str(tmp_path / "list.txt")]
    predictor = Predictor(checkpoint, backend="torch", device="cpu")

    def read(chunk: int) -> list[torch.Tensor]:
        monkeypatch.setattr(decode, "_CHUNK", chunk)
        found = [predictor.read(video), torch.tensor([score for _, score in predictor.predict(video)])]
        for resized in ("[]", "[0.3,1.0,0.75,1.33]"):
            cfg = load_cfg(None, [*f"{sizes} {rest} {views} DATA.RANDOM_RESIZED_CROP {resized}".split(), *paths])
            batches = iter(build_train_loader(cfg))
            found += [next(batches).frames for _ in range(3)]
        (item,) = build_test_loader(cfg)
        assert item.frames is not None
        return [*found, item.frames]

    for whole, *parts in zip(read(1 << 30), read(1), read(1 << 20), strict=True):
        assert all(torch.equal(whole, part) for part in parts)

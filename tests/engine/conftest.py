"""A very small run on encoded videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

_SMALL = """
MODEL:
  ARCH: i3d
  BLOCKS: [1, 1, 1, 1]
  WIDTH: 8
  NUM_CLASSES: 2
  STEM_KERNEL: [1, 5, 5]
  CONV_AS_2D: True
OCTAVE:
  ALPHA: 0.25
DATA:
  NUM_FRAMES: 4
  SAMPLING_RATE: 2
  TRAIN_CROP: 32
  TRAIN_SHORT_SIDE: [32, 40]
  TEST_CROP: 32
  TEST_SHORT_SIDE: 40
  COLOR_JITTER: 0.2
TRAIN:
  STEPS: 12
  BATCH_SIZE: 4
  CHECKPOINT_EVERY: 3
  EVAL_EVERY: 0
  LOG_EVERY: 3
SOLVER:
  OPTIMIZER: adamw
  BASE_LR: 2.0e-3
  BASE_BATCH_SIZE: 0
TEST:
  NUM_CLIPS: 2
  NUM_CROPS: 3
NUM_WORKERS: 0
DEVICE: cpu
"""


@pytest.fixture
def small_run(video_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function from a folder name below tmp_path and overrides to arguments of ``run_net``."""
    cfg = tmp_path / "small.yaml"
    cfg.write_text(_SMALL)

    def arguments(output: str, *overrides: str) -> list[str]:
        paths = ["DATA.TRAIN", str(video_folder / "train"), "DATA.VAL", str(video_folder / "val")]
        return ["--cfg", str(cfg), *paths, "OUTPUT_DIR", str(tmp_path / output), *overrides]

    return arguments

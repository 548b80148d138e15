"""Read a video as testing, training and prediction do: ``peak_memory.py SMALL LARGE CHECKPOINT``.

Prints by how many bytes the peak of resident memory grows with each for LARGE, after all were done with SMALL.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from octvideo.config import load_cfg
from octvideo.data import build_test_loader, build_train_loader
from octvideo.inference import Predictor

torch.set_num_threads(1)
small, large, checkpoint = sys.argv[1:]
predictor = Predictor(checkpoint, backend="torch", device="cpu", views=20)
sizes = "DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,32] DATA.TEST_CROP 32 DATA.TEST_SHORT_SIDE 32"
rest = "DATA.NUM_FRAMES 30 DATA.SAMPLING_RATE 2 TRAIN.BATCH_SIZE 1 TRAIN.MIXUP 0 MODEL.NUM_CLASSES 2 TEST.NUM_CLIPS 10"
here = "NUM_WORKERS 0 DATA.ITEM_TIMEOUT 0"


def cfg_of(video: str):
    source = Path(video).with_suffix(".txt")
    source.write_text(f"{video} 0\n")
    return load_cfg(None, [*f"{sizes} {rest} {here}".split(), "DATA.TRAIN", str(source), "DATA.VAL", str(source)])


def test(video: str) -> None:
    assert [item.failed for item in build_test_loader(cfg_of(video))] == [None]


def train(video: str) -> None:
    assert next(iter(build_train_loader(cfg_of(video)))).failed == []


def predict(video: str) -> None:
    predictor.predict(video)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


ways: tuple[Callable[[str], None], ...] = (test, train, predict)
for way in ways:
    way(small)
for way in ways:
    before = peak()
    way(large)
    print(way.__name__, peak() - before, flush=True)

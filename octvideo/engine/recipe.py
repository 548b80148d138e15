"""Choose the settings of a training from the videos, the machine and the time."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import ConstantParamScheduler

from octvideo.config import with_keys
from octvideo.data import VideoIndex, build_train_loader
from octvideo.data.checking.video import Checked
from octvideo.device import resolve_device
from octvideo.engine.distributed import World
from octvideo.engine.experiment import build_network
from octvideo.engine.optim import build_optimizer
from octvideo.engine.preparation import ClipPreparation
from octvideo.engine.trainer import StepStats, Trainer, TrainSettings

__all__ = ["VideoFacts", "choose_settings", "choose_steps", "facts_of", "seconds_per_step"]

_CONFIG_FPS = 30.0  # the strides of the configurations are for this rate
_SMALL_WIDTH = 16  # MODEL.WIDTH of the network whose rate was tuned: 2e-3 with AdamW (configs/small.yaml)
_SMALL_RATE = 2e-3
_EVALUATIONS = 12
_LEAST_BETWEEN = 25  # steps between two evaluations
_PATIENCE = 5
_LEAST_STEPS = {True: 400, False: 900}  # by whether there are weights to start from
_EPOCHS = {True: 15, False: 30}
_SIDES = re.compile(r"(^|[^a-z])(left|right|links|rechts|gauche|droite)([^a-z]|$)", re.IGNORECASE)


class VideoFacts(NamedTuple):
    """What a recipe needs to know of the videos: medians."""

    frames: float
    fps: float
    short_side: float


def facts_of(checked: Sequence[Checked]) -> VideoFacts:
    """Return the facts of videos that decode completely."""
    return VideoFacts(
        median(video.frames for video in checked),
        median(video.fps or _CONFIG_FPS for video in checked),
        median(min(video.width, video.height) for video in checked),
    )


def choose_settings(
    cfg: CfgNode, facts: VideoFacts, num_train: int, classes: Sequence[str], *, cores: int, pretrained: bool
) -> dict[str, Any]:
    """Return keys and values for a network on some videos; steps are chosen by ``choose_steps``.

    - The stride is the configuration's, scaled to the frame rate, and smaller where the videos are shorter.
    - Clips are at most as large as the configuration's, in steps of 32 pixels, and not larger than the videos.
    - AdamW, with a learning rate inversely proportional to the width, and a quarter of it with weights to start from.
    - No flips where a class name has left or right in it.

    Args:
        cfg: of the network.
        facts: of all videos.
        num_train: number of clips to train on.
        classes: their names.
        cores: of the machine.
        pretrained: whether training starts from weights.
    """
    data = cfg.DATA
    stride = math.ceil(data.SAMPLING_RATE * facts.fps / _CONFIG_FPS)
    longest = int((facts.frames - 1) // max(1, data.NUM_FRAMES - 1))
    crop = min(data.TRAIN_CROP, max(64, int(facts.short_side) // 32 * 32))
    scale = crop / data.TRAIN_CROP
    test_crop = round(data.TEST_CROP * scale)
    batch = min(cfg.TRAIN.BATCH_SIZE, 16, num_train)
    device = resolve_device(cfg.DEVICE).type
    workers = max(1, min(8, cores // 2))
    rate = _SMALL_RATE * _SMALL_WIDTH / cfg.MODEL.WIDTH * (0.25 if pretrained else 1.0)
    return {
        "DATA.SAMPLING_RATE": max(1, min(stride, longest)),
        "DATA.TRAIN_CROP": crop,
        "DATA.TRAIN_SHORT_SIDE": [max(crop, round(side * scale)) for side in data.TRAIN_SHORT_SIDE],
        "DATA.TEST_CROP": test_crop,
        "DATA.TEST_SHORT_SIDE": max(test_crop, round(data.TEST_SHORT_SIDE * scale)),
        "DATA.COLOR_JITTER": data.COLOR_JITTER or 0.4,
        "DATA.FLIP": 0.0 if any(map(_SIDES.search, classes)) else data.FLIP,
        "MODEL.CONV_AS_2D": device == "cpu",
        "TRAIN.BATCH_SIZE": batch,
        "TRAIN.PRECISION": "bf16" if device == "cuda" else "fp32",
        "TRAIN.LABEL_SMOOTHING": 0.1,
        "TRAIN.EVAL_VIDEOS": 0,
        "TRAIN.EVAL_CLIPS": 3,
        "TRAIN.PATIENCE": _PATIENCE,
        "SOLVER.OPTIMIZER": "adamw",
        "SOLVER.BASE_LR": float(f"{rate * batch / 16:.2g}"),
        "SOLVER.BASE_BATCH_SIZE": 0,
        "SOLVER.WEIGHT_DECAY": 0.05,
        "SOLVER.SCHEDULE": "cosine",
        "TEST.WEIGHTS": "best",
        "TEST.NUM_CLIPS": 10,
        "TEST.NUM_CROPS": 1,
        "NUM_WORKERS": workers,
        "NUM_THREADS": 0 if device != "cpu" else max(1, cores - workers),
    }


def choose_steps(
    num_train: int,
    batch: int,
    *,
    pretrained: bool,
    steps: int = 0,
    epochs: float = 0.0,
    seconds: float = 0.0,
    pace: float = 0.0,
) -> dict[str, Any]:
    """Return the keys that depend on the number of steps.

    Args:
        num_train: number of clips to train on.
        batch: clips per step.
        pretrained: whether training starts from weights.
        steps: their number; 0 to choose it.
        epochs: passes over the clips; 0 for as many as such data usually needs.
        seconds: time for all steps; 0 for no limit.
        pace: seconds per step, for ``seconds``.
    """
    wanted = max(_LEAST_STEPS[pretrained], round(_EPOCHS[pretrained] * num_train / batch))
    if epochs:
        steps = max(1, round(epochs * num_train / batch))
    elif seconds:
        steps = max(1, min(int(seconds / pace), 2 * wanted))
    steps = steps or wanted
    every = min(steps, max(_LEAST_BETWEEN, -(-steps // _EVALUATIONS)))
    return {
        "TRAIN.STEPS": steps,
        "TRAIN.EPOCHS": 0.0,
        "TRAIN.EVAL_EVERY": every,
        "TRAIN.CHECKPOINT_EVERY": every,
        "TRAIN.LOG_EVERY": max(1, min(10, steps // 20)),
        "SOLVER.WARMUP_STEPS": steps // 15,
    }


def seconds_per_step(cfg: CfgNode, index: VideoIndex, steps: int = 10) -> float:
    """Time optimizer steps on the training videos, and return the mean seconds of the later half."""
    if cfg.NUM_THREADS:
        torch.set_num_threads(cfg.NUM_THREADS)
    world = World(0, 1, resolve_device(cfg.DEVICE))
    model = build_network(with_keys(cfg, {"MODEL.NUM_CLASSES": len(index.classes)}), world)
    ends: list[float] = []

    def note(_: Trainer, __: StepStats) -> None:
        ends.append(time.perf_counter())

    trainer = Trainer(
        model,
        build_optimizer(cfg, model),
        ConstantParamScheduler(1e-6),
        ClipPreparation(cfg.DATA.MEAN, cfg.DATA.STD),
        TrainSettings(steps, precision=cfg.TRAIN.PRECISION, label_smoothing=cfg.TRAIN.LABEL_SMOOTHING),
        world=world,
        hooks=[note],
    )
    trainer.train(iter(build_train_loader(cfg, index=index)))
    half = len(ends) // 2
    return (ends[-1] - ends[half - 1]) / (len(ends) - half)

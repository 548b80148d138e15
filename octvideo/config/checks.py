"""Check a configuration: the bounds of each key, and keys that must fit together."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.config.defaults import KEYS
from octvideo.errors import UserError

__all__ = ["check_cfg"]


def check_cfg(cfg: CfgNode) -> None:
    """Check every value.

    Raises:
        UserError: an invalid value; the message has the key, the value and what it must be.
    """
    if not cfg.OUTPUT_DIR:
        raise UserError("OUTPUT_DIR is empty; give a folder for the files of a run")
    if any("\ud800" <= letter <= "\udfff" for letter in cfg.OUTPUT_DIR):
        raise UserError(f"OUTPUT_DIR is {cfg.OUTPUT_DIR!r}: TensorBoard cannot write there; give a name in UTF-8")
    for name, key in KEYS.items():
        value = _get(cfg, name)
        if requirement := key.requirement(value):
            raise UserError(f"{name} is {value!r}: it must be {requirement} ({key.comment})")
    _check_model(cfg.MODEL)
    _check_sizes(cfg.DATA)
    _check_augmentation(cfg.DATA, cfg.TRAIN)
    milestones = cfg.SOLVER.MILESTONES
    if any(first >= second for first, second in pairwise(milestones)):
        raise UserError(f"SOLVER.MILESTONES is {milestones}: each must be larger than the one before")


def _get(cfg: CfgNode, name: str) -> Any:
    for part in name.split("."):
        cfg = cfg[part]
    return cfg


def _check_model(model: CfgNode) -> None:
    if any(index >= blocks for stage, blocks in zip(model.NONLOCAL, model.BLOCKS) for index in stage):
        raise UserError(
            f"MODEL.NONLOCAL is {model.NONLOCAL}: the indices of a stage count from 0 and must be below its number of "
            f"MODEL.BLOCKS ({model.BLOCKS})"
        )


def _check_sizes(data: CfgNode) -> None:
    low, high = data.TRAIN_SHORT_SIDE
    if not data.TRAIN_CROP <= low <= high:
        raise UserError(
            f"DATA.TRAIN_SHORT_SIDE is [{low}, {high}]: it must be a range that starts at DATA.TRAIN_CROP "
            f"({data.TRAIN_CROP}) or above"
        )
    if data.TEST_CROP > data.TEST_SHORT_SIDE:
        raise UserError(
            f"DATA.TEST_CROP is {data.TEST_CROP}: it must not exceed DATA.TEST_SHORT_SIDE ({data.TEST_SHORT_SIDE})"
        )


def _check_augmentation(data: CfgNode, train: CfgNode) -> None:
    crop = data.RANDOM_RESIZED_CROP
    numbers = all(type(value) in (int, float) for value in crop)
    if crop and not (numbers and len(crop) == 4 and 0 < crop[0] <= crop[1] <= 1 and 0 < crop[2] <= crop[3] < math.inf):
        raise UserError(
            f"DATA.RANDOM_RESIZED_CROP is {crop}: it must be [] or four numbers, a range of areas within 0 and 1 and a "
            "range of width / height, such as [0.08, 1.0, 0.75, 1.3333]"
        )
    rand = data.RANDAUGMENT
    if not (len(rand) == 2 and all(type(value) is int for value in rand) and rand[0] >= 0 and 0 <= rand[1] <= 30):
        raise UserError(
            f"DATA.RANDAUGMENT is {rand}: it must be two whole numbers, operations and magnitude (0 to 30), such as "
            "[2, 9]"
        )
    for key in ("MIXUP", "CUTMIX"):
        if 0 < train[key] < 1e-6:
            raise UserError(f"TRAIN.{key} is {train[key]}: it must be 0 or at least 1e-6")
    if train.BATCH_SIZE % data.REPEATS:
        raise UserError(
            f"TRAIN.BATCH_SIZE is {train.BATCH_SIZE}: it must be divisible by DATA.REPEATS ({data.REPEATS})"
        )

"""Show what a network gets of a video: clips of training, augmented, and the views of testing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from octvideo.analysis.pictures.sheet import Box, Cell, Strip, some
from octvideo.config import with_keys
from octvideo.data.augment import build_augmentation
from octvideo.data.dataset import TestDataset, TrainDataset
from octvideo.data.decoders.decode import open_video
from octvideo.data.loaders import build_test_loader, build_train_loader
from octvideo.data.transforms import crop_places, normalize_clips, resize_short_side
from octvideo.data.video_index import VideoIndex
from octvideo.errors import UserError

__all__ = ["clip_sheet", "read_views"]

_DRAWS = 4  # training clips
_CLIPS = 4  # test clips
_FRAMES = 8  # of a clip


class Facts(NamedTuple):
    """Frames, frames per second and times of a video, when each frame begins, and one frame: uint8 ``(H, W, 3)``."""

    frames: int
    fps: float
    times: np.ndarray | None
    seconds: np.ndarray
    shown: np.ndarray


def read_views(path: Path, cfg: CfgNode) -> tuple[TestDataset, Tensor]:
    """Return the data set of one video, and all its test views: uint8 ``(clips * crops, T, H, W, 3)``.

    Raises:
        UserError: the video cannot be decoded.
    """
    loader = build_test_loader(_direct(cfg), index=VideoIndex([str(path)], [-1]))
    dataset: TestDataset = loader.dataset.dataset  # type: ignore[attr-defined]  # of the subset
    item = dataset[0]
    if item.frames is None:
        assert item.failed is not None
        raise UserError(f"{item.failed.path}: cannot be decoded ({item.failed.reason})")
    return dataset, item.frames


def clip_sheet(path: Path, cfg: CfgNode, name: str) -> tuple[str, list[Strip]]:
    """Return a title, and strips of a video: random clips as training augments them, the test crops, the test clips.

    Mixup and cutmix are not shown: they need a second video.

    Args:
        path: of the video.
        cfg: has the keys of sampling, cropping and augmentation.
        name: of the video in the title.

    Raises:
        UserError: the video cannot be decoded.
    """
    dataset, views = read_views(path, cfg)
    with open_video(str(path), cfg.DATA.DECODER, fps=cfg.DATA.FPS) as video:
        frames, fps = len(video), video.fps
        middle = dataset.frame_numbers(frames, fps, video.times)[dataset.num_clips // 2, 0]
        facts = Facts(frames, fps, video.times, video.seconds(range(frames)), video.frames([middle])[0])
    height, width, _ = facts.shown.shape
    title = f"{name}: {frames} frames of {height} x {width}, {fps:.2f} per second, {frames / fps:.2f} s"
    return title, [*_training(path, cfg, facts), *_testing(dataset, views, facts)]


def _training(path: Path, cfg: CfgNode, facts: Facts) -> list[Strip]:
    loader = build_train_loader(_direct(cfg), index=VideoIndex([str(path)], [0]))
    dataset: TrainDataset = loader.dataset  # type: ignore[assignment]
    augmentation = build_augmentation(cfg)
    strips = []
    for draw in range(_DRAWS):
        sample = dataset[0, draw]
        if sample.failed:
            raise UserError(f"{path}: cannot be decoded ({sample.failed[0].reason})")
        seeds = torch.tensor([sample.seed])
        clips = normalize_clips(augmentation.frames(sample.frames[None], seeds), cfg.DATA.MEAN, cfg.DATA.STD)
        frames = _pixels(augmentation.clips(clips, seeds), cfg)[0]
        numbers = dataset.frame_numbers((0, draw), facts.frames, facts.fps, facts.times)
        heading = f"training, draw {draw + 1}: {_size(frames)}"
        strips.append(Strip(heading, _timed(frames, facts.seconds[numbers])))
    return strips


def _testing(dataset: TestDataset, frames: Tensor, facts: Facts) -> list[Strip]:
    views = frames.unflatten(0, (dataset.num_clips, dataset.num_crops))
    numbers = dataset.frame_numbers(facts.frames, facts.fps, facts.times)
    whole = resize_short_side(torch.from_numpy(facts.shown)[None], dataset.short_side)[0].numpy()
    height, width, _ = whole.shape
    places = crop_places(height, width, dataset.crop, dataset.num_crops)
    boxes = [Box(top, left, dataset.crop, dataset.crop) for top, left in places]
    middle = dataset.num_clips // 2
    crops = [
        Cell(views[middle, crop, 0].numpy(), f"crop {crop + 1}, {_time(facts.seconds[numbers[middle, 0]])}")
        for crop in range(dataset.num_crops)
    ]
    heading = f"testing, {dataset.num_crops} crop{'s' * (dataset.num_crops > 1)} of {dataset.crop} x {dataset.crop}"
    resized = Cell(whole, f"resized to {height} x {width}", boxes)
    strips = [Strip(heading, [resized, *crops])]
    for clip in some(dataset.num_clips, _CLIPS):
        shown = views[clip, dataset.num_crops // 2]
        heading = f"testing, clip {clip + 1} of {dataset.num_clips}: {_size(shown)}"
        strips.append(Strip(heading, _timed(shown, facts.seconds[numbers[clip]])))
    return strips


def _direct(cfg: CfgNode) -> CfgNode:
    """Return the configuration for reading one video in this process."""
    return with_keys(cfg, {"NUM_WORKERS": 0, "DATA.ITEM_TIMEOUT": 0.0, "DATA.RETRIES": 0})


def _pixels(clips: Tensor, cfg: CfgNode) -> Tensor:
    """Undo ``normalize_clips``: float ``(N, 3, T, H, W)`` to uint8 ``(N, T, H, W, 3)``."""
    channels = clips.permute(0, 2, 3, 4, 1) * torch.tensor(cfg.DATA.STD) + torch.tensor(cfg.DATA.MEAN)
    return (255 * channels).round().clamp(0, 255).to(torch.uint8)


def _timed(frames: Tensor, seconds: np.ndarray) -> list[Cell]:
    """Return the frames of a clip with their times, at most ``_FRAMES`` of them."""
    return [Cell(frames[place].numpy(), _time(seconds[place])) for place in some(len(frames), _FRAMES)]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _size(frames: Tensor) -> str:
    count, height, width, _ = frames.shape
    shown = f", {_FRAMES} shown" if count > _FRAMES else ""
    return f"{count} frames of {height} x {width}{shown}"

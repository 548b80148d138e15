"""Samples: one random clip of a video for training, all views of a video for testing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from octvideo.data.decode import DecodeError, open_video
from octvideo.data.index import VideoIndex
from octvideo.data.sampling import random_clip, uniform_clips
from octvideo.data.transforms import color_jitter, random_crop, resize_short_side, spatial_crops
from octvideo.errors import UserError

__all__ = ["Batch", "Failure", "Sample", "TestDataset", "TrainDataset", "VideoViews", "collate"]


class Failure(NamedTuple):
    """A video that could not be read, and why."""

    path: str
    reason: str


class Sample(NamedTuple):
    """One training clip: frames ``(T, H, W, 3)`` uint8."""

    frames: Tensor
    label: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    failed: list[Failure]


class Batch(NamedTuple):
    """Training clips: frames ``(N, T, H, W, 3)`` uint8, labels and video numbers ``(N,)``, and what was replaced."""

    frames: Tensor
    labels: Tensor
    indices: Tensor
    failed: list[Failure]


class VideoViews(NamedTuple):
    """All views of one video, clip-major: frames ``(clips * crops, T, H, W, 3)`` uint8, or None where it failed."""

    frames: Tensor | None
    label: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    failed: Failure | None


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples."""
    return Batch(
        torch.stack([sample.frames for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        torch.tensor([sample.index for sample in samples]),
        [failure for sample in samples for failure in sample.failed],
    )


class TrainDataset(Dataset[Sample]):
    """Random clips. An item is asked for by ``(index, draw)``; both and the seed decide its random numbers.

    A video that cannot be read is tried ``retries`` more times, then another one takes its place and the failure is
    reported.

    Args:
        index: the videos; every one needs a label.
        num_frames, sampling_rate: of a clip.
        crop, short_side: pixels, see ``random_crop``.
        flip: probability.
        color: strength of ``color_jitter``.
        decoder: see ``open_video``.
        retries: further attempts.
        seed: of all random numbers.
    """

    def __init__(
        self,
        index: VideoIndex,
        *,
        num_frames: int,
        sampling_rate: int,
        crop: int,
        short_side: Sequence[int],
        flip: float,
        color: float,
        decoder: str = "auto",
        retries: int = 2,
        seed: int = 0,
    ) -> None:
        self.index = index
        self.num_frames, self.sampling_rate = num_frames, sampling_rate
        self.crop, self.short_side = crop, tuple(short_side)
        self.flip, self.color = flip, color
        self.decoder, self.retries, self.seed = decoder, retries, seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        number, draw = key
        rng = np.random.default_rng((self.seed, draw, number))
        failed: list[Failure] = []
        for _ in range(_REPLACEMENTS):
            try:
                frames = self._read(number, draw)
            except DecodeError as error:
                failed.append(Failure(error.path, error.reason))
                number = int(rng.integers(0, len(self.index)))
                continue
            frames = random_crop(frames, self.crop, self.short_side, self.flip, rng)
            return Sample(color_jitter(frames, self.color, rng), self.index.label(number), number, failed)
        raise UserError(
            f"{failed[-1].path}: {failed[-1].reason}; {_REPLACEMENTS} drawn videos in a row cannot be read: check the "
            "data"
        )

    def _read(self, number: int, draw: int) -> Tensor:
        path = self.index.path(number)
        for attempt in range(self.retries + 1):
            rng = np.random.default_rng((self.seed, draw, number, 1))  # the same clip in each attempt
            try:
                with open_video(path, self.decoder) as video:
                    indices = random_clip(len(video), self.num_frames, self.sampling_rate, rng)
                    return torch.from_numpy(video.frames(indices))
            except DecodeError:
                if attempt == self.retries:
                    raise
        raise AssertionError("unreachable")


_REPLACEMENTS = 20  # that many broken videos in a row are a broken data set


class TestDataset(Dataset[VideoViews]):
    """All views of each video, which is opened and decoded once.

    Args:
        index: the videos.
        num_frames, sampling_rate: of a clip.
        crop, short_side: pixels.
        num_clips, num_crops: views are their product.
        decoder, retries: as in training.
    """

    __test__ = False  # not a test, whatever pytest thinks

    def __init__(
        self,
        index: VideoIndex,
        *,
        num_frames: int,
        sampling_rate: int,
        crop: int,
        short_side: int,
        num_clips: int,
        num_crops: int,
        decoder: str = "auto",
        retries: int = 2,
    ) -> None:
        self.index = index
        self.num_frames, self.sampling_rate = num_frames, sampling_rate
        self.crop, self.short_side = crop, short_side
        self.num_clips, self.num_crops = num_clips, num_crops
        self.decoder, self.retries = decoder, retries

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> VideoViews:
        path, label = self.index.path(number), self.index.label(number)
        for _ in range(self.retries + 1):
            try:
                return VideoViews(self._views(path), label, number, None)
            except DecodeError as error:
                failure = Failure(error.path, error.reason)
        return VideoViews(None, label, number, failure)

    def _views(self, path: str) -> Tensor:
        with open_video(path, self.decoder) as video:
            indices = uniform_clips(len(video), self.num_frames, self.sampling_rate, self.num_clips)
            unique, inverse = np.unique(indices, return_inverse=True)
            frames = resize_short_side(torch.from_numpy(video.frames(unique)), self.short_side)
        crops = spatial_crops(frames, self.crop, self.num_crops)
        clips = torch.from_numpy(inverse.reshape(indices.shape))
        views = torch.empty((len(clips) * len(crops), clips.shape[1], *crops[0].shape[1:]), dtype=frames.dtype)
        for view, (clip, crop) in zip(views, product(clips, crops)):
            torch.index_select(crop, 0, clip, out=view)  # stacking copies would copy it all twice
        return views

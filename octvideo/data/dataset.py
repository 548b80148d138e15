"""Read samples: a random clip of a video for training, all views of a video for testing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from octvideo.data.decoders.decode import DecodeError, open_video
from octvideo.data.sampling import random_clip, uniform_clips
from octvideo.data.seeds import seed_of
from octvideo.data.transforms import (
    color_jitter,
    random_crop,
    random_resized_crop,
    resize_short_side,
    spatial_crops,
)
from octvideo.data.video_index import VideoIndex
from octvideo.workers import WorkerFailed, in_worker

__all__ = [
    "MAX_CONSECUTIVE_FAILURES",
    "UNREADABLE",
    "Batch",
    "Failure",
    "Sample",
    "TestDataset",
    "TrainDataset",
    "VideoViews",
    "collate",
]

UNREADABLE = -2  # label of a clip for which no video could be read; -1 is a video without label
MAX_CONSECUTIVE_FAILURES = 20  # this many unreadable videos in a row mean a broken data set


class Failure(NamedTuple):
    """A video that could not be read, and the reason."""

    path: str
    reason: str


class Sample(NamedTuple):
    """One training clip: frames ``(T, H, W, 3)`` uint8; ``seed`` is for random numbers drawn on the device."""

    frames: Tensor
    label: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    failed: list[Failure]
    seed: int


class Batch(NamedTuple):
    """Training clips: frames ``(N, T, H, W, 3)`` uint8; labels, video numbers and seeds ``(N,)``; replaced videos."""

    frames: Tensor
    labels: Tensor
    indices: Tensor
    failed: list[Failure]
    seeds: Tensor


class VideoViews(NamedTuple):
    """All views of one video, clip-major: frames ``(clips * crops, T, H, W, 3)`` uint8; None if it failed."""

    frames: Tensor | None
    label: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    failed: Failure | None


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples to a batch."""
    return Batch(
        torch.stack([sample.frames for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        torch.tensor([sample.index for sample in samples]),
        [failure for sample in samples for failure in sample.failed],
        torch.tensor([sample.seed for sample in samples]),
    )


T = TypeVar("T")


def _attempt(read: Callable[..., T], retries: int, path: str, *args: object) -> T:
    """Call ``read(path, *args)``, up to ``retries`` more times if the video cannot be read.

    Raises:
        DecodeError: the last attempt failed.
    """
    for _ in range(retries + 1):
        try:
            return read(path, *args)
        except DecodeError as error:
            failure = error
        except WorkerFailed as error:
            failure = DecodeError(path, str(error))
    raise failure


class TrainDataset(Dataset[Sample]):
    """Read random clips. The key ``(index, draw)`` of an item and the seed decide its random numbers.

    A video that cannot be read is tried ``retries`` more times, then replaced by another one and reported. After
    ``MAX_CONSECUTIVE_FAILURES`` of them the clip is black and its label ``UNREADABLE``, so that all ranks can stop.

    Args:
        index: the videos; label -1 where only a teacher is learned from.
        num_frames, sampling_rate: length and temporal stride of a clip.
        crop, short_side: pixels; see ``random_crop``.
        resized: area and aspect ranges of ``random_resized_crop``, four numbers; empty for ``random_crop``.
        flip: probability.
        color: strength of ``color_jitter``.
        sampling: the rule for the clip's frames; see ``octvideo.data.sampling``.
        decoder, fps: see ``open_video``.
        retries: further attempts.
        item_timeout: seconds that an attempt may take in a worker process; 0 reads in this process.
        seed: decides all random numbers.
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
        resized: Sequence[float] = (),
        sampling: str = "even",
        decoder: str = "auto",
        fps: float = 25.0,
        retries: int = 2,
        item_timeout: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.index = index
        self.num_frames, self.sampling_rate = num_frames, sampling_rate
        self.crop, self.short_side = crop, tuple(short_side)
        self.resized, self.flip, self.color, self.sampling = tuple(resized), flip, color, sampling
        self.decoder, self.fps, self.retries, self.seed = decoder, fps, retries, seed
        self._read = in_worker(self._clip, item_timeout)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        number, draw = key
        seed = seed_of(self.seed, draw, number, 2)
        rng = np.random.default_rng((self.seed, draw, number))
        failed: list[Failure] = []
        for _ in range(MAX_CONSECUTIVE_FAILURES):
            try:
                frames = _attempt(self._read, self.retries, self.index.path(number), number, draw, rng)
            except DecodeError as error:
                failed.append(Failure(error.path, error.reason))
                number = int(rng.integers(0, len(self.index)))
                continue
            return Sample(torch.from_numpy(frames), self.index.label(number), number, failed, seed)
        black = torch.zeros(self.num_frames, self.crop, self.crop, 3, dtype=torch.uint8)
        return Sample(black, UNREADABLE, number, failed, seed)

    def frame_numbers(
        self, key: tuple[int, int], video_frames: int, fps: float, times: np.ndarray | None
    ) -> np.ndarray:
        """Return the frames of the clip of ``key`` in a video, see ``random_clip``: int64 ``(num_frames,)``."""
        number, draw = key
        start = np.random.default_rng((self.seed, draw, number, 1))  # the same clip in each attempt
        rule, rate = self.sampling, self.sampling_rate
        return random_clip(video_frames, self.num_frames, rate, start, sampling=rule, fps=fps, times=times)

    def _clip(self, path: str, number: int, draw: int, rng: np.random.Generator) -> np.ndarray:
        """Read a clip ``(T, crop, crop, 3)`` uint8, cropped and coloured with ``rng``."""
        drawn = rng

        def crop(part: np.ndarray) -> np.ndarray:
            nonlocal drawn
            drawn = deepcopy(rng)  # all parts of the clip get the same crop
            return self._cropped(torch.from_numpy(part), drawn).numpy()

        with open_video(self.index.source(number), self.decoder, name=path, fps=self.fps) as video:
            indices = self.frame_numbers((number, draw), len(video), video.fps, video.times)
            frames = torch.from_numpy(video.frames(indices, crop))
        return color_jitter(frames, self.color, drawn).contiguous().numpy()

    def _cropped(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        if self.resized:
            return random_resized_crop(frames, self.crop, self.resized[:2], self.resized[2:], self.flip, rng)
        return random_crop(frames, self.crop, self.short_side, self.flip, rng)


class TestDataset(Dataset[VideoViews]):
    """Read all views of each video, which is opened and decoded once.

    Args:
        index: the videos.
        num_frames, sampling_rate: length and temporal stride of a clip.
        crop, short_side: pixels.
        num_clips, num_crops: a video has ``num_clips * num_crops`` views.
        sampling, decoder, fps, retries, item_timeout: see ``TrainDataset``.
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
        sampling: str = "even",
        decoder: str = "auto",
        fps: float = 25.0,
        retries: int = 2,
        item_timeout: float = 0.0,
    ) -> None:
        self.index = index
        self.num_frames, self.sampling_rate = num_frames, sampling_rate
        self.crop, self.short_side = crop, short_side
        self.num_clips, self.num_crops, self.sampling = num_clips, num_crops, sampling
        self.decoder, self.fps, self.retries = decoder, fps, retries
        self._read = in_worker(self._frames, item_timeout)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> VideoViews:
        path, label = self.index.path(number), self.index.label(number)
        try:
            frames, clips = _attempt(self._read, self.retries, path, number)
        except DecodeError as error:
            return VideoViews(None, label, number, Failure(error.path, error.reason))
        crops = spatial_crops(torch.from_numpy(frames), self.crop, self.num_crops)
        views = torch.empty((len(clips) * len(crops), clips.shape[1], *crops[0].shape[1:]), dtype=torch.uint8)
        for view, (clip, crop) in zip(views, product(torch.from_numpy(clips), crops)):
            torch.index_select(crop, 0, clip, out=view)  # stacking would copy everything twice
        return VideoViews(views, label, number, None)

    def frame_numbers(self, video_frames: int, fps: float, times: np.ndarray | None) -> np.ndarray:
        """Return the frames of each clip in a video, see ``uniform_clips``: int64 ``(num_clips, num_frames)``."""
        rule, rate = self.sampling, self.sampling_rate
        return uniform_clips(video_frames, self.num_frames, rate, self.num_clips, sampling=rule, fps=fps, times=times)

    def _frames(self, path: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the frames of all clips once, resized: ``(n, H, W, 3)``, and the frames of each clip: ``(clips, T)``."""
        with open_video(self.index.source(number), self.decoder, name=path, fps=self.fps) as video:
            indices = self.frame_numbers(len(video), video.fps, video.times)
            unique, inverse = np.unique(indices, return_inverse=True)
            frames = video.frames(
                unique, lambda part: resize_short_side(torch.from_numpy(part), self.short_side).numpy()
            )
        return frames, inverse.reshape(indices.shape)

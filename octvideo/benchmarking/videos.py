"""Time reading of videos: the training loader, the views of a test video, and a prediction from end to end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from octvideo.benchmarking.timing import Report, interleaved, timed
from octvideo.config import with_keys
from octvideo.data import build_index, build_train_loader
from octvideo.data.dataset import TestDataset
from octvideo.data.decoders.decode import DecodeError, open_video
from octvideo.data.decoders.decord import DecordReader, is_installed
from octvideo.data.decoders.mp4 import is_plain_mp4
from octvideo.data.loaders import TrainSampler
from octvideo.data.sampling import random_clip, uniform_clips
from octvideo.data.transforms import resize_short_side, spatial_crops
from octvideo.errors import UserError
from octvideo.inference import Predictor

__all__ = ["data", "end_to_end", "view_by_view", "views"]

_BATCHES = 4  # per round
_PREFETCHED = 2  # batches that a worker prepares by default
_VIDEOS = 4  # per round of `views`
_NEXT = 3  # predictions after the first
_OPENINGS = 200  # of videos, per round


def data(cfg: CfgNode, rounds: int) -> Report:
    """Time training clips: the loader with 1 and 2 workers, compared with decoding and resizing alone.

    Also measure how the memory of a process, such as a worker, grows with the number of videos it has opened.

    Raises:
        UserError: DATA.TRAIN does not fit, or a video of it cannot be decoded.
    """
    clips = _BATCHES * cfg.TRAIN.BATCH_SIZE
    variants = {
        "bare decode and resize": lambda: _bare(cfg),
        "loader, 1 worker": lambda: _loader(cfg, 1),
        "loader, 2 workers": lambda: _loader(cfg, 2),
    }
    seconds = interleaved(variants, rounds)
    report = Report(
        [{"name": name, "seconds": time / clips, "clips_per_s": clips / time} for name, time in seconds.items()]
    )
    report.compare("bare decode and resize", "loader, 1 worker")
    report.compare("bare decode and resize", "loader, 2 workers")
    report.compare("loader, 1 worker", "loader, 2 workers")
    report.memory = _memory(cfg, rounds)
    return report


def _loader(cfg: CfgNode, workers: int) -> float:
    """Time a new loader: an old one would have filled its queue while the other variants ran."""
    batches = iter(build_train_loader(with_keys(cfg, {"NUM_WORKERS": workers})))
    # Until the queue is empty, which is its state while the loader is the bottleneck.
    for _ in range(_PREFETCHED * workers):
        next(batches)
    return timed(lambda: [next(batches) for _ in range(_BATCHES)])


def _bare(cfg: CfgNode) -> float:
    """Time decoding and resizing in this process, in the loader's order of videos and clips."""
    index = build_index(cfg, "train")
    rng = np.random.default_rng(cfg.SEED)
    sampler = TrainSampler(len(index), cfg.TRAIN.BATCH_SIZE, cfg.SEED)

    def read() -> None:
        for batch in islice(sampler, _BATCHES):
            for number, _ in batch:
                with open_video(index.source(number), cfg.DATA.DECODER, name=index.path(number)) as video:
                    indices = random_clip(len(video), cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, rng)
                    resize_short_side(torch.from_numpy(video.frames(indices)), cfg.DATA.TRAIN_SHORT_SIDE[0])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # like a worker
    try:
        with _user_errors():
            return timed(read)
    finally:
        torch.set_num_threads(threads)


def _memory(cfg: CfgNode, rounds: int) -> dict[str, float]:
    """Return the memory of the process in MB after the first round and after the last; every clip opens a video."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return {}
    index = build_index(cfg, "train")
    rng = np.random.default_rng(cfg.SEED)
    held: list[float] = []
    for opening in range(_OPENINGS * rounds):
        number = opening % len(index)
        with (
            _user_errors(),
            open_video(index.source(number), cfg.DATA.DECODER, name=index.path(number)) as video,
        ):
            video.frames(random_clip(len(video), cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, rng))
        if (opening + 1) % _OPENINGS == 0:
            held.append(int(status.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
    first, last = f"after {_OPENINGS} openings", f"after {_OPENINGS * rounds} openings"
    return {first: held[0], last: held[-1], "growth": held[-1] - held[0]}


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn a DecodeError into a UserError."""
    try:
        yield
    except DecodeError as error:
        raise UserError(f"{error.path}: cannot be decoded ({error.reason}); leave it out of --data") from None


def views(cfg: CfgNode, rounds: int) -> Report:
    """Time all test views of a video opened once, compared with a video opened once per view.

    If decord reads the videos, also time the frames of all clips sorted and without duplicates, as ``Video.frames``
    reads them, compared with the order of the clips.

    Raises:
        UserError: DATA.TEST does not fit, or a video of it cannot be decoded.
    """
    index = build_index(cfg, "test")
    settings: dict[str, Any] = dict(
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        crop=cfg.DATA.TEST_CROP,
        short_side=cfg.DATA.TEST_SHORT_SIDE,
        num_clips=cfg.TEST.NUM_CLIPS,
        num_crops=cfg.TEST.NUM_CROPS,
        sampling=cfg.DATA.SAMPLING,
        decoder=cfg.DATA.DECODER,
    )
    dataset = TestDataset(index, **settings)
    numbers = range(min(_VIDEOS, len(index)))
    for number in numbers:  # warms the file cache
        if (failure := dataset[number].failed) is not None:
            raise UserError(f"{failure.path}: cannot be decoded ({failure.reason}); leave it out of --data")
    variants: dict[str, Callable[[], float]] = {
        "one opening": lambda: timed(lambda: [dataset[number] for number in numbers]),
        "one per view": lambda: timed(lambda: [view_by_view(index.source(number), **settings) for number in numbers]),
    }
    sources = [index.source(number) for number in numbers]
    frames = {source: _clips_of(source, cfg) for source in sources}
    if is_installed() and all(is_plain_mp4(source) for source in sources):
        variants |= {
            "frames sorted, once each": lambda: timed(lambda: [_read_sorted(*item) for item in frames.items()]),
            "frames as asked": lambda: timed(
                lambda: [list(DecordReader(source).frames(wanted.tolist())) for source, wanted in frames.items()]
            ),
        }
    count = cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS
    seconds = {name: time / len(numbers) for name, time in interleaved(variants, rounds).items()}
    report = Report(
        [{"name": name, "seconds": time, "views_per_s": count / time, "views": count} for name, time in seconds.items()]
    )
    report.compare("one per view", "one opening")
    if "frames as asked" in variants:
        report.compare("frames as asked", "frames sorted, once each")
    return report


def _clips_of(source: str | bytes, cfg: CfgNode) -> np.ndarray:
    """Return the frame numbers of all test clips, clip by clip."""
    with open_video(source, cfg.DATA.DECODER) as video:
        return uniform_clips(len(video), cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.TEST.NUM_CLIPS).ravel()


def _read_sorted(source: str | bytes, indices: np.ndarray) -> np.ndarray:
    with open_video(source, "decord") as video:
        return video.frames(indices)


def view_by_view(
    source: str | bytes,
    *,
    num_frames: int,
    sampling_rate: int,
    crop: int,
    short_side: int,
    num_clips: int,
    num_crops: int,
    decoder: str,
    sampling: str = "even",
) -> Tensor:
    """Return the frames of ``TestDataset``, ``(clips * crops, T, H, W, 3)``, from a video opened once per view."""
    found = []
    for view in range(num_clips * num_crops):
        with open_video(source, decoder) as video:
            clips = uniform_clips(len(video), num_frames, sampling_rate, num_clips, sampling=sampling, fps=video.fps)
            indices = clips[view // num_crops]
            frames = resize_short_side(torch.from_numpy(video.frames(indices)), short_side)
        found.append(spatial_crops(frames, crop, num_crops)[view % num_crops])
    return torch.stack(found)


def end_to_end(cfg: CfgNode | None, checkpoint: str | Path | None, video: Path, rounds: int) -> Report:
    """Time loading a network (without imports of Python modules), its first prediction and the next ones.

    Raises:
        UserError: the weights do not fit, or the video cannot be read.
    """
    device = "auto" if cfg is None else cfg.DEVICE
    seconds: dict[str, list[float]] = {"load": [], "first prediction": [], "next predictions": []}
    for _ in range(rounds):
        start = time.perf_counter()
        predictor = Predictor(checkpoint, cfg, device=device)
        seconds["load"].append(time.perf_counter() - start)
        predict = partial(predictor.predict, video)
        seconds["first prediction"].append(timed(predict))
        seconds["next predictions"].append(median([timed(predict) for _ in range(_NEXT)]))
    report = Report([{"name": name, "seconds": median(values)} for name, values in seconds.items()])
    report.compare("first prediction", "next predictions")
    return report

"""Build the loaders of training batches and of test videos."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from typing import Any, NoReturn

import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from octvideo.data.dataset import TestDataset, TrainDataset, collate
from octvideo.data.decoders.decode import check_decoder
from octvideo.data.index import build_index
from octvideo.data.video_index import VideoIndex
from octvideo.errors import UserError
from octvideo.signals import end_with_parent, undisturbed_children

__all__ = ["TrainSampler", "build_test_loader", "build_train_loader"]

_PREFETCH = 2  # batches that each worker reads ahead
_TIMEOUT = 300.0  # seconds that a worker may take for a batch, at least
_LONGEST = 1e6  # at most: what the system can wait for
_MOST_TIMED_OUT = 5  # videos of a batch that may time out, in each attempt, before the worker counts as hanging
_TIME_TO_END = 5.0  # seconds that a worker gets when this process ends


class TrainSampler(Sampler[list[tuple[int, int]]]):
    """Yield endless batches of keys ``(index, draw)`` for one rank, a pure function of seed and step.

    The videos are shuffled for each pass (``draw`` counts passes) and the passes joined. The global batch of step s is
    the s-th slice; each rank takes its part of it ::

        pass 0            pass 1
        3 1 4 0 2 | 2 0 3 1 4 | ...        batch size 4, 2 ranks
        r0--r1--  r0--r1--

    With ``repeats`` R, a batch has 1 / R as many videos, each of them R times with different draws. Neighbours, which
    mixup pairs, are different videos ::

        step 0      step 1      batch size 4, R = 2: two videos a step
        3 1 3 1  |  4 0 4 0     video
        0 0 1 1  |  0 0 1 1     draw: in the next pass 2 and 3

    Args:
        num_videos: length of the index.
        batch_size: clips over all ranks, divisible by ``world_size`` and by ``repeats``.
        seed: decides the order.
        rank, world_size: choose the part.
        start_step: the first step; where a run resumes.
        repeats: how often a batch has each of its videos.
    """

    def __init__(
        self,
        num_videos: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        repeats: int = 1,
    ) -> None:
        self.num_videos, self.batch_size, self.seed = num_videos, batch_size, seed
        self.rank, self.world_size, self.start_step, self.repeats = rank, world_size, start_step, repeats

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_rank, videos = self.batch_size // self.world_size, self.batch_size // self.repeats
        order = torch.empty(0, dtype=torch.long)  # a tensor: a list of a million numbers is 36 MB
        shuffled = -1
        step = self.start_step
        while True:
            batch = []
            for position in range(self.rank * per_rank, (self.rank + 1) * per_rank):
                repeat, offset = divmod(position, videos)
                past, place = divmod(step * videos + offset, self.num_videos)
                if past != shuffled:
                    generator = torch.Generator().manual_seed((self.seed * 1_000_003 + past) % 2**63)
                    order, shuffled = torch.randperm(self.num_videos, generator=generator), past
                batch.append((int(order[place]), past * self.repeats + repeat))
            yield batch
            step += 1


class _Loader(DataLoader[Any]):
    """A loader whose workers leave signals to the main process, and are killed where they hang.

    DataLoader's own time limit does not cover all: a batch that has arrived is in the memory of its worker, which the
    main process asks for it and waits, without a limit.

    Args:
        dataset, options: of ``DataLoader``.
        patience: seconds that an item may take.
    """

    def __init__(self, dataset: Dataset[Any], *, patience: float = _LONGEST, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.patience = patience

    def __iter__(self) -> Any:
        with undisturbed_children():
            items = super().__iter__()
        return self._received(items) if self.num_workers else items

    def _received(self, items: Any) -> Iterator[Any]:
        hangs = threading.Event()

        def give_up() -> None:
            hangs.set()
            for worker in items._workers:
                worker.kill()

        while True:
            watchdog = threading.Timer(self.patience, give_up)
            watchdog.daemon = True
            watchdog.start()
            try:
                item = next(items, None)
            except (OSError, EOFError, RuntimeError) as error:
                if hangs.is_set():
                    raise UserError(
                        f"waited {self.patience:.0f} s in vain for a batch: a loader worker hangs; check the disk of "
                        "the videos, or set NUM_WORKERS 0, which reads in the main process"
                    ) from None
                if isinstance(error, ConnectionError | EOFError):
                    # A crashed worker first breaks its connection. Shortly after, torch names the cause.
                    time.sleep(1)
                raise
            finally:
                watchdog.cancel()
            if item is None:
                return
            yield item


def _kill_workers() -> None:
    """Kill the workers that do not end. When this process ends, multiprocessing waits for them without a limit."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + _TIME_TO_END
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
        worker.kill()


Finalize(None, _kill_workers, exitpriority=0)


def _start_worker(_: int) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    sys.excepthook = _no_word_of_broken_connections
    # By default the queue prints the error and drops the batch; the main process would wait for it forever.
    Queue._on_queue_feeder_error = staticmethod(_cannot_send)  # type: ignore[attr-defined]


def _no_word_of_broken_connections(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Stay silent if the main process stopped while this one sent a batch; multiprocessing reports that here."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _cannot_send(error: Exception, _: object) -> NoReturn:
    if not re.search("shared memory|No space left", str(error)):  # the main process reports these
        traceback.print_exception(error)
    os._exit(1)


def _workers(cfg: CfgNode, items: float, videos: int, clips: int, size: int, advice: str) -> dict[str, Any]:
    """Return the loader's arguments. Each of ``items`` has ``clips`` of ``size`` pixels and comes through /dev/shm.

    The clips of an item are of ``videos`` videos.

    Raises:
        UserError: /dev/shm is too small for them; Docker's has 64 MB.
    """
    if not cfg.NUM_WORKERS:
        return {"num_workers": 0}
    needed = int(min(_PREFETCH * cfg.NUM_WORKERS, items)) * clips * cfg.DATA.NUM_FRAMES * size**2 * 3
    free = _shared_memory()
    if free < needed:
        raise UserError(
            f"/dev/shm has {free >> 20} MB free, and NUM_WORKERS {cfg.NUM_WORKERS} need up to {needed >> 20} MB there: "
            f"give it more (docker run --shm-size 8g), or set NUM_WORKERS 0, or lower {advice}"
        )
    reading = min(videos, _MOST_TIMED_OUT) * (1 + cfg.DATA.RETRIES) * cfg.DATA.ITEM_TIMEOUT
    return {
        "prefetch_factor": _PREFETCH,
        "num_workers": cfg.NUM_WORKERS,
        "worker_init_fn": _start_worker,
        # Always forked: workers inherit the blocked signals, and fork their decoders.
        "multiprocessing_context": "fork" if sys.platform == "linux" else None,
        "patience": min(max(_TIMEOUT, reading), _LONGEST),
        "persistent_workers": True,
    }


def _shared_memory() -> int:
    """Return the free bytes of /dev/shm; very many where there is none."""
    try:
        state = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return sys.maxsize
    return state.f_bavail * state.f_frsize


def build_train_loader(
    cfg: CfgNode, *, index: VideoIndex | None = None, rank: int = 0, world_size: int = 1, start_step: int = 0
) -> DataLoader[Any]:
    """Build the loader of endless ``Batch``es of TRAIN.BATCH_SIZE / world_size clips, from ``start_step`` on.

    ``index`` is DATA.TRAIN if it has been read already.

    Raises:
        UserError: the batch is not divisible by the ranks or too small to mix, or a video has no label and the run no
            teacher.
    """
    check_decoder(cfg.DATA.DECODER)
    index = index or build_index(cfg, "train")
    if cfg.TRAIN.BATCH_SIZE % world_size:
        raise UserError(f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}: it must be divisible by the {world_size} ranks")
    if (cfg.TRAIN.MIXUP or cfg.TRAIN.CUTMIX) and cfg.TRAIN.BATCH_SIZE == world_size:
        raise UserError(
            f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}, one clip for each rank: TRAIN.MIXUP and TRAIN.CUTMIX need two"
        )
    if (index.labels < 0).any() and not cfg.TRAIN.TEACHER:
        raise UserError(
            f"{cfg.DATA.TRAIN}: videos without labels; training needs `path label` lines, or a teacher (TRAIN.TEACHER)"
        )
    dataset = TrainDataset(
        index,
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        crop=cfg.DATA.TRAIN_CROP,
        short_side=cfg.DATA.TRAIN_SHORT_SIDE,
        flip=cfg.DATA.FLIP,
        color=cfg.DATA.COLOR_JITTER,
        resized=cfg.DATA.RANDOM_RESIZED_CROP,
        sampling=cfg.DATA.SAMPLING,
        decoder=cfg.DATA.DECODER,
        fps=cfg.DATA.FPS,
        retries=cfg.DATA.RETRIES,
        item_timeout=cfg.DATA.ITEM_TIMEOUT,
        seed=cfg.SEED,
    )
    sampler = TrainSampler(
        len(index), cfg.TRAIN.BATCH_SIZE, cfg.SEED, rank, world_size, start_step, repeats=cfg.DATA.REPEATS
    )
    pin = torch.cuda.is_available() and cfg.DEVICE != "cpu"
    clips = cfg.TRAIN.BATCH_SIZE // world_size
    workers = _workers(cfg, math.inf, clips, clips, cfg.DATA.TRAIN_CROP, "TRAIN.BATCH_SIZE")
    return _Loader(dataset, batch_sampler=sampler, collate_fn=collate, pin_memory=pin, **workers)


def _identity(item: Any) -> Any:
    return item


def build_test_loader(
    cfg: CfgNode,
    *,
    split: str = "test",
    index: VideoIndex | None = None,
    rank: int = 0,
    world_size: int = 1,
    num_clips: int | None = None,
    num_crops: int | None = None,
    num_videos: int = 0,
) -> DataLoader[Any]:
    """Build the loader of one ``VideoViews`` per video, with TEST.NUM_CLIPS x TEST.NUM_CROPS views.

    Rank r has the videos r, r + world_size, ...: every video is in exactly one rank's part. ``index`` is the split if
    it has been read already. ``num_videos`` limits the number of videos; they are spread evenly over the list, which
    may be sorted by class.
    """
    check_decoder(cfg.DATA.DECODER)
    index = index or build_index(cfg, split)
    dataset = TestDataset(
        index,
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        crop=cfg.DATA.TEST_CROP,
        short_side=cfg.DATA.TEST_SHORT_SIDE,
        num_clips=num_clips or cfg.TEST.NUM_CLIPS,
        num_crops=num_crops or cfg.TEST.NUM_CROPS,
        sampling=cfg.DATA.SAMPLING,
        decoder=cfg.DATA.DECODER,
        fps=cfg.DATA.FPS,
        retries=cfg.DATA.RETRIES,
        item_timeout=cfg.DATA.ITEM_TIMEOUT,
    )
    count = min(num_videos or len(index), len(index))
    part = [number * len(index) // count for number in range(rank, count, world_size)]
    views = dataset.num_clips * dataset.num_crops
    workers = _workers(cfg, len(part), 1, views, cfg.DATA.TEST_CROP, "TEST.NUM_CLIPS")
    return _Loader(Subset(dataset, part), batch_size=None, collate_fn=_identity, **workers)

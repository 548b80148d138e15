"""From a configuration to loaders of training batches and of test videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Sampler, Subset

from octvideo.data.dataset import TestDataset, TrainDataset, collate
from octvideo.data.decode import check_decoder
from octvideo.data.index import build_index
from octvideo.errors import UserError

__all__ = ["TrainSampler", "build_test_loader", "build_train_loader"]

_TIMEOUT = 300.0  # seconds a worker may take for a batch before it counts as hanging


class TrainSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of keys ``(index, draw)`` for one rank, a pure function of seed and step.

    The videos are shuffled anew for each pass over them (``draw`` counts the passes) and laid end to end; the global
    batch of step s is the s-th slice, and each rank takes its part of it ::

        pass 0            pass 1
        3 1 4 0 2 | 2 0 3 1 4 | ...        batch size 4, 2 ranks
        r0--r1--  r0--r1--

    Args:
        num_videos: of the index.
        batch_size: of all ranks together, divisible by ``world_size``.
        seed: of the order.
        rank, world_size: which part.
        start_step: the first step; a resumed run goes on where it was.
    """

    def __init__(
        self, num_videos: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start_step: int = 0
    ) -> None:
        self.num_videos, self.batch_size, self.seed = num_videos, batch_size, seed
        self.rank, self.world_size, self.start_step = rank, world_size, start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_rank = self.batch_size // self.world_size
        order: list[int] = []
        shuffled = -1
        step = self.start_step
        while True:
            first = step * self.batch_size + self.rank * per_rank
            batch = []
            for position in range(first, first + per_rank):
                draw, place = divmod(position, self.num_videos)
                if draw != shuffled:
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)
                    order, shuffled = torch.randperm(self.num_videos, generator=generator).tolist(), draw
                batch.append((order[place], draw))
            yield batch
            step += 1


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _workers(cfg: CfgNode) -> dict[str, Any]:
    if not cfg.NUM_WORKERS:
        return {"num_workers": 0}
    return {
        "num_workers": cfg.NUM_WORKERS,
        "worker_init_fn": _one_thread,
        "timeout": _TIMEOUT,
        "persistent_workers": True,
    }


def build_train_loader(cfg: CfgNode, *, rank: int = 0, world_size: int = 1, start_step: int = 0) -> DataLoader[Any]:
    """Endless ``Batch``es of TRAIN.BATCH_SIZE / world_size clips, from ``start_step`` on.

    Raises:
        UserError: the batch does not divide by the number of ranks, or a video has no label.
    """
    check_decoder(cfg.DATA.DECODER)
    index = build_index(cfg, "train")
    if cfg.TRAIN.BATCH_SIZE % world_size:
        raise UserError(f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}: it must be divisible by the {world_size} ranks")
    if (index.labels < 0).any():
        raise UserError(f"{cfg.DATA.TRAIN}: its videos have no labels; training needs `path label` lines")
    dataset = TrainDataset(
        index,
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        crop=cfg.DATA.TRAIN_CROP,
        short_side=cfg.DATA.TRAIN_SHORT_SIDE,
        flip=cfg.DATA.FLIP,
        color=cfg.DATA.COLOR_JITTER,
        decoder=cfg.DATA.DECODER,
        retries=cfg.DATA.RETRIES,
        seed=cfg.SEED,
    )
    sampler = TrainSampler(len(index), cfg.TRAIN.BATCH_SIZE, cfg.SEED, rank, world_size, start_step)
    pin = torch.cuda.is_available() and cfg.DEVICE != "cpu"
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, pin_memory=pin, **_workers(cfg))


def _identity(item: Any) -> Any:
    return item


def build_test_loader(
    cfg: CfgNode,
    *,
    split: str = "test",
    rank: int = 0,
    world_size: int = 1,
    num_clips: int | None = None,
    num_crops: int | None = None,
) -> DataLoader[Any]:
    """A ``VideoViews`` a video, TEST.NUM_CLIPS x TEST.NUM_CROPS views; rank r has the videos r, r + world_size, ...

    Every video is in exactly one rank's part, however uneven.
    """
    check_decoder(cfg.DATA.DECODER)
    index = build_index(cfg, split)
    dataset = TestDataset(
        index,
        num_frames=cfg.DATA.NUM_FRAMES,
        sampling_rate=cfg.DATA.SAMPLING_RATE,
        crop=cfg.DATA.TEST_CROP,
        short_side=cfg.DATA.TEST_SHORT_SIDE,
        num_clips=num_clips or cfg.TEST.NUM_CLIPS,
        num_crops=num_crops or cfg.TEST.NUM_CROPS,
        decoder=cfg.DATA.DECODER,
        retries=cfg.DATA.RETRIES,
    )
    part: Sequence[int] = range(rank, len(index), world_size)
    return DataLoader(Subset(dataset, part), batch_size=None, collate_fn=_identity, **_workers(cfg))

"""Train under torchrun where videos fail on rank 1 alone (``FOLDER``); each rank writes how its run ended."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from trainers import make_trainer

from octvideo.data import Batch, Failure
from octvideo.engine.distributed import World, distributed
from octvideo.errors import UserError


def batches(rank: int) -> Iterator[Batch]:
    """On rank 1 every clip has replaced one that cannot be read."""
    failed = [Failure("/broken.mp4", "no frames")] * 2 * rank
    while True:
        frames, numbers = torch.zeros(2, 2, 4, 4, 3, dtype=torch.uint8), torch.arange(2)
        yield Batch(frames, torch.zeros(2).long(), numbers, failed, numbers)


def train(world: World, folder: Path) -> None:
    """12 failures of 36 drawn videos, which is in step 6, are too many."""
    net = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 2))
    reported: list[int] = []
    trainer = make_trainer(
        net, 100, world=world, max_failed=0.1, hooks=[lambda _, stats: reported.append(len(stats.failed))]
    )
    try:
        trainer.train(batches(world.rank))
    except UserError as error:
        (folder / f"rank{world.rank}").write_text(f"{reported} {trainer.budget.drawn} {error}")


def main(folder: Path) -> None:
    with distributed("cpu") as world:
        train(world, folder)  # with PyTorch 2.6 a trainer that outlives the process group may hang


if __name__ == "__main__":
    main(Path(sys.argv[1]))

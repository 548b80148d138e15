"""Train a small network without batch norm on fixed batches (``OUT PARTS``), alone or under torchrun."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from trainers import make_trainer

from octvideo.data import Batch
from octvideo.engine.distributed import World, distributed
from octvideo.engine.trainer import StepStats, Trainer

PAUSE = 0.5  # seconds that all ranks but the first need for a batch


def batches(world: World, pause: float = 0.0) -> Iterator[Batch]:
    """Yield this rank's share of global batches of 8, endlessly."""
    generator = torch.Generator().manual_seed(1)
    share = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    while True:
        frames = torch.randint(0, 256, (8, 4, 8, 8, 3), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 3, (8,), generator=generator)
        time.sleep(pause if world.rank else 0.0)
        yield Batch(frames[share], labels[share], torch.arange(8)[share], [], torch.arange(8)[share])


def count_exchanges() -> list[str]:
    """Return a list that gets the name of every exchange that Python calls (DDP has its own)."""
    calls: list[str] = []

    def call(name, really, *args, **more):
        calls.append(name)
        return really(*args, **more)

    for name in ("all_gather", "all_reduce", "all_gather_object", "broadcast", "barrier"):
        setattr(dist, name, partial(call, name, getattr(dist, name)))
    return calls


def train(out: str, parts: int) -> None:
    """Take five steps, after which the last rank asks to stop; write each step's figures, times and the weights."""
    with distributed("cpu") as world:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
        figures: list[list[float]] = []
        times: list[list[float]] = []

        def record(_: Trainer, stats: StepStats) -> None:
            figures.append([stats.loss, stats.top1, stats.clips, stats.grad_norm])
            times.append([stats.data_time, stats.wait_time, stats.step_time])

        trainer = make_trainer(
            net,
            100,
            world=world,
            momentum=0.9,
            accumulate=parts,
            asked_to_stop=lambda: world.rank == world.size - 1 and trainer.step == 4,
            hooks=[record],
        )
        calls = count_exchanges()
        trainer.train(batches(world, PAUSE))
        exchanges, all_times = list(calls), torch.tensor(world.gather(times)).sum(1).tolist()
        if world.is_main:
            found = {"figures": figures, "times": all_times, "exchanges": exchanges, "model": net.state_dict()}
            torch.save(found, out)


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))

"""Trains a small network without batch norm on fixed batches (``OUT PARTS``), alone or under torchrun."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from octvideo.data import Batch
from octvideo.engine.distributed import World, distributed
from octvideo.engine.trainer import Trainer

PAUSE = 0.5  # seconds that all ranks but the first need for a batch


def batches(world: World, pause: float = 0.0) -> Iterator[Batch]:
    """This rank's share of global batches of 8."""
    generator = torch.Generator().manual_seed(1)
    share = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    while True:
        frames = torch.randint(0, 256, (8, 4, 8, 8, 3), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 3, (8,), generator=generator)
        time.sleep(pause if world.rank else 0.0)
        yield Batch(frames[share], labels[share], torch.arange(8)[share], [], torch.arange(8)[share])


def count_exchanges() -> list[str]:
    """The list to which the name of every exchange is added that Python asks for (DDP has its own)."""
    calls: list[str] = []

    def call(name, really, *args, **more):
        calls.append(name)
        return really(*args, **more)

    for name in ("all_gather", "all_reduce", "all_gather_object", "broadcast", "barrier"):
        setattr(dist, name, partial(call, name, getattr(dist, name)))
    return calls


def train(out: str, parts: int) -> None:
    """Five steps, after which the last rank asks to stop; writes the figures of each step, times and the weights."""
    with distributed("cpu") as world:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
        figures: list[list[float]] = []
        times: list[list[float]] = []

        def note(trainer: Trainer) -> None:
            figures.append([trainer.last[name] for name in ("loss", "top1", "clips", "grad_norm")])
            times.append([trainer.last[name] for name in ("data_time", "wait_time", "step_time")])

        trainer = Trainer(
            net,
            torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
            ConstantParamScheduler(0.1),
            steps=100,
            world=world,
            mean=[0.45] * 3,
            std=[0.225] * 3,
            accumulate=parts,
            asked_to_stop=lambda: world.rank == world.size - 1 and trainer.step == 4,
            hooks=[note],
        )
        calls = count_exchanges()
        trainer.train(batches(world, PAUSE))
        exchanges, all_times = list(calls), torch.tensor(world.gather(times)).sum(1).tolist()
        if world.is_main:
            found = {"figures": figures, "times": all_times, "exchanges": exchanges, "model": net.state_dict()}
            torch.save(found, out)


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))

"""Trains a small network without batch norm on fixed batches (``OUT PARTS``), alone or under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch  # noqa: E402
from fvcore.common.param_scheduler import ConstantParamScheduler  # noqa: E402
from torch import nn  # noqa: E402

from octvideo.data import Batch  # noqa: E402
from octvideo.engine.distributed import World, distributed  # noqa: E402
from octvideo.engine.trainer import Trainer  # noqa: E402


def batches(world: World) -> Iterator[Batch]:
    """This rank's share of global batches of 8."""
    generator = torch.Generator().manual_seed(1)
    share = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    while True:
        frames = torch.randint(0, 256, (8, 4, 8, 8, 3), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 3, (8,), generator=generator)
        yield Batch(frames[share], labels[share], torch.arange(8)[share], [], torch.arange(8)[share])


def train(out: str, parts: int) -> None:
    """Five steps; writes the gradient norms and the weights."""
    with distributed("cpu") as world:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
        norms: list[float] = []
        trainer = Trainer(
            net,
            torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
            ConstantParamScheduler(0.1),
            steps=5,
            world=world,
            mean=[0.45] * 3,
            std=[0.225] * 3,
            accumulate=parts,
            hooks=[lambda trainer: norms.append(trainer.last["grad_norm"])],
        )
        trainer.train(batches(world))
        if world.is_main:
            torch.save({"norms": norms, "model": net.state_dict()}, out)


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))

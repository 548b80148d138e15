"""Train under torchrun (``FOLDER HOW``) until rank 1 fails or hangs in step 3, or until it is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fixed_batches import batches
from torch import nn
from trainers import make_trainer

import octvideo.engine.distributed
from octvideo.cli import run
from octvideo.engine.distributed import distributed
from octvideo.engine.trainer import StepStats, Trainer
from octvideo.errors import UserError


def main(argv: Sequence[str] | None) -> None:
    """Train for more steps than a test waits for."""
    folder, how = Path((argv or sys.argv)[1]), (argv or sys.argv)[2]
    if how == "SIGSTOP":
        octvideo.engine.distributed._TIMEOUT = 10.0
    with distributed("cpu") as world:
        net = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))

        def fail(trainer: Trainer, _: StepStats) -> None:
            if trainer.step < 2 or world.rank == 0:
                return
            (folder / "failed").write_text(str(time.time()))
            if how == "waits":  # to be killed
                return
            if how == "raises":
                raise UserError("the cause of it all")
            if how in ("SIGKILL", "SIGSTOP"):
                os.kill(os.getpid(), getattr(signal, how))
            nn.init.constant_(net[2].weight, float("nan"))

        make_trainer(net, 10**9, world=world, hooks=[fail]).train(batches(world))


if __name__ == "__main__":
    sys.exit(run(main))

"""A trainer with few arguments, for tests of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from octvideo.engine.distributed import World
from octvideo.engine.preparation import ClipPreparation
from octvideo.engine.trainer import Hook, Trainer, TrainSettings

MEAN, STD = [0.45] * 3, [0.225] * 3
ALONE = World(0, 1, torch.device("cpu"))


def make_trainer(
    net: nn.Module,
    steps: int,
    *,
    world: World = ALONE,
    momentum: float = 0.0,
    hooks: Sequence[Hook] = (),
    path_of: Callable[[int], str] = "video{}.mp4".format,
    asked_to_stop: Callable[[], bool] = lambda: False,
    preparation: dict[str, Any] | None = None,
    **settings: Any,
) -> Trainer:
    """Return a trainer with SGD at the learning rate 0.1; ``settings`` are those of ``TrainSettings``."""
    return Trainer(
        net,
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum),
        ConstantParamScheduler(0.1),
        ClipPreparation(MEAN, STD, **(preparation or {})),
        TrainSettings(steps, **settings),
        world=world,
        path_of=path_of,
        asked_to_stop=asked_to_stop,
        hooks=hooks,
    )

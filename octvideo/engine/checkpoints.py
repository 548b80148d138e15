"""The checkpoints of a run: written atomically, and skipped where they are broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from octvideo.errors import UserError
from octvideo.files import atomic_write
from octvideo.models.checkpoints import read_checkpoint

__all__ = [
    "BEST",
    "CHECKPOINT_KEYS",
    "Best",
    "newest_checkpoint",
    "prune",
    "read_best",
    "remove_leftovers",
    "save_checkpoint",
    "set_aside",
]

VERSION = 1
_STEP = "step_{:08d}.pt"
BEST = "best.pt"
CHECKPOINT_KEYS = ("config", "model", "optimizer", "scaler", "step", "drawn", "failed")


def save_checkpoint(payload: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; if that fails, the old file stays.

    Raises:
        UserError: the disk is full or not writable.
    """
    with atomic_write(path, parents=True) as partial:
        try:
            with partial.open("wb") as file:
                torch.save({**payload, "version": VERSION}, file)
        except RuntimeError as error:  # torch raises it for a full disk
            raise OSError(str(error)) from None


class Best(NamedTuple):
    """How well the best network of a run validates.

    Attributes:
        top1: accuracy in percent.
        loss: mean cross entropy; decides where the accuracy is the same.
        step: when it was saved.
    """

    top1: float = -1.0
    loss: float = math.inf
    step: int = 0

    def beats(self, other: Best) -> bool:
        """Return whether this network is better than ``other``."""
        return (self.top1, -self.loss) > (other.top1, -other.loss)


def read_best(folder: Path, say: Callable[[str], None]) -> Best:
    """Return what ``best.pt`` achieves; the worst possible where there is none, so that any evaluation replaces it.

    ``say`` is called with a warning where the file is broken.
    """
    path = folder / BEST
    if not path.is_file():
        return Best()
    try:
        found = read_checkpoint(path)
        return Best(float(found["top1"]), float(found.get("loss", math.inf)), int(found["step"]))
    except UserError as error:
        say(f"warning: {error}; the next evaluation replaces it")
    except (AttributeError, KeyError, TypeError, ValueError):
        say(f"warning: {path}: it has no top-1; the next evaluation replaces it")
    return Best()


def step_path(folder: Path, step: int) -> Path:
    """Return the checkpoint file of a step."""
    return folder / _STEP.format(step)


def prune(folder: Path, step: int, keep: int) -> None:
    """Remove all but the newest ``keep`` step checkpoints up to that of ``step``, the one just written.

    Those of later steps are broken, or the run would have resumed from them. They do not count: they would replace good
    ones.
    """
    for path in sorted(path for path in folder.glob("step_*.pt") if path <= step_path(folder, step))[:-keep]:
        path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove partly written checkpoints of a killed process."""
    for path in folder.glob(".*.pt"):
        path.unlink(missing_ok=True)


def set_aside(folder: Path) -> Path | None:
    """Rename the folder of an earlier run's checkpoints from ``checkpoints`` to ``checkpoints.1`` and so on.

    Returns:
        The new path; None where the folder has no checkpoints.
    """
    if not any(folder.glob("*.pt")):
        return None
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(target)


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the newest readable step checkpoint, or None; ``say`` is called with a warning for each unreadable one."""
    for path in sorted(folder.glob("step_*.pt"), reverse=True):
        try:
            payload = read_checkpoint(path)
            if not isinstance(payload, dict) or (missing := [key for key in CHECKPOINT_KEYS if key not in payload]):
                what = f"it has no {missing[0]}" if isinstance(payload, dict) else "it is no mapping"
                raise UserError(f"{path}: not a checkpoint of a training ({what})")
            return payload
        except UserError as error:
            say(f"warning: {error}; using the previous one")
    return None

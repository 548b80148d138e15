"""The checkpoints of a run: written atomically, skipped where they are broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from octvideo.errors import UserError
from octvideo.files import atomic_write
from octvideo.models.checkpoints import read_checkpoint

__all__ = [
    "newest_checkpoint",
    "prune",
    "remove_leftovers",
    "save_checkpoint",
    "set_aside",
]

VERSION = 1
_STEP = "step_{:08d}.pt"
_KEYS = ("config", "model", "optimizer", "scaler", "step", "drawn", "failed")


def save_checkpoint(payload: Mapping[str, Any], path: Path) -> None:
    """Writes a whole checkpoint: where it cannot, the path has the old file.

    Raises:
        UserError: the disk is full or not writable.
    """
    with atomic_write(path, parents=True) as partial:
        try:
            with partial.open("wb") as file:
                torch.save({**payload, "version": VERSION}, file)
        except RuntimeError as error:  # torch's own for a full disk
            raise OSError(str(error)) from None


def step_path(folder: Path, step: int) -> Path:
    """The checkpoint file of a step."""
    return folder / _STEP.format(step)


def prune(folder: Path, step: int, keep: int) -> None:
    """Removes all but the newest ``keep`` step checkpoints up to that of ``step``, the one just written.

    Those of later steps are broken, or the run would have gone on from them: counted, they would push out good ones.
    """
    for path in sorted(path for path in folder.glob("step_*.pt") if path <= step_path(folder, step))[:-keep]:
        path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left of a checkpoint that it was writing."""
    for path in folder.glob(".*.pt"):
        path.unlink(missing_ok=True)


def set_aside(folder: Path) -> Path | None:
    """Renames the folder of an earlier run's checkpoints, ``checkpoints`` to ``checkpoints.1`` and so on.

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
    """The newest step checkpoint that can be read; one that cannot is passed over, and ``say`` is told."""
    for path in sorted(folder.glob("step_*.pt"), reverse=True):
        try:
            payload = read_checkpoint(path)
            if not isinstance(payload, dict) or (lacking := [key for key in _KEYS if key not in payload]):
                what = f"it has no {lacking[0]}" if isinstance(payload, dict) else "it is no mapping"
                raise UserError(f"{path}: not a checkpoint of a training ({what})")
            return payload
        except UserError as error:
            say(f"warning: {error}; using the one before")
    return None

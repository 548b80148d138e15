"""Checkpoints: written atomically, read safely, skipped where they are broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.errors import UserError

__all__ = [
    "LoadReport",
    "load_weights",
    "newest_checkpoint",
    "prune",
    "read_checkpoint",
    "remove_leftovers",
    "save_checkpoint",
    "set_aside",
    "state_of",
]

VERSION = 1
_STEP = "step_{:08d}.pt"


def save_checkpoint(payload: Mapping[str, Any], path: Path) -> None:
    """Writes to a temporary name, then renames: the path has either the old file or the whole new one.

    Raises:
        UserError: the disk is full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({**payload, "version": VERSION}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: the checkpoint cannot be written ({error}); free some space and run again") from None


def step_path(folder: Path, step: int) -> Path:
    """The checkpoint file of a step."""
    return folder / _STEP.format(step)


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` step checkpoints."""
    for path in sorted(folder.glob("step_*.pt"))[:-keep]:
        path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left of a checkpoint that it was writing."""
    for path in folder.glob(".*.pt.*"):
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
            return read_checkpoint(path)
        except UserError as error:
            say(f"warning: {error}; using the one before")
    return None


def read_checkpoint(path: str | Path) -> Any:
    """What ``torch.save`` wrote, with nothing executed (``weights_only``), on the CPU.

    Raises:
        UserError: no such file, or not a readable checkpoint.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many kinds for a broken file
        raise UserError(f"{path}: not a readable checkpoint ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def state_of(payload: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint of this project, of PyTorchVideo, of PyTorch Lightning's kind, or a bare one.

    A prefix ``model.`` or ``module.`` that all keys have is taken off.

    Raises:
        UserError: there is none.
    """
    for key in ("model", "model_state", "state_dict"):
        if isinstance(payload, Mapping) and isinstance(payload.get(key), Mapping):
            payload = payload[key]
            break
    if not isinstance(payload, Mapping) or not payload or not all(isinstance(v, Tensor) for v in payload.values()):
        raise UserError(f"{path}: no state dict found in this checkpoint (looked for model, model_state, state_dict)")
    state = dict(payload)
    for prefix in ("module.", "model."):
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


@dataclass
class LoadReport:
    """What became of a checkpoint's tensors, by name."""

    matched: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched"]
        for name in ("replaced", "missing", "unexpected"):
            if names := getattr(self, name):
                parts.append(f"{len(names)} {name}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
        return "; ".join(parts)


def load_weights(model: nn.Module, path: str | Path, *, strict: bool = False) -> LoadReport:
    """Loads weights into a network; a head of another number of classes is left as it was initialised, and reported.

    Args:
        model: takes the weights.
        path: a checkpoint, see ``state_of``.
        strict: every tensor must match.

    Raises:
        UserError: nothing fits, or with ``strict`` not everything.
    """
    state = state_of(read_checkpoint(path), path)
    own = model.state_dict()
    report = LoadReport(
        missing=[key for key in own if key not in state], unexpected=[key for key in state if key not in own]
    )
    fitting = {}
    for key, value in state.items():
        if key not in own:
            continue
        if own[key].shape == value.shape:
            fitting[key] = value
            report.matched.append(key)
        else:
            report.replaced.append(key)
    wrong = [key for key in report.replaced if ".proj." not in key]
    if not fitting or wrong:
        what = f"{wrong[0]} has the shape {tuple(state[wrong[0]].shape)}" if wrong else "no tensor has a known name"
        raise UserError(f"{path}: does not fit this network ({what}); check MODEL in the configuration")
    if strict and (report.missing or report.unexpected or report.replaced):
        raise UserError(f"{path}: does not fit this network ({report}); check MODEL in the configuration")
    model.load_state_dict(fitting, strict=False)
    return report

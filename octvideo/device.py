"""Choose the device to compute on."""

from __future__ import annotations

import torch

from octvideo.errors import UserError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Return the device of DEVICE or ``--device``: ``"auto"`` is CUDA if torch finds a GPU, else the CPU.

    Raises:
        UserError: ``"cuda"``, and torch finds no GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no CUDA device; set DEVICE (or --device) to cpu or auto")
    return torch.device(name)

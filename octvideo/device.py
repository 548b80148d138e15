"""Choose the device to compute on."""

from __future__ import annotations

import torch

from octvideo.errors import UserError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Return the device of DEVICE or ``--device``: ``"auto"`` is CUDA or Apple's GPU if torch finds one, else the CPU.

    Raises:
        UserError: ``"cuda"`` or ``"mps"``, and torch finds no such GPU.
    """
    if name == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps: torch finds no GPU of Apple; set DEVICE (or --device) to cpu or auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no CUDA device; set DEVICE (or --device) to cpu or auto")
    return torch.device(name)

"""Inflate weights of images to weights of video (Carreira and Zisserman, CVPR 2017, Sec. 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["inflate"]


def inflate(weight: Tensor, frames: int, how: str = "mean") -> Tensor:
    """Return a 2D kernel ``(O, I, H, W)`` as a 3D one ``(O, I, frames, H, W)``, equal on a repeated frame.

    Args:
        weight: the 2D kernel.
        frames: temporal size of the 3D kernel.
        how: ``"mean"``: each frame gets 1 / frames of the kernel (zero padding makes the sum smaller at the ends of a
            clip); ``"centre"``: the middle frame gets all of it.

    Example, one weight of 3 over 3 frames: mean (1, 1, 1), centre (0, 3, 0).

    Raises:
        ValueError: ``how`` is something else.
    """
    if how == "mean":
        return (weight / frames).unsqueeze(2).repeat(1, 1, frames, 1, 1)
    if how != "centre":
        raise ValueError(f"how is {how!r}: it must be 'mean' or 'centre'")
    inflated = torch.zeros(*weight.shape[:2], frames, *weight.shape[2:], dtype=weight.dtype)
    inflated[:, :, frames // 2] = weight
    return inflated

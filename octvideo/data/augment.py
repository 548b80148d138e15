"""Augmentation of whole batches on their device: each clip by itself, all frames of a clip alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2

from octvideo.data.seeds import torch_draws

__all__ = ["Augmentation"]


class Augmentation:
    """RandAugment (Cubuk et al., 2019) and random erasing (Zhong et al., 2017), torchvision's, from a seed a clip.

    What a clip becomes depends on its frames and its seed alone, not on its neighbours, the device's random state or
    the number of ranks. The statistics that AutoContrast, Equalize and Contrast need are those of each frame.

    Args:
        num_ops, magnitude: RandAugment: operations per clip, 0 for none, and their strength, 0 to 30.
        erasing: probability that a box becomes noise, the same in all frames.
        fill: colour in [0, 1] of what RandAugment moves in from outside the frame.
    """

    def __init__(
        self, *, num_ops: int = 0, magnitude: int = 0, erasing: float = 0.0, fill: Sequence[float] = (0.0, 0.0, 0.0)
    ) -> None:
        self._rand = self._erase = None
        if num_ops:
            color = [round(255 * value) for value in fill]
            self._rand = v2.RandAugment(num_ops, magnitude, interpolation=v2.InterpolationMode.BILINEAR, fill=color)
        if erasing:
            self._erase = v2.RandomErasing(erasing, value="random", inplace=True)  # type: ignore[arg-type]

    def frames(self, frames: Tensor, seeds: Tensor) -> Tensor:
        """Before normalising: RandAugment of ``(N, T, H, W, 3)`` uint8 with seeds ``(N,)``."""
        if self._rand is None:
            return frames
        clips = []
        for clip, seed in zip(frames.permute(0, 1, 4, 2, 3), seeds.tolist(), strict=True):
            with torch_draws(seed):
                clips.append(self._rand(clip).permute(0, 2, 3, 1))
        return torch.stack(clips)

    def clips(self, clips: Tensor, seeds: Tensor) -> Tensor:
        """After normalising, in place: erasing of ``(N, 3, T, H, W)`` with seeds ``(N,)``; noise is N(0, 1)."""
        if self._erase is not None:
            for clip, seed in zip(clips.transpose(1, 2), seeds.tolist(), strict=True):
                with torch_draws(seed ^ 1):  # not the numbers that RandAugment has drawn
                    self._erase(clip)
        return clips

"""Augment whole batches on their device. Each clip has its own random numbers; all frames of a clip share them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision.transforms import v2

from octvideo.data.seeds import fork_torch_rng

__all__ = ["Augmentation", "build_augmentation"]


class Augmentation:
    """Apply torchvision's RandAugment (Cubuk et al., 2019) and random erasing (Zhong et al., 2017), one seed per clip.

    The result depends only on the clip's frames and its seed, not on the batch, the device's random state or the
    number of ranks. AutoContrast, Equalize and Contrast take their statistics from each frame.

    Args:
        num_ops, magnitude: RandAugment's operations per clip (0: none) and their strength (0 to 30).
        erasing: probability that a box becomes noise, the same box in all frames.
        fill: colour in [0, 1] of areas that RandAugment moves in from outside the frame.
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
        """Apply RandAugment, before normalisation: ``(N, T, H, W, 3)`` uint8 with seeds ``(N,)``."""
        if self._rand is None:
            return frames
        clips = []
        for clip, seed in zip(frames.permute(0, 1, 4, 2, 3), seeds.tolist(), strict=True):
            with fork_torch_rng(seed):
                clips.append(self._rand(clip).permute(0, 2, 3, 1))
        return torch.stack(clips)

    def clips(self, clips: Tensor, seeds: Tensor) -> Tensor:
        """Erase boxes in place, after normalisation: ``(N, 3, T, H, W)`` with seeds ``(N,)``; the noise is N(0, 1)."""
        if self._erase is not None:
            for clip, seed in zip(clips.transpose(1, 2), seeds.tolist(), strict=True):
                with fork_torch_rng(seed ^ 1):  # other numbers than RandAugment drew
                    self._erase(clip)
        return clips


def build_augmentation(cfg: CfgNode) -> Augmentation:
    """Build what DATA.RANDAUGMENT and DATA.RANDOM_ERASING ask for."""
    num_ops, magnitude = cfg.DATA.RANDAUGMENT
    return Augmentation(num_ops=num_ops, magnitude=magnitude, erasing=cfg.DATA.RANDOM_ERASING, fill=cfg.DATA.MEAN)

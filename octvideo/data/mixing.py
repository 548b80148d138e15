"""Mixup and CutMix: mix each clip of a batch, and its label, with the previous one."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from octvideo.data.seeds import fork_torch_rng

__all__ = ["Mixing"]


class Mixing:
    """Apply torchvision's mixup (Zhang et al., 2017) or CutMix (Yun et al., 2019); with both, draw one for each batch.

    The batch's mixing share is drawn from Beta(alpha, alpha). Clip i is mixed with clip i - 1, the first with the last.
    CutMix puts the same box into all frames.

    Args:
        mixup, cutmix: alpha of each; 0 switches it off. At least one is above 0.
        num_classes: columns of the targets.
    """

    def __init__(self, *, mixup: float, cutmix: float, num_classes: int) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self._mix = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha])

    def __call__(self, clips: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix clips and targets.

        Args:
            clips: ``(N, 3, T, H, W)``, normalised.
            labels: ``(N,)``.
            seed: of the random numbers.

        Returns:
            Clips of the same shape in channels-last-3D memory, and targets ``(N, num_classes)`` whose rows sum to 1.
        """
        with fork_torch_rng(seed):
            video, targets = self._mix(tv_tensors.Video(clips.transpose(1, 2)), labels)
        mixed = video.as_subclass(torch.Tensor).transpose(1, 2)
        return mixed.contiguous(memory_format=torch.channels_last_3d), targets

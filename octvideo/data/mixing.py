"""Mixup and cutmix: each clip of a batch is mixed with its neighbour, and so are their labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from octvideo.data.seeds import torch_draws

__all__ = ["Mixing"]


class Mixing:
    """Mixup (Zhang et al., 2017), cutmix (Yun et al., 2019), or one of both, drawn for each batch; torchvision's.

    One share is drawn for a batch from Beta(alpha, alpha). Clip i is mixed with clip i - 1, the first with the last;
    cutmix puts the same box into all frames.

    Args:
        mixup, cutmix: alpha of each; 0 leaves it out. One at least is above 0.
        num_classes: of the targets.
    """

    def __init__(self, *, mixup: float, cutmix: float, num_classes: int) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self._mix = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha])

    def __call__(self, clips: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mixed clips and targets.

        Args:
            clips: ``(N, 3, T, H, W)``, normalised.
            labels: ``(N,)``.
            seed: of what is drawn.

        Returns:
            Clips of the same shape in channels-last-3D memory, and targets ``(N, num_classes)`` whose rows sum to 1.
        """
        with torch_draws(seed):
            video, targets = self._mix(tv_tensors.Video(clips.transpose(1, 2)), labels)
        mixed = video.as_subclass(torch.Tensor).transpose(1, 2)
        return mixed.contiguous(memory_format=torch.channels_last_3d), targets

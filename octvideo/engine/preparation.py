"""From a batch of frames to the network's inputs and targets, on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from octvideo.data import Batch, normalize_clips
from octvideo.data.augment import Augmentation
from octvideo.data.mixing import Mixing

__all__ = ["ClipPreparation"]


@dataclass(frozen=True)
class ClipPreparation:
    """Augments, normalises and mixes the clips of a training batch.

    Attributes:
        mean, std: of the frames' channels, in [0, 1].
        augment: what is done to each clip.
        mix: mixes the clips of a rank's batch; None for no mixing.
    """

    mean: Sequence[float]
    std: Sequence[float]
    augment: Augmentation = field(default_factory=Augmentation)
    mix: Mixing | None = None

    def clips(self, frames: Tensor, seeds: Tensor, device: torch.device) -> Tensor:
        """Return augmented clips ``(n, 3, T, H, W)`` of frames ``(n, T, H, W, 3)`` uint8 with seeds ``(n,)``."""
        frames = self.augment.frames(frames.to(device, non_blocking=True), seeds)
        return self.augment.clips(normalize_clips(frames, self.mean, self.std), seeds)

    def parts(self, batch: Batch, parts: int, device: torch.device, mix_seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batch in parts: clips ``(n, 3, T, H, W)`` and labels ``(n,)``, or targets ``(n, classes)``.

        Mixing pairs clips of different parts, so it prepares the whole batch at once.
        """
        prepared = 1 if self.mix else parts
        pieces = [values.chunk(prepared) for values in (batch.frames, batch.labels, batch.seeds)]
        for frames, labels, seeds in zip(*pieces, strict=True):
            clips = self.clips(frames, seeds, device)
            # Labels below 0 are not used: an unreadable clip's step is refused, and the others have a teacher.
            targets = labels.clamp(min=0).to(device, non_blocking=True)
            if self.mix is None:
                yield clips, targets
            else:
                clips, targets = self.mix(clips, targets, mix_seed)
                yield from zip(clips.chunk(parts), targets.chunk(parts))

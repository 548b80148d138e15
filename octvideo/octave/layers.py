"""Layers on pairs, other than convolution and norm."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.octave.functional import downsample, exporting, upsample
from octvideo.octave.pair import Feature, OctaveTensor, map_groups, split_channels
from octvideo.octave.segments import join_segments

__all__ = ["OctMap", "OctSqueezeExcitation", "merge", "pool_globally", "pool_groups", "split"]


class OctMap(nn.Module):
    """Apply a layer that has no channels (activation, pooling, dropout) to each group of a pair."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Feature) -> Feature:
        return map_groups(self.layer, x)


def pool_groups(pool: Callable[[Tensor], Tensor], x: OctaveTensor) -> OctaveTensor:
    """Pool each group; the low output has half the resolution of the high one, rounded up.

    A kernel of 2 drops the last row of an odd height, which the two groups do at different heights: of 6 + 3 rows,
    3 + 1 would remain where 3 + 2 are due. The low group then sees its last row twice.
    """
    if x.high is None or x.low is None:
        return x.map(pool)
    high, low = pool(x.high), pool(x.low)
    height, width = ((edge + 1) // 2 for edge in high.shape[-2:])
    if low.shape[-2:] != (height, width):
        edges = (0, 1, 0, 1) + (0, 0) * (x.low.dim() - 4)
        low = pool(F.pad(x.low, edges, mode="replicate"))[..., :height, :width]
    return OctaveTensor(high, low, x.segments, x.sources)


def merge(x: Feature) -> Tensor:
    """Merge a pair into the vanilla tensor ``(N, C, [T,] H, W)``; the low channels are upsampled."""
    if not isinstance(x, OctaveTensor):
        return x
    if x.low is None:
        assert x.high is not None
        return x.high
    return join_segments(x.high, upsample(x.low, x.shape[-2:]), x.segments, 1)


def split(x: Tensor, alpha: float, multiple: int = 1) -> Feature:
    """Split a tensor into a pair: the last ``int(alpha * C)`` channels are pooled to the low resolution."""
    high, low = split_channels(x.shape[1], alpha, multiple)
    if alpha == 0:
        return x
    return OctaveTensor(x[:, :high] if high else None, downsample(x[:, high:]) if low else None)


def pool_globally(x: Feature) -> Tensor:
    """Average each channel of all groups globally: ``(N, C)``, in the order of :func:`merge`, without merging."""
    if not isinstance(x, OctaveTensor):
        return _mean(x)
    means = x.map(_mean)
    return join_segments(means.high, means.low, x.segments, 1)


def _mean(group: Tensor) -> Tensor:
    return group.mean(tuple(range(2, group.dim()))) if exporting() else group.flatten(2).mean(2)


class OctSqueezeExcitation(nn.Module):
    """Apply squeeze-and-excitation to a pair: pool both groups, reduce them together, scale each by its expansion.

    The weights are the vanilla ones (``fc1``: C -> C / reduction, ``fc2`` back) as 1x1 convolutions; ``fc2``'s rows are
    the expansions of the high and of the low group, so the state dict is vanilla at every alpha.

    Args:
        channels: of both groups together.
        reduced: channels in between, C / 16 in the paper.
        activation, gate: builders of the two non-linearities.
        dims: 2 for ``(N, C, H, W)``, 3 for ``(N, C, T, H, W)``.
    """

    def __init__(
        self,
        channels: int,
        reduced: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
        dims: int = 3,
    ) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.fc1, self.fc2 = conv(channels, reduced, 1), conv(reduced, channels, 1)
        self.activation, self.gate = activation(), gate()

    def forward(self, x: Feature) -> Feature:
        """Scale each channel by its gate; shapes do not change."""
        pooled = pool_globally(x)
        pooled = pooled[(...,) + (None,) * (self.fc1.weight.dim() - 2)]
        return x * self.gate(self.fc2(self.activation(self.fc1(pooled))))

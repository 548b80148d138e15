"""DenseNet (Huang et al., CVPR 2017) on two frequencies; modules are named as torchvision's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from octvideo.models.blocks import Octave
from octvideo.models.image.layers import ImageHead, conv, initialise, norm, stem_convolutions
from octvideo.octave import Feature, OctaveTensor, OctPool, OctReLU, split_channels

__all__ = ["DenseLayer", "create_densenet"]


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; returns its input with its ``growth`` new channels appended.

    Args:
        dim_in, dim_inner, growth: channels.
        octave: the frequencies.
        alpha_in: alpha of the input; ``alpha``: of the inner and the new features.
    """

    def __init__(
        self, dim_in: int, dim_inner: int, growth: int, octave: Octave, *, alpha_in: float, alpha: float
    ) -> None:
        super().__init__()
        self.norm1 = norm(octave, alpha_in)(dim_in)
        self.conv1 = conv(octave, alpha_in, alpha)(dim_in, dim_inner, 1)
        self.norm2 = norm(octave, alpha)(dim_inner)
        self.conv2 = conv(octave, alpha, alpha)(dim_inner, growth, 3)
        self.relu = OctReLU(inplace=True)

    def forward(self, x: Feature) -> Feature:
        y = self.conv1(self.relu(self.norm1(x)))
        return _concatenate(x, self.conv2(self.relu(self.norm2(y))))


def create_densenet(
    octave: Octave,
    *,
    blocks: Sequence[int] = (6, 12, 24, 16),
    growth: int = 32,
    width: int = 64,
    classes: int = 1000,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build a DenseNet: ``(N, 3, H, W)`` to logits ``(N, classes)``; the same keys and shapes at every alpha.

    Groups are concatenated separately. So above alpha 0 the columns of a weight have another order than the vanilla
    one's: all high channels, then all low ones. Transitions change to the next stage's alpha; with the paper's stages
    2 to 4 the last one merges.

    Args:
        octave: the frequencies and where they are.
        blocks: layers of each dense block.
        growth: channels that each layer adds, from 4 times as many inner ones.
        width: channels after the stem.
        classes, dropout: of the head.
    """
    features: OrderedDict[str, nn.Module] = OrderedDict()
    features["conv0"], features["norm0"] = stem_convolutions(((width, 7, 2),)), nn.BatchNorm2d(width)
    features["relu0"], features["pool0"] = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    channels, low = width, 0
    for index, depth in enumerate(blocks):
        alpha = octave.at(index + 2)
        block: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(depth):
            alpha_in = _share(low, channels)
            block[f"denselayer{number + 1}"] = DenseLayer(
                channels, 4 * growth, growth, octave, alpha_in=alpha_in, alpha=alpha
            )
            channels, low = channels + growth, low + split_channels(growth, alpha, octave.multiple)[1]
        features[f"denseblock{index + 1}"] = nn.Sequential(block)
        if index + 1 < len(blocks):
            alpha_in, alpha_out = _share(low, channels), octave.at(index + 3)
            features[f"transition{index + 1}"] = nn.Sequential(
                OrderedDict(
                    norm=norm(octave, alpha_in)(channels),
                    relu=OctReLU(inplace=True),
                    conv=conv(octave, alpha_in, alpha_out)(channels, channels // 2, 1),
                    pool=OctPool(nn.AvgPool2d(2)),
                )
            )
            channels = channels // 2
            low = split_channels(channels, alpha_out, octave.multiple)[1]
    features["norm5"], features["relu5"] = norm(octave, _share(low, channels))(channels), OctReLU(inplace=True)
    network = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(features), avgpool=ImageHead(dropout), classifier=nn.Linear(channels, classes)
        )
    )
    initialise(network)
    return network


def _share(low: int, channels: int) -> float:
    """Return an alpha for exactly ``low`` of ``channels``: concatenated features have the low channels of all parts.

    At alpha 0.125, 64 channels of the stem and one layer's 28 + 4 are 92 + 4, where ``int(0.125 * 96)`` would be 12:

    >>> _share(4, 96)
    0.046875
    """
    return low / channels if low in (0, channels) else (low + 0.5) / channels


def _concatenate(x: Feature, y: Feature) -> Feature:
    if not isinstance(x, OctaveTensor) and not isinstance(y, OctaveTensor):
        return torch.cat([x, y], 1)
    pairs = [part if isinstance(part, OctaveTensor) else OctaveTensor(part, None) for part in (x, y)]
    groups = ([group for group in groups if group is not None] for groups in zip(*pairs))
    high, low = (torch.cat(group, 1) if group else None for group in groups)
    return OctaveTensor(high, low)

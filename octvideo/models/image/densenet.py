"""DenseNet (Huang et al., CVPR 2017) on two frequencies; modules are named as torchvision's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from octvideo.models.image.layers import ImageHead, conv, initialise, stem_convolutions
from octvideo.models.insertion import Octave, insert_octave
from octvideo.octave import Feature, OctaveTensor, split_channels
from octvideo.octave.plan import Plan

__all__ = ["DenseLayer", "create_densenet", "plan_densenet"]


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; returns its input with its ``growth`` new channels appended.

    Args:
        dim_in, dim_inner, growth: channels.
    """

    def __init__(self, dim_in: int, dim_inner: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim_in)
        self.conv1 = conv(dim_in, dim_inner, 1)
        self.norm2 = nn.BatchNorm2d(dim_inner)
        self.conv2 = conv(dim_inner, growth, 3)
        self.relu = nn.ReLU(inplace=True)

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
    channels = width
    for index, depth in enumerate(blocks):
        block: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(depth):
            block[f"denselayer{number + 1}"] = DenseLayer(channels, 4 * growth, growth)
            channels += growth
        features[f"denseblock{index + 1}"] = nn.Sequential(block)
        if index + 1 < len(blocks):
            features[f"transition{index + 1}"] = nn.Sequential(
                OrderedDict(
                    norm=nn.BatchNorm2d(channels),
                    relu=nn.ReLU(inplace=True),
                    conv=conv(channels, channels // 2, 1),
                    pool=nn.AvgPool2d(2),
                )
            )
            channels //= 2
    features["norm5"], features["relu5"] = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    network = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(features), avgpool=ImageHead(dropout), classifier=nn.Linear(channels, classes)
        )
    )
    initialise(network)
    insert_octave(network, octave, plan_densenet)
    return network


def plan_densenet(network: nn.Module, octave: Octave) -> Plan:
    """Return which layers of a DenseNet become octave."""
    plan, stage, low = octave.new_plan(), 1, 0
    part: Any  # of which the layers are looked at
    for name, part in network.get_submodule("features").named_children():
        place = f"features.{name}"
        if name.startswith("denseblock"):
            stage += 1
            for number, layer in part.named_children():
                alpha, alpha_in = octave.at(stage), _share(low, layer.norm1.num_features)
                octave.add_layers(
                    plan, f"{place}.{number}", layer, alpha=alpha, alpha_in=alpha_in, reading=("norm1", "conv1")
                )
                low += split_channels(layer.conv2.out_channels, alpha, octave.multiple)[1]
        elif name.startswith("transition"):
            alpha, alpha_in = octave.at(stage + 1), _share(low, part.norm.num_features)
            octave.add_layers(plan, place, part, alpha=alpha, alpha_in=alpha_in, reading=("norm", "conv"))
            low = split_channels(part.conv.out_channels, alpha, octave.multiple)[1]
        elif name == "norm5":
            octave.add_layers(plan, place, part, alpha=_share(low, part.num_features))
    return plan


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

"""MobileNetV1 and V2 (Howard et al., 2017; Sandler et al., CVPR 2018) on two frequencies, Table 3."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from octvideo.models.blocks import Octave
from octvideo.models.image.layers import ImageHead, conv, initialise, norm
from octvideo.octave import Feature, OctMap, OctReLU, add

__all__ = ["InvertedResidual", "create_mobilenet_v1", "create_mobilenet_v2"]

# (output channels, stride) of each depth-wise separable block.
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# (expansion, output channels, blocks, stride of the first).
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def create_mobilenet_v1(
    octave: Octave, *, multiplier: float = 1.0, octave_blocks: int = 10, classes: int = 1000, dropout: float = 0.0
) -> nn.Sequential:
    """Build MobileNetV1: ``(N, 3, H, W)`` to logits ``(N, classes)``; the same state dict at every alpha.

    Args:
        octave: the frequencies; its ``stages`` do not apply.
        multiplier: of all widths, which are rounded down.
        octave_blocks: number of point-wise convolutions, from the first, that return pairs.
        classes, dropout: of the head.
    """
    dim_in, alpha_in = int(32 * multiplier), 0.0
    features = [_stem(dim_in, nn.ReLU(inplace=True))]
    for index, (width, stride) in enumerate(V1):
        dim_out, alpha = int(width * multiplier), octave.alpha if index < octave_blocks else 0.0
        features.append(
            nn.Sequential(
                conv(octave, alpha_in, alpha_in)(dim_in, dim_in, 3, stride, dim_in),
                norm(octave, alpha_in)(dim_in),
                OctReLU(inplace=True),
                conv(octave, alpha_in, alpha)(dim_in, dim_out, 1),
                norm(octave, alpha)(dim_out),
                OctReLU(inplace=True),
            )
        )
        dim_in, alpha_in = dim_out, alpha
    return _network(features, dim_in, classes, dropout)


class InvertedResidual(nn.Module):
    """1x1 to ``dim_inner``, depth-wise 3x3, 1x1; modules are named as torchvision's.

    Input and output have one frequency; ``alpha`` is that of the inner channels.

    Args:
        expand: False: without the first 1x1; then ``dim_inner`` is ``dim_in`` and has one frequency.
    """

    def __init__(
        self, dim_in: int, dim_inner: int, dim_out: int, stride: int, octave: Octave, *, alpha: float, expand: bool
    ) -> None:
        super().__init__()
        alpha = alpha if expand else 0.0
        layers: list[nn.Module] = []
        if expand:
            layers.append(_activated(conv(octave, 0.0, alpha)(dim_in, dim_inner, 1), norm(octave, alpha)(dim_inner)))
        depthwise = conv(octave, alpha, alpha)(dim_inner, dim_inner, 3, stride, dim_inner)
        layers.append(_activated(depthwise, norm(octave, alpha)(dim_inner)))
        layers += [conv(octave, alpha, 0.0)(dim_inner, dim_out, 1), nn.BatchNorm2d(dim_out)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and dim_in == dim_out

    def forward(self, x: Feature) -> Feature:
        return add(x, self.conv(x)) if self.residual else self.conv(x)


def create_mobilenet_v2(
    octave: Octave,
    *,
    multiplier: float = 1.0,
    octave_blocks: int = 13,
    expand_first: bool = False,
    classes: int = 1000,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build MobileNetV2: ``(N, 3, H, W)`` to logits ``(N, classes)``; the same state dict at every alpha.

    Args:
        octave: the frequencies; its ``stages`` do not apply.
        multiplier: of all widths, which are rounded down; the last is at least 1280.
        octave_blocks: number of blocks, from the first, whose expanded channels are a pair.
        expand_first: the first block starts with a 1x1 convolution too, though its expansion is 1.
        classes, dropout: of the head.
    """
    dim_in, last = int(32 * multiplier), int(1280 * max(1.0, multiplier))
    features = [_stem(dim_in, nn.ReLU6(inplace=True))]
    for expansion, width, depth, first_stride in V2:
        for number in range(depth):
            dim_out = int(width * multiplier)
            features.append(
                InvertedResidual(
                    dim_in,
                    expansion * dim_in,
                    dim_out,
                    first_stride if number == 0 else 1,
                    octave,
                    alpha=octave.alpha if len(features) <= octave_blocks else 0.0,
                    expand=expansion > 1 or expand_first,
                )
            )
            dim_in = dim_out
    features.append(_activated(nn.Conv2d(dim_in, last, 1, bias=False), nn.BatchNorm2d(last)))
    return _network(features, last, classes, dropout)


def _stem(width: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), activation)


def _activated(convolution: nn.Module, batch_norm: nn.Module) -> nn.Module:
    return nn.Sequential(convolution, batch_norm, OctMap(nn.ReLU6(inplace=True)))


def _network(features: list[nn.Module], width: int, classes: int, dropout: float) -> nn.Sequential:
    # torchvision's classifier is dropout (0) and a linear layer (1).
    classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))
    network = nn.Sequential(OrderedDict(features=nn.Sequential(*features), avgpool=ImageHead(), classifier=classifier))
    initialise(network)
    return network

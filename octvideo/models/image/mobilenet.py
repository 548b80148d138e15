"""MobileNetV1 and V2 (Howard et al., 2017; Sandler et al., CVPR 2018) on two frequencies, Table 3."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from octvideo.models.image.layers import ImageHead, conv, initialise
from octvideo.models.insertion import Octave, insert_octave
from octvideo.octave import Feature, add
from octvideo.octave.plan import Plan

__all__ = ["InvertedResidual", "create_mobilenet_v1", "create_mobilenet_v2", "plan_mobilenet_v1", "plan_mobilenet_v2"]

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
    dim_in = int(32 * multiplier)
    features = [_stem(dim_in, nn.ReLU(inplace=True))]
    for width, stride in V1:
        dim_out = int(width * multiplier)
        features.append(
            nn.Sequential(
                conv(dim_in, dim_in, 3, stride, dim_in),
                nn.BatchNorm2d(dim_in),
                nn.ReLU(inplace=True),
                conv(dim_in, dim_out, 1),
                nn.BatchNorm2d(dim_out),
                nn.ReLU(inplace=True),
            )
        )
        dim_in = dim_out
    network = _network(features, dim_in, classes, dropout)
    insert_octave(network, octave, partial(plan_mobilenet_v1, octave_blocks=octave_blocks))
    return network


def plan_mobilenet_v1(network: nn.Module, octave: Octave, octave_blocks: int) -> Plan:
    """Return which layers of MobileNetV1 become octave."""
    plan, alpha_in = octave.new_plan(), 0.0
    _, *blocks = network.get_submodule("features").named_children()
    for index, (name, block) in enumerate(blocks):
        alpha = octave.alpha if index < octave_blocks else 0.0
        place = f"features.{name}"
        for layer in ("0", "1"):  # the depth-wise convolution and its norm
            octave.add_layers(plan, f"{place}.{layer}", block.get_submodule(layer), alpha=alpha_in, alpha_in=alpha_in)
        octave.add_layers(plan, f"{place}.3", block.get_submodule("3"), alpha=alpha, alpha_in=alpha_in, reading=("",))
        octave.add_layers(plan, f"{place}.4", block.get_submodule("4"), alpha=alpha)
        alpha_in = alpha
    return plan


class InvertedResidual(nn.Module):
    """1x1 to ``dim_inner``, depth-wise 3x3, 1x1; modules are named as torchvision's.

    Args:
        expand: False: without the first 1x1; then ``dim_inner`` is ``dim_in``.
    """

    def __init__(self, dim_in: int, dim_inner: int, dim_out: int, stride: int, *, expand: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [_activated(dim_in, dim_inner, 1)] if expand else []
        layers.append(_activated(dim_inner, dim_inner, 3, stride, dim_inner))
        layers += [conv(dim_inner, dim_out, 1), nn.BatchNorm2d(dim_out)]
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
                    expand=expansion > 1 or expand_first,
                )
            )
            dim_in = dim_out
    features.append(_activated(dim_in, last, 1))
    network = _network(features, last, classes, dropout)
    insert_octave(network, octave, partial(plan_mobilenet_v2, octave_blocks=octave_blocks))
    return network


def plan_mobilenet_v2(network: nn.Module, octave: Octave, octave_blocks: int) -> Plan:
    """Return which layers of MobileNetV2 become octave: those of the expanded channels in the first blocks."""
    plan = octave.new_plan()
    blocks = [item for item in network.named_modules() if isinstance(item[1], InvertedResidual)]
    for index, (name, block) in enumerate(blocks):
        alpha = octave.alpha if index < octave_blocks and len(block.conv) > 3 else 0.0
        last = block.conv[:-1]  # without the norm of the output, which has one frequency
        octave.add_layers(
            plan,
            f"{name}.conv",
            last,
            alpha=alpha,
            alpha_in=0.0,
            reading=("0.0",),
            writing_tensors=(str(len(last) - 1),),
        )
    return plan


def _stem(width: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), activation)


def _activated(dim_in: int, dim_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(conv(dim_in, dim_out, kernel, stride, groups), nn.BatchNorm2d(dim_out), nn.ReLU6(inplace=True))


def _network(features: list[nn.Module], width: int, classes: int, dropout: float) -> nn.Sequential:
    # torchvision's classifier is dropout (0) and a linear layer (1).
    classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))
    network = nn.Sequential(OrderedDict(features=nn.Sequential(*features), avgpool=ImageHead(), classifier=classifier))
    initialise(network)
    return network

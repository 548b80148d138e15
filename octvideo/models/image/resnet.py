"""Image ResNets on two frequencies: pre- or post-activation, groups, SE, GloRe, the stems of Tables 4 and 5.

Modules are named as torchvision's (``layer1.0.conv1``, ``fc``) and timm's (``se.fc1``, deep stems), so at every alpha
their checkpoints of the same architecture load key by key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from octvideo.models.image.glore import GloRe
from octvideo.models.image.layers import ImageHead, conv, initialise, stem_convolutions
from octvideo.models.insertion import Octave, insert_octave
from octvideo.octave import Feature, OctSqueezeExcitation, add
from octvideo.octave.plan import Plan

__all__ = ["Bottleneck", "PreactivationBottleneck", "create_image_resnet", "plan_image_resnet"]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with the ReLU after the sum (He et al., CVPR 2016).

    Args:
        dim_in, dim_inner, dim_out: channels.
        stride: spatial, of convolution ``stride_on``: 2 is the 3x3 (torchvision, "v1b"), 3 the last 1x1 ("v1e").
        project: the shortcut is a convolution.
        groups: of the 3x3.
        se: squeeze-and-excitation to a 16th of the channels.
        input_norm: a norm without parameters before the first 1x1 and the projection (Table 5, with SE).
    """

    READING = ("bn0", "conv1", "downsample.0")  # the layers that take the input

    def __init__(
        self,
        dim_in: int,
        dim_inner: int,
        dim_out: int,
        *,
        stride: int = 1,
        project: bool = False,
        groups: int = 1,
        se: bool = False,
        stride_on: int = 2,
        input_norm: bool = False,
    ) -> None:
        super().__init__()
        strides = [stride if layer == stride_on else 1 for layer in (1, 2, 3)]
        self.bn0 = nn.BatchNorm2d(dim_in, affine=False) if input_norm else nn.Identity()
        self.conv1 = conv(dim_in, dim_inner, 1, strides[0])
        self.bn1 = nn.BatchNorm2d(dim_inner)
        self.conv2 = conv(dim_inner, dim_inner, 3, strides[1], groups)
        self.bn2 = nn.BatchNorm2d(dim_inner)
        self.conv3 = conv(dim_inner, dim_out, 1, strides[2])
        self.bn3 = nn.BatchNorm2d(dim_out)
        self.se = OctSqueezeExcitation(dim_out, dim_out // 16, dims=2) if se else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if project:
            shortcut = conv(dim_in, dim_out, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(dim_out))

    def forward(self, x: Feature) -> Feature:
        z = self.bn0(x)
        y = self.relu(self.bn1(self.conv1(z)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.se(self.bn3(self.conv3(y)))
        return self.relu(add(y, x if self.downsample is None else self.downsample(z)))


class PreactivationBottleneck(nn.Module):
    """Norm and ReLU before each convolution, none after the sum (He et al., ECCV 2016); arguments as ``Bottleneck``.

    As in the authors' networks, the projection has a separate norm and ReLU.
    """

    READING = ("bn1", "conv1", "downsample.0", "downsample.2")

    def __init__(
        self,
        dim_in: int,
        dim_inner: int,
        dim_out: int,
        *,
        stride: int = 1,
        project: bool = False,
        groups: int = 1,
        se: bool = False,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(dim_in)
        self.conv1 = conv(dim_in, dim_inner, 1)
        self.bn2 = nn.BatchNorm2d(dim_inner)
        self.conv2 = conv(dim_inner, dim_inner, 3, stride, groups)
        self.bn3 = nn.BatchNorm2d(dim_inner)
        self.conv3 = conv(dim_inner, dim_out, 1)
        self.se = OctSqueezeExcitation(dim_out, dim_out // 16, dims=2) if se else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if project:
            shortcut = conv(dim_in, dim_out, 1, stride)
            self.downsample = nn.Sequential(nn.BatchNorm2d(dim_in), nn.ReLU(inplace=True), shortcut)

    def forward(self, x: Feature) -> Feature:
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        y = self.se(self.conv3(self.relu(self.bn3(y))))
        return add(y, self.downsample(x))


def create_image_resnet(
    octave: Octave,
    *,
    blocks: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    widen: int = 1,
    groups: int = 1,
    se: bool = False,
    preactivation: bool = False,
    stride_on: int = 2,
    input_norm: bool = False,
    stem: Sequence[tuple[int, int, int]] | None = None,
    stem_down: str = "pool",
    glore_after: Sequence[int] = (),
    classes: int = 1000,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build an image ResNet: ``(N, 3, H, W)`` to logits ``(N, classes)``; the same state dict at every alpha.

    Args:
        octave: the frequencies and where they are.
        blocks: blocks of res2 to res5.
        width: channels after the stem; res2 ends in 4 times as many, each further stage in twice as many as the last.
        widen: factor from ``width`` to the channels of res2's 3x3 convolutions; 2 in ResNeXt 32x4d.
        groups: of the 3x3 convolutions.
        se: squeeze-and-excitation in each block.
        preactivation: ``PreactivationBottleneck`` (Table 9), else ``Bottleneck`` with ``stride_on`` and ``input_norm``.
        stem: (channels, kernel, stride) of each convolution; default: one of 7x7, stride 2.
        stem_down: how the stem's map is halved: "pool", max pooling; "conv", a 3x3 convolution; "block", a 1-3-1
            residual block of half the inner width (the last two from bL-Net, Chen et al., ICLR 2019).
        glore_after: indices of the blocks of res4 that a GloRe unit follows.
        classes, dropout: of the head.
    """
    stem = stem or ((width, 7, 2),)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"], layers["bn1"], layers["relu"] = stem_convolutions(stem), nn.BatchNorm2d(stem[-1][0]), nn.ReLU(True)
    layers["maxpool"] = _halve(stem_down, stem[-1][0])
    block = (
        PreactivationBottleneck if preactivation else partial(Bottleneck, stride_on=stride_on, input_norm=input_norm)
    )
    dim_in = stem[-1][0]
    for index, depth in enumerate(blocks):
        dim_out = 4 * width * 2**index
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(depth):
            first = number == 0
            stage[str(number)] = block(
                dim_in,
                width * widen * 2**index,
                dim_out,
                stride=2 if first and index else 1,
                project=first,
                groups=groups,
                se=se,
            )
            if index == 2 and number in glore_after:
                stage[f"glore{number}"] = GloRe(dim_out, dim_out // 4, dim_out // 2)
            dim_in = dim_out
        layers[f"layer{index + 1}"] = nn.Sequential(stage)
    if preactivation:
        layers["norm"], layers["act"] = nn.BatchNorm2d(dim_in), nn.ReLU(inplace=True)
    layers["avgpool"], layers["fc"] = ImageHead(dropout), nn.Linear(dim_in, classes)
    network = nn.Sequential(layers)
    initialise(network)
    insert_octave(network, octave, plan_image_resnet)
    return network


def plan_image_resnet(network: nn.Module, octave: Octave) -> Plan:
    """Return which layers of an image ResNet become octave."""
    plan, alpha_in = octave.new_plan(), 0.0
    for stage in (2, 3, 4, 5):
        alpha, layer = octave.at(stage), f"layer{stage - 1}"
        for number, block in network.get_submodule(layer).named_children():
            place = f"{layer}.{number}"
            if isinstance(block, GloRe):
                # The nodes are gathered from one map.
                octave.add_layers(plan, place, block, alpha=alpha, writing_tensors=("conv_state", "conv_project"))
            else:
                # The frequencies can change only where the shortcut is a convolution.
                assert isinstance(block, (Bottleneck, PreactivationBottleneck))
                octave.add_layers(plan, place, block, alpha=alpha, alpha_in=alpha_in, reading=block.READING)
                alpha_in = alpha
    if hasattr(network, "norm"):
        octave.add_layers(plan, "norm", network.get_submodule("norm"), alpha=alpha_in)
    return plan


def _halve(how: str, width: int) -> nn.Module:
    if how == "pool":
        return nn.MaxPool2d(3, 2, 1)
    if how == "conv":
        return nn.Sequential(stem_convolutions(((width, 3, 2),), width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    if how == "block":
        return Bottleneck(width, width // 2, width, stride=2, project=True)
    raise ValueError(f"stem_down is {how!r}: it must be 'pool', 'conv' or 'block'")

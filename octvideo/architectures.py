"""The networks that MODEL.ARCH names: kernels of the video ResNets, families and arguments of the others.

Plain data, without torch: the configuration knows every name before torch is loaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "ARCHITECTURES",
    "HUB_NETWORKS",
    "IMAGE_NETWORKS",
    "VIDEO_RESNETS",
    "HubNetwork",
    "ImageNetwork",
    "VideoResNet",
]


class VideoResNet(NamedTuple):
    """The differences of C2D, I3D and Slow; the fields are arguments of ``create_octave_resnet``."""

    stem_kernel: tuple[int, int, int]
    temporal_kernels: tuple[tuple[int, ...], ...]  # per stage, of its first convolutions, repeated over the blocks
    temporal_pool: bool  # after res2


VIDEO_RESNETS = {
    "c2d": VideoResNet((1, 7, 7), ((1,), (1,), (1,), (1,)), True),
    "i3d": VideoResNet((5, 7, 7), ((3,), (3, 1), (3, 1), (1, 3)), True),
    "slow": VideoResNet((1, 7, 7), ((1,), (1,), (3,), (3,)), False),
}


class HubNetwork(NamedTuple):
    """A network of ``pytorchvideo.models.hub``, made octave by ``octavize``.

    Attributes:
        family: "x3d", "csn" or "r2plus1d".
        arguments: of PyTorchVideo's create function.
        temporal_stride: frames of the clip per frame of the last map.
    """

    family: str
    arguments: dict[str, Any]
    temporal_stride: int


_X3D = HubNetwork("x3d", dict(depth_factor=2.2), 1)

HUB_NETWORKS = {
    # XS, S and M are one network, on clips of other sizes.
    "x3d_xs": _X3D,
    "x3d_s": _X3D,
    "x3d_m": _X3D,
    "x3d_l": HubNetwork("x3d", dict(depth_factor=5.0), 1),
    "csn_r101": HubNetwork("csn", dict(model_depth=101), 8),
    "r2plus1d_r50": HubNetwork("r2plus1d", dict(model_depth=50), 4),
}


class ImageNetwork(NamedTuple):
    """A family ("resnet", "densenet", "mobilenet_v1", "mobilenet_v2") and the arguments of its create function."""

    family: str
    arguments: dict[str, Any]


_DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
_32X4D: dict[str, Any] = dict(widen=2, groups=32)
_PRE: dict[str, Any] = dict(preactivation=True)
_THREE_CONVOLUTIONS = ((8, 3, 1), (32, 3, 2), (64, 3, 1))


def _resnet(depth: int, **arguments: Any) -> ImageNetwork:
    return ImageNetwork("resnet", {"blocks": _DEPTHS[depth], **arguments})


IMAGE_NETWORKS = {
    # torchvision's and timm's: post-activation, stride on the 3x3.
    "resnet50": _resnet(50),
    "resnet101": _resnet(101),
    "se_resnet50": _resnet(50, se=True),
    "resnext50_32x4d": _resnet(50, **_32X4D),
    "densenet121": ImageNetwork("densenet", {}),
    "mobilenet_v2": ImageNetwork("mobilenet_v2", {}),
    # Tables 2 and 9.
    "resnet26_preact": _resnet(26, **_PRE),
    "resnet50_preact": _resnet(50, **_PRE),
    "resnet101_preact": _resnet(101, **_PRE),
    "resnet200_preact": _resnet(200, **_PRE),
    "se_resnet50_preact": _resnet(50, **_PRE, se=True),
    "resnext50_32x4d_preact": _resnet(50, **_PRE, **_32X4D),
    "resnext101_32x4d_preact": _resnet(101, **_PRE, **_32X4D),
    # Table 3; the authors' MobileNetV2 has a 1x1 convolution in front of every depth-wise one.
    "mobilenet_v1_075": ImageNetwork("mobilenet_v1", dict(multiplier=0.75)),
    "mobilenet_v1_100": ImageNetwork("mobilenet_v1", dict(multiplier=1.0)),
    "mobilenet_v2_100": ImageNetwork("mobilenet_v2", dict(multiplier=1.0, expand_first=True)),
    "mobilenet_v2_1125": ImageNetwork("mobilenet_v2", dict(multiplier=1.125, expand_first=True)),
    # Table 4.
    "resnet50_glore_preact": _resnet(50, **_PRE, glore_after=(0, 2, 4)),
    "resnet50_blstem": _resnet(50, stem_down="block"),
    "resnext50_32x4d_blstem": _resnet(50, **_32X4D, stem=_THREE_CONVOLUTIONS, stem_down="conv"),
    "resnext101_32x4d_blstem": _resnet(101, **_32X4D, stem_down="conv"),
    "resnext101_32x4d_blstem_balanced": ImageNetwork("resnet", dict(blocks=(4, 9, 18, 3), **_32X4D, stem_down="conv")),
    # Table 5.
    "resnet152_v1f": _resnet(152, stride_on=3, stem=_THREE_CONVOLUTIONS, stem_down="block"),
    "se_resnet152_v1e": _resnet(152, stride_on=3, se=True, input_norm=True, stem=((32, 3, 2), (32, 3, 1), (64, 3, 1))),
}

ARCHITECTURES = (*VIDEO_RESNETS, "slowfast", *HUB_NETWORKS, *IMAGE_NETWORKS)

"""The image networks by name: each is one of the families with its arguments.

Called as ``IMAGE_NETWORKS["resnet50"](octave, classes=1000, dropout=0.0)``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from octvideo.models.image.densenet import create_densenet
from octvideo.models.image.mobilenet import create_mobilenet_v1, create_mobilenet_v2
from octvideo.models.image.resnet import create_image_resnet

__all__ = ["IMAGE_NETWORKS"]

_DEEP = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
_32X4D: dict[str, Any] = dict(widen=2, groups=32)
_THREE_CONVOLUTIONS = ((8, 3, 1), (32, 3, 2), (64, 3, 1))


def _resnet(depth: int, **arguments: Any) -> partial[nn.Sequential]:
    return partial(create_image_resnet, blocks=_DEEP[depth], **arguments)


_preact = partial(_resnet, preactivation=True)

IMAGE_NETWORKS: dict[str, partial[nn.Sequential]] = {
    # torchvision's and timm's: post-activation, stride on the 3x3.
    "resnet50": _resnet(50),
    "resnet101": _resnet(101),
    "se_resnet50": _resnet(50, se=True),
    "resnext50_32x4d": _resnet(50, **_32X4D),
    "densenet121": partial(create_densenet),
    "mobilenet_v2": partial(create_mobilenet_v2),
    # Tables 2 and 9.
    "resnet26_preact": _preact(26),
    "resnet50_preact": _preact(50),
    "resnet101_preact": _preact(101),
    "resnet200_preact": _preact(200),
    "se_resnet50_preact": _preact(50, se=True),
    "resnext50_32x4d_preact": _preact(50, **_32X4D),
    "resnext101_32x4d_preact": _preact(101, **_32X4D),
    # Table 3; the authors' MobileNetV2 has a 1x1 convolution in front of every depth-wise one.
    "mobilenet_v1_075": partial(create_mobilenet_v1, multiplier=0.75),
    "mobilenet_v1_100": partial(create_mobilenet_v1, multiplier=1.0),
    "mobilenet_v2_100": partial(create_mobilenet_v2, multiplier=1.0, expand_first=True),
    "mobilenet_v2_1125": partial(create_mobilenet_v2, multiplier=1.125, expand_first=True),
    # Table 4.
    "resnet50_glore_preact": _preact(50, glore_after=(0, 2, 4)),
    "resnet50_blstem": _resnet(50, stem_down="block"),
    "resnext50_32x4d_blstem": _resnet(50, **_32X4D, stem=_THREE_CONVOLUTIONS, stem_down="conv"),
    "resnext101_32x4d_blstem": _resnet(101, **_32X4D, stem_down="conv"),
    "resnext101_32x4d_blstem_balanced": partial(create_image_resnet, blocks=(4, 9, 18, 3), **_32X4D, stem_down="conv"),
    # Table 5.
    "resnet152_v1f": _resnet(152, stride_on=3, stem=_THREE_CONVOLUTIONS, stem_down="block"),
    "se_resnet152_v1e": _resnet(152, stride_on=3, se=True, input_norm=True, stem=((32, 3, 2), (32, 3, 1), (64, 3, 1))),
}

"""Build an image network by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from octvideo.architectures import IMAGE_NETWORKS
from octvideo.models.image.densenet import create_densenet
from octvideo.models.image.mobilenet import create_mobilenet_v1, create_mobilenet_v2
from octvideo.models.image.resnet import create_image_resnet
from octvideo.models.insertion import Octave

__all__ = ["create_image_network"]

_FAMILIES: dict[str, Callable[..., nn.Sequential]] = {
    "resnet": create_image_resnet,
    "densenet": create_densenet,
    "mobilenet_v1": create_mobilenet_v1,
    "mobilenet_v2": create_mobilenet_v2,
}


def create_image_network(name: str, octave: Octave, **arguments: Any) -> nn.Sequential:
    """Build the image network ``name`` of ``IMAGE_NETWORKS``: ``(N, 3, H, W)`` to logits ``(N, classes)``.

    Args:
        name: a key of ``octvideo.architectures.IMAGE_NETWORKS``.
        octave: the frequencies and where they are.
        arguments: of the family's create function (``classes``, ``dropout``, ...), in place of the network's.
    """
    family, defaults = IMAGE_NETWORKS[name]
    return _FAMILIES[family](octave, **{**defaults, **arguments})

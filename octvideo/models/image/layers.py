"""Parts of the image networks: convolutions, stems and heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from octvideo.octave import Feature, pool_globally

__all__ = ["ImageHead", "conv", "for_clips", "initialise", "stem_convolutions"]


def conv(dim_in: int, dim_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, whose padding keeps the size at stride 1."""
    return nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def stem_convolutions(layers: Sequence[tuple[int, int, int]], dim_in: int = 3) -> nn.Module:
    """Build convolutions ``(width, kernel, stride)`` with norm and ReLU between them, none after the last.

    One layer is torchvision's ``conv1``; several are timm's deep stem.
    """
    widths = [dim_in, *(width for width, _, _ in layers)]
    modules: list[nn.Module] = []
    for (before, width), (_, kernel, stride) in zip(pairwise(widths), layers):
        if modules:
            modules += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
        modules.append(nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False))
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


class ImageHead(nn.Module):
    """Global average pooling of all groups, dropout: features ``(N, C, H, W)`` or a pair to ``(N, C)``."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Feature) -> Tensor:
        return self.dropout(pool_globally(x))


class SingleFrame(nn.Module):
    """Clips of one frame ``(N, C, 1, H, W)`` to images ``(N, C, H, W)``; images are not changed."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(2) if x.dim() == 5 else x


def for_clips(network: nn.Sequential) -> nn.Sequential:
    """Return the network, with the same keys, for clips of one frame too."""
    wrapped = nn.Sequential(OrderedDict(frame=SingleFrame(), **dict(network.named_children())))
    wrapped.octave_rule, wrapped.octave_plan = network.octave_rule, network.octave_plan
    return wrapped


def initialise(network: nn.Module) -> None:
    """Initialise convolutions after He et al. and the classifier with a small normal distribution."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)

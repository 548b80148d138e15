"""Parts of the image networks: 2D builders on two frequencies, stems and heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from octvideo.models.blocks import Octave
from octvideo.octave import Feature, OctBatchNorm2d, OctConv2d, pool_globally

__all__ = ["ImageHead", "conv", "for_clips", "initialise", "norm", "stem_convolutions"]


def conv(octave: Octave, alpha_in: float, alpha_out: float) -> Callable[..., nn.Module]:
    """Return a builder of convolutions without bias, called as ``nn.Conv2d``; padding keeps the size at stride 1."""

    def build(dim_in: int, dim_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
        layer = octave.conv(alpha_in, alpha_out, OctConv2d)
        return layer(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False)

    return build


def norm(octave: Octave, alpha: float) -> Callable[..., nn.Module]:
    """Return a builder of batch norms, called as ``nn.BatchNorm2d``."""
    return octave.norm(alpha, OctBatchNorm2d)


def stem_convolutions(layers: Sequence[tuple[int, int, int]], dim_in: int = 3) -> nn.Module:
    """Build vanilla convolutions ``(width, kernel, stride)`` with norm and ReLU between them, none after the last.

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
    return nn.Sequential(OrderedDict(frame=SingleFrame(), **dict(network.named_children())))


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

"""The tensor operations of an octave convolution. Height and width are halved and doubled; time is not.

Each works on 4 dimensions ``(N, C, H, W)`` and on 5 ``(N, C, T, H, W)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["convolve", "convolve_as_2d", "downsample", "exporting", "upsample"]

# PyTorch 2.6 has only is_compiling, which is true in torch.compile too.
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def exporting() -> bool:
    """Tell whether ``torch.export`` is tracing the network, as in every export.

    In exported graphs clips keep five dimensions in all layers: other runtimes have fast 3D operations, and each change
    of shape is a copy. Eager PyTorch on a CPU is faster with frames as images.
    """
    return _is_exporting()


def downsample(x: Tensor, mode: str = "avg") -> Tensor:
    """Halve height and width: 2x2 pooling with stride 2; odd sizes are rounded up, the border is not counted.

    Args:
        x: ``(N, C, [T,] H, W)``.
        mode: ``"avg"`` (Eq. 4) or ``"max"`` (Table 8).

    Returns:
        ``(N, C, [T,] ceil(H / 2), ceil(W / 2))``.
    """
    if x.dim() == 5 and not exporting():
        return _per_frame(x, mode)
    window, ceil = (2, 2), True
    if exporting():
        # In other runtimes ceil_mode can cost a padded copy; the exporter refuses windows larger than the map.
        height, width = x.shape[-2:]
        window, ceil = (min(2, height), min(2, width)), height % 2 == 1 or width % 2 == 1
    kernel = (1,) * (x.dim() - 4) + window
    if mode == "max":
        return (F.max_pool3d if x.dim() == 5 else F.max_pool2d)(x, kernel, ceil_mode=ceil)
    return (F.avg_pool3d if x.dim() == 5 else F.avg_pool2d)(x, kernel, ceil_mode=ceil, count_include_pad=False)


def _per_frame(x: Tensor, mode: str) -> Tensor:
    """Pool every frame as an image, without a copy: 3D pooling has no channels-last kernel."""
    n, c, t = x.shape[:3]
    if x.is_contiguous():
        y = downsample(x.flatten(1, 2), mode)
        return y.unflatten(1, (c, t))
    y = downsample(x.transpose(1, 2).flatten(0, 1), mode)
    return y.unflatten(0, (n, t)).transpose(1, 2)


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample height and width to ``size`` = (H, W) by nearest neighbours (Eq. 4).

    Output position p takes input position floor(p / 2), at odd sizes too: 5 -> ``0 0 1 1 2``.
    """
    if x.dim() == 5 and not exporting():
        n, c, t = x.shape[:3]
        if x.is_contiguous():
            return upsample(x.flatten(1, 2), size).unflatten(1, (c, t))
        return upsample(x.transpose(1, 2).flatten(0, 1), size).unflatten(0, (n, t)).transpose(1, 2)
    factors = (1.0,) * (x.dim() - 4) + (2.0, 2.0)
    y = F.interpolate(x, scale_factor=factors, mode="nearest")
    height, width = size
    return y if y.shape[-2:] == (height, width) else y[..., :height, :width]


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
    as_2d: bool = False,
) -> Tensor:
    """Call ``conv2d`` or ``conv3d`` by the number of dimensions; ``as_2d`` runs a 3D convolution as 2D ones.

    Exported graphs always have 3D convolutions.
    """
    if x.dim() == 4:
        x, stride = _seen(x, weight, stride, padding)
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
    if as_2d and not isinstance(padding, str) and not exporting():
        return convolve_as_2d(x, weight, bias, stride, padding, dilation, groups)
    return torch.conv3d(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]


def convolve_as_2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Run a 3D convolution as 2D ones: equal up to rounding, several times as fast on a CPU in channels-last memory.

    - ``(1, k, k)``: an image convolution of every frame.
    - ``(k, 1, 1)``: an image convolution of the ``(T, H * W)`` plane.
    - ``(k, k, k)``: the k frames that an output frame sees are stacked as channels, then as ``(1, k, k)``.

    Args and result as ``torch.conv3d``.
    """
    n, _, t = x.shape[:3]
    if weight.shape[2] == 1 and stride[0] == 1 and padding[0] == 0:
        kernel = weight[:, :, 0]
        frames, spatial = _seen(x.transpose(1, 2).flatten(0, 1), kernel, stride[1:], padding[1:])
        y = torch.conv2d(frames, kernel, bias, spatial, padding[1:], dilation[1:], groups)
        return y.unflatten(0, (n, t)).transpose(1, 2)
    if tuple(weight.shape[3:]) == (1, 1) and tuple(stride[1:]) == (1, 1) and tuple(padding[1:]) == (0, 0):
        kernel = weight[..., 0]
        y = torch.conv2d(_plane(x), kernel, bias, (stride[0], 1), (padding[0], 0), (dilation[0], 1), groups)
        return y.unflatten(3, x.shape[3:])
    if groups > 1:
        return torch.conv3d(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
    x = F.pad(x, (0, 0, 0, 0, padding[0], padding[0]))
    taps = weight.shape[2]
    steps = (x.shape[2] - dilation[0] * (taps - 1) - 1) // stride[0] + 1
    span = (steps - 1) * stride[0] + 1
    starts = [tap * dilation[0] for tap in range(taps)]
    stacked = torch.cat([x[:, :, start : start + span : stride[0]] for start in starts], dim=1)
    frames = stacked.transpose(1, 2).flatten(0, 1)
    kernel = weight.transpose(1, 2).flatten(1, 2)
    y = torch.conv2d(frames, kernel, bias, stride[1:], padding[1:], dilation[1:])
    return y.unflatten(0, (n, steps)).transpose(1, 2)


def _seen(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int] | str
) -> tuple[Tensor, Sequence[int]]:
    """What ``conv2d`` gets as input and stride: of few channels, the pixels that a 1x1 kernel with a stride sees.

    On a CPU the gradient of such a convolution, of 2 to 6 channels in channels-last memory, writes beyond its memory
    and ends the process (PyTorch 2.15.0).
    """
    if x.shape[1] < 8 and tuple(weight.shape[2:]) == (1, 1) and max(stride) > 1 and not any(padding):
        return x[..., :: stride[0], :: stride[1]], (1, 1)
    return x, stride


def _plane(x: Tensor) -> Tensor:
    """``(N, C, T, H, W)`` as ``(N, C, T, H * W)``, a view in the memory format of ``x``.

    Of one clip in channels-last memory ``x.flatten(3)`` has a batch stride of C, as a dimension of size 1 may have any.
    PyTorch no longer sees the format then: it would copy to the other one and go on in that.
    """
    if x.is_contiguous():
        return x.flatten(3)
    return x.permute(0, 2, 3, 4, 1).flatten(2, 3).permute(0, 3, 1, 2)

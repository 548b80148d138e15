"""Octave convolution, Sec. 3.2 and 3.3 of "Drop an Octave" (Chen et al., ICCV 2019), in 2D and in 3D.

One parameter of vanilla shape holds the four kernels, high channels first, so the state dict is that of the vanilla
layer at every alpha::

                      in_high      in_low
                  +-------------+---------+
        out_high  |     H->H    |  L->H   |      Y^H = f(X^H; H->H) + upsample(f(X^L; L->H))
                  +-------------+---------+
        out_low   |     H->L    |  L->L   |      Y^L = f(X^L; L->L) + f(pool(X^H); H->L)          (Eq. 4)
                  +-------------+---------+

With a spatial stride of 2 every group is pooled first and the convolutions have stride 1; H->L then pools twice, and
L->H needs no upsampling, as the low input already has the resolution of the high output. In 3D all of this touches
height and width only: the temporal kernel, stride, padding and dilation stay on the convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.octave.functional import convolve, downsample, exporting, upsample
from octvideo.octave.layers import merge
from octvideo.octave.pair import Feature, OctaveTensor, split_channels
from octvideo.octave.segments import Segments, simplify, split_segments

__all__ = ["OctConv2d", "OctConv3d", "run_as_2d"]


class _OctConv(nn.modules.conv._ConvNd):
    """What the 2D and the 3D convolution share; ``nn.Conv2d`` or ``nn.Conv3d`` is the other base."""

    as_2d = False  # set by run_as_2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        alpha_in: float,
        alpha_out: float,
        multiple: int = 1,
        in_segments: Segments | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        # The next class is nn.Conv2d or nn.Conv3d, whose signature differs from the common base's.
        vanilla: Any = super().__init__
        vanilla(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device=device, dtype=dtype
        )
        self._divide(alpha_in, alpha_out, multiple, in_segments)

    @classmethod
    def convert(
        cls,
        conv: nn.Module,
        *,
        alpha_in: float,
        alpha_out: float,
        multiple: int = 1,
        in_segments: Segments | None = None,
    ) -> None:
        """Make a vanilla convolution an octave one in place: its parameters, hooks and attributes stay.

        Args:
            conv: an ``nn.Conv2d`` for ``OctConv2d``, an ``nn.Conv3d`` for ``OctConv3d``, or a subclass of it with the
                same ``forward``.
            alpha_in, alpha_out, multiple, in_segments: as of the class.
        """
        conv.__class__ = cls
        assert isinstance(conv, _OctConv)
        conv._divide(alpha_in, alpha_out, multiple, in_segments)

    def _divide(self, alpha_in: float, alpha_out: float, multiple: int, in_segments: Segments | None) -> None:
        self.stride = tuple(int(step) for step in self.stride)  # PyTorchVideo multiplies strides into numpy integers
        self.alpha_in, self.alpha_out, self.multiple = alpha_in, alpha_out, multiple
        self.in_high, self.in_low = split_channels(self.in_channels, alpha_in, multiple)
        self.out_high, self.out_low = split_channels(self.out_channels, alpha_out, multiple)
        self.in_segments: Segments = ((self.in_high, self.in_low),) if in_segments is None else in_segments
        self.out_segments: Segments = ((self.out_high, self.out_low),)
        if in_segments is not None:
            self.in_high, self.in_low = (sum(widths) for widths in zip(*in_segments))
            if self.depthwise:
                factor = self.out_channels // self.in_channels
                self.out_segments = tuple((high * factor, low * factor) for high, low in in_segments)
                self.out_high, self.out_low = self.in_high * factor, self.in_low * factor
        self._check()

    def _check(self) -> None:
        if self.in_high + self.in_low != self.in_channels:
            raise ValueError(f"in_segments {self.in_segments} do not have in_channels={self.in_channels} channels")
        if not (self.in_low or self.out_low):
            return
        if tuple(self.stride[-2:]) not in ((1, 1), (2, 2)):
            raise ValueError(f"the spatial stride of an octave convolution must be 1 or 2, not {self.stride[-2:]}")
        if self.depthwise:
            if self.in_high * self.out_channels != self.out_high * self.in_channels:
                raise ValueError("a depth-wise octave convolution must have alpha_in equal to alpha_out")
        elif self.groups > 1 and len(self.in_segments) > 1:
            raise ValueError(f"with several in_segments groups must be 1 or in_channels, not {self.groups}")
        elif any(width % self.groups for width in (self.in_high, self.in_low, self.out_high, self.out_low)):
            raise ValueError(
                f"groups={self.groups} must divide the high and the low channels on both sides, which are "
                f"{self.in_high} + {self.in_low} -> {self.out_high} + {self.out_low}: choose another alpha, or "
                f"multiple={self.groups}"
            )

    @property
    def depthwise(self) -> bool:
        """Each output channel sees one input channel: no exchange between the frequencies (Sec. 3.3)."""
        return self.groups > 1 and self.groups == self.in_channels

    def forward(self, input: Feature) -> Feature:  # type: ignore[override]  # noqa: A002  # as nn.Conv2d names it
        """Convolves a tensor or a pair, as ``alpha_in`` says.

        Args:
            input: ``(N, in_channels, [T,] H, W)`` where the low group is empty, else a pair whose low group has
                ``ceil(H / 2) x ceil(W / 2)``.

        Returns:
            A tensor where ``alpha_out`` is 0, else a pair.

        Raises:
            ValueError: the groups of ``input`` are not those that ``alpha_in`` asks for.
        """
        high, low = self._groups_of(input)
        if not (self.in_low or self.out_low):
            assert high is not None
            y = self._vanilla(high)
            return OctaveTensor(y, None, self.out_segments) if self.alpha_out > 0 else y
        sees_high, sees_low = self._columns()
        y_high, y_low = self._from_high(high, sees_high) if high is not None else (None, None)
        if low is not None:
            y_high, y_low = self._add_low(low, sees_low, y_high, y_low)
        if self.alpha_out > 0:
            return OctaveTensor(y_high, y_low, self.out_segments)
        assert y_high is not None
        return y_high

    def _groups_of(self, x: Feature) -> tuple[Tensor | None, Tensor | None]:
        """Return the high and the low group of the input, checked."""
        if not self.in_low:
            x = merge(x)
        high, low = (x.high, x.low) if isinstance(x, OctaveTensor) else (x, None)
        segments = x.segments if isinstance(x, OctaveTensor) else ((x.shape[1], 0),)
        if segments != self.in_segments and simplify(segments) != simplify(self.in_segments):
            shapes = [None if group is None else tuple(group.shape) for group in (high, low)]
            order = f" in the order {self.in_segments}" if len(self.in_segments) > 1 or len(segments) > 1 else ""
            raise ValueError(
                f"alpha_in={self.alpha_in} expects {self.in_high} high and {self.in_low} low channels{order}, "
                f"got high {shapes[0]} and low {shapes[1]}"
            )
        return high, low

    def _vanilla(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups, self.as_2d)

    def _from_high(self, high: Tensor, kernel: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """H->H and H->L; ``kernel`` has the columns of the weight that see the high group."""
        y_high: Tensor | None = None
        y_low: Tensor | None = None
        to_high, to_low = kernel.split([self.out_high, self.out_low])
        bias_high, bias_low = self._biases()
        x = downsample(high) if self._strided else high
        if self.out_high:
            y_high = self._conv(x, to_high, bias_high)
        if self._has_high_to_low:
            y_low = self._conv(downsample(x), to_low, bias_low)
        return y_high, y_low

    def _add_low(
        self, low: Tensor, kernel: Tensor, y_high: Tensor | None, y_low: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Add L->H and L->L to what came from the high group; ``kernel`` has the columns that see the low group."""
        if not self._strided:
            return self._add_paths(low, kernel, y_high, y_low, to_high=self._has_low_to_high)
        x = downsample(low)
        if self._has_low_to_high:
            y_high = self._add_high_path(low, kernel, y_high)  # it already has the resolution of the high output
        return self._add_paths(x, kernel, y_high, y_low, to_high=False)

    def _add_high_path(self, x: Tensor, kernel: Tensor, y_high: Tensor | None, step: int = 1) -> Tensor:
        """Add the L->H path of an input of full resolution."""
        bias = self._biases()[0] if y_high is None else None
        return _sum(y_high, self._conv(x, kernel.split([self.out_high, self.out_low])[0], bias, step))

    def _add_paths(
        self, x: Tensor, kernel: Tensor, y_high: Tensor | None, y_low: Tensor | None, *, to_high: bool, step: int = 1
    ) -> tuple[Tensor | None, Tensor | None]:
        """Add L->L and, upsampled, L->H. What came from the high group has brought the bias where it exists."""
        rows = [self.out_high, self.out_low]
        bias_high, bias_low = self._biases()
        bias_high, bias_low = bias_high if y_high is None else None, bias_low if y_low is None else None
        to_low = self.out_low > 0
        z_high: Tensor | None
        z_low: Tensor | None
        if to_high and to_low and self.groups == 1 and (y_high is None) == (y_low is None) and not exporting():
            # One convolution for both: its kernel is a block of columns of the weight. (With groups the rows of each
            # path are divided anew, so they cannot be joined.) OpenVINO is not slower with two, and up to 5 % faster
            # (benchmarks/forms.py).
            z = self._conv(x, kernel, self.bias if y_high is None else None, step)
            z_high, z_low = z.split(rows, 1)
        else:
            z_high = self._conv(x, kernel.split(rows)[0], bias_high, step) if to_high else None
            z_low = self._conv(x, kernel.split(rows)[1], bias_low, step) if to_low else None
        if z_high is not None:
            size = [2 * edge for edge in z_high.shape[-2:]] if y_high is None else y_high.shape[-2:]
            y_high = _sum(y_high, upsample(z_high, size))
        return y_high, y_low if z_low is None else _sum(y_low, z_low)

    @property
    def _strided(self) -> bool:
        return self.stride[-1] == 2

    @property
    def _has_high_to_low(self) -> bool:
        return bool(self.out_low and self.in_high) and not (self.depthwise and self.in_low)

    @property
    def _has_low_to_high(self) -> bool:
        return bool(self.out_high and self.in_low) and not (self.depthwise and self.in_high)

    def _columns(self) -> tuple[Tensor, Tensor]:
        """The columns of the weight that see the high and the low group; a depth-wise one has a single column.

        ``split``, here and for the rows, rather than slices: its gradient is one concatenation in the memory format of
        the parts, where each slice would fill a whole tensor with zeros, channels first.
        """
        if self.depthwise:
            weight = self.weight
            if len(self.out_segments) > 1:
                weight = torch.cat(split_segments(weight, self.out_segments, 0))
            return weight, weight
        if len(self.in_segments) > 1:
            return split_segments(self.weight, self.in_segments, 1)
        high, low = self.weight.split([self.in_high // self.groups, self.in_low // self.groups], 1)
        return high, low

    def _biases(self) -> tuple[Tensor | None, Tensor | None]:
        if self.bias is None:
            return None, None
        return split_segments(self.bias, self.out_segments, 0)

    def _conv(self, x: Tensor, kernel: Tensor, bias: Tensor | None, step: int = 1) -> Tensor:
        """Convolve with a block of the weight; ``step`` is the spatial stride."""
        stride = (*self.stride[:-2], step, step)
        groups = x.shape[1] if self.depthwise else self.groups
        return convolve(x, kernel, bias, stride, self.padding, self.dilation, groups, self.as_2d)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha_in={self.alpha_in}, alpha_out={self.alpha_out}"


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


class OctConv2d(_OctConv, nn.Conv2d):  # type: ignore[misc]  # forward takes and returns pairs too
    """``nn.Conv2d`` on two frequencies (Sec. 3.2, Eq. 4).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as ``nn.Conv2d``; the spatial
            stride is 1 or 2 (any where both alphas are 0), ``padding_mode`` is zeros.
        alpha_in, alpha_out: share of low-frequency channels of the input and the output, 0 to 1. Where ``alpha_in`` is
            0 it takes a tensor, else a pair; where ``alpha_out`` is 0 it returns a tensor, else a pair; at 1
            the pair's ``high`` is None.
        multiple: low channels are rounded to a multiple of it (1 = the paper).
        in_segments: high and low channels of each of the pairs that the input is a concatenation of, in place of
            ``alpha_in`` and ``multiple`` (see :mod:`octvideo.octave.segments`). Then a depth-wise layer's output is
            divided as its input is, in place of ``alpha_out``.

    Groups: every path has ``groups`` groups; a depth-wise layer (``groups == in_channels``) has H->H and L->L only.

    Raises:
        ValueError: an argument is out of its bounds, or ``groups`` does not divide the groups of channels.
    """


class OctConv3d(_OctConv, nn.Conv3d):  # type: ignore[misc]
    """``nn.Conv3d`` on two frequencies: height and width are halved, time is left alone (Sec. 3.2, Eq. 4).

    Arguments, result and errors as ``OctConv2d``, on ``(N, C, T, H, W)``.
    """


def run_as_2d(network: nn.Module) -> nn.Module:
    """Run all 3D convolutions of a network as 2D ones (:func:`octvideo.octave.functional.convolve_as_2d`), in place.

    Results are equal up to rounding; on a CPU they come 1.4 to 1.7 times as fast.
    """
    for layer in network.modules():
        if type(layer) is nn.Conv3d:
            OctConv3d.convert(layer, alpha_in=0.0, alpha_out=0.0)
        if isinstance(layer, OctConv3d):
            layer.as_2d = True
    return network

"""Octave convolution with parts taken away or done in another way: Table 8, MG-Conv, and the authors' pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from octvideo.octave.conv import OctConv2d, OctConv3d, _OctConv
from octvideo.octave.functional import downsample, upsample

__all__ = ["AblatedOctConv2d", "AblatedOctConv3d", "Ablation"]


@dataclass(frozen=True)
class Ablation:
    """How an octave convolution differs from Eq. 4; the defaults differ in nothing.

    Attributes:
        down: how maps are halved: ``"avg"`` or ``"max"`` pooling, or ``"conv"``, strided convolution (Table 8).
        high_to_low, low_to_high: False switches the exchange off (Table 8). Where the pair begins or ends the path
            stays, as the low group's only source or only way on.
        pool_strided_low_to_high: at stride 2, pools the low map before L->H and upsamples after it.
        upsample_first: L->H upsamples before it convolves, at 4 times the cost; with ``down="max"`` that is the
            multi-grid convolution (MG-Conv) of Ke et al., CVPR 2017, which Sec. 3.3 compares with.
    """

    down: str = "avg"
    high_to_low: bool = True
    low_to_high: bool = True
    pool_strided_low_to_high: bool = False
    upsample_first: bool = False

    def __post_init__(self) -> None:
        if self.down not in ("avg", "max", "conv"):
            raise ValueError(f"down is {self.down!r}: it must be 'avg', 'max' or 'conv'")


class _AblatedOctConv(_OctConv):
    def __init__(self, *args: Any, ablation: Ablation, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ablation = ablation

    @classmethod
    def convert(cls, conv: nn.Module, *, ablation: Ablation, **kwargs: Any) -> None:  # type: ignore[override]
        """As of ``OctConv2d``; ``ablation`` says what is different."""
        super().convert(conv, **kwargs)
        conv.ablation = ablation  # type: ignore[assignment]

    def _vanilla(self, x: Tensor) -> Tensor:
        """Pool before a stride of 2 where there is one frequency too, as the authors' networks do."""
        x, step = self._halve(x, 1) if self._strided else (x, 1)
        return self._conv(x, self.weight, self.bias, step)

    def _from_high(self, high: Tensor, kernel: Tensor) -> tuple[Tensor | None, Tensor | None]:
        to_high, to_low = kernel.split([self.out_high, self.out_low])
        bias_high, bias_low = self._biases()
        x, step = self._halve(high, 1) if self._strided else (high, 1)
        y_high = self._conv(x, to_high, bias_high, step) if self.out_high else None
        if not self._has_high_to_low:
            return y_high, None
        x, step = self._halve(x, step)
        return y_high, self._conv(x, to_low, bias_low, step)

    def _add_low(
        self, low: Tensor, kernel: Tensor, y_high: Tensor | None, y_low: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        to_high = self._has_low_to_high
        x, step = self._halve(low, 1) if self._strided else (low, 1)
        if to_high and self._strided and not self.ablation.pool_strided_low_to_high:
            y_high, to_high = self._add_high_path(low, kernel, y_high), False
        if to_high and self.ablation.upsample_first:
            size = [2 * edge for edge in x.shape[-2:]] if y_high is None else y_high.shape[-2:]
            y_high, to_high = self._add_high_path(upsample(x, size), kernel, y_high, step), False
        return self._add_paths(x, kernel, y_high, y_low, to_high=to_high, step=step)

    def _halve(self, x: Tensor, step: int) -> tuple[Tensor, int]:
        """Pool; where maps are halved by strided convolution, return twice the stride instead."""
        return (x, 2 * step) if self.ablation.down == "conv" else (downsample(x, self.ablation.down), step)

    @property
    def _has_high_to_low(self) -> bool:
        return super()._has_high_to_low and (self.ablation.high_to_low or not self.in_low)

    @property
    def _has_low_to_high(self) -> bool:
        return super()._has_low_to_high and (self.ablation.low_to_high or not (self.in_high and self.out_low))


class AblatedOctConv2d(_AblatedOctConv, OctConv2d):  # type: ignore[misc]  # as OctConv2d
    """``OctConv2d`` with an :class:`Ablation`; where both alphas are 0, it pools before a stride of 2."""


class AblatedOctConv3d(_AblatedOctConv, OctConv3d):  # type: ignore[misc]
    """``OctConv3d`` with an :class:`Ablation`; where both alphas are 0, it pools before a stride of 2."""

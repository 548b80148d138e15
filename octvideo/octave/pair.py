"""The multi-frequency features of Sec. 3.1: a pair of maps, one octave apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Feature", "OctaveTensor", "add", "map_groups", "split_channels"]


class OctaveTensor(NamedTuple):
    """High- and low-frequency feature maps, ``X = {X^H, X^L}`` (Sec. 3.1).

    ``high`` has the shape ``(N, C_high, [T,] H, W)``, ``low`` ``(N, C_low, [T,] ceil(H / 2), ceil(W / 2))``.
    A group without channels is None. Being a named tuple, a pair is a pytree: torch.compile, torch.export,
    DistributedDataParallel and checkpointing pass it through.
    """

    high: Tensor | None
    low: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> OctaveTensor:
        """Apply ``function`` to each group that exists."""
        return OctaveTensor(
            None if self.high is None else function(self.high),
            None if self.low is None else function(self.low),
        )

    def __add__(self, other: Any) -> OctaveTensor:  # type: ignore[override]  # a sum of features, not of tuples
        return _sum(self, other) if isinstance(other, OctaveTensor) else NotImplemented

    def to(self, *args: Any, **kwargs: Any) -> OctaveTensor:
        """Call ``Tensor.to`` on each group."""
        return self.map(lambda group: group.to(*args, **kwargs))

    def detach(self) -> OctaveTensor:
        """Call ``Tensor.detach`` on each group."""
        return self.map(Tensor.detach)

    @property
    def channels(self) -> int:
        """Number of channels of both groups."""
        return sum(group.shape[1] for group in self if group is not None)

    @property
    def device(self) -> torch.device:
        """The device of the groups."""
        return _any(self).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the groups."""
        return _any(self).dtype


Feature = Tensor | OctaveTensor  # what flows through an octave network


def add(x: Feature, y: Feature) -> Feature:
    """Return ``x + y``, also in compiled networks, where PyTorch 2.6 to 2.8 joins named tuples at a ``+``."""
    if isinstance(x, OctaveTensor) and isinstance(y, OctaveTensor):
        return _sum(x, y)
    return x + y  # type: ignore[operator]  # two tensors, or an error


def _sum(x: OctaveTensor, y: OctaveTensor) -> OctaveTensor:
    return OctaveTensor(_add(x.high, y.high), _add(x.low, y.low))


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        if a is not b:
            raise ValueError("cannot add two octave pairs of which only one has a high or a low group")
        return None
    return a + b


def _any(pair: OctaveTensor) -> Tensor:
    for group in pair:
        if group is not None:
            return group
    raise ValueError("an octave pair without any group")


def map_groups(function: Callable[[Tensor], Tensor], x: Feature) -> Feature:
    """Apply ``function`` to a tensor, or to each group of a pair."""
    return x.map(function) if isinstance(x, OctaveTensor) else function(x)


def split_channels(channels: int, alpha: float, multiple: int = 1) -> tuple[int, int]:
    """Return the numbers of high and low channels for a share ``alpha`` of low-frequency channels.

    The low group has ``int(alpha * channels)``, the high group the rest. With ``multiple`` above 1 the low group is
    the nearest multiple of it that fits, for hardware that works on 8 or 16 channels at a time.

    >>> split_channels(64, 0.1), split_channels(64, 0.1, multiple=8), split_channels(3, 1.0)
    ((58, 6), (56, 8), (0, 3))
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: it must be between 0 and 1")
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}: it must be at least 1")
    low = int(alpha * channels)
    if multiple > 1 and 0 < alpha < 1:
        low = min(int(alpha * channels / multiple + 0.5) * multiple, channels // multiple * multiple)
    return channels - low, low

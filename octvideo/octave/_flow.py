"""What :func:`octvideo.octave.octavize` puts between the layers of a traced network.

All of it is modules, not functions: torch.fx traces a network anew when it is unpickled, and would run a function
with symbolic values, while it leaves a module alone. ``segments``: see :mod:`octvideo.octave.segments`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from octvideo.octave.layers import merge, pool_globally
from octvideo.octave.pair import Feature, OctaveTensor, map_groups
from octvideo.octave.segments import Segments, split_segments

__all__ = ["Apply", "Combine", "Concatenate", "DropPath", "GlobalPool", "Merge", "Scale"]


class Merge(nn.Module):
    """A pair as one tensor, its channels in the vanilla order; see :func:`octvideo.octave.merge`."""

    def __init__(self, segments: Segments) -> None:
        super().__init__()
        self.segments = segments

    def forward(self, x: Feature) -> Tensor:
        return merge(x, self.segments)


class Concatenate(nn.Module):
    """Pairs along their channels: the high groups together, the low groups together. A tensor is a high group."""

    def forward(self, parts: list[Feature]) -> OctaveTensor:
        pairs = [x if isinstance(x, OctaveTensor) else OctaveTensor(x, None) for x in parts]
        highs, lows = ([group for group in groups if group is not None] for groups in zip(*pairs))
        return OctaveTensor(torch.cat(highs, 1) if highs else None, torch.cat(lows, 1) if lows else None)


class Apply(nn.Module):
    """An elementwise function on each group: ``function(*args[:place], group, *args[place:], **options)``."""

    def __init__(self, function: Callable[..., Tensor], place: int, args: tuple[Any, ...], options: Any) -> None:
        super().__init__()
        self.function, self.place, self.args, self.options = function, place, args, options

    @classmethod
    def of(cls, node: fx.Node) -> Apply | None:
        """What a node that calls a function or a method does to the one tensor among its arguments; None if nested."""
        places = [place for place, arg in enumerate(node.args) if isinstance(arg, fx.Node)]
        if node.op not in ("call_function", "call_method") or len(places) != 1 or node.target is getattr:
            return None
        args = node.args[: places[0]] + node.args[places[0] + 1 :]
        function = _Method(str(node.target)) if node.op == "call_method" else node.target
        return cls(function, places[0], args, dict(node.kwargs))  # type: ignore[arg-type]

    def forward(self, x: Feature) -> Feature:
        before, after = self.args[: self.place], self.args[self.place :]
        return map_groups(lambda group: self.function(*before, group, *after, **self.options), x)


class _Method:
    """Calls a method by name; a method of Tensor itself cannot be pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        return getattr(x, self.name)(*args, **options)


class Combine(nn.Module):
    """An elementwise function of two pairs with the same channels."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor] | str) -> None:
        super().__init__()
        self.function = _Method(function) if isinstance(function, str) else function

    def forward(self, a: OctaveTensor, b: OctaveTensor) -> OctaveTensor:
        return OctaveTensor(
            None if a.high is None or b.high is None else self.function(a.high, b.high),
            None if a.low is None or b.low is None else self.function(a.low, b.low),
        )


class DropPath(nn.Module):
    """A layer that multiplies each sample by random noise: both groups by the same."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Feature) -> Feature:
        if not self.training or not isinstance(x, OctaveTensor):
            return map_groups(self.layer, x)
        group = x.low if x.high is None else x.high
        assert group is not None
        noise = self.layer(group.new_ones(group.shape[0], *[1] * (group.dim() - 1)))
        return x.map(lambda group: group * noise)


class GlobalPool(nn.Module):
    """The mean of each channel of a pair, in the vanilla order: ``(N, C)``, or ``(N, C, 1, 1[, 1])``."""

    def __init__(self, segments: Segments, keep_dims: bool) -> None:
        super().__init__()
        self.segments, self.keep_dims = segments, keep_dims

    def forward(self, x: Feature) -> Tensor:
        means = pool_globally(x, self.segments)
        group = next(group for group in (x if isinstance(x, OctaveTensor) else (x,)) if group is not None)
        return means[(...,) + (None,) * (group.dim() - 2)] if self.keep_dims else means


class Scale(nn.Module):
    """A pair times one factor a channel, ``(N, C, 1, 1)``: the last step of squeeze-and-excitation."""

    def __init__(self, segments: Segments) -> None:
        super().__init__()
        self.segments = segments

    def forward(self, x: OctaveTensor, gate: Tensor) -> OctaveTensor:
        high, low = split_segments(gate, self.segments, 1)
        return OctaveTensor(None if x.high is None else x.high * high, None if x.low is None else x.low * low)

"""The order of channels after a concatenation of pairs, compared with the vanilla tensor.

The pair of a concatenation has the high groups together and the low groups together. The vanilla tensor, and so every
parameter with an entry a channel, has them in turns::

    cat of a pair of 3 + 1 channels and one of 2 + 2:          segments ((3, 1), (2, 2))

        vanilla   h h h l h h l l          high   h h h h h          low   l l l
                  0 1 2 3 4 5 6 7                 0 1 2 4 5                3 6 7
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Segments", "join_segments", "simplify", "split_segments"]

Segments = tuple[tuple[int, int], ...]  # high and low channels of each pair


def simplify(segments: Sequence[tuple[int, int]]) -> Segments:
    """Return the same order of channels with the fewest segments, none of them empty.

    >>> simplify([(3, 0), (2, 2), (0, 1), (1, 1)])
    ((5, 3), (1, 1))
    """
    joined: list[tuple[int, int]] = []
    for high, low in segments:
        before = joined[-1] if joined else (0, 0)
        if joined and (before[1] == 0 or high == 0):
            joined[-1] = before[0] + high, before[1] + low
        elif high or low:
            joined.append((high, low))
    return tuple(joined)


def split_segments(x: Tensor, segments: Segments, dim: int) -> tuple[Tensor, Tensor]:
    """Split a vanilla tensor along ``dim`` into high and low entries; either may be empty."""
    parts = x.split([width for segment in segments for width in segment], dim)
    if len(segments) == 1:
        return parts[0], parts[1]
    return torch.cat(parts[::2], dim), torch.cat(parts[1::2], dim)


def join_segments(high: Tensor | None, low: Tensor | None, segments: Segments, dim: int) -> Tensor:
    """Join both groups to the vanilla tensor, the inverse of :func:`split_segments`; None is an empty group."""
    if high is None or low is None:
        only = low if high is None else high
        assert only is not None
        return only
    if len(segments) == 1:
        return torch.cat([high, low], dim)
    highs, lows = (x.split(list(widths), dim) for x, widths in zip((high, low), zip(*segments)))
    return torch.cat([part for pair in zip(highs, lows) for part in pair], dim)

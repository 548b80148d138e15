"""Batch normalisation of a pair: one ``nn.BatchNorm`` per group, stored as a vanilla one.

The children are real ``nn.BatchNorm2d/3d``, so that SyncBatchNorm conversion and fvcore's precise BN find them. The
state dict has the keys and shapes of the vanilla layer (``weight``: the high group's, then the low group's). Only with
``keep_vars=True`` are the children's own tensors listed: they are parameters, not copies, and cannot be joined.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from torch import Tensor, nn

from octvideo.octave.pair import Feature, OctaveTensor, split_channels
from octvideo.octave.segments import Segments, join_segments, split_segments

__all__ = ["OctBatchNorm2d", "OctBatchNorm3d"]

_VECTORS = ("weight", "bias", "running_mean", "running_var")
_COUNT = "num_batches_tracked"


class _OctBatchNorm(nn.Module):
    _layer: type[nn.Module]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        alpha: float,
        multiple: int = 1,
        segments: Segments | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        options = dict(eps=eps, momentum=momentum, affine=affine, track_running_stats=track_running_stats)
        segments = (split_channels(num_features, alpha, multiple),) if segments is None else segments
        widths = [sum(widths) for widths in zip(*segments)]
        self._divide(segments, *(self._layer(width, **options) if width else None for width in widths))

    @classmethod
    def convert(cls, norm: nn.Module, segments: Segments, high: nn.Module | None, low: nn.Module | None) -> None:
        """Make a vanilla norm an octave one in place: its attributes stay.

        Args:
            norm: an ``nn.BatchNorm2d`` for ``OctBatchNorm2d``, an ``nn.BatchNorm3d`` for ``OctBatchNorm3d``.
            segments: the channels of the pairs.
            high, low: the norms of the two groups; None of an empty one.
        """
        norm.__class__ = cls
        assert isinstance(norm, _OctBatchNorm)
        norm._parameters.clear()
        norm._buffers.clear()
        norm._divide(segments, high, low)

    def _divide(self, segments: Segments, high: nn.Module | None, low: nn.Module | None) -> None:
        self.segments = segments
        self.high, self.low = high, low
        self.register_state_dict_post_hook(_join)
        self.register_load_state_dict_pre_hook(_split)

    def forward(self, input: Feature) -> Feature:  # noqa: A002  # as nn.BatchNorm2d names it
        """Normalise each group of a pair, or a tensor if there are no low channels; shapes do not change."""
        x = input
        if isinstance(x, OctaveTensor):
            return OctaveTensor(_apply(self.high, x.high), _apply(self.low, x.low), x.segments)
        if self.high is None or self.low is not None:
            raise ValueError(f"the norm expects a pair of {self.segments} channels, got a tensor of {tuple(x.shape)}")
        return self.high(x)

    @property
    def block_final_bn(self) -> bool:
        """PyTorchVideo's mark of the last norm of a block, which it initialises with zero."""
        return all(getattr(self.get_submodule(name), "block_final_bn", False) for name in _groups(self))

    @block_final_bn.setter
    def block_final_bn(self, value: bool) -> None:
        for name in _groups(self):
            self.get_submodule(name).block_final_bn = value  # type: ignore[assignment]

    def extra_repr(self) -> str:
        return f"{self.num_features}, segments={self.segments}"


def _apply(layer: nn.Module | None, x: Tensor | None) -> Tensor | None:
    if (layer is None) != (x is None):
        raise ValueError("the pair's groups are not those that the norm's alpha asks for")
    return None if layer is None else layer(x)


def _join(module: nn.Module, state: MutableMapping[str, Any], prefix: str, local_metadata: Any) -> None:
    """State dict hook: join the children's vectors to vanilla ones."""
    groups = _groups(module)
    if any(isinstance(state.get(f"{prefix}{group}.{name}"), nn.Parameter) for group in groups for name in _VECTORS):
        return  # keep_vars=True
    for name in _VECTORS:
        parts = [state.pop(key) for group in groups if (key := f"{prefix}{group}.{name}") in state]
        if parts:
            high, low = parts if len(parts) > 1 else (parts[0], None)
            state[prefix + name] = join_segments(high, low, module.segments, 0)  # type: ignore[arg-type]
    counts = [state.pop(key) for group in groups if (key := f"{prefix}{group}.{_COUNT}") in state]
    if counts:
        state[prefix + _COUNT] = counts[0]


def _split(module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: Any) -> None:
    """Load hook: split the vanilla vectors into the children's."""
    groups = _groups(module)
    for name in _VECTORS:
        if (vector := state.pop(prefix + name, None)) is None:
            continue
        parts: Sequence[Tensor] = [vector] * 2  # of a wrong length: the children report it
        if vector.shape == (module.num_features,):
            parts = split_segments(vector, module.segments, 0)  # type: ignore[arg-type]
        for group, part in zip(("high", "low"), parts):
            if group in groups:
                state[f"{prefix}{group}.{name}"] = part
    if (count := state.pop(prefix + _COUNT, None)) is not None:
        for group in groups:
            state[f"{prefix}{group}.{_COUNT}"] = count.clone()


def _groups(norm: nn.Module) -> list[str]:
    """Return the names of the groups that exist; a converted norm may keep other children, such as an activation."""
    return [name for name in ("high", "low") if getattr(norm, name) is not None]


class OctBatchNorm2d(_OctBatchNorm):
    """``nn.BatchNorm2d`` of a pair ``(N, C, H, W)``; arguments as there; the others as in a conv."""

    _layer = nn.BatchNorm2d


class OctBatchNorm3d(_OctBatchNorm):
    """``nn.BatchNorm3d`` of a pair ``(N, C, T, H, W)``; arguments as there; the others as in a conv."""

    _layer = nn.BatchNorm3d

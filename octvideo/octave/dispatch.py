"""What PyTorch's functions do with a pair, through ``__torch_function__``.

Elementwise functions, dropout, local pooling, concatenation along the channels and global means work on the groups.
Every other function gets the merged tensor, which is always correct.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from octvideo.octave.layers import merge, pool_globally, pool_groups
from octvideo.octave.pair import OctaveTensor
from octvideo.octave.segments import simplify, split_segments

__all__ = ["Observer", "call", "observed", "pools_in_step"]

# Each output element depends on the input elements in its place alone. Dropout's noise is drawn for each group.
_ELEMENTWISE = frozenset(
    "abs add alpha_dropout bfloat16 celu clamp clamp_max clamp_min clip clone contiguous detach div divide double "
    "dropout dropout1d dropout2d dropout3d elu eq erf exp feature_alpha_dropout feature_dropout float ge gelu gt half "
    "hardshrink hardsigmoid hardswish hardtanh le leaky_relu log log1p logsigmoid lt maximum minimum mish mul multiply "
    "ne neg negative pow reciprocal relu relu6 rsqrt rsub selu sigmoid silu softplus softshrink softsign sqrt square "
    "sub subtract tanh tanhshrink threshold true_divide where "
    "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__ __neg__ __gt__ "
    "__ge__ __lt__ __le__ __rdiv__".split()
)
_IN_PLACE = frozenset({"__iadd__", "__isub__", "__imul__", "__idiv__", "__itruediv__"})
_MAX_POOLS = frozenset({"max_pool2d", "max_pool3d"})
_POOLS = _MAX_POOLS | {"avg_pool2d", "avg_pool3d"}
_CONCATENATIONS = frozenset({"cat", "concat", "concatenate"})
_GLOBAL_POOLS = frozenset({"adaptive_avg_pool2d", "adaptive_avg_pool3d"})


class Observer:
    """Sees what becomes of pairs, while ``octavize`` plans; each method gets the pairs that meet a function."""

    def reads(self, pairs: Iterable[OctaveTensor]) -> None:
        """A function uses the low groups as they are."""

    def merges(self, function: Any, pairs: Iterable[OctaveTensor], merged: list[Tensor]) -> None:
        """A function gets merged tensors."""

    def clashes(self, pairs: Iterable[OctaveTensor]) -> None:
        """A function takes a pair with a full-size tensor, or writes into a pair in a way that groups do not know."""

    def concatenates(self, pairs: list[OctaveTensor]) -> frozenset[str] | None:
        """Return the sources of a concatenation; None: it is to be a tensor."""
        return frozenset()


_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Let an observer see all functions of pairs."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function of PyTorch with pairs among its arguments."""
    name: str = function.__name__
    handler = _handler(name)
    if handler is not None:
        result = handler(function, args, kwargs)
        if result is not NotImplemented:
            return result
    pairs = _pairs((args, kwargs))
    if _writes(name) and args and isinstance(args[0], OctaveTensor):
        if not _observers:
            raise NotImplementedError(
                f"{name} cannot write into an octave pair: merge it before (octvideo.octave.merge)"
            )
        for observer in _observers:
            observer.clashes(pairs)
    return _call_merged(function, args, kwargs, pairs)


def _handler(name: str) -> Callable[..., Any] | None:
    if name in _ELEMENTWISE or (name[:-1] in _ELEMENTWISE and name[-1] == "_") or name in _IN_PLACE:
        return _map
    if name in _POOLS:
        return _pool
    if name in _CONCATENATIONS:
        return _concatenate
    if name in _GLOBAL_POOLS or name == "mean":
        return _global_mean
    return None


def _writes(name: str) -> bool:
    return name in _IN_PLACE or name == "__setitem__" or (name[-1] == "_" and name[-2:] != "__")


def _pairs(value: Any) -> list[OctaveTensor]:
    if isinstance(value, OctaveTensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return []
    found: list[OctaveTensor] = []
    for item in value:
        found += _pairs(item)
    return found


def _call_merged(function: Any, args: Any, kwargs: Any, pairs: list[OctaveTensor]) -> Any:
    merged: list[Tensor] = []

    def convert(value: Any) -> Any:
        if isinstance(value, OctaveTensor):
            merged.append(merge(value))
            return merged[-1]
        if isinstance(value, (list, tuple)):
            items = [convert(item) for item in value]
            return items if isinstance(value, list) else tuple(items)
        return {key: convert(item) for key, item in value.items()} if isinstance(value, dict) else value

    args, kwargs = convert(args), convert(kwargs)
    for observer in _observers:
        observer.merges(function, pairs, merged)
    return function(*args, **kwargs)


def _map(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply an elementwise function to the high groups and to the low groups."""
    if len(args) == 1 and (not kwargs or list(kwargs) == ["inplace"]):  # an activation: small networks notice the time
        return args[0].map(lambda group: function(group, **kwargs))
    pairs = _pairs((args, kwargs))
    first = pairs[0]
    if any(pair.segments != first.segments for pair in pairs):
        return NotImplemented
    places = [_groups(value, first) for value in args]
    options = {key: _groups(value, first) for key, value in kwargs.items()}
    if any(groups is None for groups in (*places, *options.values())):
        for observer in _observers:
            observer.clashes(pairs)
        return NotImplemented
    results: list[Any] = []
    for index, group in enumerate((first.high, first.low)):
        # Each value is (for the high group, for the low group).
        taken = [groups[index] for groups in places if groups is not None]
        named = {key: groups[index] for key, groups in options.items() if groups is not None}
        results.append(None if group is None else function(*taken, **named))
    sources = first.sources
    if _observers:
        sources = frozenset().union(*(pair.sources for pair in pairs))
    return OctaveTensor(results[0], results[1], first.segments, sources)


def _groups(value: Any, pair: OctaveTensor) -> tuple[Any, Any] | None:
    """Return what the high and what the low group meets; None if a full-size tensor is among it."""
    if isinstance(value, OctaveTensor):
        return value.high, value.low
    if not isinstance(value, Tensor) or value.numel() == 1:
        return value, value
    shape = (1,) * (pair.dim() - value.dim()) + tuple(value.shape)
    if any(edge != 1 for edge in shape[2:]):
        return None
    if shape[1] == 1:
        return value, value
    return split_segments(value, pair.segments, value.dim() - pair.dim() + 1)


def _pool(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pool each group, where the low output stays half of the high one's size."""
    x, *rest = args
    given = dict(zip(("kernel_size", "stride", "padding"), rest)) | kwargs
    dilation = kwargs.get("dilation", rest[3] if function.__name__ in _MAX_POOLS and len(rest) > 3 else 1)
    if not pools_in_step(given["kernel_size"], given.get("stride"), given.get("padding", 0), dilation):
        return NotImplemented
    return pool_groups(lambda group: function(group, *rest, **kwargs), x)


def pools_in_step(kernel: Any, stride: Any, padding: Any, dilation: Any) -> bool:
    """Tell whether pooling the low group alone gives the size that goes with the high output (see ``pool_groups``)."""
    kernels, paddings = _spatial(kernel), _spatial(padding)
    strides = kernels if stride is None or stride == () else _spatial(stride)
    same = all(2 * p == k - 1 for k, p in zip(kernels, paddings))
    halves = (kernels, strides, paddings) == ((2, 2), (2, 2), (0, 0))
    return _spatial(dilation) == (1, 1) and strides in ((1, 1), (2, 2)) and (same or halves)


def _spatial(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[-2:][0], value[-1])


def _concatenate(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Concatenate along the channels: high groups together, low groups together; a tensor is a high group."""
    parts = args[0] if args else kwargs["tensors"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    if "out" in kwargs or dim % parts[0].dim() != 1:
        return NotImplemented
    pairs = [part if isinstance(part, OctaveTensor) else OctaveTensor(part, None) for part in parts]
    sources: Collection[str] = ()
    for observer in _observers:
        found = observer.concatenates([pair for pair in pairs if pair.low is not None])
        if found is None:
            return NotImplemented
        sources = found
    highs = [pair.high for pair in pairs if pair.high is not None]
    lows = [pair.low for pair in pairs if pair.low is not None]
    segments = simplify([widths for pair in pairs for widths in pair.segments])
    high, low = (torch.cat(groups, 1) if groups else None for groups in (highs, lows))
    return OctaveTensor(high, low, segments, sources)


def _global_mean(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Average each channel over all positions, without merging: ``AdaptiveAvgPool(1)``, or ``mean`` over [T,] H, W."""
    x, *rest = args
    if function.__name__ == "mean":
        dims = rest[0] if rest else kwargs.get("dim")
        keep = rest[1] if len(rest) > 1 else kwargs.get("keepdim", False)
        if not isinstance(dims, (list, tuple)) or len(rest) > 2 or set(kwargs) - {"dim", "keepdim"}:
            return NotImplemented
        whole = {dim % x.dim() for dim in dims} == set(range(2, x.dim()))
    else:
        size, keep = rest[0] if rest else kwargs.get("output_size"), True
        whole = size == 1 or (isinstance(size, (list, tuple)) and all(edge == 1 for edge in size))
    if not whole:
        return NotImplemented
    for observer in _observers:
        observer.reads([x])
    means = pool_globally(x)
    return means[(...,) + (None,) * (x.dim() - 2)] if keep else means

"""The multi-frequency features of Sec. 3.1: a pair of maps, one octave apart.

PyTorch's functions understand a pair, so the code of a vanilla network runs on one; :mod:`octvideo.octave.dispatch`
says what each function does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from octvideo.octave.segments import Segments

__all__ = ["Feature", "OctaveTensor", "add", "map_groups", "split_channels"]

# What a group has in common with the vanilla tensor.
_OF_EACH_GROUP = frozenset(
    "device dtype get_device grad_fn is_complex is_contiguous is_cpu is_cuda is_floating_point is_meta is_mps layout "
    "requires_grad".split()
)


class OctaveTensor:
    """High- and low-frequency feature maps, ``X = {X^H, X^L}`` (Sec. 3.1).

    Unpack it with ``high, low = pair``. Functions of ``torch``, methods of tensors and operators take it like the
    vanilla tensor ``(N, C, [T,] H, W)`` whose ``shape`` it has. Elementwise functions, pooling, concatenation and
    global means work on the groups; every other function gets the merged tensor.

    Attributes:
        high: ``(N, C_high, [T,] H, W)``, or None without high channels.
        low: ``(N, C_low, [T,] ceil(H / 2), ceil(W / 2))``, or None without low channels.
        segments: the order of the channels in the vanilla tensor, see :mod:`octvideo.octave.segments`.
        sources: what made it a pair: names of convolutions and concatenations, while ``octavize`` plans.
    """

    def __init__(
        self,
        high: Tensor | None,
        low: Tensor | None,
        segments: Segments | None = None,
        sources: Collection[str] = (),
    ) -> None:
        self.high, self.low = high, low
        self.segments: Segments = segments or ((_channels(high), _channels(low)),)
        self.sources = sources

    def __iter__(self) -> Iterator[Tensor | None]:
        yield self.high
        yield self.low

    def __repr__(self) -> str:
        shapes = (None if group is None else tuple(group.shape) for group in self)
        return "OctaveTensor(high={}, low={})".format(*shapes)

    def map(self, function: Callable[[Tensor], Tensor]) -> OctaveTensor:
        """Apply ``function`` to each group that exists."""
        high = None if self.high is None else function(self.high)
        low = None if self.low is None else function(self.low)
        return OctaveTensor(high, low, self.segments, self.sources)

    def to(self, *args: Any, **kwargs: Any) -> OctaveTensor:
        """Call ``Tensor.to`` on each group."""
        return self.map(lambda group: group.to(*args, **kwargs))

    def detach(self) -> OctaveTensor:
        """Call ``Tensor.detach`` on each group."""
        return self.map(Tensor.detach)

    @property
    def channels(self) -> int:
        """Number of channels of both groups."""
        return _channels(self.high) + _channels(self.low)

    @property
    def shape(self) -> torch.Size:
        """The shape of the vanilla tensor; without a high group, of even height and width."""
        if self.high is not None:
            samples, _, *edges = self.high.shape
        else:
            samples, _, *edges = _any(self).shape
            edges[-2:] = (2 * edge for edge in edges[-2:])
        return torch.Size([samples, self.channels, *edges])

    def size(self, dim: int | None = None) -> Any:
        """Return ``shape``, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Return the number of dimensions, 4 or 5."""
        return _any(self).dim()

    ndim = property(dim)

    def numel(self) -> int:
        """Return the number of elements of the vanilla tensor."""
        return self.shape.numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        # Only for what is not above: methods and attributes of tensors.
        value = None if name.startswith("__") else getattr(Tensor, name, None)
        if value is None:
            raise AttributeError(f"OctaveTensor has no attribute {name!r}")
        if name in _OF_EACH_GROUP or name.startswith("new_"):
            return getattr(_any(self), name)
        if not callable(value):
            return self.__torch_function__(value.__get__, (), (self,))
        return lambda *args, **kwargs: self.__torch_function__(value, (), (self, *args), kwargs)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from octvideo.octave.dispatch import call

        return call(function, args, kwargs or {})


def _operator(name: str) -> Callable[..., Any]:
    function = getattr(Tensor, name)

    def method(self: OctaveTensor, *args: Any) -> Any:
        return OctaveTensor.__torch_function__(function, (), (self, *args))

    return method


for _name in (
    "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv pow rpow matmul neg gt ge lt le "
    "getitem setitem"
).split():
    setattr(OctaveTensor, f"__{_name}__", _operator(f"__{_name}__"))

Feature = Tensor | OctaveTensor  # what flows through an octave network


def _unflatten(groups: Iterable[Any], segments: Segments) -> OctaveTensor:
    high, low = groups
    return OctaveTensor(high, low, segments)


pytree.register_pytree_node(
    OctaveTensor,
    lambda pair: ([pair.high, pair.low], pair.segments),
    _unflatten,
    serialized_type_name="octvideo.octave.OctaveTensor",
    to_dumpable_context=lambda segments: [list(widths) for widths in segments],
    from_dumpable_context=lambda segments: tuple((high, low) for high, low in segments),
)


def _channels(group: Tensor | None) -> int:
    return 0 if group is None else group.shape[1]


def _any(pair: OctaveTensor) -> Tensor:
    for group in pair:
        if group is not None:
            return group
    raise ValueError("an octave pair without any group")


def add(x: Feature, y: Feature) -> Feature:
    """Return ``x + y`` of two tensors, or of two pairs with the same groups.

    Raises:
        ValueError: only one has a high or a low group.
    """
    if isinstance(x, OctaveTensor) and isinstance(y, OctaveTensor):
        return OctaveTensor(_add(x.high, y.high), _add(x.low, y.low), x.segments)
    return x + y  # type: ignore[operator]  # two tensors, or an error


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        if a is not b:
            raise ValueError("cannot add two octave pairs of which only one has a high or a low group")
        return None
    return a + b


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

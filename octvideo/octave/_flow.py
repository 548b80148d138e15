"""What :func:`octvideo.octave.octavize` puts between the layers of a traced network, and the network it returns.

All of it is modules, not functions: torch.fx traces a network anew when it is unpickled, and would run a function
with symbolic values, while it leaves a module alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from octvideo.octave.layers import merge, pool_globally
from octvideo.octave.pair import Feature, OctaveTensor, map_groups

__all__ = ["Apply", "GlobalPool", "LayerRow", "Merge", "OctaveNetwork", "Scale"]


class Merge(nn.Module):
    """A pair as one tensor; see :func:`octvideo.octave.merge`."""

    def forward(self, x: Feature) -> Tensor:
        return merge(x)


class Apply(nn.Module):
    """An elementwise function on each group."""

    def __init__(self, function: Callable[..., Tensor], args: tuple[Any, ...] = (), **options: Any) -> None:
        super().__init__()
        self.function, self.args, self.options = function, args, options

    def forward(self, x: Feature) -> Feature:
        return map_groups(lambda group: self.function(group, *self.args, **self.options), x)


class GlobalPool(nn.Module):
    """``AdaptiveAvgPool(1)`` of all groups: ``(N, C, 1, 1)`` or ``(N, C, 1, 1, 1)``, high channels first."""

    def forward(self, x: Feature) -> Tensor:
        group = next(group for group in (x if isinstance(x, OctaveTensor) else (x,)) if group is not None)
        return pool_globally(x)[(...,) + (None,) * (group.dim() - 2)]


class Scale(nn.Module):
    """A pair times one factor a channel, ``(N, C, 1, 1)``: the last step of squeeze-and-excitation."""

    def forward(self, x: OctaveTensor, gate: Tensor) -> OctaveTensor:
        high = 0 if x.high is None else x.high.shape[1]
        return OctaveTensor(
            None if x.high is None else x.high * gate[:, :high], None if x.low is None else x.low * gate[:, high:]
        )


class LayerRow(NamedTuple):
    """One line of the report: a convolution, a fully connected layer, or a place where a pair is merged.

    ``before`` and ``after`` are the multiply-adds of the layer on the example input.
    """

    name: str
    kind: str
    alpha_in: float
    alpha_out: float
    before: int
    after: int


class OctaveNetwork(fx.GraphModule):
    """A traced network that keeps the module tree of the original, so its state dict, and carries its report."""

    octave_report: list[LayerRow]

    def __init__(self, root: nn.Module, graph: fx.Graph, report: list[LayerRow]) -> None:
        super().__init__(root, graph, "OctaveNetwork")
        # The base class keeps only what the graph uses, in the graph's order and with all buffers in the state dict.
        constants = {name: value for name, value in self._buffers.items() if name not in root._buffers}
        self._modules = dict(root._modules)
        self._parameters = dict(root._parameters)
        self._buffers = {**root._buffers, **constants}
        self._non_persistent_buffers_set = root._non_persistent_buffers_set | set(constants)
        self.octave_report = report

    def __deepcopy__(self, memo: dict[int, Any]) -> OctaveNetwork:
        return _rebuild(copy.deepcopy(dict(self.__dict__), memo), copy.deepcopy(self.graph, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return _retrace, tuple(super().__reduce__()[:2])


def _retrace(rebuild: Callable[..., fx.GraphModule], args: tuple[Any, ...]) -> OctaveNetwork:
    """Unpickles: torch.fx restores the graph from its code."""
    return _rebuild(args[0], rebuild(*args).graph)


def _rebuild(state: dict[str, Any], graph: fx.Graph) -> OctaveNetwork:
    root = nn.Module()
    root.__dict__.update(state)
    return OctaveNetwork(root, graph, state["octave_report"])

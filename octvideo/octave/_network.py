"""The network that :func:`octvideo.octave.octavize` returns, and its report."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import fx, nn

__all__ = ["LayerRow", "OctaveNetwork"]


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

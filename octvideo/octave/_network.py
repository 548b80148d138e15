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
    """A traced network that keeps the module tree of the original, so its state dict, and carries its report.

    Attributes:
        by_mode: the graphs for training (True) and evaluation, where they are not the same.
    """

    octave_report: list[LayerRow]
    by_mode: dict[bool, fx.Graph]

    def __init__(self, root: nn.Module, graph: fx.Graph, report: list[LayerRow]) -> None:
        super().__init__(root, graph, "OctaveNetwork")
        # The base class keeps only what the graph uses, in the graph's order and with all buffers in the state dict.
        constants = {name: value for name, value in self._buffers.items() if name not in root._buffers}
        self._modules = dict(root._modules)
        self._parameters = dict(root._parameters)
        self._buffers = {**root._buffers, **constants}
        self._non_persistent_buffers_set = root._non_persistent_buffers_set | set(constants)
        self.octave_report = report
        self.by_mode = {}

    def train(self, mode: bool = True) -> OctaveNetwork:
        """As of any module; it also changes to the graph of the mode.

        Raises:
            RuntimeError: the vanilla network branches on its mode, and only the graph of the other one is known.
        """
        if self.by_mode and mode not in self.by_mode:
            raise RuntimeError(
                f"this network does something else in {'training' if mode else 'evaluation'}, and its octave version "
                f"is of the other mode alone: octavize the vanilla network after .{'train' if mode else 'eval'}()"
            )
        if self.by_mode and self.graph is not self.by_mode[mode]:
            self.graph = self.by_mode[mode]
        super().train(mode)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> OctaveNetwork:
        return _rebuild(copy.deepcopy(dict(self.__dict__), memo), copy.deepcopy(self.graph, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (state, *code) = super().__reduce__()[:2]
        graphs = {
            mode: tuple(fx.GraphModule(self, graph).__reduce__()[:2])
            for mode, graph in self.by_mode.items()
            if graph is not self.graph
        }
        return _retrace, (rebuild, ({**state, "by_mode": {}}, *code), graphs, bool(self.by_mode))


def _retrace(
    rebuild: Callable[..., fx.GraphModule], args: tuple[Any, ...], graphs: dict[bool, tuple[Any, ...]], branches: bool
) -> OctaveNetwork:
    """Unpickles: torch.fx restores a graph from its code."""
    network = _rebuild(args[0], rebuild(*args).graph)
    if branches:
        network.by_mode = {network.training: network.graph}
        network.by_mode |= {mode: build(*parts).graph for mode, (build, parts) in graphs.items()}
    return network


def _rebuild(state: dict[str, Any], graph: fx.Graph) -> OctaveNetwork:
    root = nn.Module()
    root.__dict__.update(state)
    network = OctaveNetwork(root, graph, state["octave_report"])
    network.by_mode = state["by_mode"]
    return network

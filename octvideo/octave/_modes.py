"""Networks that do something else in training than in evaluation, such as GoogLeNet with its auxiliary heads.

torch.fx follows one branch of ``if self.training``. So each mode has its own graph, over the same layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from octvideo.octave._network import OctaveNetwork
from octvideo.octave._trace import Trace

__all__ = ["join_modes", "same_graphs"]

_HELPERS = ("octave_", "_tensor_constant")  # what octavize, and torch.fx, add to the modules of a network
_WIDTHS = ("in_segments", "out_segments", "segments")


def same_graphs(one: Mapping[str, Trace], other: Mapping[str, Trace]) -> bool:
    """Whether the traces of both modes are alike."""
    return one.keys() == other.keys() and all(_code(one[name].graph) == _code(other[name].graph) for name in one)


def join_modes(network: nn.Module, twin: nn.Module, traces: Mapping[str, Trace], others: Mapping[str, Trace]) -> None:
    """Gives the traced parts of a network the graphs of its twin, which was made octave in the other mode.

    Where a layer would be another in the two modes, a part keeps the one graph that it has, and refuses the other mode.

    Args:
        traces, others: what the two were made from, by name.
    """
    fits = traces.keys() == others.keys() and _layers(network) == _layers(twin)
    for name in traces:
        part: Any = network.get_submodule(name)
        part.by_mode = {part.training: part.graph}
        if fits:
            part.by_mode[not part.training] = _take_graph(part, twin.get_submodule(name))


def _take_graph(part: OctaveNetwork, twin: Any) -> fx.Graph:
    """The twin's graph; what it needs and is no layer of the network comes along, under a name of its own."""
    mode = "train" if twin.training else "eval"
    graph: fx.Graph = twin.graph
    for node in graph.nodes:
        if node.op not in ("call_module", "get_attr") or not str(node.target).startswith(_HELPERS):
            continue
        name = f"{node.target}_{mode}"
        if not hasattr(part, name):
            helper = getattr(twin, str(node.target))
            if isinstance(helper, nn.Module):
                part.add_module(name, helper)
            else:
                part.register_buffer(name, helper, persistent=False)
        node.target = name
    return graph


def _code(graph: fx.Graph) -> str:
    return graph.python_code("self").src


def _layers(network: nn.Module) -> dict[str, tuple[Any, ...]]:
    """The kind of each layer, and how its channels are split."""
    return {
        name: (type(layer).__name__, *(getattr(layer, key, None) for key in _WIDTHS))
        for name, layer in network.named_modules(remove_duplicate=False)
        if not any(part.startswith(_HELPERS) for part in name.split("."))
    }

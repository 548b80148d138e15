"""Which values of a traced network become octave pairs: the analysis behind :func:`octvideo.octave.octavize`.

A layer that keeps channels (norm, activation, pooling, addition, depth-wise convolution) ties its output to its
inputs: all of them are pairs, or none is. Only a full convolution and a concatenation untie them. A set of tied values
becomes pairs where every value that enters it comes from a convolution that may write a pair, or from a concatenation
of which a part is a pair::

    max-pool -> conv1 -> bn -> relu -> conv2 -> bn -> add -> relu     one set: max-pool, conv2, bn, add, relu: plain
         |                                             |              another: conv1, bn, relu: pairs
         +---------------------------------------------+

With every pair goes its order of channels (see ``segments``): a concatenation has that of its parts, one after another.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterable, Set
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from octvideo.octave._flow import Apply
from octvideo.octave._probe import is_channelwise_norm, is_elementwise
from octvideo.octave._trace import Trace
from octvideo.octave.pair import split_channels
from octvideo.octave.segments import Segments, simplify

__all__ = ["Plan", "Zone", "keeps_dims", "zone"]

_TWO = {
    operator.add, operator.iadd, torch.add, "add", "add_", operator.sub, operator.isub, torch.sub, "sub",
    operator.mul, operator.imul, torch.mul, "mul", "mul_", torch.maximum, torch.minimum,
}  # fmt: skip
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}
# Residual branches are left out for a whole sample: the same for both groups.
_DROP_PATHS = {"DropPath", "StochasticDepth"}


class Zone(NamedTuple):
    """The height below which (inclusive) pairs begin, and the final one, where they have ended."""

    entry: int
    final: int


def zone(traces: Iterable[Trace], size: int) -> Zone:
    """Where pairs are worth it, in a network whose input has the height ``size``."""
    heights: list[int] = []
    for part in traces:
        modules = dict(part.module.named_modules())
        pooled: set[fx.Node] = set()
        for node in part.graph.nodes:
            inputs = [x for x in node.all_input_nodes if x in part.shapes]
            means = _global_mean(node, modules, part.shapes) or _fills_window(node, modules, part.shapes)
            if means or (inputs and all(x in pooled for x in inputs)):
                pooled.add(node)
            elif isinstance(_called(node, modules), (nn.Conv2d, nn.Conv3d)) and node in part.shapes:
                heights.append(part.shapes[node][-2])
    final = min(heights, default=size)
    # Four stages in the end at most; the stem, and the layer that ends it, stay as they are.
    return Zone(max(-(-size // 4), min(-(-size // 2), 8 * final)), final)


class Plan:
    """The role of every node, and the channels of every node whose value is a pair.

    Args:
        trace: the network, or a part of it.
        bounds: from :func:`zone`.
        alpha, multiple: as in :func:`octvideo.octave.split_channels`.
        shared: layers that have a second name in the network, or a tensor that another layer has too.

    Attributes:
        roles: "conv", "norm", "map", "noise", "pool", "two", "scale", "global", "cat" or "other" of each node.
        pairs: high and low channels of the nodes whose value is a pair.
    """

    def __init__(self, trace: Trace, bounds: Zone, alpha: float, multiple: int, shared: Set[nn.Module]) -> None:
        self._alpha, self._multiple, self._shapes, self._bounds = alpha, multiple, trace.shapes, bounds
        self._masks, self._shared = trace.masks, shared
        self._calls = Counter(node.target for node in trace.graph.nodes if node.op == "call_module")
        self._modules = dict(trace.module.named_modules())
        self._nodes = list(trace.graph.nodes)
        self._probed: dict[Any, bool] = {}
        self.roles = {node: self._role(node) for node in self._nodes}
        self.pairs: dict[fx.Node, Segments] = {}
        plain = set(trace.plain)
        while True:
            self.pairs = self._order(self._find_pairs(plain))
            # A sum of pairs in which different channels are low is a sum of tensors.
            clashes = [x for x in self.pairs if len({self.pairs[t] for t in self.tied(x)}) > 1]
            self.roles.update(dict.fromkeys(clashes, "other"))
            idle = {x for x in self.pairs if x not in clashes} & self._idle()
            if not clashes and not idle:
                break
            plain |= idle

    def module(self, node: fx.Node) -> nn.Module | None:
        """The layer that the node calls."""
        return _called(node, self._modules)

    def _inside(self, node: fx.Node) -> bool:
        x = node.all_input_nodes[0]
        return self._shapes[x][-2] <= self._bounds.entry and self._shapes[node][-2] > self._bounds.final

    def _role(self, node: fx.Node) -> str:
        module, inputs = self.module(node), [x for x in node.all_input_nodes if len(self._shapes.get(x, ())) in (4, 5)]
        if node not in self._shapes or not inputs or len(inputs) != len(node.all_input_nodes):
            return "other"
        if node in self._masks:
            return "other"  # booleans and integers cannot be upsampled or averaged
        if _is_convolution(module):
            return "conv" if self.fits(node) else "other"
        dims = len(self._shapes[node])
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            # The parts would be other tensors than those that the other name, or the other layer, has.
            exchanged = self._plain_layer(node) and module not in self._shared
            return "norm" if exchanged and is_channelwise_norm(module, dims) else "other"
        if _global_mean(node, self._modules, self._shapes):
            return "global"
        if type(module) in (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d):
            return "pool" if _pools_in_step(module) else "other"
        if node.target in _CONCATENATIONS:
            return "cat" if self._joins_channels(node) else "other"
        if len(inputs) == 1:
            if self._shapes[node] != self._shapes[inputs[0]]:
                return "other"
            if type(module).__name__ in _DROP_PATHS:
                return "noise"
            return "map" if self._is_map(node) else "other"
        if len(node.args) == 2 and not node.kwargs and len(inputs) == 2:
            a, b = (self._shapes[x] for x in inputs)
            if node.target in _TWO and a == b:
                return "two"
            gates = [shape[1] == self._shapes[node][1] and set(shape[2:]) == {1} for shape in (a, b)]
            if node.target in _PRODUCTS and sum(gates) == 1:
                return "scale"
        return "other"

    def _is_map(self, node: fx.Node) -> bool:
        """Works on each element by itself, and draws no noise but dropout's."""
        module = self.module(node)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            return True
        functions: list[nn.Module | None] = [Apply.of(node)]
        key: Any = node.target, repr(node.args), repr(node.kwargs)
        if module is not None:
            # Its tensors stay under their names, and may have one value a channel.
            if next(chain(module.parameters(), module.buffers()), None) is not None:
                return False
            if len(node.args) != 1 or node.kwargs:
                return False
            functions = [copy.deepcopy(module).train(mode) for mode in (True, False)]
            # Other classes may hide what they do from their description.
            key = repr(module) if type(module).__module__.startswith("torch.nn.") else node.target
        if key not in self._probed:
            dims = len(self._shapes[node])
            self._probed[key] = all(f is not None and is_elementwise(f, dims) for f in functions)
        return self._probed[key]

    def _joins_channels(self, node: fx.Node) -> bool:
        tensors = node.args[0] if node.args else node.kwargs.get("tensors")
        dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if not isinstance(tensors, (list, tuple)):
            return False
        return dim % len(self._shapes[node]) == 1

    def _plain_layer(self, node: fx.Node) -> bool:
        """Called once and with nothing attached to it: it can be exchanged."""
        module = self.module(node)
        assert module is not None
        attached = module._forward_hooks or module._forward_pre_hooks or parametrize.is_parametrized(module)
        return self._calls[node.target] == 1 and not attached

    def depthwise(self, node: fx.Node) -> bool:
        """The node is a depth-wise convolution."""
        conv: Any = self.module(node)
        return conv.groups > 1 and conv.groups == conv.in_channels

    def fits(self, node: fx.Node) -> bool:
        """An octave convolution can stand here: it keeps the size but for a stride of 2, and its groups divide."""
        conv: Any = self.module(node)
        spatial = [(k, s, p, d) for k, s, p, d in zip(*_geometry(conv), strict=True)][-2:]
        same = all(2 * p == d * (k - 1) for k, _, p, d in spatial)
        widths = (
            *split_channels(conv.in_channels, self._alpha, self._multiple),
            *split_channels(conv.out_channels, self._alpha, self._multiple),
        )
        divides = self.depthwise(node) or not any(width % conv.groups for width in widths)
        strides = tuple(s for _, s, _, _ in spatial)
        exact = conv.padding_mode == "zeros" and self._plain_layer(node)
        return same and strides in ((1, 1), (2, 2)) and divides and exact

    def tied(self, node: fx.Node) -> list[fx.Node]:
        """The inputs that are pairs where the output is one."""
        role = self.roles[node]
        if role in ("norm", "map", "noise") or (role == "pool" and self._inside(node)):
            return [node.all_input_nodes[0]]
        if role == "two":
            return list(node.all_input_nodes)
        if role == "scale":
            return [x for x in node.all_input_nodes if set(self._shapes[x][2:]) != {1}]
        if role == "conv" and self._inside(node) and self.depthwise(node):
            return [node.all_input_nodes[0]]
        return []

    def reads(self, node: fx.Node) -> bool:
        """The convolution can take its input as a pair."""
        conv: Any = self.module(node)
        segments = self.pairs.get(node.all_input_nodes[0])
        if self.roles[node] != "conv" or segments is None:
            return False
        if self.depthwise(node):
            return node in self.pairs
        return conv.groups == 1 or (len(segments) == 1 and not any(width % conv.groups for width in segments[0]))

    def _find_pairs(self, plain: set[fx.Node]) -> set[fx.Node]:
        """The largest set of nodes that can be pairs where those of ``plain`` are not."""
        parent = {node: node for node in self._nodes}

        def find(node: fx.Node) -> fx.Node:
            while parent[node] is not node:
                node = parent[node]
            return node

        for node in self._nodes:
            for x in self.tied(node):
                parent[find(x)] = find(node)
        self._set = {node: find(node) for node in self._nodes}
        pairs = set(self._nodes)
        while True:
            sources = [node for node in self._nodes if not self.tied(node)]
            tensors = {self._set[node] for node in sources if not self._writes_pair(node, pairs)}
            tensors |= {self._set[node] for node in plain}
            fewer = {node for node in pairs if self._set[node] not in tensors}
            if fewer == pairs:
                return pairs
            pairs = fewer

    def _writes_pair(self, node: fx.Node, pairs: set[fx.Node]) -> bool:
        if self.roles[node] == "cat":
            return any(x in pairs for x in node.all_input_nodes)
        conv: Any = self.module(node)
        if self.roles[node] != "conv" or self.depthwise(node) or not self._inside(node):
            return False
        return split_channels(conv.out_channels, self._alpha, self._multiple)[1] > 0

    def _order(self, pairs: set[fx.Node]) -> dict[fx.Node, Segments]:
        """The channels of each pair; the nodes are in the order in which they run."""
        order: dict[fx.Node, Segments] = {}
        for node in (node for node in self._nodes if node in pairs):
            tied = self.tied(node)
            if self.roles[node] == "cat":
                parts = node.args[0] if node.args else node.kwargs["tensors"]
                each = (order.get(x, ((self._shapes[x][1], 0),)) for x in parts)  # type: ignore[union-attr, arg-type]
                order[node] = simplify([segment for segments in each for segment in segments])
            elif not tied:
                order[node] = (split_channels(self._shapes[node][1], self._alpha, self._multiple),)
            else:
                factor = self._shapes[node][1] // self._shapes[tied[0]][1]  # of a depth-wise convolution
                order[node] = tuple((high * factor, low * factor) for high, low in order[tied[0]])
        return order

    def _idle(self) -> set[fx.Node]:
        """Pairs that nothing takes but layers that end the zone: they are better merged by the convolution before."""
        uses: dict[fx.Node, bool] = {}
        for node in self.pairs:
            for user in (user for user in node.users if self._set[user] is not self._set[node]):
                uses[self._set[node]] = uses.get(self._set[node], False) or not self._ends(user)
        return {node for node in self.pairs if uses.get(self._set[node]) is False}

    def _ends(self, node: fx.Node) -> bool:
        if node in self.pairs or node not in self._shapes:
            return False
        shrinks = self.roles[node] == "pool" or (self.roles[node] == "conv" and self.depthwise(node))
        return self.roles[node] == "cat" or (shrinks and self._shapes[node][-2] <= self._bounds.final)


def _called(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None


def keeps_dims(node: fx.Node) -> bool:
    """The global mean leaves dimensions of size 1."""
    return node.op == "call_module" or bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim"))


def _global_mean(node: fx.Node, modules: dict[str, nn.Module], shapes: dict[fx.Node, tuple[int, ...]]) -> bool:
    """The mean of each channel: an ``AdaptiveAvgPool(1)``, or ``mean`` over all dimensions but the first two."""
    module = _called(node, modules)
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)):
        size: Any = module.output_size
        return size == 1 or (isinstance(size, (tuple, list)) and set(size) == {1})
    if node.target not in ("mean", torch.mean) or not node.args or node.args[0] not in shapes:
        return False
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    total = len(shapes[node.args[0]])  # type: ignore[index]
    if not isinstance(dims, (list, tuple)) or not all(isinstance(dim, int) for dim in dims):
        return False
    return set(node.kwargs) <= {"dim", "keepdim"} and {dim % total for dim in dims} == set(range(2, total))


def _fills_window(node: fx.Node, modules: dict[str, nn.Module], shapes: dict[fx.Node, tuple[int, ...]]) -> bool:
    """An average of a window as large as the map: a head made for one size of input."""
    pool = isinstance(_called(node, modules), (nn.AvgPool2d, nn.AvgPool3d))
    return pool and shapes[node][-2:] == (1, 1) != shapes[node.all_input_nodes[0]][-2:]


def _is_convolution(layer: nn.Module | None) -> bool:
    """A vanilla one: a subclass may add arguments (torchvision's do), but not compute anything else."""
    return any(
        isinstance(layer, kind) and type(layer).forward is kind.forward and type(layer)._conv_forward is conv
        for kind, conv in ((nn.Conv2d, nn.Conv2d._conv_forward), (nn.Conv3d, nn.Conv3d._conv_forward))
    )


def _geometry(layer: Any) -> tuple[tuple[int, ...], ...]:
    """Kernel, stride, padding and dilation."""
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding == "same":
        # Only the sum of both sides counts for what is asked here.
        return kernel, stride, tuple(d * (k - 1) / 2 for k, d in zip(kernel, dilation, strict=True)), dilation
    return kernel, stride, (0,) * len(kernel) if layer.padding == "valid" else layer.padding, dilation


def _pools_in_step(pool: Any) -> bool:
    """Pooling of the low group alone gives the size that goes with the high output (see ``OctPool``)."""

    def spatial(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else tuple(value[-2:])

    dilated = getattr(pool, "dilation", 1) not in (1, (1, 1), (1, 1, 1))
    if dilated or getattr(pool, "return_indices", False):
        return False
    kernels, strides, paddings = spatial(pool.kernel_size), spatial(pool.stride), spatial(pool.padding)
    same = all(2 * p == k - 1 for k, p in zip(kernels, paddings, strict=True))
    return strides in ((1, 1), (2, 2)) and (same or (kernels, strides, paddings) == ((2, 2), (2, 2), (0, 0)))

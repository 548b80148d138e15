"""Which values of a traced network become octave pairs: the analysis behind :func:`octvideo.octave.octavize`.

A layer that keeps channels (norm, activation, pooling, addition, depth-wise convolution) ties its output to its
inputs: all of them are pairs, or none is. Only a full convolution unties them. A set of tied values becomes pairs
where every value that enters it comes from a convolution that may write a pair::

    max-pool -> conv1 -> bn -> relu -> conv2 -> bn -> add -> relu     one set: max-pool, conv2, bn, add, relu: plain
         |                                             |              another: conv1, bn, relu: pairs
         +---------------------------------------------+
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from octvideo.octave.pair import split_channels

__all__ = ["Plan", "Shapes"]

_FUNCTIONS = {
    torch.relu, torch.relu_, torch.sigmoid, torch.tanh, F.relu, F.relu6, F.silu, F.hardswish, F.gelu, F.leaky_relu,
    F.elu, F.mish, F.hardtanh, F.hardsigmoid, F.sigmoid, F.tanh,
}  # fmt: skip
_METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "contiguous"}
_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Hardtanh, nn.Hardsigmoid,
    nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_GLOBAL = {F.adaptive_avg_pool2d, F.adaptive_avg_pool3d}


class Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor in ``shapes``."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


class Plan:
    """The role of every node, and the set of nodes whose value is a pair.

    Args:
        root: the traced network.
        graph: its graph.
        shapes: of the nodes' values, from :class:`Shapes`.
        alpha, multiple: as in :func:`octvideo.octave.split_channels`.

    Attributes:
        roles: "conv", "norm", "map", "pool", "add", "scale", "global" or "other" of each node.
        pairs: the nodes whose value is a pair.
    """

    def __init__(
        self, root: nn.Module, graph: fx.Graph, shapes: dict[fx.Node, tuple[int, ...]], alpha: float, multiple: int
    ) -> None:
        self._alpha, self._multiple, self._shapes = alpha, multiple, shapes
        self._calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        self._modules = dict(root.named_modules())
        self._entry, self._final = self._zone(graph)
        self.roles = {node: self._role(node) for node in graph.nodes}
        self.pairs = self._find_pairs(graph)

    def module(self, node: fx.Node) -> nn.Module | None:
        """The layer that the node calls."""
        return self._modules[str(node.target)] if node.op == "call_module" else None

    def _zone(self, graph: fx.Graph) -> tuple[int, int]:
        """The height below which (inclusive) pairs begin, and the final one, where they have ended."""
        pooled: set[fx.Node] = set()
        heights: list[int] = []
        for node in graph.nodes:
            inputs = [x for x in node.all_input_nodes if x in self._shapes]
            if self._pools_globally(node) or (inputs and all(x in pooled for x in inputs)):
                pooled.add(node)
            elif isinstance(self.module(node), (nn.Conv2d, nn.Conv3d)) and node in self._shapes:
                heights.append(self._shapes[node][-2])
        size = next(self._shapes[node][-2] for node in graph.nodes if node.op == "placeholder")
        final = min(heights, default=size)
        # Four stages in the end at most; the stem, and the layer that ends it, stay as they are.
        return max(-(-size // 4), min(-(-size // 2), 8 * final)), final

    def _inside(self, node: fx.Node) -> bool:
        x = node.all_input_nodes[0]
        return self._shapes[x][-2] <= self._entry and self._shapes[node][-2] > self._final

    def _role(self, node: fx.Node) -> str:
        module, inputs = self.module(node), [x for x in node.all_input_nodes if len(self._shapes.get(x, ())) in (4, 5)]
        if node not in self._shapes or not inputs or len(inputs) != len(node.all_input_nodes):
            return "other"
        if _is_convolution(module):
            return "conv" if self.fits(node) else "other"
        if type(module) in (nn.BatchNorm2d, nn.BatchNorm3d):
            return "norm" if self._plain_layer(node) else "other"
        if type(module) in _ELEMENTWISE or node.target in (_FUNCTIONS if node.op == "call_function" else ()):
            return "map"
        if node.op == "call_method" and node.target in _METHODS:
            return "map"
        if self._pools_globally(node):
            # A mean comes with its own choice of dimensions: it gets a merged tensor.
            return "global" if module is not None or node.target in _GLOBAL else "other"
        if type(module) in (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d):
            return "pool" if _pools_in_step(module) and self._inside(node) else "other"
        if len(node.args) == 2 and not node.kwargs and len(inputs) == 2:
            a, b = (self._shapes[x] for x in inputs)
            if node.target in _ADDITIONS and a == b:
                return "add"
            gates = [shape[1] == self._shapes[node][1] and set(shape[2:]) == {1} for shape in (a, b)]
            if node.target in _PRODUCTS and sum(gates) == 1:
                return "scale"
        return "other"

    def _pools_globally(self, node: fx.Node) -> bool:
        module = self.module(node)
        size: Any = None
        if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)):
            size = module.output_size
        elif node.op == "call_function" and node.target in _GLOBAL:
            size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
        elif "mean" in (node.target, getattr(node.target, "__name__", "")):
            shape = self._shapes.get(node, ())
            return len(shape) <= 2 or set(shape[-2:]) == {1}
        return size == 1 or (isinstance(size, (tuple, list)) and set(size) == {1})

    def _plain_layer(self, node: fx.Node) -> bool:
        """Called once and with nothing attached to it: it can be exchanged."""
        module = self.module(node)
        assert module is not None
        return self._calls[node.target] == 1 and not (module._forward_hooks or module._forward_pre_hooks)

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
        divides = not any(width % conv.groups for width in widths)
        if self.depthwise(node):
            divides = widths[0] * conv.out_channels == widths[2] * conv.in_channels
        strides = tuple(s for _, s, _, _ in spatial)
        exact = conv.padding_mode == "zeros" and self._plain_layer(node)
        return same and strides in ((1, 1), (2, 2)) and divides and exact

    def tied(self, node: fx.Node) -> list[fx.Node]:
        """The inputs that are pairs where the output is one."""
        role = self.roles[node]
        if role in ("norm", "map", "pool"):
            return [node.all_input_nodes[0]]
        if role == "add":
            return list(node.all_input_nodes)
        if role == "scale":
            return [x for x in node.all_input_nodes if set(self._shapes[x][2:]) != {1}]
        if role == "conv" and self._inside(node) and self.depthwise(node):
            return [node.all_input_nodes[0]]
        return []

    def _find_pairs(self, graph: fx.Graph) -> set[fx.Node]:
        parent = {node: node for node in graph.nodes}

        def find(node: fx.Node) -> fx.Node:
            while parent[node] is not node:
                node = parent[node]
            return node

        for node in graph.nodes:
            for x in self.tied(node):
                parent[find(x)] = find(node)
        writes = {node for node in graph.nodes if self._writes_pair(node)}
        plain = {find(node) for node in graph.nodes if node not in writes and not self.tied(node)}
        return {node for node in graph.nodes if find(node) not in plain}

    def _writes_pair(self, node: fx.Node) -> bool:
        conv: Any = self.module(node)
        if self.roles[node] != "conv" or self.depthwise(node) or not self._inside(node):
            return False
        return split_channels(conv.out_channels, self._alpha, self._multiple)[1] > 0


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

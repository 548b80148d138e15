"""Recording what a network does with its features, with torch.fx, whatever torch.fx can make of it.

A module whose control flow depends on values stops torch.fx. Here such a module becomes one step of the graph, and
the network around it is followed all the same.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

__all__ = ["Trace", "fresh", "replace", "trace_parts"]

# What has a layer with the same arguments: a layer follows the mode, and is dealt with in one place.
_LAYERS = {
    F.dropout: nn.Dropout, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d,
    F.max_pool2d: nn.MaxPool2d, F.max_pool3d: nn.MaxPool3d, F.avg_pool2d: nn.AvgPool2d, F.avg_pool3d: nn.AvgPool3d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d, F.adaptive_avg_pool3d: nn.AdaptiveAvgPool3d,
}  # fmt: skip


class Trace(NamedTuple):
    """A module as a graph: the shapes of its tensors, and the names of the modules in it that torch.fx cannot trace."""

    module: nn.Module
    graph: fx.Graph
    shapes: dict[fx.Node, tuple[int, ...]]
    opaque: list[str]


def fresh(inputs: Any) -> Any:
    """The same tensors in new lists: a network may write into the list that it is given."""
    return pytree.tree_map(lambda x: x, inputs)


def trace_parts(root: nn.Module, dry: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Trace]:
    """The network as a graph, by the name ""; what in it cannot be traced gives its own parts, by theirs."""
    seen: dict[str, tuple[Any, ...]] = {"": inputs}
    traces: dict[str, Trace] = {}
    waiting = [""]
    while waiting:
        name = waiting.pop(0)
        module = root.get_submodule(name)
        if not any(
            isinstance(layer, (nn.Conv2d, nn.Conv3d)) for child in module.children() for layer in child.modules()
        ):
            continue
        within = [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
        if name and len(seen) == 1:
            seen.update(_inputs_within(dry, inputs))
        if name in seen:
            try:
                part = _trace(module, dry.get_submodule(name), fresh(seen[name]))
            except Exception:  # tracing runs the network's own code, which may raise anything
                pass
            else:
                traces[name] = part
                opaque = [f"{name}.{inner}".lstrip(".") for inner in part.opaque]
                within = [
                    f"{path}.{child}" for path in opaque for child, _ in root.get_submodule(path).named_children()
                ]
        waiting += within
    return traces


def _inputs_within(dry: nn.Module, inputs: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    """The positional arguments of each module, where it is called the first time."""
    seen: dict[str, tuple[Any, ...]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not kwargs:
                seen.setdefault(name, fresh(args))

        return hook

    hooks = [layer.register_forward_pre_hook(note(name), with_kwargs=True) for name, layer in dry.named_modules()]
    with torch.no_grad():
        dry(*fresh(inputs))
    for handle in hooks:
        handle.remove()
    return seen


def _trace(module: nn.Module, dry: nn.Module, inputs: tuple[Any, ...]) -> Trace:
    """The graph of ``module``.

    Args:
        dry: a copy of it in evaluation mode, which is run.
        inputs: its positional arguments. A list, tuple or dict of tensors is taken apart; optional
            arguments that are not given keep their default.

    Raises:
        Exception: whatever the module's own code raises, where torch.fx stops at the module itself.
    """
    tracer = _Tracer(inputs)
    parameters = list(inspect.signature(module.forward).parameters.values())
    # ``if mask is None`` is decided here; other defaults may be given later.
    absent = {p.name: None for p in parameters[len(inputs) :] if p.default is None}
    graph = tracer.trace(module, absent or None)
    shapes = _Shapes(dry, graph)
    with torch.no_grad():
        shapes.run(*inputs)
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _LAYERS:
            _make_layer(module, graph, node)
    return Trace(module, graph, shapes.shapes, tracer.opaque)


def replace(root: nn.Module, graph: fx.Graph, node: fx.Node, layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Calls a new layer without parameters in place of ``node``."""
    name = f"octave_{type(layer).__name__.lower()}_{node.name}"
    root.add_module(name, layer)
    node.op, node.target, node.args, node.kwargs = "call_module", name, args, {}


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor in ``shapes``."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(_thaw(arg) for arg in args), {key: _thaw(arg) for key, arg in kwargs.items()}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


def _thaw(x: Any) -> Any:
    """Lists that may be written to, as the network's code may, in place of those of a graph."""
    if isinstance(x, list):
        return [_thaw(item) for item in x]
    return {key: _thaw(item) for key, item in x.items()} if isinstance(x, dict) else x


class _Tracer(fx.Tracer):
    def __init__(self, inputs: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.inputs = inputs
        self.opaque: list[str] = []
        self._gets_list = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self._gets_list:
            return False  # what comes out of it may be a list too, and would not be seen
        # A layer without children is left alone: what is in it cannot be exchanged. A norm may have an activation in
        # it, and depends on the mode.
        norm = isinstance(m, nn.modules.batchnorm._BatchNorm)
        return norm or not any(m.children()) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        first = 1 if is_module else 0
        for place, example in enumerate(self.inputs, first):
            args[place] = _take_apart(args[place], example)
        return function, args

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        last, depth = next(iter(reversed(self.graph.nodes))), len(self.module_stack)
        kept = pytree.tree_map(lambda x: x, (args, kwargs))  # new lists: a module may write into those it is given
        opaque = len(self.opaque)
        self._gets_list = any(isinstance(arg, (list, tuple, dict)) for arg in (*args, *kwargs.values()))
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # tracing runs the network's own code, which may raise anything
            while len(self.module_stack) > depth:
                self.module_stack.popitem()
            # Parameters stay: torch.fx remembers their nodes.
            for node in reversed([n for n in _after(self.graph, last) if n.op != "get_attr"]):
                self.graph.erase_node(node)
            name = self.path_of_module(m)
            call = self.create_proxy("call_module", name, *kept)
            self.opaque[opaque:] = [name]
            return call


def _after(graph: fx.Graph, last: fx.Node) -> list[fx.Node]:
    nodes = list(graph.nodes)
    return nodes[nodes.index(last) + 1 :]


def _take_apart(proxy: Any, example: Any) -> Any:
    """What a network sees that is traced with a list: a list of the tensors in it."""
    if isinstance(example, dict):
        return {key: _take_apart(proxy[key], value) for key, value in example.items()}
    if isinstance(example, (list, tuple)):
        return type(example)(_take_apart(proxy[place], value) for place, value in enumerate(example))
    return proxy


def _make_layer(module: nn.Module, graph: fx.Graph, node: fx.Node) -> None:
    """``F.dropout(x, p, self.training)``, traced with the mode of the moment, becomes a layer, and so do pools."""
    kind = _LAYERS[node.target]  # type: ignore[index]
    args, kwargs = list(node.args), dict(node.kwargs)
    x = args.pop(0) if args else kwargs.pop("input")
    if issubclass(kind, nn.modules.dropout._DropoutNd):
        args = args[:1]
        kwargs = {"p": kwargs["p"]} if "p" in kwargs else {}
    if any(isinstance(value, fx.Node) for value in (*args, *kwargs.values())):
        return  # computed from the input's size
    replace(module, graph, node, kind(*args, **kwargs).train(module.training), (x,))

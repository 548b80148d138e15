"""Recording what a network does with its features, with torch.fx, whatever torch.fx can make of it.

A module whose control flow depends on values stops torch.fx. Here such a module becomes one step of the graph, and
the network around it is followed all the same.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from octvideo.octave._compare import compare

__all__ = ["Trace", "fresh", "replace", "trace_parts"]

# What has a layer with the same arguments: a layer follows the mode, and is dealt with in one place.
_LAYERS = {
    F.dropout: nn.Dropout, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d,
    F.max_pool2d: nn.MaxPool2d, F.max_pool3d: nn.MaxPool3d, F.avg_pool2d: nn.AvgPool2d, F.avg_pool3d: nn.AvgPool3d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d, F.adaptive_avg_pool3d: nn.AdaptiveAvgPool3d,
}  # fmt: skip
# The methods of ``x += y`` and so on.
_IN_PLACE = {
    operator.iadd: "iadd", operator.isub: "isub", operator.imul: "imul", operator.itruediv: "itruediv",
}  # fmt: skip


class Trace(NamedTuple):
    """A module as a graph.

    Attributes:
        shapes: of its tensors.
        masks: tensors that are not of floating point.
        plain: tensors that share memory in which a later step writes, so that they must stay as they are.
        opaque: the names of the modules in it that torch.fx cannot trace.
        branches: the code asks for the mode, so in the other one the graph may be another.
    """

    module: nn.Module
    graph: fx.Graph
    shapes: dict[fx.Node, tuple[int, ...]]
    masks: set[fx.Node]
    plain: set[fx.Node]
    opaque: list[str]
    branches: bool


def fresh(inputs: Any) -> Any:
    """The same tensors in new lists: a network may write into the list that it is given."""
    return pytree.tree_map(lambda x: x, inputs)


def trace_parts(root: nn.Module, dry: nn.Module, inputs: tuple[Any, ...]) -> tuple[dict[str, Trace], dict[str, str]]:
    """The network as a graph, by the name ""; what in it cannot be traced gives its own parts, by theirs.

    The second result is why those that torch.fx was tried on, and failed on, could not be traced, in one line each.
    """
    reasons: dict[str, str] = {}
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
            except Exception as error:  # tracing runs the network's own code, which may raise anything
                reasons[name] = (str(error).splitlines() or [type(error).__name__])[0]
            else:
                traces[name] = part
                opaque = [f"{name}.{inner}".lstrip(".") for inner in part.opaque]
                within = [
                    f"{path}.{child}" for path in opaque for child, _ in root.get_submodule(path).named_children()
                ]
        waiting += within
    return traces, reasons


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
        ValueError: the graph does something else than the module; see :func:`octvideo.octave._compare.compare`.
    """
    tracer = _Tracer(inputs)
    parameters = list(inspect.signature(module.forward).parameters.values())
    # ``if mask is None`` is decided here; other defaults may be given later.
    absent = {p.name: None for p in parameters[len(inputs) :] if p.default is None}
    with _marked_modes(module) as asked:
        graph = tracer.trace(module, absent or None)
    branches = bool(asked)
    follows = {node for node in graph.nodes if _Mode in map(type, pytree.arg_tree_leaves(*node.args, **node.kwargs))}
    for node in follows:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _unmark)  # type: ignore[assignment]
    run = _Shapes(dry, graph)
    with torch.no_grad():
        run.run(*fresh(inputs))
    plain = _read_what_is_written(graph, run)
    compare(module, graph, dry, inputs)
    for node in graph.nodes:
        if isinstance(node.type, str):  # an annotation, which means nothing outside the network's own file
            node.type = None
        if node.op == "call_function" and node.target in _LAYERS:
            if not issubclass(_LAYERS[node.target], nn.modules.dropout._DropoutNd) or node in follows:
                _make_layer(module, graph, node)
    return Trace(module, graph, run.shapes, run.masks, plain, tracer.opaque, branches)


class _Mode(int):
    """``self.training`` while a network is traced, to be told from a ``True``: ``F.dropout(x, 0.5, True)``.

    ``if self.training`` leaves a note in ``asked``.
    """

    asked: list[bool]

    def __bool__(self) -> bool:
        self.asked.append(True)
        return self != 0


def _unmark(value: Any) -> Any:
    return bool(value) if isinstance(value, _Mode) else value


@contextmanager
def _marked_modes(module: nn.Module) -> Iterator[list[bool]]:
    asked: list[bool] = []
    layers = list(module.modules())
    try:
        for layer in layers:
            mode = _Mode(layer.training)
            mode.asked = asked
            layer.training = mode  # type: ignore[assignment]
        yield asked
    finally:
        for layer in layers:
            layer.training = bool(layer.training)


def _read_what_is_written(graph: fx.Graph, run: _Shapes) -> set[fx.Node]:
    """Makes the steps that come after a write in place read its result, as pairs are not written to.

    ``y.add_(z); f(y)`` becomes ``w = y.add_(z); f(w)``. Where the tensor is written to by way of another (a view, say)
    that cannot be done: then all tensors with this memory are returned.
    """
    place = {node: number for number, node in enumerate(graph.nodes)}
    plain: set[fx.Node] = set()
    for node, written in run.writes.items():
        for storage in written:
            before = [x for x in run.members[storage] if place[x] < place[node]]
            late = [(x, user) for x in before for user in x.users if place[user] > place[node]]
            if not late:
                continue
            if all(run.values[x] is run.values[node] and (x is before[0] or x in run.writes) for x in before):
                for x, user in late:
                    user.replace_input_with(x, node)
            else:
                plain |= {*before, node}
    for node in plain & run.writes.keys():  # torch.fx forgets what these are when it traces the network again
        if node.op == "call_function" and node.target in _IN_PLACE:
            node.op, node.target = "call_method", f"__{_IN_PLACE[node.target]}__"  # type: ignore[index]
    return plain


def replace(root: nn.Module, graph: fx.Graph, node: fx.Node, layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Calls a new layer without parameters in place of ``node``."""
    name = f"octave_{type(layer).__name__.lower()}_{node.name}"
    root.add_module(name, layer)
    node.op, node.target, node.args, node.kwargs = "call_module", name, args, {}


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor in ``shapes``, and which have the same memory.

    Attributes:
        masks: tensors that are not of floating point.
        values: of the nodes that are tensors.
        members: the nodes that have a tensor in a piece of memory, in their order.
        writes: the pieces of memory that a node writes to.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph, garbage_collect_values=False)  # or memory would be used again
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.masks: set[fx.Node] = set()
        self.values: dict[fx.Node, Tensor] = {}
        self.members: dict[int, list[fx.Node]] = {}
        self.writes: dict[fx.Node, set[int]] = {}

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(_thaw(arg) for arg in args), {key: _thaw(arg) for key, arg in kwargs.items()}

    def run_node(self, n: fx.Node) -> Any:
        read = [x for node in n.all_input_nodes for x in pytree.tree_leaves(self.env[node]) if isinstance(x, Tensor)]
        versions = [x._version for x in read]
        value = super().run_node(n)
        written = {_memory(x) for x, version in zip(read, versions) if x._version != version}
        if written:
            self.writes[n] = written
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
            self.values[n] = value
            if not value.is_floating_point():
                self.masks.add(n)
        for memory in dict.fromkeys(_memory(x) for x in pytree.tree_leaves(value) if isinstance(x, Tensor)):
            self.members.setdefault(memory, []).append(n)
        return value


def _memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _thaw(x: Any) -> Any:
    """Lists that may be written to, as the network's code may, in place of those of a graph."""
    if isinstance(x, list):
        return [_thaw(item) for item in x]
    return {key: _thaw(item) for key, item in x.items()} if isinstance(x, dict) else x


class _Proxy(fx.Proxy):
    """Keeps ``x += y`` apart from ``x = x + y``."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    def __init__(self, inputs: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.inputs = inputs
        self.opaque: list[str] = []
        self._gets_list = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

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

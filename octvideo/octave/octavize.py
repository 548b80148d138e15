"""Turning an existing vanilla network into its octave version, Sec. 4.1: no layer has to be named.

The network is traced with torch.fx; ``_plan`` decides which values become pairs; here the layers are exchanged.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from octvideo.octave._flow import Apply, GlobalPool, LayerRow, Merge, OctaveNetwork, Scale
from octvideo.octave._plan import Plan, Shapes
from octvideo.octave.complexity import _Counter
from octvideo.octave.conv import OctConv2d, OctConv3d
from octvideo.octave.layers import OctMap, OctPool
from octvideo.octave.norm import OctBatchNorm2d, OctBatchNorm3d
from octvideo.octave.pair import split_channels

__all__ = ["describe", "octavize"]


def octavize(
    model: nn.Module, alpha: float = 0.125, *, example_input: Tensor | None = None, multiple: int = 1
) -> OctaveNetwork:
    """The octave version of a network of 2D or 3D convolutions, with the parameters that ``model`` has.

    The stem and the convolutions at the final resolution stay vanilla. Between them convolutions, batch norms,
    activations, pooling, additions and squeeze-and-excitation work on pairs with a share ``alpha`` of low-frequency
    channels. In front of everything else the pair is merged into one tensor, which is always correct; the report
    names these places. State dict keys, shapes and values stay; with ``alpha=0`` the outputs are bit-identical.

    Args:
        model: a network with one input ``(N, C, [T,] H, W)``; it is copied, not changed.
        alpha: share of low-frequency channels, between 0 and 1.
        example_input: a usual input, of which only shape and dtype are used: layers are chosen by resolution. Default:
            ``(1, C, 224, 224)`` or ``(1, C, 8, 224, 224)``, as the first convolution has it.
        multiple: the width of the low group is a multiple of it; see :func:`octvideo.octave.split_channels`.

    Returns:
        A ``torch.fx.GraphModule`` with ``octave_report``, a list of :class:`LayerRow`; :func:`describe` prints it.

    Raises:
        ValueError: alpha or multiple is out of bounds; torch.fx cannot trace the network (its control flow depends on
            values); it does not run on the example input; it has no convolution or not one input.
    """
    split_channels(1, alpha, multiple)  # checks both
    root = copy.deepcopy(model)
    graph = _trace(root)
    _unfreeze_dropout(root, graph)
    usual = _usual_input(root)
    example = usual if example_input is None else example_input.to("meta")
    shapes = Shapes(copy.deepcopy(root).to("meta").eval(), graph)
    try:
        with torch.no_grad():
            shapes.run(example)
    except Exception as error:
        raise ValueError(
            f"the network does not run on an input of shape {tuple(example.shape)}, pass an example_input: {error}"
        ) from error
    before = _multiply_adds(fx.GraphModule(root, copy.deepcopy(graph)), example)
    report: list[LayerRow] = []
    plan = Plan(root, graph, shapes.shapes, alpha, multiple)
    if alpha > 0 and plan.pairs:
        report = _exchange(root, graph, plan, alpha, multiple)
    network = OctaveNetwork(root, graph, report)
    after = _multiply_adds(network, example)
    modules = dict(network.named_modules())
    for name in before:
        layer = modules[name]
        alphas = getattr(layer, "alpha_in", 0.0), getattr(layer, "alpha_out", 0.0)
        report.append(LayerRow(name, type(layer).__name__, *alphas, before[name], after[name]))
    return network


def describe(model: OctaveNetwork) -> str:
    """The report of an octavized network as a table, with the sum of the multiply-adds in the last line."""
    rows = [("layer", "kind", "alpha in", "alpha out", "M multiply-adds", "octave")]
    for row in model.octave_report:
        counts = (f"{row.before / 1e6:.1f}", f"{row.after / 1e6:.1f}") if row.before else ("", "")
        rows.append((row.name, row.kind, f"{row.alpha_in:g}", f"{row.alpha_out:g}", *counts))
    before, after = (sum(getattr(row, key) for row in model.octave_report) for key in ("before", "after"))
    rows.append(("total", "", "", "", f"{before / 1e6:.1f}", f"{after / 1e6:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A layer without children is left alone: what is in it cannot be exchanged.
        return super().is_leaf_module(m, module_qualified_name) or not any(m.children())


def _trace(root: nn.Module) -> fx.Graph:
    try:
        graph = _Tracer().trace(root)
    except Exception as error:
        raise ValueError(
            f"torch.fx cannot trace {type(root).__name__}, its control flow depends on values or its inputs are no "
            f"tensors: {error}"
        ) from error
    used = [node for node in graph.nodes if node.op == "placeholder" and (node.users or not node.args)]
    if len(used) != 1:
        raise ValueError(f"{type(root).__name__} has {len(used)} inputs: octavize takes networks with one")
    return graph


def _unfreeze_dropout(root: nn.Module, graph: fx.Graph) -> None:
    """``F.dropout(x, p, self.training)`` is traced with the mode of the moment; the layer follows the mode."""
    for node in [n for n in graph.nodes if n.op == "call_function" and n.target is F.dropout]:
        p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        _replace(root, graph, node, nn.Dropout(p).train(root.training), node.args[:1] or (node.kwargs["input"],))


def _usual_input(root: nn.Module) -> Tensor:
    for layer in root.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            size = (224, 224) if isinstance(layer, nn.Conv2d) else (8, 224, 224)
            return torch.empty(1, layer.in_channels, *size, dtype=layer.weight.dtype, device="meta")
    raise ValueError(f"{type(root).__name__} has no Conv2d or Conv3d")


def _multiply_adds(network: fx.GraphModule, example: Tensor) -> dict[str, int]:
    """Of each convolution and fully connected layer, by name."""
    network = copy.deepcopy(network).to("meta").eval()
    counts: dict[str, int] = {}
    with _Counter() as counter, torch.no_grad():
        for name, layer in network.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.Linear)):
                # Hooks with the name bound: the count so far is taken off before the layer, and added after it.
                def start(*_: Any, name: str = name) -> None:
                    counts[name] = counts.get(name, 0) - counter.result.multiply_adds

                def stop(*_: Any, name: str = name) -> None:
                    counts[name] += counter.result.multiply_adds

                layer.register_forward_pre_hook(start)
                layer.register_forward_hook(stop)
        network(example)
    return counts


def _exchange(root: nn.Module, graph: fx.Graph, plan: Plan, alpha: float, multiple: int) -> list[LayerRow]:
    """Exchanges the layers, merges where no pair is understood, and returns a row for each of these places."""
    merges: list[LayerRow] = []
    for node in list(graph.nodes):
        if node not in plan.pairs and not any(x in plan.pairs for x in node.all_input_nodes):
            continue
        role, layer = plan.roles[node], plan.module(node)
        if role == "conv" and node not in plan.pairs and plan.depthwise(node):
            _merge_inputs(root, graph, node, plan, merges, alpha)
        elif role == "conv":
            alpha_in, alpha_out = (alpha if x in plan.pairs else 0.0 for x in (node.all_input_nodes[0], node))
            root.set_submodule(str(node.target), _octave_conv(layer, alpha_in, alpha_out, multiple))
        elif role == "global":
            _replace(root, graph, node, GlobalPool(), (node.all_input_nodes[0],))
        elif node not in plan.pairs:
            _merge_inputs(root, graph, node, plan, merges, alpha)
        elif role == "norm":
            root.set_submodule(str(node.target), _octave_norm(layer, alpha, multiple))
        elif role == "pool":
            _replace(root, graph, node, OctPool(layer), node.args)  # type: ignore[arg-type]
        elif role == "map" and layer is not None:
            _replace(root, graph, node, OctMap(layer), (node.all_input_nodes[0],))
        elif role == "map":
            _replace(root, graph, node, _apply(node), (node.all_input_nodes[0],))
        elif role == "add":
            node.op, node.target = "call_function", operator.add  # what OctaveTensor defines
        elif role == "scale":
            _replace(root, graph, node, Scale(), tuple(sorted(node.all_input_nodes, key=lambda x: x not in plan.pairs)))
    return merges


def _replace(root: nn.Module, graph: fx.Graph, node: fx.Node, layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Calls a new layer without parameters in place of ``node``."""
    name = f"octave_{type(layer).__name__.lower()}_{node.name}"
    root.add_module(name, layer)
    node.op, node.target, node.args, node.kwargs = "call_module", name, args, {}


def _apply(node: fx.Node) -> Apply:
    if node.op == "call_method":
        return Apply(_Method(str(node.target)), node.args[1:], **node.kwargs)
    options = {key: value for key, value in node.kwargs.items() if key != "input"}
    return Apply(node.target, node.args[1:], **options)  # type: ignore[arg-type]


class _Method:
    """Calls a method by name; a method of Tensor itself cannot be pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        return getattr(x, self.name)(*args, **options)


def _merge_inputs(
    root: nn.Module, graph: fx.Graph, node: fx.Node, plan: Plan, merges: list[LayerRow], alpha: float
) -> None:
    for x in [x for x in node.all_input_nodes if x in plan.pairs]:
        if not hasattr(root, "octave_merge"):
            root.add_module("octave_merge", Merge())
        merged = next((user for user in x.users if user.target == "octave_merge"), None)
        # One merged tensor serves all, unless an activation may have changed the pair in place since.
        if merged is None or any(plan.roles.get(user) == "map" for user in x.users):
            with graph.inserting_before(node):
                merged = graph.call_module("octave_merge", (x,))
            merges.append(LayerRow(f"{x.name} -> {node.name}", "merge", alpha, 0.0, 0, 0))
        node.replace_input_with(x, merged)


def _octave_conv(vanilla: Any, alpha_in: float, alpha_out: float, multiple: int) -> nn.Module:
    oct_conv: Any = (OctConv3d if isinstance(vanilla, nn.Conv3d) else OctConv2d)(
        vanilla.in_channels,
        vanilla.out_channels,
        vanilla.kernel_size,
        vanilla.stride,
        vanilla.padding,
        vanilla.dilation,
        vanilla.groups,
        vanilla.bias is not None,
        alpha_in=alpha_in,
        alpha_out=alpha_out,
        multiple=multiple,
        device="meta",
    )
    oct_conv.weight, oct_conv.bias = vanilla.weight, vanilla.bias
    return oct_conv.train(vanilla.training)


def _octave_norm(vanilla: Any, alpha: float, multiple: int) -> nn.Module:
    norm = (OctBatchNorm3d if isinstance(vanilla, nn.BatchNorm3d) else OctBatchNorm2d)(
        vanilla.num_features,
        vanilla.eps,
        vanilla.momentum,
        vanilla.affine,
        vanilla.track_running_stats,
        alpha=alpha,
        multiple=multiple,
    )
    for tensor in list(vanilla.parameters())[:1] or list(vanilla.buffers())[:1]:
        norm.to(tensor.device, tensor.dtype)
    norm.load_state_dict(vanilla.state_dict())
    for child in norm.children():
        for name, parameter in child.named_parameters():
            parameter.requires_grad_(getattr(vanilla, name).requires_grad)
    return norm.train(vanilla.training)

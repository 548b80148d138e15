"""Turning an existing vanilla network into its octave version, Sec. 4.1: no layer has to be named.

The network, or what of it can be, is traced with torch.fx (``_trace``); ``_plan`` decides which values become pairs;
here the layers are exchanged.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from octvideo.octave._flow import Apply, Combine, Concatenate, DropPath, GlobalPool, Merge, Scale
from octvideo.octave._modes import join_modes, same_graphs
from octvideo.octave._network import LayerRow, OctaveNetwork
from octvideo.octave._plan import Plan, Zone, keeps_dims, zone
from octvideo.octave._probe import take_channels
from octvideo.octave._trace import Trace, fresh, replace, trace_parts
from octvideo.octave.complexity import _Counter
from octvideo.octave.conv import OctConv2d, OctConv3d
from octvideo.octave.layers import OctMap, OctPool
from octvideo.octave.norm import OctBatchNorm2d, OctBatchNorm3d
from octvideo.octave.pair import split_channels
from octvideo.octave.segments import Segments

__all__ = ["describe", "octavize"]


def octavize(
    model: nn.Module,
    alpha: float = 0.125,
    *,
    example_input: Tensor | Sequence[Any] | dict[str, Any] | None = None,
    multiple: int = 1,
) -> nn.Module:
    """The octave version of a network of 2D or 3D convolutions, with the parameters that ``model`` has.

    The stem and the convolutions at the final resolution stay vanilla. Between them convolutions, batch norms,
    elementwise layers, pooling, sums, concatenations, drop-path and squeeze-and-excitation work on pairs with a share
    ``alpha`` of low-frequency channels. In front of everything else the pair is merged into one tensor, which is always
    correct; the report names these places. State dict keys, shapes and values stay; with ``alpha=0`` the outputs are
    bit-identical.

    Args:
        model: a network on ``(N, C, [T,] H, W)``; it is copied, not changed.
        alpha: share of low-frequency channels, between 0 and 1.
        example_input: a usual input, of which only shapes and dtypes are used: layers are chosen by resolution. A
            list or dict of tensors where the network takes that, a tuple where it takes several arguments. Default:
            one tensor, ``(1, C, 224, 224)`` or ``(1, C, 8, 224, 224)``, as the first convolution has it.
        multiple: the width of the low group is a multiple of it; see :func:`octvideo.octave.split_channels`.

    Returns:
        A module with ``octave_report``, a list of :class:`LayerRow`; :func:`describe` prints it. It is a
        ``torch.fx.GraphModule``, or, where torch.fx cannot trace the network as a whole, of the class of ``model``
        with such parts.

    Raises:
        ValueError: alpha or multiple is out of bounds; torch.fx cannot trace any part of the network; it does not run
            on the example input; it has no convolution; it is compiled, or cannot be copied; ``alpha=1`` meets maps of
            odd size.

    Warns:
        UserWarning: alpha is above 0 and no convolution became an octave one.
    """
    if not isinstance(alpha, Real):
        raise ValueError(f"alpha is {alpha!r}: it must be a number between 0 and 1")
    split_channels(1, alpha, multiple)  # checks both
    root = _copy(model)
    given = _usual_input(root) if example_input is None else example_input
    dry, inputs, before = _run_dry(root, given if isinstance(given, tuple) else (given,))
    traces, failed = trace_parts(root, dry, inputs)
    if not traces:
        reason = next(iter(failed.values()), "no module in it that has convolutions is called")
        raise ValueError(f"torch.fx cannot trace {type(root).__name__}, nor any of its parts: {reason}")
    twin, others = None, traces
    if any(part.branches for part in traces.values()):
        twin = _copy(model).train(not model.training)
        others, _ = trace_parts(twin, dry, inputs)
        if same_graphs(traces, others):
            twin = None
    heights = [x.shape[-2] for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.dim() in (4, 5)]
    evaluated = others if model.training and others else traces  # auxiliary heads do not shift the final resolution
    bounds = zone(evaluated.values(), max(heights, default=1))
    network, report = _convert(root, traces, bounds, alpha, multiple)
    report += [
        LayerRow(name, "not traced", 0.0, 0.0, 0, 0)
        for name in [
            *(f"{name}.{opaque}".lstrip(".") for name, part in traces.items() for opaque in part.opaque),
            *(name for name in failed if name),
        ]
    ]
    after = _multiply_adds(_copy_to(_device(dry), network), inputs)
    if twin is not None:
        join_modes(network, _convert(twin, others, bounds, alpha, multiple)[0], traces, others)
    modules = dict(network.named_modules())
    for name in before:
        layer = modules[name]
        alphas = getattr(layer, "alpha_in", 0.0), getattr(layer, "alpha_out", 0.0)
        report.append(LayerRow(name, type(layer).__name__, *alphas, before[name], after.get(name, 0)))
    if alpha > 0 and not any(row.alpha_in or row.alpha_out for row in report):
        warnings.warn(
            f"octavize: no convolution of {type(model).__name__} became an octave one; pairs live between the stem and "
            f"the final resolution, here at heights from {bounds.entry} down to more than {bounds.final}",
            stacklevel=2,
        )
    network.octave_report = report  # type: ignore[assignment]
    return network


def _convert(
    root: nn.Module, traces: dict[str, Trace], bounds: Zone, alpha: float, multiple: int
) -> tuple[nn.Module, list[LayerRow]]:
    """Makes the traced parts of ``root`` octave; the network is ``root``, or what takes its place."""
    report: list[LayerRow] = []
    shared = _shared(root)
    network = root
    for name, part in traces.items():
        plan = Plan(part, bounds, alpha, multiple, shared)
        _check_sizes(part, plan)
        if alpha > 0:
            report += _exchange(part, plan, f"{name}." if name else "", alpha, multiple)
        octave = OctaveNetwork(part.module, part.graph, [])
        if name:
            root.set_submodule(name, octave)
        else:
            network = octave
    return network, report


def describe(model: nn.Module) -> str:
    """The report of an octavized network as a table, with the sum of the multiply-adds in the last line."""
    report: list[LayerRow] = model.octave_report  # type: ignore[assignment]
    rows = [("layer", "kind", "alpha in", "alpha out", "M multiply-adds", "octave")]
    for row in report:
        counts = (f"{row.before / 1e6:.1f}", f"{row.after / 1e6:.1f}") if row.before else ("", "")
        rows.append((row.name, row.kind, f"{row.alpha_in:.3g}", f"{row.alpha_out:.3g}", *counts))
    before, after = (sum(getattr(row, key) for row in report) for key in ("before", "after"))
    rows.append(("total", "", "", "", f"{before / 1e6:.1f}", f"{after / 1e6:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _run_dry(root: nn.Module, given: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...], dict[str, int]]:
    """A copy of the network and an input on the meta device, where nothing is computed, and the multiply-adds.

    A network that looks at values runs on its own device instead, on the given values or on noise.
    """
    try:
        dry, inputs = _copy_to(torch.device("meta"), root), pytree.tree_map_only(Tensor, lambda x: x.to("meta"), given)
        return dry, inputs, _multiply_adds(dry, inputs)
    except ValueError:
        device = _device(root)
        if device.type == "meta":
            raise
        inputs = pytree.tree_map_only(
            Tensor, lambda x: torch.rand_like(x, device=device) if x.is_meta else x.to(device), given
        )
        dry = _copy_to(device, root)
        return dry, inputs, _multiply_adds(dry, inputs)


def _copy(model: nn.Module) -> nn.Module:
    kind = type(model).__name__
    if any(hasattr(layer, "_orig_mod") for layer in model.modules()):
        raise ValueError(f"{kind} is compiled: pass the network as it was before torch.compile, and compile the result")
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"{kind} cannot be copied: where torch.nn.utils' weight_norm, spectral_norm or prune made a weight, remove "
            f"them first (remove_weight_norm, remove_spectral_norm, prune.remove): {str(error).splitlines()[0]}"
        ) from error


def _shared(root: nn.Module) -> set[nn.Module]:
    """The layers that have a second name, or a tensor that another layer has too."""
    owners: dict[int, list[nn.Module]] = {}
    for _, layer in root.named_modules(remove_duplicate=False):
        for tensor in (*layer._parameters.values(), *layer._buffers.values()):
            if tensor is not None:
                owners.setdefault(id(tensor), []).append(layer)
    return {layer for layers in owners.values() if len(layers) > 1 for layer in layers}


def _check_sizes(part: Trace, plan: Plan) -> None:
    """A pair without a high group does not know its size when that is odd."""
    for node, segments in plan.pairs.items():
        height, width = part.shapes[node][-2:]
        if not any(high for high, _ in segments) and (height % 2 or width % 2):
            raise ValueError(
                f"with alpha=1 there is no high group, so {node.name}'s map of {height} x {width} would come out even "
                f"in size: choose alpha below 1, or an example_input with even maps"
            )


def _copy_to(device: torch.device, network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).to(device).eval()


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _usual_input(root: nn.Module) -> Tensor:
    for layer in root.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            size = (224, 224) if isinstance(layer, nn.Conv2d) else (8, 224, 224)
            return torch.empty(1, layer.in_channels, *size, dtype=layer.weight.dtype, device="meta")
    raise ValueError(f"{type(root).__name__} has no Conv2d or Conv3d")


def _multiply_adds(network: nn.Module, inputs: tuple[Any, ...]) -> dict[str, int]:
    """Of each convolution and fully connected layer, by name."""
    counts: dict[str, int] = {}
    running: list[_Counter] = []

    def start(*_: Any) -> None:
        running.append(_Counter())
        running[-1].__enter__()

    hooks = []
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.Linear)):

            def stop(*_: Any, name: str = name) -> None:  # a default binds the name
                counter = running.pop()
                counter.__exit__(None, None, None)
                counts[name] = counts.get(name, 0) + counter.result.multiply_adds

            hooks += [layer.register_forward_pre_hook(start), layer.register_forward_hook(stop, always_call=True)]
    try:
        with torch.no_grad():
            network(*fresh(inputs))
    except Exception as error:
        shapes = [tuple(x.shape) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        raise ValueError(
            f"the network does not run on an input of shape {', '.join(map(str, shapes))}, "
            f"pass an example_input: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def _exchange(part: Trace, plan: Plan, prefix: str, alpha: float, multiple: int) -> list[LayerRow]:
    """Exchanges the layers, merges where no pair is understood, and returns a row for each of these places."""
    root, graph, pairs = part.module, part.graph, plan.pairs
    merges: list[LayerRow] = []
    for node in list(graph.nodes):
        if node not in pairs and not any(x in pairs for x in node.all_input_nodes):
            continue
        role, layer = plan.roles[node], plan.module(node)
        x = node.all_input_nodes[0]
        if role in ("conv", "norm"):  # called with input=, perhaps, which the octave layers do not know
            node.args, node.kwargs = (x,), {}
        if role == "global":
            replace(root, graph, node, GlobalPool(pairs[x], keeps_dims(node)), (x,))
            continue
        if node not in pairs or role == "conv":
            if not plan.reads(node):
                merges += _merge_inputs(root, graph, node, plan, prefix)
            if role == "conv" and (plan.reads(node) or node in pairs):
                ends = pairs.get(x) if plan.reads(node) else None, pairs.get(node)
                root.set_submodule(str(node.target), _octave_conv(layer, *ends, alpha, multiple))
        elif role == "norm":
            root.set_submodule(str(node.target), _octave_norm(layer, pairs[node], alpha))
        elif role == "pool":
            replace(root, graph, node, OctPool(layer), (x,))  # type: ignore[arg-type]
        elif role == "noise":
            replace(root, graph, node, DropPath(layer).train(root.training), (x,))  # type: ignore[arg-type]
        elif role == "map":
            replace(root, graph, node, Apply.of(node) or OctMap(layer), (x,))  # type: ignore[arg-type]
        elif role == "cat":
            parts = list(node.args[0] if node.args else node.kwargs["tensors"])  # type: ignore[arg-type]
            replace(root, graph, node, Concatenate(), (parts,))
        elif role == "two":
            sums = (operator.iadd, torch.add, "add", "add_")  # not in place
            function = operator.add if node.target in sums else node.target
            replace(root, graph, node, Combine(function), node.args)  # type: ignore[arg-type]
        elif role == "scale":
            pair, gate = sorted(node.all_input_nodes, key=lambda x: x not in pairs)
            replace(root, graph, node, Scale(pairs[pair]), (pair, gate))
    return merges


def _merge_inputs(root: nn.Module, graph: fx.Graph, node: fx.Node, plan: Plan, prefix: str) -> list[LayerRow]:
    rows: list[LayerRow] = []
    for x in [x for x in node.all_input_nodes if x in plan.pairs]:
        merged = next((user for user in x.users if str(user.target).startswith("octave_merge")), None)
        # One merged tensor serves all, unless an activation may have changed the pair in place since.
        if merged is None or any(plan.roles.get(user) == "map" for user in x.users):
            segments = plan.pairs[x]
            name = "octave_merge_" + "_".join(str(width) for segment in segments for width in segment)
            if not hasattr(root, name):
                root.add_module(name, Merge(segments))
            with graph.inserting_before(node):
                merged = graph.call_module(name, (x,))
            rows.append(LayerRow(f"{prefix}{x.name} -> {node.name}", "merge", _share(segments), 0.0, 0, 0))
        node.replace_input_with(x, merged)
    return rows


def _share(segments: Segments) -> float:
    high, low = (sum(widths) for widths in zip(*segments))
    return low / (high + low)


def _octave_conv(
    vanilla: Any, inputs: Segments | None, outputs: Segments | None, alpha: float, multiple: int
) -> nn.Module:
    nominal = [(split_channels(width, alpha, multiple),) for width in (vanilla.in_channels, vanilla.out_channels)]
    usual = inputs in (None, nominal[0]) and outputs in (None, nominal[1])
    oct_conv: Any = (OctConv3d if isinstance(vanilla, nn.Conv3d) else OctConv2d)(
        vanilla.in_channels,
        vanilla.out_channels,
        vanilla.kernel_size,
        vanilla.stride,
        vanilla.padding,
        vanilla.dilation,
        vanilla.groups,
        vanilla.bias is not None,
        alpha_in=0.0 if inputs is None else alpha if usual else _share(inputs),
        alpha_out=0.0 if outputs is None else alpha,
        multiple=multiple,
        in_segments=None if usual else inputs,
        device="meta",
    )
    oct_conv.weight, oct_conv.bias = vanilla.weight, vanilla.bias
    return oct_conv.train(vanilla.training)


def _octave_norm(vanilla: Any, segments: Segments, alpha: float) -> nn.Module:
    norm = (OctBatchNorm3d if isinstance(vanilla, nn.BatchNorm3d) else OctBatchNorm2d)(
        vanilla.num_features, alpha=alpha, segments=segments
    )
    norm.high, norm.low = (take_channels(vanilla, keep, segments) for keep in (0, 1))
    return norm.train(vanilla.training)

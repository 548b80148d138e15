"""Convert an exported network to OpenVINO."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["convert"]


def convert(program: ExportedProgram) -> Any:
    """Return the ``openvino.Model`` of a network that was exported in evaluation mode.

    ``openvino.convert_model`` takes all operators apart first, which traces the network twice: three quarters of its
    time. The few that it does not know otherwise are replaced here.
    """
    import openvino

    try:
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        graph = _with_known_operators(program.module())
        return openvino.convert_model(TorchFXPythonDecoder(graph, dynamic_shapes=True))
    except Exception:  # another operator, or another version of OpenVINO
        return openvino.convert_model(program)


def _with_known_operators(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Replace the operators that OpenVINO does not know."""
    aten = torch.ops.aten
    call = graph.graph.call_function
    for node in list(graph.graph.nodes):
        with graph.graph.inserting_before(node):
            match re.sub(r"^aten\.|\.default$", "", str(node.target)):
                case "conv2d" | "conv3d" as name:
                    new = call(aten.convolution.default, _convolution(*node.args, dims=int(name[-2])))
                case "max_pool2d" | "max_pool3d" as name:
                    pool = getattr(aten, f"{name}_with_indices").default
                    new = call(operator.getitem, (call(pool, node.args), 0))
                case "adaptive_avg_pool2d" | "adaptive_avg_pool3d" if set(node.args[1]) == {1}:
                    axes = [-1 - axis for axis in range(len(node.args[1]))]
                    new = call(aten.mean.dim, (node.args[0], axes, True))
                case "batch_norm" if not node.args[5]:  # training
                    x, *parameters, _, momentum, epsilon, _ = node.args
                    norm = aten._native_batch_norm_legit_no_training.default
                    new = call(operator.getitem, (call(norm, (x, *parameters, momentum, epsilon)), 0))
                case "flatten.using_ints" | "reshape":
                    sizes = [-1 if isinstance(size, torch.SymInt) else size for size in node.meta["val"].shape]
                    new = call(aten.view.default, (node.args[0], sizes))
                case "dropout" if not node.args[2]:  # training
                    new = node.args[0]
                case _:
                    continue
        node.replace_all_uses_with(new, propagate_meta=new is not node.args[0])
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _convolution(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, dims: int) -> tuple:
    """Return the arguments of ``aten.convolution`` for those of ``aten.conv2d`` or ``aten.conv3d``."""
    stride, padding, dilation = (
        [value] * dims if isinstance(value, int) else value for value in (stride, padding, dilation)
    )
    return x, weight, bias, stride, padding, dilation, False, [0] * dims, groups

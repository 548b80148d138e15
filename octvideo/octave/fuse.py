"""Fold batch normalisation into convolutions, for inference.

In evaluation mode a batch norm is a factor and a shift of each channel. An octave convolution is linear in its one
weight, and each of its outputs is normalised after the sum of both paths (Eq. 4), so the factor goes into the rows of
that weight as it does for a vanilla convolution::

    g (W * x) + b = (g W) * x + b         rows of W: high channels first, as the norm's vectors have them

No compiler can do this by itself: it sees two convolutions and a sum in front of the norm.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from octvideo.octave.norm import OctBatchNorm2d, OctBatchNorm3d

__all__ = ["fold_batch_norm"]

_OCTAVE = (OctBatchNorm2d, OctBatchNorm3d)
_VANILLA = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _OCTAVE) or not any(m.children()) or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose batch norms are folded into the convolutions before them.

    A norm is folded where torch.fx shows that a convolution's output goes to it and nowhere else; an ``nn.Identity``
    takes its place. The others stay. So the outputs are the same up to rounding, with fewer passes over the features.
    The state dict is no longer the vanilla one: the convolutions have biases. A network whose control flow depends on
    values is looked at part by part.

    Args:
        model: vanilla or octave, on any device; it is left as it was.
    """
    folded = copy.deepcopy(model).eval()
    places = Counter(id(module) for _, module in folded.named_modules(remove_duplicate=False))
    _fold_all(folded, {number for number, count in places.items() if count == 1})
    return folded


def _fold_all(part: nn.Module, single: set[int]) -> None:
    """Fold within ``part``; ``single`` are the modules used in one place of the network."""
    try:
        graph = _Tracer().trace(part)
    except Exception:  # tracing runs the network's own code, which may raise anything
        for child in part.children():
            _fold_all(child, single)
        return
    modules = dict(part.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        source = node.all_input_nodes[0] if node.op == "call_module" and node.all_input_nodes else None
        if source is None or source.op != "call_module" or len(source.users) != 1:
            continue
        conv, norm = modules[str(source.target)], modules[str(node.target)]
        once = calls[node.target] == calls[source.target] == 1 and {id(conv), id(norm)} <= single
        if once and isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and _is_fixed(norm):
            _fold(conv, norm)
            part.set_submodule(str(node.target), nn.Identity())


def _is_fixed(norm: nn.Module) -> bool:
    """Tell whether a norm uses running statistics."""
    layers = list(norm.children()) if isinstance(norm, _OCTAVE) else [norm]
    return all(
        type(layer) in _VANILLA and layer.track_running_stats for layer in layers
    )  # not one with an activation in it


@torch.no_grad()
def _fold(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, norm: nn.Module) -> None:
    vectors: dict[str, Tensor] = norm.state_dict()  # an octave norm's are joined, high channels first
    first = next(norm.children(), norm)
    eps = first.eps
    assert isinstance(eps, float)
    mean, var = vectors["running_mean"], vectors["running_var"]
    weight, bias = vectors.get("weight"), vectors.get("bias")
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        mean,
        var,
        eps,
        torch.ones_like(mean) if weight is None else weight,
        torch.zeros_like(mean) if bias is None else bias,
    )

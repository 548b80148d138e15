"""Exchanging layers by a plan: convolutions and norms for octave ones; all else is the network's own code."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from octvideo.octave._probe import take_channels
from octvideo.octave.ablations import AblatedOctConv2d, AblatedOctConv3d
from octvideo.octave.conv import OctConv2d, OctConv3d
from octvideo.octave.layers import OctMap, merge
from octvideo.octave.norm import OctBatchNorm2d, OctBatchNorm3d
from octvideo.octave.pair import OctaveTensor
from octvideo.octave.plan import ConvPlan, Plan
from octvideo.octave.segments import Segments

__all__ = ["exchange", "write_empty_pairs"]


def exchange(root: nn.Module, plan: Plan) -> None:
    """Make the layers of a plan octave, in place: the modules stay the same objects with the same parameters.

    The network gets the plan as its attribute ``octave_plan``.

    Raises:
        ValueError: a layer cannot have these channels.
    """
    modules = dict(root.named_modules())
    for name, ends in plan.convs.items():
        _convert_conv(modules[name], plan, ends)
    for name, segments in plan.norms.items():
        _convert_norm(modules[name], segments)
    for name in plan.merges:
        modules[name].register_forward_pre_hook(merge_inputs, with_kwargs=True)
    for name in plan.maps:
        _replace(root, modules[name], OctMap(modules[name]))
    root.octave_plan = plan  # type: ignore[assignment]


def write_empty_pairs(root: nn.Module, plan: Plan) -> nn.Module:
    """Let the convolutions that write pairs put all channels into the high group: the outputs are the vanilla ones."""
    modules = dict(root.named_modules())

    def wrap(layer: nn.Module, args: Any, y: Tensor) -> OctaveTensor:
        return OctaveTensor(y, None)

    writing = {name for name, ends in plan.convs.items() if ends.alpha_out > 0}
    for name in plan.convs.keys() | plan.norms.keys() | plan.maps | plan.merges:
        modules[name].register_forward_pre_hook(merge_inputs, with_kwargs=True)
        if name in writing | plan.norms.keys() | plan.maps:
            modules[name].register_forward_hook(wrap)
    return root


def merge_inputs(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Forward pre-hook: give the module merged tensors in place of pairs."""
    return pytree.tree_map(_merge_pair, (args, kwargs), is_leaf=lambda x: isinstance(x, OctaveTensor))


def _merge_pair(x: Any) -> Any:
    return merge(x) if isinstance(x, OctaveTensor) else x


def _convert_conv(conv: nn.Module, plan: Plan, ends: ConvPlan) -> None:
    is_3d, options = isinstance(conv, nn.Conv3d), {**ends._asdict(), "multiple": plan.multiple}
    if plan.ablation is None:
        (OctConv3d if is_3d else OctConv2d).convert(conv, **options)
    else:
        (AblatedOctConv3d if is_3d else AblatedOctConv2d).convert(conv, ablation=plan.ablation, **options)


def _convert_norm(norm: nn.Module, segments: Segments) -> None:
    high, low = (take_channels(norm, keep, segments) for keep in (0, 1))
    (OctBatchNorm3d if isinstance(norm, nn.BatchNorm3d) else OctBatchNorm2d).convert(norm, segments, high, low)


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module into all places of another one."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child is old and parent is not new:
                setattr(parent, name, new)

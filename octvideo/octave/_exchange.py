"""Exchanging layers by a plan: convolutions and norms for octave ones; all else is the network's own code."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from octvideo.octave._plan import Plan
from octvideo.octave._probe import take_channels
from octvideo.octave.conv import OctConv2d, OctConv3d
from octvideo.octave.layers import OctMap, merge
from octvideo.octave.norm import OctBatchNorm2d, OctBatchNorm3d
from octvideo.octave.pair import OctaveTensor, split_channels
from octvideo.octave.segments import Segments

__all__ = ["exchange", "write_empty_pairs"]


def exchange(root: nn.Module, plan: Plan, alpha: float, multiple: int) -> None:
    """Make the layers of a plan octave, in place: the modules stay the same objects with the same parameters."""
    modules = dict(root.named_modules())
    for name, ends in plan.convs.items():
        _convert_conv(modules[name], *ends, alpha, multiple)
    for name, segments in plan.norms.items():
        _convert_norm(modules[name], segments, alpha)
    for name in plan.merges:
        modules[name].register_forward_pre_hook(merge_inputs, with_kwargs=True)
    for name in plan.maps:
        _replace(root, modules[name], OctMap(modules[name]))


def write_empty_pairs(root: nn.Module, plan: Plan) -> nn.Module:
    """Let the convolutions that write pairs put all channels into the high group: the outputs are the vanilla ones."""
    modules = dict(root.named_modules())

    def wrap(layer: nn.Module, args: Any, y: Tensor) -> OctaveTensor:
        return OctaveTensor(y, None)

    writing = {name for name, (_, written) in plan.convs.items() if written is not None}
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


def _convert_conv(conv: Any, read: Segments | None, written: Segments | None, alpha: float, multiple: int) -> None:
    nominal = [(split_channels(width, alpha, multiple),) for width in (conv.in_channels, conv.out_channels)]
    usual = read in (None, nominal[0]) and written in (None, nominal[1])
    (OctConv3d if isinstance(conv, nn.Conv3d) else OctConv2d).convert(
        conv,
        alpha_in=0.0 if read is None else alpha if usual else _share(read),
        alpha_out=0.0 if written is None else alpha,
        multiple=multiple,
        in_segments=None if usual else read,
    )


def _share(segments: Segments) -> float:
    high, low = (sum(widths) for widths in zip(*segments))
    return low / (high + low)


def _convert_norm(vanilla: Any, segments: Segments, alpha: float) -> None:
    high, low = (take_channels(vanilla, keep, segments) for keep in (0, 1))
    (OctBatchNorm3d if isinstance(vanilla, nn.BatchNorm3d) else OctBatchNorm2d).convert(
        vanilla, alpha, segments, high, low
    )


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module into all places of another one."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child is old and parent is not new:
                setattr(parent, name, new)

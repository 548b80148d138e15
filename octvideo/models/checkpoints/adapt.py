"""Convert tensors of other projects: separate paths of octave layers, and the order of a head's columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.octave import AblatedOctConv2d, AblatedOctConv3d

__all__ = [
    "Splits",
    "first_other_split",
    "has_octave_groups",
    "join_octave_groups",
    "join_paths",
    "slow_columns_first",
    "strides_instead_of_pooling",
]

# (high, low) channels of the input and of the output of a convolution
Splits = tuple[tuple[int, int], tuple[int, int]]


def has_octave_groups(state: Mapping[str, Tensor]) -> bool:
    """Return whether these are weights of d-li14's Oct-ResNets, which have four weights per layer, one per path."""
    return any(key.endswith(".conv_h2h.weight") for key in state)


def join_octave_groups(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Splits]]:
    """Convert d-li14's Oct-ResNet to the names and shapes of torchvision's ResNet, high channels first.

    ::

        layer1.0.conv1.conv.conv_h2h.weight (32, 64, 1, 1), conv_h2l (32, 64, 1, 1): no low input
        -> layer1.0.conv1.weight (64, 64, 1, 1), groups ((64, 0), (32, 32))
        layer1.0.conv1.bn_h.bias, .bn_l.bias -> layer1.0.bn1.bias
        layer2.0.downsample.0.conv.conv_l2h.weight, ... -> layer2.0.downsample.0.weight

    Returns:
        The state dict, and the channels of the groups for each octave convolution's weight.
    """
    joined: dict[str, Tensor] = {}
    splits: dict[str, Splits] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(.*)\.conv\.conv_[hl]2[hl]\.weight", key):
            name = f"{match[1]}.weight"
            if name not in joined:
                names = {path: f"{match[1]}.conv.conv_{path}.weight" for path in ("h2h", "l2h", "h2l", "l2l")}
                joined[name], splits[name] = join_paths({p: state[at] for p, at in names.items() if at in state})
        elif match := re.fullmatch(r"(.*)\.bn_([hl])\.(\w+)", key):
            name = re.sub(r"conv(\d)$", r"bn\1", match[1]) if "downsample" not in match[1] else f"{match[1][:-1]}1"
            name = f"{name}.{match[3]}"
            groups = [state[f"{match[1]}.bn_{g}.{match[3]}"] for g in "hl" if f"{match[1]}.bn_{g}.{match[3]}" in state]
            joined[name] = torch.cat(groups) if value.dim() else groups[0]
        else:
            joined[key] = value
    return joined, splits


def join_paths(paths: Mapping[str, Tensor]) -> tuple[Tensor, Splits]:
    """Return the weight of an octave convolution, high channels first, from ``h2h``, ``h2l``, ``l2h`` and ``l2l``.

    A missing path is zero. For a grouped convolution the input channels are those of the weight, so of one group; for a
    depth-wise one the two paths are concatenated.
    """
    some = next(iter(paths.values()))
    if some.shape[1] == 1 and some.numel() > len(some) and set(paths) <= {"h2h", "l2l"}:
        high, low = (paths.get(path, some[:0]) for path in ("h2h", "l2l"))
        return torch.cat([high, low]), ((len(high), len(low)), (len(high), len(low)))
    width = {}
    for side, axis, at in (("in", 1, 0), ("out", 0, 2)):
        for group in "hl":
            width[side, group] = next((w.shape[axis] for path, w in paths.items() if path[at] == group), 0)
    rows = []
    for to in "hl":
        row = []
        for of in "hl":
            shape = (width["out", to], width["in", of], *some.shape[2:])
            row.append(paths[path] if (path := f"{of}2{to}") in paths else some.new_zeros(shape))
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows), ((width["in", "h"], width["in", "l"]), (width["out", "h"], width["out", "l"]))


def first_other_split(model: nn.Module, splits: Mapping[str, Splits]) -> tuple[str, Splits, Splits] | None:
    """Return the first convolution whose low channels differ: its weight's name, the file's groups, the network's."""
    for key, ((in_high, in_low), out) in splits.items():
        conv: Any = model.get_submodule(key.removesuffix(".weight"))
        own = (
            (getattr(conv, "in_high", conv.in_channels), getattr(conv, "in_low", 0)),
            (getattr(conv, "out_high", conv.out_channels), getattr(conv, "out_low", 0)),
        )
        times = 1 if conv.groups == conv.in_channels else conv.groups  # see ``join_paths``
        split = ((times * in_high, times * in_low), out)
        if own != split and [sum(groups) for groups in own] == [sum(groups) for groups in split]:
            return key, split, own
    return None


def strides_instead_of_pooling(model: nn.Module, keys: Iterable[str]) -> bool:
    """Return whether one of these convolutions (by weight) has one frequency and strides instead of pooling first."""
    convs: list[Any] = [model.get_submodule(key.removesuffix(".weight")) for key in keys]
    return any(
        conv.stride[-1] > 1
        and not (getattr(conv, "in_low", 0) or getattr(conv, "out_low", 0))
        and not isinstance(conv, (AblatedOctConv2d, AblatedOctConv3d))
        for conv in convs
    )


def slow_columns_first(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reorder the columns of mmaction2's SlowFast head, which has the Fast pathway's before the Slow one's."""
    state, key = dict(state), "cls_head.fc_cls.weight"
    last = state.get("backbone.fast_path.layer4.0.conv3.conv.weight")
    if last is not None and key in state:
        state[key] = state[key].roll(-len(last), dims=1)
    return state

"""Tensors that another project keeps in another form: groups of octave layers, and the order of a head's columns."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["Splits", "first_other_split", "has_octave_groups", "join_octave_groups", "slow_columns_first"]

# (high, low) channels of the input and of the output of a convolution
Splits = tuple[tuple[int, int], tuple[int, int]]


def has_octave_groups(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of d-li14's Oct-ResNets, which keep the four paths of a layer by themselves."""
    return any(key.endswith(".conv_h2h.weight") for key in state)


def join_octave_groups(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Splits]]:
    """d-li14's Oct-ResNet as a state dict with the names and shapes of torchvision's ResNet, high channels first.

    ::

        layer1.0.conv1.conv.conv_h2h.weight (32, 64, 1, 1), conv_h2l (32, 64, 1, 1): no low group comes in
        -> layer1.0.conv1.weight (64, 64, 1, 1), groups ((64, 0), (32, 32))
        layer1.0.conv1.bn_h.bias, .bn_l.bias -> layer1.0.bn1.bias
        layer2.0.downsample.0.conv.conv_l2h.weight, ... -> layer2.0.downsample.0.weight

    Returns:
        The state dict; and for each octave convolution's weight the channels of its groups.
    """
    joined: dict[str, Tensor] = {}
    splits: dict[str, Splits] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(.*)\.conv\.conv_[hl]2[hl]\.weight", key):
            name = f"{match[1]}.weight"
            if name not in joined:
                joined[name], splits[name] = _join(state, f"{match[1]}.conv.conv_")
        elif match := re.fullmatch(r"(.*)\.bn_([hl])\.(\w+)", key):
            name = re.sub(r"conv(\d)$", r"bn\1", match[1]) if "downsample" not in match[1] else f"{match[1][:-1]}1"
            name = f"{name}.{match[3]}"
            groups = [state[f"{match[1]}.bn_{g}.{match[3]}"] for g in "hl" if f"{match[1]}.bn_{g}.{match[3]}" in state]
            joined[name] = torch.cat(groups) if value.dim() else groups[0]
        else:
            joined[key] = value
    return joined, splits


def _join(state: Mapping[str, Tensor], prefix: str) -> tuple[Tensor, Splits]:
    paths = {path: state.get(f"{prefix}{path}.weight") for path in ("h2h", "l2h", "h2l", "l2l")}
    widths = {}
    for side, axis, at in (("in", 1, 0), ("out", 0, 2)):
        for group in "hl":
            widths[side, group] = next((w.shape[axis] for p, w in paths.items() if w is not None and p[at] == group), 0)
    some = next(weight for weight in paths.values() if weight is not None)
    rows = []
    for to in "hl":
        row = []
        for of in "hl":
            block = paths[f"{of}2{to}"]
            shape = (widths["out", to], widths["in", of], *some.shape[2:])
            row.append(some.new_zeros(shape) if block is None else block)  # a path that is not there adds nothing
        rows.append(torch.cat(row, dim=1))
    split = ((widths["in", "h"], widths["in", "l"]), (widths["out", "h"], widths["out", "l"]))
    return torch.cat(rows), split


def first_other_split(model: nn.Module, splits: Mapping[str, Splits]) -> tuple[str, Splits, Splits] | None:
    """The first convolution (its weight, the file's groups, the network's) that has other groups in the network."""
    for key, split in splits.items():
        conv = model.get_submodule(key.removesuffix(".weight"))
        own = (
            (getattr(conv, "in_high", conv.in_channels), getattr(conv, "in_low", 0)),
            (getattr(conv, "out_high", conv.out_channels), getattr(conv, "out_low", 0)),
        )
        if own != split:
            return key, split, own  # type: ignore[return-value]
    return None


def slow_columns_first(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmaction2's SlowFast head sees the Fast pathway's features before the Slow one's; PyTorchVideo's after them."""
    state, key = dict(state), "cls_head.fc_cls.weight"
    last = state.get("backbone.fast_path.layer4.0.conv3.conv.weight")
    if last is not None and key in state:
        state[key] = state[key].roll(-len(last), dims=1)
    return state

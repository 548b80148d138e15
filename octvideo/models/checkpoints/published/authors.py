"""Convert weights of the paper's authors (facebookresearch/OctConv, MXNet) to the names and shapes of octvideo.

Gluon names attributes, or layers if it was exported or saved the old way; symbols name layers. Each path of an octave
convolution and each group of a norm is a separate layer::

    Gluon           L1_B0.conv1.conv_h2l.weight   L1_B0.bn1.bn_l.gamma            L1_B0.se_block.conv2_l.bias
    Gluon, layers   R50_L1_B0_conv1-h2l_weight    R50_L1_B0_bn1-l_running_mean    R50_L1_B0_se-conv2-l_bias
    symbols         L2_B01_conv1_conv-h2l_weight  L2_B01_conv1_bn-l_moving_mean   L2_B01_se_fc2-h2l_bias
    here            layer1.0.conv1.weight         layer1.0.bn1.weight, .running_mean    layer1.0.se.fc2.bias
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from octvideo.errors import UserError
from octvideo.models.checkpoints.adapt import Splits, join_paths

__all__ = ["AuthorsNetwork", "has_authors_names", "read_authors_network"]

_LEAVES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
_LEAF = r"(?P<leaf>weight|bias|gamma|beta|(?:running|moving)_(?:mean|var))"
_PATH = r"(?P<path>[hl](?:2[hl])?)"
_SYMBOLS = re.compile(
    rf"L(?P<stage>\d)_(?:B(?P<block>\d+)|Trans)_conv(?P<number>\d?)_(?P<part>conv|bn)(?:-{_PATH})?_{_LEAF}"
)
_IN_BLOCKS = (
    re.compile(rf"L(?P<stage>\d)_B(?P<block>\d+)\.(?P<part>conv|bn)(?P<number>\da?)\.(?:conv|bn)_{_PATH}\.{_LEAF}"),
    re.compile(rf"L(?P<stage>\d)_B(?P<block>\d+)\.(?P<part>se)_block\.conv(?P<number>\d)(?:_{_PATH})?\.{_LEAF}"),
    re.compile(rf"(?:\w+_)?L(?P<stage>\d)_B(?P<block>\d+)_(?P<part>conv|bn)(?P<number>\da?)-{_PATH}_{_LEAF}"),
    re.compile(rf"(?:\w+_)?L(?P<stage>\d)_B(?P<block>\d+)_(?P<part>se)-conv(?P<number>\d)(?:-{_PATH})?_{_LEAF}"),
    _SYMBOLS,
    re.compile(rf"L(?P<stage>\d)_B(?P<block>\d+)_(?P<part>se)_fc(?P<number>\d)(?:-{_PATH})?_{_LEAF}"),
)
_OUTSIDE = re.compile(rf"(?:[A-Z]+\d+_)?(?P<layer>[a-z][\w.-]*?)[._]{_LEAF}")
# Symbols' norms have an epsilon of 1e-4, Gluon's and octvideo's 1e-5. Adding this to the variance makes them equal.
_EPSILONS = 1e-4 - 1e-5


class _Family(NamedTuple):
    """Names of a network's layers in octvideo; ``{stage}``, ``{number}`` and ``{count}`` of blocks begin with 1."""

    name: str
    block: str
    inside: dict[str, str]
    outside: dict[str, str]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_RESIDUAL = {**_same("conv1", "conv2", "conv3", "bn1", "bn2", "bn3"), "se1": "se.fc1", "se2": "se.fc2"}
_POST = {**_RESIDUAL, "conv4": "downsample.0", "bn4": "downsample.1", "bn1a": "bn0", "bn4a": "bn4a"}
_PRE = {**_RESIDUAL, "bn4": "downsample.0", "conv4": "downsample.2"}
# The names of attributes, of Gluon's layers and of symbols. ("classifer" is the authors' spelling.)
_STEM = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1": "conv1", "bn1": "bn1", "conv1_conv": "conv1", "conv1_bn": "bn1"}
_TAIL = {"tail.0": "norm", "tail-bn": "norm", "tail_bn": "norm"}
_HEAD = {"classifer": "fc", "classifier": "fc"}
_HALVED = {"conv2.0": "maxpool.0", "conv2.1": "maxpool.1", "conv2": "maxpool.0", "bn2": "maxpool.1"}
_HALVED |= {f"{stem}{part}": f"maxpool.{to}" for part, to in _POST.items() for stem in ("conv2.", "stem2_")}
_DEEP_STEM = {**_same("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6"), "conv1.7": "bn1"}
_DEEP_STEM |= {"stem_conv1": "conv1.0", "stem_bn1": "conv1.1", "stem_conv2": "conv1.3", "stem_bn2": "conv1.4"}
_DEEP_STEM |= {"stem_conv3": "conv1.6", "stem_bn3": "bn1"}
_MOBILE = {"conv1.0": "features.0.0", "conv1.1": "features.0.1", "conv1": "features.0.0", "bn1": "features.0.1"}
_MOBILE |= dict.fromkeys(_HEAD, "classifier.1")
_MOBILE_TAIL = {"tail.0": "features.18.0", "tail.1": "features.18.1"}
_MOBILE_TAIL |= {"tail-conv": "features.18.0", "tail-bn": "features.18.1"}

_FAMILIES = {
    "pre": _Family("pre-activation ResNet", "layer{stage}.{index}", _PRE, {**_STEM, **_HALVED, **_TAIL, **_HEAD}),
    "post": _Family("post-activation ResNet", "layer{stage}.{index}", _POST, {**_STEM, **_HALVED, **_HEAD}),
    "v1": _Family("MobileNetV1", "features.{count}", {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}, _MOBILE),
    "v2": _Family(
        "MobileNetV2",
        "features.{count}.conv",
        {"conv1": "0.0", "bn1": "0.1", "conv2": "1.0", "bn2": "1.1", "conv3": "2", "bn3": "3"},
        {**_MOBILE, **_MOBILE_TAIL},
    ),
    "dense": _Family(
        "DenseNet",
        "features.denseblock{stage}.denselayer{number}",
        {**_same("conv1", "conv2"), "bn1": "norm1", "bn2": "norm2", "conv": "conv", "bn": "norm"},
        {
            "conv1_conv": "features.conv0",
            "conv1_bn": "features.norm0",
            "tail_bn": "features.norm5",
            "classifier": "classifier",
        },
    ),
}


class AuthorsNetwork(NamedTuple):
    """Weights with octvideo's names and shapes.

    Attributes:
        state: the weights, each layer's groups joined, high channels first.
        splits: for each convolution in a block, the channels of its groups.
        name: in words, with the number of blocks and alpha.
        alpha: share of low channels.
        notes: other conversions, for the report.
    """

    state: dict[str, Tensor]
    splits: dict[str, Splits]
    name: str
    alpha: float
    notes: list[str]


def has_authors_names(keys: Iterable[str]) -> bool:
    """Return whether these keys are those of one of the authors' networks."""
    return any(re.match(r"(\w+_)?L\d_B\d+[._](conv|bn)\d", key) for key in keys)


def read_authors_network(state: Mapping[str, Tensor], path: str | Path) -> AuthorsNetwork:
    """Rename and reshape the weights; a weight without a counterpart keeps its name.

    Args:
        state: the arrays by name, without ``arg:`` and ``aux:``.
        path: of the file, for messages.

    Raises:
        UserError: octvideo has no such network.
    """
    inside = {key: match for key in state if (match := _first_match(key))}
    family = _family(inside.values(), state, path)
    blocks = sorted({(match["stage"], int(match["block"])) for match in inside.values() if match["block"]})
    stages = sorted({stage for stage, _ in blocks})
    firsts = {stage: blocks.index(min(block for block in blocks if block[0] == stage)) for stage in stages}
    outside = family.outside | (_DEEP_STEM if {"conv1.3.weight", "stem_conv2_weight"} & _bare(state) else {})

    paths: defaultdict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        name = None
        if match := inside.get(key):
            stage = stages.index(match["stage"]) + 1
            block = f"features.transition{stage - 1}"
            if match["block"]:
                count = blocks.index((match["stage"], int(match["block"])))
                index = count - firsts[match["stage"]]
                block = family.block.format(stage=stage, index=index, number=index + 1, count=count + 1)
            part = family.inside.get(match["part"] + match["number"])
            name = f"{block}.{part}" if part else None
        elif match := _OUTSIDE.fullmatch(key):
            name = outside.get(match["layer"])
        if match and name:
            leaf = _LEAVES.get(match["leaf"], match["leaf"])
            paths[name, leaf][match.groupdict().get("path") or ""] = value.float()
        else:
            paths[key, ""][""] = value
    joined, splits = _joined(paths)
    if family is _FAMILIES["post"]:
        _check_input_norms(joined, path)
    notes = []
    if any(_SYMBOLS.fullmatch(key) for key in state):
        for name, value in joined.items():
            if name.endswith("running_var"):
                joined[name] = value + _EPSILONS
        notes.append("9e-5 added to the variances: its norms have an epsilon of 1e-4, octvideo's of 1e-5")
    depths = Counter(stage for stage, _ in blocks)
    shape = f" of {[depths[stage] for stage in stages]} blocks" if len(stages) == 4 else ""
    alpha = _alpha(splits)
    return AuthorsNetwork(joined, splits, f"the authors' {family.name}{shape}, alpha {alpha:g}", alpha, notes)


def _first_match(key: str) -> re.Match[str] | None:
    return next((match for pattern in _IN_BLOCKS if (match := pattern.fullmatch(key))), None)


def _bare(keys: Iterable[str]) -> set[str]:
    """Return the names without the network's prefix, as in ``R152_stem_conv2_weight``."""
    return {re.sub(r"^[A-Z]+\d+_", "", key) for key in keys}


def _family(matches: Iterable[re.Match[str]], keys: Iterable[str], path: str | Path) -> _Family:
    parts = {match["part"] + match["number"] for match in matches}
    has_tail = any(key.startswith("tail") for key in _bare(keys))
    if "conv4" in parts:
        return _FAMILIES["pre" if has_tail else "post"]
    if "conv3" in parts:
        return _FAMILIES["v2"]
    if "conv" in parts:
        return _FAMILIES["dense"]
    if has_tail:
        raise UserError(
            f"{path}: this is the authors' Gluon DenseNet; its stem is octave, and octvideo has no such network"
        )
    return _FAMILIES["v1"]


def _joined(
    paths: Mapping[tuple[str, str], Mapping[str, Tensor]],
) -> tuple[dict[str, Tensor], dict[str, Splits]]:
    state: dict[str, Tensor] = {}
    splits: dict[str, Splits] = {}
    for (name, leaf), parts in paths.items():
        key = f"{name}.{leaf}" if leaf else name
        if leaf == "weight" and any("2" in path for path in parts):
            state[key], split = join_paths(parts)
            if ".se." not in name:
                splits[key] = split
        else:  # vectors, and the rows of SE's second layer
            state[key] = torch.cat([parts[path] for path in sorted(parts, key=lambda path: path[-1:])])
        if key in ("fc.weight", "classifier.weight", "classifier.1.weight"):
            state[key] = state[key].flatten(1)  # 1x1 convolutions in Gluon
    return state, splits


def _check_input_norms(state: dict[str, Tensor], path: str | Path) -> None:
    """Check and merge SE-ResNet-152's two input norms without parameters, which octvideo has as one."""
    for key in [key for key in state if ".bn4a." in key or re.search(r"\.bn0\.(weight|bias)$", key)]:
        value = state.pop(key)  # weights are not used: the layer fixes them to 1
        twin = state.get(key.replace(".bn4a.", ".bn0."))
        if key.endswith(".bias") and value.any():
            raise UserError(f"{path}: {key} is not 0, but octvideo's norm at the input of a block has no parameters")
        if ".running_" in key and (twin is None or not torch.allclose(value, twin, rtol=1e-3, atol=1e-5)):
            raise UserError(f"{path}: {key} differs from that of bn1a, but octvideo has one norm for both")


def _alpha(splits: Mapping[str, Splits]) -> float:
    """Return alpha of the widest layer with two groups, where rounding matters least."""
    outs = [out for _, out in splits.values() if out[1]]
    high, low = max(outs, key=sum, default=(1, 0))
    return round(low / (high + low), 3)

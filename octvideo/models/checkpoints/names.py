"""Translate each project's names for the parts of a video ResNet to one plain naming.

::

    pathway0.stem.conv.weight            the Fast pathway of SlowFast is pathway1
    pathway0.res3.1.conv_a.weight        stage, block, and conv_a, conv_b, conv_c or conv_skip; norm_a and so on
    pathway0.res3.1.nonlocal.theta.bias  the non-local block after block 1 of res3
    lateral2.conv.weight                 the connection from Fast to Slow after res2 (lateral1: after the stem)
    head.weight

PyTorchVideo, whose names octvideo uses, numbers all modules, so a pool or a non-local block shifts later numbers. The
plain names count stages and blocks only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

__all__ = ["LAYOUTS", "Layout", "layout_of", "pytorchvideo_names"]

Rename = Callable[[str], str | None]
_ABC = {"1": "a", "2": "b", "3": "c", "a": "a", "b": "b", "c": "c"}


class Layout:
    """A project's naming.

    Args:
        name: for reports.
        sign: a pattern that matches a key of such files, and no key of other layouts.
        rules: patterns of whole keys, and their plain names; ``{1}`` is the first group of the pattern, ``{1:abc}`` a
            convolution's number as a letter, ``{1:+1}`` a number plus one, ``{1:bn}`` Caffe2's name of a norm's tensor.
    """

    def __init__(self, name: str, sign: str, rules: Mapping[str, str]) -> None:
        self.name = name
        self._sign = re.compile(sign)
        self._rules = [(re.compile(pattern), template) for pattern, template in rules.items()]

    def fits(self, keys: Iterable[str]) -> bool:
        """Return whether these keys have this layout."""
        return any(self._sign.search(key) for key in keys)

    def plain(self, key: str) -> str | None:
        """Return the plain name of a key, or None."""
        for pattern, template in self._rules:
            if match := pattern.fullmatch(key):
                return re.sub(r"\{(\d)(:abc|:\+1|:bn)?\}", lambda field: _fill(match, field), template)
        return None


def _fill(match: re.Match[str], field: re.Match[str]) -> str:
    value, how = match.group(int(field[1])), field[2]
    if how == ":abc":
        return _ABC[value]
    if how == ":+1":
        return str(int(value) + 1)
    if how == ":bn":
        return {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}[value]
    return value


_LEAF = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

PYSLOWFAST = Layout(
    "PySlowFast",
    r"^s1\.pathway0_stem\.",
    {
        rf"s1\.pathway(\d)_stem\.conv\.{_LEAF}": "pathway{1}.stem.conv.{2}",
        rf"s1\.pathway(\d)_stem\.bn\.{_LEAF}": "pathway{1}.stem.norm.{2}",
        rf"s(\d)\.pathway(\d)_res(\d+)\.branch1\.{_LEAF}": "pathway{2}.res{1}.{3}.conv_skip.{4}",
        rf"s(\d)\.pathway(\d)_res(\d+)\.branch1_bn\.{_LEAF}": "pathway{2}.res{1}.{3}.norm_skip.{4}",
        rf"s(\d)\.pathway(\d)_res(\d+)\.branch2\.([abc])\.{_LEAF}": "pathway{2}.res{1}.{3}.conv_{4}.{5}",
        rf"s(\d)\.pathway(\d)_res(\d+)\.branch2\.([abc])_bn\.{_LEAF}": "pathway{2}.res{1}.{3}.norm_{4}.{5}",
        rf"s(\d)\.pathway(\d)_nonlocal(\d+)\.conv_(\w+)\.{_LEAF}": "pathway{2}.res{1}.{3}.nonlocal.{4}.{5}",
        rf"s(\d)\.pathway(\d)_nonlocal(\d+)\.bn\.{_LEAF}": "pathway{2}.res{1}.{3}.nonlocal.norm.{4}",
        rf"s(\d)_fuse\.conv_f2s\.{_LEAF}": "lateral{1}.conv.{2}",
        rf"s(\d)_fuse\.bn\.{_LEAF}": "lateral{1}.norm.{2}",
        rf"head\.projection\.{_LEAF}": "head.{1}",
    },
)


def _caffe2(prefix: str, pathway: int) -> dict[str, str]:
    """Return the rules of a pathway; the Fast one's names begin with ``t_``."""
    to = f"pathway{pathway}"
    return {
        rf"{prefix}conv1_w": f"{to}.stem.conv.weight",
        rf"{prefix}res_conv1_bn_(s|b|rm|riv)": f"{to}.stem.norm.{{1:bn}}",
        rf"{prefix}res(\d)_(\d+)_branch1_w": f"{to}.res{{1}}.{{2}}.conv_skip.weight",
        rf"{prefix}res(\d)_(\d+)_branch1_bn_(s|b|rm|riv)": f"{to}.res{{1}}.{{2}}.norm_skip.{{3:bn}}",
        rf"{prefix}res(\d)_(\d+)_branch2([abc])_w": f"{to}.res{{1}}.{{2}}.conv_{{3}}.weight",
        rf"{prefix}res(\d)_(\d+)_branch2([abc])_bn_(s|b|rm|riv)": f"{to}.res{{1}}.{{2}}.norm_{{3}}.{{4:bn}}",
    }


CAFFE2 = Layout(
    "Caffe2",
    r"^res2_0_branch2a_w$",
    {
        **_caffe2("", 0),
        **_caffe2("t_", 1),
        r"nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)_w": "pathway0.res{1}.{2}.nonlocal.{3}.weight",
        r"nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)_b": "pathway0.res{1}.{2}.nonlocal.{3}.bias",
        r"nonlocal_conv(\d)_(\d+)_bn_(s|b|rm|riv)": "pathway0.res{1}.{2}.nonlocal.norm.{3:bn}",
        r"t_pool1_subsample_w": "lateral1.conv.weight",
        r"t_pool1_subsample_bn_(s|b|rm|riv)": "lateral1.norm.{1:bn}",
        r"t_res(\d)_\d+_branch2c_bn_subsample_w": "lateral{1}.conv.weight",
        r"t_res(\d)_\d+_branch2c_bn_subsample_bn_(s|b|rm|riv)": "lateral{1}.norm.{2:bn}",
        r"pred_w": "head.weight",
        r"pred_b": "head.bias",
    },
)


def _mmaction2(path: str, pathway: int) -> dict[str, str]:
    return {
        rf"backbone\.{path}conv1\.conv\.{_LEAF}": f"pathway{pathway}.stem.conv.{{1}}",
        rf"backbone\.{path}conv1\.bn\.{_LEAF}": f"pathway{pathway}.stem.norm.{{1}}",
        rf"backbone\.{path}layer(\d)\.(\d+)\.conv(\d)\.conv\.{_LEAF}": (
            f"pathway{pathway}.res{{1:+1}}.{{2}}.conv_{{3:abc}}.{{4}}"
        ),
        rf"backbone\.{path}layer(\d)\.(\d+)\.conv(\d)\.bn\.{_LEAF}": (
            f"pathway{pathway}.res{{1:+1}}.{{2}}.norm_{{3:abc}}.{{4}}"
        ),
        rf"backbone\.{path}layer(\d)\.(\d+)\.downsample\.conv\.{_LEAF}": (
            f"pathway{pathway}.res{{1:+1}}.{{2}}.conv_skip.{{3}}"
        ),
        rf"backbone\.{path}layer(\d)\.(\d+)\.downsample\.bn\.{_LEAF}": (
            f"pathway{pathway}.res{{1:+1}}.{{2}}.norm_skip.{{3}}"
        ),
    }


MMACTION2 = Layout(
    "mmaction2",
    r"^backbone\.(slow_path\.)?conv1\.conv\.",
    {
        **_mmaction2("", 0),
        **_mmaction2(r"slow_path\.", 0),
        **_mmaction2(r"fast_path\.", 1),
        rf"backbone\.slow_path\.conv1_lateral\.conv\.{_LEAF}": "lateral1.conv.{1}",
        rf"backbone\.slow_path\.conv1_lateral\.bn\.{_LEAF}": "lateral1.norm.{1}",
        rf"backbone\.slow_path\.layer(\d)_lateral\.conv\.{_LEAF}": "lateral{1:+1}.conv.{2}",
        rf"backbone\.slow_path\.layer(\d)_lateral\.bn\.{_LEAF}": "lateral{1:+1}.norm.{2}",
        rf"cls_head\.fc_cls\.{_LEAF}": "head.{1}",
    },
)

# timm's ResNets have these names too, as have d-li14's after ``join_octave_groups``.
TORCHVISION = Layout(
    "torchvision",
    r"^layer1\.0\.conv1\.weight$",
    {
        r"conv1\.weight": "pathway0.stem.conv.weight",
        rf"bn1\.{_LEAF}": "pathway0.stem.norm.{1}",
        r"layer(\d)\.(\d+)\.conv(\d)\.weight": "pathway0.res{1:+1}.{2}.conv_{3:abc}.weight",
        rf"layer(\d)\.(\d+)\.bn(\d)\.{_LEAF}": "pathway0.res{1:+1}.{2}.norm_{3:abc}.{4}",
        r"layer(\d)\.(\d+)\.downsample\.0\.weight": "pathway0.res{1:+1}.{2}.conv_skip.weight",
        rf"layer(\d)\.(\d+)\.downsample\.1\.{_LEAF}": "pathway0.res{1:+1}.{2}.norm_skip.{3}",
        rf"fc\.{_LEAF}": "head.{1}",
    },
)

LAYOUTS = (PYSLOWFAST, CAFFE2, MMACTION2, TORCHVISION)


def layout_of(keys: Iterable[str]) -> Layout | None:
    """Return the project's layout of these keys; None for PyTorchVideo's and for an unknown one."""
    keys = list(keys)
    return next((layout for layout in LAYOUTS if layout.fits(keys)), None)


_MULTIPATH = r"(?:multipathway_blocks\.(\d)\.)?"


def pytorchvideo_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the plain name of each PyTorchVideo key, as octvideo's video networks have; other keys keep their name.

    Example: if block 2 is a pool, ``blocks.3.res_blocks.2.branch2.conv_a.weight`` is in res3, the second stage; if
    ``res_blocks.1`` is a non-local block, it is in residual block 1: ``pathway0.res3.1.conv_a.weight``.
    """
    stages = sorted({int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\..*res_blocks\.", key))})
    nonlocals = {match[1] for key in state if (match := re.match(r"(.*\.res_blocks\.\d+)\.conv_g\.", key))}

    def block(before: str, number: int) -> tuple[int, int]:
        """Return the stage, and the index of this residual block or of the one before this module."""
        skipped = sum(f"{before}.res_blocks.{index}" in nonlocals for index in range(number + 1))
        stage = stages.index(int(before.split(".")[1])) + 2
        return stage, number - skipped

    def plain(key: str) -> str:
        if match := re.fullmatch(
            rf"(blocks\.\d+(?:\.multipathway_blocks\.(\d))?)\.res_blocks\.(\d+)\.(.*)\.{_LEAF}", key
        ):
            before, pathway, number, part, leaf = match.groups()
            stage, index = block(before, int(number))
            if f"{before}.res_blocks.{number}" in nonlocals:
                part = f"nonlocal.{part.removeprefix('conv_')}"
            else:
                part = part.removeprefix("branch2.")
                part = {"branch1_conv": "conv_skip", "branch1_norm": "norm_skip"}.get(part, part)
            return f"pathway{pathway or 0}.res{stage}.{index}.{part}.{leaf}"
        if match := re.fullmatch(rf"blocks\.0\.{_MULTIPATH}(conv|norm)\.{_LEAF}", key):
            return f"pathway{match[1] or 0}.stem.{match[2]}.{match[3]}"
        if match := re.fullmatch(rf"blocks\.(\d+)\.multipathway_fusion\.(conv|norm)(?:_fast_to_slow)?\.{_LEAF}", key):
            return f"lateral{int(match[1]) + 1}.{match[2]}.{match[3]}"
        if match := re.fullmatch(rf"blocks\.\d+\.proj\.{_LEAF}", key):
            return f"head.{match[1]}"
        return key

    return {key: plain(key) for key in state} if stages else {key: key for key in state}

"""Each project's names for the layers of a video ResNet, from its documentation and code.

Each layer is a tuple: ``("stem", pathway, kind)``, ``("res", pathway, stage, block, layer, kind)``, ``("nonlocal",
pathway, stage, block, layer)``, ``("lateral", after stage, kind)`` or ``("head",)``; kind is ``conv`` or ``norm``,
layer one of a, b, c, skip. Each project has a function from such a tuple to its module's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Layer = tuple[Any, ...]


def layers(
    blocks: tuple[int, ...], pathways: int, nonlocals: tuple[tuple[int, ...], ...], lateral_norm: bool = True
) -> Iterator[Layer]:
    """Yield all layers of a network."""
    kinds = ("conv", "norm")
    for pathway in range(pathways):
        yield from (("stem", pathway, kind) for kind in kinds)
        for stage, depth in enumerate(blocks, 2):
            for block in range(depth):
                for layer in ("a", "b", "c", *(["skip"] if block == 0 else [])):
                    yield from (("res", pathway, stage, block, layer, kind) for kind in kinds)
                if block in nonlocals[stage - 2]:
                    yield from (
                        ("nonlocal", pathway, stage, block, name) for name in ("theta", "phi", "g", "out", "norm")
                    )
    if pathways == 2:
        for stage in range(1, 5):
            yield from (("lateral", stage, kind) for kind in (kinds if lateral_norm else kinds[:1]))
    yield ("head",)


def octvideo(pathways: int, pooled: bool, nonlocals: tuple[tuple[int, ...], ...]) -> Callable[[Layer], str]:
    """PyTorchVideo's modules, numbered as they follow each other."""

    def name(layer: Layer) -> str:
        match layer:
            case ("stem", pathway, kind):
                return f"blocks.0.multipathway_blocks.{pathway}.{kind}" if pathways == 2 else f"blocks.0.{kind}"
            case ("lateral", after, kind):
                return f"blocks.{after - 1}.multipathway_fusion.{'conv_fast_to_slow' if kind == 'conv' else 'norm'}"
            case ("head",):
                return f"blocks.{5 + pooled + (pathways == 2)}.proj"
        pathway, stage, block, part = layer[1:5]
        before = f"blocks.{stage - 1 + (pooled and stage > 2)}"
        before += f".multipathway_blocks.{pathway}" if pathways == 2 else ""
        index = block + sum(other < block for other in nonlocals[stage - 2])
        if layer[0] == "nonlocal":
            return f"{before}.res_blocks.{index + 1}.{part if part == 'norm' else f'conv_{part}'}"
        part = f"branch1_{layer[5]}" if part == "skip" else f"branch2.{layer[5]}_{part}"
        return f"{before}.res_blocks.{index}.{part}"

    return name


def pyslowfast(layer: Layer) -> str:
    match layer:
        case ("stem", pathway, kind):
            return f"s1.pathway{pathway}_stem.{'bn' if kind == 'norm' else 'conv'}"
        case ("res", pathway, stage, block, "skip", kind):
            return f"s{stage}.pathway{pathway}_res{block}.branch1" + ("_bn" if kind == "norm" else "")
        case ("res", pathway, stage, block, part, kind):
            return f"s{stage}.pathway{pathway}_res{block}.branch2.{part}" + ("_bn" if kind == "norm" else "")
        case ("nonlocal", pathway, stage, block, part):
            return f"s{stage}.pathway{pathway}_nonlocal{block}.{'bn' if part == 'norm' else f'conv_{part}'}"
        case ("lateral", after, kind):
            return f"s{after}_fuse.{'bn' if kind == 'norm' else 'conv_f2s'}"
    return "head.projection"


def mmaction2(pathways: int) -> Callable[[Layer], str]:
    def name(layer: Layer) -> str:
        paths = ("backbone.slow_path.", "backbone.fast_path.") if pathways == 2 else ("backbone.",)
        match layer:
            case ("stem", pathway, kind):
                return f"{paths[pathway]}conv1.{'bn' if kind == 'norm' else 'conv'}"
            case ("res", pathway, stage, block, part, kind):
                part = "downsample" if part == "skip" else f"conv{'abc'.index(part) + 1}"
                return f"{paths[pathway]}layer{stage - 1}.{block}.{part}.{'bn' if kind == 'norm' else 'conv'}"
            case ("lateral", after, kind):
                before = "conv1" if after == 1 else f"layer{after - 1}"
                return f"backbone.slow_path.{before}_lateral.{'bn' if kind == 'norm' else 'conv'}"
        return "cls_head.fc_cls"

    return name


def caffe2(blocks: tuple[int, ...]) -> Callable[[Layer, str], str | None]:
    """Blobs, so the tensor's kind is part of the name; None where Caffe2 has no such blob."""
    norm = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}

    def name(layer: Layer, leaf: str) -> str | None:
        if leaf == "num_batches_tracked":
            return None
        end = f"_bn_{norm[leaf]}" if layer[-1] == "norm" else f"_{leaf[0]}"
        match layer:
            case ("stem", pathway, kind):
                return ("", "t_")[pathway] + ("res_conv1" if kind == "norm" else "conv1") + end
            case ("res", pathway, stage, block, part, _):
                branch = "branch1" if part == "skip" else f"branch2{part}"
                return f"{('', 't_')[pathway]}res{stage}_{block}_{branch}{end}"
            case ("nonlocal", _, stage, block, part):
                return f"nonlocal_conv{stage}_{block}" + ("" if part == "norm" else f"_{part}") + end
            case ("lateral", after, _):
                before = "t_pool1" if after == 1 else f"t_res{after}_{blocks[after - 2] - 1}_branch2c_bn"
                return f"{before}_subsample{end}"
        return f"pred{end}"

    return name

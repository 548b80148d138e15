"""Show the feature maps of a layer: high and low next to each other, at their true sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from octvideo.analysis.frequency import stages_of
from octvideo.analysis.pictures.sheet import Cell, Strip, some
from octvideo.data.classes import did_you_mean
from octvideo.data.transforms import normalize_clips
from octvideo.engine.networks import Network
from octvideo.errors import UserError
from octvideo.octave import OctaveTensor

__all__ = ["choose_layer", "find_layers", "layer_strips", "normalized"]

_TIMES = 4
_CHANNELS = 8
_COLORS = "viridis"  # from dark to light, also in grey

Groups = dict[str, Tensor]  # maps (C, T, H, W) by group: high and low, or plain


def normalized(views: Tensor, network: Network) -> Tensor:
    """Return the network's input, on its device, from views ``(V, T, H, W, 3)`` uint8."""
    device = next(network.model.parameters()).device
    return normalize_clips(views.to(device), network.cfg.DATA.MEAN, network.cfg.DATA.STD)


def find_layers(model: nn.Module, clip: Tensor) -> dict[str, str]:
    """Return the layers with feature maps in the order in which they are computed, each with the shapes of its groups.

    A stage has its short name (``res2``) too. Shapes are (channels, frames, height, width).

    Args:
        model: from ``build_model``.
        clip: its input, ``(1, 3, T, H, W)``.
    """
    found: dict[str, str] = {}

    def record(name: str, output: object) -> None:
        if groups := _groups(output):
            shapes = (f"{group} {'x'.join(map(str, maps.shape))}" for group, maps in groups.items())
            found[name] = ", ".join(shapes)

    _run(model, clip, {**dict(model.named_modules()), **stages_of(model)}, record)
    found.pop("", None)  # the network itself
    return found


def choose_layer(layers: Mapping[str, str], model: nn.Module, name: str | None) -> str:
    """Return the name of a layer; None: the first stage, or else the first layer, with two frequencies.

    Raises:
        UserError: no such layer, or it has no maps; the message names some that have.
    """
    stages = [stage for stage in stages_of(model) if stage in layers]
    names = stages or list(layers)
    if name is None:
        return next((layer for layer in names if "low" in layers[layer]), names[0])
    if name in layers:
        return name
    known = name in stages_of(model) or name in dict(model.named_modules())
    problem = "it has no maps larger than 1x1." if known else f"no such layer{did_you_mean(name, list(layers)) or '.'}"
    listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    raise UserError(f"--layer {name}: {problem} The network has {listed}; --list shows all layers")


def layer_strips(network: Network, name: str, views: Tensor) -> list[Strip]:
    """Return strips of the frames, of the mean maps of each group, and of its channels that vary most.

    Args:
        network: with its layer.
        name: of the layer, from ``choose_layer``.
        views: the clip, ``(1, T, H, W, 3)`` uint8.
    """
    recorded: list[Groups] = []
    modules = {**dict(network.model.named_modules()), **stages_of(network.model)}
    _run(network.model, normalized(views, network), {name: modules[name]}, lambda _, out: recorded.append(_groups(out)))
    [groups, *_] = recorded
    length = next(iter(groups.values())).shape[1]
    times = some(length, _TIMES)
    frames = [round((time + 0.5) / length * views.shape[1] - 0.5) for time in times]
    strips = [
        Strip("frames of the clip", [Cell(views[0, n].numpy(), f"frame {n + 1} of {views.shape[1]}") for n in frames])
    ]
    heights = {group: maps.shape[2] for group, maps in groups.items()}
    for group, maps in groups.items():
        scale = heights[group] / max(heights.values())
        mean = maps.mean(0)[times]
        cells = [Cell(image, scale=scale) for image in _colored(mean, mean)]
        strips.append(Strip(f"{_title(group, maps)}: mean over the channels", cells))
    for group, maps in groups.items():
        scale = heights[group] / max(heights.values())
        order = maps.flatten(1).std(1).argsort(descending=True)[:_CHANNELS].tolist()
        middle = maps[:, length // 2]
        cells = [Cell(_colored(middle[n : n + 1], middle[n])[0], f"{n}", scale=scale) for n in order]
        strips.append(Strip(f"{_title(group, maps)}: the channels that vary most, by number", cells))
    return strips


def _run(
    model: nn.Module, clip: Tensor, layers: Mapping[str, nn.Module], record: Callable[[str, object], object]
) -> None:
    """Run a network, and call ``record(name, output)`` for each of the layers."""
    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: record(name, output))
        for name, layer in layers.items()
    ]
    try:
        with torch.inference_mode():
            model(clip)
    finally:
        for handle in handles:
            handle.remove()


def _groups(output: object) -> Groups:
    """Return copies of the maps of the first clip by group; empty for other outputs. A map has several places."""
    groups = dict(zip(("high", "low"), output)) if isinstance(output, OctaveTensor) else {"plain": output}
    found: Groups = {}
    for group, maps in groups.items():
        if isinstance(maps, Tensor) and maps.dim() in (4, 5) and maps.shape[-1] * maps.shape[-2] > 1:
            clip = maps[0] if maps.dim() == 5 else maps[0][:, None]  # image networks have one frame
            found[group] = clip.detach().float().cpu().clone()  # the next layer may work in place
    return found


def _title(group: str, maps: Tensor) -> str:
    channels, _, height, width = maps.shape
    name = "one frequency" if group == "plain" else group
    return f"{name}, {channels} channel{'s' * (channels > 1)} of {height} x {width}"


def _colored(maps: Tensor, scale: Tensor) -> list[np.ndarray]:
    """Return images uint8 ``(H, W, 3)`` of maps ``(n, H, W)``, from the smallest of ``scale`` to the largest."""
    from matplotlib import colormaps

    low, high = float(scale.min()), float(scale.max())
    shades = ((maps - low) / max(high - low, 1e-12)).numpy()
    return [(255 * colormaps[_COLORS](shade)[..., :3]).round().astype(np.uint8) for shade in shades]

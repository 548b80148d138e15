"""Measure the frequencies of a network's feature maps by group (Figure 4); see ``octvideo.analysis.spectrum``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from octvideo.analysis.spectrum import MeanSpectrum
from octvideo.config import load_cfg
from octvideo.data.dataset import Failure, TestDataset
from octvideo.data.index import read_index
from octvideo.data.media import is_media, scan_folder
from octvideo.data.transforms import normalize_clips
from octvideo.data.video_index import VideoIndex
from octvideo.engine.networks import Network, load_network
from octvideo.errors import UserError
from octvideo.models import Stage, build_model
from octvideo.models.checkpoints import LoadReport
from octvideo.octave import OctaveTensor

__all__ = ["Spectrum", "find_inputs", "layers_of", "measure", "network_of", "stages_of"]

_LIST_SUFFIXES = (".csv", ".lst", ".txt")
# Paths of the stages in image networks; the first pattern with a match is used.
_STAGES = (r"layer\d+", r"features\.denseblock\d+", r"features\.\d+")


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of one group at one layer.

    Attributes:
        layer: its name.
        group: ``high``, ``low``, ``plain`` (a layer with one frequency in the analysed network) or ``baseline``.
        scale: 2 for the low group, else 1.
        energy: the mean energy and the number of maps.
    """

    layer: str
    group: str
    scale: int
    energy: MeanSpectrum


def network_of(checkpoint: str | Path | None, cfg: str | Path | None) -> Network:
    """Return the network of a checkpoint; of a configuration with random weights; or, without both, the shipped one.

    Raises:
        UserError: see ``load_network``.
    """
    as_2d = None if torch.cuda.is_available() else True
    if checkpoint is not None or cfg is None:
        return load_network(checkpoint, cfg, as_2d=as_2d)
    settings = load_cfg(cfg, ["MODEL.CONV_AS_2D", "True"] if as_2d else [])
    with torch.random.fork_rng():
        torch.manual_seed(settings.SEED)
        model = build_model(settings)
    return Network(model.eval(), settings, (), LoadReport())


def find_inputs(sources: Sequence[str | Path]) -> VideoIndex:
    """Return the files of images, videos, folders of both with subfolders, and lists (``path label`` lines).

    Raises:
        UserError: one is missing or has no files.
    """
    paths: list[str] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = [str(source / path) for path in scan_folder(source, is_media)]
            if not found:
                raise UserError(f"{source}: no videos or images in this folder")
            paths += found
        elif not source.is_file():
            raise UserError(f"{source}: no such file or folder; give images, videos, folders or lists")
        elif source.suffix.lower() in _LIST_SUFFIXES:
            index = read_index(source)
            paths += (index.path(number) for number in range(len(index)))
        else:
            paths.append(str(source))
    return VideoIndex(paths, [-1] * len(paths))


def layers_of(model: nn.Module, patterns: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Return the layers to measure, by name.

    Args:
        model: from ``build_model``.
        patterns: regular expressions for whole names: of stages (``res2`` to ``res5``, SlowFast's ``slow.res2``, ...;
            ``layer1``, ... in image networks) or of any modules. Empty: all stages.

    Raises:
        UserError: an invalid pattern, or one that matches nothing.
    """
    modules, stages = dict(model.named_modules()), stages_of(model)
    if not patterns:
        if not stages:
            raise UserError("this network has no named stages; choose layers with --layers")
        return stages
    names = {**{name: module for name, module in modules.items() if name}, **stages}
    chosen: dict[str, nn.Module] = {}
    for text in patterns:
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UserError(f"--layers {text}: not a regular expression ({error})") from None
        found = {name: module for name, module in names.items() if pattern.fullmatch(name)}
        if not found:
            raise UserError(
                f"--layers {text}: no layer matches; stages are {', '.join(stages)}, modules "
                f"{', '.join(list(modules)[1:4])}, ..."
            )
        chosen |= found
    return chosen


def stages_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the stages of a network by name; empty where it has none."""
    modules = dict(model.named_modules())
    stages: dict[str, nn.Module] = {}
    for path, module in modules.items():
        if isinstance(module, Stage):
            pathway = re.search(r"multipathway_blocks\.(\d)", path)
            prefix = ("slow.", "fast.")[int(pathway[1])] if pathway else ""
            stages[f"{prefix}res{module.number}"] = module
    for pattern in _STAGES:
        stages = stages or {path: module for path, module in modules.items() if re.fullmatch(pattern, path)}
    return stages


def measure(
    network: Network,
    layers: Mapping[str, nn.Module],
    inputs: VideoIndex,
    *,
    views: int = 1,
    device: torch.device | None = None,
    baseline: bool = False,
) -> tuple[list[Spectrum], list[Failure]]:
    """Run a network on all inputs, and average over the maps of all frames and channels of its layers.

    Clips and crops are those of testing, with the centre crop only; an image is a video of equal frames.

    Args:
        network: with its configuration.
        layers: its layers, from ``layers_of``.
        inputs: from ``find_inputs``.
        views: clips of a video.
        device: to compute on; None: the CPU.
        baseline: the group's name is ``baseline``.

    Returns:
        The spectra, high before low; and the files that could not be read.

    Raises:
        UserError: a layer's output is not maps, or has maps of several sizes.
    """
    device = device or torch.device("cpu")
    found: dict[tuple[str, str], MeanSpectrum] = {}
    failed: list[Failure] = []

    def record(layer: str, output: object) -> None:
        groups = dict(zip(("high", "low"), output)) if isinstance(output, OctaveTensor) else {"plain": output}
        for group, maps in groups.items():
            if maps is None:
                continue
            # The output of a fully connected layer has its channels last.
            if not isinstance(maps, Tensor) or maps.dim() < 4 or isinstance(layers[layer], nn.Linear):
                raise UserError(f"--layers: {layer} has no feature maps; choose another layer")
            key = (layer, "baseline" if baseline else group)
            try:
                found.setdefault(key, MeanSpectrum()).add(maps)
            except ValueError as error:
                raise UserError(f"--layers: {layer} has {error}; choose the layers one by one") from None

    model = network.model.to(device)
    with torch.inference_mode(), ExitStack() as hooks:
        for name, layer in layers.items():
            handle = layer.register_forward_hook(lambda _, __, output, name=name: record(name, output))
            hooks.callback(handle.remove)
        for clips in _clips(network, inputs, views, failed):
            model(clips.to(device))
    order = list(layers)
    spectra = [
        Spectrum(layer, group, 2 if group == "low" else 1, energy)
        for (layer, group), energy in sorted(found.items(), key=lambda item: order.index(item[0][0]))
    ]
    return spectra, failed


def _clips(network: Network, inputs: VideoIndex, views: int, failed: list[Failure]) -> Iterator[Tensor]:
    """Yield normalised clips ``(V, 3, T, H, W)`` of every readable file; add the others to ``failed``."""
    data, test = network.cfg.DATA, network.cfg.TEST
    dataset = TestDataset(
        inputs,
        num_frames=data.NUM_FRAMES,
        sampling_rate=data.SAMPLING_RATE,
        crop=data.TEST_CROP,
        short_side=data.TEST_SHORT_SIDE,
        num_clips=views,
        num_crops=1,
        sampling=data.SAMPLING,
        decoder=data.DECODER,
        retries=data.RETRIES,
        item_timeout=data.ITEM_TIMEOUT,
    )
    for number in tqdm(range(len(dataset)), unit="file", disable=not sys.stderr.isatty()):
        item = dataset[number]
        if item.failed is not None:
            failed.append(item.failed)
        if item.frames is not None:
            for part in item.frames.split(test.MAX_VIEWS):
                yield normalize_clips(part, data.MEAN, data.STD)

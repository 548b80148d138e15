"""Compare the precisions of a network on one's own videos: accuracy, and time of a clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from octvideo.backends.openvino_runner import OpenVinoRunner, has_bf16
from octvideo.backends.quantise import quantise
from octvideo.backends.runners import Runner, openvino_model
from octvideo.benchmarking.timing import hardware, interleaved, timed
from octvideo.config import with_keys
from octvideo.data import VideoIndex, VideoViews, build_test_loader, normalize_clips
from octvideo.engine.datasets import aligned_index
from octvideo.engine.metrics import top_k_accuracy
from octvideo.engine.networks import Network
from octvideo.engine.tester import score_videos
from octvideo.errors import UserError
from octvideo.inference.confidence import answers
from octvideo.progress import Progress

__all__ = ["MOST_LOST", "fastest", "in_precision"]

MOST_LOST = 0.5  # points of top-1 that "auto" may lose
_CALIBRATION = 200  # clips
_ROUNDS = 15


def in_precision(network: Network, precision: str, calibrate: str, test: str) -> tuple[Any, str, dict[str, Any]]:
    """Return a network as an ``openvino.Model``, its precision, and what was measured.

    Args:
        network: to convert.
        precision: ``"bf16"``, ``"int8"`` or ``"auto"``: the fastest on this CPU that loses at most ``MOST_LOST``.
        calibrate: a list or class folders, of which int8 takes its ranges.
        test: a list or class folders with labels, for the accuracy in float32 and in the other precisions.

    Raises:
        UserError: the CPU has no bfloat16, NNCF is not installed, or the videos do not fit.
    """
    index = _read(network, test)
    if (index.labels < 0).any():
        raise UserError(f"{test}: its videos need labels, for the accuracy before and after")
    models = {"f32": openvino_model(network.model, network.clip_shape)}
    if precision == "bf16" or (precision == "auto" and has_bf16()):
        models["bf16"] = models["f32"]
    if precision in ("int8", "auto"):
        models["int8"] = quantise(models["f32"], list(_calibration(network.cfg, _read(network, calibrate))))
    runners = {
        name: OpenVinoRunner(model.clone(), "bf16" if name == "bf16" else "f32") for name, model in models.items()
    }
    top1, failed = _accuracies(network, index, runners)
    clip = torch.randn(1, 3, *network.clip_shape)
    for run in runners.values():
        run(clip)
    seconds = interleaved({name: partial(timed, partial(run, clip)) for name, run in runners.items()}, _ROUNDS)
    chosen = fastest(top1, seconds) if precision == "auto" else precision
    measured = {
        "list": test,
        "num_videos": len(index),
        "num_failed": failed,
        "top1": top1,
        "clip_ms": {name: 1000 * value for name, value in seconds.items()},
        "hardware": hardware(),
    }
    return models[chosen], chosen, measured


def fastest(top1: Mapping[str, float], seconds: Mapping[str, float]) -> str:
    """Return the precision with the least seconds of those whose top-1 is at most ``MOST_LOST`` below that of f32."""
    good = [name for name in top1 if top1[name] >= top1["f32"] - MOST_LOST]
    return min(good, key=lambda name: seconds[name])


def _read(network: Network, source: str) -> VideoIndex:
    cfg = with_keys(network.cfg, {"DATA.TEST": source, "DATA.ROOT": "", "DATA.CLASSES": ""})
    return aligned_index(cfg, "test", network.classes, network.name)


def _calibration(cfg: CfgNode, index: VideoIndex) -> Iterator[Tensor]:
    """Yield the middle clip of videos that are spread over the list."""
    loader = build_test_loader(cfg, index=index, num_clips=1, num_crops=1, num_videos=_CALIBRATION)
    clips = (normalize_clips(video.frames, cfg.DATA.MEAN, cfg.DATA.STD) for video in loader if video.frames is not None)
    first = next(clips, None)
    if first is None:
        raise UserError(f"{index.path(0)} and all others cannot be read: int8 needs videos to calibrate")
    return chain([first], clips)


def _accuracies(network: Network, index: VideoIndex, runners: Mapping[str, Runner]) -> tuple[dict[str, float], int]:
    """Return the top-1 of each runner, in percent, and the number of videos that cannot be read.

    As in ``predict``, ``other`` is not an answer, unless it is a label of the list.
    """
    cfg = network.cfg
    scores: dict[str, list[Tensor]] = {name: [] for name in runners}
    labels = []
    video: VideoViews
    with Progress("accuracy", len(index), "videos") as progress:
        for video in build_test_loader(cfg, index=index):
            progress.update()
            if video.frames is None:
                continue
            labels.append(video.label)
            for name, run in runners.items():
                scores[name] += score_videos(
                    run,
                    [video.frames],
                    mean=cfg.DATA.MEAN,
                    std=cfg.DATA.STD,
                    device=torch.device("cpu"),
                    max_views=cfg.TEST.MAX_VIEWS,
                    average=cfg.TEST.AVERAGE,
                )
    if not labels:
        raise UserError(f"{index.path(0)} and all others cannot be read: there is no accuracy")
    known = torch.tensor(labels)
    never = sorted(set(range(len(network.classes))) - {*answers(network.classes), *labels})
    top1 = {}
    for name, rows in scores.items():
        stacked = torch.stack(rows)
        stacked[:, never] = -torch.inf
        top1[name] = top_k_accuracy(stacked, known, 1)
    return top1, len(index) - len(known)

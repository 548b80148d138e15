"""A forward pass of octave networks beside vanilla ones."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.benchmarking.timing import Report, interleaved, timed
from octvideo.device import resolve_device
from octvideo.errors import UserError
from octvideo.inference.backends import FORMATS, Runner, load_exported, save_exported
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.octave import fold_batch_norm
from octvideo.octave.complexity import count

__all__ = ["changed", "forward", "on_device", "twins"]


def forward(octaves: Mapping[str, CfgNode], rounds: int, runtimes: Sequence[str] = ()) -> Report:
    """One clip through octave networks and their vanilla twin: 3D convolutions, run as 2D, and batch norms folded.

    Args:
        octaves: configurations that differ in octave keys alone, by the name that their results have.
        runtimes: what else runs the networks: inductor (3D convolutions as 2D), onnx or openvino.

    Raises:
        UserError: there is no octave network to compare, or a runtime does not fit or is not installed.
    """
    first = next(iter(octaves.values()))
    device = resolve_device(first.DEVICE)
    if device.type == "cuda" and {*runtimes} - {"inductor"}:
        raise UserError("--runtime onnx and openvino run on the CPU; set DEVICE cpu")
    frames, size = first.DATA.NUM_FRAMES, first.DATA.TRAIN_CROP
    # As the loader gives it: channels last.
    clip = torch.randn(1, frames, size, size, 3, device=device).permute(0, 4, 1, 2, 3)
    variants, facts = {}, {}
    kinds = {name: twins(cfg)["octave"] for name, cfg in octaves.items()} | {"vanilla": twins(first)["vanilla"]}
    for kind, settings in kinds.items():
        for conv, as_2d in (("conv3d", False), ("as 2D", True)):
            chosen = changed(settings, "MODEL.CONV_AS_2D", as_2d)
            cost = count(build_model(chosen), clip.shape).as_dict()
            model = on_device(chosen, device).eval()
            for name, network in ((f"{kind} {conv}", model), (f"{kind} {conv} folded", fold_batch_norm(model))):
                variants[name] = _Pass(network, clip)
                facts[name] = {"gflops": cost["gflops"], "params_m": cost["params_m"], **_warm_up(network, clip)}
        for runtime in runtimes:
            chosen = changed(settings, "MODEL.CONV_AS_2D", runtime == "inductor")
            runner = _on_runtime(runtime, on_device(chosen, device).eval(), (frames, size, size))
            variants[f"{kind} {runtime}"] = _Pass(runner, clip)
            facts[f"{kind} {runtime}"] = facts[f"{kind} conv3d"] | _warm_up(runner, clip)
    report = Report()
    for name, seconds in interleaved(variants, rounds).items():
        processor = median(variants[name].processor)
        report.results.append(
            {
                "name": name,
                "seconds": seconds,
                "processor_seconds": processor,
                "clips_per_s": 1 / seconds,
                **facts[name],
            }
        )
    pairs = [
        (f"vanilla {way}", f"{octave} {way}")
        for octave in octaves
        for way in ("conv3d", "as 2D", "conv3d folded", "as 2D folded", *runtimes)
    ]
    for kind in kinds:
        pairs += [(f"{kind} conv3d", f"{kind} as 2D"), (f"{kind} as 2D", f"{kind} as 2D folded")]
        pairs += [(f"{kind} as 2D folded", f"{kind} {runtime}") for runtime in runtimes]
    for pair in pairs:
        report.compare(*pair)
        report.compare(*pair, by="processor_seconds")
    return report


class _Pass:
    """Seconds of a forward pass each time that it is called; keeps the processor time too."""

    def __init__(self, model: Runner, clip: torch.Tensor) -> None:
        self.model, self.clip = model, clip
        self.processor: list[float] = []

    def __call__(self) -> float:
        start = time.process_time()
        seconds = timed(partial(_infer, self.model, self.clip))
        self.processor.append(time.process_time() - start)
        return seconds


def twins(cfg: CfgNode) -> dict[str, CfgNode]:
    """The configuration, and the same without octave convolution.

    Raises:
        UserError: they are the same.
    """
    if not cfg.OCTAVE.ALPHA:
        raise UserError("OCTAVE.ALPHA is 0: there is no octave network to compare; set it, or give an oct_ --cfg")
    return {"octave": cfg, "vanilla": changed(changed(cfg, "OCTAVE.ALPHA", 0.0), "OCTAVE.FAST_ALPHA", 0.0)}


def changed(cfg: CfgNode, key: str, value: Any) -> CfgNode:
    """A copy with another value of one key."""
    other = cfg.clone()
    other.defrost()
    other.merge_from_list([key, value])
    other.freeze()
    return other


def on_device(cfg: CfgNode, device: torch.device) -> nn.Module:
    """The network of a configuration, in the memory format of a run."""
    model = build_model(cfg).to(device)
    return channels_last(model) if cfg.MODEL.CONV_AS_2D else model


def _on_runtime(name: str, model: nn.Module, clip_shape: Sequence[int]) -> Runner:
    """The network, batch norms folded, compiled by inductor, or exported to a file and loaded from there."""
    if name == "inductor":
        return torch.compile(fold_batch_norm(model), dynamic=False, options={"freezing": True})
    with tempfile.TemporaryDirectory(prefix="octvideo-") as folder:
        path = Path(folder) / f"network{FORMATS[name]}"
        save_exported(model, clip_shape, name, path)
        return load_exported(name, path)


@torch.no_grad()
def _infer(model: Runner, clip: torch.Tensor) -> None:
    model(clip)


def _warm_up(model: Runner, clip: torch.Tensor) -> dict[str, float]:
    """Two passes; on CUDA the memory that one takes beside the weights."""
    _infer(model, clip)
    if clip.device.type != "cuda":
        _infer(model, clip)
        return {}
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _infer(model, clip)
    return {"peak_memory_mb": (torch.cuda.max_memory_allocated() - before) / 1e6}

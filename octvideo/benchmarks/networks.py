"""A forward pass of octave networks beside vanilla ones."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.benchmarks.timing import Report, interleaved, timed
from octvideo.errors import UserError
from octvideo.inference.backends import FORMATS, Runner, load_exported, save_exported
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.octave import fold_batch_norm
from octvideo.octave.complexity import count

__all__ = ["changed", "device_of", "forward", "on_device", "twins"]


def forward(cfg: CfgNode, rounds: int, runtimes: Sequence[str] = ()) -> Report:
    """One clip through the octave network and its vanilla twin: 3D convolutions, run as 2D, and batch norms folded.

    Args:
        runtimes: what else runs both networks: inductor (3D convolutions as 2D), onnx or openvino (as they are).

    Raises:
        UserError: there is no octave network to compare, or a runtime does not fit or is not installed.
    """
    device = device_of(cfg)
    if device.type == "cuda" and {*runtimes} - {"inductor"}:
        raise UserError("--runtime onnx and openvino run on the CPU; set DEVICE cpu")
    frames, size = cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP
    # As the loader gives it: channels last.
    clip = torch.randn(1, frames, size, size, 3, device=device).permute(0, 4, 1, 2, 3)
    variants, facts = {}, {}
    for kind, settings in twins(cfg).items():
        for conv, as_2d in (("conv3d", False), ("as 2D", True)):
            chosen = changed(settings, "MODEL.CONV_AS_2D", as_2d)
            cost = count(build_model(chosen), clip.shape).as_dict()
            model = on_device(chosen, device).eval()
            for name, network in ((f"{kind} {conv}", model), (f"{kind} {conv} folded", fold_batch_norm(model))):
                variants[name] = partial(timed, partial(_infer, network, clip))
                facts[name] = {"gflops": cost["gflops"], "params_m": cost["params_m"], **_warm_up(network, clip)}
        for runtime in runtimes:
            chosen = changed(settings, "MODEL.CONV_AS_2D", runtime == "inductor")
            runner = _on_runtime(runtime, on_device(chosen, device).eval(), (frames, size, size))
            variants[f"{kind} {runtime}"] = partial(timed, partial(_infer, runner, clip))
            facts[f"{kind} {runtime}"] = facts[f"{kind} conv3d"] | _warm_up(runner, clip)
    seconds = interleaved(variants, rounds)
    report = Report(
        [{"name": name, "seconds": time, "clips_per_s": 1 / time, **facts[name]} for name, time in seconds.items()]
    )
    for conv in ("conv3d", "as 2D", "conv3d folded", "as 2D folded"):
        report.compare(f"vanilla {conv}", f"octave {conv}")
    for kind in ("vanilla", "octave"):
        report.compare(f"{kind} conv3d", f"{kind} as 2D")
        report.compare(f"{kind} as 2D", f"{kind} as 2D folded")
    for runtime in runtimes:
        report.compare(f"vanilla {runtime}", f"octave {runtime}")
        for kind in ("vanilla", "octave"):
            report.compare(f"{kind} as 2D folded", f"{kind} {runtime}")
    return report


def device_of(cfg: CfgNode) -> torch.device:
    """The device that DEVICE asks for.

    Raises:
        UserError: it is cuda, and there is none.
    """
    if cfg.DEVICE == "cuda" and not torch.cuda.is_available():
        raise UserError("DEVICE is cuda, but there is no CUDA device; set DEVICE cpu")
    return torch.device("cuda" if cfg.DEVICE != "cpu" and torch.cuda.is_available() else "cpu")


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

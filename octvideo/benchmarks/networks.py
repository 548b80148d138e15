"""A forward pass of octave networks beside vanilla ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.benchmarks.timing import Report, interleaved, timed
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.octave import fold_batch_norm
from octvideo.octave.complexity import count

__all__ = ["changed", "device_of", "forward", "on_device", "twins"]


def forward(cfg: CfgNode, rounds: int) -> Report:
    """One clip through the octave network and its vanilla twin: 3D convolutions, run as 2D, and batch norms folded."""
    device = device_of(cfg)
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
    seconds = interleaved(variants, rounds)
    report = Report(
        [{"name": name, "seconds": time, "clips_per_s": 1 / time, **facts[name]} for name, time in seconds.items()]
    )
    for conv in ("conv3d", "as 2D", "conv3d folded", "as 2D folded"):
        report.compare(f"vanilla {conv}", f"octave {conv}")
    for kind in ("vanilla", "octave"):
        report.compare(f"{kind} conv3d", f"{kind} as 2D")
        report.compare(f"{kind} as 2D", f"{kind} as 2D folded")
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


@torch.inference_mode()
def _infer(model: nn.Module, clip: torch.Tensor) -> None:
    model(clip)


def _warm_up(model: nn.Module, clip: torch.Tensor) -> dict[str, float]:
    """Two passes; on CUDA the memory that one takes beside the weights."""
    _infer(model, clip)
    if clip.device.type != "cuda":
        _infer(model, clip)
        return {}
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _infer(model, clip)
    return {"peak_memory_mb": (torch.cuda.max_memory_allocated() - before) / 1e6}

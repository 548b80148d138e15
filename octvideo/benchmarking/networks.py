"""Time a forward pass of octave networks, compared with vanilla ones."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.backends.runners import FORMATS, Runner, load_exported, save_exported
from octvideo.benchmarking.timing import Report, interleaved, timed
from octvideo.config import with_keys
from octvideo.device import resolve_device
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.octave import fold_batch_norm
from octvideo.octave.complexity import count

__all__ = ["forward", "on_device", "twins"]


def forward(octaves: Mapping[str, CfgNode], rounds: int, runtimes: Sequence[str] = ()) -> Report:
    """Time one clip through octave networks and their vanilla twin: in 3D, as 2D, and with folded batch norms.

    Args:
        rounds: see ``interleaved``.
        octaves: configurations that differ in octave keys only, by the name for their results.
        runtimes: other runtimes: inductor (3D convolutions as 2D), onnx or openvino.

    Raises:
        UserError: there is no octave network to compare, or a runtime does not fit or is not installed.
    """
    first = next(iter(octaves.values()))
    device = resolve_device(first.DEVICE)
    if device.type == "cuda" and {*runtimes} - {"inductor"}:
        raise UserError("--runtime onnx and openvino run on the CPU; set DEVICE cpu")
    frames, size = first.DATA.NUM_FRAMES, first.DATA.TRAIN_CROP
    # Channels last, as from the loader.
    clip = torch.randn(1, frames, size, size, 3, device=device).permute(0, 4, 1, 2, 3)
    variants, facts = {}, {}
    kinds = {name: twins(cfg)["octave"] for name, cfg in octaves.items()} | {"vanilla": twins(first)["vanilla"]}
    for kind, settings in kinds.items():
        for conv, as_2d in (("conv3d", False), ("as 2D", True)):
            chosen = with_keys(settings, {"MODEL.CONV_AS_2D": as_2d})
            cost = count(build_model(chosen), clip.shape).as_dict()
            model = on_device(chosen, device).eval()
            for name, network in ((f"{kind} {conv}", model), (f"{kind} {conv} folded", fold_batch_norm(model))):
                variants[name] = _Pass(network, clip)
                facts[name] = {"gflops": cost["gflops"], "params_m": cost["params_m"], **_warm_up(network, clip)}
        for runtime in runtimes:
            chosen = with_keys(settings, {"MODEL.CONV_AS_2D": runtime == "inductor"})
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
    """A forward pass: returns its seconds, and keeps its processor time."""

    def __init__(self, model: Runner, clip: torch.Tensor) -> None:
        self.model, self.clip = model, clip
        self.processor: list[float] = []

    def __call__(self) -> float:
        start = time.process_time()
        seconds = timed(partial(_infer, self.model, self.clip))
        self.processor.append(time.process_time() - start)
        return seconds


def twins(cfg: CfgNode) -> dict[str, CfgNode]:
    """Return the configuration, and the same without octave convolution.

    Raises:
        UserError: they are the same.
    """
    if not cfg.OCTAVE.ALPHA:
        raise UserError("OCTAVE.ALPHA is 0: set it, or give an oct_ --cfg")
    return {"octave": cfg, "vanilla": with_keys(cfg, {"OCTAVE.ALPHA": 0.0, "OCTAVE.FAST_ALPHA": 0.0})}


def on_device(cfg: CfgNode, device: torch.device) -> nn.Module:
    """Return the network of a configuration, in the memory format of a run."""
    model = build_model(cfg).to(device)
    return channels_last(model) if cfg.MODEL.CONV_AS_2D else model


def _on_runtime(name: str, model: nn.Module, clip_shape: Sequence[int]) -> Runner:
    """Return the network with folded batch norms, compiled by inductor or exported and loaded."""
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
    """Run two passes; on CUDA one, and return its memory without the weights."""
    _infer(model, clip)
    if clip.device.type != "cuda":
        _infer(model, clip)
        return {}
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _infer(model, clip)
    return {"peak_memory_mb": (torch.cuda.max_memory_allocated() - before) / 1e6}

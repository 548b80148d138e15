"""Octave networks beside vanilla ones: a forward pass, and a step of training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from octvideo.benchmarks.timing import Report, interleaved, timed
from octvideo.data import Batch, normalize_clips
from octvideo.engine.distributed import World
from octvideo.engine.optim import build_optimizer
from octvideo.engine.trainer import Trainer, autocast
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.octave import fold_batch_norm
from octvideo.octave.complexity import count

__all__ = ["forward", "train"]

_LR = 1e-6  # the frames are noise: nothing is to be learned, and the loss must stay finite


def forward(cfg: CfgNode, rounds: int) -> Report:
    """One clip through the octave network and its vanilla twin: 3D convolutions, run as 2D, and batch norms folded."""
    device = _device(cfg)
    frames, size = cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP
    # As the loader gives it: channels last.
    clip = torch.randn(1, frames, size, size, 3, device=device).permute(0, 4, 1, 2, 3)
    variants, facts = {}, {}
    for kind, settings in _twins(cfg).items():
        for conv, as_2d in (("conv3d", False), ("as 2D", True)):
            chosen = _changed(settings, "MODEL.CONV_AS_2D", as_2d)
            cost = count(build_model(chosen), clip.shape).as_dict()
            model = _on_device(chosen, device).eval()
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


def train(cfg: CfgNode, rounds: int) -> Report:
    """An optimiser step on a batch in memory: the Trainer beside a bare loop, the octave network beside the vanilla."""
    device = _device(cfg)
    frames, size, clips = cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.TRAIN.BATCH_SIZE
    batch = Batch(
        torch.randint(0, 256, (clips, frames, size, size, 3), dtype=torch.uint8),
        torch.randint(0, cfg.MODEL.NUM_CLASSES, (clips,)),
        torch.arange(clips),
        [],
        torch.arange(clips),
    )
    twins = _twins(cfg)
    steps: dict[str, Callable[[], None]] = {
        "octave": _engine(twins["octave"], batch, device),
        "octave bare loop": _bare(twins["octave"], batch, device),
        "vanilla": _engine(twins["vanilla"], batch, device),
    }
    for step in steps.values():
        step()  # warms up
    seconds = interleaved({name: partial(timed, step) for name, step in steps.items()}, rounds)
    report = Report([{"name": name, "seconds": time, "clips_per_s": clips / time} for name, time in seconds.items()])
    report.compare("octave", "octave bare loop")
    report.compare("octave", "vanilla")
    return report


def _device(cfg: CfgNode) -> torch.device:
    if cfg.DEVICE == "cuda" and not torch.cuda.is_available():
        raise UserError("DEVICE is cuda, but there is no CUDA device; set DEVICE cpu")
    return torch.device("cuda" if cfg.DEVICE != "cpu" and torch.cuda.is_available() else "cpu")


def _twins(cfg: CfgNode) -> dict[str, CfgNode]:
    if not cfg.OCTAVE.ALPHA:
        raise UserError("OCTAVE.ALPHA is 0: there is no octave network to compare; set it, or give an oct_ --cfg")
    return {"octave": cfg, "vanilla": _changed(_changed(cfg, "OCTAVE.ALPHA", 0.0), "OCTAVE.FAST_ALPHA", 0.0)}


def _changed(cfg: CfgNode, key: str, value: Any) -> CfgNode:
    changed = cfg.clone()
    changed.defrost()
    changed.merge_from_list([key, value])
    changed.freeze()
    return changed


def _on_device(cfg: CfgNode, device: torch.device) -> nn.Module:
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


def _engine(cfg: CfgNode, batch: Batch, device: torch.device) -> Callable[[], None]:
    def stop(trainer: Trainer) -> None:
        trainer.stop = True

    model = _on_device(cfg, device)
    trainer = Trainer(
        model,
        build_optimizer(cfg, model),
        ConstantParamScheduler(_LR),
        steps=10**9,
        world=World(0, 1, device),
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
        precision=cfg.TRAIN.PRECISION,
        accumulate=cfg.TRAIN.ACCUMULATE,
        clip_grad_norm=cfg.TRAIN.CLIP_GRAD_NORM,
        label_smoothing=cfg.TRAIN.LABEL_SMOOTHING,
        hooks=[stop],
    )

    def step() -> None:
        trainer.stop = False
        trainer.train(iter([batch]))

    return step


def _bare(cfg: CfgNode, batch: Batch, device: torch.device) -> Callable[[], None]:
    """What anyone would write: no accumulation, no norm of the gradient, no figures."""
    model = _on_device(cfg, device).train()
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = _LR
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.TRAIN.PRECISION == "fp16")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        clips = normalize_clips(batch.frames.to(device), cfg.DATA.MEAN, cfg.DATA.STD)
        with autocast(device, cfg.TRAIN.PRECISION):
            logits = model(clips)
        loss = F.cross_entropy(logits.float(), batch.labels.to(device), label_smoothing=cfg.TRAIN.LABEL_SMOOTHING)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step

"""A training step: the engine compared with a bare loop, the octave network with the vanilla one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice, repeat
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from octvideo.benchmarking.memory import peak_growth_mb
from octvideo.benchmarking.networks import on_device, twins
from octvideo.benchmarking.timing import Report, interleaved, timed
from octvideo.data import Batch, build_index, build_train_loader, normalize_clips
from octvideo.device import resolve_device
from octvideo.engine.distributed import World
from octvideo.engine.optim import build_optimizer
from octvideo.engine.precision import autocast
from octvideo.engine.preparation import ClipPreparation
from octvideo.engine.trainer import StepStats, Trainer, TrainSettings
from octvideo.models.build import num_classes

__all__ = ["engine_steps", "train"]

_LR = 1e-6  # the frames are noise, and the loss must stay finite
_STEPS = 4  # in a round
_PREFETCHED = 2  # batches that a worker has ready, by default

# Takes N steps on batches, and returns the seconds that it waited for them.
Steps = Callable[[Iterator[Batch], int], float]


def train(cfg: CfgNode, rounds: int, *, from_videos: bool = False) -> Report:
    """Time optimiser steps on a batch in memory and, with ``from_videos``, on clips of DATA.TRAIN.

    The bare loop is timed twice: its ratio to itself shows the smallest difference that this run can measure.

    A result has, per step: seconds, processor time of this process, and memory in addition to what is held between
    steps (where the system reports it); and the share of the time that was spent waiting for a batch.

    Raises:
        UserError: there is no octave network to compare, or DATA.TRAIN does not fit.
    """
    device, batch = resolve_device(cfg.DEVICE), _noise(cfg)
    variants: dict[str, _Variant] = {}
    engines: dict[str, Steps] = {}
    for kind, settings in twins(cfg).items():
        # One network for both: two of the same kind differ by a few percent, by where their weights are in memory.
        model = on_device(settings, device)
        optimizer = build_optimizer(settings, model)
        engines[kind] = _engine(settings, device, model, optimizer)
        variants[kind] = _Variant(engines[kind], lambda: repeat(batch))
        bare = _bare(settings, device, model, optimizer)
        variants[f"{kind} bare loop"] = _Variant(bare, lambda: repeat(batch))
        variants[f"{kind} bare loop again"] = _Variant(bare, lambda: repeat(batch))
    if from_videos:
        for kind, steps in engines.items():
            variants[f"{kind} from videos"] = _Variant(steps, partial(_clips, cfg, steps))
    for variant in variants.values():
        variant.steps(repeat(batch), 1)  # warms up
    report = Report(_results(variants, rounds, cfg.TRAIN.BATCH_SIZE))
    pairs = [("octave", "vanilla")]
    for kind in engines:
        pairs += [(kind, f"{kind} bare loop"), (f"{kind} bare loop again", f"{kind} bare loop")]
    for pair in pairs:
        report.compare(*pair)
        report.compare(*pair, by="processor_seconds")
    return report


def engine_steps(cfgs: Mapping[str, CfgNode], rounds: int) -> list[dict[str, Any]]:
    """Time optimiser steps of several networks on a batch in memory, in turn; the results are like those of ``train``.

    Args:
        cfgs: configurations by the name for their results.
        rounds: see ``interleaved``.
    """
    variants = {}
    for name, cfg in cfgs.items():
        device, batch = resolve_device(cfg.DEVICE), _noise(cfg)
        model = on_device(cfg, device)
        steps = _engine(cfg, device, model, build_optimizer(cfg, model))
        steps(repeat(batch), 1)  # warms up
        variants[name] = _Variant(steps, partial(repeat, batch))
    return _results(variants, rounds, next(iter(cfgs.values())).TRAIN.BATCH_SIZE)


def _results(variants: Mapping[str, _Variant], rounds: int, clips: int) -> list[dict[str, Any]]:
    """Time the variants in turn; ``clips`` are those of a step."""
    seconds = interleaved(variants, rounds)
    return [
        {"name": name, "seconds": value, "clips_per_s": clips / value, **variants[name].figures()}
        for name, value in seconds.items()
    ]


class _Variant:
    """Returns the seconds per step of each call; keeps the other measurements.

    Args:
        steps: takes the steps that are timed.
        batches: returns the batches of one call.
    """

    def __init__(self, steps: Steps, batches: Callable[[], Iterator[Batch]]) -> None:
        self.steps, self.batches = steps, batches
        self._processor: list[float] = []
        self._waits: list[float] = []

    def __call__(self) -> float:
        batches, waited = self.batches(), 0.0

        def work() -> None:
            nonlocal waited
            waited = self.steps(batches, _STEPS)

        start = time.process_time()
        seconds = timed(work)
        self._processor.append((time.process_time() - start) / _STEPS)
        self._waits.append(waited / seconds)
        return seconds / _STEPS

    def figures(self) -> dict[str, float]:
        """Return medians. Memory is measured last: that returns the heap to the system and slows the next step."""
        found = {"processor_seconds": median(self._processor), "data_wait": median(self._waits)}
        batches = self.batches()
        growth = [peak_growth_mb(partial(self.steps, batches, 1))[0] for _ in range(3)]
        memory = [value for value in growth if value is not None]
        return {**found, "peak_memory_mb": median(memory)} if memory else found


def _noise(cfg: CfgNode) -> Batch:
    frames, size, clips = cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.TRAIN.BATCH_SIZE
    return Batch(
        torch.randint(0, 256, (clips, frames, size, size, 3), dtype=torch.uint8),
        torch.randint(0, num_classes(cfg), (clips,)),
        torch.arange(clips),
        [],
        torch.arange(clips),
    )


def _clips(cfg: CfgNode, steps: Steps) -> Iterator[Batch]:
    """Return the batches of a new loader whose queue has emptied: that of an older one fills while others are timed."""
    batches = iter(build_train_loader(cfg, index=build_index(cfg, "train")))
    steps(batches, 1 + _PREFETCHED * cfg.NUM_WORKERS)
    return batches


def _engine(cfg: CfgNode, device: torch.device, model: nn.Module, optimizer: torch.optim.Optimizer) -> Steps:
    remaining, waited = 0, 0.0

    def count(trainer: Trainer, stats: StepStats) -> None:
        nonlocal remaining, waited
        remaining, waited = remaining - 1, waited + stats.data_time
        trainer.stop = not remaining

    trainer = Trainer(
        model,
        optimizer,
        ConstantParamScheduler(_LR),
        ClipPreparation(cfg.DATA.MEAN, cfg.DATA.STD),
        TrainSettings(
            steps=10**9,
            precision=cfg.TRAIN.PRECISION,
            accumulate=cfg.TRAIN.ACCUMULATE,
            clip_grad_norm=cfg.TRAIN.CLIP_GRAD_NORM,
            label_smoothing=cfg.TRAIN.LABEL_SMOOTHING,
        ),
        world=World(0, 1, device),
        hooks=[count],
    )

    def steps(batches: Iterator[Batch], number: int) -> float:
        nonlocal remaining, waited
        remaining, waited, trainer.stop = number, 0.0, False
        trainer.train(batches)
        return waited

    return steps


def _bare(cfg: CfgNode, device: torch.device, model: nn.Module, optimizer: torch.optim.Optimizer) -> Steps:
    """Return the loop that anyone would write: no accumulation, no gradient norm, no figures."""
    for group in optimizer.param_groups:
        group["lr"] = _LR
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.TRAIN.PRECISION == "fp16")

    def steps(batches: Iterator[Batch], count: int) -> float:
        model.train()
        for batch in islice(batches, count):
            optimizer.zero_grad(set_to_none=True)
            clips = normalize_clips(batch.frames.to(device), cfg.DATA.MEAN, cfg.DATA.STD)
            with autocast(device, cfg.TRAIN.PRECISION):
                logits = model(clips)
            loss = F.cross_entropy(logits.float(), batch.labels.to(device), label_smoothing=cfg.TRAIN.LABEL_SMOOTHING)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return 0.0

    return steps

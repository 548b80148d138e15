"""One run: train, then test, as a configuration says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import save_cfg
from octvideo.data import VideoIndex, build_test_loader
from octvideo.engine.datasets import Weights, read_run_data
from octvideo.engine.distributed import World, distributed
from octvideo.engine.lock import RunLock
from octvideo.engine.logging import RunLog
from octvideo.engine.sync_bn import synchronise_batch_norm
from octvideo.engine.tester import accuracy, check_failures, summarize, write_details, write_metrics
from octvideo.engine.training import scores, stoppable, train
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.build import channels_last
from octvideo.models.checkpoints import fit, state_of
from octvideo.signals import StopOnSignal, Stopped

__all__ = ["run"]


def run(cfg: CfgNode) -> int:
    """Trains and tests; everything that a run leaves is in OUTPUT_DIR.

    Returns:
        The exit code: 0 when all is done, 128 + signal where a signal stopped it (a checkpoint is written then).

    Raises:
        UserError: what the user can fix.
    """
    if not (cfg.TRAIN.ENABLE or cfg.TEST.ENABLE):
        raise UserError("TRAIN.ENABLE and TEST.ENABLE are both False: there is nothing to do")
    folder = Path(cfg.OUTPUT_DIR)
    try:
        with StopOnSignal() as signals:
            try:
                return _run(cfg, folder, signals)
            except Stopped as stopped:
                print(f"{stopped}; run the same command again", file=sys.stderr)
                return signals.code
    except ConnectionError:  # between the ranks
        raise
    except OSError as error:  # a full disk, a folder where a file is to be
        raise UserError(
            f"OUTPUT_DIR {folder}: the run cannot go on ({error}); free some space or choose another one"
        ) from None


def _run(cfg: CfgNode, folder: Path, signals: StopOnSignal) -> int:
    with (
        distributed(cfg.DEVICE) as world,
        _locked(folder, world) as lock,
        RunLog(folder if world.is_main else None) as log,
    ):
        if world.device.type == "cpu" and cfg.TRAIN.ENABLE and cfg.TRAIN.PRECISION == "fp16":
            raise UserError("TRAIN.PRECISION is fp16, which the CPU does not train in: use bf16 or fp32")
        # What can be wrong is found before anything is written, and not after days of training.
        data = read_run_data(cfg, folder)
        cfg = data.cfg
        if cfg.NUM_THREADS:
            torch.set_num_threads(cfg.NUM_THREADS)
        if world.device.type == "cpu" and cfg.TRAIN.PRECISION == "bf16" and not _has_bf16_kernels():
            log.say("warning: this CPU has no bf16: it takes about ten times as long as with TRAIN.PRECISION fp32")
        torch.manual_seed(cfg.SEED)
        model = build_model(cfg).to(world.device)
        if cfg.TRAIN.ENABLE and cfg.TRAIN.SYNC_BN and world.size > 1:
            model = synchronise_batch_norm(model, world.device)
        if cfg.MODEL.CONV_AS_2D:
            model = channels_last(model)
        num_failed_train = 0
        if cfg.TRAIN.ENABLE:
            code, num_failed_train, cfg = train(cfg, model, data, folder, world, log, signals, lock)
            if code:
                return code
        if data.test is not None:
            try:
                _test(cfg, model, data.test, data.tested, folder, world, log, num_failed_train, signals, lock)
            except Stopped:
                log.end_progress()
                log.say("stopped in the test, which starts anew with the same command")
                return signals.code
    return 0


def _has_bf16_kernels() -> bool:
    """Whether this CPU convolves in bf16 by oneDNN; else PyTorch's fallback does, one image after the other."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def _locked(folder: Path, world: World) -> Iterator[RunLock]:
    """The lock of OUTPUT_DIR, which the first process takes for all; where it cannot, all end with its reason."""
    lock, problem = RunLock(folder), ""
    with ExitStack() as stack:
        try:
            if world.is_main:
                stack.enter_context(lock)
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = f"OUTPUT_DIR {folder}: cannot be written ({error.strerror}); choose another one"
        if problem := world.gather(problem)[0]:
            raise UserError(problem)
        yield lock


def _test(
    cfg: CfgNode,
    model: nn.Module,
    index: VideoIndex,
    weights: Weights | None,
    folder: Path,
    world: World,
    log: RunLog,
    num_failed_train: int,
    signals: StopOnSignal,
    lock: RunLock,
) -> None:
    if weights is not None:
        state = state_of(weights.content, weights.path)
        log.say(f"testing {weights.path}: {fit(model, state, weights.path, strict=True)}")
    loader = build_test_loader(cfg, split="test", index=index, rank=world.rank, world_size=world.size)
    log.start(cfg.TRAIN.WANDB, cfg)
    signals.hold()
    result = scores(cfg, model, _with_progress(loader, len(index), world, log, signals), world, signals)
    metrics: dict[str, Any] = {}
    if world.is_main:
        lock.check()
        metrics = summarize(result, index, index.classes, num_failed_train)
        try:  # said first, written in any case: neither is lost where the other fails
            log.say(
                f"{cfg.TEST.NUM_CLIPS} x {cfg.TEST.NUM_CROPS} views of {len(index)} videos, {len(result.failed)} "
                f"failed: top-1 {_percent(metrics['top1'])}, top-5 {_percent(metrics['top5'])}"
            )
        finally:
            write_metrics(metrics, folder)
            _record_test(cfg, folder)
            write_details(result, index, index.classes, folder, log.say)
        numbers = {key: metrics[key] for key in ("top1", "top5", "num_videos", "num_failed", "num_failed_train")}
        log.write("test", step=cfg.TRAIN.STEPS, views=cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS, **numbers)
        for failure in result.failed:
            log.say(f"{failure.path}: cannot be read ({failure.reason})")
        log.say(f"results in {folder}{os.sep}metrics.json and predictions.csv")
    check_failures(result, cfg.DATA.MAX_FAILED)  # on all ranks, so that none waits for another
    if cfg.TEST.SCALES:
        metrics["scales"] = _test_scales(cfg, model, index, world, log, signals)
        if world.is_main:
            lock.check()
            write_metrics(metrics, folder)


def _record_test(cfg: CfgNode, folder: Path) -> None:
    """The configuration that the results are of; config.yaml is that of the weights, where the folder has some."""
    save_cfg(cfg, folder / "test_config.yaml")
    if not any((folder / "checkpoints").glob("*.pt")):
        save_cfg(cfg, folder / "config.yaml")


def _test_scales(
    cfg: CfgNode, model: nn.Module, index: VideoIndex, world: World, log: RunLog, signals: StopOnSignal
) -> list[dict[str, Any]]:
    """The accuracy at each of TEST.SCALES, the short side and the crop alike (Table 7): a pass for each."""
    rows = []
    for size in cfg.TEST.SCALES:
        scaled = cfg.clone()
        scaled.defrost()
        scaled.DATA.TEST_SHORT_SIDE = scaled.DATA.TEST_CROP = size
        loader = build_test_loader(scaled, split="test", index=index, rank=world.rank, world_size=world.size)
        result = scores(scaled, model, _with_progress(loader, len(index), world, log, signals), world, signals)
        rows.append({"size": size, **accuracy(result, index)})
        log.write("scale", **rows[-1])
        log.say(f"size {size:4d}: top-1 {_percent(rows[-1]['top1'])}, top-5 {_percent(rows[-1]['top5'])}")
    return rows


def _percent(value: float | None) -> str:
    return "unknown (no labels)" if value is None else f"{value:.2f} %"


def _with_progress(loader: Any, total: int, world: World, log: RunLog, signals: StopOnSignal) -> Any:
    every = 1 if total < 50 else total // 50
    for done, item in enumerate(stoppable(loader, signals, world), 1):
        yield item
        if done % every == 0:
            log.progress("test", min(done * world.size, total), total, "videos")
    log.end_progress()

"""Test a network as configured, and write the results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import save_cfg, with_keys
from octvideo.data import VideoIndex, VideoViews, build_test_loader
from octvideo.engine.datasets import RunData
from octvideo.engine.results import accuracy, summarize, write_details, write_metrics
from octvideo.engine.session import Session
from octvideo.engine.tester import Tester, TestResult
from octvideo.models.checkpoints import fit, state_of
from octvideo.signals import Stopped

__all__ = ["build_tester", "evaluate_network"]


def build_tester(cfg: CfgNode, session: Session) -> Tester:
    """Return the tester of a configuration, which stops at a signal."""
    return Tester(
        session.world,
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
        max_views=cfg.TEST.MAX_VIEWS,
        average=cfg.TEST.AVERAGE,
        precision=cfg.TRAIN.PRECISION,
        max_failed=cfg.DATA.MAX_FAILED,
        asked_to_stop=session.signals.asked,
    )


def evaluate_network(cfg: CfgNode, session: Session, model: nn.Module, data: RunData, num_failed_train: int) -> bool:
    """Test a network, also at each of TEST.SCALES (Table 7), and write the results to the session's folder.

    The model gets the weights of ``data.tested``, if any. ``metrics.json`` records ``num_failed_train``, the number of
    videos that training could not read.

    Returns:
        Whether the test is done; False where a signal stopped it.

    Raises:
        UserError: too many videos cannot be read (the results are written), or the weights do not fit.
    """
    world, log, index = session.world, session.log, data.test
    assert index is not None
    if data.tested is not None:
        state = state_of(data.tested.content, data.tested.path)
        log.say(f"testing {data.tested.path}: {fit(model, state, data.tested.path, strict=True)}")
    tester = build_tester(cfg, session)

    def build_loader(cfg: CfgNode) -> Iterable[VideoViews]:
        return build_test_loader(cfg, split="test", index=index, rank=world.rank, world_size=world.size)

    def score(loader: Iterable[VideoViews]) -> TestResult:
        return tester.score(model, _with_progress(session.until_signal(loader), len(index), session))

    loader = build_loader(cfg)  # checks what is left to check, before anything is written
    log.start(cfg.TRAIN.WANDB, cfg)
    session.signals.hold()
    try:
        result = score(loader)
        metrics = _write_results(cfg, session, result, index, num_failed_train) if world.is_main else {}
        tester.check_failures(result)  # on all ranks, so that none waits for another
        if cfg.TEST.SCALES:
            scales = []
            for size in cfg.TEST.SCALES:
                scaled = score(build_loader(with_keys(cfg, {"DATA.TEST_SHORT_SIDE": size, "DATA.TEST_CROP": size})))
                scales.append({"size": size, **accuracy(scaled, index)})
                log.write("scale", **scales[-1])
                log.say(f"size {size:4d}: {_percentages(scales[-1])}")
            if world.is_main:
                session.check_lock()
                write_metrics({**metrics, "scales": scales}, session.folder)
    except Stopped:
        log.end_progress()
        log.say("stopped in the test; run the same command again to start it anew")
        return False
    return True


def _with_progress(videos: Iterable[VideoViews], total: int, session: Session) -> Iterator[VideoViews]:
    """Yield this rank's videos, and show how many of ``total`` all ranks have done."""
    for done, video in enumerate(videos, 1):
        yield video
        session.log.progress("test", min(done * session.world.size, total), total, "videos", every=0)
    session.log.end_progress()


def _write_results(
    cfg: CfgNode, session: Session, result: TestResult, index: VideoIndex, num_failed_train: int
) -> dict[str, Any]:
    """Log and write the results, and return the metrics."""
    folder, log = session.folder, session.log
    session.check_lock()
    metrics = summarize(result, index, index.classes, num_failed_train)
    try:  # log first and write in any case: neither is lost where the other fails
        log.say(
            f"{cfg.TEST.NUM_CLIPS} x {cfg.TEST.NUM_CROPS} views of {len(index)} videos, {len(result.failed)} failed: "
            f"{_percentages(metrics)}"
        )
    finally:
        write_metrics(metrics, folder)
        save_cfg(cfg, folder / "test_config.yaml")
        if not any(session.checkpoints.glob("*.pt")):  # else config.yaml is that of the weights
            save_cfg(cfg, folder / "config.yaml")
        write_details(result, index, index.classes, folder, log.say)
    numbers = {key: metrics[key] for key in ("top1", "top5", "num_videos", "num_failed", "num_failed_train")}
    log.write("test", step=cfg.TRAIN.STEPS, views=cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS, **numbers)
    for failure in result.failed:
        log.say(f"{failure.path}: cannot be read ({failure.reason})")
    log.say(f"results in {folder}{os.sep}metrics.json and predictions.csv")
    return metrics


def _percentages(metrics: dict[str, Any]) -> str:
    if metrics["top1"] is None:
        return "top-1 unknown (no labels), top-5 unknown (no labels)"
    return f"top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} %"

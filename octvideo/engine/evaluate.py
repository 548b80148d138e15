"""Test a network as configured, and write the results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor, nn

from octvideo.backends.auto import prepare
from octvideo.config import save_cfg, with_keys
from octvideo.data import VideoIndex, VideoViews, build_test_loader
from octvideo.engine.checkpoints import BEST
from octvideo.engine.datasets import RunData, Weights
from octvideo.engine.results import accuracy, summarize, write_details, write_metrics
from octvideo.engine.session import Session
from octvideo.engine.tester import Tester, TestResult
from octvideo.models.checkpoints import fit, read_checkpoint, state_of
from octvideo.signals import Stopped

__all__ = ["build_tester", "evaluate_network"]


def build_tester(
    cfg: CfgNode, session: Session, prepare: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda model: model
) -> Tester:
    """Return the tester of a configuration, which stops at a signal; ``prepare`` as of ``Tester``."""
    return Tester(
        session.world,
        mean=cfg.DATA.MEAN,
        std=cfg.DATA.STD,
        max_views=cfg.TEST.MAX_VIEWS,
        average=cfg.TEST.AVERAGE,
        precision=cfg.TRAIN.PRECISION,
        max_failed=cfg.DATA.MAX_FAILED,
        asked_to_stop=session.signals.asked,
        prepare=prepare,
    )


def evaluate_network(cfg: CfgNode, session: Session, model: nn.Module, data: RunData, num_failed_train: int) -> bool:
    """Test a network, also at each of TEST.SCALES (Table 7), and write the results to the session's folder.

    The model gets the weights of ``data.tested``, or those of TEST.WEIGHTS. ``metrics.json`` records
    ``num_failed_train``, the number of videos that training could not read.

    Returns:
        Whether the test is done; False where a signal stopped it.

    Raises:
        UserError: too many videos cannot be read (the results are written), or the weights do not fit.
    """
    world, log, index = session.world, session.log, data.test
    assert index is not None
    tested = data.tested
    if tested is not None and isinstance(tested.content, Mapping):
        data.warn_of_seen(tested.content.get("seen"), cfg, log.say)
    if tested is None and cfg.TEST.WEIGHTS == "best":
        path = session.checkpoints / BEST
        tested = Weights(path, read_checkpoint(path))
    if tested is not None:
        state = state_of(tested.content, tested.path)
        log.say(f"testing {tested.path}: {fit(model, state, tested.path, strict=True)}")

    def build_loader(cfg: CfgNode) -> Iterable[VideoViews]:
        return build_test_loader(cfg, split="test", index=index, rank=world.rank, world_size=world.size)

    def score(cfg: CfgNode, loader: Iterable[VideoViews]) -> TestResult:
        tester = build_tester(cfg, session, lambda model: _prepare(model, cfg, session, len(index)))
        return tester.score(model, _with_progress(session.until_signal(loader), len(index), session))

    loader = build_loader(cfg)  # checks what is left to check, before anything is written
    log.start(cfg.TRAIN.WANDB, cfg)
    session.signals.hold()
    try:
        result = score(cfg, loader)
        metrics = _write_results(cfg, session, result, index, num_failed_train) if world.is_main else {}
        build_tester(cfg, session).check_failures(result)  # on all ranks, so that none waits for another
        if cfg.TEST.SCALES:
            scales = []
            for size in cfg.TEST.SCALES:
                scaled_cfg = with_keys(cfg, {"DATA.TEST_SHORT_SIDE": size, "DATA.TEST_CROP": size})
                scaled = score(scaled_cfg, build_loader(scaled_cfg))
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


def _prepare(model: nn.Module, cfg: CfgNode, session: Session, num_videos: int) -> Callable[[Tensor], Tensor]:
    """Return what computes the logits of a test, as TEST.BACKEND says."""
    device = session.world.device
    if device.type != "cpu" or (cfg.TRAIN.PRECISION != "fp32" and cfg.TEST.BACKEND in ("auto", "torch")):
        return model
    # All videos, not those of this rank: all ranks choose alike.
    clips = num_videos * cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS
    shape = (cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP, cfg.DATA.TEST_CROP)
    run, backend = prepare(cfg.TEST.BACKEND, model, cfg, shape, device, clips)
    session.log.say(f"backend: {backend}")
    return run


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

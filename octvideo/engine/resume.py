"""Resume a run: find its checkpoint, and compare the configurations, videos and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from fvcore.common.config import CfgNode

from octvideo.config import KEYS as CONFIG_KEYS
from octvideo.config import flatten, with_keys
from octvideo.data import VideoIndex
from octvideo.engine.checkpoints import newest_checkpoint, read_best
from octvideo.engine.datasets import RunData
from octvideo.engine.session import Session
from octvideo.errors import UserError

__all__ = ["KEYS", "Resumption", "describe", "find_resumption"]

_FIX = "choose another OUTPUT_DIR, or set TRAIN.RESUME False"

# What a changed value of a key means for a run that resumes; a name stands for all keys below it.
KEYS = {
    # Another network, or other clips for it: refused.
    "network": """
        SEED OCTAVE SOLVER.OPTIMIZER TRAIN.BATCH_SIZE DATA.TRAIN_CROP
        MODEL.ARCH MODEL.NUM_CLASSES MODEL.BLOCKS MODEL.WIDTH MODEL.DROPOUT MODEL.STEM_KERNEL MODEL.STEM_TEMPORAL_STRIDE
        MODEL.STEM_POOL_PADDED MODEL.TEMPORAL_POOL MODEL.TEMPORAL_KERNELS MODEL.NONLOCAL MODEL.SLOWFAST
        DATA.NUM_FRAMES DATA.SAMPLING_RATE DATA.SAMPLING DATA.FPS DATA.MEAN DATA.STD
    """.split(),
    # Other batches: refused, and ignored where no step is left.
    "batches": """
        DATA.TRAIN_SHORT_SIDE DATA.RANDOM_RESIZED_CROP DATA.FLIP DATA.COLOR_JITTER DATA.RANDAUGMENT DATA.RANDOM_ERASING
        DATA.REPEATS TRAIN.MIXUP TRAIN.CUTMIX
    """.split(),
    # How the next steps are taken: reported, and ignored where no step is left.
    "training": """
        TRAIN.STEPS TRAIN.EPOCHS TRAIN.ACCUMULATE TRAIN.LABEL_SMOOTHING TRAIN.CLIP_GRAD_NORM TRAIN.EMA TRAIN.SYNC_BN
        TRAIN.PRECISE_BN TRAIN.RECOMPUTE TRAIN.COMPILE TRAIN.CHECKPOINT_EVERY TRAIN.KEEP_CHECKPOINTS TRAIN.EVAL_EVERY
        TRAIN.EVAL_VIDEOS TRAIN.EVAL_CLIPS TRAIN.EVAL_CROPS TRAIN.PATIENCE TRAIN.LOG_EVERY
        TRAIN.TEACHER_WEIGHT TRAIN.TEACHER_TEMPERATURE
        SOLVER.BASE_LR SOLVER.BASE_BATCH_SIZE SOLVER.MOMENTUM SOLVER.NESTEROV SOLVER.WEIGHT_DECAY SOLVER.DECAY_NORM
        SOLVER.SCHEDULE SOLVER.WARMUP_STEPS SOLVER.WARMUP_START SOLVER.END_LR SOLVER.MILESTONES SOLVER.GAMMA
    """.split(),
    # How the next steps or the test are run, whatever the weights: reported.
    "running": """
        NUM_WORKERS NUM_THREADS DEVICE MODEL.CONV_AS_2D TRAIN.PRECISION TRAIN.WANDB
        TEST.CHECKPOINT TEST.WEIGHTS TEST.NUM_CLIPS TEST.NUM_CROPS TEST.MAX_VIEWS TEST.SCALES TEST.AVERAGE TEST.BACKEND
        DATA.VAL DATA.TEST DATA.TEST_CROP DATA.TEST_SHORT_SIDE DATA.DECODER DATA.RETRIES DATA.ITEM_TIMEOUT
        DATA.MAX_FAILED
    """.split(),
    # Where the weights came from: the record keeps what it has.
    "origin": ["TRAIN.CHECKPOINT", "TRAIN.INFLATE"],
    # Compared by content: the videos by their fingerprint, the classes by their names, the teacher by its SHA-256.
    "content": ["DATA.TRAIN", "DATA.ROOT", "DATA.CLASSES", "TRAIN.TEACHER"],
    "silent": ["OUTPUT_DIR", "TRAIN.ENABLE", "TRAIN.RESUME", "TEST.ENABLE"],
}


class Change(NamedTuple):
    """A key whose value differs from the checkpoint's."""

    key: str
    kind: str  # of ``KEYS``
    before: Any
    now: Any


class Resumption(NamedTuple):
    """From where and how a run continues.

    Attributes:
        cfg: the configuration that makes the weights: what this run ignores has the recorded value.
        state: the checkpoint to resume from; None to start anew.
        done: whether no step is left.
    """

    cfg: CfgNode
    state: dict[str, Any] | None
    done: bool


def find_resumption(cfg: CfgNode, session: Session, data: RunData) -> Resumption:
    """Find the newest checkpoint in the session's folder, refuse what does not fit it, and log what changes.

    The labels in ``data`` get the order of the checkpoint's classes.

    Raises:
        UserError: another network, other videos or classes, or the ranks find different checkpoints.
    """
    index, folder, say = data.train, session.checkpoints, session.log.say
    assert index is not None
    state = newest_checkpoint(folder, say) if cfg.TRAIN.RESUME else None
    _check_same_step(session, 0 if state is None else state["step"])
    if state is None:
        return Resumption(cfg, None, False)
    patience = cfg.TRAIN.PATIENCE * cfg.TRAIN.EVAL_EVERY
    stopped_early = 0 < patience <= state["step"] - read_best(folder, say).step
    done = stopped_early or state["step"] >= cfg.TRAIN.STEPS
    changes = _changes(cfg, _recorded_values(state, folder))
    data.resume(state, folder, say)
    _check_same_network(changes, folder, done=done)
    _check_same_videos(state, index, cfg.DATA.TRAIN, folder)
    if state.get("teacher") != (data.teacher and data.teacher.sha256):
        raise UserError(
            f"{folder}: its checkpoints have another TRAIN.TEACHER than {cfg.TRAIN.TEACHER or 'none'}: {_FIX}"
        )
    if done:
        why = " (TRAIN.PATIENCE)" if stopped_early else ""
        say(f"{folder}: step {state['step']} of {cfg.TRAIN.STEPS} is done{why}, nothing is left to train")
    for line in _report(changes, state, done=done, will_test=cfg.TEST.ENABLE):
        say(line)
    if cfg.TRAIN.CHECKPOINT:
        reason = "nothing is left to train" if done else "the run resumes from its own checkpoint"
        say(f"TRAIN.CHECKPOINT is {cfg.TRAIN.CHECKPOINT}: ignored, {reason}")
    if not done and (before := state.get("ranks", session.world.size)) != session.world.size:
        say(f"{session.world.size} process(es) from here on, it was {before}")
    ignored = {
        change.key: change.before
        for change in changes
        if change.kind == "origin" or (done and change.kind in ("training", "batches"))
    }
    return Resumption(with_keys(cfg, ignored), state, done)


def _check_same_step(session: Session, step: int) -> None:
    """Ranks that resume from different steps would train different networks, or wait for each other forever."""
    steps = session.world.gather(step)
    other = next((rank for rank, found in enumerate(steps) if found != steps[0]), None)
    if other is not None:
        raise UserError(
            f"{session.checkpoints}: the first process finds a checkpoint of step {steps[0]}, process {other} one of "
            f"step {steps[other]} (0: none): choose an OUTPUT_DIR that all nodes share and can read"
        )


def _kind_of(key: str) -> str:
    """Return the entry of ``KEYS`` that a key belongs to."""
    return next(kind for kind, names in KEYS.items() for name in names if key == name or key.startswith(f"{name}."))


def _recorded_values(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the configuration in a checkpoint, ``{"MODEL.ARCH": "i3d", ...}``, without keys that no longer exist.

    Raises:
        UserError: it is no configuration.
    """
    try:
        return {key: value for key, value in flatten(yaml.safe_load(state["config"])) if key in CONFIG_KEYS}
    except (AttributeError, TypeError, ValueError, yaml.YAMLError):
        raise UserError(f"{folder}: the configuration in its checkpoints cannot be read: {_FIX}") from None


def _changes(cfg: CfgNode, recorded: Mapping[str, Any]) -> list[Change]:
    """Return the keys whose values differ, in the order of the configuration; new keys do not count."""
    return [
        Change(key, _kind_of(key), recorded[key], now)
        for key, now in flatten(cfg)
        if key in recorded and recorded[key] != now
    ]


def _check_same_network(changes: Sequence[Change], folder: Path, *, done: bool) -> None:
    """Refuse to resume with another network or, unless no step is left, with other batches.

    Raises:
        UserError: what differs, with both values and the fix.
    """
    kinds = ("network",) if done else ("network", "batches")
    refused = [change for change in changes if change.kind in kinds]
    if refused:
        found = "; ".join(f"{key} {_shown(before)}, this run {_shown(now)}" for key, _, before, now in refused)
        raise UserError(f"{folder}: its checkpoints have {found}: {_FIX}")


def _check_same_videos(state: Mapping[str, Any], index: VideoIndex, source: str, folder: Path) -> None:
    """Refuse to resume with other training videos; checkpoints of an older octvideo do not record theirs."""
    videos = state.get("videos")
    if isinstance(videos, Mapping) and dict(videos) != describe(index):
        count = videos.get("count")
        what = (
            f"the same number of videos ({count}) as its checkpoints, but other paths, labels or order"
            if count == len(index)
            else f"{len(index)} videos, its checkpoints have {count}"
        )
        raise UserError(f"{folder}: DATA.TRAIN ({source}) has {what}: {_FIX}")


def describe(index: VideoIndex) -> dict[str, Any]:
    """Return what a checkpoint keeps of the training videos."""
    return {"count": len(index), "sha256": index.fingerprint()}


def _report(changes: Sequence[Change], state: Mapping[str, Any], *, done: bool, will_test: bool) -> Iterator[str]:
    """Yield a line for each setting that may differ from the checkpoint's, and does."""
    for key, kind, before, now in changes:
        if kind in ("silent", "origin") or (kind == "content" and "videos" in state):
            continue
        if not done:
            unknown = "; the checkpoint does not say which videos it saw" if kind == "content" else ""
            yield f"{key} is {_shown(now)} from here on, it was {_shown(before)}{unknown}"
        elif kind == "running" and will_test:
            yield f"{key} is {_shown(now)}, the finished run had {_shown(before)}: used for the test"
        else:
            yield f"{key} is {_shown(now)}, the finished run had {_shown(before)}: ignored, nothing is left to train"


def _shown(value: Any) -> str:
    return str(value) if value != "" else "''"

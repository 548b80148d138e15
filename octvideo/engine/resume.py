"""What a run that resumes may change, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from fvcore.common.config import CfgNode

from octvideo.config import get_defaults
from octvideo.data import VideoIndex
from octvideo.errors import UserError

__all__ = ["KEYS", "as_recorded", "check_same_run", "describe", "recorded_cfg", "report"]

_FIX = "choose another OUTPUT_DIR, or set TRAIN.RESUME False"

# What another value of a key means for a run that resumes; a name stands for all keys below it.
KEYS = {
    # Another network, or other clips for it: refused.
    "network": """
        SEED OCTAVE SOLVER.OPTIMIZER TRAIN.BATCH_SIZE DATA.TRAIN_CROP
        MODEL.ARCH MODEL.NUM_CLASSES MODEL.BLOCKS MODEL.WIDTH MODEL.DROPOUT MODEL.STEM_KERNEL MODEL.STEM_TEMPORAL_STRIDE
        MODEL.STEM_POOL_PADDED MODEL.TEMPORAL_POOL MODEL.TEMPORAL_KERNELS MODEL.NONLOCAL MODEL.SLOWFAST
        DATA.NUM_FRAMES DATA.SAMPLING_RATE DATA.SAMPLING DATA.MEAN DATA.STD
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
        TRAIN.EVAL_VIDEOS TRAIN.EVAL_CLIPS TRAIN.EVAL_CROPS TRAIN.LOG_EVERY
        SOLVER.BASE_LR SOLVER.BASE_BATCH_SIZE SOLVER.MOMENTUM SOLVER.NESTEROV SOLVER.WEIGHT_DECAY SOLVER.DECAY_NORM
        SOLVER.SCHEDULE SOLVER.WARMUP_STEPS SOLVER.WARMUP_START SOLVER.END_LR SOLVER.MILESTONES SOLVER.GAMMA
    """.split(),
    # How the next steps or the test are run: reported.
    "running": """
        NUM_WORKERS NUM_THREADS DEVICE MODEL.CONV_AS_2D TRAIN.PRECISION TRAIN.WANDB
        TEST.CHECKPOINT TEST.NUM_CLIPS TEST.NUM_CROPS TEST.MAX_VIEWS TEST.SCALES TEST.AVERAGE
        DATA.VAL DATA.TEST DATA.TEST_CROP DATA.TEST_SHORT_SIDE DATA.DECODER DATA.RETRIES DATA.ITEM_TIMEOUT
        DATA.MAX_FAILED
    """.split(),
    # Where the weights came from: the record keeps what it has.
    "origin": ["TRAIN.CHECKPOINT", "TRAIN.INFLATE"],
    # Compared by what is found there: the videos by their fingerprint, the classes by their names.
    "content": ["DATA.TRAIN", "DATA.ROOT", "DATA.CLASSES"],
    "silent": ["OUTPUT_DIR", "TRAIN.ENABLE", "TRAIN.RESUME", "TEST.ENABLE"],
}


class Change(NamedTuple):
    """A key whose value is another one than in the checkpoint."""

    key: str
    kind: str  # of ``KEYS``
    before: Any
    now: Any


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def kind_of(key: str) -> str:
    """Which of ``KEYS`` a key belongs to."""
    return next(kind for kind, names in KEYS.items() for name in names if key == name or key.startswith(f"{name}."))


def recorded_cfg(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration in a checkpoint, ``{"MODEL.ARCH": "i3d", ...}``; keys of today that it lacks are not in it.

    Raises:
        UserError: it is no configuration.
    """
    known = dict(_leaves(get_defaults()))
    try:
        return {key: value for key, value in _leaves(yaml.safe_load(state["config"])) if key in known}
    except (AttributeError, TypeError, ValueError, yaml.YAMLError):
        raise UserError(f"{folder}: the configuration in its checkpoints cannot be read: {_FIX}") from None


def changes(cfg: CfgNode, recorded: Mapping[str, Any]) -> list[Change]:
    """What differs, in the order of the configuration."""
    return [
        Change(key, kind_of(key), recorded[key], now)
        for key, now in _leaves(cfg)
        if key in recorded and recorded[key] != now
    ]


def check_same_run(
    cfg: CfgNode,
    state: Mapping[str, Any],
    recorded: Mapping[str, Any],
    index: VideoIndex,
    folder: Path,
    *,
    done: bool,
) -> None:
    """Refuse to resume with another network, videos or batches.

    Args:
        cfg: of this run.
        state: of the checkpoint; one of an older octvideo does not have all that is compared.
        recorded: see ``recorded_cfg``.
        index: the training videos of this run.
        folder: of the checkpoints.
        done: no step is left to take.

    Raises:
        UserError: what differs, with both values and the fix.
    """
    kinds = ("network",) if done else ("network", "batches")
    refused = [change for change in changes(cfg, recorded) if change.kind in kinds]
    if refused:
        found = "; ".join(f"{key} {_shown(before)}, this run {_shown(now)}" for key, _, before, now in refused)
        raise UserError(f"{folder}: its checkpoints have {found}: {_FIX}")
    videos = state.get("videos")
    if isinstance(videos, Mapping) and dict(videos) != describe(index):
        count = videos.get("count")
        what = (
            f"the same number of videos ({count}) as its checkpoints, but other paths, labels or order"
            if count == len(index)
            else f"{len(index)} videos, its checkpoints {count}"
        )
        raise UserError(f"{folder}: DATA.TRAIN ({cfg.DATA.TRAIN}) has {what}: {_FIX}")


def describe(index: VideoIndex) -> dict[str, Any]:
    """What a checkpoint keeps of the training videos."""
    return {"count": len(index), "sha256": index.fingerprint()}


def report(
    cfg: CfgNode, state: Mapping[str, Any], recorded: Mapping[str, Any], ranks: int, *, done: bool
) -> Iterator[str]:
    """A line for each setting that is another one than in the checkpoint, and may be.

    Args:
        cfg, state, recorded: see ``check_same_run``.
        ranks: number of processes.
        done: no step is left to take.
    """
    for key, kind, before, now in changes(cfg, recorded):
        if kind in ("silent", "origin") or (kind == "content" and "videos" in state):
            continue
        if not done:
            unknown = "; the checkpoint does not say which videos it saw" if kind == "content" else ""
            yield f"{key} is {_shown(now)} from here on, it was {_shown(before)}{unknown}"
        elif kind == "running" and cfg.TEST.ENABLE:
            yield f"{key} is {_shown(now)}, the finished run had {_shown(before)}: used for the test"
        else:
            yield f"{key} is {_shown(now)}, the finished run had {_shown(before)}: ignored, nothing is left to train"
    if cfg.TRAIN.CHECKPOINT:
        why = "nothing is left to train" if done else "the run resumes from its own checkpoint"
        yield f"TRAIN.CHECKPOINT is {cfg.TRAIN.CHECKPOINT}: ignored, {why}"
    if not done and (before := state.get("ranks", ranks)) != ranks:
        yield f"{ranks} process(es) from here on, it was {before}"


def as_recorded(cfg: CfgNode, recorded: Mapping[str, Any], *, done: bool) -> CfgNode:
    """The configuration that says how the weights came about: what this run ignores has the recorded value."""
    cfg = cfg.clone()
    cfg.defrost()
    for key, kind, before, _ in changes(cfg, recorded):
        if kind == "origin" or (done and kind in ("training", "batches")):
            *path, leaf = key.split(".")
            node = cfg
            for name in path:
                node = node[name]
            node[leaf] = before
    cfg.freeze()
    return cfg


def _shown(value: Any) -> str:
    return str(value) if value != "" else "''"

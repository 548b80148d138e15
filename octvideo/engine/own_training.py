"""Plan a training on a user's own videos: choose weights and settings, and write them down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from octvideo.config import load_cfg, save_cfg, with_keys, with_overrides
from octvideo.data import VideoIndex, build_index
from octvideo.data.collection import check_classes, classes_in
from octvideo.data.seen import count_seen
from octvideo.engine.own_videos import Selection, say, select_videos, write_lists
from octvideo.engine.recipe import choose_settings, choose_steps, facts_of, seconds_per_step
from octvideo.engine.teacher import read_teacher
from octvideo.errors import UserError
from octvideo.files import write_text
from octvideo.models.checkpoints import is_url, local_file, read_checkpoint
from octvideo.models.zoo import list_models, model_cfg, published, weights_file

__all__ = ["Request", "plan_training"]

_SCRATCH = "scratch"
_OWN_KEYS = (
    *("OUTPUT_DIR", "DATA.TRAIN", "DATA.VAL", "DATA.TEST", "DATA.CLASSES", "MODEL.NUM_CLASSES"),
    *("TRAIN.ENABLE", "TRAIN.CHECKPOINT", "TRAIN.TEACHER", "TEST.ENABLE", "TEST.CHECKPOINT", "TEST.WEIGHTS"),
)
_TRAIN_SHARE = 0.75  # of the minutes; the rest is for evaluations, the test and the report


@dataclass(frozen=True)
class Request:
    """What the user asks for; see ``octvideo train --help``."""

    source: Path
    model: str
    alpha: float | None = None
    epochs: float | None = None
    minutes: float | None = None
    val: Path | None = None
    val_share: float = 0.2
    group_by: str = ""
    start: str | None = None
    teacher: str | None = None
    overrides: tuple[str, ...] = ()

    def as_record(self) -> dict[str, str]:
        """Return what was asked as text, to compare two requests."""
        return {name: "" if value is None else str(value) for name, value in asdict(self).items()}


def plan_training(request: Request, output: Path, begin: float) -> CfgNode:
    """Return the configuration of a training, with its lists in ``output``; the same again for the same request.

    Writes ``train.csv``, ``val.csv``, ``classes.txt``, ``videos.jsonl`` (the checks), ``data.json`` (what was found and
    decided) and, last, ``train.yaml``.

    Args:
        request: what is asked for.
        output: folder of the training.
        begin: ``time.monotonic`` at the start of the command, from which the minutes count.

    Raises:
        UserError: the videos do not suffice, or a training of another request is in ``output``.
    """
    if not (output / "train.yaml").is_file():
        return _new_plan(request, output, begin)
    before = json.loads((output / "data.json").read_text(encoding="utf-8"))["request"]
    now = request.as_record()
    if changed := [name for name in now if before.get(name) != now[name]]:
        was, given = before.get(changed[0]) or "unset", now[changed[0]] or "unset"
        raise UserError(
            f"{output}: its training has {_option(changed[0])} {was}, this command {given}: choose another --output, "
            "or repeat the first command to resume it"
        )
    say(f"{output}: resuming with the lists and settings there")
    return load_cfg(output / "train.yaml")


def _option(name: str) -> str:
    return {"source": "FOLDER", "start": "--from", "overrides": "KEY VALUE"}.get(name, f"--{name.replace('_', '-')}")


def _new_plan(request: Request, output: Path, begin: float) -> CfgNode:
    for key in request.overrides[::2]:
        if key in _OWN_KEYS:
            raise UserError(f"{key}: octvideo train sets this key itself; leave it out, or use octvideo run-net")
    network = with_overrides(model_cfg(request.model, request.alpha), request.overrides)
    selection = select_videos(
        request.source,
        output,
        root=network.DATA.ROOT,
        val=request.val,
        val_share=request.val_share,
        group_by=request.group_by,
        seed=network.SEED,
        labelled=request.teacher is None,
    )
    held = VideoIndex([clip.path for clip in selection.val], [0] * len(selection.val))
    start, why = _start(request, held)
    classes, teacher = selection.classes, ""
    if request.teacher is not None:
        path = _unbiased("--teacher", request.teacher, held)
        teacher = request.teacher if request.teacher in list_models() else path  # a name has a configuration
        if not all(clip.label for clip in selection.train):
            classes = _classes_of(with_keys(network, {"TRAIN.TEACHER": teacher}))
            check_classes(classes_in(selection.val), str(request.val), known=classes)
    for warning in selection.warnings:
        say(f"warning: {warning}")
    say(f"{len(selection.train)} videos to train on, {len(selection.val)} to validate on; {why}")
    lists = write_lists(selection, classes, output)
    cfg = _settings(
        request, network, selection, classes, {"TRAIN.CHECKPOINT": start, "TRAIN.TEACHER": teacher, **lists}
    )
    cfg = with_keys(cfg, {"OUTPUT_DIR": str(output)})
    steps = _steps(request, cfg, len(selection.train), begin)
    cfg = with_overrides(with_keys(cfg, steps), request.overrides)
    record = {
        "source": str(request.source),
        "videos": len(selection.intact) + len(selection.broken),
        "classes": classes_in([clip for clip in (*selection.train, *selection.val) if clip.label]),
        "train": len(selection.train),
        "val": len(selection.val),
        "groups": selection.groups(),
        "broken": [{"video": video.path, "reason": video.error} for video in selection.broken],
        "warnings": selection.warnings,
        "start": why,
        "request": request.as_record(),
    }
    write_text(output / "data.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    save_cfg(cfg, output / "train.yaml")
    return cfg


def _classes_of(cfg: CfgNode) -> list[str]:
    """Return the class names of TRAIN.TEACHER."""
    teacher = read_teacher(cfg)
    assert teacher is not None
    return list(teacher.network.classes)


def _settings(
    request: Request, network: CfgNode, selection: Selection, classes: Sequence[str], keys: Mapping[str, Any]
) -> CfgNode:
    chosen = choose_settings(
        network,
        facts_of(selection.intact),
        len(selection.train),
        classes,
        cores=os.cpu_count() or 1,
        pretrained=bool(keys["TRAIN.CHECKPOINT"]),
    )
    return with_overrides(with_keys(network, {**chosen, **keys}), request.overrides)


def _steps(request: Request, cfg: CfgNode, num_train: int, begin: float) -> dict[str, Any]:
    choose = partial(choose_steps, num_train, cfg.TRAIN.BATCH_SIZE, pretrained=bool(cfg.TRAIN.CHECKPOINT))
    if "TRAIN.STEPS" in request.overrides[::2]:
        return choose(steps=cfg.TRAIN.STEPS)
    if request.minutes is None:
        return choose(epochs=request.epochs or 0.0)
    pace = seconds_per_step(cfg, build_index(cfg, "train"))
    left = 60 * request.minutes - (time.monotonic() - begin)
    found = choose(seconds=_TRAIN_SHARE * max(left, 6 * request.minutes), pace=pace)
    say(f"{pace:.2f} s per step: {found['TRAIN.STEPS']} steps in about {found['TRAIN.STEPS'] * pace / 60:.0f} minutes")
    return found


def _start(request: Request, val: VideoIndex) -> tuple[str, str]:
    """Return the weights to start from, "" for none, and a clause that says why."""
    if request.start == _SCRATCH:
        return "", "training from scratch, as asked"
    if request.start is not None:
        return _unbiased("--from", request.start, val), f"starting from {request.start}"
    if any(key.startswith("MODEL.") for key in request.overrides[::2]):
        return "", "training from scratch: MODEL keys are changed, so no weights fit"
    tag = next(iter(published(request.model)))
    name = f"{request.model} ({tag})"
    try:
        path = weights_file(request.model, tag)
    except UserError as error:
        return "", f"training from scratch: the weights of {name} are not at hand: {error}"
    if count := _num_seen(path, val):
        return "", f"training from scratch: {name} was trained on {count} of the {len(val)} validation videos"
    return str(path), f"starting from {name}"


def _unbiased(option: str, source: str, val: VideoIndex) -> str:
    """Return the file of weights: a path, a URL, or the name of a network with published weights.

    Raises:
        UserError: they have seen a validation video, or there are none.
    """
    if is_url(source) or Path(source).is_file():
        path = local_file(source)
    else:
        path = weights_file(source)
    if count := _num_seen(path, val):
        raise UserError(
            f"{option} {source}: it was trained on {count} of the {len(val)} validation videos, so their accuracy "
            "would say nothing; choose other weights, or other validation videos (--val)"
        )
    return str(path)


def _num_seen(path: Path, val: VideoIndex) -> int:
    content: Any = read_checkpoint(path)
    return count_seen(content.get("seen") if isinstance(content, dict) else None, val)

"""The videos of a run, with labels in one order of class names: that of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from octvideo.data import VideoIndex, build_index
from octvideo.data.classes import (
    begin_at_one,
    classes_of,
    did_you_mean,
    extended,
    is_number,
    is_numbered,
    match,
    outputs_of,
)
from octvideo.data.seen import count_seen
from octvideo.engine.teacher import TeacherFile, read_teacher
from octvideo.errors import UserError
from octvideo.models.checkpoints import local_file, read_checkpoint

__all__ = ["RunData", "Weights", "aligned_index", "read_run_data"]


class Weights(NamedTuple):
    """A checkpoint and its content."""

    path: Path
    content: Any


@dataclass
class RunData:
    """What a run trains, evaluates and tests on; ``classes`` of each index are the names of the network's outputs.

    Attributes:
        num_classes: outputs of the network.
        train, val, test: None where the run does not need them.
        tested: the weights to test; None for those that the run trains.
        teacher: the network to learn from; None for none.
        source: of the training videos, for messages.
    """

    num_classes: int = 0
    source: str = ""
    train: VideoIndex | None = None
    val: VideoIndex | None = None
    test: VideoIndex | None = None
    tested: Weights | None = None
    teacher: TeacherFile | None = None

    def resume(self, state: Mapping[str, Any], folder: Path, say: Callable[[str], None]) -> None:
        """Put the labels in the order of the checkpoint that training resumes from.

        Raises:
            UserError: its classes are different ones.
        """
        assert self.train is not None
        known, names = classes_of(state, folder), self.train.classes
        if not known or known == names:
            return
        places = match(names, known)
        if (
            len(names) != len(known)
            or set(places) != set(range(len(known)))
            or all(map(is_number, names)) != all(map(is_number, known))
        ):
            raise UserError(
                f"{folder}: its checkpoints have other classes than {self.source}: "
                f"{_difference(names, known)}. Give the classes their names back, choose another OUTPUT_DIR, or set "
                "TRAIN.RESUME False"
            )
        if places != list(range(len(known))):
            say(f"labels are put in the order of the classes in {folder}, which differs from that of the data")
        for index in (self.train, self.val, self.test if self.tested is None else None):
            if index is not None:
                index.renumber(known)

    def warn_of_seen(self, seen: Any, cfg: CfgNode, say: Callable[[str], None]) -> None:
        """Warn where videos to validate or to test on have been trained on; ``seen`` is that entry of a checkpoint."""
        sources = {id(self.val): ("VAL", self.val), id(self.test): ("TEST" if cfg.DATA.TEST else "VAL", self.test)}
        for key, index in sources.values():
            if index is not None and (count := count_seen(seen, index)):
                videos = f"{count} of {len(index)} videos of DATA.{key}"
                say(f"warning: {videos} were trained on: their accuracy says little")

    def head_rows(self, weights: Weights) -> tuple[list[int] | None, str]:
        """Match the head of the weights to start from with the classes.

        Returns:
            The row of the head for each class, None to keep the head, [] for a new one; and a note for the log.
        """
        assert self.train is not None
        names, known = self.train.classes, classes_of(weights.content, weights.path)
        if not known:
            return None, "it has no class names: a head of the same number of classes is kept"
        if len(names) == len(known) and all(map(is_number, names)) != all(map(is_number, known)):
            return None, "it has numbers in place of class names: the head is kept"
        places = match(names, known)
        named = len(weights.content["classes"])  # in an older checkpoint further outputs have no name
        if None in places or not set(range(named)) <= set(places):
            return [], f"the head is new: the classes differ ({_difference(names, known[:named])})"
        if places == list(range(len(known))):
            return None, "the head is kept: the classes are the same"
        rows = [place for place in places if place is not None]
        return rows, "the head is kept, its rows in the order of the data: the classes are the same"


def _difference(names: Sequence[str], known: Sequence[str]) -> str:
    def some(names: list[str], what: str) -> list[str]:
        return [f"{', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''} {what}"] if names else []

    gone = [name for name, place in zip(known, match(known, names)) if place is None]
    new = [name for name, place in zip(names, match(names, known)) if place is None]
    parts = [*some(gone, "missing"), *some(new, "new")]
    return ", ".join(parts) or f"{len(names)} in place of {len(known)}, or numbers in place of names"


def read_run_data(cfg: CfgNode, folder: Path) -> RunData:
    """Read all lists and folders, and compare their classes with each other and with the weights to test.

    Args:
        cfg: of the run.
        folder: OUTPUT_DIR.

    Raises:
        UserError: what is missing or does not fit.
    """
    data = RunData(source=f"DATA.TRAIN ({cfg.DATA.TRAIN})")
    if cfg.TRAIN.ENABLE:
        train = build_index(cfg, "train")
        data.teacher = read_teacher(cfg)
        if data.teacher is not None and not train.classes:  # without labels
            train.classes, train.numbered = list(data.teacher.network.classes), False
        data.num_classes = _num_classes(cfg, train, data.source)
        train.classes = extended(train.classes, data.num_classes, data.source)
        data.train = train
        if cfg.TRAIN.EVAL_EVERY:
            data.val = aligned_index(cfg, "val", train.classes, data.source)
    if not cfg.TEST.ENABLE:
        return data
    if data.train is not None and not cfg.TEST.CHECKPOINT:
        if cfg.TEST.WEIGHTS == "best" and not cfg.TRAIN.EVAL_EVERY:
            raise UserError("TEST.WEIGHTS is best, but TRAIN.EVAL_EVERY is 0: set it, or set TEST.WEIGHTS last")
        shared = data.val if not cfg.DATA.TEST else None
        data.test = shared or aligned_index(cfg, "test", data.train.classes, data.source)
        return data
    own = folder / "checkpoints" / f"{cfg.TEST.WEIGHTS}.pt"
    path = local_file(cfg.TEST.CHECKPOINT) if cfg.TEST.CHECKPOINT else own
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; set TEST.CHECKPOINT, or train first (TRAIN.ENABLE True)")
    data.tested = Weights(path, read_checkpoint(path))
    known, asked = classes_of(data.tested.content, path), data.num_classes or cfg.MODEL.NUM_CLASSES
    outputs = outputs_of(data.tested.content) or len(known)
    if asked and outputs and asked != outputs:
        raise UserError(
            f"MODEL.NUM_CLASSES is {asked}, but {path} has {outputs} classes: set MODEL.NUM_CLASSES {outputs}, or 0"
        )
    if known:
        data.num_classes = outputs
        data.test = aligned_index(cfg, "test", known, str(path))
    else:
        data.test = build_index(cfg, "test")
        data.num_classes = asked or outputs or len(data.test.classes)
        key = "TEST" if cfg.DATA.TEST else "VAL"
        _name_outputs(data.test, data.num_classes, f"DATA.{key} ({cfg.DATA[key]})", path)
    return data


def _num_classes(cfg: CfgNode, index: VideoIndex, source: str) -> int:
    """Return MODEL.NUM_CLASSES or, where it is not set, the number of classes of the data."""
    count, asked = len(index.classes), cfg.MODEL.NUM_CLASSES
    if asked and asked != count and not index.numbered:
        source = f"DATA.CLASSES ({cfg.DATA.CLASSES})" if cfg.DATA.CLASSES else source
        raise UserError(
            f"MODEL.NUM_CLASSES is {asked}, but {source} has {count} classes: set MODEL.NUM_CLASSES {count}, or 0 to "
            "follow the data"
        )
    return asked or count


def aligned_index(cfg: CfgNode, split: str, known: Sequence[str], owner: str) -> VideoIndex:
    """Return the videos of a split, "val" or "test", with the class numbers of ``owner``, whose classes are ``known``.

    A split may lack classes; its numbers are shifted then. Where the owner has numbers in place of names, the split's
    names are those of DATA.CLASSES.

    Raises:
        UserError: a video has a class that the owner lacks.
    """
    key = "TEST" if split == "test" and cfg.DATA.TEST else "VAL"
    source = f"DATA.{key} ({cfg.DATA[key]})"
    index = build_index(cfg, split)
    declared = cfg.DATA.CLASSES and not all(map(is_number, index.classes))
    if declared and is_numbered(known) and len(index.classes) <= len(known):
        index.classes = extended(index.classes, len(known), source)
        return index
    try:
        index.renumber(known)
        return index
    except KeyError as error:
        video = error.args[0]
    name = index.classes[index.label(video)]
    names = ", ".join(map(repr, known[:3])) + ", ..."
    if index.numbered:
        fix = "give class names in place of numbers (docs/data.md)"
        if begin_at_one(index.labels, len(known)):
            fix = "labels seem to begin at 1, as there is no label 0: subtract 1 from each"
        raise UserError(
            f"{source} has the label {name} ({index.path(video)}), which is none of the {len(known)} classes of "
            f"{owner} ({names}): {fix}"
        )
    hint = did_you_mean(name, known)
    raise UserError(
        f"{source} has the class {name!r}, which {owner} does not know ({names}){hint + ' Set' if hint else ': set'} "
        f"DATA.CLASSES to the class names of {owner}"
    )


def _name_outputs(index: VideoIndex, outputs: int, source: str, path: Path) -> None:
    """Name the outputs of weights without class names after the data, which must have all classes or numbers."""
    if not index.numbered and len(index.classes) != outputs or len(index.classes) > outputs:
        raise UserError(
            f"{path} has no class names and {outputs} outputs, {source} has {len(index.classes)} "
            "classes: set DATA.CLASSES to a file of all class names, in the order of the weights"
        )
    index.classes = extended(index.classes, outputs, str(path))

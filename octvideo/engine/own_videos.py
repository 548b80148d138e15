"""Select a user's own videos: read, check and split them, and write the lists to train and validate on."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from octvideo.data.checking.report import CheckReport
from octvideo.data.checking.video import OK, Checked
from octvideo.data.collection import Clip, check_classes, classes_in, read_clips
from octvideo.data.lists import format_row, write_lines
from octvideo.data.split import split_clips, suspect_groups
from octvideo.errors import UserError
from octvideo.files import writing
from octvideo.progress import Progress

__all__ = ["Selection", "say", "select_videos", "write_lists"]

_CHECK_TIMEOUT = 120.0  # seconds per video


class Selection(NamedTuple):
    """Videos to train and to validate on.

    Attributes:
        train, val: the two sides of the split; those to train on may have no labels.
        intact: results of the check.
        broken: results of the check of videos that are left out.
        warnings: what the user should know of the split.
    """

    train: list[Clip]
    val: list[Clip]
    intact: list[Checked]
    broken: list[Checked]
    warnings: list[str]

    @property
    def classes(self) -> list[str]:
        """The names of all classes, in order."""
        return [name for name in classes_in([*self.train, *self.val]) if name]

    def groups(self) -> dict[str, list[str]] | None:
        """Return the groups of both sides; None where there are none."""
        found = {side: sorted({clip.group for clip in getattr(self, side)}) for side in ("train", "val")}
        return found if any(any(groups) for groups in found.values()) else None


def say(text: str) -> None:
    """Print a line for people on stderr."""
    print(text, file=sys.stderr, flush=True)


def select_videos(
    source: Path,
    output: Path,
    *,
    root: str = "",
    val: Path | None = None,
    val_share: float = 0.2,
    group_by: str = "",
    seed: int = 0,
    labelled: bool = True,
) -> Selection:
    """Read, check and split a user's own videos. The results of the check are kept in ``output/videos.jsonl``.

    Args:
        source: class folders, a list or a table; see ``read_clips``.
        output: folder of the training.
        root: folder of relative paths.
        val: videos to validate on; None to hold out ``val_share`` of each class.
        group_by: see ``read_clips``.
        seed: of the split.
        labelled: False: videos to train on need no labels.

    Raises:
        UserError: the videos do not suffice.
    """
    clips = read_clips(source, root=root, group_by=group_by, labelled=labelled)
    if unlabelled := not all(clip.label for clip in clips):
        if val is None:
            raise UserError(f"{source}: its videos have no labels: pass videos with labels to validate on with --val")
    else:
        check_classes(classes_in(clips), source, least=1 if val else 2)
    separate = read_clips(val) if val is not None else []
    if not unlabelled and val is not None:
        check_classes(classes_in(separate), val, known=list(classes_in(clips)))
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    intact, broken = _check([*clips, *separate], output / "videos.jsonl")
    paths = {checked.path for checked in intact}
    clips = _intact(clips, paths, source)
    if broken and not unlabelled:
        check_classes(classes_in(clips), f"{source} without its broken videos", least=1 if val else 2)
    if val is None:
        train, held = split_clips(clips, val_share, seed)
        warnings = _group_warnings(clips, group_by)
    else:
        train, held, warnings = clips, _intact(separate, paths, val), []
    missing = [name for name in classes_in(train) if name and name not in classes_in(held)]
    if missing:
        warnings.append(f"no validation video of {', '.join(missing)}: their accuracy is not measured")
    return Selection(train, held, intact, broken, warnings)


def _check(clips: Sequence[Clip], report: Path) -> tuple[list[Checked], list[Checked]]:
    """Decode each video to its end, and name the broken ones; unchanged ones in the report are not decoded again."""
    paths = list(dict.fromkeys(clip.path for clip in clips))
    results = []
    with CheckReport(report) as checking, Progress("checking", len(paths), "videos") as progress:
        for checked in checking.check(paths, os.cpu_count() or 1, _CHECK_TIMEOUT):
            results.append(checked)
            progress.update()
    broken = [checked for checked in results if checked.status != OK]
    for checked in broken:
        say(f"{checked.path}: left out, cannot be decoded ({checked.error})")
    return [checked for checked in results if checked.status == OK], broken


def _intact(clips: Sequence[Clip], paths: set[str], source: Path) -> list[Clip]:
    """Return the clips that decode.

    Raises:
        UserError: there are none, or none of a class.
    """
    kept = [clip for clip in clips if clip.path in paths]
    if not kept:
        raise UserError(f"{source}: none of its {len(clips)} videos can be decoded; the reasons are above")
    if lost := [name for name in classes_in(clips) if name not in classes_in(kept)]:
        raise UserError(
            f"{source}: no video of class {lost[0]!r} can be decoded; the reasons are above: add videos, or remove the "
            "class"
        )
    return kept


def _group_warnings(clips: Sequence[Clip], group_by: str) -> list[str]:
    if group_by:
        unknown = sum(not clip.group for clip in clips)
        return [f"{unknown} videos have no {group_by}: they are kept together"] if unknown else []
    if (found := suspect_groups(clips)) is None:
        return []
    return [
        f"file names seem to have {found.number} groups ({', '.join(found.names)}, ...), and the split puts clips of a "
        f"group on both sides: the accuracy may be too high; to keep them together: --group-by '{found.pattern}'"
    ]


def write_lists(selection: Selection, classes: Sequence[str], output: Path) -> dict[str, Any]:
    """Write ``train.csv``, ``val.csv`` and ``classes.txt``, and return the configuration keys that name them."""
    for name, clips in (("train", selection.train), ("val", selection.val)):
        rows = (format_row(clip.path, classes.index(clip.label) if clip.label else -1) for clip in clips)
        write_lines(output / f"{name}.csv", rows)
    write_lines(output / "classes.txt", classes)
    files = {"DATA.TRAIN": "train.csv", "DATA.VAL": "val.csv", "DATA.CLASSES": "classes.txt"}
    keys: dict[str, Any] = {key: str(output / file) for key, file in files.items()}
    return {**keys, "DATA.TEST": "", "DATA.ROOT": "", "MODEL.NUM_CLASSES": 0}

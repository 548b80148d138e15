"""Read a user's own videos with class names and groups, from class folders, a list or a table."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from octvideo.data.classes import check_distinct, did_you_mean, in_order, nfc
from octvideo.data.index import read_index
from octvideo.data.media import is_hidden, is_image, is_video
from octvideo.data.shards import is_sharded
from octvideo.errors import UserError

__all__ = ["Clip", "check_classes", "classes_in", "read_clips"]

_PATH_COLUMNS = ("path", "video", "file", "filename")
_LABEL_COLUMNS = ("label", "class", "action")


class Clip(NamedTuple):
    """A video with its class.

    Attributes:
        path: absolute.
        label: name of the class; "" for none.
        group: clips of one group, such as a person or a source, belong to the same side of a split; "" for an unknown
            one, or where there are no groups.
    """

    path: str
    label: str
    group: str = ""


def read_clips(source: Path, *, root: str = "", group_by: str = "", labelled: bool = True) -> list[Clip]:
    """Read the videos of a folder with one subfolder per class, of a list, or of a table.

    A table is a CSV file whose first line names its columns: ``path``, ``label``, and any others ::

        path,label,group
        fight/fi001.mp4,fight,7q6KJoSgxmY

    Args:
        source: the folder, the list (see ``read_rows``) or the table.
        root: folder of relative paths; "" is the file's own, or the one above, whichever has the videos.
        group_by: a column of the table, or a regular expression whose first group, or else match, in a video's file
            name is the group. "" for no groups.
        labelled: False: videos need no labels; a folder may have loose videos.

    Raises:
        UserError: names what is missing, malformed or empty, with the line number.
    """
    if is_sharded(source):
        raise UserError(f"{source}: these are tar shards; train on them with: octvideo run-net DATA.TRAIN {source}")
    rows = _read_folder(source, labelled) if source.is_dir() else _read_file(source, root, group_by, labelled)
    if not group_by or any(clip.group for clip in rows):
        return rows
    return _grouped(rows, group_by)


def _read_folder(folder: Path, labelled: bool) -> list[Clip]:
    loose = sorted(child.name for child in folder.iterdir() if child.is_file() and is_video(child.name))
    if loose and not any(child.is_dir() and not is_hidden(child.name) for child in folder.iterdir()):
        if not labelled:
            return [Clip(os.path.abspath(folder / name), "") for name in loose]
        raise UserError(
            f"{folder}: its {len(loose)} videos are not in class folders ({loose[0]} for one): make one folder per "
            "class and move them there, or pass a list with one `path label` per line"
        )
    index = read_index(folder)
    if is_image(index.path(0)):
        raise UserError(
            f"{folder}: it has images, such as {index.path(0)}, and no videos: give each video a folder of its "
            "numbered frames (CLASS/VIDEO/img_00001.jpg), or make a file of them (ffmpeg -i img_%05d.jpg clip.mp4)"
        )
    return [
        Clip(os.path.abspath(index.path(number)), index.classes[index.label(number)]) for number in range(len(index))
    ]


def _read_file(file: Path, root: str, group_by: str, labelled: bool) -> list[Clip]:
    table = _read_table(file, group_by) if file.is_file() and not is_video(file.name) else None
    if table is None:
        index = read_index(file, root=root)
        if labelled and (index.labels < 0).any():
            raise UserError(f"{file}: it has no labels; write one `path label` per line")
        index.root, names = "", [*index.classes, ""]  # label -1 finds the last one
        table = [Clip(index.path(number), names[index.label(number)]) for number in range(len(index))]
    folder = Path(root) if root else _folder_of(file, table)
    return [clip._replace(path=os.path.abspath(folder / clip.path)) for clip in table]


def _folder_of(file: Path, clips: Sequence[Clip]) -> Path:
    """Return the folder of relative paths: the list's own, the one above it, or the working directory."""
    places = (file.parent, file.absolute().parent.parent, Path())
    return next((place for place in places if any((place / clip.path).exists() for clip in clips)), file.parent)


def _read_table(file: Path, group_by: str) -> list[Clip] | None:
    """Return the rows of a table, with paths as in the file; None where the first line names no columns."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        try:
            header = [name.strip() for name in next(reader, [])]
            lower = [name.casefold() for name in header]
            path, label = _column(lower, _PATH_COLUMNS), _column(lower, _LABEL_COLUMNS)
            if path is None or label is None:
                return None
            group = header.index(group_by) if group_by in header else None
            clips = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} fields, but the first line has {len(header)}")
                if not row[path].strip() or not row[label].strip():
                    raise ValueError(f"no {header[path if not row[path].strip() else label]} in this line")
                clips.append(
                    Clip(row[path].strip(), nfc(row[label].strip()), row[group].strip() if group is not None else "")
                )
        except UnicodeDecodeError:
            raise UserError(f"{file}: not UTF-8 text; convert it, e.g. with iconv") from None
        except (ValueError, csv.Error) as error:
            raise UserError(f"{file}:{max(reader.line_num, 1)}: {error}") from None
    if not clips:
        raise UserError(f"{file}: no rows below the header; write one `path,label` per line")
    check_distinct(dict.fromkeys(clip.label for clip in clips), str(file))
    return clips


def _column(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _grouped(clips: Sequence[Clip], pattern: str) -> list[Clip]:
    """Return the clips with the groups that a regular expression finds in their file names."""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group-by {pattern!r}: neither a column nor a regular expression ({error})") from None
    found = []
    for clip in clips:
        match = regex.search(os.path.basename(clip.path))
        value = match and (match[1] if regex.groups else match[0])
        if not value:
            raise UserError(
                f"--group-by {pattern!r}: it finds nothing in the name of {clip.path}; give a pattern that matches the "
                "name of every video, or a table with a column of that name"
            )
        found.append(clip._replace(group=value))
    return found


def classes_in(clips: Iterable[Clip]) -> dict[str, int]:
    """Return the number of clips of each class, in the order of the classes."""
    counts = Counter(clip.label for clip in clips)
    return {name: counts[name] for name in in_order(counts)}


def check_classes(counts: dict[str, int], source: str | Path, *, least: int = 2, known: Sequence[str] = ()) -> None:
    """Raise UserError where there is nothing to learn.

    Args:
        counts: clips of each class, which is ``classes_in``.
        source: for messages.
        least: number of clips that a class needs.
        known: the only valid classes, for validation data; () for any.
    """
    for name in counts if known else ():
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(
                f"{source}: the class {name!r} is not one that is trained{hint or f' ({_some(known)}).'} Give it the "
                "name of its class"
            )
    if not known and len(counts) < 2:
        raise UserError(f"{source}: only one class ({_some(list(counts))}): two are needed, to tell them apart")
    few = [name for name, count in counts.items() if count < least]
    if few and not known:
        hint = did_you_mean(few[0], [name for name in counts if name not in few])
        others = f" ({len(few)} classes have no more)" if len(few) > 1 else ""
        raise UserError(
            f"{source}: the class {few[0]!r} has one clip{others}: {least} are needed, one to train on and one to "
            f"validate on{hint or '.'} Add clips, move it into another class, or pass validation videos with --val"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")

"""Find the videos of a data set and their classes. An image is a video of one frame."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from octvideo.data.classes import begin_at_one, check_distinct, did_you_mean, in_order, nfc
from octvideo.data.lists import names_in, read_rows
from octvideo.data.media import frame_folders, is_hidden, is_image, is_media, passed_over_text, scan_folder
from octvideo.data.shards import is_sharded, read_shards
from octvideo.data.video_index import VideoIndex
from octvideo.errors import UserError

__all__ = [
    "build_index",
    "check_labels",
    "class_number",
    "read_classes",
    "read_index",
]


def read_classes(file: str | Path) -> list[str]:
    """Read class names, one per line. The package has ``kinetics400_classes.txt`` and others, found by bare name.

    Raises:
        UserError: the file is missing or empty, or a name occurs twice.
    """
    path = Path(file)
    shipped = resources.files("octvideo") / "assets" / str(file)
    if path.is_file():
        text = _read_text(path)
    elif not path.is_absolute() and shipped.is_file():
        text = shipped.read_text(encoding="utf-8")
    else:
        raise UserError(f"{file}: no such file of class names; check the path (DATA.CLASSES)")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"{file}: no class names; write one per line")
    if len(set(names)) < len(names):
        (name, _), *_ = Counter(names).most_common(1)
        raise UserError(f"{file}: duplicate class name {name!r}; remove one")
    if (line := _numbered_line(names)) is not None:
        raise UserError(
            f"{file}: each line has a number and a name, such as {line!r}, like UCF-101's classInd.txt. Keep only the "
            f"names (cut -d' ' -f2- {file} > classes.txt). Labels count from 0: subtract 1 if a list begins at 1"
        )
    check_distinct(names, str(file), capitals=False)
    return [nfc(name) for name in names]


def _numbered_line(lines: list[str]) -> str | None:
    """Return the first line of a file that numbers its names, after a header if it has one; None otherwise."""
    for rows in (lines, lines[1:]):
        found = [re.fullmatch(r"(\d+)[\s,;:.)\]]+\D.*", row) for row in rows]
        numbers = sorted(int(match[1]) for match in found if match)
        if len(rows) > 1 and numbers in (list(range(len(rows))), list(range(1, len(rows) + 1))):
            return rows[0]
    return None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}); pass a text file or a folder") from None


def read_index(source: str | Path, *, root: str = "", classes_file: str = "", stills: bool = False) -> VideoIndex:
    """Read a list file, a folder with one subfolder per class, or an index of tar shards (``octvideo.data.shards``).

    A list has one ``path label`` per line; see ``read_rows``. A list without labels is for prediction (labels -1).

    Args:
        source: a list; a folder with one subfolder per class; or an index of shards, or its folder or URL. Classes of
            folders are in alphabetical order, by number if all names are numbers, or in the order of
            ``classes_file``. Images in class folders are used only if there are no videos: beside videos they are
            thumbnails. Numbered images in folders of their own are the frames of a video (CLASS/VIDEO/img_00001.jpg).
        root: prefix of relative paths; "" is the list's own folder.
        classes_file: class names, see ``read_classes``.
        stills: all images in folders are pictures, numbered or not.

    Raises:
        UserError: names what is missing, malformed or empty, with the line number.
    """
    if not str(source):
        raise UserError("the name of the list or folder is empty")
    path = Path(source)
    classes = read_classes(classes_file) if classes_file else []
    if is_sharded(source):
        return read_shards(str(source), root=root, classes=classes)
    if path.is_dir():
        return _read_folder(path, classes, stills)
    if not path.is_file():
        raise UserError(f"{source}: no such list file or folder; check the path (DATA.TRAIN, DATA.VAL or DATA.TEST)")
    if is_media(path.name):
        raise UserError(
            f"{source}: this is a video or an image; pass a list with one `path label` per line, or a folder"
        )
    return _read_list(path, Path(root) if root else path.parent, classes, classes_file)


def class_number(folder: str, numbers: Mapping[str, int]) -> int | None:
    """Return the class number of a folder name. Some copies of Kinetics have underscores instead of blanks."""
    folder = nfc(folder)
    return numbers.get(folder, numbers.get(folder.replace("_", " ")))


def _read_folder(folder: Path, classes: list[str], stills: bool) -> VideoIndex:
    children = (child.name for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))
    names = sorted(children, key=nfc)
    odd = next((name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)), None)
    if odd is not None:
        raise UserError(
            f"{folder}: folder {odd!r}: its name is not UTF-8; rename it, since class names are written to files"
        )
    check_distinct(names, str(folder), capitals=not classes)
    order = classes or in_order(map(nfc, names))
    numbers = {name: number for number, name in enumerate(order)}
    labels = [class_number(name, numbers) for name in names]
    if None in labels:
        unknown = names[labels.index(None)]
        hint = did_you_mean(unknown, classes)
        raise UserError(f"{folder}: folder {unknown!r} is not among the class names{hint}; check DATA.CLASSES")
    passed_over: Counter[str] = Counter()
    scans: list[Callable[[Path], Iterator[str]]] = [
        lambda place: scan_folder(place, passed_over=passed_over),
        *([] if stills else [frame_folders]),
        lambda place: scan_folder(place, is_image, passed_over),
    ]
    for scan in scans:
        passed_over.clear()
        rows = (
            (os.fsencode(f"{name}/{path}"), label or 0)
            for name, label in zip(names, labels)
            for path in scan(folder / name)
        )
        index = VideoIndex.from_rows(rows, order, root=str(folder))
        if len(index):
            index.passed_over = passed_over_text(passed_over)
            return index
    raise UserError(f"{folder}: no videos or images in class folders; expected {folder}/CLASS/VIDEO.mp4")


def _read_list(file: Path, root: Path, classes: list[str], classes_file: str) -> VideoIndex:
    names = classes or names_in(file, root)
    rows = read_rows(file, names, root=root, origin=classes_file or "this list")
    index = VideoIndex.from_rows(rows, names, root="" if root == Path() else str(root))
    if not len(index):
        raise UserError(f"{file}: no videos or images in this list; expected lines of `path label`")
    if not names:
        index.classes, index.numbered = [str(number) for number in range(int(index.labels.max()) + 1)], True
    return index


def build_index(cfg: CfgNode, split: str) -> VideoIndex:
    """Read the videos of a split: train, val or test (val if DATA.TEST is not set).

    Raises:
        UserError: the key is not set, or the training videos have more classes than MODEL.NUM_CLASSES.
    """
    key = {"train": "TRAIN", "val": "VAL", "test": "TEST" if cfg.DATA.TEST else "VAL"}[split]
    if not cfg.DATA[key]:
        raise UserError(f"DATA.{key} is not set: pass a list, or a folder with one subfolder per class")
    data = cfg.DATA
    index = read_index(data[key], root=data.ROOT, classes_file=data.CLASSES, stills=data.NUM_FRAMES == 1)
    if split == "train":
        check_labels(index, cfg.MODEL.NUM_CLASSES, f"DATA.{key} ({cfg.DATA[key]})")
    return index


def check_labels(index: VideoIndex, count: int, source: str) -> None:
    """Raise UserError if the videos have more classes than ``count`` (0: any), or labels that begin at 1."""
    most = int(index.labels.max(initial=-1))
    if index.numbered and (count or np.isin(range(1, most + 1), index.labels).all()) and most > 0:
        if begin_at_one(index.labels, count or most):
            raise UserError(
                f"{source}: labels seem to begin at 1: there is no label 0, and the largest is {most}, of "
                f"{count or most} classes. Subtract 1 from each; or set MODEL.NUM_CLASSES {most + 1} where class 0 has "
                "no videos"
            )
    if count and len(index.classes) > count:
        example = f", {index.path(int(index.labels.argmax()))} for one" if index.numbered else ""
        raise UserError(
            f"MODEL.NUM_CLASSES is {count}, but {source} has {len(index.classes)} classes{example}: "
            f"set MODEL.NUM_CLASSES {len(index.classes)}, or 0 to follow the data"
        )

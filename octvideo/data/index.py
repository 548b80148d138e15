"""Which videos there are, and what they show: list files and folders of classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from octvideo.errors import UserError

__all__ = ["VIDEO_SUFFIXES", "VideoIndex", "build_index", "read_classes", "read_index"]

VIDEO_SUFFIXES = frozenset(".mp4 .avi .mkv .mov .webm .mpg .mpeg .m4v .flv .wmv .ts .3gp".split())


class VideoIndex:
    """Paths and labels of videos, in arrays: worker processes share them, however many there are.

    Args:
        paths: one a video.
        labels: class numbers, -1 where unknown.
        classes: names, in the order of the numbers; empty where they are not known.
    """

    def __init__(self, paths: Sequence[str], labels: Sequence[int], classes: Sequence[str] = ()) -> None:
        encoded = [path.encode() for path in paths]
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """The path of a video."""
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].tobytes().decode()

    def label(self, index: int) -> int:
        """The class number of a video, -1 where it is unknown."""
        return int(self.labels[index])


def read_classes(file: str | Path) -> list[str]:
    """Class names, one a line; a bare name such as ``kinetics400_classes.txt`` is also looked for in the package.

    Raises:
        UserError: no such file, or a name that is there twice.
    """
    path = Path(file)
    shipped = resources.files("octvideo") / "assets" / str(file)
    if path.is_file():
        text = _read_text(path)
    elif not path.is_absolute() and shipped.is_file():
        text = shipped.read_text()
    else:
        raise UserError(f"{file}: no such file of class names; check DATA.CLASSES")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UserError(f"{file}: class name {name!r} stands there twice; remove one")
    return names


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}); convert it, e.g. with iconv") from None


def read_index(source: str | Path, *, root: str = "", classes_file: str = "") -> VideoIndex:
    """Reads a list file or a folder of class folders.

    A line of a list file is ``path label``, the label a number or a class name in ``classes_file``. Comma, tab or blank
    separate them; the last one does, so that paths may have blanks; quotes around the path are taken off. A file
    whose lines have no label at all is a list for prediction (labels -1). ``#`` starts a comment line.

    Args:
        source: the list file, or a folder whose folders are the classes, in alphabetical order.
        root: put before relative paths; "" is the list's own folder.
        classes_file: class names, see ``read_classes``.

    Raises:
        UserError: what is missing, malformed or empty, with its line number.
    """
    path = Path(source)
    classes = read_classes(classes_file) if classes_file else []
    if path.is_dir():
        return _read_folder(path, classes)
    if not path.is_file():
        raise UserError(f"{source}: no such list file or folder; check DATA.TRAIN, DATA.VAL and DATA.TEST")
    return _read_list(path, Path(root) if root else path.parent, classes)


def _read_folder(folder: Path, classes: list[str]) -> VideoIndex:
    names = sorted(child.name for child in folder.iterdir() if child.is_dir())
    if unknown := [name for name in names if classes and name not in classes]:
        raise UserError(f"{folder}: folder {unknown[0]!r} is not among the class names; check DATA.CLASSES")
    order = classes or names
    paths: list[str] = []
    labels: list[int] = []
    for name in names:
        for file in sorted((folder / name).rglob("*")):
            if file.suffix.lower() in VIDEO_SUFFIXES:
                paths.append(str(file))
                labels.append(order.index(name))
    if not paths:
        raise UserError(f"{folder}: no videos in class folders; expected {folder}/CLASS/VIDEO.mp4")
    return VideoIndex(paths, labels, order)


def _read_list(file: Path, root: Path, classes: list[str]) -> VideoIndex:
    numbers = {name: number for number, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for line_number, line in enumerate(_read_text(file).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            path, label = _split_line(line.strip(), numbers)
        except ValueError as error:
            raise UserError(f"{file}:{line_number}: {error}; expected `path label`") from None
        if not path:
            raise UserError(f"{file}:{line_number}: no path in {line!r}; expected `path label`")
        if classes and label is not None and not 0 <= label < len(classes):
            raise UserError(f"{file}:{line_number}: label {label} is not below the number of classes, {len(classes)}")
        if labels and (label is None) != (labels[-1] == -1):
            raise UserError(f"{file}:{line_number}: some lines have a label and some have none; expected `path label`")
        paths.append(str(root / path))
        labels.append(-1 if label is None else label)
    if not paths:
        raise UserError(f"{file}: no videos in this list; expected lines of `path label`")
    return VideoIndex(paths, labels, classes or _numbered(labels))


def _split_line(line: str, numbers: dict[str, int]) -> tuple[str, int | None]:
    """``path label`` at the last separator; the label is None where there is none.

    Raises:
        ValueError: what stands behind the path is neither a number nor a class name.
    """
    for separator in (",", "\t", " "):
        if separator not in line:
            continue
        path, label = line.rsplit(separator, 1) if separator != "," else _last_comma(line)
        path, label = path.strip().strip('"'), label.strip().strip('"')
        if label.isdigit():
            return path, int(label)
        if label in numbers:
            return path, numbers[label]
    for name, number in numbers.items():  # names may have blanks
        if line.endswith((f" {name}", f"\t{name}")):
            return line[: -len(name)].strip().strip('"'), number
    path = line.strip('"')
    if Path(path).suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{line!r} ends in neither a class number, nor a class name, nor a video's suffix")
    return path, None


def _last_comma(line: str) -> tuple[str, str]:
    fields = next(csv.reader([line], skipinitialspace=True))
    return ",".join(fields[:-1]), fields[-1]


def _numbered(labels: Sequence[int]) -> list[str]:
    return [str(number) for number in range(max(labels) + 1)]


def build_index(cfg: CfgNode, split: str) -> VideoIndex:
    """The index of ``split``, one of train, val and test (which is val where DATA.TEST is not set).

    Raises:
        UserError: the key is not set, or the classes are more than MODEL.NUM_CLASSES.
    """
    key = {"train": "TRAIN", "val": "VAL", "test": "TEST" if cfg.DATA.TEST else "VAL"}[split]
    if not cfg.DATA[key]:
        raise UserError(f"DATA.{key} is not set: give a list file or a folder of class folders")
    index = read_index(cfg.DATA[key], root=cfg.DATA.ROOT, classes_file=cfg.DATA.CLASSES)
    if len(index.classes) > cfg.MODEL.NUM_CLASSES:
        raise UserError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but DATA.{key} ({cfg.DATA[key]}) has "
            f"{len(index.classes)} classes: set MODEL.NUM_CLASSES {len(index.classes)}"
        )
    return index

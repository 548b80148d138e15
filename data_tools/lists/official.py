"""Read the official splits of UCF-101, HMDB-51 and Something-Something v2 from their own files.

UCF-101: ``classInd.txt``; ``trainlist01.txt`` and ``testlist01.txt`` with ``CLASS/NAME.avi``.
HMDB-51: ``CLASS_test_split1.txt`` with ``NAME.avi 1``; 1 is train, 2 is test, 0 neither.
Something-Something v2: ``labels.json``, ``train.json``, ``validation.json`` and ``test.json``.

The files of the last one may begin with ``something-something-v2-``. Its ``test-answers.csv`` is used if it is there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from octvideo.data.classes import did_you_mean
from octvideo.errors import UserError

__all__ = ["Row", "read_official"]

_SPLITS = ("train", "val", "test")
_HMDB = re.compile(r"(.+)_test_split(\d+)\.txt")
_HMDB_USES = {"0": "", "1": "train", "2": "val"}


class Row(NamedTuple):
    """A video of a split.

    Attributes:
        name: of its file, without folders and suffix.
        label: name of its class; None in a test set without answers.
        split: train, val or test. The official test split of UCF-101 and HMDB-51 is val here.
    """

    name: str
    label: str | None
    split: str


def read_official(folder: Path, split: int) -> tuple[list[Row], list[str]]:
    """Return the rows of a split, and the classes in their official order, or else in alphabetical order.

    Args:
        folder: with the official files.
        split: 1 to 3 for UCF-101 and HMDB-51; Something-Something v2 has only 1.

    Raises:
        UserError: the files are missing or malformed, with the line number.
    """
    names = sorted(path.name for path in folder.iterdir())
    if "classInd.txt" in names:
        return _ucf(folder, split)
    if any(_HMDB.fullmatch(name) for name in names):
        return _hmdb(folder, names, split)
    if any(name.endswith("labels.json") for name in names):
        if split != 1:
            raise UserError(f"--split {split}: Something-Something v2 has one split; leave out --split")
        return _something(folder, names)
    raise UserError(
        f"{folder}: no official files in this folder; expected classInd.txt (UCF-101), CLASS_test_split1.txt "
        "(HMDB-51) or labels.json (Something-Something v2), or pass the CSV files of Kinetics"
    )


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the place of each line that is not empty, for messages, and its text."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; it belongs to the official files (check --split)")
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
            if line.strip():
                yield f"{file}:{number}", line.strip()
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text; download the official file again") from None


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _ucf(folder: Path, split: int) -> tuple[list[Row], list[str]]:
    numbers: dict[int, str] = {}
    for place, line in _lines(folder / "classInd.txt"):
        number, _, name = line.partition(" ")
        if not number.isdecimal() or not name.strip():
            raise UserError(f"{place}: {line!r} is not a number and a class, such as `1 ApplyEyeMakeup`")
        numbers[int(number)] = name.strip()
    classes = [numbers[number] for number in sorted(numbers)]
    rows = []
    for kind, use in (("train", "train"), ("test", "val")):
        for place, line in _lines(folder / f"{kind}list{split:02d}.txt"):
            label, _, name = line.split()[0].rpartition("/")
            if label not in classes:
                hint = did_you_mean(label, classes)
                raise UserError(f"{place}: unknown class {label!r}{hint}; classes come from classInd.txt")
            rows.append(Row(_stem(name), label, use))
    return rows, classes


def _hmdb(folder: Path, names: list[str], split: int) -> tuple[list[Row], list[str]]:
    found = [match for name in names if (match := _HMDB.fullmatch(name))]
    if not any(int(match[2]) == split for match in found):
        raise UserError(f"--split {split}: {folder} has no files CLASS_test_split{split}.txt")
    rows = []
    for label in (match[1] for match in found if int(match[2]) == split):
        for place, line in _lines(folder / f"{label}_test_split{split}.txt"):
            name, _, use = line.rpartition(" ")
            if use not in _HMDB_USES or not name.strip():
                raise UserError(f"{place}: {line!r} is not a video and 0, 1 or 2, such as `NAME.avi 1`")
            if _HMDB_USES[use]:
                rows.append(Row(_stem(name.strip()), label, _HMDB_USES[use]))
    return sorted(rows, key=lambda row: _SPLITS.index(row.split)), sorted({row.label for row in rows if row.label})


def _something(folder: Path, names: list[str]) -> tuple[list[Row], list[str]]:
    def path(kind: str) -> Path | None:
        return next((folder / name for name in names if name.removeprefix("something-something-v2-") == kind), None)

    labels_file = path("labels.json")
    if labels_file is None:
        raise UserError(f"{folder}: no labels.json in this folder; it belongs to the official files")
    numbers = _json(labels_file, dict)
    classes = sorted(numbers, key=lambda name: int(numbers[name]))
    answers = {}
    if (file := path("test-answers.csv")) is not None:
        answers = {text.partition(";")[0]: text.partition(";")[2] for _, text in _lines(file)}
    rows = []
    for kind, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        file = path(f"{kind}.json")
        for number, entry in enumerate(_json(file, list) if file else (), 1):
            try:
                name = str(entry["id"])
                label = answers.get(name) if split == "test" else re.sub(r"[][]", "", entry["template"])
            except (KeyError, TypeError):
                raise UserError(f"{file}: entry {number} has no id or no template; download it again") from None
            if label is not None and label not in numbers:
                raise UserError(f"{file}: entry {number}: unknown class {label!r}{did_you_mean(label, classes)}")
            rows.append(Row(name, label, split))
    if not rows:
        raise UserError(f"{folder}: neither train.json nor validation.json in this folder")
    return rows, classes


def _json(file: Path, kind: type) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError:
        content = None
    if not isinstance(content, kind):
        raise UserError(f"{file}: not the official file ({kind.__name__} in JSON); download it again")
    return content

"""Read the annotation files of Kinetics (CSV)."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import NamedTuple

from octvideo.errors import UserError

__all__ = ["Segment", "clip_name", "read_annotations"]

_ID = re.compile(r"[A-Za-z0-9_-]+")  # it becomes a file's name; `#NAME?` is what a spreadsheet makes of some ids
_SPLITS = {"validate": "val", "validation": "val"}  # Kinetics-700 has the first


class Segment(NamedTuple):
    """A part of an online video.

    Attributes:
        label: class name; None in a test file without labels.
        youtube_id: of the whole video. Several segments may have the same.
        start, end: seconds from the start of the whole video.
        split: train, val or test.
    """

    label: str | None
    youtube_id: str
    start: float
    end: float
    split: str


def clip_name(segment: Segment) -> str:
    """Return the usual file name, ``ID_SSSSSS_EEEEEE.mp4``: start and end in whole seconds, rounded down.

    >>> clip_name(Segment("abseiling", "0wR5jVB-WPk", 417.0, 427.0, "val"))
    '0wR5jVB-WPk_000417_000427.mp4'
    """
    return f"{segment.youtube_id}_{int(segment.start):06d}_{int(segment.end):06d}.mp4"


def read_annotations(file: str | Path) -> list[Segment]:
    """Read an official CSV of Kinetics-400, -600 or -700, in the order of its rows.

    The first line names the columns, in any order: ``youtube_id``, ``time_start``, ``time_end``, ``split`` and, except
    in a test file, ``label``. Other columns (Kinetics-400 has ``is_cc``) are ignored.

    Raises:
        UserError: a missing file or column, a malformed row (with its line number), or no rows.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{file}: no such annotation file; check the path")
    segments: list[Segment] = []
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if missing := {"youtube_id", "time_start", "time_end", "split"} - set(header):
                raise ValueError(
                    f"no column {' and no column '.join(sorted(missing))} in the first line; expected "
                    "`label,youtube_id,time_start,time_end,split`"
                )
            for row in reader:
                if row:
                    segments.append(_segment(header, row))
                    if (segments[-1].label is None) != (segments[0].label is None):
                        raise ValueError("some rows have a label and some have none")
        except UnicodeDecodeError:
            raise UserError(f"{file}: not UTF-8 text; convert it, e.g. with iconv") from None
        except (ValueError, csv.Error) as error:
            raise UserError(f"{file}:{max(reader.line_num, 1)}: {error}") from None
    if not segments:
        raise UserError(f"{file}: no rows below the header; check the file")
    return segments


def _segment(header: list[str], row: list[str]) -> Segment:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} fields, but the first line has {len(header)}; a comma in a label needs quotes")
    fields = {name: value.strip() for name, value in zip(header, row)}
    youtube_id, split = fields["youtube_id"], fields["split"]
    if not _ID.fullmatch(youtube_id):
        raise ValueError(f"{youtube_id!r} is not a video id: letters, digits, - and _")
    start, end = _seconds(fields, "time_start"), _seconds(fields, "time_end")
    if not 0 <= start < end:
        raise ValueError(f"time_start {start:g} and time_end {end:g}: expected 0 <= time_start < time_end")
    split = _SPLITS.get(split, split)
    if split not in ("train", "val", "test"):
        raise ValueError(f"split {split!r}: expected train, val (or validate) or test")
    label = sys.intern(fields.get("label", ""))  # one string a class, not a row
    return Segment(label or None, youtube_id, start, end, sys.intern(split))


def _seconds(fields: dict[str, str], name: str) -> float:
    try:
        value = float(fields[name])
    except ValueError:
        raise ValueError(f"{name} {fields[name]!r} is not a number of seconds") from None
    if not value < 1e6:  # six digits; also nan and inf
        raise ValueError(f"{name} {fields[name]!r} is not a number of seconds below 1,000,000")
    return value

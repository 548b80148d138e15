"""Write the lists of UCF-101, HMDB-51 and Something-Something v2."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from data_tools.lists.official import Row, read_official
from data_tools.lists.writing import NO_FILE, create_folder, split_report, write_table
from octvideo.data.lists import format_row, write_lines
from octvideo.data.media import scan_folder
from octvideo.errors import UserError

__all__ = ["make_official"]


def make_official(folder: Path, split: int, videos: Path, output: Path) -> list[str]:
    """Write the files of a data set that is not Kinetics; return the lines of the report.

    Raises:
        UserError: an official file is missing or malformed, or there are no videos.
    """
    rows, classes = read_official(folder, split)
    if not videos.is_dir():
        raise UserError(f"{videos}: no such folder; check --videos")
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for path in scan_folder(videos):
        by_stem[os.path.splitext(os.path.basename(path))[0]].append(path)
    lines: defaultdict[str, list[str]] = defaultdict(list)
    missing: defaultdict[str, list[tuple[Row, str]]] = defaultdict(list)
    used = set()
    for row in rows:
        paths = by_stem.get(row.name, [])
        # A name that several classes have is in the folder of each.
        best = next((path for path in paths if row.label in path.split("/")), paths[0] if paths else None)
        if best is None:
            missing[row.split].append((row, NO_FILE))
        else:
            used.add(best)
            lines[row.split].append(format_row(best, -1 if row.label is None else classes.index(row.label)))
    if not used:
        raise UserError(
            f"{videos}: none of the {len(rows)} videos of the official files is in this folder; expected names such as "
            f"{rows[0].name}.mp4, in any folders"
        )
    create_folder(output)
    splits = dict.fromkeys(row.split for row in rows)
    for name in splits:
        if lines[name]:
            write_lines(output / f"{name}.csv", lines[name])
        write_table(
            output / f"missing_{name}.csv",
            ["video", "label", "reason"],
            [[row.name, row.label or "", reason] for row, reason in missing[name]],
        )
    write_lines(output / "classes.txt", classes)
    unlisted = sorted(path for paths in by_stem.values() for path in paths if path not in used)
    write_lines(output / "not_listed.txt", map(format_row, unlisted))
    return [
        *(split_report(name, lines[name], missing[name], output) for name in splits),
        f"videos: {len(used) + len(unlisted)} in the folder, {len(unlisted)} not in this split -> "
        f"{output}/not_listed.txt",
    ]

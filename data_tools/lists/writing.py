"""What the lists of all data sets need: their folder, tables of missing videos, and a line of the report."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from octvideo.data.lists import write_lines
from octvideo.errors import UserError
from octvideo.files import writing

__all__ = ["NO_FILE", "create_folder", "split_report", "write_table"]

NO_FILE = "no file"


def write_table(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file; remove it where there are no rows, as it may be of an earlier run."""
    if rows:
        write_lines(file, map(_csv_line, [header, *rows]))
        return
    with writing(file):
        file.unlink(missing_ok=True)


def create_folder(output: Path) -> None:
    """Create the folder of the lists.

    Raises:
        UserError: it cannot be created.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be created ({error.strerror}); choose another --output") from None


def _csv_line(cells: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def split_report(split: str, found: list[str], missing: Sequence[tuple[object, str]], output: Path) -> str:
    """Return the line of the report about a split: its lines, and what is missing with the reasons."""
    text = f"{split}: {len(found) + len(missing)} rows, {len(found)} found"
    text += f" -> {output / split}.csv" if found else " (no list is written)"
    if missing:
        reasons = ", ".join(
            f"{reason} {count}" for reason, count in Counter(reason for _, reason in missing).most_common()
        )
        text += f"; {len(missing)} missing ({reasons}) -> {output}/missing_{split}.csv"
    return text

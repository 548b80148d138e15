"""Check many videos: their list, the report, and the list of intact ones."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from octvideo.data.checking.video import UNFINISHED, Checked, check_video, stamp
from octvideo.data.index import read_index
from octvideo.data.lists import format_row, is_comment
from octvideo.data.media import frame_folders, is_video, list_suffixes, passed_over_text, scan_folder
from octvideo.data.shards import is_sharded
from octvideo.errors import UserError
from octvideo.files import write_text
from octvideo.parts import Part
from octvideo.records import Record
from octvideo.workers import WorkerFailed, map_in_workers

__all__ = ["CheckReport", "Source", "read_source"]

_FIELDS = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Checked)}


@dataclass(frozen=True)
class Source:
    """Videos to check.

    Attributes:
        file: the list or the folder.
        lines: of a list; each with the path of its video, None for a comment.
        own_root: whether paths in the lines are relative to the list's own folder.
        passed_over: what the scan of a folder left out, for messages.
    """

    file: Path
    lines: list[tuple[str, str | None]]
    own_root: bool
    passed_over: str = ""

    @property
    def paths(self) -> list[str]:
        """Return each video once, in order."""
        return list(dict.fromkeys(path for _, path in self.lines if path is not None))

    def check_target(self, target: Path) -> None:
        """Raise UserError if ``target`` cannot be written, or if these lines would mean other videos there."""
        # Before hours of decoding, not after them.
        if target.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
            raise UserError(f"--clean-list {target}: cannot be written; name a file in a folder that can be written to")
        if self.file.is_file() and target.resolve() == self.file.resolve():
            raise UserError(f"--clean-list {target}: this is the list itself; give another name")
        if self.own_root and target.resolve().parent != self.file.resolve().parent:
            raise UserError(
                f"--clean-list {target}: {self.file} has paths relative to its own folder; write the clean list there, "
                "or give --root"
            )


def read_source(file: Path, root: str = "", classes: str = "", *, listable: bool = False) -> Source:
    """Read a list, a folder with one subfolder per class, or any folder with videos (whose lines have no labels).

    Args:
        file: the list or the folder.
        root: DATA.ROOT of a list.
        classes: DATA.CLASSES.
        listable: a list will be written; otherwise the lines of a folder are empty.

    Raises:
        UserError: it is missing or has no videos, or a name does not fit into a list.
    """
    if is_sharded(file):
        raise UserError(f"{file}: these are tar shards; check the videos that they were made from")
    if file.is_file() and is_video(file.name):
        raise UserError(f"{file}: this is a video; pass its folder, or a list with one `path label` per line")
    if not file.is_dir():
        index = read_index(file, root=root, classes_file=classes)
        numbers = iter(range(len(index)))
        lines: list[tuple[str, str | None]] = []
        text = file.read_bytes().decode("utf-8-sig")
        # Not `splitlines`: a path may contain other line separators.
        for line in text.removesuffix("\n").split("\n" if "\n" in text else "\r"):
            line = line.removesuffix("\r")
            is_row = line.strip() and not is_comment(line, Path(root) if root else file.parent)
            lines.append((line, index.path(next(numbers)) if is_row else None))
        relative = any(path is not None and not (os.path.isabs(path) and path in line) for line, path in lines)
        return Source(file, lines, relative and not root)
    passed_over: Counter[str] = Counter()
    found = list(scan_folder(file, passed_over=passed_over))
    if not found:
        found = list(frame_folders(file))
        passed_over.clear()
    if not found:
        raise UserError(f"{file}: no videos in this folder (looked for {list_suffixes()})")
    if any("/" not in path for path in found):
        labelled = [(str(file / path), -1) for path in found]
    else:
        index = read_index(file, classes_file=classes)
        labelled = [(index.path(number), index.label(number)) for number in range(len(index))]
    lines = [(format_row(os.path.abspath(path), label) if listable else "", path) for path, label in labelled]
    return Source(file, lines, False, passed_over_text(passed_over))


class CheckReport:
    """Check videos and write a report. A context manager.

    Results are appended to ``FILE.part`` (JSON lines) at once; ``FILE`` is written at the end, in order. An interrupted
    check resumes from it: unchanged files in either are not decoded again, except those that timed out or crashed.

    Args:
        path: .csv or .jsonl; None for no file.
        part: check a part of the videos, and leave ``FILE`` to a check of all; see ``Record``.

    Raises:
        UserError: the file is not a report, or cannot be written.
    """

    def __init__(self, path: Path | None, part: Part | None = None) -> None:
        self.path, self.reused, self._part = path, 0, part
        self._known: dict[str, Checked] = {}
        self._rows: list[Checked] = []
        self._record: Record | None = None
        if path is None:
            return
        with _option():
            if path.is_file():
                self._add_known(_from_json(path) if _is_json(path) else _from_csv(path))
            self._record = Record(path, "path", part, keep=None).__enter__()
            self._add_known(_checked(self._record))

    def _add_known(self, rows: Iterable[Checked]) -> None:
        self._known.update((row.path, row) for row in rows)

    def __enter__(self) -> CheckReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.path is None or self._record is None:
            return
        try:
            if kind is None and self._part is None:
                lines = "".join(map(_json_line, self._rows)) if _is_json(self.path) else _as_csv(self._rows)
                write_text(self.path, lines)
                self._record.discard()
        finally:
            self._record.__exit__(kind, error, traceback)

    def merge(self, paths: Sequence[str]) -> Iterator[Checked]:
        """Yield the results that parts have found, in order.

        Raises:
            UserError: one is missing.
        """
        assert self._record is not None
        self._record.require(paths)
        self._rows = [self._known[path] for path in paths]
        self.reused = len(self._rows)
        yield from self._rows

    def check(self, paths: Sequence[str], workers: int, timeout: float) -> Iterator[Checked]:
        """Yield the result of each file, in order, from ``workers`` processes with ``timeout`` seconds per file."""
        paths = [path for path in paths if self._part is None or self._part.has(path)]
        known = [self._known_result(path) for path in paths]
        self.reused = sum(row is not None for row in known)
        todo = [path for path, row in zip(paths, known) if row is None]
        results = map_in_workers(check_video, todo, workers=workers, timeout=timeout)
        for path, row in zip(paths, known):
            if row is None:
                result = next(results)
                row = _unfinished(path, result) if isinstance(result, WorkerFailed) else result
                if self._record is not None:
                    with _option():
                        self._record.add(asdict(row))
            self._rows.append(row)
            yield row

    def _known_result(self, path: str) -> Checked | None:
        row = self._known.get(path)
        if row is None or row.status == UNFINISHED or not row.mtime or (row.size, row.mtime) != stamp(path):
            return None
        return row


@contextlib.contextmanager
def _option() -> Iterator[None]:
    """Name the option in errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"--report {str(error).removeprefix('--report ')}") from None


def _unfinished(path: str, lost: WorkerFailed) -> Checked:
    size, mtime = stamp(path)
    return Checked(path, UNFINISHED, size=size, mtime=mtime, error=str(lost))


def _is_json(report: Path) -> bool:
    return report.suffix.lower() == ".jsonl"


def _json_line(row: Checked) -> str:
    return json.dumps(asdict(row)) + "\n"


def _as_csv(rows: Sequence[Checked]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_FIELDS)
    writer.writerows(asdict(row).values() for row in rows)
    return buffer.getvalue()


def _from_json(file: Path) -> Iterator[Checked]:
    """Parse JSON lines; skip a line that is cut."""
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line]
    if lines and not lines[0].startswith('{"path": '[: len(lines[0])]):
        raise _not_a_report(file)
    for line in lines:
        with contextlib.suppress(ValueError):
            yield from _checked([json.loads(line)])


def _checked(rows: Iterable[dict[str, Any]]) -> Iterator[Checked]:
    for row in rows:
        with contextlib.suppress(TypeError):  # of another version
            yield Checked(**row)


def _from_csv(file: Path) -> Iterator[Checked]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
        rows = csv.reader(text)
        if next(rows, []) != list(_FIELDS):
            raise _not_a_report(file)
        for row in rows:
            with contextlib.suppress(ValueError):  # an edited row: its video is decoded again
                yield Checked(**{name: kind(value) for (name, kind), value in zip(_FIELDS.items(), row, strict=True)})


def _not_a_report(file: Path) -> UserError:
    return UserError(f"--report {file}: this file exists and is not a report of this command; choose another name")

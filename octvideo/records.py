"""Keep the results of long work in files that survive a kill: append-only JSON lines, merged at the end."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from octvideo.errors import UserError
from octvideo.files import atomic_write, discard, writing
from octvideo.parts import Part

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Record"]

_PART = re.compile(r"part(?:-(\d+)-of-(\d+))?")
_PATIENCE = 5.0  # seconds in which the workers of a killed process end, which have its locks too
_LONG_PATIENCE = 600.0  # the same for a job that SLURM has requeued: its lost node may not know that yet


class Record:
    """Results by key, for ``FILE``, which is written at the end. A context manager ::

        FILE.part           appended to by a run of everything, or
        FILE.part-3-of-8    by one of 8 tasks
        FILE                all results, once they are there

    A line counts when it is whole, so a kill loses at most the line being written. A later line of a key replaces an
    earlier one. A process that resumes, with the same number of tasks or another one, knows what all of these have; a
    task leaves out the files of its sisters, which have other keys.

    Args:
        file: the result.
        key: name of the entry of a row that identifies it.
        part: the part that this process works on; None: everything, and nobody else works on a part.
        keep: tells whether a row of ``file`` itself is known; the others are to be made anew. None: it is not read.

    Raises:
        UserError: a file cannot be read or written, has something else, or another process uses it.
    """

    def __init__(
        self,
        file: Path,
        key: str,
        part: Part | None = None,
        *,
        keep: Callable[[dict[str, Any]], bool] | None = lambda row: True,
    ) -> None:
        self.file, self.key, self.part, self._keep = file, key, part, keep
        self._lines: dict[str, str] = {}  # text takes a tenth of the memory of the parsed line
        self._files = ExitStack()
        self._merged: list[Path] = []

    @property
    def path(self) -> Path:
        """The file that this process appends to."""
        return self.file.with_name(f"{self.file.name}.{self.part.suffix if self.part else 'part'}")

    def _parts(self) -> dict[Path, tuple[int, int] | None]:
        """Return the files of all runs beside ``FILE``, with number and count of the part."""
        found: dict[Path, tuple[int, int] | None] = {}
        for path in sorted(self.file.parent.iterdir()):
            if path.name.startswith(f"{self.file.name}."):
                match = _PART.fullmatch(path.name[len(self.file.name) + 1 :])
                if match:
                    found[path] = (int(match[1]), int(match[2])) if match[1] else None
        return found

    def __enter__(self) -> Record:
        with ExitStack() as files, writing(self.file):
            if self.file.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            if self._keep is not None and self.file.exists():
                self._read(self.file, strict=True)
                self._lines = {key: line for key, line in self._lines.items() if self._keep(json.loads(line))}
            self._output: IO[bytes] = files.enter_context(self.path.open("ab", buffering=0))
            self._lock(self._output, self.path)
            for path, place in self._parts().items():
                if path != self.path and self.part is None:
                    self._lock(files.enter_context(path.open("rb")), path)
                self._merged.append(path)
                if self.part is None or place is None or place[1] != self.part.total or place[0] == self.part.number:
                    self._read(path)
            self._cut()
            self._files = files.pop_all()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._files.close()
        if self.path != self.file and self.path.exists() and not self.path.stat().st_size:
            discard(self.path)

    def _lock(self, file: IO[bytes], path: Path) -> None:
        requeued = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        end = time.monotonic() + (_LONG_PATIENCE if requeued else _PATIENCE)
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UserError(f"{path}: another process writes this file; wait for its end") from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                return

    def _read(self, path: Path, *, strict: bool = False) -> None:
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n"):  # being written, or a process was killed while it wrote this line
                    return
                try:
                    line = data.decode().rstrip("\n")
                    self._lines[json.loads(line)[self.key]] = line
                except (ValueError, KeyError, TypeError):
                    if strict:
                        raise UserError(
                            f"{path}:{number}: not a line of this command's results; choose another name, or remove "
                            "the file"
                        ) from None

    def _cut(self) -> None:
        """Remove the end of a line that a kill has cut."""
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end:
                start = max(0, end - 65536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
        if end < size:
            self._output.truncate(end)

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def get(self, key: str) -> dict[str, Any]:
        """Return the row of a key; {} if there is none."""
        return json.loads(self._lines.get(key, "{}"))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._lines.values())

    def add(self, row: dict[str, Any]) -> None:
        """Append a row.

        Raises:
            UserError: the file cannot be written.
        """
        line = json.dumps(row, ensure_ascii=False)
        if not line.isascii() and any("\ud800" <= letter <= "\udfff" for letter in line):  # a name not in UTF-8
            line = json.dumps(row)
        data = f"{line}\n".encode()
        with writing(self.path):
            size = self._output.seek(0, os.SEEK_END)
            try:
                if self._output.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._output.truncate(size)
                raise
        self._lines[row[self.key]] = line

    def require(self, keys: Sequence[str]) -> None:
        """Raise UserError unless all of these have a row."""
        missing = [key for key in keys if key not in self._lines]
        if missing:
            raise UserError(
                f"{self.file}: {len(missing)} of {len(keys)} have no result yet, {missing[0]} for one: a task has not "
                "finished its part; run or submit the same command again, which does what is missing"
            )

    def write(self, keys: Iterable[str]) -> None:
        """Write the rows of these keys to ``FILE``, whole, in this order.

        Raises:
            UserError: it cannot be written.
        """
        with atomic_write(self.file) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{self._lines[key]}\n" for key in keys)

    def discard(self) -> None:
        """Remove what this run and earlier ones have appended to; ``FILE`` has it all."""
        for path in self._merged:
            discard(path)

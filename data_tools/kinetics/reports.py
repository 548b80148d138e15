"""The report of a run, which survives a kill, and the lock on its output folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from octvideo.errors import UserError
from octvideo.files import atomic_write, writing

__all__ = ["Report", "Result", "exclusive"]


class Result(NamedTuple):
    """The result of a job: ``status`` is ok, gone, private or failed; ``reason`` is one line."""

    status: str
    reason: str = ""
    bytes: int = 0
    attempts: int = 1


class Report:
    """JSON lines, one per job; a later line of a job replaces an earlier one. A context manager.

    Lines are appended as jobs end, so a kill loses at most the line being written. At the start and the end of a run,
    earlier lines of each job are dropped.

    Args:
        path: the file; created if there is none.

    Raises:
        UserError: it cannot be read or written, or is not a report.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, str] = {}  # text takes a tenth of the memory of the parsed line

    def __enter__(self) -> Report:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._read()
                self._compact()
            self._file = self.path.open("ab", buffering=0)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._file.close()
        try:
            self._compact()
        except UserError:
            if kind is None:
                raise  # else the error that ends the run matters; the appended lines are whole

    def _read(self) -> None:
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                try:
                    self._lines[json.loads(line)["clip"]] = line.rstrip("\n")
                except (ValueError, KeyError, TypeError):
                    if line.endswith("\n"):  # otherwise a run was killed while it wrote this line
                        raise UserError(
                            f"{self.path}:{number}: not a line of a report; choose another --report, or remove the file"
                        ) from None

    def _compact(self) -> None:
        with atomic_write(self.path) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self._lines.values())

    def get(self, clip: str) -> dict[str, Any]:
        """Return the line of a job; {} if there is none."""
        return json.loads(self._lines.get(clip, "{}"))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._lines.values())

    def add(self, clip: str, result: Result, **values: Any) -> None:
        """Append the line of a job.

        Raises:
            UserError: the file cannot be written.
        """
        line = json.dumps({"clip": clip, **result._asdict(), **values}, ensure_ascii=False)
        data = f"{line}\n".encode()
        with writing(self.path):
            size = self._file.tell()
            try:
                if self._file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._file.truncate(size)
                raise
        self._lines[clip] = line


@contextmanager
def exclusive(folder: Path) -> Iterator[Path]:
    """Create ``folder/.partial`` for unfinished files and keep other runs out; empty folders in it are removed after.

    SIGTERM, which a batch system sends, interrupts the run like Ctrl-C.

    Raises:
        UserError: another run uses the folder, or it cannot be written.
    """
    partial = folder / ".partial"
    with writing(folder):
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / "lock").open("w", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another run uses this folder; wait for it, or choose another --output"
            ) from None
        except OSError:
            pass  # a file system without locks
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield partial
        finally:
            signal.signal(signal.SIGTERM, before)
            (partial / "lock").unlink(missing_ok=True)
            for path in sorted((path for path in partial.rglob("*") if path.is_dir()), reverse=True):
                if not any(path.iterdir()):
                    path.rmdir()
            if not any(partial.iterdir()):
                partial.rmdir()

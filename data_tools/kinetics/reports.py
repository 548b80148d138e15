"""What a run leaves: a report that is whole whenever it ends, and files that have their names only when they are."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from octvideo.errors import UserError
from octvideo.files import discard, replace_durably, writing

__all__ = ["Outcome", "Report", "locked"]


class Outcome(NamedTuple):
    """How a job ended: ``status`` is ok, gone, private or failed; ``reason`` is one line."""

    status: str
    reason: str = ""
    bytes: int = 0
    attempts: int = 1


class Report:
    """JSON lines, one a job; a later line of a job replaces an earlier one. A context manager; used by many threads.

    Lines are appended as jobs end, so a run that is killed leaves all but at most the last. When a run begins and when
    it ends, each job's last line is kept.

    Args:
        path: of the file, which is made where there is none.

    Raises:
        UserError: it cannot be read or written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, str] = {}  # texts take a tenth of the memory of what they say
        self._lock = threading.Lock()

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
        except OSError:
            if kind is None:
                raise  # a full disk is told once; the lines appended are whole as they are

    def _read(self) -> None:
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                try:
                    self._lines[json.loads(line)["clip"]] = line.rstrip("\n")
                except (ValueError, KeyError, TypeError):
                    if line.endswith("\n"):  # else a run was killed while it wrote this line
                        raise UserError(
                            f"{self.path}:{number}: not a line of a report; choose another --report, or remove the file"
                        ) from None

    def _compact(self) -> None:
        partial = self.path.with_name(f".{self.path.name}.part")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in self._lines.values())
            replace_durably(partial, self.path)
        except OSError:
            discard(partial)
            raise

    def get(self, clip: str) -> dict[str, Any]:
        """What is known of a job; empty where nothing is."""
        return json.loads(self._lines.get(clip, "{}"))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._lines.values())

    def add(self, clip: str, outcome: Outcome, **values: Any) -> None:
        """Notes how a job ended.

        Raises:
            UserError: the file cannot be written.
        """
        line = json.dumps({"clip": clip, **outcome._asdict(), **values}, ensure_ascii=False)
        with self._lock, writing(self.path):
            size = self._file.tell()
            data = f"{line}\n".encode()
            try:
                if self._file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._file.truncate(size)
                raise
            self._lines[clip] = line


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Makes ``folder/.partial`` for files that are not finished, and keeps other runs out; removed at the end if empty.

    Raises:
        UserError: another run is at work there, or it cannot be written.
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
                f"{folder}: another run is at work there; wait for it, or choose another --output"
            ) from None
        except OSError:
            pass  # a file system without locks
        try:
            yield partial
        finally:
            (partial / "lock").unlink(missing_ok=True)
            for path in sorted(partial.rglob("*"), reverse=True):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
            if not any(partial.iterdir()):
                partial.rmdir()

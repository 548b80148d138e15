"""The report of a run, which survives a kill, and the lock on its output folder."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from octvideo.errors import UserError
from octvideo.files import writing
from octvideo.parts import Part
from octvideo.records import Record

__all__ = ["Report", "Result", "exclusive"]


class Result(NamedTuple):
    """The result of a job: ``status`` is ok, gone, private or failed; ``reason`` is one line."""

    status: str
    reason: str = ""
    bytes: int = 0
    attempts: int = 1


class Report(Record):
    """The record of a run: JSON lines, one per job, in the order of ``order``, then those of other runs.

    A run of all appends to the file itself, and puts it in order at the end, also one that an error brings.

    Args:
        path: the file; created, with its folder, if there is none.
        part: see ``Record``.

    Raises:
        UserError: it cannot be read or written, or is not a report.
    """

    def __init__(self, path: Path, part: Part | None = None) -> None:
        super().__init__(path, "clip", part)
        self.order: Sequence[str] = ()

    @property
    def path(self) -> Path:
        """The file that this process appends to."""
        return super().path if self.part else self.file

    def __enter__(self) -> Report:
        with writing(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        super().__enter__()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if self.part is None:
                known = [row["clip"] for row in self]
                self.write(dict.fromkeys([*(clip for clip in self.order if clip in self), *known]))
                self.discard()
        except UserError:
            if kind is None:
                raise  # else the error that ends the run matters; the appended lines are whole
        finally:
            super().__exit__(kind, error, traceback)

    def note(self, clip: str, result: Result, **values: Any) -> None:
        """Append the line of a job.

        Raises:
            UserError: the file cannot be written.
        """
        self.add({"clip": clip, **result._asdict(), **values})


@contextmanager
def exclusive(folder: Path, part: Part | None = None) -> Iterator[Path]:
    """Create ``folder/.partial`` for unfinished files and keep other runs out; empty folders in it are removed after.

    A part of a run has a folder in that one, and keeps out the same part.
    SIGTERM, which a batch system sends, interrupts the run like Ctrl-C.

    Raises:
        UserError: another run uses the folder, or it cannot be written.
    """
    root = folder / ".partial"
    partial = root / part.suffix if part else root
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
            below = sorted((path for path in partial.rglob("*") if path.is_dir()), reverse=True)
            for path in dict.fromkeys([*below, partial, root]):
                with suppress(OSError):  # it is not empty, or another part is faster
                    path.rmdir()

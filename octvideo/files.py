"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from octvideo.errors import UserError

__all__ = ["discard", "partial_of", "replace", "whole_file", "write_bytes", "write_text"]


def partial_of(path: Path) -> Path:
    """What a file is called while this process writes it: hidden, in the same folder, of the same suffix."""
    return path.with_name(f".{os.getpid()}.{path.name}")


def replace(partial: Path, path: Path) -> None:
    """Gives a file that was written under another name its own one, when its content is on the disk."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def discard(path: Path) -> None:
    """Removes a temporary file if it is there and can be removed.

    On a read-only file system even the removal of a missing file fails; the error that matters is raised already.
    """
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def whole_file(path: Path, *, parents: bool = False) -> Iterator[Path]:
    """Yields the name to write to; an error in between leaves what was at ``path`` before, and nothing beside it.

    Args:
        path: of the file.
        parents: make its folder where there is none.

    Raises:
        UserError: the file cannot be written (an OSError).
    """
    partial = partial_of(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # a place that cannot be written is told before the work
        yield partial
        replace(partial, path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); free some space, or choose another place") from None
    finally:
        discard(partial)


def write_bytes(path: Path, content: bytes, *, parents: bool = False) -> None:
    """A whole file of these bytes; ``parents`` as in ``whole_file``.

    Raises:
        UserError: it cannot be written.
    """
    with whole_file(path, parents=parents) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of UTF-8 text; names of another encoding are the bytes that they are."""
    write_bytes(path, text.encode(errors="surrogateescape"))

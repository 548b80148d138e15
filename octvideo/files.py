"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from octvideo.errors import UserError

__all__ = ["atomic_write", "discard", "partial_path", "replace_durably", "write_bytes", "write_text", "writing"]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); free some space, or choose another place") from None


def partial_path(path: Path) -> Path:
    """Return the name of a file while this process writes it: hidden, same folder, same suffix."""
    return path.with_name(f".{os.getpid()}.{path.name}")


def replace_durably(partial: Path, path: Path) -> None:
    """Rename a finished file. After a power cut the old file or the new one is there, whole."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    if hasattr(os, "O_DIRECTORY"):  # not on Windows, which cannot open a folder
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def discard(path: Path) -> None:
    """Remove a temporary file if it exists and can be removed.

    On a read-only file system even the removal of a missing file fails. The error that matters was raised before.
    """
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def atomic_write(path: Path, *, parents: bool = False) -> Iterator[Path]:
    """Yield the name to write to. After an error ``path`` has its old content, and no other file is left.

    Args:
        path: the file.
        parents: create its folder if there is none.

    Raises:
        UserError: the file cannot be written.
    """
    partial = partial_path(path)
    try:
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            if parents:
                path.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()  # fail before the work, not after it
            yield partial
            replace_durably(partial, path)
    finally:
        discard(partial)


def write_bytes(path: Path, content: bytes, *, parents: bool = False) -> None:
    """Write a whole file; see ``atomic_write``.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(path, parents=parents) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole file in UTF-8. File names in another encoding keep their bytes.

    Raises:
        UserError: the file cannot be written.
    """
    write_bytes(path, text.encode(errors="surrogateescape"))

"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from octvideo.errors import UserError

__all__ = [
    "atomic_write",
    "discard",
    "first_bytes",
    "foreign_content",
    "partial_path",
    "replace_durably",
    "write_bytes",
    "write_text",
    "writing",
]


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


def first_bytes(source: str | Path | bytes) -> bytes:
    """Return the first 512 bytes of a file, or of the content of one; b"?" if it cannot be read."""
    if isinstance(source, bytes):
        return source[:512]
    try:
        with open(source, "rb") as file:
            return file.read(512)
    except OSError:
        return b"?"


def foreign_content(source: str | Path | bytes) -> str:
    """Tell from its beginning what a file is that is often taken for a video or for weights; "" for others."""
    start = first_bytes(source)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "the file is empty"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page; give the address of the file itself"
    if text.startswith((b"#extm3u", b"<mpd", b"<?xml")) and (b"#extm3u" in text or b"<mpd" in text):
        return "a playlist; --webcam reads it as a stream"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; run: git lfs pull"
    return ""

"""Paths and labels of videos, compactly."""

from __future__ import annotations

import copy
import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from octvideo.data.classes import match, nfc

__all__ = ["VideoIndex", "pack_rows"]


class VideoIndex:
    """Paths and labels of videos in three arrays: about 80 MB for a million videos.

    Forked processes share the arrays, since reading them changes no reference count ::

        _bytes   a.mp4b/c.mp4d.mp4        labels   0 2 0
        _ends         5      12   17      path(1) = root / _bytes[5:12]

    Args:
        paths: one per video.
        labels: class numbers; -1 means unknown.
        classes: names by class number; empty if unknown.
        root: prefix of relative paths.

    Attributes:
        numbered: there are no class names; ``classes`` are the numbers up to the largest label.
        passed_over: what the scan of a folder left out, for messages; "" for nothing.
    """

    numbered = False
    passed_over = ""

    def __init__(
        self, paths: Iterable[str], labels: Iterable[int], classes: Sequence[str] = (), *, root: str = ""
    ) -> None:
        self._bytes, self._ends, self.labels = pack_rows(zip(map(os.fsencode, paths), labels))
        self.classes, self.root = list(classes), root

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[bytes, int]], classes: Sequence[str] = (), *, root: str = "") -> VideoIndex:
        """Build an index from (path, label) pairs without keeping them."""
        index = cls((), (), classes, root=root)
        index._bytes, index._ends, index.labels = pack_rows(rows)
        return index

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Return the path of a video."""
        start = self._ends[index - 1] if index else 0
        return os.path.join(self.root, os.fsdecode(self._bytes[start : self._ends[index]].tobytes()))

    def source(self, index: int) -> str | bytes:
        """Return what ``open_video`` opens: the path, or the content of a video inside a shard."""
        return self.path(index)

    def label(self, index: int) -> int:
        """Return the class number of a video; -1 means unknown."""
        return int(self.labels[index])

    def fingerprint(self) -> str:
        """Return a SHA-256 of paths and labels in their order.

        Paths count relative to the folder that all of them share, so a data set keeps its fingerprint when it moves.
        The Unicode form of names does not matter: a copy to another system may change it.
        """
        data = self._bytes.tobytes()
        paths = [_composed(data[start:end]) for start, end in zip([0, *self._ends[:-1].tolist()], self._ends.tolist())]
        first, last = min(paths, default=b""), max(paths, default=b"")
        same = next((at for at, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
        skip = first.rfind(b"/", 0, same) + 1
        digest = hashlib.sha256(b"\0".join(path[skip:] for path in paths))
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def renumber(self, classes: Sequence[str]) -> None:
        """Change the labels to the numbers of their classes in ``classes``; see ``octvideo.data.classes.match``.

        Raises:
            KeyError: holds the number of a video whose class is not in ``classes``.
        """
        places = [-2 if place is None else place for place in match(self.classes, classes)]
        labels = np.array([*places, -1], dtype=np.int64)[self.labels]  # label -1 finds the last entry, -1
        if (labels == -2).any():
            raise KeyError(int((labels == -2).argmax()))
        self.labels, self.classes, self.numbered = labels, list(classes), False

    def renumbered(self, classes: Sequence[str]) -> VideoIndex:
        """Return a renumbered copy; see ``renumber``."""
        index = copy.copy(self)
        index.renumber(classes)
        return index


def _composed(path: bytes) -> bytes:
    if path.isascii():
        return path
    return nfc(path.decode(errors="surrogateescape")).encode(errors="surrogateescape")


def pack_rows(rows: Iterable[tuple[bytes, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all paths joined, the end of each one, and the labels."""
    data, ends, labels = bytearray(), array("q"), array("q")
    for path, label in rows:
        data += path
        ends.append(len(data))
        labels.append(label)
    return np.asarray(data, dtype=np.uint8), np.asarray(ends, dtype=np.int64), np.asarray(labels, dtype=np.int64)

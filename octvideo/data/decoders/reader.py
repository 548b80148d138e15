"""What every decoder offers, and what it may raise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

__all__ = ["CannotCount", "DecodeError", "Reader", "scaled_size"]


class Reader(Protocol):
    """An open video whose frames are numbered from 0 in the order in which they are shown.

    It is made with ``(source, short_side)``: a path or the content of a file, and the length in pixels that the
    shorter side of each frame shall have, None for the size in the file. Any exception means that it cannot be read.

    Attributes:
        fps: average frames per second.
    """

    fps: float

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Sorted, unique frame numbers to upright uint8 RGB ``(n, H, W, 3)``."""

    def close(self) -> None:
        """Frees what the file holds."""


class DecodeError(Exception):
    """A video that no decoder reads: ``path`` and ``reason``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, " ".join(reason.split())[:300]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class CannotCount(Exception):
    """The frames that were decoded are not those that the file's timestamps promise."""


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """``(height, width)`` with the shorter side ``short_side``, the other one in proportion.

    >>> scaled_size(720, 1280, 256), scaled_size(256, 341, 128)
    ((256, 455), (128, 170))
    """
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))

"""The interface of a decoder, and its errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

__all__ = ["CannotCount", "DecodeError", "Reader", "scaled_size"]


class Reader(Protocol):
    """An open video whose frames are numbered from 0 in the order in which they are shown.

    Its constructor takes ``(source, short_side)``: a path or the content of a file, and the length in pixels of the
    shorter side of the frames (None: as in the file). Any exception means that the video cannot be read.

    Attributes:
        fps: average frames per second.
        times: of the frames, in seconds; None where the file has no times to rely on.
    """

    fps: float
    times: np.ndarray | None

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield frames by sorted, unique numbers: upright uint8 RGB ``(H, W, 3)``, all of one size."""

    def close(self) -> None:
        """Close the file."""


class DecodeError(Exception):
    """No decoder can read a video; has ``path`` and ``reason``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, " ".join(reason.split())[:300]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class CannotCount(Exception):
    """The decoded frames do not match the file's timestamps."""


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Scale ``(height, width)`` so that the shorter side becomes ``short_side``.

    >>> scaled_size(720, 1280, 256), scaled_size(256, 341, 128)
    ((256, 455), (128, 170))
    """
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))

"""Read videos with decord, if it is installed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence

import numpy as np

from octvideo.data.decoders.reader import scaled_size

# How often decord repeats a read at the end of a file. Its default takes half a minute.
os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")

try:
    import decord
except ImportError:  # no wheel for this platform
    decord = None
else:
    decord.logging.set_level(decord.logging.QUIET)

__all__ = ["DecordReader", "is_installed"]

_BATCH = 32  # frames of at most 1 MB (mp4.py); one at a time takes up to 7 % more time


def is_installed() -> bool:
    return decord is not None


class DecordReader:
    """Read frames by packet. Frame numbers are wrong for hidden frames and open GOPs; see ``mp4.py``."""

    def __init__(self, source: str | bytes, short_side: int | None = None) -> None:
        self._reader = _open(source)
        if not len(self._reader):
            raise ValueError("no frames")
        self.fps = float(self._reader.get_avg_fps())
        self.times: np.ndarray | None = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0]
        if short_side is not None:
            native = self._reader[0].shape
            height, width = scaled_size(native[0], native[1], short_side)
            if (height, width) != native[:2]:
                self._reader = _open(source, width=width, height=height)

    def __len__(self) -> int:
        return len(self._reader)

    def close(self) -> None:
        del self._reader

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for start in range(0, len(indices), _BATCH):
            yield from self._reader.get_batch(list(indices[start : start + _BATCH])).asnumpy()


def _open(source: str | bytes, **size: int) -> decord.VideoReader:
    file = source if isinstance(source, str) else io.BytesIO(source)
    # One thread: the loader's processes are the parallelism.
    return decord.VideoReader(file, ctx=decord.cpu(0), num_threads=1, **size)

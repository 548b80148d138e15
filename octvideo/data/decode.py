"""Frames of a video file by number: decord first, PyAV where decord cannot. Both give the same frames, upright."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

import av
import numpy as np

# decord repeats a read at the end of a file this many times before it gives up; its default takes half a minute.
os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")

try:
    import decord
except ImportError:  # no wheel for this platform
    decord = None
else:
    decord.logging.set_level(decord.logging.QUIET)

__all__ = ["DecodeError", "Video", "open_video"]


class DecodeError(Exception):
    """A video that no decoder reads: ``path`` and ``reason``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, " ".join(reason.split())[:300]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class _Decoder(Protocol):
    fps: float

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Sorted, unique frame numbers to uint8 ``(n, H, W, 3)``."""


class _Decord:
    def __init__(self, path: str) -> None:
        # One thread: the loader's processes are the parallelism.
        self._reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        if not len(self._reader):
            raise ValueError("no frames")
        self.fps = float(self._reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._reader.get_batch(list(indices)).asnumpy()


class _PyAV:
    """Decodes from the beginning and counts: slow, but right where headers and timestamps are not."""

    def __init__(self, path: str) -> None:
        self._path = path
        with av.open(path) as container:
            stream = _best_stream(container)
            self.fps = float(stream.average_rate or 25)
            # Headers may promise more frames than there are, or none.
            self._count = sum(1 for _ in container.decode(stream))
        if not self._count:
            raise ValueError("no frames")

    def __len__(self) -> int:
        return self._count

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        wanted = set(indices)
        found: dict[int, np.ndarray] = {}
        with av.open(self._path) as container:
            for number, frame in enumerate(container.decode(_best_stream(container))):
                if number in wanted:
                    found[number] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    if len(found) == len(wanted):
                        break
        return np.stack([found[index] for index in indices])


def _best_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The stream that decord takes: the best one, not the first."""
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise ValueError("no video stream")
    stream.thread_type = "SLICE"  # frame threads can hang on a corrupt file
    return stream


class Video:
    """An open video. Use as a context manager; indices out of order and repeated are read once.

    Attributes:
        path: of the file.
        fps: average frames per second.
    """

    def __init__(self, path: str, decoder: _Decoder, fall_back: bool) -> None:
        self.path, self._decoder, self._fall_back = path, decoder, fall_back
        self.fps = decoder.fps

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self._decoder

    def __len__(self) -> int:
        return len(self._decoder)

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames ``indices`` (any order, repeats allowed) as uint8 RGB ``(n, H, W, 3)``.

        Raises:
            IndexError: a number is not below the number of frames.
            DecodeError: the data cannot be decoded.
        """
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(unique) and not 0 <= unique[0] <= unique[-1] < len(self):
            raise IndexError(f"{self.path}: frame {unique[-1]} of {len(self)}")
        try:
            frames = self._decoder.frames(unique.tolist())
        except Exception as error:  # decoders raise errors of many kinds
            if not (self._fall_back and isinstance(self._decoder, _Decord)):
                raise DecodeError(self.path, str(error)) from error
            decoder = _open(_PyAV, self.path)
            if len(decoder) != len(self):
                # The numbers were drawn for another length: stretch them over what can be decoded.
                unique = (unique * len(decoder)) // len(self)
                unique, again = np.unique(unique, return_inverse=True)
                inverse = again[inverse]
            self._decoder = decoder
            try:
                frames = decoder.frames(unique.tolist())
            except Exception as second:
                raise DecodeError(self.path, str(second)) from second
        return frames[inverse]


def _open(decoder: type[_Decord] | type[_PyAV], path: str) -> _Decord | _PyAV:
    try:
        return decoder(path)
    except Exception as error:  # decoders raise errors of many kinds
        raise DecodeError(path, str(error)) from error


def open_video(path: str, decoder: str = "auto") -> Video:
    """Opens a video file.

    Args:
        path: of the file.
        decoder: ``"auto"`` (decord, then PyAV), ``"decord"`` or ``"pyav"``.

    Raises:
        DecodeError: it is missing, or no decoder reads it.
    """
    if not os.path.isfile(path):
        raise DecodeError(path, "no such file")
    path = os.path.abspath(path)  # FFmpeg takes a relative `a:b.mp4` for an address
    if decoder == "decord" and decord is None:
        raise DecodeError(path, "decord is not installed; use DATA.DECODER auto or pyav")
    if decoder != "pyav" and decord is not None:
        try:
            return Video(path, _open(_Decord, path), fall_back=decoder == "auto")
        except DecodeError:
            if decoder == "decord":
                raise
    return Video(path, _open(_PyAV, path), fall_back=False)

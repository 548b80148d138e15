"""Read frames of a video by number. Every decoder gives the same upright frames for the same numbers.

A file with the suffix of an image is read by Pillow: one frame, or those of an animation. For videos
``decoder="auto"`` takes:

1. decord, if it is installed and the file's header shows that it numbers the frames correctly (``mp4.py``);
2. otherwise, or if decord fails, PyAV, by timestamps;
3. if timestamps are missing or wrong, PyAV, by decoding from the beginning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from octvideo.data.decoders.decord import DecordReader, is_installed
from octvideo.data.decoders.image import FolderReader, ImageReader
from octvideo.data.decoders.mp4 import is_plain_mp4
from octvideo.data.decoders.pyav import PyAVReader, SequentialReader
from octvideo.data.decoders.reader import DecodeError, Reader
from octvideo.data.decoders.stream import check_pyav
from octvideo.data.decoders.torchcodec import TorchcodecReader, why_not
from octvideo.data.media import is_image
from octvideo.errors import UserError
from octvideo.files import first_bytes, foreign_content

__all__ = ["DECODERS", "DecodeError", "Video", "check_decoder", "open_video"]

DECODERS = ("auto", "decord", "pyav", "torchcodec")

_CHUNK = 32 << 20  # bytes: frames of full size that await their transform

_Opener = Callable[[Any, int | None], Reader]
_PYAV: tuple[_Opener, ...] = (PyAVReader, SequentialReader)


class Video:
    """An open video, used as a context manager.

    Attributes:
        path: path of the file, or the name given for its content.
        fps: average frames per second.
        times: of the frames, in seconds; None where the file has no times to rely on.
    """

    def __init__(self, source: str | bytes, path: str, openers: Sequence[_Opener], short_side: int | None) -> None:
        self._source, self.path, self._short_side = source, path, short_side
        self._reader, self._others = self._open(openers)
        self.fps, self.times = self._reader.fps, self._reader.times

    def _open(self, openers: Sequence[_Opener]) -> tuple[Reader, Sequence[_Opener]]:
        """Return the first reader that opens the file, and the openers after it."""
        for number, opener in enumerate(openers, 1):
            try:
                return opener(self._source, self._short_side), openers[number:]
            except Exception as error:  # decoders raise errors of many kinds
                if number == len(openers):
                    raise DecodeError(self.path, foreign_content(self._source) or str(error)) from error
        raise AssertionError("no openers")

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.close()

    def __len__(self) -> int:
        return len(self._reader)

    def seconds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return when frames begin, in seconds from the first one: float ``(n,)``. ``len`` as an index is the end."""
        times = self._reader.times
        if times is None:
            return np.asarray(indices) / self.fps
        return (np.append(times, times[-1] + 1 / self.fps) - times[0])[np.asarray(indices)]

    def frames(
        self, indices: Sequence[int] | np.ndarray, transform: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> np.ndarray:
        """Read frames as uint8 RGB ``(n, H, W, 3)``; ``indices`` may be in any order and repeat.

        If fewer frames can be decoded than the header promises, ``len`` shrinks and the indices are scaled to it.

        Args:
            indices: numbers of frames.
            transform: what each frame becomes. It gets some frames at a time, ``(m, H, W, 3)``, so that those of a
                large video are not all in memory at full size.

        Raises:
            IndexError: a frame number is out of range.
            DecodeError: the data cannot be decoded.
        """
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(unique) and not 0 <= unique[0] <= unique[-1] < len(self):
            wrong = unique[0] if unique[0] < 0 else unique[-1]
            raise IndexError(f"{self.path}: frame {wrong} of {len(self)}")
        while True:
            try:
                found: list[np.ndarray] = []
                for chunk in self._chunks(unique.tolist()):
                    found.extend(chunk if transform is None else transform(np.stack(chunk)))
                return np.stack([found[place] for place in inverse])
            except DecodeError:
                if not self._others:
                    raise
                promised = len(self)
                reader, self._others = self._open(self._others)
                self._reader.close()
                self._reader = reader
            if len(self) != promised:
                unique, again = np.unique(unique * len(self) // promised, return_inverse=True)
                inverse = again[inverse]

    def _chunks(self, indices: Sequence[int]) -> Iterator[list[np.ndarray]]:
        """Yield the frames ``(H, W, 3)``, at most ``_CHUNK`` bytes at a time, or one."""
        chunk: list[np.ndarray] = []
        try:
            for frame in self._reader.frames(indices):
                if (len(chunk) + 1) * frame.nbytes > _CHUNK and chunk:
                    yield chunk
                    chunk = []
                chunk.append(frame)
        except Exception as error:  # decoders raise errors of many kinds
            raise DecodeError(self.path, str(error)) from error
        yield chunk


def check_decoder(decoder: str) -> None:
    """Check that a decoder can be used on this machine.

    Raises:
        UserError: it is not installed, its libraries cannot be loaded, or PyAV is too old.
        ValueError: unknown name.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r} is not one of {', '.join(DECODERS)}")
    check_pyav()
    if decoder == "decord" and not is_installed():
        raise UserError("DATA.DECODER is decord, which is not installed; use auto or pyav")
    if decoder == "torchcodec" and (reason := why_not()):
        raise UserError(
            f"DATA.DECODER is torchcodec, which cannot be loaded here ({reason}); use auto, or install "
            "octvideo[torchcodec] and FFmpeg"
        )


def open_video(
    source: str | bytes,
    decoder: str = "auto",
    *,
    name: str = "video in memory",
    short_side: int | None = None,
    fps: float = 25.0,
) -> Video:
    """Open a video; an image, which is one frame or an animation; or a folder of numbered images.

    Args:
        source: a path, or the content of a file.
        decoder: ``"auto"`` (see above), ``"decord"`` (the same, but no fallback if decord fails), ``"pyav"`` or
            ``"torchcodec"`` (MP4 and Matroska; PyAV for other files).
        name: for messages, if ``source`` is bytes; its suffix tells images from videos.
        short_side: scale frames so that their shorter side has this many pixels. Cheaper than scaling afterwards, but
            each decoder has its own filter. None: as in the file.
        fps: frames per second of a folder.

    Raises:
        DecodeError: the file is missing, or the decoder cannot read it.
        UserError: see ``check_decoder``.
    """
    check_decoder(decoder)
    if isinstance(source, str):
        name = source
        if os.path.isdir(source):
            return Video(source, name, (partial(FolderReader, fps=fps),), short_side)
        if not os.path.isfile(source):
            raise DecodeError(source, "no such file")
        source = os.path.abspath(source)  # FFmpeg takes a relative `a:b.mp4` for an address
    return Video(source, name, (ImageReader,) if is_image(name) else _openers(source, decoder), short_side)


def _openers(source: str | bytes, decoder: str) -> Sequence[_Opener]:
    """Return the readers of a file in the order in which they are tried."""
    if decoder == "torchcodec" and _has_timestamps(source):
        return (TorchcodecReader,)
    if decoder in ("auto", "decord") and is_installed() and is_plain_mp4(source):
        return (DecordReader, *_PYAV) if decoder == "auto" else (DecordReader,)
    return _PYAV


def _has_timestamps(source: str | bytes) -> bool:
    """Tell whether a file is MP4, MOV, Matroska or WebM. torchcodec numbers frames of other containers wrong."""
    start = first_bytes(source)
    return start[4:8] == b"ftyp" or start[:4] == b"\x1aE\xdf\xa3"

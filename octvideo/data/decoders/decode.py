"""Frames of a video by number, whatever the decoder: the same frames for the same numbers, upright.

A file with the suffix of an image is a video of one frame, which Pillow reads.
Which decoder reads a file with ``decoder="auto"``:

- decord, where the file's header shows that it numbers the frames right (``mp4``) and it is installed;
- PyAV otherwise, or where decord fails, by timestamps;
- PyAV by decoding everything from the beginning, where timestamps are missing or wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType

import av
import numpy as np

from octvideo.data.decoders.decord import DecordReader, is_installed
from octvideo.data.decoders.image import ImageReader
from octvideo.data.decoders.mp4 import is_plain_mp4
from octvideo.data.decoders.pyav import PyAVReader, SequentialReader
from octvideo.data.decoders.reader import DecodeError, Reader
from octvideo.data.decoders.stream import PYAV
from octvideo.data.decoders.torchcodec import TorchcodecReader, why_not
from octvideo.data.media import is_image
from octvideo.errors import UserError

__all__ = ["DECODERS", "DecodeError", "Video", "check_decoder", "open_video"]

DECODERS = ("auto", "decord", "pyav", "torchcodec")

_Opener = Callable[[str | bytes, int | None], Reader]
_PYAV: tuple[_Opener, ...] = (PyAVReader, SequentialReader)


class Video:
    """An open video. Use as a context manager; indices out of order and repeated are read once.

    Attributes:
        path: of the file, or the name that was given for its content.
        fps: average frames per second.
    """

    def __init__(self, source: str | bytes, path: str, openers: Sequence[_Opener], short_side: int | None) -> None:
        self._source, self.path, self._short_side = source, path, short_side
        self._reader, self._others = self._open(openers)
        self.fps = self._reader.fps

    def _open(self, openers: Sequence[_Opener]) -> tuple[Reader, Sequence[_Opener]]:
        """The first of ``openers`` that succeeds, and those after it."""
        for number, opener in enumerate(openers, 1):
            try:
                return opener(self._source, self._short_side), openers[number:]
            except Exception as error:  # decoders raise errors of many kinds
                if number == len(openers):
                    raise DecodeError(self.path, str(error)) from error
        raise AssertionError("no openers")

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.close()

    def __len__(self) -> int:
        return len(self._reader)

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames ``indices`` (any order, repeats allowed) as uint8 RGB ``(n, H, W, 3)``.

        Where the file breaks its promise of so many frames, ``len`` becomes what can be decoded, and the indices are
        stretched over that.

        Raises:
            IndexError: a number is not below the number of frames.
            DecodeError: the data cannot be decoded.
        """
        unique, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if len(unique) and not 0 <= unique[0] <= unique[-1] < len(self):
            wrong = unique[0] if unique[0] < 0 else unique[-1]
            raise IndexError(f"{self.path}: frame {wrong} of {len(self)}")
        while True:
            try:
                return self._reader.frames(unique.tolist())[inverse]
            except Exception as error:  # decoders raise errors of many kinds
                if not self._others:
                    raise DecodeError(self.path, str(error)) from error
                promised = len(self)
                reader, self._others = self._open(self._others)
                self._reader.close()
                self._reader = reader
            if len(self) != promised:
                unique, again = np.unique(unique * len(self) // promised, return_inverse=True)
                inverse = again[inverse]


def check_decoder(decoder: str) -> None:
    """Check that this machine has the decoder that is asked for.

    Raises:
        UserError: it is not installed, its libraries cannot be loaded, or PyAV is too old.
        ValueError: there is no decoder of that name.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r} is not one of {', '.join(DECODERS)}")
    if PYAV < 17:  # setup.py requires it, but any version can be installed by hand
        raise UserError(f"PyAV {av.__version__} reads wrong colours or nothing; run: pip install 'av>=17'")
    if decoder == "decord" and not is_installed():
        raise UserError("DATA.DECODER is decord, which is not installed; use auto or pyav")
    if decoder == "torchcodec" and (reason := why_not()):
        raise UserError(
            f"DATA.DECODER is torchcodec, which cannot be loaded here ({reason}); use auto, or install "
            "octvideo[torchcodec] and FFmpeg"
        )


def open_video(
    source: str | bytes, decoder: str = "auto", *, name: str = "video in memory", short_side: int | None = None
) -> Video:
    """Opens a video, or an image as a video of one frame.

    Args:
        source: a path, or the content of a file.
        decoder: ``"auto"`` (see above), ``"decord"`` (the same, but what decord cannot decode is an error), ``"pyav"``
            or ``"torchcodec"`` (MP4 and Matroska; other kinds of files are read by PyAV).
        name: what errors call a ``source`` of bytes; its suffix tells whether it is an image.
        short_side: the frames come scaled so that their shorter side has so many pixels, the other one in proportion;
            cheaper than scaling them afterwards, but each decoder has its own filter. None: as they are in the file.

    Raises:
        DecodeError: it is missing, or the decoder cannot read it.
        UserError: see ``check_decoder``.
    """
    check_decoder(decoder)
    if isinstance(source, str):
        name = source
        if not os.path.isfile(source):
            raise DecodeError(source, "no such file")
        source = os.path.abspath(source)  # FFmpeg takes a relative `a:b.mp4` for an address
    return Video(source, name, (ImageReader,) if is_image(name) else _openers(source, decoder), short_side)


def _openers(source: str | bytes, decoder: str) -> Sequence[_Opener]:
    """What reads a file, in the order in which it is tried."""
    if decoder == "torchcodec" and _has_timestamps(source):
        return (TorchcodecReader,)
    if decoder in ("auto", "decord") and is_installed() and is_plain_mp4(source):
        return (DecordReader, *_PYAV) if decoder == "auto" else (DecordReader,)
    return _PYAV


def _has_timestamps(source: str | bytes) -> bool:
    """MP4, MOV, Matroska and WebM say when each frame is shown; torchcodec numbers frames of other kinds wrong."""
    if isinstance(source, bytes):
        start = source[:12]
    else:
        with open(source, "rb") as file:
            start = file.read(12)
    return start[4:8] == b"ftyp" or start[:4] == b"\x1aE\xdf\xa3"

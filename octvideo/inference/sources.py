"""Where frames come from: files, folders, addresses of files, cameras and streams.

Clips of a file for prediction are decoded by ``octvideo.data``; what is here reads frames one after the other, which
cameras and streams can do and seeking readers cannot.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from octvideo.download import download
from octvideo.errors import UserError

__all__ = ["FrameReader", "find_videos", "is_url", "local_copy", "open_camera"]

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
_DOWNLOADABLE = ("http://", "https://")
_STREAMS = ("rtsp://", "rtmp://", "rtmps://", "udp://", "tcp://", "srt://", "rtp://", "mms://")
_TIMEOUT = 15.0  # seconds without data after which a server or a camera counts as gone
_DEFAULT_FPS = Fraction(25)


def is_url(source: str) -> bool:
    """Whether a source is an address rather than a path."""
    return source.lower().startswith(_DOWNLOADABLE + _STREAMS)


def find_videos(folder: Path, without: Path | None = None) -> list[Path]:
    """All video files below a folder, known by their suffix, sorted.

    Args:
        folder: where to look.
        without: a folder, perhaps in it, whose files do not count: what an earlier call has written.

    Raises:
        UserError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if without is not None and without.resolve() != folder.resolve():
        found = [path for path in found if not path.parent.resolve().is_relative_to(without.resolve())]
    if not found:
        raise UserError(f"{folder}: no video files in this folder (looked for {' '.join(VIDEO_SUFFIXES)})")
    return found


@contextlib.contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """A path to read a file or the address of a file from; what was downloaded is removed at the end.

    Raises:
        UserError: no such file, the address is of a live stream, or cannot be downloaded.
    """
    if not is_url(source):
        path = Path(source)
        if not path.exists():
            raise UserError(f"{source}: no such file; give the path of a video, a folder or a URL")
        yield path
        return
    if not source.lower().startswith(_DOWNLOADABLE):
        raise UserError(f"{source}: a live stream has no end; give it as --webcam {source}")
    with tempfile.TemporaryDirectory(prefix="octvideo-") as folder:
        target = Path(folder) / "download"
        download(source, target)
        yield target


class FrameReader:
    """Frames of a file, a camera or a stream in order, decoded as they come, upright. A context manager.

    Attributes:
        name: what messages call the source.
        fps: average frames per second; 25 where the source does not say.
        live: frames arrive in real time, so a slow reader must not fall behind.

    Raises:
        UserError: the source cannot be opened, or has no video.
    """

    def __init__(
        self, source: str, *, format: str | None = None, live: bool = False, options: dict[str, str] | None = None
    ) -> None:
        self.name, self.live = source, live
        timeout = _TIMEOUT if live or is_url(source) else None
        try:
            # FFmpeg takes a relative `a:b.mp4` for an address.
            place = os.path.abspath(source) if os.path.isfile(source) else source
            self._container = av.open(place, format=format, options=options or {}, timeout=timeout)
        except (OSError, ValueError, av.FFmpegError) as error:  # not all of av's are one of the others
            raise UserError(f"{source}: cannot be opened as a video ({_reason(error)})") from None
        stream = self._container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            self._container.close()
            raise UserError(f"{source}: has no video stream")
        stream.thread_type = "SLICE"  # frame threads can hang on a corrupt file, and delay a camera
        self._stream = stream
        self.fps = _frame_rate(stream)

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 ``(H, W, 3)`` RGB, all of one size. A break in the middle of the data ends it.

        Raises:
            UserError: not one frame could be decoded.
        """
        shape: tuple[int, ...] | None = None
        frames = self._container.decode(self._stream)
        while True:
            try:
                frame = next(frames)
            except (StopIteration, EOFError):
                break
            except (av.FFmpegError, OSError, ValueError) as error:
                if shape is None:
                    raise UserError(f"{self.name}: cannot be decoded ({_reason(error)})") from None
                print(f"warning: {self.name}: stopped early ({_reason(error)})", file=sys.stderr)
                break
            if shape is None:
                image = _upright(frame)
                shape, coded = image.shape, (frame.width, frame.height)
            elif (frame.width, frame.height) == coded:
                image = _upright(frame)
            else:  # a stream that changes its size: what follows has the first frame's
                image = _upright(frame.reformat(width=coded[0], height=coded[1]))
            yield image
        if shape is None:
            raise UserError(f"{self.name}: no frame could be decoded")


def open_camera(source: str) -> FrameReader:
    """A camera by its number (0 is the first), or a stream by its address or path.

    Raises:
        UserError: there is no such camera or stream.
    """
    if not source.isdecimal():
        return FrameReader(source, live=is_url(source))
    try:
        device, format = _device(int(source))
        return FrameReader(device, format=format, live=True)
    except UserError as error:
        raise UserError(f"--webcam {source}: {error}; give the number of another camera, or a stream's URL") from None


def _device(number: int) -> tuple[str, str]:
    """What FFmpeg calls a camera on this system, and the format it reads it with."""
    if sys.platform == "darwin":
        return f"{number}:none", "avfoundation"
    if sys.platform == "win32":  # DirectShow knows cameras by name alone
        cameras = [found.name for found in av.enumerate_input_devices("dshow") if "video" in found.media_types]
        if number >= len(cameras):
            raise UserError(f"this machine has {len(cameras)} cameras ({', '.join(cameras)}), counted from 0")
        return f"video={cameras[number]}", "dshow"
    return f"/dev/video{number}", "v4l2"


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB as it is meant to be seen: the display matrix is undone (``rotation`` is counter-clockwise, in degrees)."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns))


def _frame_rate(stream: av.VideoStream) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 240:
            return Fraction(rate)
    return _DEFAULT_FPS


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__

"""Read sources of frames: files, URLs, cameras and streams.

These readers deliver frames in order, as cameras and streams do. Clips of files are decoded by ``octvideo.data``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from octvideo.data.decoders.decode import DecodeError, open_video
from octvideo.data.decoders.stream import Decoded, Upright, open_stream
from octvideo.data.media import frames_in
from octvideo.download import download
from octvideo.errors import UserError, reason_of

__all__ = ["FrameReader", "is_url", "local_copy", "open_camera"]

_DOWNLOADABLE = ("http://", "https://")
_STREAMS = ("rtsp://", "rtmp://", "rtmps://", "udp://", "tcp://", "srt://", "rtp://", "mms://")
_TIMEOUT = 15.0  # seconds without data after which a server or a camera counts as dead
_GIVE_UP = 60.0  # seconds in which a camera that restarts is back
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0  # seconds between attempts to open it again
_ERRORS = (OSError, ValueError, av.FFmpegError)  # not all of av's are one of the others
_DEFAULT_FPS = Fraction(25)
_FASTEST_CAMERA, _FASTEST_FILE = 240, 999  # frames per second; recorders of browsers write 1000 and mean nothing by it


def is_url(source: str) -> bool:
    """Tell whether a source is a URL."""
    return source.lower().startswith(_DOWNLOADABLE + _STREAMS)


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
    """Read the frames of a file, a folder of frames, a camera or a stream in order, upright. A context manager.

    Attributes:
        name: the source, for messages.
        fps: average frames per second; 25 if unknown.
        duration: seconds, as the source says; 0 if unknown.
        live: frames arrive in real time, so a slow reader must not fall behind.
        time: seconds from the first frame to the one that was read last: by the file's timestamps, or by the clock if
            it is live.
        opened: how often the source was opened.

    Args:
        source: a path, an address or a device.
        format: of a device, for FFmpeg.
        live: see above.
        folder_fps: frames per second of a folder.

    Raises:
        UserError: the source cannot be opened, or has no video.
    """

    def __init__(
        self, source: str, *, format: str | None = None, live: bool = False, folder_fps: float = float(_DEFAULT_FPS)
    ) -> None:
        self.name, self.live, self.time = source, live, 0.0
        self.opened, self._format = 0, format
        self._first: float | None = None  # time of the first frame
        self._upright: Upright | None = None  # of all openings: one size
        self._container: av.container.InputContainer | None = None  # of a file or a stream
        if os.path.isdir(source):
            self.fps = Fraction(folder_fps).limit_denominator(1000)
            self.duration = len(frames_in(source)) / folder_fps
            return
        try:
            container = self._open()
        except _ERRORS as error:
            raise UserError(f"{source}: cannot be opened as a video ({_reason(error)})") from None
        self.fps = _frame_rate(self._stream, live)
        self.duration = (container.duration or 0) / av.time_base

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> av.container.InputContainer:
        timeout = _TIMEOUT if self.live or is_url(self.name) else None
        self._container, self._stream = open_stream(self.name, threads=0, format=self._format, timeout=timeout)
        self.opened += 1
        return self._container

    def close(self) -> None:
        """Close the source."""
        if self._container is not None:
            self._container.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield uint8 ``(H, W, 3)`` RGB frames of one size. An error after the first frame ends the iteration.

        Raises:
            UserError: no frame could be decoded.
        """
        if self._container is None:
            yield from self._images()
            return
        try:
            yield from self._decoded()
        except _ERRORS as error:
            if self._first is None:
                raise UserError(f"{self.name}: cannot be decoded ({_reason(error)})") from None
            print(f"warning: {self.name}: stopped early ({_reason(error)})", file=sys.stderr)

    def _decoded(self) -> Iterator[np.ndarray]:
        """Yield the frames of the open container; raise one of ``_ERRORS`` where it breaks, or has none."""
        assert self._container is not None
        self._upright = self._upright or Upright(self._stream)
        count, decoded = 0, Decoded(self._container, self._stream)
        try:
            for frame in decoded:
                now = time.monotonic() if self.live or frame.time is None else frame.time
                if self._first is None:
                    self._first = now
                elif now - self._first > self.time:
                    self.time = now - self._first
                else:  # no timestamps, or wrong ones
                    self.time += 1 / float(self.fps)
                count += 1
                yield self._upright(frame)
        except EOFError:
            pass
        if not count:
            raise ValueError("no frame in it")
        if decoded.damaged and not self.live:
            print(f"warning: {self.name}: passed over what is damaged, {decoded.damaged} packets", file=sys.stderr)

    def _images(self) -> Iterator[np.ndarray]:
        try:
            with open_video(self.name) as video:
                for number in range(len(video)):
                    self.time = number / float(self.fps)
                    yield video.frames([number])[0]
        except DecodeError as error:
            raise UserError(f"{self.name}: cannot be decoded ({error.reason})") from None


class Camera(FrameReader):
    """Read a camera or a live stream. One that breaks is opened again, with growing pauses; each turn is one line.

    Args:
        source: an address or a device.
        format: of a device, for FFmpeg.
        stopped: once it is set, by another thread, a camera that broke is not opened again.
    """

    def __init__(self, source: str, *, format: str | None = None, stopped: threading.Event | None = None) -> None:
        super().__init__(source, format=format, live=True)
        self._stopped = stopped or threading.Event()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield uint8 ``(H, W, 3)`` RGB frames until the stream says that it ends.

        Raises:
            UserError: no frame could be decoded, or it has been broken for a minute.
        """
        lost: float | None = None  # since when; a stream that breaks all the time is lost as well
        away, wait = False, _FIRST_WAIT
        while True:
            begin = time.monotonic()
            try:
                if lost is not None:
                    self._open()
                for frame in self._decoded():
                    if away:
                        print(f"{self.name}: is back", file=sys.stderr)
                        away = False
                    yield frame
                print(f"{self.name}: the stream has ended", file=sys.stderr)
                return
            except _ERRORS as error:
                if self._first is None:
                    raise UserError(f"{self.name}: cannot be decoded ({_reason(error)})") from None
                reason = _reason(error)
            self.close()
            now = time.monotonic()
            if lost is None or now - begin > _GIVE_UP:
                lost, wait = now, _FIRST_WAIT
            if now - lost > _GIVE_UP:
                raise UserError(f"{self.name}: lost for {_GIVE_UP:.0f} s ({reason}); check the camera and the network")
            if not away:
                print(f"warning: {self.name}: lost ({reason}); opening it again", file=sys.stderr)
                away = True
            if self._stopped.wait(wait):
                return
            wait = min(2 * wait, _LONGEST_WAIT)


def open_camera(source: str, stopped: threading.Event | None = None) -> FrameReader:
    """Open a camera by number (0 is the first), or a stream by URL or path. ``stopped``: see ``Camera``.

    Raises:
        UserError: there is no such camera or stream.
    """
    if not source.isdecimal():
        return Camera(source, stopped=stopped) if is_url(source) else FrameReader(source)
    try:
        device, format = _device(int(source))
        return Camera(device, format=format, stopped=stopped)
    except UserError as error:
        raise UserError(
            f"--webcam {source}: {error}; pass the number of another camera, or the URL of a stream"
        ) from None


def _device(number: int) -> tuple[str, str]:
    """Return FFmpeg's name of a camera on this system, and its input format."""
    if sys.platform == "darwin":
        return f"{number}:none", "avfoundation"
    if sys.platform == "win32":  # DirectShow knows cameras by name alone
        cameras = [found.name for found in av.enumerate_input_devices("dshow") if "video" in found.media_types]
        if number >= len(cameras):
            raise UserError(f"this machine has {len(cameras)} cameras ({', '.join(cameras)}), counted from 0")
        return f"video={cameras[number]}", "dshow"
    return f"/dev/video{number}", "v4l2"


def _frame_rate(stream: av.VideoStream, live: bool) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= (_FASTEST_CAMERA if live else _FASTEST_FILE):
            return Fraction(rate)
    return _DEFAULT_FPS


def _reason(error: BaseException) -> str:
    """Return the reason in an error; FFmpeg calls our own timeout an exit."""
    if isinstance(error, av.error.ExitError):
        return f"no data for {_TIMEOUT:.0f} s"
    return "another program uses it" if getattr(error, "errno", None) == errno.EBUSY else reason_of(error)

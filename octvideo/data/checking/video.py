"""Check whether a video file decodes completely; the loader is more lenient.

FFmpeg conceals most damage: it fills gaps from other frames, and a truncated file is simply shorter. This check ends at
the first error, and compares the result with the file's header.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction

import av

from octvideo.data.decoders.decode import open_video
from octvideo.data.decoders.stream import open_stream, orientation
from octvideo.errors import reason_of

__all__ = ["BROKEN", "OK", "UNFINISHED", "Checked", "check_video", "stamp"]

OK = "ok"  # decodes completely
BROKEN = "broken"
UNFINISHED = "unfinished"  # the decoder timed out or crashed


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for one file; 0 and "" mean unknown.

    Attributes:
        path: the file.
        status: ``OK``, ``BROKEN`` or ``UNFINISHED``.
        codec: the decoder's name.
        width, height: pixels of an upright frame.
        fps: average frames per second.
        frames_header: number of frames according to the header.
        frames: decoded frames, up to the first error.
        duration: seconds, according to the header if it has them.
        size, mtime: bytes and nanoseconds; if both are the same, the file has not changed.
        error: what is wrong.
    """

    path: str
    status: str
    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    frames_header: int = 0
    frames: int = 0
    duration: float = 0.0
    size: int = 0
    mtime: int = 0
    error: str = ""


def stamp(path: str) -> tuple[int, int]:
    """Return size and modification time of a file; ``(0, 0)`` if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def check_video(path: str) -> Checked:
    """Decode a file completely. This may hang or crash: call it through a ``WorkerProcess``."""
    size, mtime = stamp(path)
    found = _Found()
    try:
        if os.path.isdir(path):
            found.read_images(path)
        elif not os.path.isfile(path):
            raise _Broken("no such file")
        elif not size:
            raise _Broken("the file is empty")
        else:
            found.read(path)
    except _Broken as error:
        reason = str(error)
    except Exception as error:  # decoders raise errors of many kinds
        where = f"after frame {found.frames}" if found.codec else "while opening"
        reason = f"error {where}: {reason_of(error)}"
    else:
        reason = ""
    return Checked(
        path,
        BROKEN if reason else OK,
        found.codec,
        found.width,
        found.height,
        round(float(found.fps), 3),
        found.frames_header,
        found.frames,
        round(float(found.duration), 3),
        size,
        mtime,
        reason,
    )


class _Broken(Exception):
    """The file is broken; the message says how."""


class _Found:
    """What is known of a file so far."""

    def __init__(self) -> None:
        self.codec = ""
        self.width = self.height = self.frames_header = self.frames = 0
        self.fps = self.duration = Fraction(0)

    def read_images(self, path: str) -> None:
        """Decode a folder of frames; raise ``DecodeError`` at the first fault."""
        with open_video(path) as video:
            self.codec, self.frames_header = "images", len(video)
            for number in range(len(video)):
                self.height, self.width = video.frames([number]).shape[1:3]
                self.frames += 1

    def read(self, path: str) -> None:
        """Decode; raise ``_Broken`` or PyAV's errors at the first fault."""
        container, stream = open_stream(path, threads=2)  # with one, VP8's errors are lost
        with container:
            context = stream.codec_context
            context.options = {"err_detect": "explode"}
            self.codec, self.width, self.height = context.name, context.width, context.height
            self.fps, self.frames_header = Fraction(stream.average_rate or 0), stream.frames
            self.duration = Fraction(container.duration or 0, av.time_base)
            packets, end = 0, Fraction(0)
            # All streams are demuxed: the header's duration is that of the longest one.
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream is not stream:
                    continue
                packets += packet.dts is not None  # the last one is empty and flushes the decoder
                for frame in context.decode(packet):
                    self.frames += 1
                    if self.frames == 1 and orientation(frame).transposed:
                        self.width, self.height = self.height, self.width
            if not self.frames:
                raise _Broken("no frames")
            self._compare(packets, end - min(Fraction(0), Fraction(container.start_time or 0, av.time_base)))

    def _compare(self, packets: int, end: Fraction) -> None:
        """Compare packets and seconds with the header. Frames may be fewer, since some are hidden."""
        if self.frames_header - packets > max(1, self.frames_header // 100):
            raise _Broken(f"truncated: has {packets} of {self.frames_header} frames")
        missing = self.duration - end
        # Without a count only durations can be compared, and they are less exact.
        if not self.frames_header and missing > max(1.5 / float(self.fps or 1), float(self.duration) / 100):
            raise _Broken(f"truncated: has {float(end):.2f} of {float(self.duration):.2f} s")
        self.duration = self.duration or end

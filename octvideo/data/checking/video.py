"""Whether a video file decodes from the first frame to the last: the loader asks less, and takes what it can get.

FFmpeg conceals most damage: it fills what is missing from other frames and goes on, and a file that ends too early is
simply shorter. Here the first error ends the check, and what came is held against what the file's header promises.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction

import av

from octvideo.data.decoders.stream import open_stream

__all__ = ["BROKEN", "OK", "UNFINISHED", "Checked", "check_video", "stamp"]

OK = "ok"  # decodes from the first frame to the last
BROKEN = "broken"
UNFINISHED = "unfinished"  # the decoder took too long or crashed


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in a file; 0 and "" where it is not known.

    Attributes:
        path: of the file.
        status: ``OK``, ``BROKEN`` or ``UNFINISHED``.
        codec: the decoder's name.
        width, height: pixels of a frame that is turned upright.
        fps: average frames per second.
        frames_header: frames that the file's header promises.
        frames: frames that were decoded, up to the first error.
        duration: seconds, by the header where it says so.
        size, mtime: bytes, and nanoseconds: by these a file is known to be unchanged.
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
    """Size and modification time of a file, ``(0, 0)`` where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def check_video(path: str) -> Checked:
    """Decodes all of a file. It may take long, hang or crash: call it through a ``WorkerProcess``."""
    size, mtime = stamp(path)
    found = _Found()
    try:
        if not os.path.isfile(path):
            raise _Broken("no such file")
        if not size:
            raise _Broken("the file is empty")
        found.read(path)
    except _Broken as error:
        reason = str(error)
    except Exception as error:  # decoders raise errors of many kinds
        text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        where = f"after frame {found.frames}" if found.codec else "while opening"
        reason = f"error {where}: {text}"
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
    """The message says what is wrong."""


class _Found:
    """What is known of a file so far."""

    def __init__(self) -> None:
        self.codec = ""
        self.width = self.height = self.frames_header = self.frames = 0
        self.fps = self.duration = Fraction(0)

    def read(self, path: str) -> None:
        """Raises ``_Broken``, or what PyAV raises, at the first thing that is wrong."""
        container, stream = open_stream(path, threads=2)  # with one, VP8's errors are lost
        with container:
            context = stream.codec_context
            if context is None:
                raise _Broken("no decoder for its codec")
            context.options = {"err_detect": "explode"}
            self.codec, self.width, self.height = context.name, context.width, context.height
            self.fps, self.frames_header = Fraction(stream.average_rate or 0), stream.frames
            self.duration = Fraction(container.duration or 0, av.time_base)
            packets, end = 0, Fraction(0)
            # All streams are read, not decoded: the header's duration is that of the longest one.
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream is not stream:
                    continue
                packets += packet.dts is not None  # the last one is empty, to get the decoder's last frames
                for frame in context.decode(packet):
                    self.frames += 1
                    if self.frames == 1 and frame.rotation % 180:
                        self.width, self.height = self.height, self.width
            if not self.frames:
                raise _Broken("no frames")
            self._compare(packets, end - min(Fraction(0), Fraction(container.start_time or 0, av.time_base)))

    def _compare(self, packets: int, end: Fraction) -> None:
        """Holds packets and seconds that came against the header; frames may be fewer, as some are not to be shown."""
        if self.frames_header - packets > max(1, self.frames_header // 100):
            raise _Broken(f"cut short: {packets} of {self.frames_header} frames are there")
        missing = self.duration - end
        # Without a count, durations are all there is, and they are less exact.
        if not self.frames_header and missing > max(1.5 / float(self.fps or 1), float(self.duration) / 100):
            raise _Broken(f"cut short: {float(end):.2f} of {float(self.duration):.2f} s are there")
        self.duration = self.duration or end

"""Open a video stream with PyAV, decode it, and turn its frames into upright RGB with square pixels."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from octvideo.data.decoders.reader import scaled_size
from octvideo.errors import UserError

__all__ = [
    "MESSAGES",
    "OLDEST_PYAV",
    "PYAV",
    "Decoded",
    "Orientation",
    "Upright",
    "check_pyav",
    "may_turn",
    "open_stream",
    "orientation",
    "pixel_aspect",
]

PYAV = tuple(map(int, av.__version__.split(".")[:2]))  # the version
OLDEST_PYAV = (17, 1)
_OUTPUT_CORRUPT = 1 << 3  # AV_CODEC_FLAG_OUTPUT_CORRUPT
_BAD_IN_A_ROW = 250  # packets that cannot be decoded, after which the rest is given up: ten seconds
_WIDEST_PIXEL = 10  # a header that says more is wrong
# A unit of messages in H.264 or HEVC, after its length or a start code, and one on orientation: type 47, 3 or 4 bytes.
_TURN = re.compile(rb"\x00\x00..?(?:\x06|\x4e\x01).{,999}?\x2f[\x03\x04]", re.DOTALL)
MESSAGES = 4096  # bytes at the beginning of a packet that are searched for messages


def check_pyav() -> None:
    """Check the version of PyAV: setup.py requires it, but any can be installed by hand.

    Raises:
        UserError: it is too old.
    """
    if PYAV < OLDEST_PYAV:
        raise UserError(f"PyAV {av.__version__} reads wrong colours or crashes; run: pip install 'av>=17.1'")


def open_stream(
    source: str | bytes, *, threads: int = 1, **options: Any
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open the stream that FFmpeg calls the best one, which may not be the first.

    Args:
        source: a path or an address, or the content of a file.
        threads: that decode; 0 is FFmpeg's choice.
        options: of ``av.open``.

    Raises:
        ValueError: there is no video stream (the cover of an audio file is none), or FFmpeg has no decoder for it.
        OSError, av.FFmpegError: PyAV cannot open it.
        UserError: see ``check_pyav``.
    """
    check_pyav()
    if PYAV < (19,):
        options["metadata_errors"] = "replace"  # text that is not UTF-8 is no error
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(file, str) and os.path.isfile(file):
        file = os.path.abspath(file)  # FFmpeg takes a relative `a:b.mp4` for an address
    container: av.container.InputContainer = av.open(file, "r", **options)
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        container.close()
        raise ValueError("no video stream")
    if stream.codec_context is None:
        container.close()
        raise ValueError("no decoder for its codec")
    if stream.codec_context.name == "hevc":
        # As the ffmpeg program: frames that refer to a damaged one are shown, not dropped up to the next key frame. Not
        # in H.264, which would show what comes before the picture is whole, after a seek.
        stream.codec_context.flags |= _OUTPUT_CORRUPT
    stream.codec_context.thread_type = "SLICE"  # frame threads can hang on a corrupt file, and delay a camera
    stream.codec_context.thread_count = threads
    return container, stream


class Decoded:
    """The frames of a stream, in display order. A packet that cannot be decoded costs its own frames alone.

    Attributes:
        damaged: number of packets that could not be decoded so far.

    Raises (while iterating):
        OSError, av.FFmpegError: the container cannot be read further, no packet can be decoded, or too many in a row
            cannot.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self._packets = container.demux(stream)
        self.damaged = 0

    def __iter__(self) -> Iterator[av.VideoFrame]:
        in_a_row, any_frame = 0, False
        for packet in self._packets:
            try:
                frames = packet.decode()
            except av.FFmpegError as failure:
                error = failure
                self.damaged += 1
                in_a_row += 1
                if in_a_row == _BAD_IN_A_ROW:
                    raise
            else:
                if frames:
                    in_a_row, any_frame = 0, True
                yield from frames  # type: ignore[misc]  # of a video stream
        if self.damaged and not any_frame:
            raise error


def pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Return width / height of a pixel. DV, DVD and broadcasts are stored with pixels that are not square."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return aspect if 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL else Fraction(1)


class Upright:
    """Converts frames of a stream to RGB ``(H, W, 3)`` uint8: upright, with square pixels, all of one size.

    Frames of a stream that changes its size or turns midway get the size that it begins with, as ffmpeg scales them.

    Args:
        stream: that the frames are decoded from; none of them yet.
        short_side: of the pictures, in pixels. None: height as in the file.
    """

    def __init__(self, stream: av.VideoStream, short_side: int | None = None) -> None:
        width = max(1, round(stream.width * pixel_aspect(stream)))
        self._size = (stream.height, width) if short_side is None else scaled_size(stream.height, width, short_side)
        self._transposed: bool | None = None  # whether those frames are that have this size before they are turned

    def begin(self, first: av.VideoFrame) -> None:
        """Take the pictures' size from the first frame of the stream; otherwise it is the first one converted."""
        self._transposed = orientation(first).transposed

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        # A new converter with one thread: PyAV 19 keeps its own one with its threads, for which a forked process waits
        # forever.
        turn = orientation(frame)
        if self._transposed is None:
            self._transposed = turn.transposed
        height, width = self._size if turn.transposed == self._transposed else self._size[::-1]
        picture = VideoReformatter().reformat(frame, width, height, "rgb24", threads=1)
        image = picture.to_ndarray()
        image = image.transpose(1, 0, 2) if turn.transposed else image
        return np.ascontiguousarray(image[:: -1 if turn.upside_down else 1, :: -1 if turn.mirrored else 1])


class Orientation(NamedTuple):
    """How a decoded frame becomes upright: it is transposed, then mirrored, then turned upside down."""

    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False


# By quarters counterclockwise.
_TURNS = Orientation(), Orientation(True, False, True), Orientation(False, True, True), Orientation(True, True, False)


def may_turn(packet: bytes | memoryview) -> bool:
    """Tell whether a packet of H.264 or HEVC has a message on its display orientation; rarely true by chance."""
    return _TURN.search(packet, 0, MESSAGES) is not None


def orientation(frame: av.VideoFrame) -> Orientation:
    """Read the frame's display matrix, which turns by quarters and mirrors, as FFmpeg does.

    It comes from the container, or from a message in the stream: in HEVC up to the next one, in H.264 for one frame.

    Its upper left part ``[[a, b], [c, d]]`` moves what is at (x, y) to (a x + c y, b x + d y) ::

        [[1, 0], [0, 1]]   as it is        [[0, 1], [-1, 0]]   a quarter clockwise
        [[-1, 0], [0, 1]]  mirrored        [[0, 1], [1, 0]]    transposed
    """
    try:
        # Not frame.side_data: it refers to the frame, which would stay in memory until Python searches for cycles.
        matrix: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # missing in its stub
    except ValueError:  # PyAV does not know EXIF data and stereo views; whether it is mirrored stays unknown
        return _TURNS[round(frame.rotation / 90) % 4]
    if matrix is None:
        return Orientation()
    a, b, _, c, d = (int(number) for number in np.frombuffer(matrix, np.int32, 5))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)

"""Check videos, and encode them again smaller, upright, with short GOPs, or cut in time.

PyAV does it: the ffmpeg program loses frames of AVI files with B-frames, and its option for uneven times depends on the
version.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
from av.video.frame import VideoFrame

from octvideo.data.decoders.stream import Decoded, Orientation, open_stream, orientation, pixel_aspect

__all__ = ["Encoded", "MediaError", "output_size", "require_video", "transcode"]

# Containers of videos, without pictures, and without playlists, which make FFmpeg open other files.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,asf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ogg,nut,ivf,rm"
)
_TICK = Fraction(1, 5000)  # seconds; the least between two frames, more than a tick of any output
_REORDER = 16  # the maximal distance of a time from its place, in frames


class MediaError(Exception):
    """A file is not a readable video; the message is one line."""

    def __init__(self, reason: object) -> None:
        super().__init__(" ".join(str(reason).split())[:300])


class Encoded(NamedTuple):
    """The file that ``transcode`` wrote: frames, size in pixels, seconds; and the damaged packets of the source."""

    frames: int
    width: int
    height: int
    seconds: float
    damaged: int


def _open(path: str | Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    try:
        return open_stream(str(path), options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
    except (ValueError, av.error.FFmpegError) as error:
        raise MediaError(f"not a video ({getattr(error, 'strerror', None) or error})") from None


def require_video(path: str | Path, *, whole: bool = False) -> None:
    """Open a video and decode its first frame.

    Args:
        whole: also read every packet, and refuse a file that ends in the middle of one.

    Raises:
        MediaError: it is not a video, or its first frame cannot be decoded.
    """
    container, stream = _open(path)
    with container:
        try:
            first = next(container.decode(stream), None)
            cut = whole and any(packet.is_corrupt for packet in container.demux())
        except av.error.FFmpegError as error:
            raise MediaError(f"cannot be decoded ({error.strerror})") from None
        if first is None:
            raise MediaError("no frame can be decoded")
        if cut:
            raise MediaError("the file ends in the middle of a packet")


def output_size(width: int, height: int, short_side: int, upscale: bool = False) -> tuple[int, int]:
    """Return even width and height with the same aspect; the smaller is ``short_side``, or less without ``upscale``.

    >>> output_size(1280, 720, 340)
    (604, 340)
    >>> output_size(321, 240, 340)
    (320, 240)
    """
    short = min(width, height)
    scale = 1.0 if short_side == 0 or (short <= short_side and not upscale) else short_side / short
    return _even(width * scale), _even(height * scale)


def _even(value: float) -> int:
    """Return the nearest even number, at least 2: yuv420p has half the resolution for colour."""
    return max(2, 2 * math.floor(value / 2 + 0.5))


class _Frames:
    """The decodable frames of a video. ``damaged`` packets could not be decoded, or ended the file before its end."""

    def __init__(self, path: str | Path) -> None:
        self._path, self.damaged = path, 0

    def between(self, start: float, end: float) -> Iterator[VideoFrame]:
        """Yield the frames shown in [``start``, ``end``), in seconds from the first one of the stream."""
        seek = start > 0
        while True:
            found = False
            for frame, time in self._decode(start if seek else 0.0):
                if seek and not found and time > start:
                    break  # the seek overshot: read from the beginning
                found = True
                if time >= end - 1e-6:
                    return
                if time >= start - 1e-6:
                    yield frame
            if found or not seek:
                return
            seek = False

    def _decode(self, seek_to: float) -> Iterator[tuple[VideoFrame, float]]:
        container, stream = _open(self._path)
        with container:
            origin = float((stream.start_time or 0) * (stream.time_base or 0))
            if seek_to > 0:
                try:
                    container.seek(int((origin + seek_to) * av.time_base))
                except av.error.FFmpegError:
                    pass  # read from the beginning
            step = 1 / float(stream.average_rate or 25)
            time = -step
            decoded, broken = Decoded(container, stream), 0
            try:
                for frame in decoded:
                    # Raw streams and some AVI files have no times: assume evenly spaced frames.
                    time = time + step if frame.time is None else frame.time - origin
                    yield frame, time
            except av.error.FFmpegError:  # nothing more can be read
                broken = 1
            finally:
                self.damaged = decoded.damaged + broken


class _Scaler:
    """Turns frames upright and scales them to one size with square pixels, yuv420p.

    It has a filter graph for each kind of frame.
    """

    def __init__(self, first: VideoFrame, aspect: Fraction, short_side: int, upscale: bool) -> None:
        width = max(1, round(first.width * aspect))
        size = (first.height, width) if orientation(first).transposed else (width, first.height)
        self.width, self.height = output_size(*size, short_side, upscale)
        self._kind: tuple[object, ...] = ()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        kind = (frame.width, frame.height, frame.format.name, orientation(frame), frame.colorspace, frame.color_range)
        if kind != self._kind:
            self._kind = kind
            self._graph = self._build(*kind)
        frame.pts, frame.time_base = 0, Fraction(1, 1)  # the filters need no times
        self._graph.vpush(frame)
        return self._graph.vpull()

    def _build(
        self, width: int, height: int, pixels: str, turn: Orientation, space: int, colors: int
    ) -> av.filter.Graph:
        graph = av.filter.Graph()
        source = f"video_size={width}x{height}:pix_fmt={pixels}:time_base=1/1:colorspace={space}:range={colors}"
        scale = f"scale={self.width}:{self.height}:flags=bicubic:out_range=tv"
        turns = ("transpose=cclock_flip", "hflip", "vflip")  # FFmpeg calls transposing so
        steps = [*(step for step, needed in zip(turns, turn) if needed), scale, "format=yuv420p"]
        nodes = [graph.add("buffer", source)]
        for item in steps:
            name, _, options = item.partition("=")
            nodes.append(graph.add(name, options or None))
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        return graph


def _timed(frames: Iterator[VideoFrame], rate: Fraction) -> Iterator[tuple[VideoFrame, Fraction]]:
    """Yield frames with increasing times in seconds, the first at 0.

    Decoders return frames in display order. Times in another order (AVI files with B-frames) are sorted: frames a b c d
    at 0 2 1 3 are shown at 0 1 2 3. Frames without times are evenly spaced.
    """
    waiting: deque[VideoFrame] = deque()
    times: list[Fraction] = []
    origin = last = None
    for number, frame in enumerate(chain(frames, [None] * _REORDER)):
        if frame is not None:
            waiting.append(frame)
            if frame.pts is None or frame.time_base is None:
                heapq.heappush(times, number / rate)
            else:
                heapq.heappush(times, frame.pts * frame.time_base)
        if waiting and number >= _REORDER:
            time = heapq.heappop(times)
            origin = time if origin is None else origin
            last = time - origin if last is None else max(time - origin, last + _TICK)
            yield waiting.popleft(), last


def transcode(
    source: str | Path,
    target: Path,
    *,
    short_side: int = 0,
    upscale: bool = False,
    gop: int = 16,
    crf: int = 20,
    preset: str = "veryfast",
    start: float = 0.0,
    end: float = math.inf,
) -> Encoded:
    """Write H.264 (yuv420p, mp4 with its index in front), upright, without sound, at the times of the source.

    The file is read again to verify its frames. ``target`` is written directly: pass a temporary name.

    Args:
        short_side: pixels; 0 keeps the size (made even).
        upscale: enlarge smaller sources.
        gop: maximal number of frames from one key frame to the next.
        crf: x264's quality; smaller is better, at 18 losses are hardly visible.
        start, end: seconds of the source; frames shown in [``start``, ``end``) are kept.

    Raises:
        MediaError: no frame can be decoded, or the written file is wrong.
        OSError: the target cannot be written.
    """
    frames, (rate, aspect), count, time = _Frames(source), _rate_and_aspect(source), 0, Fraction(0)
    kept = frames.between(start, end)
    first = next(kept, None)
    if first is None:
        raise MediaError("no frame can be decoded" if start == 0 else f"no frame at {start:g} seconds or later")
    scaler = _Scaler(first, aspect, short_side, upscale)
    base = _time_base(first, rate)
    options = {"crf": str(crf), "preset": preset, "threads": "1"}
    try:
        with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = scaler.width, scaler.height, "yuv420p"
            stream.codec_context.gop_size, stream.codec_context.time_base = gop, base
            for frame, time in _timed(chain([first], kept), rate):
                picture = scaler(frame)
                if not count:  # the encoder reads them when it opens, at the first picture
                    stream.codec_context.color_range, stream.codec_context.colorspace = 1, picture.colorspace
                    stream.codec_context.color_primaries = picture.color_primaries
                    stream.codec_context.color_trc = picture.color_trc
                picture.pts, picture.time_base = round(time / base), base
                picture.pict_type = 0  # let the encoder choose its key frames
                container.mux(stream.encode(picture))
                count += 1
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror) from None  # PyAV's error cannot be pickled
        raise MediaError(f"cannot be encoded ({error.strerror})") from None
    _verify(target, count, scaler.width, scaler.height)
    return Encoded(count, scaler.width, scaler.height, float(time + 1 / rate), frames.damaged)


def _time_base(first: VideoFrame, rate: Fraction) -> Fraction:
    """Return a tick in seconds: the source's divided by an integer, so that times are exact and it is below 0.1 ms."""
    base = Fraction(first.time_base) if first.pts is not None and first.time_base else 1 / rate
    return base / math.ceil(10000 * base)


def _rate_and_aspect(source: str | Path) -> tuple[Fraction, Fraction]:
    """Return the average frames per second, 25 if the container does not know, and width / height of a pixel."""
    container, stream = _open(source)
    with container:
        rate = Fraction(stream.average_rate or 25)
        return rate.limit_denominator(100000) if 0 < rate <= 1000 else Fraction(25), pixel_aspect(stream)


def _verify(path: Path, frames: int, width: int, height: int) -> None:
    container, stream = _open(path)
    with container:
        found = 0
        try:
            for frame in container.decode(stream):
                if (frame.width, frame.height, frame.format.name) != (width, height, "yuv420p"):
                    raise MediaError(f"the written file has frames of {frame.width}x{frame.height} {frame.format.name}")
                found += 1
        except av.error.FFmpegError as error:
            raise MediaError(f"the written file cannot be decoded ({error.strerror})") from None
    if found != frames:
        raise MediaError(f"{frames} frames were decoded, but the written file has {found}")

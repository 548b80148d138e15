"""Read videos with PyAV: by timestamps if they are reliable, otherwise by decoding from the beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import av
import numpy as np

from octvideo.data.decoders.reader import CannotCount
from octvideo.data.decoders.stream import Decoded, Upright, may_turn, open_stream

__all__ = ["PyAVReader", "SequentialReader"]

_SAME_RATE = 0.1  # a last frame that is shown longer makes no other rate
_EARLIER_KEYFRAMES = 4  # tried if a container seeks past the wanted one


class PyAVReader:
    """Read frames by timestamp. Opening reads all packets and decodes none.

    The sorted timestamps of the visible packets number the frames. A read seeks to the last keyframe before a frame and
    decodes from there ::

        packets, in file order  I0 P3 B1 B2 I6 B4 B5 P8 B7    (I: keyframe; numbers: timestamps)
        frame                    0  1  2  3  4  5  6  7  8
        frame 5                 from I0: frames 0 1 2 3 4 5
        frame 7                 from I6: B4 and B5 come out too, and are not used: they may need P3

    Every decoded frame must have the next expected timestamp; otherwise it raises ``CannotCount``.

    Attributes:
        fps: average frames per second.

    Raises (also ``frames``):
        CannotCount: timestamps are missing, repeated or wrong; ``SequentialReader`` can read the file.
    """

    def __init__(self, source: str | bytes, short_side: int | None = None) -> None:
        self._container, self._stream = open_stream(source)
        try:
            self._upright = Upright(self._stream, short_side)
            if self._read_index():  # it may turn midway
                self._upright.begin(next(self._decode_from(0, int(self._times[0]))))
        except BaseException:
            self._container.close()
            raise
        self.fps = _rate(self._stream, len(self), int(self._times[-1] - self._times[0]))
        self.times: np.ndarray | None = self._times * float(self._stream.time_base) if self._stream.time_base else None

    def _read_index(self) -> bool:
        """Read the times; return whether a message may turn the frames."""
        turns = False
        shown: list[int] = []
        hidden: list[int] = []
        keyframes: list[int] = []
        for packet in self._container.demux(self._stream):
            if not packet.size:
                continue  # the end, or a repeated frame of AVI
            if packet.pts is None:
                raise CannotCount("a packet has no timestamp")
            (hidden if packet.is_discard else shown).append(packet.pts)  # an edit list hides frames
            if packet.is_keyframe:
                keyframes.append(packet.pts)
                turns = turns or may_turn(memoryview(packet))
        if not shown:
            raise ValueError("no frames")
        # AVI has no timestamps. FFmpeg invents them, wrongly if frames are not decoded in display order.
        made_up = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
        self._times, self._keyframes = np.sort(shown), np.sort(keyframes)
        if turns and self._stream.codec_context.name == "hevc":
            raise CannotCount("how its frames are turned depends on those before them")
        if made_up or len({*shown, *hidden}) < len(shown) + len(hidden):
            raise CannotCount("its timestamps do not order its frames")
        if not keyframes or self._keyframes[0] > self._times[0]:
            raise CannotCount("it does not begin with a keyframe")
        return turns

    def __len__(self) -> int:
        return len(self._times)

    def close(self) -> None:
        self._container.close()

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        decoded: Iterator[av.VideoFrame] = iter(())
        number = len(self)  # of the frame that comes next
        for index in indices:
            keyframe = int(np.searchsorted(self._keyframes, self._times[index], side="right")) - 1
            first = int(np.searchsorted(self._times, self._keyframes[keyframe]))
            if not first <= number <= index:
                decoded, number = self._decode_from(keyframe, int(self._times[first])), first
            for frame in decoded:
                if frame.pts != self._times[number]:
                    raise CannotCount(f"frame {number} has another timestamp than its packet")
                number += 1
                if number > index:
                    yield self._upright(frame)
                    break
            else:
                raise CannotCount(f"frame {number} is missing")

    def _decode_from(self, keyframe: int, time: int) -> Iterator[av.VideoFrame]:
        """Yield frames from ``time`` on, decoded from a keyframe, or an earlier one if the container overshoots."""
        for earlier in range(keyframe, max(-1, keyframe - _EARLIER_KEYFRAMES), -1):
            self._container.seek(int(self._keyframes[earlier]), stream=self._stream)
            packets = self._container.demux(self._stream)
            packet = next((packet for packet in packets if packet.is_keyframe and packet.size), None)
            if packet is not None and packet.pts is not None and packet.pts <= self._keyframes[keyframe]:
                break
        else:
            raise CannotCount("it cannot be searched")
        while True:
            for frame in packet.decode():
                if frame.pts is None or frame.pts >= time:
                    yield frame
            packet = next(packets, None)
            if packet is None:
                return


class SequentialReader:
    """Decode from the beginning and count frames: slow, but correct if headers and timestamps are wrong."""

    times: np.ndarray | None = None

    def __init__(self, source: str | bytes, short_side: int | None = None) -> None:
        self._source, self._short_side = source, short_side
        container, stream = open_stream(source)
        with container:
            times = [frame.pts for frame in Decoded(container, stream)]
            if not times:
                raise ValueError("no frames")
            known = [time for time in times if time is not None]
            self.fps = _rate(stream, len(times), max(known, default=0) - min(known, default=0))
        self._count = len(times)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Nothing is open."""

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        wanted = set(indices)
        container, stream = open_stream(self._source)
        with container:
            upright = Upright(stream, self._short_side)
            for number, frame in enumerate(Decoded(container, stream)):
                if number == 0:
                    upright.begin(frame)
                if number in wanted:
                    yield upright(frame)
                    if number == indices[-1]:
                        return
        raise ValueError(f"frame {indices[-1]} is missing")


def _rate(stream: av.VideoStream, count: int, ticks: int) -> float:
    """Return the average frames per second of a file, from its timestamps where the header's rate is another one.

    Recorders of browsers write 1000, and other headers a rate that is meant for sound or for fields.

    Args:
        stream: of the file.
        count: of its frames.
        ticks: from the first frame to the last one, in the stream's time base.
    """
    stated = float(stream.average_rate or 25)
    if count < 2 or ticks <= 0 or not stream.time_base:
        return stated
    measured = (count - 1) / float(ticks * stream.time_base)
    return stated if abs(stated / measured - 1) < _SAME_RATE else measured

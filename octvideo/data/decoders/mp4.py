"""Tell from its header whether decord reads an MP4 file correctly and in little memory, in under a millisecond.

decord numbers every packet and seeks to every keyframe. That is wrong if an edit list hides frames, if frames after a
keyframe are shown before it (open GOP) or need earlier frames (intra refresh), or if the header does not list the
frames (fragments). It also takes mirrored frames for turned ones and all pixels for square, and passes over turns that
the stream itself states. While its caller is busy, it decodes ahead, up to the end of the file, which takes
gigabytes if frames are large.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from octvideo.data.decoders.stream import MESSAGES, may_turn

__all__ = ["is_plain_mp4"]

_MAX_HEADER = 64 << 20  # bytes
_MAX_FRAMES = 1 << 24
_KEYFRAMES = 3  # checked after the first one: an encoder makes all of them alike
_SEARCHED = 64  # keyframes, evenly spread, that are searched for messages on orientation
_MAX_PIXELS = 640 * 480  # of a frame: 1 MB as RGB
_HIGH = 100
_EIGHT_BIT = (66, 77, 88, _HIGH)  # H.264 profiles of 8 bits and 4:2:0: Baseline, Main, Extended, High


class _Unusual(Exception):
    """The header has something that this parser does not handle."""


def is_plain_mp4(source: str | bytes) -> bool:
    """Tell whether a file is a complete MP4 or MOV with one 8-bit H.264 stream, closed GOPs and no hidden frames.

    Its pixels must be square, and its frames have at most ``_MAX_PIXELS``. Its header may turn them but not mirror
    them; its stream may do neither.

    Args:
        source: a path, or the content of a file.
    """
    try:
        if isinstance(source, bytes):
            return _is_plain(io.BytesIO(source), len(source))
        with open(source, "rb") as file:
            return _is_plain(file, os.fstat(file.fileno()).st_size)
    except (_Unusual, OSError, KeyError, ValueError, IndexError, ZeroDivisionError):
        return False


def _header(file: BinaryIO, size: int) -> bytes:
    """Return the content of the ``moov`` box; every box must end within the file."""
    place, header = 0, b""
    while place < size:
        file.seek(place)
        start = file.read(16)
        length, kind = int.from_bytes(start[:4], "big"), start[4:8]
        skip = 8
        if length == 1:
            length, skip = int.from_bytes(start[8:16], "big"), 16
        elif length == 0:
            length = size - place
        if place == 0 and kind != b"ftyp" or length < skip or place + length > size or kind == b"moof":
            raise _Unusual
        if kind == b"moov":
            if length > _MAX_HEADER:
                raise _Unusual
            file.seek(place + skip)
            header = file.read(length - skip)
        place += length
    return header


def _boxes(data: bytes, start: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each box in ``data``."""
    while start + 8 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        if length < 8 or start + length > len(data):
            raise _Unusual
        yield data[start + 4 : start + 8], data[start + 8 : start + length]
        start += length


def _integer(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "big")


def _timescale(data: bytes) -> int:
    """Return the ticks per second of an ``mvhd`` or ``mdhd`` box."""
    return _integer(data, 20 if data[0] else 12, 4)


def _is_plain(file: BinaryIO, size: int) -> bool:
    movie = list(_boxes(_header(file, size)))
    tracks = [dict(_boxes(content)) for kind, content in movie if kind == b"trak"]
    media = [dict(_boxes(track[b"mdia"])) for track in tracks if b"mdia" in track]
    video = [number for number, box in enumerate(media) if box.get(b"hdlr", b"")[8:12] == b"vide"]
    if len(video) != 1 or len(media) != len(tracks) or any(kind == b"mvex" for kind, _ in movie):
        return False
    track, box = tracks[video[0]], media[video[0]]
    tables = dict(_boxes(dict(_boxes(box[b"minf"]))[b"stbl"]))
    settings = _h264_settings(tables[b"stsd"])
    if settings[1] not in _EIGHT_BIT or {b"stps", b"sgpd"} & set(tables):
        return False
    if _integer(tables[b"stsd"], 40, 2) * _integer(tables[b"stsd"], 42, 2) > _MAX_PIXELS:
        return False
    if not _only_turns(track[b"tkhd"], dict(movie)[b"mvhd"]) or not _has_square_pixels(settings):
        return False
    times = _times(tables)
    keyframes = np.arange(len(times))
    if b"stss" in tables:
        keyframes = _table(tables[b"stss"], 1)[:, 0] - 1
    if not len(times) or not len(keyframes) or keyframes[0] != 0 or len(np.unique(times)) < len(times):
        return False
    earliest_from_here = np.minimum.accumulate(times[::-1])[::-1]
    if (times[keyframes] != earliest_from_here[keyframes]).any():
        return False
    places = _places(tables)[keyframes]
    if not all(_is_fresh_start(file, place, (settings[4] & 3) + 1) for place in places[1 : 1 + _KEYFRAMES]):
        return False
    some = np.unique(np.linspace(0, len(places) - 1, _SEARCHED).astype(int))
    if any(_may_turn(file, place) for place in places[some]):
        return False
    first, end = _edit(track.get(b"edts", b""), _timescale(box[b"mdhd"]) / _timescale(dict(movie)[b"mvhd"]))
    return bool((times >= first).all() and (times < end).all())


def _h264_settings(description: bytes) -> bytes:
    """Return the ``avcC`` box of an ``stsd`` box with H.264 samples and square pixels only."""
    if _integer(description, 4, 4) != 1 or description[12:16] not in (b"avc1", b"avc3"):
        raise _Unusual
    boxes = dict(_boxes(description[16 : 8 + _integer(description, 8, 4)], 78))
    shape = boxes.get(b"pasp", bytes(8))
    if shape[:4] != shape[4:]:
        raise _Unusual
    return boxes[b"avcC"]


def _only_turns(track: bytes, movie: bytes) -> bool:
    """Tell whether the display matrices of a ``tkhd`` and an ``mvhd`` box neither mirror nor scale."""
    matrices = (track, 52 if track[0] else 40), (movie, 48 if movie[0] else 36)
    (a, b, c, d), whole = (np.frombuffer(box, ">i4", 5, start)[[0, 1, 3, 4]].tolist() for box, start in matrices)
    turns = sorted((abs(a), abs(b))) == [0, 1 << 16] and (c, d) == (-b, a)
    return turns and whole == [1 << 16, 0, 0, 1 << 16]


def _has_square_pixels(settings: bytes) -> bool:
    """Tell whether the sequence parameter set of an ``avcC`` box states no others (ITU-T H.264, 7.3.2.1.1, E.1.1)."""
    start = 8 + _integer(settings, 6, 2)
    content = settings[9:start].replace(b"\0\0\3", b"\0\0")
    bits = iter("".join(f"{byte:08b}" for byte in content[3:]))

    def take(count: int) -> int:
        return int("0" + "".join(next(bits) for _ in range(count)), 2)

    def golomb() -> int:
        zeros = 0
        while next(bits) == "0":
            zeros += 1
        return (1 << zeros) - 1 + take(zeros)

    try:
        golomb()  # number of the set
        if content[0] == _HIGH and (golomb() != 1 or golomb() or golomb() or take(1) or take(1)):
            raise _Unusual  # not 4:2:0, more than 8 bits, or scaling lists
        golomb()  # frame numbers
        order = golomb()
        if order == 0:
            golomb()
        elif order == 1:
            take(1), golomb(), golomb()
            for _ in range(golomb()):
                golomb()
        golomb(), take(1), golomb(), golomb()  # references, gaps, size
        if not take(1):  # fields
            take(1)
        take(1)
        if take(1):  # cropped
            golomb(), golomb(), golomb(), golomb()
        # VUI, aspect ratio in it, square or not stated
        return not take(1) or not take(1) or take(8) <= 1
    except StopIteration:
        raise _Unusual from None


def _table(content: bytes, columns: int) -> np.ndarray:
    """Parse rows of 32-bit numbers after a 4-byte version and a 4-byte count: int64 ``(rows, columns)``."""
    rows = _integer(content, 4, 4)
    return np.frombuffer(content, ">u4", rows * columns, 8).astype(np.int64).reshape(rows, columns)


def _times(tables: dict[bytes, bytes]) -> np.ndarray:
    """Return the display time of each sample, in file order, in ticks of the media: int64 ``(samples,)``."""
    counts, durations = _table(tables[b"stts"], 2).T
    if counts.sum() > _MAX_FRAMES:
        raise _Unusual
    decoded = np.cumsum(np.repeat(durations, counts)) - np.repeat(durations, counts)
    if b"ctts" not in tables:
        return decoded
    counts, offsets = _table(tables[b"ctts"], 2).T
    if counts.sum() != len(decoded):
        raise _Unusual
    return decoded + np.repeat(offsets.astype(np.uint32).astype(np.int32), counts)


def _places(tables: dict[bytes, bytes]) -> np.ndarray:
    """Return the file offset of each sample: int64 ``(samples,)``.

    Samples lie end to end in chunks, which begin at the offsets of ``stco`` ::

        stco [100, 900]   samples in a chunk [2, 1]   stsz [10, 20, 30]   ->   [100, 110, 900]
    """
    same, count = _integer(tables[b"stsz"], 4, 4), _integer(tables[b"stsz"], 8, 4)
    if count > _MAX_FRAMES:
        raise _Unusual
    sizes = np.full(count, same) if same else np.frombuffer(tables[b"stsz"], ">u4", count, 12).astype(np.int64)
    wide = b"co64" in tables
    content = tables[b"co64" if wide else b"stco"]
    chunks = np.frombuffer(content, ">u8" if wide else ">u4", _integer(content, 4, 4), 8).astype(np.int64)
    runs = _table(tables[b"stsc"], 3)  # first chunk (from 1), samples in each, description
    in_chunk = np.repeat(runs[:, 1], np.diff(runs[:, 0], append=len(chunks) + 1))
    if len(in_chunk) != len(chunks) or in_chunk.sum() != count:
        raise _Unusual
    ends = np.cumsum(sizes)
    before_chunk = (ends - sizes)[np.cumsum(in_chunk) - in_chunk]
    return ends - sizes + np.repeat(chunks - before_chunk, in_chunk)


def _may_turn(file: BinaryIO, place: int) -> bool:
    """Tell whether a sample may have a message that turns its frame."""
    file.seek(place)
    return may_turn(file.read(MESSAGES))


def _is_fresh_start(file: BinaryIO, place: int, wide: int) -> bool:
    """Tell whether a sample begins with an IDR picture, after which no frame refers to earlier ones.

    Args:
        place: file offset of the sample.
        wide: size in bytes of the length field before each unit.
    """
    while True:
        file.seek(place)
        start = file.read(wide + 1)
        if len(start) <= wide:
            raise _Unusual
        kind = start[wide] & 31
        if 1 <= kind <= 5:
            return kind == 5
        place += wide + int.from_bytes(start[:wide], "big")


def _edit(content: bytes, scale: float) -> tuple[float, float]:
    """Return the first visible tick of the media, and the first tick after the visible part.

    Args:
        content: of the ``edts`` box.
        scale: ticks of the media per tick of the movie.
    """
    edits = dict(_boxes(content)).get(b"elst", b"")
    shown = []
    for number in range(_integer(edits, 4, 4) if edits else 0):
        wide = 8 if edits[0] else 4
        start = 8 + number * (2 * wide + 4)
        duration, media_time = _integer(edits, start, wide), _integer(edits, start + wide, wide)
        if media_time != (1 << 8 * wide) - 1:  # -1: nothing is shown for a while
            shown.append((media_time, media_time + duration * scale if duration else float("inf")))
    if len(shown) > 1:
        raise _Unusual
    return shown[0] if shown else (-float("inf"), float("inf"))

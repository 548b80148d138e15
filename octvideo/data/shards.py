"""Read videos from tar shards (WebDataset's layout) in random order, from disk or through fsspec.

An index file says where each video lies, so a read takes only its bytes ::

    000000.tar   | header | cls | header | json | header | video ..... | header | cls | ...
                                                ^ offset - 512          ^ offset + size
                                                         ^ offset

The 512 bytes before a video are its tar header: name, size and time. They are read too, and their checksum must be that
of the index, so a changed shard is noticed.

The index file is CSV after one line of JSON: shards with their sizes, class names, number of rows ::

    # octvideo shards {"samples": 2, "shards": {"000000.tar": 30720}, "classes": ["bow", "jump"]}
    shard,offset,size,header,label,name
    000000.tar,2560,9731,2774313981,0,000000.mp4
    000000.tar,14848,8120,998012447,1,000001.mp4
"""

from __future__ import annotations

import csv
import json
import os
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from octvideo.data.classes import did_you_mean, nfc
from octvideo.data.decoders.reader import DecodeError
from octvideo.data.lists import write_lines
from octvideo.data.video_index import VideoIndex, pack_rows
from octvideo.errors import UserError

__all__ = [
    "HEADER",
    "SHARD_INDEX",
    "SHARD_MAGIC",
    "Member",
    "ShardIndex",
    "header_check",
    "is_sharded",
    "read_header",
    "read_shards",
    "reason",
    "write_shards",
]

SHARD_INDEX = "shards.csv"  # name of the index in a folder of shards
SHARD_MAGIC = "# octvideo shards "  # its first characters

HEADER = 512  # bytes of a tar header
_COLUMNS = ["shard", "offset", "size", "header", "label", "name"]
_MAX_OPEN = 64  # shards that a process keeps open
_REMAKE = "make its index again: data_tools/make_shards.py --index-only"


def is_sharded(source: str | Path) -> bool:
    """Tell whether a source is an index of tar shards, or a folder or URL that has one."""
    if "://" in str(source):
        return True
    path = Path(source)
    if path.is_dir():
        return (path / SHARD_INDEX).is_file()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SHARD_MAGIC)) == SHARD_MAGIC.encode()


class Member(NamedTuple):
    """The place of a video: shard number, bytes, checksum of its tar header; its label, -1 if unknown, and name."""

    shard: int
    offset: int
    size: int
    header: int
    label: int
    name: str


class ShardIndex(VideoIndex):
    """A ``VideoIndex`` of videos in shards; about 60 MB more for a million videos.

    Args:
        members: the videos; the iterator is not kept.
        shards: paths or URLs.
        classes: see ``VideoIndex``.
    """

    def __init__(self, members: Iterable[Member], shards: Sequence[str], classes: Sequence[str] = ()) -> None:
        super().__init__((), (), classes)
        places = array("q")

        def rows() -> Iterator[tuple[bytes, int]]:
            for member in members:
                places.extend(member[:4])
                yield member.name.encode(), member.label

        self._bytes, self._ends, self.labels = pack_rows(rows())
        self._places = np.asarray(places, dtype=np.int64).reshape(-1, 4)
        self.shards = list(shards)
        self._files = _OpenFiles()

    def path(self, index: int) -> str:
        """Return the name of a video in messages: ``SHARD.tar!NAME.mp4``."""
        return f"{self.shards[self._places[index, 0]]}!{super().path(index)}"

    def source(self, index: int) -> bytes:
        """Return the content of a video.

        Raises:
            DecodeError: its shard is missing, too short, or has changed since it was indexed.
        """
        number, offset, size, header = self._places[index].tolist()
        try:
            data = self._files.read(self.shards[number], offset - HEADER, HEADER + size)
        except Exception as error:  # each storage raises other errors
            raise DecodeError(self.path(index), f"the shard cannot be read: {reason(error)}") from error
        if len(data) < HEADER + size:
            raise DecodeError(self.path(index), f"the shard ends before byte {offset + size}: it is truncated")
        if len(data) > HEADER + size:
            raise DecodeError(self.path(index), "the server ignored the requested range; use one that serves ranges")
        if header_check(data) != header:
            raise DecodeError(self.path(index), f"the shard has changed since it was indexed; {_REMAKE}")
        return data[HEADER:]


def header_check(data: bytes) -> int:
    """Return the checksum of the tar header at the start of ``data``."""
    return zlib.crc32(data[:HEADER])


class _OpenFiles:
    """Read ranges of files. Local files stay open, since opening one is slow on a cluster's file system.

    Forked processes may share them: ``pread`` neither uses nor moves the file position. Connections of fsspec do not
    survive a fork, so they are not kept here.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[()]]:
        return _OpenFiles, ()  # a spawned process opens its own

    def __del__(self) -> None:
        for file in self._open.values():
            os.close(file)

    def read(self, place: str, start: int, size: int) -> bytes:
        """Read ``size`` bytes from ``start``; fewer at the end of the file."""
        if "://" in place or not hasattr(os, "pread"):  # Windows has none
            from fsspec.core import url_to_fs

            system, path = url_to_fs(place)
            return system.cat_file(path, start=start, end=start + size)
        file = self._open.pop(place, None)
        if file is None:
            file = os.open(place, os.O_RDONLY)
        try:
            data = os.pread(file, size, start)
            while len(data) < size and (more := os.pread(file, size - len(data), start + len(data))):
                data += more
        except OSError:
            os.close(file)  # a handle can go stale; the next attempt reopens it
            raise
        self._open[place] = file  # at the end: the first entry is the least recently used
        if len(self._open) > _MAX_OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        return data


def reason(error: Exception) -> str:
    """Describe an error of a storage in one line."""
    return getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())


def read_shards(place: str, *, root: str = "", classes: Sequence[str] = ()) -> ShardIndex:
    """Read an index file. Local shards must exist and have the recorded sizes.

    Args:
        place: path or URL of the index, or of a folder with ``shards.csv``.
        root: the folder or URL of the shards; "" is the index's own folder.
        classes: class names, whose numbers the labels get; () for the names in the index.

    Raises:
        UserError: it cannot be read, is malformed or truncated, or does not match its shards or the class names.
    """
    if os.path.isdir(place) or "://" in place and not place.endswith(".csv"):
        place = _join(place, SHARD_INDEX)
    lines = _lines(place)
    header = _parse_header(place, next(lines, ""))
    folder = root or place.rpartition("/")[0] if "://" in place else root or os.path.dirname(place)
    shards = [_join(folder, name) for name in header["shards"]]
    _check_sizes(place, shards, header["shards"].values())
    numbers = {name: number for number, name in enumerate(header["shards"])}
    index = ShardIndex(_members(place, lines, numbers), shards, header["classes"])
    if len(index) != header["samples"]:
        raise UserError(f"{place}: truncated: {len(index)} of {header['samples']} rows are there; {_REMAKE}")
    return _with_classes(index, place, classes)


def read_header(place: str) -> dict[str, Any]:
    """Return the first line of an index file, parsed; see ``read_shards``."""
    return _parse_header(place, next(_lines(place), ""))


def _parse_header(place: str, line: str) -> dict[str, Any]:
    try:
        if not line.startswith(SHARD_MAGIC):
            raise ValueError
        header = {"classes": [], **json.loads(line[len(SHARD_MAGIC) :])}
        lists = {"shards": dict(header["shards"]), "classes": list(header["classes"])}
        return {**header, "samples": int(header["samples"]), **lists}
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"{place}: not an index of shards; data_tools/make_shards.py --index-only makes one") from None


def _join(folder: str, name: str) -> str:
    if "://" in name:
        return name
    return f"{folder.rstrip('/')}/{name}" if "://" in folder else os.path.join(folder, name)


def _lines(place: str) -> Iterator[str]:
    try:
        if "://" in place:
            import fsspec

            with fsspec.open(place, "r", encoding="utf-8", newline="") as file:
                yield from file
        else:
            with open(place, encoding="utf-8", newline="") as file:
                yield from file
    except Exception as error:  # each kind of storage has errors of its own
        raise UserError(
            f"{place}: the index of shards cannot be read ({reason(error)}); check DATA.TRAIN, DATA.VAL and DATA.TEST"
        ) from None


def _check_sizes(place: str, shards: Sequence[str], sizes: Iterable[int]) -> None:
    for shard, size in zip(shards, sizes):
        if "://" in shard:
            continue  # asking for thousands takes minutes; each read is checked anyway
        try:
            found = os.stat(shard).st_size
        except OSError as error:
            raise UserError(f"{shard}: {place} names this shard, but it cannot be read ({error.strerror})") from None
        if found != size:
            raise UserError(f"{shard}: has {found} bytes, but {size} by {place}; copy it again, or {_REMAKE}")


def _members(place: str, lines: Iterator[str], numbers: Mapping[str, int]) -> Iterator[Member]:
    rows = csv.reader(lines)
    if next(rows, None) != _COLUMNS:
        raise UserError(f"{place}:2: expected the columns {','.join(_COLUMNS)}; {_REMAKE}")
    for row in rows:
        try:
            shard, offset, size, header, label, name = row
            yield Member(numbers[shard], int(offset), int(size), int(header), int(label or -1), name)
        except (ValueError, KeyError):
            raise UserError(f"{place}:{rows.line_num + 1}: expected {','.join(_COLUMNS)}; {_REMAKE}") from None


def _with_classes(index: ShardIndex, place: str, classes: Sequence[str]) -> ShardIndex:
    most, named = int(index.labels.max(initial=-1)), bool(index.classes)
    if not len(index):
        raise UserError(f"{place}: no videos in these shards; make them again with data_tools/make_shards.py")
    if (index.labels < 0).any() and most >= 0:
        raise UserError(
            f"{place}: some videos have a label and some do not; make the shards from a list in which all have one"
        )
    if named and classes:
        try:
            index.renumber(classes)
        except KeyError as error:
            unknown = index.classes[index.label(error.args[0])]
            hint = did_you_mean(unknown, classes)
            raise UserError(
                f"{place}: class {unknown!r} is not among the class names{hint}; check DATA.CLASSES"
            ) from None
        return index
    if not named:
        index.classes = list(classes) or [str(number) for number in range(most + 1)]
        index.numbered = not classes
    index.classes = [nfc(name) for name in index.classes]
    if most >= len(index.classes):
        raise UserError(
            f"{place}: label {most} is not below the number of classes, {len(index.classes)}; check DATA.CLASSES"
        )
    return index


def write_shards(
    file: Path, members: Sequence[Member], shards: Mapping[str, int], classes: Sequence[str] = (), plan: str = ""
) -> None:
    """Write an index file atomically.

    Args:
        file: its path.
        members: the rows, in order.
        shards: size of each shard by its name: relative to the index's folder, or an absolute path or URL.
        classes: names by label; () if unknown.
        plan: text that identifies the content of the shards.

    Raises:
        UserError: it cannot be written.
    """
    header = {"samples": len(members), "shards": dict(shards), "classes": list(classes), "plan": plan}
    names = list(shards)
    write_lines(file, (SHARD_MAGIC + json.dumps(header, ensure_ascii=False), *_rows(members, names)))


def _rows(members: Sequence[Member], shards: Sequence[str]) -> Iterator[str]:
    class _Line:
        """A file for ``csv.writer`` that returns the text."""

        write = staticmethod(str)

    writer: Any = csv.writer(_Line(), lineterminator="")
    yield writer.writerow(_COLUMNS)
    for member in members:
        label = "" if member.label < 0 else member.label
        yield writer.writerow([shards[member.shard], *member[1:4], label, member.name])

"""Find the videos or images of a tar shard in WebDataset's layout, and their labels."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec

from octvideo.data.media import is_media, is_video
from octvideo.data.shards import HEADER, header_check, reason
from octvideo.errors import UserError

__all__ = ["Scan", "Video", "scan_shard"]

_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # WebDataset's: up to the first dot after the folders


@dataclass(slots=True)
class Video:
    """A video of a shard: position and size of its content, checksum of its tar header, its label ("" for none)."""

    key: str
    name: str
    offset: int
    size: int
    header: int
    label: str = ""


@dataclass(frozen=True)
class Scan:
    """The videos of a shard, and its size in bytes."""

    size: int
    videos: list[Video]


def scan_shard(place: str, label: str = "cls") -> Scan:
    """Read the tar headers and the labels of a shard, but not the videos.

    Args:
        place: path or URL.
        label: the member of a sample that has its label: ``cls`` for ``KEY.cls``, ``json.class`` for the entry
            ``class`` of ``KEY.json``.

    Raises:
        UserError: it cannot be read, is not a whole tar file, or has a sample with two videos.
    """
    try:
        with open(place, "rb") if "://" not in place else fsspec.open(place, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return Scan(size, list(_scan(file, place, label)))
    except tarfile.TarError as error:
        raise UserError(f"{place}: not a whole tar file, or a compressed one ({error})") from None
    except UserError:
        raise
    except Exception as error:  # each kind of storage raises other errors
        raise UserError(f"{place}: cannot be read ({reason(error)})") from None


def _scan(file: IO[bytes], place: str, label: str) -> Iterator[Video]:
    field, _, entry = label.partition(".")
    key, video, text = "", None, ""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # otherwise it keeps all of them
            match = _KEY.fullmatch(info.name)
            if not info.isreg() or info.issparse() or not match:
                continue
            if match[1] != key:
                if video:
                    video.label = text
                    yield video
                key, video, text = match[1], None, ""
            if is_media(info.name):
                # An image with a video is its thumbnail; an image alone is a sample.
                if video and is_video(video.name) and not is_video(info.name):
                    continue
                if video and is_video(video.name) == is_video(info.name):
                    raise UserError(f"{place}!{info.name}: its sample has another video, {video.name}")
                file.seek(info.offset_data - HEADER)
                video = Video(key, info.name, info.offset_data, info.size, header_check(file.read(HEADER)))
            elif match[2].lower() == field:
                file.seek(info.offset_data)
                text = _label(file.read(info.size), entry, f"{place}!{info.name}")
        if video:
            video.label = text
            yield video
        file.seek(archive.offset)
        if file.read(HEADER) != bytes(HEADER):
            raise tarfile.ReadError("it ends without an end mark")


def _label(data: bytes, entry: str, name: str) -> str:
    try:
        value: Any = json.loads(data)[entry] if entry else data.decode()
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{name}: no label; name the member that has it with --label, such as cls or json.class"
        ) from None
    return str(value).strip()

"""Record which videos weights were trained on, so that nobody tests them on the same ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from octvideo.data.media import frames_in
from octvideo.data.video_index import VideoIndex

__all__ = ["count_seen", "hash_video", "merge_seen", "seen_in"]

_MAX_VIDEOS = 5_000  # of larger sets only the list is recorded
_EDGE = 1 << 16  # bytes read at both ends of a file


def hash_video(path: str) -> str:
    """Return 16 hexadecimal digits that identify the content of a file: of its size, its first and last 64 KiB.

    A copy under another name has the same hash; another encoding has not. Of a folder of frames it is that of the first
    and the last one. "" for a file that cannot be read.
    """
    if frames := frames_in(path):
        edges = [hash_video(os.path.join(path, frames[place])) for place in (0, -1)]
        return hashlib.sha256(f"{len(frames)} {edges}".encode()).hexdigest()[:16]
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256(str(size).encode())
            for start in sorted({0, max(0, size - _EDGE)}):
                file.seek(start)
                digest.update(file.read(_EDGE))
    except OSError:
        return ""
    return digest.hexdigest()[:16]


def seen_in(index: VideoIndex) -> dict[str, Any]:
    """Return what a checkpoint records of its training videos.

    ``{"videos": [hash, ...], "lists": []}`` for up to 5,000 videos in files of their own, otherwise
    ``{"videos": [], "lists": [{"count": N, "sha256": ...}]}``, with the fingerprint of the list.
    """
    if hashes := _hashes(index):
        return {"videos": sorted(set(hashes)), "lists": []}
    return {"videos": [], "lists": [{"count": len(index), "sha256": index.fingerprint()}]}


def merge_seen(*records: Any) -> dict[str, Any]:
    """Join what several trainings saw, one after the other. Other things than records, such as None, are ignored."""
    known = [record for record in records if isinstance(record, Mapping)]
    lists = {entry["sha256"]: entry for record in known for entry in record.get("lists", ())}
    return {
        "videos": sorted({video for record in known for video in record.get("videos", ())}),
        "lists": [lists[key] for key in sorted(lists)],
    }


def count_seen(record: Any, index: VideoIndex) -> int:
    """Return how many of some videos the weights with this record were trained on, as far as it is recorded."""
    videos = set(record.get("videos", ())) if isinstance(record, Mapping) else set()
    return sum(video in videos for video in _hashes(index)) if videos else 0


def _hashes(index: VideoIndex) -> list[str]:
    """Return the hash of each video; [] where they are too many, or not in files of their own."""
    if len(index) > _MAX_VIDEOS:
        return []
    hashes = [hash_video(index.path(number)) for number in range(len(index))]
    return [] if "" in hashes else hashes

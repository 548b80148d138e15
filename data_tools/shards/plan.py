"""Assign videos to shards."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from octvideo.data.video_index import VideoIndex

__all__ = ["Plan", "make_plan"]

_OVERHEAD = 4096  # bytes: an upper bound of a sample's headers, label, metadata and padding, for common paths
_END = 10240  # bytes: an upper bound of the end of a tar file
_LARGEST = 8 << 30  # bytes; the limit of a tar header without extensions


@dataclass(frozen=True)
class Plan:
    """Which video goes into which shard.

    Attributes:
        index: the videos.
        shards: the numbers of the videos of each shard, in its order.
        left_out: why videos cannot be read, by their numbers.
        digest: a hash of all this, and of the sizes and times of the files.
    """

    index: VideoIndex
    shards: list[list[int]]
    left_out: dict[int, str]
    digest: str

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes; [] if they are just the numbers."""
        names = self.index.classes
        return [] if names == [str(number) for number in range(len(names))] else names

    def key(self, number: int) -> str:
        """Return the key of a video's sample."""
        return f"{number:0{max(6, len(str(len(self.index) - 1)))}d}"


def make_plan(index: VideoIndex, max_size: int, max_count: int, seed: int | None, workers: int) -> Plan:
    """Assign videos to shards, in the order of the list, or shuffled with a seed.

    A shard takes videos up to ``max_size`` bytes and ``max_count`` videos; a larger video gets its own shard ::

        sizes  3 3 9 2 2 2, max_size 6, max_count 3   ->   3 3 | 9 | 2 2 2
    """
    with ThreadPoolExecutor(workers) as pool:  # a cluster's file system is fast only with many requests at once
        starts = range(0, len(index), 1000)
        parts = pool.map(
            lambda start: [_stat(index.path(n)) for n in range(start, min(start + 1000, len(index)))], starts
        )
        found = [row for part in parts for row in part]
    digest = hashlib.sha256(repr((max_size, max_count, seed, index.classes)).encode())
    for number, row in enumerate(found):
        digest.update(f"{index.path(number)}\0{index.label(number)}\0{row}\n".encode(errors="surrogateescape"))
    order = range(len(index)) if seed is None else np.random.default_rng(seed).permutation(len(index)).tolist()
    shards: list[list[int]] = []
    room = 0
    for number in order:
        if found[number][2]:
            continue
        need = found[number][0] + _OVERHEAD
        if not shards or need > room or len(shards[-1]) == max_count:
            shards.append([])
            room = max_size - _END
        shards[-1].append(number)
        room -= need
    return Plan(index, shards, {n: reason for n, (*_, reason) in enumerate(found) if reason}, digest.hexdigest())


def _stat(path: str) -> tuple[int, int, str]:
    """Return size and time of a file, and why it cannot be packed ("" if it can)."""
    try:
        status = os.stat(path)
    except OSError as error:
        return 0, 0, error.strerror or str(error)
    reason = "" if stat.S_ISREG(status.st_mode) else "not a file"
    if status.st_size >= _LARGEST:
        reason = "larger than 8 GiB"
    return status.st_size, status.st_mtime_ns, reason

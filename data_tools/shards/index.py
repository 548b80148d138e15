"""Make an index of existing shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import braceexpand
import fsspec

from data_tools.shards.tar_samples import scan_shard
from octvideo.data.index import read_classes
from octvideo.data.shards import SHARD_INDEX, Member, is_sharded, read_header, reason, write_shards
from octvideo.errors import UserError
from octvideo.progress import Progress

__all__ = ["find_shards", "index_shards"]


def index_shards(sources: Sequence[str], output: Path, *, classes: str, label: str, workers: int) -> str:
    """Write the index of shards; return a summary, one line.

    Its rows are sorted by the samples' keys, across shards. For shards of ``make_shards.py`` that is the order of the
    list, and an existing index keeps its class names.

    Args:
        sources: see ``find_shards``.
        output: the index file, or the folder of the shards for ``shards.csv`` in it.
        classes: file of class names; "" if labels are numbers.
        label: see ``scan_shard``.
        workers: threads.

    Raises:
        UserError: a shard cannot be read, a label is not a class, or the index cannot be written.
    """
    output = output / SHARD_INDEX if output.is_dir() else output
    if output.exists() and not is_sharded(output):
        raise UserError(f"--output {output}: the file exists and is not an index of shards; give another name")
    if classes:
        names = read_classes(classes)
    else:
        names = read_header(str(output))["classes"] if output.exists() else []
    numbers = {name: number for number, name in enumerate(names)}
    shards = find_shards(sources)
    sizes: dict[str, int] = {}
    rows: list[tuple[str, Member]] = []
    with ThreadPoolExecutor(workers) as pool, Progress("indexing", len(shards), "shards") as progress:
        scans = pool.map(partial(scan_shard, label=label), shards)
        for number, (shard, scan) in enumerate(zip(shards, scans)):
            sizes[_relative(shard, output)] = scan.size
            for video in scan.videos:
                value = _number(video.label, numbers, f"{shard}!{video.name}")
                rows.append((video.key, Member(number, video.offset, video.size, video.header, value, video.name)))
            progress.update()
    if not rows:
        raise UserError(f"{shards[0]}: no videos in {len(shards)} shards")
    write_shards(output, [member for _, member in sorted(rows)], sizes, names)
    return f"{output}: {len(rows)} videos in {len(shards)} shards"


def find_shards(sources: Sequence[str]) -> list[str]:
    """Return paths and URLs of tar files, each once, in order; expand ``{00..12}``, ``*`` and folders.

    Raises:
        UserError: there are none.
    """
    found: list[str] = []
    for pattern in sources:
        try:
            for source in braceexpand.braceexpand(pattern):
                found += _expand(source)
        except Exception as error:  # each kind of storage raises other errors
            raise UserError(f"{pattern}: cannot be listed ({reason(error)})") from None
    if not found:
        raise UserError(f"{' '.join(sources)}: no tar files")
    return list(dict.fromkeys(found))


def _expand(source: str) -> Iterator[str]:
    if source.endswith(".tar") and "*" not in source:
        yield source if "://" in source else os.path.abspath(source)
        return
    system, path = fsspec.core.url_to_fs(source)
    for place in sorted(system.glob(path if "*" in path else f"{path.rstrip('/')}/*.tar")):
        yield system.unstrip_protocol(place) if "://" in source else str(place)


def _relative(shard: str, output: Path) -> str:
    """Return the name of a shard in the folder of its index, or the whole path or URL of another."""
    folder, name = os.path.split(shard)
    return name if "://" not in shard and os.path.realpath(folder) == os.path.realpath(output.parent) else shard


def _number(label: str, numbers: Mapping[str, int], name: str) -> int:
    if label in numbers:
        return numbers[label]
    if not label:
        return -1
    if not (label.isascii() and label.isdigit()):
        raise UserError(f"{name}: label {label!r} is neither a number nor a class name; give --classes or --label")
    if numbers and int(label) >= len(numbers):
        raise UserError(f"{name}: label {label} must be below the number of classes, {len(numbers)}")
    return int(label)

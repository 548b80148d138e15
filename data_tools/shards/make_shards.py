"""Packs videos into tar shards (WebDataset's layout), with an index to read any video on its own.

OUTPUT/000000.tar, 000001.tar, ... have samples of KEY.cls (class number), KEY.json (path, label, class, bytes) and
KEY.mp4 (or the file's own suffix) with the bytes of the file; KEY is the number of the video in the list. The rows of
the index, OUTPUT/shards.csv, are in the order of the list, so training draws the same batches from both. Videos that
cannot be read are counted, and listed in OUTPUT/left_out.jsonl. To resume an interrupted run, run the command again.
The exit code is 0 when all videos have been tried, even if some cannot be read; 2 for an error that ends the run; 130
when interrupted.

Use --index-only to make an index of existing shards.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from data_tools.kinetics.reports import Report, Result, exclusive
from data_tools.shards.index import index_shards
from data_tools.shards.plan import Plan, make_plan
from data_tools.shards.tar_samples import scan_shard
from octvideo.cli.arguments import add_part_arguments, nonnegative_int, path_arg, positive_int
from octvideo.data.index import read_index
from octvideo.data.media import is_media
from octvideo.data.shards import SHARD_INDEX, Member, is_sharded, read_header, write_shards
from octvideo.data.video_index import VideoIndex
from octvideo.errors import UserError
from octvideo.files import discard, replace_durably, write_text, writing
from octvideo.parts import Part
from octvideo.progress import Progress
from octvideo.workers import WorkerFailed, as_completed

_LEFT_OUT = "left_out.jsonl"
_PLAN = Path(".partial", "plan")  # the digest of the plan of an unfinished run


@dataclass(frozen=True)
class Packer:
    """Writes the shards of a plan.

    Args:
        plan: which video goes where.
        output: the folder of the shards.
        partial: the folder for unfinished shards, on the same disk.
    """

    plan: Plan
    output: Path
    partial: Path

    def names(self) -> list[str]:
        """Return the file names of the shards."""
        return [f"{number:06d}.tar" for number in range(len(self.plan.shards))]

    def pack(self, shard: int) -> list[tuple[str, str]]:
        """Write a shard to its temporary name; return paths and reasons of the videos that cannot be read.

        It is called in worker processes.

        Raises:
            UserError: it cannot be written.
        """
        index, classes, failed = self.plan.index, self.plan.classes, []
        name = self.names()[shard]
        with (
            writing(self.output / name),
            (self.partial / name).open("wb") as stream,
            TarWriter(stream) as writer,
        ):
            for number in self.plan.shards[shard]:
                path, label = index.path(number), index.label(number)
                try:
                    with open(path, "rb") as source:
                        data, writer.mtime = source.read(), int(os.fstat(source.fileno()).st_mtime)
                except OSError as error:
                    failed.append((_printable(path), error.strerror or str(error)))
                    continue
                facts = {"path": path, "label": label, "class": classes[label] if classes and label >= 0 else None}
                sample: dict[str, Any] = {"__key__": self.plan.key(number), "json": {**facts, "bytes": len(data)}}
                sample |= {"cls": label} if label >= 0 else {}
                suffix = Path(path).suffix[1:].lower() if is_media(path) else "mp4"
                writer.write({**sample, suffix: data})
        return failed

    def pack_all(self, report: Report, workers: int, part: Part | None) -> None:
        """Write the shards of a part that do not exist yet, and report the videos that cannot be read.

        Raises:
            UserError: a shard cannot be written.
        """
        first, step = (part.number - 1, part.total) if part else (0, 1)
        mine = range(first, len(self.plan.shards), step)
        todo = [shard for shard in mine if not (self.output / self.names()[shard]).exists()]
        results = as_completed(self.pack, todo, workers=workers, timeout=math.inf)
        try:
            with closing(results), Progress("packing", len(todo), "shards") as progress:
                for number, failed in results:
                    name = self.names()[todo[number]]
                    if isinstance(failed, WorkerFailed):
                        raise UserError(f"{self.output / name}: cannot be written ({failed}); run the command again")
                    for path, reason in failed:
                        report.note(path, Result("failed", reason))
                    with writing(self.output / name):
                        replace_durably(self.partial / name, self.output / name)
                    progress.update()
        finally:
            for unfinished in self.partial.rglob("*.tar"):
                discard(unfinished)

    def members(self, report: Report, workers: int) -> tuple[list[Member], dict[str, int]]:
        """Return the videos, in the order of the list, and the sizes of the shards, as they are on the disk.

        Raises:
            UserError: a shard lacks a video that is not in the report.
        """
        rows: list[tuple[int, Member]] = []
        sizes: dict[str, int] = {}
        with ThreadPoolExecutor(workers) as pool:
            scans = pool.map(scan_shard, (str(self.output / name) for name in self.names()))
            for shard, (name, scan, planned) in enumerate(zip(self.names(), scans, self.plan.shards)):
                sizes[name] = scan.size
                there = {video.key: video for video in scan.videos}
                for number in planned:
                    if video := there.get(self.plan.key(number)):
                        label = self.plan.index.label(number)
                        rows.append((number, Member(shard, video.offset, video.size, video.header, label, video.name)))
                    elif not report.get(_printable(path := self.plan.index.path(number))):
                        raise UserError(f"{self.output / name}: lacks {path}; remove this shard, and run it again")
        return [member for _, member in sorted(rows)], sizes


def _printable(path: str) -> str:
    """Return a path that can be written as UTF-8: names in other encodings may have bytes that are no letters."""
    return os.fsencode(path).decode(errors="replace")


def make(
    index: VideoIndex,
    output: Path,
    *,
    max_size: int,
    max_count: int,
    seed: int | None,
    workers: int,
    part: Part | None = None,
    merge: bool = False,
) -> str:
    """Pack the videos of ``index`` into the folder ``output``; return a summary, one line.

    Args:
        index: the videos.
        output: the folder.
        max_size, max_count, seed: see ``make_plan``, which every part makes alike.
        workers: processes.
        part: pack only the shards of a part, and leave the index to ``merge``.
        merge: pack nothing; all shards must be there.

    Raises:
        UserError: the folder has other content or cannot be written, no video can be read, or a shard is missing.
    """
    with exclusive(output, part) as partial:
        plan = make_plan(index, max_size, max_count, seed, workers)
        if not plan.shards:
            number, reason = next(iter(plan.left_out.items()))
            raise UserError(f"{index.path(number)}: {reason}; none of the {len(index)} videos can be read")
        if _is_done(output, plan.digest):
            return f"{output}: {_count(plan)} exist already"
        write_text(output / _PLAN, plan.digest)
        packer = Packer(plan, output, partial)
        with Report(output / _LEFT_OUT, part) as report:
            if merge:
                _require(output, packer.names())
            if part is None:
                for number, reason in plan.left_out.items():
                    report.note(_printable(index.path(number)), Result("failed", reason))
            packer.pack_all(report, workers, part)
            if part is not None:
                return f"{output}: part {part.number} of {part.total} is done"
            members, sizes = packer.members(report, workers)
            failed = [row["clip"] for row in report]
        if not failed:
            (output / _LEFT_OUT).unlink()
        write_shards(output / SHARD_INDEX, members, sizes, plan.classes, plan.digest)
        (output / _PLAN).unlink()
    text = f"{output}: {len(members)} videos in {len(sizes)} shards, {sum(sizes.values()) / 1e6:.1f} MB"
    return f"{text}; {len(failed)} could not be read -> {output / _LEFT_OUT}" if failed else text


def _require(output: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (output / name).is_file()]
    if missing:
        raise UserError(
            f"{output}: {len(missing)} of {len(names)} shards are missing, {missing[0]} for one: a task has not "
            "finished its part; run or submit the same command again, which packs what is missing"
        )


def _count(plan: Plan) -> str:
    return f"{sum(map(len, plan.shards))} videos in {len(plan.shards)} shards"


def _is_done(output: Path, digest: str) -> bool:
    """Tell whether all shards of this plan exist; refuse a folder with other content."""
    other = f"{output}: has shards of another list, of files that have changed, or with other settings; "
    if (output / SHARD_INDEX).exists():
        header = read_header(str(output / SHARD_INDEX))
        if header.get("plan") != digest:
            raise UserError(f"{other}choose another --output")
        return all((output / name).is_file() for name in header["shards"])
    # Before the plan, which another part may just write: what it makes next is not foreign.
    foreign = any(path != output / _PLAN.parent for path in output.iterdir())
    if (output / _PLAN).exists():
        if (output / _PLAN).read_text(encoding="utf-8") != digest:
            raise UserError(f"{other}they are unfinished: remove the folder, or choose another --output")
    elif foreign:
        raise UserError(f"{output}: has files that this command did not make; choose an empty or new --output")
    return False


def _size(text: str) -> int:
    """Return a size such as ``500MB`` in bytes."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d+)?) *([kMGT]?)B?", text)
    if not match or (size := int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))) < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of 1MB or more, such as 1GB or 500MB")
    return size


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", help="list with one `path label` per line, or folder of class folders")
    what.add_argument(
        "--index-only",
        nargs="+",
        metavar="SHARDS",
        help="existing shards: folders, paths or URLs; {000000..000146} and * are expanded",
    )
    parser.add_argument(
        "--output", type=path_arg, required=True, help="folder for the shards; --index-only: index file"
    )
    parser.add_argument("--root", default="", help="folder of the list's relative paths (default: the list's folder)")
    parser.add_argument("--classes", default="", help="file of class names, one per line; stored in the index")
    parser.add_argument("--max-size", type=_size, default="1GB", help="maximal size of a shard (default 1GB)")
    parser.add_argument(
        "--max-count", type=positive_int, default=sys.maxsize, help="maximal number of videos of a shard"
    )
    parser.add_argument("--shuffle", type=nonnegative_int, metavar="SEED", help="shuffle the videos with this seed")
    parser.add_argument(
        "--label", default="cls", help="--index-only: member with the label: cls (default), json.ENTRY, ..."
    )
    parser.add_argument("--workers", type=positive_int, default=4, help="worker processes (default 4)")
    add_part_arguments(parser)
    args = parser.parse_args(argv)
    if args.index_only and (args.part or args.merge):
        parser.error("--part and --merge go with --list")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Pack a list, or index existing shards."""
    args = parse(argv)
    if args.index_only:
        print(index_shards(args.index_only, args.output, classes=args.classes, label=args.label, workers=args.workers))
    else:
        if is_sharded(args.list):
            raise UserError(f"--list {args.list}: this is an index of shards already")
        index = read_index(args.list, root=args.root, classes_file=args.classes)
        settings = dict(max_size=args.max_size, max_count=args.max_count, seed=args.shuffle, workers=args.workers)
        print(make(index, args.output, **settings, part=args.part, merge=args.merge))
    if not args.part:
        print(f"train with: DATA.TRAIN {shlex.quote(str(args.output))}")
    return 0

"""Packs videos into tar shards (WebDataset's layout), with an index by which any of them is read alone.

OUTPUT/000000.tar, 000001.tar, ... have samples of KEY.cls (class number), KEY.json (path, label, class, bytes) and
KEY.mp4 (or what the file's suffix is), byte for byte; KEY is the number of the video in the list. OUTPUT/shards.csv is
the index: its rows are in the order of the list, so that training draws the same batches from both. Videos that cannot
be read are counted, and named in OUTPUT/left_out.jsonl. Run it again to go on where it was interrupted. The exit code
is 0 when all videos have been tried, also if some cannot be read; 2 for an error that stops the run; 130 when
interrupted.

Shards that others have made get an index with --index-only.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from data_tools.kinetics.jobs import Stopped, interrupt_on_terminate, run_jobs, show_progress
from data_tools.kinetics.reports import Outcome, Report, locked
from data_tools.shards.index import index_shards
from data_tools.shards.plan import Plan, make_plan
from data_tools.shards.tar_samples import scan_shard
from octvideo.cli.arguments import nonnegative_int, path_arg, positive_int
from octvideo.data.index import read_index
from octvideo.data.media import is_media
from octvideo.data.shards import SHARD_INDEX, Member, is_sharded, read_header, write_shards
from octvideo.data.video_index import VideoIndex
from octvideo.errors import UserError
from octvideo.files import discard, replace_durably, writing

_LEFT_OUT = "left_out.jsonl"


class Packer:
    """Writes the shards of a plan.

    Args:
        plan: what goes where.
        output: folder of the shards.
        partial: folder of those that are not finished.
        report: gets the videos that cannot be read.
    """

    def __init__(self, plan: Plan, output: Path, partial: Path, report: Report) -> None:
        self.plan, self.output, self.partial, self.report = plan, output, partial, report
        self.stop = threading.Event()

    def names(self) -> list[str]:
        """What the shards are called."""
        return [f"{number:06d}.tar" for number in range(len(self.plan.shards))]

    def pack(self, shard: int) -> Outcome:
        """Writes a shard, if it is not there: files have their names when they are whole.

        Raises:
            UserError: it cannot be written.
            Stopped: the run ends.
        """
        target = self.output / self.names()[shard]
        if target.exists():
            return Outcome("there")
        partial = self.partial / target.name
        try:
            with writing(target):
                self._write(partial, self.plan.shards[shard])
                replace_durably(partial, target)
        finally:
            discard(partial)
        return Outcome("ok")

    def _write(self, file: Path, numbers: Sequence[int]) -> None:
        from webdataset.writer import TarWriter

        index, classes = self.plan.index, self.plan.classes
        with file.open("wb") as stream, TarWriter(stream) as writer:
            for number in numbers:
                if self.stop.is_set():
                    raise Stopped
                path, label = index.path(number), index.label(number)
                try:
                    with open(path, "rb") as source:
                        data, writer.mtime = source.read(), int(os.fstat(source.fileno()).st_mtime)
                except OSError as error:
                    self.report.add(_shown(path), Outcome("failed", error.strerror or str(error)))
                    continue
                facts = {"path": path, "label": label, "class": classes[label] if classes and label >= 0 else None}
                sample: dict[str, Any] = {"__key__": self.plan.key(number), "json": {**facts, "bytes": len(data)}}
                sample |= {"cls": label} if label >= 0 else {}
                suffix = Path(path).suffix[1:].lower() if is_media(path) else "mp4"
                writer.write({**sample, suffix: data})

    def members(self, workers: int) -> tuple[list[Member], dict[str, int]]:
        """The videos in the order of the list, as they lie in the shards on the disk, and the sizes of these.

        Raises:
            UserError: a shard lacks a video, and it was not reported.
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
                    elif not self.report.get(_shown(self.plan.index.path(number))):
                        path = self.plan.index.path(number)
                        raise UserError(f"{self.output / name}: lacks {path}; remove this shard, and run it again")
        return [member for _, member in sorted(rows)], sizes


def _shown(path: str) -> str:
    """A path as it can be written: names of other encodings have no letters for some bytes."""
    return os.fsencode(path).decode(errors="replace")


def make(index: VideoIndex, output: Path, *, max_size: int, max_count: int, seed: int | None, workers: int) -> str:
    """Packs the videos of ``index`` into the folder ``output``, and returns a line that says what is there.

    Raises:
        UserError: the folder holds something else, cannot be written, or no video can be read.
    """
    with interrupt_on_terminate(), locked(output) as partial:
        plan = make_plan(index, max_size, max_count, seed, workers)
        if not plan.shards:
            number, reason = next(iter(plan.left_out.items()))
            raise UserError(f"{index.path(number)}: {reason}; none of the {len(index)} videos can be read")
        if _is_done(output, partial, plan.digest):
            return f"{output}: {_count(plan)} are there already"
        (partial / "plan").write_text(plan.digest, encoding="utf-8")
        with Report(output / _LEFT_OUT) as report:
            for number, reason in plan.left_out.items():
                report.add(_shown(index.path(number)), Outcome("failed", reason))
            packer = Packer(plan, output, partial, report)
            jobs = run_jobs(range(len(plan.shards)), packer.pack, workers=workers, stop=packer.stop)
            with show_progress("shards", len(plan.shards)) as advance, closing(jobs):
                for outcome in jobs:
                    advance(outcome)
            members, sizes = packer.members(workers)
            failed = [row["clip"] for row in report]
        if not failed:
            (output / _LEFT_OUT).unlink()
        write_shards(output / SHARD_INDEX, members, sizes, plan.classes, plan.digest)
        (partial / "plan").unlink()
    text = f"{output}: {len(members)} videos in {len(sizes)} shards, {sum(sizes.values()) / 1e6:.1f} MB"
    return f"{text}; {len(failed)} could not be read -> {output / _LEFT_OUT}" if failed else text


def _count(plan: Plan) -> str:
    return f"{sum(map(len, plan.shards))} videos in {len(plan.shards)} shards"


def _is_done(output: Path, partial: Path, digest: str) -> bool:
    """Whether the shards of this plan are there; a folder with anything else in it is refused."""
    other = f"{output}: holds shards of another list, of files that changed since, or with other settings; "
    if (output / SHARD_INDEX).exists():
        header = read_header(str(output / SHARD_INDEX))
        if header.get("plan") != digest:
            raise UserError(f"{other}choose another --output")
        return all((output / name).is_file() for name in header["shards"])
    if (partial / "plan").exists():
        if (partial / "plan").read_text(encoding="utf-8") != digest:
            raise UserError(f"{other}it is not finished: remove it, or choose another --output")
    elif any(path != partial for path in output.iterdir()):
        raise UserError(f"{output}: holds files that this did not make; choose an empty or new --output")
    return False


def _size(text: str) -> int:
    """``500MB`` and the like, in bytes."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d+)?) *([kMGT]?)B?", text)
    if not match or (size := int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))) < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of 1MB or more, such as 1GB or 500MB")
    return size


def main(argv: Sequence[str] | None = None) -> int:
    """Packs a list, or indexes shards that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", help="list file (`path label` a line) or folder of class folders")
    what.add_argument(
        "--index-only",
        nargs="+",
        metavar="SHARDS",
        help="shards that are there: folders, paths or URLs; {000000..000146} and * are understood",
    )
    parser.add_argument(
        "--output", type=path_arg, required=True, help="folder for the shards; --index-only: index file"
    )
    parser.add_argument("--root", default="", help="put before relative paths of the list (default: its own folder)")
    parser.add_argument("--classes", default="", help="class names, one a line; they go into the index")
    parser.add_argument("--max-size", type=_size, default="1GB", help="bytes of a shard, at most (default 1GB)")
    parser.add_argument("--max-count", type=positive_int, default=sys.maxsize, help="videos of a shard, at most")
    parser.add_argument("--shuffle", type=nonnegative_int, metavar="SEED", help="mix the videos over the shards")
    parser.add_argument("--label", default="cls", help="--index-only: where labels are: cls (default), json.ENTRY, ...")
    parser.add_argument("--workers", type=positive_int, default=4, help="threads (default 4)")
    args = parser.parse_args(argv)
    if args.index_only:
        print(index_shards(args.index_only, args.output, classes=args.classes, label=args.label, workers=args.workers))
    else:
        if is_sharded(args.list):
            raise UserError(f"--list {args.list}: these are shards already")
        index = read_index(args.list, root=args.root, classes_file=args.classes)
        settings = dict(max_size=args.max_size, max_count=args.max_count, seed=args.shuffle, workers=args.workers)
        print(make(index, args.output, **settings))
    print(f"train with: DATA.TRAIN {shlex.quote(str(args.output))}")
    return 0

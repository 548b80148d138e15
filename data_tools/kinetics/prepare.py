"""Encodes videos again for training: smaller, upright, with a key frame every few frames, without sound.

The folders and names below OUTPUT are those below INPUT (with the suffix .mp4). Each file is H.264 (yuv420p, index in
front), has all frames that can be decoded, at their times, and is verified before it gets its name. To resume, run the
command again: finished and unchanged files are skipped. The report has one JSON line per video: clip (its path below
INPUT), status (ok, failed), reason, bytes, frames, size and what it was made from. The exit code is 0 when all videos
have been tried, even if some cannot be read; 2 for an error that ends the run (a wrong option, a full disk); 130 when
interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.kinetics.media import MediaError, transcode
from data_tools.kinetics.reports import Report, Result, exclusive
from octvideo.cli.arguments import add_part_arguments, core_count
from octvideo.data.media import scan_folder
from octvideo.errors import UserError
from octvideo.files import discard, replace_durably, writing
from octvideo.progress import Progress

PRESETS = "ultrafast superfast veryfast faster fast medium slow slower veryslow".split()


@dataclass(frozen=True)
class Preparer:
    """Prepares a video; called in worker processes.

    Args:
        source, output: folders.
        partial: the folder for unfinished files, on the output's disk.
        settings: of ``transcode``.
    """

    source: Path
    output: Path
    partial: Path
    settings: dict[str, Any]

    def __call__(self, clip: str) -> tuple[Result, dict[str, Any]]:
        """Prepare the video with this path below the source folder; return values for the report, too.

        Raises:
            UserError: the disk is full, or the like.
        """
        target = self.output / prepared_name(clip)
        partial = self.partial / f"{clip}.{os.getpid()}.part"  # a worker of a killed run may still write its own
        source = origin(self.source / clip)
        try:
            with writing(target):
                partial.parent.mkdir(parents=True, exist_ok=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                made = transcode(self.source / clip, partial, **self.settings)
                size = partial.stat().st_size
                replace_durably(partial, target)
        except MediaError as error:
            return Result("failed", str(error)), source
        finally:
            discard(partial)
        reason = f"{made.damaged} of its packets could not be decoded" if made.damaged else ""
        return Result("ok", reason, size), source | made._asdict()


def prepared_name(clip: str) -> str:
    """Return the output of a source: the same path, with the suffix ``.mp4``."""
    return f"{os.path.splitext(clip)[0]}.mp4"


def origin(path: Path) -> dict[str, int]:
    """Return what changes when a source does; zeros for a missing file."""
    try:
        status = path.stat()
    except OSError:
        return {"source_bytes": 0, "source_time": 0}
    return {"source_bytes": status.st_size, "source_time": status.st_mtime_ns}


def find_videos(source: Path, output: Path) -> list[str]:
    """Return the videos below a folder, except those in hidden folders.

    Raises:
        UserError: there are none, two would get the same name, or the output is below the source.
    """
    if not source.is_dir():
        raise UserError(f"--input {source}: no such folder")
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output {output}: is below --input; choose a folder outside it")
    clips = list(scan_folder(source))
    if not clips:
        raise UserError(f"--input {source}: no videos in this folder")
    names: dict[str, str] = {}
    for clip in clips:
        name = prepared_name(clip)
        if (other := names.setdefault(name, clip)) != clip:
            raise UserError(f"--input {source}: {other} and {clip} would both become {name}; rename one")
    return clips


def is_done(clip: str, source: Path, output: Path, known: dict[str, Any]) -> bool:
    """Tell whether a video was prepared, and neither it nor its source has changed since."""
    if known.get("status") != "ok" or any(known[name] != value for name, value in origin(source / clip).items()):
        return False
    target = output / prepared_name(clip)
    return target.is_file() and target.stat().st_size == known["bytes"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", type=Path, required=True, metavar="DIR", help="folder with videos, at any depth")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    add("--short-side", type=int, default=340, metavar="N", help="pixels, even (default 340; 256 is also usual)")
    add("--upscale", action="store_true", help="enlarge smaller videos (default: they keep their size)")
    add("--gop", type=int, default=16, metavar="N", help="frames from one key frame to the next (default 16)")
    add("--crf", type=int, default=20, metavar="N", help="x264's quality, 0 (best) to 51 (default 20)")
    add("--preset", choices=PRESETS, default="veryfast", help="x264's effort (default veryfast)")
    add("--workers", type=int, default=core_count(), metavar="N", help="worker processes (default: one per core)")
    add("--report", type=Path, metavar="FILE", help="JSON lines (default: OUTPUT/report.jsonl)")
    add_part_arguments(parser)
    args = parser.parse_args(argv)
    for name, low, high in (("short_side", 16, 8192), ("gop", 1, 10000), ("crf", 0, 51), ("workers", 1, 4096)):
        if not low <= getattr(args, name) <= high:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(args, name)}: it must be from {low} to {high}")
    if args.short_side % 2:
        raise UserError(f"--short-side is {args.short_side}: it must be even, as colour has half the resolution")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the missing videos."""
    args = parse(argv)
    from octvideo.workers import WorkerFailed, as_completed  # loads torch, which takes seconds

    settings = {name: getattr(args, name) for name in ("short_side", "upscale", "gop", "crf", "preset")}
    clips = find_videos(args.input, args.output)
    report_path = args.report or args.output / "report.jsonl"
    with exclusive(args.output, args.part) as partial, Report(report_path, args.part) as report:
        report.order = clips
        if any(line.get("settings") != settings for line in report):
            raise UserError(f"{report_path}: of a run with other settings; choose another --output")
        todo: list[str] = []
        if args.merge:
            report.require(clips)
        else:
            clips = [clip for clip in clips if args.part is None or args.part.has(clip)]
            todo = [clip for clip in clips if not is_done(clip, args.input, args.output, report.get(clip))]
        work, counts = Preparer(args.input, args.output, partial, settings), Counter[str]()
        results = as_completed(work, todo, workers=args.workers, timeout=math.inf)
        try:
            with closing(results), Progress("preparing", len(todo), "videos") as progress:
                for number, made in results:
                    clip = todo[number]
                    result, values = (Result("failed", str(made)), {}) if isinstance(made, WorkerFailed) else made
                    report.note(clip, result, **values, settings=settings)
                    counts[result.status] += 1
                    progress.update(text=f"{counts['failed']} failed")
        finally:
            for path in partial.rglob("*.part"):  # of a worker that crashed or was killed, now or in an earlier run
                discard(path)
        counts = Counter(report.get(clip)["status"] for clip in clips)
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    print(f"{args.output}: {len(clips)} videos: {counts['ok']} ok{failed} ({len(todo)} tried now); see {report_path}")
    return 0

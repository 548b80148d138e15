"""Re-encodes videos for training: smaller, upright, with a key frame every few frames, without sound.

The folders and names below OUTPUT are those below INPUT (with the suffix .mp4). Each file is H.264 (yuv420p, index in
front), has all frames that can be decoded, at their times, and is read again before it gets its name. Run it again to
go on: what is there and unchanged is passed over. The report has one JSON line a video: clip (its path below INPUT),
status (ok, failed), reason, bytes, frames, size and what it was made from. The exit code is 0 when all videos have been
tried, also if some cannot be read; 2 for an error that stops the run (a wrong option, a full disk); 130 when
interrupted.
"""

from __future__ import annotations

import argparse
import os
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from data_tools.kinetics.jobs import Crashed, Helper, interrupt_on_terminate, run_jobs, show_progress
from data_tools.kinetics.media import MediaError, transcode
from data_tools.kinetics.reports import Outcome, Report, locked
from octvideo.errors import UserError
from octvideo.files import discard, replace_durably, writing

PRESETS = "ultrafast superfast veryfast faster fast medium slow slower veryslow".split()


class Preparer:
    """One video after the other, in processes that may die of a damaged one.

    Args:
        source, output: folders.
        partial: for files that are not finished, on the output's disk.
        settings: of ``transcode``.
        workers: processes.
        stop: set when the run ends.
    """

    def __init__(
        self,
        source: Path,
        output: Path,
        partial: Path,
        report: Report,
        settings: dict[str, Any],
        *,
        workers: int,
        stop: threading.Event,
    ) -> None:
        self._source, self._output, self._partial = source, output, partial
        self._report, self._settings = report, settings
        self._helpers: queue.SimpleQueue[Helper] = queue.SimpleQueue()
        for _ in range(workers):
            self._helpers.put(Helper(stop))

    def __call__(self, clip: str) -> Outcome:
        """Prepares a video, ``clip`` being its path below the source folder.

        Raises:
            UserError: the disk is full, or the like.
            Stopped: the run ends.
        """
        target = self._output / prepared_name(clip)
        partial = self._partial / f"{clip}.{os.getpid()}.part"  # a killed run's helper may still write its own
        values = origin(self._source / clip)
        helper = self._helpers.get()
        try:
            with writing(target):
                partial.parent.mkdir(parents=True, exist_ok=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                made = helper.call(transcode, self._source / clip, partial, **self._settings)
                size = partial.stat().st_size
                replace_durably(partial, target)
            reason = f"{made.damaged} of its packets could not be decoded" if made.damaged else ""
            outcome = Outcome("ok", reason, size)
            values |= made._asdict()
        except (MediaError, Crashed) as error:
            outcome = Outcome("failed", str(error))
        finally:
            self._helpers.put(helper)
            discard(partial)
        self._report.add(clip, outcome, **values, settings=self._settings)
        return outcome

    def close(self) -> None:
        """Ends the processes."""
        while not self._helpers.empty():
            self._helpers.get().close()


def prepared_name(clip: str) -> str:
    """The output of a source: the same path, with the suffix ``.mp4``."""
    return f"{os.path.splitext(clip)[0]}.mp4"


def origin(path: Path) -> dict[str, int]:
    """What tells that a source has changed; zeros where there is none."""
    try:
        status = path.stat()
    except OSError:
        return {"source_bytes": 0, "source_time": 0}
    return {"source_bytes": status.st_size, "source_time": status.st_mtime_ns}


def find_videos(source: Path, output: Path) -> list[str]:
    """The videos below a folder, but not those in hidden folders.

    Raises:
        UserError: there are none, two would have one name, or the output is below the source.
    """
    from octvideo.data.media import scan_folder  # loads torch, which the processes do without

    if not source.is_dir():
        raise UserError(f"--input {source}: no such folder")
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output {output}: is in --input; choose a folder beside it")
    clips = [clip for clip in scan_folder(source) if not any(part.startswith(".") for part in clip.split("/"))]
    if not clips:
        raise UserError(f"--input {source}: there are no videos in it")
    names: dict[str, str] = {}
    for clip in clips:
        name = prepared_name(clip)
        if (other := names.setdefault(name, clip)) != clip:
            raise UserError(f"--input {source}: {other} and {clip} would both become {name}; rename one")
    return clips


def is_done(clip: str, source: Path, output: Path, known: dict[str, Any]) -> bool:
    """Whether a video was prepared, and neither it nor its source has changed since."""
    if known.get("status") != "ok" or any(known[name] != value for name, value in origin(source / clip).items()):
        return False
    target = output / prepared_name(clip)
    return target.is_file() and target.stat().st_size == known["bytes"]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", type=Path, required=True, metavar="DIR", help="folder of videos, with folders in it")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    add("--short-side", type=int, default=340, metavar="N", help="pixels, even (default 340; 256 is also usual)")
    add("--upscale", action="store_true", help="enlarge smaller videos (default: they keep their size)")
    add("--gop", type=int, default=16, metavar="N", help="frames from one key frame to the next (default 16)")
    add("--crf", type=int, default=20, metavar="N", help="x264's quality, 0 (best) to 51 (default 20)")
    add("--preset", choices=PRESETS, default="veryfast", help="x264's effort (default veryfast)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add("--report", type=Path, metavar="FILE", help="JSON lines (default: OUTPUT/report.jsonl)")
    args = parser.parse_args(argv)
    for name, low, high in (("short_side", 16, 8192), ("gop", 1, 10000), ("crf", 0, 51), ("workers", 1, 4096)):
        if not low <= getattr(args, name) <= high:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(args, name)}: it must be from {low} to {high}")
    if args.short_side % 2:
        raise UserError(f"--short-side is {args.short_side}: it must be even, as colour has half the resolution")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares what is missing."""
    args = _parse(argv)
    settings = {name: getattr(args, name) for name in ("short_side", "upscale", "gop", "crf", "preset")}
    clips = find_videos(args.input, args.output)
    report_path = args.report or args.output / "report.jsonl"
    stop = threading.Event()
    with interrupt_on_terminate(), locked(args.output) as partial, Report(report_path) as report:
        for line in report:
            if line.get("settings") != settings:
                raise UserError(f"{report_path}: is of a run with other settings; choose another --output")
        for path in partial.rglob("*.part"):  # what a killed run left
            path.unlink()
        todo = [clip for clip in clips if not is_done(clip, args.input, args.output, report.get(clip))]
        work = Preparer(args.input, args.output, partial, report, settings, workers=args.workers, stop=stop)
        jobs = run_jobs(todo, work, workers=args.workers, stop=stop)
        with closing(work), closing(jobs), show_progress("preparing", len(todo)) as advance:
            for outcome in jobs:
                advance(outcome)
        counts = Counter(report.get(clip)["status"] for clip in clips)
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    print(f"{args.output}: {len(clips)} videos: {counts['ok']} ok{failed} ({len(todo)} tried now); see {report_path}")
    return 0

"""Downloads the clips of a Kinetics annotation file (CSV of Kinetics-400, -600 or -700), and cuts them.

Sources, one of:
  --yt-dlp               online videos, by yt-dlp and ffmpeg; only the section of the clip is downloaded
  --url-template URL     a web server (http, https), or a local mirror (file:// or a path). Fields: {youtube_id},
                         {label}, {split}, {start} and {end} (seconds; {start:06d} has six digits), {name} (the
                         clip's file name). Without a field, /{label}/{name} is added. With --trim the files there
                         are whole videos, and /{youtube_id}.mp4 is added.
  both                   yt-dlp, with the pages that the template gives

Files are written to OUTPUT/LABEL/ID_000010_000020.mp4 (without labels, or with --flat, to OUTPUT/). To resume, run the
command again: finished files are not downloaded again, and a transfer that broke off is resumed if the server can. The
report has one JSON line per clip: clip, status (ok, gone, private, failed), reason, bytes, attempts, time and the row
of the CSV. The exit code is 0 when all clips have been tried, even if some are not available; 2 for an error that ends
the run (a wrong option, a full disk); 130 when interrupted.
"""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from data_tools.kinetics.media import MediaError, require_video, transcode
from data_tools.kinetics.reports import Report, Result, exclusive
from data_tools.kinetics.sources import LocalFiles, NotFetched, Source, check_template
from octvideo.cli.arguments import add_part_arguments
from octvideo.data.annotations import Segment, clip_name, read_annotations
from octvideo.errors import UserError
from octvideo.files import replace_durably, writing
from octvideo.progress import Progress

_LONGEST_SECTION = 1800.0  # seconds; a live stream would never end
_STATUSES = ("ok", "gone", "private", "failed")


def clip_path(segment: Segment, flat: bool) -> str:
    """Return a clip's path below the output folder.

    Raises:
        UserError: the label cannot be the name of a folder.
    """
    label = segment.label
    if flat or label is None:
        return clip_name(segment)
    if label.startswith(".") or any(character in label for character in "/\\\0"):
        raise UserError(f"label {label!r} cannot be the name of a folder; use --flat, or correct the annotations")
    return f"{label}/{clip_name(segment)}"


@dataclass(frozen=True)
class Downloader:
    """Downloads a clip to its place in the output folder; called in worker processes.

    Args:
        source: where the videos are.
        output: the folder of the clips.
        partial: the folder for unfinished files, on the same disk.
        trim: the source has whole videos, from which the clip is cut.
    """

    source: Source
    output: Path
    partial: Path
    trim: bool

    def __call__(self, job: tuple[str, Segment]) -> Result:
        """Download a clip; ``job`` is its path below the output folder, and its segment.

        Raises:
            UserError: the disk is full, or the server asks for a long pause.
        """
        clip, segment = job
        folder, target = self.partial / f"{clip}.part", self.output / clip
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            path = self.source.fetch(segment, folder)
            try:
                require_video(path)
                if self.trim:
                    with writing(cut := folder / "cut.mp4"):
                        transcode(path, cut, start=segment.start, end=segment.end)
                    path = cut
            except MediaError as error:
                shutil.rmtree(folder)  # resuming it would not help
                raise NotFetched("failed", str(error)) from None
        except NotFetched as error:
            if error.status != "failed":  # else the next run resumes the part
                shutil.rmtree(folder)
            return Result(error.status, error.reason, attempts=self.source.attempts)
        with writing(target):
            size = path.stat().st_size
            replace_durably(path, target)
            shutil.rmtree(folder)
        return Result("ok", "", size, self.source.attempts)


def note(report: Report, clip: str, segment: Segment, result: Result) -> None:
    """Write a clip's line of the report."""
    report.note(clip, result, time=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **segment._asdict())


def choose(
    segments: Sequence[Segment], output: Path, report: Report, *, flat: bool, again: bool
) -> tuple[dict[str, Segment], dict[str, Segment]]:
    """Return the clips to download, and those that exist or are known to be unavailable, by path."""
    todo: dict[str, Segment] = {}
    done: dict[str, Segment] = {}
    for segment in segments:
        clip = clip_path(segment, flat)
        path = output / clip
        known = report.get(clip)
        if path.is_file() and (size := path.stat().st_size):
            if known.get("status") != "ok":  # killed between the file and the line, or from elsewhere
                note(report, clip, segment, Result("ok", "was there", size, 0))
            done[clip] = segment
        elif known.get("status") in ("gone", "private") and not again:
            done[clip] = segment
        else:
            todo[clip] = segment
    return todo, done


def build_source(args: argparse.Namespace, segments: list[Segment]) -> Source:
    """Return the source that the options describe.

    Raises:
        UserError: the options contradict each other, or the source does not exist.
    """
    template = args.url_template or "https://www.youtube.com/watch?v={youtube_id}"
    if "{" not in template:
        labelled = segments[0].label is not None and not args.flat
        rest = "{youtube_id}.mp4" if args.trim else "{label}/{name}" if labelled else "{name}"
        template = f"{template.rstrip('/')}/{rest}"
    check_template(template, segments)
    if args.yt_dlp and args.trim:
        raise UserError("--trim: yt-dlp cuts already; leave out --trim or --yt-dlp")
    if args.yt_dlp and args.limit_rate:
        raise UserError("--limit-rate: ffmpeg, which reads the sections for yt-dlp, has no limit; use --rate")
    if not args.yt_dlp and not template.startswith(("http://", "https://")):
        if "://" in template and not template.startswith("file://"):
            raise UserError(f"--url-template {template}: expected http://, https://, file:// or a path")
        return LocalFiles(template, in_place=args.trim)
    try:
        from data_tools.kinetics.web import Web
    except ImportError:
        raise UserError("yt-dlp is not installed: pip install -e '.[kinetics]'") from None
    try:
        more = shlex.split(args.yt_dlp_args)
    except ValueError as error:
        raise UserError(f"--yt-dlp-args {args.yt_dlp_args}: {error}; quote it as in a shell") from None
    options = ["--retries", str(args.retries), "--extractor-retries", str(args.retries)]
    options += ["--socket-timeout", str(args.timeout)]
    if args.limit_rate:
        options += ["--limit-rate", str(max(1, int(args.limit_rate / args.workers)))]
    if args.cookies is not None:
        if not args.cookies.is_file():
            raise UserError(f"--cookies {args.cookies}: no such file")
        options += ["--cookies", str(args.cookies)]
    interval = args.workers / args.rate if args.rate else 0.0
    return Web(template, [*options, *more], sections=args.yt_dlp, interval=interval, backoff=args.backoff)


def byte_count(text: str) -> float:
    """Return ``500K``, ``2.5M``, ``1G`` or a plain number as bytes."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    return float(text[:-1] if factor > 1 else text) * factor


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, metavar="CSV", help="official file: train, val or test")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the clips")
    add("--yt-dlp", action="store_true", help="download sections of online videos")
    add("--url-template", metavar="URL", help="where the files are, see above")
    add("--trim", action="store_true", help="cut the clip from the whole video (encoded again, without sound)")
    add("--flat", action="store_true", help="no class folders")
    add("--workers", type=int, default=4, metavar="N", help="worker processes (default 4)")
    add("--rate", type=float, default=0, metavar="R", help="at most R requests per second, all workers together (web)")
    add(
        "--limit-rate",
        type=byte_count,
        default=0,
        metavar="B",
        help="at most B bytes per second, all workers together (web servers); 500K, 2M",
    )
    add("--retries", type=int, default=4, metavar="N", help="further attempts after a failed one (default 4)")
    add(
        "--backoff",
        type=float,
        default=1,
        metavar="S",
        help="seconds before the second attempt, then doubled (default 1)",
    )
    add("--timeout", type=float, default=30, metavar="S", help="seconds to wait for a web server's data (default 30)")
    add("--give-up", type=int, default=100, metavar="N", help="stop after N failures in a row; 0 = never (default 100)")
    add("--retry-unavailable", action="store_true", help="also try clips that the report calls gone or private")
    add("--report", type=Path, metavar="FILE", help="JSON lines (default: OUTPUT/report.jsonl)")
    add("--cookies", type=Path, metavar="FILE", help="cookies in Netscape format, as browsers export them")
    add("--yt-dlp-args", default="", metavar="ARGS", help="further arguments of yt-dlp, as one quoted word")
    add_part_arguments(parser)
    args = parser.parse_args(argv)
    for name, low in (("workers", 1), ("rate", 0), ("limit_rate", 0), ("retries", 0), ("backoff", 0), ("give_up", 0)):
        if not getattr(args, name) >= low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: it must be at least {low}")
    if not args.timeout > 0:
        raise UserError(f"--timeout is {args.timeout}: it must be above 0")
    if not (args.yt_dlp or args.url_template):
        raise UserError("no source: give --yt-dlp or --url-template")
    if args.part:  # the limits are those of all tasks that run at once
        args.rate /= args.part.at_once
        args.limit_rate /= args.part.at_once
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Download the missing clips."""
    args = parse(argv)
    segments = read_annotations(args.annotations)
    for segment in segments:
        clip_path(segment, args.flat)  # raises before anything is downloaded
    source = build_source(args, segments)
    # Torch, which it imports, takes seconds: --help and wrong options are answered without it.
    from octvideo.workers import WorkerFailed, as_completed

    report_path = args.report or args.output / "report.jsonl"
    with exclusive(args.output, args.part) as partial, Report(report_path, args.part) as report:
        clips = {clip_path(segment, args.flat): segment for segment in segments}
        report.order = list(clips)
        todo: dict[str, Segment] = {}
        if args.merge:
            report.require(report.order)
            done = clips
        else:
            mine = [segment for clip, segment in clips.items() if args.part is None or args.part.has(clip)]
            todo, done = choose(mine, args.output, report, flat=args.flat, again=args.retry_unavailable)
        work, jobs = Downloader(source, args.output, partial, args.trim), list(todo.items())
        results = as_completed(work, jobs, workers=args.workers, timeout=_LONGEST_SECTION if args.yt_dlp else math.inf)
        counts: Counter[str] = Counter()
        failures = 0
        with closing(results), Progress("downloading", len(jobs), "clips") as progress:
            for number, result in results:
                if isinstance(result, WorkerFailed):
                    result = Result("failed", str(result))
                    shutil.rmtree(partial / f"{jobs[number][0]}.part", ignore_errors=True)
                note(report, *jobs[number], result)
                counts[result.status] += 1
                progress.update(text=_summary(counts))
                failures = failures + 1 if result.status == "failed" else 0
                if failures == args.give_up:
                    raise UserError(f"{failures} clips failed in a row, the last: {result.reason}; see {report_path}")
        counts += Counter(report.get(clip)["status"] for clip in done)
    print(f"{args.output}: {len(todo | done)} clips: {_summary(counts)} ({len(todo)} tried now); see {report_path}")
    if counts["gone"] and not counts["ok"]:
        print("no clip was found: if the address is wrong, correct it and add --retry-unavailable", file=sys.stderr)
    return 0


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])

"""Downloads the clips of a Kinetics annotation file (CSV of Kinetics-400, -600 or -700), and cuts them.

Sources, one of:
  --yt-dlp               the online videos, by yt-dlp and ffmpeg: only the section of the clip is downloaded
  --url-template URL     a web server (http, https), or a local mirror (file:// or a path). Fields: {youtube_id},
                         {label}, {split}, {start} and {end} (seconds; {start:06d} has six digits), {name} (the
                         clip's file name). Without a field, /{label}/{name} is added. With --trim the files there
                         are whole videos.
  both                   yt-dlp, on the pages that the template names

Files are written to OUTPUT/LABEL/ID_000010_000020.mp4 (without labels, or with --flat, to OUTPUT/). Run it again to go
on: finished files are not fetched again, those that broke off are resumed where the server can. The report has one JSON
line a clip: clip, status (ok, gone, private, failed), reason, bytes, attempts, time and the row of the CSV. The exit
code is 0 when all clips have been tried, also if some are not to be had; 2 for an error that stops the run (a wrong
option, a full disk); 130 when interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from data_tools.kinetics.jobs import interrupt_on_terminate, run_jobs, show_progress
from data_tools.kinetics.media import MediaError, check_video, transcode
from data_tools.kinetics.pace import Pacer, Transient, Unavailable
from data_tools.kinetics.reports import Outcome, Report, locked
from data_tools.kinetics.transfers import LocalFiles, WebFiles, check_template
from data_tools.kinetics.youtube import PAGE, YouTube
from octvideo.data.annotations import Segment, clip_name, read_annotations
from octvideo.errors import UserError
from octvideo.files import replace_durably, writing


class Source(Protocol):
    """Where videos come from."""

    def fetch(self, segment: Segment, partial: Path) -> Path:
        """The file of a segment, in ``partial`` or elsewhere; raises Unavailable or Transient."""


def clip_path(segment: Segment, flat: bool) -> str:
    """A clip's path below the output folder.

    Raises:
        UserError: the label cannot be a folder's name.
    """
    label = segment.label
    if flat or label is None:
        return clip_name(segment)
    if label.startswith(".") or any(character in label for character in "/\\\0"):
        raise UserError(f"label {label!r} cannot be the name of a folder; use --flat, or correct the annotations")
    return f"{label}/{clip_name(segment)}"


class Downloader:
    """One clip after the other, from its source to its name in the output folder and its line in the report.

    Args:
        output: the folder of the clips.
        partial: the folder of what is not finished, on the same disk.
        retries: further attempts after the first.
        trim: the source has whole videos, of which the segment is cut.
    """

    def __init__(
        self, output: Path, partial: Path, source: Source, report: Report, pacer: Pacer, *, retries: int, trim: bool
    ) -> None:
        self._output, self._partial, self._source, self._report = output, partial, source, report
        self._pacer, self._retries, self._trim = pacer, retries, trim

    def __call__(self, job: tuple[str, Segment]) -> Outcome:
        """Downloads a clip, ``job`` being its path below the output folder and its segment.

        Raises:
            UserError: the disk is full, or the like.
            Stopped: the run ends.
        """
        clip, segment = job
        partial = self._partial / f"{clip}.part"
        with writing(partial):
            partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            outcome = self._finish(clip, segment, partial)
        except Unavailable as error:
            if error.status != "failed":  # else the next run goes on with what has come
                _discard(partial)
            outcome = Outcome(error.status, error.args[0], attempts=error.args[1])
        note(self._report, clip, segment, outcome)
        return outcome

    def _finish(self, clip: str, segment: Segment, partial: Path) -> Outcome:
        def fetch() -> Path:
            path = self._source.fetch(segment, partial)
            try:
                check_video(path)
            except MediaError as error:
                _discard(partial)  # to begin again, not to go on behind it
                raise Transient(str(error)) from None
            return path

        path, attempts = self._pacer.attempt(fetch, self._retries)
        if self._trim:
            cut = partial.with_name(f"{partial.name}.cut")
            try:
                with writing(cut):
                    transcode(path, cut, start=segment.start, end=segment.end)
            except MediaError as error:
                _discard(partial)
                raise Unavailable(str(error), attempts) from None
            path = cut
        target = self._output / clip
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            size = path.stat().st_size
            replace_durably(path, target)
        _discard(partial)
        return Outcome("ok", "", size, attempts)


def _discard(partial: Path) -> None:
    """Removes all that was written for a clip under a temporary name."""
    for suffix in ("", ".version", ".cut"):
        partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    shutil.rmtree(partial.with_name(f"{partial.name}.d"), ignore_errors=True)


def note(report: Report, clip: str, segment: Segment, outcome: Outcome) -> None:
    """Writes a clip's line of the report."""
    report.add(clip, outcome, time=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **segment._asdict())


def choose(segments: Sequence[Segment], output: Path, report: Report, *, flat: bool, again: bool) -> tuple[dict, dict]:
    """What is to be downloaded, and what is there or known not to be had: paths and segments, by the path."""
    todo: dict[str, Segment] = {}
    done: dict[str, Segment] = {}
    for segment in segments:
        clip = clip_path(segment, flat)
        path = output / clip
        known = report.get(clip)
        if path.is_file() and (size := path.stat().st_size):
            if known.get("status") != "ok":  # killed between the file and the line, or from elsewhere
                note(report, clip, segment, Outcome("ok", "was there", size, 0))
            done[clip] = segment
        elif known.get("status") in ("gone", "private") and not again:
            done[clip] = segment
        else:
            todo[clip] = segment
    return todo, done


def build_source(args: argparse.Namespace, segments: list[Segment], pacer: Pacer) -> Source:
    """The source that the options say.

    Raises:
        UserError: they contradict each other, or it is not there.
    """
    template = args.url_template or PAGE
    if args.url_template and "{" not in template:
        labelled = segments[0].label is not None and not args.flat
        rest = "{youtube_id}.mp4" if args.trim else "{label}/{name}" if labelled else "{name}"
        template = f"{template.rstrip('/')}/{rest}"
    check_template(template, segments)
    if args.yt_dlp:
        if args.trim:
            raise UserError("--trim: yt-dlp cuts by itself; leave one of --trim and --yt-dlp out")
        if args.limit_rate:
            raise UserError("--limit-rate: ffmpeg, which reads the sections for yt-dlp, has no limit; use --rate")
        try:
            more = shlex.split(args.yt_dlp_args)
        except ValueError as error:
            raise UserError(f"--yt-dlp-args {args.yt_dlp_args}: {error}; quote it as in a shell") from None
        return YouTube(template, pacer, cookies=args.cookies, more=more)
    if template.startswith(("http://", "https://")):
        return WebFiles(template, pacer, connections=args.workers, cookies=args.cookies, timeout=args.timeout)
    if "://" in template and not template.startswith("file://"):
        raise UserError(f"--url-template {template}: expected http://, https://, file:// or a path")
    return LocalFiles(template, pacer, in_place=args.trim)


def byte_count(text: str) -> float:
    """``500K``, ``2.5M``, ``1G`` or a plain number of bytes."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    return float(text[:-1] if factor > 1 else text) * factor


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, metavar="CSV", help="official file: train, val or test")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the clips")
    add("--yt-dlp", action="store_true", help="download with yt-dlp")
    add("--url-template", metavar="URL", help="where the files are, see above")
    add("--trim", action="store_true", help="cut the clip out of the whole video (encoded anew, without sound)")
    add("--flat", action="store_true", help="no folders of classes")
    add("--workers", type=int, default=4, metavar="N", help="clips at once (default 4)")
    add("--rate", type=float, default=0, metavar="R", help="at most so many requests a second, all workers together")
    add(
        "--limit-rate",
        type=byte_count,
        default=0,
        metavar="B",
        help="at most so many bytes a second, all together; 500K, 2M",
    )
    add("--retries", type=int, default=4, metavar="N", help="further attempts where one fails (default 4)")
    add(
        "--backoff",
        type=float,
        default=1,
        metavar="S",
        help="seconds before the second attempt, then doubled (default 1)",
    )
    add("--timeout", type=float, default=30, metavar="S", help="seconds to wait for a web server's data (default 30)")
    add("--give-up", type=int, default=100, metavar="N", help="stop after N failures in a row; 0 = never (default 100)")
    add("--retry-unavailable", action="store_true", help="also try what the report calls gone or private")
    add("--report", type=Path, metavar="FILE", help="JSON lines (default: OUTPUT/report.jsonl)")
    add("--cookies", type=Path, metavar="FILE", help="cookies in Netscape format, as browsers export them")
    add("--yt-dlp-args", default="", metavar="ARGS", help="further arguments of yt-dlp, in one pair of quotes")
    args = parser.parse_args(argv)
    for name, low in (("workers", 1), ("rate", 0), ("limit_rate", 0), ("retries", 0), ("backoff", 0), ("give_up", 0)):
        if not getattr(args, name) >= low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: it must be at least {low}")
    if not args.timeout > 0:
        raise UserError(f"--timeout is {args.timeout}: it must be above 0")
    if not (args.yt_dlp or args.url_template):
        raise UserError("no source: give --yt-dlp or --url-template")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Downloads what is missing."""
    args = _parse(argv)
    segments = read_annotations(args.annotations)
    for segment in segments:
        clip_path(segment, args.flat)  # before anything is downloaded
    pacer = Pacer(threading.Event(), args.rate, args.limit_rate, args.backoff)
    source = build_source(args, segments, pacer)
    report_path = args.report or args.output / "report.jsonl"
    with interrupt_on_terminate(), locked(args.output) as partial, Report(report_path) as report:
        todo, done = choose(segments, args.output, report, flat=args.flat, again=args.retry_unavailable)
        retries = 0 if isinstance(source, LocalFiles) else args.retries
        work = Downloader(args.output, partial, source, report, pacer, retries=retries, trim=args.trim)
        failures = 0
        jobs = run_jobs(todo.items(), work, workers=args.workers, stop=pacer.stop)
        with closing(jobs), show_progress("downloading", len(todo)) as advance:
            for outcome in jobs:
                advance(outcome)
                failures = failures + 1 if outcome.status == "failed" else 0
                if failures == args.give_up:
                    raise UserError(f"{failures} clips failed in a row, the last: {outcome.reason}; see {report_path}")
        counts = Counter(report.get(clip)["status"] for clip in todo | done)
    found = ", ".join(f"{counts[status]} {status}" for status in ("ok", "gone", "private", "failed") if counts[status])
    print(f"{args.output}: {len(todo | done)} clips: {found} ({len(todo)} tried now); see {report_path}")
    if counts["gone"] and not counts["ok"]:
        print("no clip was found: if the address is wrong, correct it and add --retry-unavailable", file=sys.stderr)
    return 0

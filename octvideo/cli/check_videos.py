"""``data_tools/verify_videos.py``: decode every video of a list or a folder to its end, and name the broken ones."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from octvideo.cli import to_json
from octvideo.cli.arguments import add_part_arguments, core_count, path_arg, positive_int, positive_number
from octvideo.errors import UserError
from octvideo.progress import Progress

__all__ = ["main"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options; end the program where they do not go together."""
    parser = argparse.ArgumentParser(
        prog="octvideo check-videos",
        description=__doc__.split(": ", 1)[1],
        epilog="Exit code: 0 if all files were checked, broken or not; 2 if the arguments are wrong.",
    )
    parser.add_argument(
        "source", type=path_arg, metavar="FOLDER|LIST", help="a folder of videos, or a list: `path label`"
    )
    parser.add_argument("--root", default="", metavar="DIR", help="folder of a list's relative paths (DATA.ROOT)")
    parser.add_argument("--classes", default="", metavar="FILE", help="class names that a list uses (DATA.CLASSES)")
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=core_count(),
        metavar="N",
        help="processes; default: one per core",
    )
    parser.add_argument("--timeout", type=positive_number, default=120.0, metavar="S", help="time limit per file (120)")
    parser.add_argument(
        "--report",
        type=path_arg,
        metavar="FILE",
        help="write one row per file (.csv or .jsonl); unchanged files that it has already are not decoded again",
    )
    parser.add_argument(
        "--clean-list", type=Path, metavar="FILE", help="write a copy of the list without the files that do not decode"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per file on stdout")
    add_part_arguments(parser)
    arguments = parser.parse_args(argv)
    if (arguments.part or arguments.merge) and not arguments.report:
        parser.error("--part and --merge need --report, which the parts share")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Check the videos and return 0.

    Raises:
        UserError: no such list or folder, no videos in it, a report or a list that cannot be written.
    """
    arguments = parse(argv)
    if arguments.report is not None and arguments.report.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"--report {arguments.report}: give a name that ends in .csv or .jsonl")
    if arguments.report is not None and arguments.clean_list == arguments.report:
        raise UserError(f"--clean-list {arguments.clean_list}: this is the --report too; give another name")
    # Torch takes seconds to import: --help and wrong arguments come first.
    from octvideo.data.checking.report import CheckReport, read_source
    from octvideo.data.checking.video import BROKEN, OK, UNFINISHED
    from octvideo.files import write_text

    source = read_source(arguments.source, arguments.root, arguments.classes, listable=arguments.clean_list is not None)
    if arguments.clean_list:
        source.check_target(arguments.clean_list)
    start = time.monotonic()
    counts: Counter[str] = Counter()
    readable: set[str] = set()
    with ExitStack() as stack:
        report = stack.enter_context(CheckReport(arguments.report, arguments.part))
        if arguments.merge:
            rows = report.merge(source.paths)
        else:
            rows = report.check(source.paths, arguments.workers, arguments.timeout)
        progress = stack.enter_context(Progress("checked", len(source.paths), "videos"))
        for checked in rows:
            counts[checked.status] += 1
            progress.update(text=f"{counts.total() - counts[OK]} do not decode")
            if checked.status == OK:
                readable.add(checked.path)
            if arguments.json:
                _print(to_json(asdict(checked)))
            elif checked.error:
                _print(f"{checked.path}: {checked.error}")
        known = report.reused
    if arguments.clean_list and not arguments.part:
        kept = "".join(f"{line}\n" for line, path in source.lines if path is None or path in readable)
        write_text(arguments.clean_list, kept)
    print(
        f"{counts.total()} videos checked in {time.monotonic() - start:.1f} s: {counts[OK]} ok, {counts[BROKEN]} "
        f"broken, {counts[UNFINISHED]} not finished by a decoder; {known} taken from the report",
        file=sys.stderr if arguments.json else sys.stdout,
    )
    if source.passed_over:
        print(f"{arguments.source}: {source.passed_over}", file=sys.stderr)
    return 0


def _print(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text)  # to stdout, without breaking the bar

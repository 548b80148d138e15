"""``data_tools/verify_videos.py``: decodes every video of a list or a folder wholly, and names the broken ones."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from octvideo.cli import to_json
from octvideo.cli.arguments import path_arg, positive_int, positive_seconds
from octvideo.errors import UserError
from octvideo.progress import Progress

__all__ = ["main"]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="check-videos",
        description=__doc__.split(": ", 1)[1],
        epilog="Exit code: 0 when all files were checked, broken ones or not; 2 where the arguments are wrong.",
    )
    parser.add_argument(
        "source", type=path_arg, metavar="FOLDER|LIST", help="a folder of videos, or a list: `path label`"
    )
    parser.add_argument("--root", default="", metavar="DIR", help="put before a list's relative paths (DATA.ROOT)")
    parser.add_argument("--classes", default="", metavar="FILE", help="class names that a list uses (DATA.CLASSES)")
    parser.add_argument(
        "--workers", type=positive_int, default=os.cpu_count() or 1, metavar="N", help="processes; default: one a core"
    )
    parser.add_argument("--timeout", type=positive_seconds, default=120.0, metavar="S", help="limit of one file (120)")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a row a file (.csv or .jsonl); files that it has already, unchanged, are not decoded again",
    )
    parser.add_argument(
        "--clean-list", type=Path, metavar="FILE", help="write the list again, without the files that do not decode"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per file on stdout")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when all files were checked.

    Raises:
        UserError: no such list or folder, no videos in it, a report or a list that cannot be written.
    """
    arguments = _parse(argv)
    if arguments.report is not None and arguments.report.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"--report {arguments.report}: give a name that ends in .csv or .jsonl")
    if arguments.report is not None and arguments.clean_list == arguments.report:
        raise UserError(f"--clean-list {arguments.clean_list}: this is the --report; give each a name of its own")
    # Torch, which the data package imports, takes seconds: --help and wrong arguments are answered without it.
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
        report = stack.enter_context(CheckReport(arguments.report))
        progress = stack.enter_context(Progress("checked", len(source.paths), "videos"))
        for checked in report.check(source.paths, arguments.workers, arguments.timeout):
            counts[checked.status] += 1
            progress.update(text=f"{counts.total() - counts[OK]} do not decode")
            if checked.status == OK:
                readable.add(checked.path)
            if arguments.json:
                _say(to_json(asdict(checked)))
            elif checked.error:
                _say(f"{checked.path}: {checked.error}")
        known = report.reused
    if arguments.clean_list:
        kept = "".join(f"{line}\n" for line, path in source.lines if path is None or path in readable)
        write_text(arguments.clean_list, kept)
    print(
        f"{len(source.paths)} videos checked in {time.monotonic() - start:.1f} s: {counts[OK]} ok, {counts[BROKEN]} "
        f"broken, {counts[UNFINISHED]} that a decoder did not finish; {known} of them known from the report before",
        file=sys.stderr if arguments.json else sys.stdout,
    )
    if source.passed_over:
        print(f"{arguments.source}: {source.passed_over}", file=sys.stderr)
    return 0


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text)  # to stdout, beside the bar

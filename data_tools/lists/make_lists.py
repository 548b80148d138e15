"""Writes lists for training and testing from the official files of a data set and a folder of videos.

    python data_tools/make_lists.py --annotations train.csv val.csv --videos DIR --output DIR       (Kinetics)
    python data_tools/make_lists.py --annotations FOLDER [--split 2] --videos DIR --output DIR
        (FOLDER has the official files of UCF-101, HMDB-51 or Something-Something v2; their test split is val.csv)

The videos of Kinetics are found by name, in any folders below DIR: ``ID_000417_000427.mp4``, ``ID_417_427.mp4`` or
``ID.mp4``, with any suffix of a video. If an ID has several segments, ``ID.mp4`` is used only if its folders (the
class, with blanks or underscores; train, val or test) fit exactly one of them. Videos of the other sets have the names
of the official files, with any suffix of a video.

Writes ``train.csv``, ``val.csv``, ``test.csv`` (``path,label``, the path relative to ``--videos``) for the splits of
the CSV files, ``classes.txt``, ``missing_train.csv`` and so on (the rows without a video, as annotations with the
reason) and ``not_listed.txt`` (the videos without a row). Every row is in a list or missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from data_tools.lists.make_official import make_official
from data_tools.lists.writing import NO_FILE, create_folder, split_report, write_table
from octvideo.cli.arguments import path_arg, positive_int
from octvideo.data.annotations import Segment, clip_name, read_annotations
from octvideo.data.index import class_number, read_classes, read_index
from octvideo.data.lists import format_row, write_lines
from octvideo.data.media import scan_folder
from octvideo.errors import UserError

SHIPPED = ("kinetics400_classes.txt", "kinetics600_classes.txt")
AMBIGUOUS, UNCLEAN = "several segments of this id", "not in the clean list"
_SPLIT = re.compile(r"(?:^|[_-])(train|val|test)(?:[_-]|$)")  # train, train_256, videos_val


class Match(NamedTuple):
    """The video of a segment, or the reason why there is none; and whether its folders are of another class."""

    path: str | None
    reason: str = ""
    elsewhere: bool = False


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _stems(segment: Segment) -> tuple[str, str, str]:
    """Return the names that a segment's file may have, without suffix."""
    name, start, end = segment.youtube_id, int(segment.start), int(segment.end)
    return _stem(clip_name(segment)), f"{name}_{start}_{end}", name


class Videos:
    """The videos below a folder, by file name without suffix; the folder is listed once."""

    def __init__(self, folder: Path, classes: Sequence[str], segments: Sequence[Segment]) -> None:
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for path in scan_folder(folder):
            self.by_stem[_stem(path)].append(path)
        self.numbers = {name: number for number, name in enumerate(classes)}
        self.repeated: dict[str, list[Segment]] = {}
        ids = Counter(segment.youtube_id for segment in segments)
        for segment in segments:
            if ids[segment.youtube_id] > 1:
                self.repeated.setdefault(segment.youtube_id, []).append(segment)

    def paths(self) -> list[str]:
        """Return all videos."""
        return [path for paths in self.by_stem.values() for path in paths]

    def find(self, segment: Segment) -> Match:
        """Return the video of a segment: of several, one in a folder of its class and split, or else the first."""
        *timed, bare = _stems(segment)
        for stem in timed:
            if stem in self.by_stem:
                return self._best(self.by_stem[stem], segment)
        whole = self.by_stem.get(bare, [])
        if not whole:
            return Match(None, NO_FILE)
        others = self.repeated.get(segment.youtube_id)
        if others is None:
            return self._best(whole, segment)
        certain = [path for path in whole if [other for other in others if self._fits(path, other)] == [segment]]
        return Match(certain[0]) if certain else Match(None, AMBIGUOUS)

    def _best(self, paths: list[str], segment: Segment) -> Match:
        fitting = [path for path in paths if self._fits(path, segment)]
        return Match((fitting or paths)[0], elsewhere=not fitting)

    def _fits(self, path: str, segment: Segment) -> bool:
        """Tell whether the folders of a path name no other class and no other split than the segment's."""
        for folder in path.split("/")[:-1]:
            number = class_number(folder, self.numbers)
            if number is None:
                split = _SPLIT.search(folder)
                if split and split[1] != segment.split:
                    return False
            elif segment.label is not None and number != self.numbers[segment.label]:
                return False
        return True


def choose_classes(labels: set[str], file: str) -> list[str]:
    """Return the names in ``file`` or, if it is "", the shipped list that has all the labels.

    Raises:
        UserError: a label is not among the names, or all labels are in both shipped lists.
    """
    candidates = {name: read_classes(name) for name in ([file] if file else SHIPPED)}
    fitting = {name: classes for name, classes in candidates.items() if labels <= set(classes)}
    fitting = {name: classes for name, classes in fitting.items() if labels == set(classes)} or fitting
    if len(fitting) > 1:
        raise UserError(f"all labels are in {' and in '.join(fitting)}: choose one with --classes")
    if fitting:
        return next(iter(fitting.values()))
    name, classes = min(candidates.items(), key=lambda item: len(labels - set(item[1])))
    unknown = sorted(labels - set(classes))
    near = get_close_matches(unknown[0], classes, 1, 0.0)
    raise UserError(
        f"label {unknown[0]!r} is not in {name} (did you mean {near[0]!r}? {len(unknown)} of {len(labels)} labels are "
        "missing): give the right --classes, or correct the CSV"
    )


def _clean(file: Path, videos: Path) -> set[str]:
    """Return absolute paths; those in the file are relative to ``--videos`` or to the working directory."""
    index = read_index(file, root=str(videos))
    paths = [index.path(number) for number in range(len(index))]
    return {os.path.abspath(path) for path in paths} | {
        os.path.abspath(os.path.relpath(path, videos)) for path in paths
    }


def _write_missing(file: Path, missing: Sequence[tuple[Segment, str]]) -> None:
    rows = []
    for segment, reason in missing:
        times = [int(time) if time.is_integer() else time for time in (segment.start, segment.end)]
        rows.append([segment.label or "", segment.youtube_id, *times, segment.split, reason])
    write_table(file, ["label", "youtube_id", "time_start", "time_end", "split", "reason"], rows)


class Lists:
    """The lines of the lists and the missing segments, both by split, and the used videos."""

    def __init__(self, segments: Iterable[Segment], videos: Videos, folder: Path, clean: set[str] | None) -> None:
        self.lines: defaultdict[str, list[str]] = defaultdict(list)
        self.missing: defaultdict[str, list[tuple[Segment, str]]] = defaultdict(list)
        self.used: set[str] = set()
        self.elsewhere: list[str] = []
        for segment in segments:
            path, reason, elsewhere = videos.find(segment)
            if path is not None:
                self.used.add(path)
                self.elsewhere += [path] if elsewhere else []
                if clean is not None and os.path.abspath(folder / path) not in clean:
                    path, reason = None, UNCLEAN
            if path is None:
                self.missing[segment.split].append((segment, reason))
            else:
                label = -1 if segment.label is None else videos.numbers[segment.label]
                self.lines[segment.split].append(format_row(path, label))


def make(
    annotations: Sequence[Path], folder: Path, output: Path, classes_file: str = "", clean_list: Path | None = None
) -> list[str]:
    """Write the files; return the lines of the report.

    Raises:
        UserError: an input is missing or malformed, or no video of the annotations exists.
    """
    rows = [segment for file in annotations for segment in read_annotations(file)]
    segments = list(dict.fromkeys(rows))
    labels = {segment.label for segment in segments if segment.label is not None}
    classes = choose_classes(labels, classes_file) if labels else []
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check --videos")
    videos = Videos(folder, classes, segments)
    lists = Lists(segments, videos, folder, _clean(clean_list, folder) if clean_list else None)
    if not lists.used:
        raise UserError(
            f"{folder}: none of the {len(segments)} videos of the annotations is in this folder; expected names such "
            f"as {clip_name(segments[0])}, in any folders"
        )
    if not any(lists.lines.values()):
        raise UserError(f"{clean_list}: none of the {len(lists.used)} videos found is in it; check --clean-list")
    create_folder(output)
    splits = dict.fromkeys(segment.split for segment in segments)
    for split in splits:
        if lists.lines[split]:
            write_lines(output / f"{split}.csv", lists.lines[split])
        _write_missing(output / f"missing_{split}.csv", lists.missing[split])
    if classes:
        write_lines(output / "classes.txt", classes)
    unlisted = sorted(set(videos.paths()) - lists.used)
    write_lines(output / "not_listed.txt", map(format_row, unlisted))
    stems = {_stem(path) for path in unlisted}
    known = {stem for segment in segments for stem in _stems(segment) if stem in stems} if stems else stems
    unknown = sum(_stem(path) not in known for path in unlisted)
    return [
        *(split_report(split, lists.lines[split], lists.missing[split], output) for split in splits),
        f"videos: {len(lists.used) + len(unlisted)} in the folder, {unknown} not in the CSV, "
        f"{len(unlisted) - unknown} further copies or of an id with several segments -> {output}/not_listed.txt",
        *_warnings(rows, segments, lists.elsewhere),
    ]


def _warnings(rows: list[Segment], segments: list[Segment], elsewhere: list[str]) -> list[str]:
    """Return a line for each irregularity of the rows and the folders."""
    repeated = [count for count in Counter(segment.youtube_id for segment in segments).values() if count > 1]
    conflicts = [name for name, count in Counter(map(clip_name, segments)).items() if count > 1]
    lines = []
    if len(rows) > len(segments):
        lines.append(f"{len(rows) - len(segments)} rows repeat another one: each is listed once")
    if repeated:
        lines.append(f"{len(repeated)} ids are in {sum(repeated)} rows, as different segments")
    if conflicts:
        lines.append(f"{len(conflicts)} clips are in rows of different labels or splits, e.g. {conflicts[0]}")
    if elsewhere:
        lines.append(f"{len(elsewhere)} videos are in the folder of another class or split, e.g. {elsewhere[0]}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Write the lists; print a report and the keys to train with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--annotations", type=Path, nargs="+", required=True, metavar="CSV|FOLDER", help="all splits together"
    )
    parser.add_argument("--split", type=positive_int, default=1, help="of UCF-101 and HMDB-51: 1, 2 or 3 (default 1)")
    parser.add_argument("--videos", type=path_arg, required=True, help="folder with the videos, at any depth")
    parser.add_argument("--output", type=path_arg, required=True, help="folder for the lists")
    parser.add_argument(
        "--classes", default="", help="file of class names, one per line (default: the shipped list that fits)"
    )
    parser.add_argument("--clean-list", type=Path, help="file of paths: list only these videos")
    args = parser.parse_args(argv)
    if len(args.annotations) == 1 and args.annotations[0].is_dir():
        if args.classes or args.clean_list:
            parser.error("--classes and --clean-list go with the CSV files of Kinetics")
        report = make_official(args.annotations[0], args.split, args.videos, args.output)
    else:
        report = make(args.annotations, args.videos, args.output, args.classes, args.clean_list)
    for line in report:
        print(line)
    keys = {"DATA.ROOT": args.videos.resolve()}
    keys |= {f"DATA.{split.upper()}": args.output / f"{split}.csv" for split in ("train", "val", "test")}
    keys["DATA.CLASSES"] = args.output / "classes.txt"
    print("train with:", *(f"{key} {shlex.quote(str(path))}" for key, path in keys.items() if path.exists()))
    return 0

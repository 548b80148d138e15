#!/usr/bin/env python
"""Write a tiny Kinetics: annotation files and a mirror of whole videos, to rehearse ``docs/kinetics.md`` offline.

``python examples/kinetics_rehearsal.py --clips clips --output rehearsal`` takes three videos of each class folder. The
classes get names of Kinetics-400, the videos ids like those of YouTube. The last row of each file has no video.
"""

import argparse
import csv
import shutil
from pathlib import Path

from octvideo.data.index import read_classes, read_index


def main() -> None:
    """Write OUTPUT/train.csv, OUTPUT/val.csv and OUTPUT/mirror."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder with one subfolder per class")
    parser.add_argument("--output", type=Path, required=True, help="folder for the result")
    args = parser.parse_args()
    other = set(read_classes("kinetics600_classes.txt"))
    names = [name for name in read_classes("kinetics400_classes.txt") if name not in other]
    index = read_index(args.clips)
    mirror = args.output / "mirror"
    mirror.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[list[object]]] = {"train": [], "val": []}
    for label in range(len(index.classes)):
        for number in (index.labels == label).nonzero()[0][:3]:
            youtube_id, split = f"oct{number:08d}", "train" if len(rows["train"]) < 2 * label + 2 else "val"
            shutil.copyfile(index.path(number), mirror / f"{youtube_id}.mp4")
            rows[split].append([names[label], youtube_id, 0, 1, split])
    for split, lines in rows.items():
        lines.append([names[0], f"gone_{split:_<6}", 0, 1, split])
        with (args.output / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["label", "youtube_id", "time_start", "time_end", "split"], *lines])
        print(f"{args.output / split}.csv: {len(lines)} rows")


if __name__ == "__main__":
    main()

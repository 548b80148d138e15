#!/usr/bin/env python
"""Compare the segments of joined Weizmann clips with the times at which the clips begin and end.

A file has the ten actions of one person in a random order. Overlap is intersection over union, in time, of a clip and
all segments with its label; sure segments only, where the network has a threshold. Give a network that has not seen
the persons: octvideo train DATA/weizmann --group-by '^([a-z]+)_'.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from octvideo.inference import Predictor
from octvideo.inference.overlay import VideoWriter
from octvideo.inference.sources import FrameReader
from octvideo.inference.timeline import Segment, find_segments, score_steps, smooth

ROOT = Path(__file__).resolve().parents[1]
STEPS = (2, 4)  # steps per window
SMOOTHING = (1, 3, 5, 7)  # steps of the moving average
SHORTEST = (1, 2, 3, 4)  # steps of a segment


def join(clips: Sequence[Path], target: Path) -> list[Segment]:
    """Write clips ``PERSON_ACTION.avi`` one after the other as H.264, and return their times."""
    known: list[Segment] = []
    count = 0
    with FrameReader(str(clips[0])) as first, VideoWriter(target, first.fps) as writer:
        fps = float(first.fps)
        for clip in clips:
            start = count
            with FrameReader(str(clip)) as reader:
                for frame in reader:
                    writer.write(frame, count / fps)
                    count += 1
            known.append(Segment(start / fps, count / fps, clip.stem.split("_")[1], 1.0, True))
    return known


def common(known: Segment, segments: Sequence[Segment]) -> float:
    """Return the seconds of a clip that segments cover."""
    return sum(max(0.0, min(known.end, part.end) - max(known.start, part.start)) for part in segments)


def overlap(known: Segment, segments: Sequence[Segment]) -> float:
    """Return intersection over union of a clip and of all sure segments with its label, 0 to 1."""
    found = [part for part in segments if part.label == known.label and part.sure is not False]
    both = common(known, found)
    return both / (known.end - known.start + sum(part.end - part.start for part in found) - both)


def correct(known: Segment, segments: Sequence[Segment]) -> float:
    """Return the seconds of a clip that have its label, sure or not."""
    return common(known, [part for part in segments if part.label == known.label])


class Joined(NamedTuple):
    """A file: its clips with their times, those that the network names by themselves, times and scores of its steps."""

    clips: list[Segment]
    named: list[Segment]
    times: np.ndarray
    scores: np.ndarray


def measure(files: Sequence[Joined], predictor: Predictor, every: int, size: int, shortest: int) -> dict[str, Any]:
    """Return the figures of one setting over files."""
    found = [
        find_segments(file.times, smooth(file.scores, size), predictor.classes, predictor.threshold, shortest=shortest)
        for file in files
    ]
    pairs = list(zip(files, found, strict=True))
    seconds = sum(file.clips[-1].end for file in files)
    return {
        "every": every,
        "smoothing": size,
        "shortest": shortest,
        "iou": round(mean(overlap(clip, segments) for file, segments in pairs for clip in file.clips), 4),
        "iou_named": round(mean(overlap(clip, segments) for file, segments in pairs for clip in file.named), 4),
        "time_correct": round(
            sum(correct(clip, segments) for file, segments in pairs for clip in file.clips) / seconds, 4
        ),
        "segments": round(mean(len(segments) for segments in found), 2),
    }


def main() -> None:
    """Print a line per setting, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", required=True, type=Path, help="the folder that has weizmann/ACTION/PERSON_ACTION.avi"
    )
    parser.add_argument("--checkpoint", help="default: the network that ships, which has seen all persons")
    parser.add_argument("--persons", nargs="+", default=["daria", "eli", "moshe"])
    parser.add_argument("--orders", type=int, default=2, help="files per person (2)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "timeline.json")
    args = parser.parse_args()
    predictor = Predictor(args.checkpoint, device="cpu")
    clips = {name: sorted((args.data / "weizmann").glob(f"*/{name}_*.avi")) for name in args.persons}
    named = {
        path for paths in clips.values() for path in paths if predictor.predict(path, 1)[0].label == path.parent.name
    }
    files: dict[int, list[Joined]] = {max(1, predictor.span // steps): [] for steps in STEPS}
    with tempfile.TemporaryDirectory() as folder:
        for person, order in itertools.product(args.persons, range(args.orders)):
            target = Path(folder, f"{person}{order}.mp4")
            chosen = random.Random(order).sample(clips[person], len(clips[person]))
            known = join(chosen, target)
            right = [segment for path, segment in zip(chosen, known, strict=True) if path in named]
            for every, found in files.items():
                found.append(Joined(known, right, *score_steps(target, predictor, every)))
    settings = [
        measure(found, predictor, every, size, shortest)
        for every, found in files.items()
        for size, shortest in itertools.product(SMOOTHING, SHORTEST)
    ]
    count = sum(map(len, clips.values()))
    results = {
        "persons": args.persons,
        "files": len(args.persons) * args.orders,
        "known_segments": count * args.orders,
        "span": predictor.span,
        "threshold": predictor.threshold,
        "clip_top1": round(100 * len(named) / count, 1),
        "settings": settings,
    }
    for setting in settings:
        print("  ".join(f"{key} {value}" for key, value in setting.items()))
    print(f"top-1 of the {count} clips by themselves: {results['clip_top1']} %")
    args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Renders a small set of real .mp4 files: people-like figures doing ten actions, for the quickstart and the tests.

Two pairs of actions differ only in the direction of time. No figure is in both training and validation.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from data_tools.sample_set.actions import ACTIONS
from data_tools.sample_set.clips import FPS, Clip, render
from octvideo.cli.arguments import nonnegative_int, path_arg
from octvideo.errors import UserError

MARKER = ".sample_dataset.json"  # a name that no other program's files have: --force removes a folder that has it
TAKES = 2  # videos of each figure in each action
_SPLITS = ("train", "val")


def plan(train_per_class: int, val_per_class: int, size: int, frames: int, seed: int) -> dict[str, Clip]:
    """All videos, by their path below the output folder.

    A figure is numbered within its split, and its seed has the split's number: the splits share none.
    """
    clips = {}
    for split, count in enumerate((train_per_class, val_per_class)):
        for number, action in enumerate(ACTIONS):
            for take in range(count):
                figure = take // TAKES
                path = f"{_SPLITS[split]}/{action}/{_SPLITS[split]}{figure:03d}_{take % TAKES}.mp4"
                clips[path] = Clip(action, (seed, split, figure), (seed, split, number, take), size, frames)
    return clips


def _make(job: tuple[str, Clip]) -> None:
    path, clip = job
    if not os.path.exists(path):  # what an interrupted run has made is whole: files get their name when they are
        render(clip, Path(path))


def make(output: Path, clips: dict[str, Clip], settings: dict[str, int], workers: int) -> bool:
    """Makes the videos that are missing, and the lists; False where all is there already.

    Raises:
        UserError: the folder holds a set made with other settings, or cannot be written.
    """
    marker = output / MARKER
    if not marker.is_file() and output.is_dir() and any(output.iterdir()):
        # Files in it could pass for videos of this set.
        raise UserError(f"{output}: holds files that this script did not make; choose an empty or new --output")
    if marker.is_file():
        try:
            known = json.loads(marker.read_text(encoding="utf-8"))
            before, complete = known["settings"], known["complete"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{marker}: damaged; choose another --output, or say --force") from None
        if before != settings:
            raise UserError(f"{output}: holds videos made with other settings; choose another --output, or say --force")
        if complete:
            return False
    try:
        for path in clips:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps({"settings": settings, "complete": False}), encoding="utf-8")
        jobs = [(str(output / path), clip) for path, clip in clips.items()]
        with ProcessPoolExecutor(workers) as pool:
            done = pool.map(_make, jobs, chunksize=4)
            list(tqdm(done, total=len(jobs), desc="rendering", unit="video", disable=not sys.stderr.isatty()))
        _write_lists(output, clips)
        marker.write_text(json.dumps({"settings": settings, "complete": True}), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from None
    return True


def _write_lists(output: Path, clips: dict[str, Clip]) -> None:
    (output / "classes.txt").write_text("\n".join(ACTIONS) + "\n", encoding="utf-8")
    with (output / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "figure", "frames", "fps"])
        for path, clip in clips.items():
            figure = Path(path).stem.rsplit("_", 1)[0]
            writer.writerow([path, clip.action, path.split("/")[0], figure, clip.frames, FPS])


def main(argv: Sequence[str] | None = None) -> int:
    """Writes ``train/CLASS/*.mp4``, ``val/CLASS/*.mp4``, ``classes.txt`` and ``manifest.csv``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=path_arg, required=True, help="folder for the videos")
    parser.add_argument("--train-per-class", type=int, default=60)
    parser.add_argument("--val-per-class", type=int, default=12)
    parser.add_argument("--size", type=int, default=80, help="height and width, pixels, even (default 80)")
    parser.add_argument("--frames", type=int, default=40, help=f"length of a video at {FPS} frames per second")
    parser.add_argument("--seed", type=nonnegative_int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--force", action="store_true", help="remove what is in the folder first")
    args = parser.parse_args(argv)
    for name, low in (("train_per_class", 1), ("val_per_class", 1), ("size", 32), ("frames", 8), ("workers", 1)):
        if getattr(args, name) < low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: it must be at least {low}")
    if args.size % 2:
        raise UserError(f"--size is {args.size}: it must be even, as H.264 has half the resolution for colour")
    if args.force and (args.output / MARKER).is_file():
        shutil.rmtree(args.output)
    settings = {name: getattr(args, name) for name in ("train_per_class", "val_per_class", "size", "frames", "seed")}
    clips = plan(**settings)
    made = make(args.output, clips, settings, args.workers)
    print(f"{args.output}: {len(clips)} videos of {len(ACTIONS)} actions {'made' if made else 'are there already'}")
    return 0

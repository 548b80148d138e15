"""Renders a set of real .mp4 files: people-like figures doing ten actions, for the quickstart and the tests.

Two pairs of actions differ only in the direction of time. Training and validation share no figure. With --hard there
are twenty actions, five such pairs, other people, things in front of the figure and a moving camera.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_tools.sample_set.actions import ACTIONS, ALL_ACTIONS
from data_tools.sample_set.clips import FPS, Clip, render
from octvideo.cli.arguments import nonnegative_int, path_arg
from octvideo.errors import UserError
from octvideo.files import write_text
from octvideo.progress import Progress

MARKER = ".sample_dataset.json"  # --force removes only a folder with this file
TAKES = 2  # videos of each figure in each action
_SPLITS = ("train", "val")


def plan(
    train_per_class: int, val_per_class: int, size: int, frames: int, seed: int, hard: bool = False
) -> dict[str, Clip]:
    """Return all videos, by their path below the output folder.

    The seed of a figure includes the number of its split, so the splits share no figure.
    """
    clips = {}
    for split, count in enumerate((train_per_class, val_per_class)):
        for number, action in enumerate(ALL_ACTIONS if hard else ACTIONS):
            for take in range(count):
                figure = take // TAKES
                path = f"{_SPLITS[split]}/{action}/{_SPLITS[split]}{figure:03d}_{take % TAKES}.mp4"
                clips[path] = Clip(action, (seed, split, figure), (seed, split, number, take), size, frames, hard)
    return clips


def _make(job: tuple[str, Clip]) -> None:
    path, clip = job
    if not os.path.exists(path):  # a file of an interrupted run is whole
        render(clip, Path(path))


def make(output: Path, clips: dict[str, Clip], settings: dict[str, int], workers: int) -> bool:
    """Make the missing videos and the lists; return False if the set was complete.

    Raises:
        UserError: the folder has other content or a set made with other settings, or cannot be written.
    """
    marker = output / MARKER
    if not marker.is_file() and output.is_dir() and any(output.iterdir()):
        # They could be mistaken for videos of this set.
        raise UserError(f"{output}: has files that this command did not make; choose an empty or new --output")
    if marker.is_file():
        try:
            known = json.loads(marker.read_text(encoding="utf-8"))
            before, complete = known["settings"], known["complete"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{marker}: damaged; choose another --output, or add --force") from None
        if before != settings:
            raise UserError(f"{output}: has videos made with other settings; choose another --output, or add --force")
        if complete:
            return False
    try:
        for path in clips:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(marker, json.dumps({"settings": settings, "complete": False}))
        jobs = [(str(output / path), clip) for path, clip in clips.items()]
        with ProcessPoolExecutor(workers) as pool, Progress("rendering", len(jobs), "videos") as progress:
            for _ in pool.map(_make, jobs, chunksize=4):
                progress.update()
        _write_lists(output, clips)
        write_text(marker, json.dumps({"settings": settings, "complete": True}))
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from None
    return True


def _write_lists(output: Path, clips: dict[str, Clip]) -> None:
    write_text(output / "classes.txt", "\n".join(dict.fromkeys(clip.action for clip in clips.values())) + "\n")
    with (output / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "figure", "frames", "fps"])
        for path, clip in clips.items():
            figure = Path(path).stem.rsplit("_", 1)[0]
            writer.writerow([path, clip.action, path.split("/")[0], figure, clip.frames, FPS])


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``train/CLASS/*.mp4``, ``val/CLASS/*.mp4``, ``classes.txt`` and ``manifest.csv``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=path_arg, required=True, help="folder for the videos")
    parser.add_argument("--train-per-class", type=int, default=60)
    parser.add_argument("--val-per-class", type=int, default=12)
    parser.add_argument("--size", type=int, default=80, help="height and width, pixels, even (default 80)")
    parser.add_argument("--frames", type=int, default=40, help=f"length of a video at {FPS} frames per second")
    parser.add_argument("--seed", type=nonnegative_int, default=0)
    parser.add_argument("--hard", action="store_true", help="twenty actions that are harder to tell apart")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--force", action="store_true", help="remove an earlier sample set from the folder first")
    args = parser.parse_args(argv)
    for name, low in (("train_per_class", 1), ("val_per_class", 1), ("size", 32), ("frames", 8), ("workers", 1)):
        if getattr(args, name) < low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: it must be at least {low}")
    if args.size % 2:
        raise UserError(f"--size is {args.size}: it must be even, as H.264 has half the resolution for colour")
    if args.force and (args.output / MARKER).is_file():
        shutil.rmtree(args.output)
    settings = {name: getattr(args, name) for name in ("train_per_class", "val_per_class", "size", "frames", "seed")}
    if args.hard:  # a set that was made before there was this option does not record it
        settings["hard"] = True
    clips = plan(**settings)
    made = make(args.output, clips, settings, args.workers)
    actions = len({clip.action for clip in clips.values()})
    print(f"{args.output}: {len(clips)} videos of {actions} actions {'made' if made else 'exist already'}")
    return 0

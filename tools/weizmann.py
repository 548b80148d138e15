#!/usr/bin/env python
"""The ten Weizmann actions in three folds, each tested on three persons that it has not seen."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootstrap import ROOT

from octvideo.cli import run as run_command
from octvideo.config import load_cfg
from octvideo.errors import UserError

FOLDS = (("daria", "denis", "eli"), ("ido", "ira", "lena"), ("lyova", "moshe", "shahar"))


def write_lists(videos: list[Path], classes: list[str], folder: Path, held_out: tuple[str, ...]) -> None:
    """``train.csv`` and ``val.csv``: `path label` lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, testing in (("train", False), ("val", True)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for path in videos:
                if (path.name.split("_")[0] in held_out) == testing:
                    writer.writerow([path.resolve(), classes.index(path.parent.name)])


def train(cfg: str, output: Path, folder: Path, overrides: list[str]) -> None:
    """Trains, and tests where the configuration says so, in a process of its own; what it leaves is in ``folder``."""
    keys = {
        "DATA.TRAIN": folder / "train.csv",
        "DATA.VAL": folder / "val.csv",
        "DATA.CLASSES": output / "classes.txt",
        "OUTPUT_DIR": folder,
    }
    pairs = [str(part) for item in keys.items() for part in item]
    command = ["tools/run_net.py", "--cfg", cfg, *pairs, *overrides]
    code = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
    if code:
        raise UserError(f"{folder}: training ended with exit code {code}; the reason is above")


def run_fold(cfg: str, output: Path, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The metrics of one fold, and the seconds it took: all of it, unless ``resumed`` says that it was begun before."""
    resumed = any((folder / "checkpoints").glob("step_*.pt"))
    start = time.perf_counter()
    train(cfg, output, folder, overrides)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {**metrics, "resumed": resumed, "seconds": time.perf_counter() - start}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints, and writes as ``weizmann.json``, the accuracy of each fold and over all clips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", required=True, type=Path, help="the folder that has weizmann/ACTION/PERSON_ACTION.avi"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "weizmann")
    parser.add_argument("--cfg", default="configs/weizmann/oct_i3d.yaml")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(len(FOLDS)), default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    args = parser.parse_args(argv)
    videos = sorted((args.data / "weizmann").glob("*/*.avi"))
    if not videos:
        raise UserError(f"--data {args.data}: no weizmann/ACTION/PERSON_ACTION.avi below this folder")
    output = args.output.resolve()
    classes = sorted({path.parent.name for path in videos})
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error.strerror}; give another folder") from None
    results = []
    for fold in args.folds:
        print(f"\n== fold {fold}: tested on {', '.join(FOLDS[fold])}", flush=True)
        write_lists(videos, classes, output / f"fold{fold}", FOLDS[fold])
        results.append({"fold": fold, **run_fold(args.cfg, output, output / f"fold{fold}", args.overrides)})
    clips = sum(result["num_videos"] for result in results)
    mean = sum(result["top1"] * result["num_videos"] for result in results) / clips
    test = load_cfg(output / f"fold{args.folds[-1]}" / "test_config.yaml").TEST
    views = test.NUM_CLIPS * test.NUM_CROPS
    summary = {"config": args.cfg, "views": views, "top1": mean, "num_videos": clips, "folds": results}
    (output / "weizmann.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"\n== Weizmann, {views} views")
    for result in results:
        print(f"   fold {result['fold']}: {result['top1']:5.1f} % of {result['num_videos']}, {result['seconds']:.0f} s")
    print(f"   top-1 over {clips} clips: {mean:.1f} %  ({output / 'weizmann.json'})")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))

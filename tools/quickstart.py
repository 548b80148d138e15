#!/usr/bin/env python
"""From nothing to a prediction: makes videos, trains a small Oct-I3D, tests it with 30 views, predicts a clip.

Each step is a command that can be typed by hand; an interrupted quickstart goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from bootstrap import ROOT

from octvideo.analysis.report_commands import program
from octvideo.config import load_cfg


def step(name: str, seconds: dict[str, float], *command: str, capture: bool = False) -> str:
    """Runs one command, says what it is, and ends the quickstart where it fails."""
    print(f"\n== {name}\n   {' '.join(command)}", flush=True)
    start = time.perf_counter()
    output = subprocess.PIPE if capture else None
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=output, encoding="utf-8")
    if done.returncode:
        sys.exit(f"error: the step '{name}' failed with exit code {done.returncode}; the reason is above")
    seconds[name] = time.perf_counter() - start
    return done.stdout or ""


def main() -> None:
    """Runs the steps and sums up what they did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="output/quickstart", help="folder for everything that is made")
    parser.add_argument("--cfg", default="configs/quickstart/oct_i3d.yaml")
    parser.add_argument("--train-per-class", type=int, default=60, help="videos of an action to train on (60)")
    parser.add_argument("--val-per-class", type=int, default=12, help="videos of an action to test on (12)")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    args = parser.parse_args()
    data, run = Path(args.output, "data"), Path(args.output, Path(args.cfg).stem)
    seconds: dict[str, float] = {}
    counts = ["--train-per-class", str(args.train_per_class), "--val-per-class", str(args.val_per_class)]
    step("making videos", seconds, "data_tools/make_sample_dataset.py", "--output", str(data), *counts)
    keys = ["DATA.TRAIN", str(data / "train"), "DATA.VAL", str(data / "val"), "OUTPUT_DIR", str(run), *args.overrides]
    resumed = any((ROOT / run / "checkpoints").glob("step_*.pt"))
    step("training and testing", seconds, "tools/run_net.py", "--cfg", args.cfg, *keys)
    test = load_cfg(ROOT / run / "test_config.yaml").TEST
    views = test.NUM_CLIPS * test.NUM_CROPS
    metrics = json.loads((ROOT / run / "metrics.json").read_text(encoding="utf-8"))
    video = data / "val" / "stand_up" / min(path.name for path in (ROOT / data / "val" / "stand_up").glob("*.mp4"))
    annotated, checkpoint = run / "annotated.mp4", run / "checkpoints" / "last.pt"
    predict = ["demo/predict.py", str(video), "--checkpoint", str(checkpoint), "--output", str(annotated), "--json"]
    answer = json.loads(step("predicting a clip it has never seen", seconds, *predict, capture=True).splitlines()[-1])
    print("\n== done")
    for name, value in seconds.items():
        print(f"   {name:38s}{value:7.0f} s")
    best = answer["predictions"][0]
    print(f"   videos                                {data}")
    print(f"   network, log, metrics, report         {run}")
    print(f"   {video} shows: {best['label']} ({best['score']:.0%})")
    print(f"   annotated clip                        {annotated}")
    if resumed:
        print("   the training went on from an earlier run: its seconds are those of the rest")
    print(f"   {views}-view top-1 on {metrics['num_videos']} clips of unseen figures: {metrics['top1']:.1f} %")
    if metrics["top1"] < 80:
        print("   warning: 80 % or more was expected; see the report")
    octvideo = program()
    print("\n== what to try next")
    print(f"   open {run / 'report.html'} in a browser: accuracy, curves, worst mistakes, cost")
    for what, command in (
        ("predict your own clip, with the network that ships with octvideo", "predict CLIP.mp4"),
        ("train a network on your own videos, one folder per class", "train FOLDER"),
        ("the same in a browser, with the network just trained", f"app --checkpoint {shlex.quote(str(checkpoint))}"),
    ):
        print(f"   {what}:\n      {octvideo} {command}")


if __name__ == "__main__":
    main()

"""``octvideo train``: from a folder of your own videos to a trained network and its report."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.arguments import path_arg, positive_number, share
from octvideo.cli.run_net import print_report
from octvideo.signals import StopOnSignal, Stopped

__all__ = ["main"]

_MODEL = "oct_i3d_small"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="octvideo train",
        description=__doc__.split(": ", 1)[1],
        epilog="Run the same command again to resume.",
    )
    parser.add_argument(
        "source",
        type=path_arg,
        metavar="FOLDER",
        help="one subfolder of videos per class, a list of `path label`, or a CSV file with a header: path,label,...",
    )
    parser.add_argument("--model", default=_MODEL, metavar="NAME", help=f"one of octvideo.list_models() ({_MODEL})")
    parser.add_argument("--alpha", type=float, metavar="A", help="share of low-frequency channels")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=positive_number, metavar="N", help="passes over the videos")
    length.add_argument("--minutes", type=positive_number, metavar="M", help="time for everything")
    parser.add_argument("--output", type=path_arg, metavar="DIR", help="folder of the result; default: output/FOLDER")
    parser.add_argument("--val", type=path_arg, metavar="FOLDER", help="videos to validate on; default: some of FOLDER")
    parser.add_argument(
        "--val-share", type=share, default=0.2, metavar="S", help="share of each class to validate on (0.2)"
    )
    parser.add_argument(
        "--group-by",
        default="",
        metavar="REGEX|COLUMN",
        help="keep the videos of a group, such as a person or a source, on one side of the split: a pattern whose "
        "first (...) in the file name is the group, or a column of the CSV file",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="NAME|FILE",
        help="weights to start from, or scratch for none; default: the best at hand that have seen no validation video",
    )
    parser.add_argument(
        "--teacher", metavar="NAME|FILE", help="learn from the answers of this trained network too (distillation)"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    args = parser.parse_intermixed_args(argv)
    args.output = args.output or Path("output", args.source.resolve().stem or "train")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Train and return 0 when the work is done, 128 + signal when a signal stopped it.

    Raises:
        UserError: the user can fix the cause.
    """
    begin = time.monotonic()
    args = _parse(argv)
    with StopOnSignal() as signals:
        try:
            # Torch takes seconds to import: --help and wrong arguments come first.
            with signals.deferred():
                from octvideo.engine.experiment import run_experiment
                from octvideo.engine.own_training import Request, plan_training
            request = Request(
                source=args.source,
                model=args.model,
                alpha=args.alpha,
                epochs=args.epochs,
                minutes=args.minutes,
                val=args.val,
                val_share=args.val_share,
                group_by=args.group_by,
                start=args.start,
                teacher=args.teacher,
                overrides=tuple(args.overrides),
            )
            is_done = run_experiment(plan_training(request, args.output, begin), signals)
        except Stopped as stopped:
            print(f"{stopped}; run the same command again", file=sys.stderr)
            is_done = False
    if not is_done:
        return signals.code
    _store_threshold(args.output)
    _show_result(args.output)
    return 0


def _store_threshold(output: Path) -> None:
    """Write into ``best.pt`` the confidence from which an answer is sure, measured on the validation videos."""
    from octvideo.engine.checkpoints import BEST, save_checkpoint
    from octvideo.inference.confidence import OTHER, calibrate
    from octvideo.models.checkpoints import read_checkpoint

    confidences: dict[bool, list[float]] = {True: [], False: []}  # by whether the video shows a class of the network
    with (output / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file):
            if not row["error"]:
                rank = 2 if row["prediction1"] == OTHER else 1
                confidences[row["label"] != OTHER].append(float(row[f"score{rank}"]))
    if confidences[True]:
        path = output / "checkpoints" / BEST
        measured = calibrate(confidences[True], confidences[False])
        save_checkpoint({**read_checkpoint(path), "confidence": measured}, path)


def _show_result(output: Path) -> None:
    from octvideo.engine.metrics import wilson_interval

    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    read = metrics["num_videos"] - metrics["num_failed"]
    low, high = wilson_interval(round(metrics["top1"] * read / 100), read)
    print(f"\ntop-1 {metrics['top1']:.1f} % of {read} validation videos (95 % interval {low:.0f} to {high:.0f} %)")
    print("These videos also chose the epoch: on new videos expect somewhat less.")
    checkpoint = shlex.quote(str(output / "checkpoints" / "best.pt"))
    print(f"Predict: octvideo predict VIDEO --checkpoint {checkpoint}", flush=True)
    print_report(output)

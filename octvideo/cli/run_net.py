"""``tools/run_net.py``: train and test a configuration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.arguments import model_name
from octvideo.errors import one_line
from octvideo.signals import StopOnSignal, Stopped

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when the work is done, 128 + signal when a signal stopped it."""
    parser = argparse.ArgumentParser(prog="octvideo run-net", description="Train and test a network as configured.")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--cfg", help="a configuration: path, or bare name below configs/")
    network.add_argument("--model", type=model_name, metavar="NAME", help="the configuration of a network by name")
    parser.add_argument("--teacher", metavar="NAME|FILE", help="the same as TRAIN.TEACHER NAME|FILE")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    # Intermixed: --cfg may be on either side of the KEY VALUE pairs.
    args = parser.parse_intermixed_args(argv)
    with StopOnSignal() as signals:
        # Torch takes seconds to import: find mistakes that do not need it first.
        from octvideo.config import load_cfg
        from octvideo.engine.ranks import find_place
        from octvideo.models.zoo import config_file

        if args.teacher:
            args.overrides += ["TRAIN.TEACHER", args.teacher]
        cfg = load_cfg(config_file(args.model) if args.model else args.cfg, args.overrides)
        is_main = find_place(os.environ).rank == 0
        try:
            with signals.deferred():
                from octvideo.engine.experiment import run_experiment
            is_done = run_experiment(cfg, signals)
        except Stopped as stopped:
            print(f"{stopped}; run the same command again", file=sys.stderr)
            is_done = False
        if is_done and cfg.TEST.ENABLE and is_main:
            print_report(Path(cfg.OUTPUT_DIR))
        return 0 if is_done else signals.code


def print_report(folder: Path) -> None:
    """Write the report of a run and print its path. A report that cannot be written is only a warning."""
    try:
        from octvideo.analysis.report import write_report

        print(f"report in {write_report(folder)}", file=sys.stderr)
    except Exception as error:  # the run is done: nothing here may change its exit code
        print(f"warning: {folder}: its report cannot be written ({one_line(error)})", file=sys.stderr)

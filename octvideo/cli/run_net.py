"""``tools/run_net.py``: train and test a configuration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from octvideo.signals import StopOnSignal, Stopped

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when the work is done, 128 + signal when a signal stopped it."""
    parser = argparse.ArgumentParser(prog="run_net", description="Train and test a network as configured.")
    parser.add_argument("--cfg", required=True, help="a configuration: path, or bare name below configs/")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    # Intermixed: --cfg may be on either side of the KEY VALUE pairs.
    args = parser.parse_intermixed_args(argv)
    with StopOnSignal() as signals:
        # Torch takes seconds to import: find mistakes that do not need it first.
        from octvideo.config import load_cfg
        from octvideo.engine.ranks import find_place

        cfg = load_cfg(args.cfg, args.overrides)
        find_place(os.environ)
        try:
            with signals.deferred():
                from octvideo.engine.experiment import run_experiment
            is_done = run_experiment(cfg, signals)
        except Stopped as stopped:
            print(f"{stopped}; run the same command again", file=sys.stderr)
            is_done = False
        return 0 if is_done else signals.code

"""``tools/run_net.py``: trains and tests a configuration."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from octvideo.signals import StopOnSignal

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when the work is done, 128 + signal when a signal stopped it."""
    parser = argparse.ArgumentParser(prog="run_net", description="Trains and tests a network, as a configuration says.")
    parser.add_argument("--cfg", required=True, help="a configuration: path, or bare name below configs/")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    # Intermixed: --cfg may stand on either side of KEY VALUE pairs.
    args = parser.parse_intermixed_args(argv)
    with StopOnSignal():
        # Torch takes seconds to import: what can be wrong without it is found first.
        from octvideo.config import load_cfg
        from octvideo.engine.ranks import find_place

        cfg = load_cfg(args.cfg, args.overrides)
        find_place(os.environ)
        from octvideo.engine.run import run

        return run(cfg)

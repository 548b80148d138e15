#!/usr/bin/env python
"""Trains and tests a network, as a configuration says."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from octvideo.cli import run  # noqa: E402
from octvideo.cli.run_net import main  # noqa: E402

if __name__ == "__main__":  # a process that is spawned imports this file
    sys.exit(run(main))

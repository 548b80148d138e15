#!/usr/bin/env python
"""Fourier energy of a network's feature maps: high, low and baseline groups (Figure 4 of the paper)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from octvideo.cli import run  # noqa: E402
from octvideo.cli.analyze_frequency import main  # noqa: E402

if __name__ == "__main__":  # a process that is spawned imports this file
    sys.exit(run(main))
